//! Named steps at which a chaos build kills its own process, as a power cut or `kill -9` would.
//!
//! A step that must not be lost half-way is marked with one line, `neargate_failpoint::reach("store::commit::before")`.
//! Without the feature `failpoints`, which only the program of `cargo xtask chaos` is built with, that is an empty
//! function and nothing of this crate is in the program.
//!
//! With it, [`FILE_VARIABLE`] names a file. While the file is absent nothing happens. Once somebody has written
//! `NAME HITS` into it, the process that comes to the point for the `HITS`th time since renames the file to
//! [`struck`] and kills itself. Only one process can rename it, so that a fault happens once, however often what was
//! killed is started again; and the time of the change of the renamed file is the time of the fault.
//!
//! The crate `fail` does the same and more. It is not used because it turns on a feature of `log`, which would have
//! wasmtime and its compiler built a second time for chaos alone.

#![forbid(unsafe_code)]

#[cfg(feature = "failpoints")]
mod armed;
mod points;

use std::path::{Path, PathBuf};

pub use points::{POINTS, Point, Role};

/// The environment variable that names the file by which a point is armed.
pub const FILE_VARIABLE: &str = "NEARGATE_FAILPOINT_FILE";

/// What the file is called once the process that it was meant for is about to be killed.
pub fn struck(file: &Path) -> PathBuf {
    file.with_extension("struck")
}

/// Passes a point. `name` is one of [`POINTS`].
#[inline(always)]
pub fn reach(name: &'static str) {
    #[cfg(feature = "failpoints")]
    armed::reach(name);
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}
