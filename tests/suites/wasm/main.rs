//! Wasm tasks as a user meets them: every language, every kind, every interface of WASI, every limit and every fence.
//!
//! `neargate run` is given programs of our own and of the examples, and what comes back is compared with what WASI
//! and the documents promise.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod languages;
#[path = "../suite.rs"]
mod suite;

use std::path::Path;
use std::process::ExitCode;

use suite::Case;

fn main() -> ExitCode {
    let cases: Vec<Case> = [languages::CASES].concat();
    suite::main(&cases, None)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
