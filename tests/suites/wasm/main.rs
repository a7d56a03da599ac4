//! Wasm tasks as a user meets them: every language, every kind, every interface of WASI, every limit and every fence.
//!
//! `neargate run` is given programs of our own and of the examples, and what comes back is compared with what WASI
//! and the documents promise.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod failures;
mod files;
mod http;
mod inspect;
mod languages;
mod limits;
mod network;
mod policy;
mod streams;
#[path = "../suite.rs"]
mod suite;
mod wasi;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use neargate_tests::fixtures;
use suite::Case;

/// Rust's targets for preview 1 and WASI 0.2.
const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];
/// A Python interpreter is 18 MB of code, which is compiled at its first start, here on a busy machine.
const FIRST_START_LIMIT: Duration = Duration::from_secs(300);
/// Exit code of a trap.
const TRAP: i32 = 134;
/// Exit code of what a limit ended.
const KILLED: i32 = 137;

fn main() -> ExitCode {
    let cases: Vec<Case> = [
        languages::CASES,
        wasi::CASES,
        files::CASES,
        streams::CASES,
        network::CASES,
        http::CASES,
        limits::CASES,
        policy::CASES,
        inspect::CASES,
        failures::CASES,
    ]
    .concat();
    suite::main(&cases, None)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The guest that uses WASI as its first argument says, as a module and as a component.
fn guests() -> Result<[String; 2]> {
    let [module, component] = TARGETS.map(|target| fixtures::guest("wasi", target));
    Ok([text(&module?), text(&component?)])
}

/// The same as a module.
fn module() -> Result<String> {
    Ok(text(&fixtures::guest("wasi", TARGETS[0])?))
}

/// The same as a component.
fn component() -> Result<String> {
    Ok(text(&fixtures::guest("wasi", TARGETS[1])?))
}
