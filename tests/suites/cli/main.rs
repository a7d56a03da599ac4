//! The command line: what a person types, what they see, and the exit code their scripts see.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod client;
mod exec;
mod run;
mod serve;
mod store;
#[path = "../suite.rs"]
mod suite;

use std::path::Path;
use std::process::ExitCode;

use neargate_tests::cli::{Cli, LIMIT};
use neargate_tests::fixtures;
use neargate_tests::process::Finished;
use suite::Case;

fn main() -> ExitCode {
    let cases: Vec<Case> = [run::CASES, serve::CASES, client::CASES, exec::CASES, store::CASES].concat();
    suite::main(&cases, None)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The probe as a core module.
fn module() -> String {
    text(&fixtures::module().expect("the case needs Wasm"))
}

/// The probe as a component.
fn component() -> String {
    text(&fixtures::component().expect("the case needs Wasm"))
}

/// A refusal is of use: a code that is not 0, and a text that names what it is about and does not spill internals.
#[track_caller]
fn assert_refused(finished: &Finished, code: i32, mentions: &[&str]) {
    assert_eq!(finished.code, code, "standard error: {}", finished.stderr);
    for text in mentions {
        assert!(finished.stderr.contains(text), "{text:?} is not in {:?}", finished.stderr);
    }
    for noise in ["panicked", "RUST_BACKTRACE", "Os {", "Error("] {
        assert!(!finished.stderr.contains(noise), "{noise:?} is in {:?}", finished.stderr);
    }
}
