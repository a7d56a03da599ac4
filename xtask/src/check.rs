//! `cargo xtask ci` and `cargo xtask test`: every check, in the order that finds a mistake soonest.
//!
//! On two cores the compiler is most of the time, and wasmtime most of the compiler's. It is therefore generated
//! once only, for release: crates that reach it are tested in that profile, and Clippy needs no more than its types.
//! All other crates are tested in the dev profile, which compiles them fastest.

use anyhow::{Context as _, Result, bail};
use neargate_tests::{is_root, target_directory};

use crate::graph::Graph;
use crate::shell::{Steps, cargo, command};
use crate::{chaos, codegen, layering, licences, setup};

/// The crate whose compilation decides the profile.
const HEAVY: &str = "wasmtime";
/// The AWS SDK is a million lines that a test calls a few times: optimised it costs minutes and saves nothing.
/// It is told on the command line, beside the only commands that generate its code.
pub(crate) const SDK_AS_IT_IS: [&str; 2] = ["--config", "profile.dev.package.aws-sdk-ecs.opt-level=0"];
/// The suites, each an integration binary.
const SUITES: [&str; 5] = ["cli", "wasm", "ecs", "adversarial", "robust"];
/// The suites that run what `examples/` and `tests/guests/` hold.
const SUITES_OF_GUESTS: [&str; 2] = ["wasm", "robust"];

/// What changes can break without a server: formats, lints, laws, unit tests, documents, licences.
pub(crate) fn ci() -> Result<()> {
    let mut steps = Steps::default();
    steps.call("setup", setup::setup)?;
    let result = checks(&mut steps).and_then(|()| documents(&mut steps));
    finish(&steps, result)
}

/// Everything: the checks, then the real binary against real clients.
pub(crate) fn test() -> Result<()> {
    let mut steps = Steps::default();
    steps.call("setup", setup::setup)?;
    let result = checks(&mut steps).and_then(|()| black_box(&mut steps));
    finish(&steps, result)
}

/// Prints the one line that sums up, whatever happened before.
fn finish(steps: &Steps, result: Result<()>) -> Result<()> {
    println!("{}", steps.tally());
    result
}

fn checks(steps: &mut Steps) -> Result<()> {
    let graph = Graph::load()?;
    steps.command("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    steps.call("layering", layering::check)?;
    steps.call("licences", licences::check)?;
    steps.call("codegen", codegen::check)?;
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "--deny", "warnings"];
    steps.command("clippy", &mut cargo(&clippy))?;
    let (heavy, light) = split(&graph);
    let mut test = cargo(&["test", "--locked", "--no-fail-fast"]);
    // The signatures are compared with botocore's own signer, which the set-up has installed there.
    test.env("NEARGATE_PYTHON", setup::python());
    steps.command("unit tests", packages(&mut test, &light))?;
    let release = ["test", "--release", "--locked", "--no-fail-fast"];
    steps.command("unit tests with wasmtime", packages(&mut cargo(&release), &heavy))
}

fn documents(steps: &mut Steps) -> Result<()> {
    let graph = Graph::load()?;
    let (_, light) = split(&graph);
    let mut doc = cargo(&["doc", "--no-deps", "--locked", "--quiet"]);
    doc.env("RUSTDOCFLAGS", "--deny warnings");
    steps.command("documents", packages(&mut doc, &light))
}

/// Our crates that are tested in release, and those tested in dev; the suites need a server and are in neither.
fn split(graph: &Graph) -> (Vec<&str>, Vec<&str>) {
    let ours = graph.members().filter(|name| *name != "neargate-tests");
    ours.partition(|name| graph.reaches(name, HEAVY))
}

fn packages<'c>(command: &'c mut std::process::Command, names: &[&str]) -> &'c mut std::process::Command {
    for name in names {
        command.args(["--package", name]);
    }
    command
}

fn black_box(steps: &mut Steps) -> Result<()> {
    if !is_root() {
        println!("SKIPPED: not root: container tasks and checks of the kernel's state cannot run");
    }
    if let Some(mut build) = setup::build_command() {
        steps.command("release binary", &mut build)?;
    }
    steps.call("examples", || setup::build_examples().map(drop))?;
    let suites = |arguments: &[&str]| {
        let mut test = cargo(&["test", "--locked", "--package", "neargate-tests"]);
        test.args(SDK_AS_IT_IS).args(arguments);
        test
    };
    steps.command("harness", &mut suites(&["--lib"]))?;
    for suite in SUITES {
        steps.command(&format!("suite {suite}"), &mut suites(&["--test", suite]))?;
    }
    if is_root() {
        steps.call("chaos", || chaos::chaos(&["--short"]))?;
    }
    let mut pytest =
        command(setup::python(), &["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/python"]);
    pytest
        .env("NEARGATE_BIN", neargate_tests::binary())
        .env("NEARGATE_FIXTURES", target_directory().join("fixtures"))
        .env("NEARGATE_EXAMPLES", target_directory().join("examples/wasm32-wasip2/release"))
        .env("NEARGATE_AWS_CLI_1", setup::aws_cli_1())
        .env("NEARGATE_NPM", setup::npm_directory())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    steps.command("suite python", &mut pytest)
}

/// One suite of the black-box tests, for a person at work on it.
pub(crate) fn suite(name: &str, filter: &[&str]) -> Result<()> {
    if !SUITES.contains(&name) {
        bail!("there is no suite {name}; the suites are {}", SUITES.join(", "));
    }
    if SUITES_OF_GUESTS.contains(&name) {
        setup::setup()?;
        setup::build_examples()?;
    }
    let mut run = cargo(&["test", "--package", "neargate-tests", "--test", name]);
    let status = run
        .args(SDK_AS_IT_IS)
        .arg("--")
        .args(filter)
        .status()
        .with_context(|| format!("run suite {name}"))?;
    anyhow::ensure!(status.success(), "suite {name} ended with {status}");
    Ok(())
}
