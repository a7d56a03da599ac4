//! The command line: what a person types, what they see, and the exit code their scripts see.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod client;
mod run;
mod serve;
mod store;
#[path = "../suite.rs"]
mod suite;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use neargate_tests::process::{self, Finished};
use neargate_tests::{binary, fixtures, server};
use suite::Case;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let cases: Vec<Case> = [run::CASES, serve::CASES, client::CASES, store::CASES].concat();
    suite::main(&cases, None)
}

/// The binary with a data directory and a home of its own.
struct Cli {
    scratch: TempDir,
}

impl Cli {
    fn new() -> Result<Self> {
        Ok(Self { scratch: server::scratch_directory()? })
    }

    /// One whose store has the busybox image.
    fn with_busybox() -> Result<Self> {
        let cli = Self::new()?;
        let root = fixtures::busybox_root()?;
        let packed =
            cli.image(&["pack", &text(&root), "--name", "busybox", "--entrypoint", "/bin/busybox"])?;
        ensure!(packed.code == 0, "{}", packed.stderr);
        Ok(cli)
    }

    fn data(&self) -> String {
        text(&self.scratch.path().join("data"))
    }

    fn path(&self, name: &str) -> String {
        text(&self.scratch.path().join(name))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("HOME", self.scratch.path()).env_remove("AWS_ENDPOINT_URL");
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command
    }

    /// `neargate run` with the store of this data directory.
    fn run(&self, arguments: &[&str]) -> Result<Finished> {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Result<Finished> {
        process::run(&mut self.run_command(arguments), input, LIMIT)
    }

    fn run_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["run", "--data", &self.data()]);
        command.args(arguments);
        command
    }

    /// `neargate image` on the store of this data directory.
    fn image(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(&["image"]);
        command.args(arguments).args(["--data", &self.data()]);
        process::run(&mut command, b"", LIMIT)
    }

    fn any(&self, arguments: &[&str]) -> Result<Finished> {
        process::run(&mut self.command(arguments), b"", LIMIT)
    }
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
