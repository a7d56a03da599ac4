//! The harness of the black-box suites: starts the real binary, calls it as a user would, and looks for what it left.
//!
//! Nothing here knows how Neargate works inside. The suites must still make sense if it were written anew, so that
//! they see a program, its command line, its HTTP endpoint, and the traces it leaves in `/proc` and `/sys`.
//! `xtask` uses the same harness for the demonstration and the benchmarks.

#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod fixtures;
pub mod groups;
pub mod leaks;
pub mod process;
pub mod router;
pub mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use client::{Answer, Client, Credentials};
pub use server::{Server, ServerOptions};

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Where Cargo builds: `CARGO_TARGET_DIR`, otherwise `target` in the repository.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The binary under test: `NEARGATE_BIN`, otherwise the release build.
pub fn binary() -> PathBuf {
    std::env::var_os("NEARGATE_BIN")
        .map_or_else(|| target_directory().join("release/neargate"), PathBuf::from)
}

/// Whether we run as root, which container tasks and some checks need.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Asks `probe` until it answers, at most for `limit`.
pub fn eventually<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
