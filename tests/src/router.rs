//! A server's router, seen from inside its network namespace.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::Server;
use crate::leaks::descendants;

/// The router of a server.
pub struct Router {
    holder: u32,
}

impl Router {
    /// Found by the process that holds it.
    pub fn of(server: &Server) -> Result<Self> {
        let holder = descendants(server.pid(), "ng-router").first().copied().context("find the router")?;
        Ok(Self { holder })
    }

    /// What a program prints that runs there.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.holder.to_string(), "--net"]).args(command);
        let output = inside.output().with_context(|| format!("run {command:?} in the router"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How many lines it prints.
    pub fn lines(&self, command: &[&str]) -> Result<usize> {
        Ok(self.run(command)?.lines().count())
    }
}
