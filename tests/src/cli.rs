//! The command line without a server: each user has a home and a data directory of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use crate::process::{self, Finished};
use crate::{binary, fixtures, server};

/// No command of the suites takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The binary with a data directory and a home of its own.
#[derive(Debug)]
pub struct Cli {
    scratch: TempDir,
}

impl Cli {
    /// One with nothing in its store.
    pub fn new() -> Result<Self> {
        Ok(Self { scratch: server::scratch_directory()? })
    }

    /// One whose store has the busybox image.
    pub fn with_busybox() -> Result<Self> {
        let cli = Self::new()?;
        let root = fixtures::busybox_root()?;
        let packed =
            cli.image(&["pack", &text(&root), "--name", "busybox", "--entrypoint", "/bin/busybox"])?;
        ensure!(packed.code == 0, "{}", packed.stderr);
        Ok(cli)
    }

    /// Its data directory.
    pub fn data(&self) -> String {
        text(&self.scratch.path().join("data"))
    }

    /// A path in its scratch directory, beside the data directory.
    pub fn path(&self, name: &str) -> String {
        text(&self.scratch.path().join(name))
    }

    /// A command of the binary, without what the caller's environment says of servers and keys.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("HOME", self.scratch.path()).env_remove("AWS_ENDPOINT_URL");
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command
    }

    /// `neargate run` with the store of this data directory.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        self.run_with(arguments, b"")
    }

    /// The same with these bytes on standard input.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Result<Finished> {
        process::run(&mut self.run_command(arguments), input, LIMIT)
    }

    /// `neargate run`, not started.
    pub fn run_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&["run", "--data", &self.data()]);
        command.args(arguments);
        command
    }

    /// `neargate image` on the store of this data directory.
    pub fn image(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(&["image"]);
        command.args(arguments).args(["--data", &self.data()]);
        process::run(&mut command, b"", LIMIT)
    }

    /// Any command.
    pub fn any(&self, arguments: &[&str]) -> Result<Finished> {
        process::run(&mut self.command(arguments), b"", LIMIT)
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
