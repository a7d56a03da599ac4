//! Hostile tasks: what a program that is root inside of a task can see, do and use up.
//!
//! Each case carries the number of its row in the catalogue of security tests; `docs/adversarial.md` lists them all.
//! The tasks run `tests/intruder`, which tries and prints, and the cases compare what it prints with what is allowed.
//! All cases share one server, as tenants would.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod confinement;
mod definitions;
mod expect;
mod files;
mod hung;
mod ids;
mod images;
mod lab;
mod names;
mod network;
mod ports;
mod processes;
mod resources;
#[path = "../suite.rs"]
mod suite;

use std::process::ExitCode;

use suite::Case;

/// Cases at a time. They wait more than they work, and those that take all they get are limited to a quarter of a CPU.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let cases: Vec<Case> = [
        confinement::CASES,
        files::CASES,
        processes::CASES,
        ids::CASES,
        resources::CASES,
        hung::CASES,
        images::CASES,
        definitions::CASES,
        names::CASES,
        ports::CASES,
        network::CASES,
    ]
    .concat();
    let code = suite::main(&cases, Some(THREADS));
    // Ending the server here, not in a case, also checks its log.
    lab::close();
    code
}
