//! The command line without a server: each user has a home and a data directory of its own.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{self, Finished};
use crate::{Client, Credentials, binary, fixtures, server, target_directory};

/// No command of the suites takes longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Lines of a service that nobody has read; it is held up by its pipe at more.
const LINES_MAX: usize = 4096;

/// The binary with a data directory and a home of its own.
#[derive(Debug)]
pub struct Cli {
    scratch: TempDir,
    data: PathBuf,
}

impl Cli {
    /// One with nothing in its store.
    pub fn new() -> Result<Self> {
        let scratch = server::scratch_directory()?;
        let data = scratch.path().join("data");
        Ok(Self { scratch, data })
    }

    /// One whose compiled code is kept for all that are made so: compiling takes longer than most cases.
    pub fn with_kept_code() -> Result<Self> {
        let data = target_directory().join("fixtures/data");
        Ok(Self { scratch: server::scratch_directory()?, data })
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
        text(&self.data)
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

/// `neargate run --http` of a component, ended when it is dropped.
pub struct Service {
    child: Child,
    /// `http://ADDRESS:PORT`.
    pub endpoint: String,
    said: Receiver<String>,
}

impl Cli {
    /// Serves a component on a port of the kernel's choice and waits until it listens.
    pub fn serve(&self, arguments: &[&str]) -> Result<Service> {
        let mut command = self.run_command(&[&["--http", "127.0.0.1:0"], arguments].concat());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (said, lines) = sync_channel(LINES_MAX);
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().context("stdout is piped")?),
            Box::new(child.stderr.take().context("stderr is piped")?),
        ];
        for stream in streams {
            let said = said.clone();
            thread::spawn(move || {
                BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
            });
        }
        let mut service = Service { child, endpoint: String::new(), said: lines };
        let line = service.wait_for("listening http://")?;
        let endpoint = line.split_whitespace().find(|word| word.starts_with("http://"));
        service.endpoint = endpoint.context("an address after `listening`")?.trim_end_matches('/').to_owned();
        Ok(service)
    }
}

impl Service {
    /// A new connection to it.
    pub fn client(&self) -> Client {
        let none = || String::new();
        Client::new(&self.endpoint, Credentials { access_key: none(), secret: none(), region: none() })
    }

    /// Its address without the scheme.
    pub fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    /// The process that was started.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for a line, on either of its streams, that contains a text.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        loop {
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(line) => seen.push(line),
                Err(_) => bail!("it did not say {text:?}, but:\n{}", seen.join("\n")),
            }
        }
    }

    /// Asks it to end, as Ctrl-C does, and returns its exit code.
    pub fn stop(&mut self) -> Result<i32> {
        process::signal(&self.child, Signal::INT)?;
        let status = process::wait(&mut self.child, LIMIT)?.context("it did not end when asked to")?;
        Ok(process::code(status))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
