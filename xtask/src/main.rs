//! Development commands of Neargate, run as `cargo xtask COMMAND`.
#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod check;
mod codegen;
mod demo;
mod graph;
mod languages;
mod layering;
mod licences;
mod setup;
mod shell;
mod source;
mod statistics;
mod tally;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup               install what the other commands need; all of them do this first
  demo                build Neargate and the examples, and run tasks with the AWS CLI
  test                run every check and every test
  suite NAME [FILTER] run one black-box suite, or cases of it: cli, wasm, ecs, robust
  test-vm [NAME [FILTER]]
                      run suites in a virtual machine, with Debian's kernel and nothing but cgroup v2: driver, launcher,
                      cli and ecs, or one of them, or cases of it
  ci                  run the checks that need no server
  layering            check the laws of the code base
  licences            check the licences of all dependencies
  codegen [--check]   write the AWS wire layer from botocore's models; with --check, only compare
  bench [ROW...] [--peers] [--json FILE]
                      measure beside the peers that are installed, with --peers also wasmtime, which is built first;
                      rows: container-start, container-idle, container-many, container-adopt, wasm-run, wasm-first-start, wasm-http, wasm-density, wasm-neighbour
  chaos [--short] [--seed N] [--faults NAME,...] [--rounds N] [--victims NAME,...] [--json FILE]
                      kill processes under load, at every step that must not be lost half-way and N times at random, and
                      check after each that nothing is lost, done twice, told wrongly, left over or disturbed
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["setup"] => setup::setup(),
        ["demo"] => demo::demo(),
        ["test"] => check::test(),
        ["suite", name, ref rest @ ..] => check::suite(name, rest),
        ["test-vm"] => vm::test_vm(None, &[]),
        ["test-vm", name, ref filters @ ..] => vm::test_vm(Some(name), filters),
        ["ci"] => check::ci(),
        ["layering"] => layering::check(),
        ["licences"] => licences::check(),
        ["codegen"] => codegen::write(),
        ["codegen", "--check"] => codegen::check(),
        ["bench", ref rest @ ..] => bench::bench(rest),
        ["chaos", ref rest @ ..] => chaos::chaos(rest),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
