//! A server under test: started with data of its own, watched, and ended with the test.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::process::{self, Finished};
use crate::{Client, Credentials, binary, eventually};

/// A server is ready within this or something is wrong.
pub const READY_LIMIT: Duration = Duration::from_secs(20);
/// A server that is asked to end does so within this.
pub const STOP_LIMIT: Duration = Duration::from_secs(10);
/// No client command of the suites takes longer.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Lines of the log that are shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Further arguments of `neargate serve`.
    pub arguments: Vec<String>,
    /// The data directory; a fresh temporary one if there is none.
    pub data: Option<PathBuf>,
    /// Texts that make a WARN or ERROR line of the log an expected one.
    pub expected_log: &'static [&'static str],
    /// The program; the binary under test if there is none.
    pub program: Option<PathBuf>,
    /// Further variables of its environment.
    pub environment: Vec<(String, PathBuf)>,
}

impl ServerOptions {
    /// Starts the server and waits until it is ready.
    pub fn start(self) -> Result<Server> {
        let scratch = scratch_directory()?;
        let data = self.data.clone().unwrap_or_else(|| scratch.path().join("data"));
        let log = scratch.path().join("server.log");
        let program = self.program.clone().unwrap_or_else(binary);
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("create server log")?)
            .spawn()
            .with_context(|| {
                format!("start {command:?}; build it with `cargo build --release -p neargate`")
            })?;
        let mut server = Server {
            child,
            program,
            endpoint: String::new(),
            credentials: Credentials {
                access_key: String::new(),
                secret: String::new(),
                region: String::new(),
            },
            data,
            log,
            is_dev: self.arguments.iter().any(|argument| argument == "--dev"),
            expected_log: self.expected_log,
            ended: None,
            _scratch: scratch,
        };
        server.endpoint = server.wait_ready()?;
        server.credentials = server.read_credentials()?;
        Ok(server)
    }
}

/// A running server.
///
/// When it is dropped it is ended, and the test fails if the log holds a WARN or ERROR that was not expected.
pub struct Server {
    child: Child,
    program: PathBuf,
    /// `http://ADDRESS:PORT`.
    pub endpoint: String,
    /// Its root key.
    pub credentials: Credentials,
    /// Its data directory.
    pub data: PathBuf,
    log: PathBuf,
    is_dev: bool,
    expected_log: &'static [&'static str],
    ended: Option<ExitStatus>,
    _scratch: TempDir,
}

impl Server {
    /// Starts a server with data of its own.
    pub fn start() -> Result<Self> {
        ServerOptions::default().start()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client with the root key.
    pub fn client(&self) -> Client {
        Client::new(&self.endpoint, self.credentials.clone())
    }

    /// What AWS tools need in their environment to reach this server, and nothing of the caller's own set-up.
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", &self.credentials.access_key),
            ("AWS_SECRET_ACCESS_KEY", &self.credentials.secret),
            ("AWS_DEFAULT_REGION", &self.credentials.region),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_PAGER", ""),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// A client command of the binary that talks to this server.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(self.environment());
        command
    }

    /// Runs a client command against this server.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        process::run(&mut self.command(arguments), b"", COMMAND_LIMIT)
    }

    /// Brings an image into the server's store under a name.
    pub fn import(&self, file: &Path, name: &str) -> Result<()> {
        let data = self.data.as_os_str();
        let mut command = Command::new(&self.program);
        command.args(["image", "import"]).arg(file).args(["--name", name, "--data"]).arg(data);
        expect_success(&mut command)
    }

    /// Makes a container image of a root file system and brings it into the server's store.
    pub fn pack(&self, root: &Path, name: &str, entrypoint: &str) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(["image", "pack"]).arg(root).args([
            "--name",
            name,
            "--entrypoint",
            entrypoint,
            "--data",
        ]);
        command.arg(&self.data);
        expect_success(&mut command)
    }

    /// Asks the server to end with all tasks, and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::INT)
    }

    /// Asks the server to end without the tasks that can go on, and waits until it has.
    pub fn leave(&mut self) -> Result<ExitStatus> {
        self.end(Signal::TERM)
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        process::signal(&self.child, signal)?;
        let status = process::wait(&mut self.child, STOP_LIMIT)?;
        let status = status
            .with_context(|| format!("the server did not end within {STOP_LIMIT:?}{}", self.log_tail()))?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Whether it has ended by itself, or was killed by somebody else.
    pub fn has_ended(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("look at server")?;
        }
        Ok(self.ended.is_some())
    }

    /// Kills the server as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill server")?;
        self.ended = Some(self.child.wait().context("reap server")?);
        Ok(())
    }

    /// Kills the supervisor of its containers as a crash would, and waits until it is gone.
    pub fn kill_supervisor(&self) -> Result<()> {
        let supervisor = self.supervisor().context("find the supervisor")?;
        rustix::process::kill_process(supervisor, Signal::KILL).context("kill supervisor")?;
        let gone = eventually(STOP_LIMIT, || (self.supervisor() != Some(supervisor)).then_some(()));
        gone.context("the supervisor does not end")
    }

    /// The process that looks after its containers.
    pub fn supervisor(&self) -> Option<Pid> {
        supervisor_of(&self.data)
    }

    /// The log so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of the log, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        format!("\n--- end of the server's log ---\n{}\n", tail.join("\n"))
    }

    /// WARN and ERROR lines that nobody expects.
    pub fn unexpected_log(&self) -> Vec<String> {
        let is_expected = |line: &str| self.expected_log.iter().any(|text| line.contains(text));
        let log = self.log();
        log.lines().filter(|line| is_alarm(line) && !is_expected(line)).map(str::to_owned).collect()
    }

    fn wait_ready(&mut self) -> Result<String> {
        let stdout = self.child.stdout.take().expect("stdout is piped");
        let (sender, receiver) = sync_channel(1);
        // Reads on after the first line, so that the server never meets a closed pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(endpoint) = line.strip_prefix("ready ") {
                    let _ = sender.send(endpoint.trim().trim_end_matches('/').to_owned());
                }
            }
        });
        match receiver.recv_timeout(READY_LIMIT) {
            Ok(endpoint) => Ok(endpoint),
            Err(RecvTimeoutError::Disconnected) => {
                let status = process::wait(&mut self.child, STOP_LIMIT)?;
                self.ended = status;
                bail!("the server ended before it was ready: {status:?}{}", self.log_tail())
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!("the server was not ready within {READY_LIMIT:?}{}", self.log_tail())
            }
        }
    }

    fn read_credentials(&self) -> Result<Credentials> {
        if self.is_dev {
            let text = |text: &str| text.to_owned();
            return Ok(Credentials {
                access_key: text("any"),
                secret: text("any"),
                region: text("us-east-1"),
            });
        }
        let mut command = Command::new(&self.program);
        command.arg("env").arg("--data").arg(&self.data).args(["--endpoint", &self.endpoint]);
        let finished = process::run(&mut command, b"", COMMAND_LIMIT)?;
        ensure!(finished.code == 0, "{command:?} ended with {}: {}", finished.code, finished.stderr);
        let text = finished.text();
        let value = |name: &str| {
            exported(&text, name)
                .with_context(|| format!("find {name} in the output of {command:?}:\n{text}"))
        };
        Ok(Credentials {
            access_key: value("AWS_ACCESS_KEY_ID")?,
            secret: value("AWS_SECRET_ACCESS_KEY")?,
            region: value("AWS_DEFAULT_REGION")?,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.stop();
        if stopped.is_err() {
            // The test fails below; what matters here is that nothing outlives it.
            let _ = self.kill();
        }
        // Containers would outlive a server that was killed; with data of somebody else's they are somebody else's, too.
        if self.data.starts_with(self._scratch.path())
            && let Some(supervisor) = self.supervisor()
        {
            let _ = rustix::process::kill_process(supervisor, Signal::TERM);
        }
        let unexpected = self.unexpected_log();
        if thread::panicking() {
            eprintln!("data directory: {}{}", self.data.display(), self.log_tail());
            return;
        }
        if let Err(error) = stopped {
            panic!("{error:#}");
        }
        assert!(unexpected.is_empty(), "unexpected lines in the server's log:\n{}", unexpected.join("\n"));
    }
}

/// The process that looks after the containers of a data directory.
pub fn supervisor_of(data: &Path) -> Option<Pid> {
    let seat = format!("--supervisor-seat\0{}/run\0", data.canonicalize().ok()?.display());
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let read = |pid: &Pid, file| {
        let bytes = fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let is_it = |pid: &Pid| read(pid, "cmdline").contains(&seat) && read(pid, "comm") == "ng-supervisor\n";
    let found: Vec<Pid> = pids.filter(is_it).collect();
    // A container that does not run its program yet is a copy of the supervisor, and a child of it.
    let parent = |pid: &Pid| {
        let status = read(pid, "status");
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Pid::from_raw(line.trim().parse().ok()?)
    };
    found.iter().copied().find(|pid| parent(pid).is_none_or(|parent| !found.contains(&parent)))
}

/// The value of `NAME=value` in the output of `neargate env`, with or without `export` and quotes.
pub fn exported(text: &str, name: &str) -> Option<String> {
    let words = text.split_whitespace();
    let value = words.filter_map(|word| word.split_once('=')).find(|(n, _)| *n == name)?.1;
    Some(value.trim_matches(|c| matches!(c, '"' | '\'' | ';')).to_owned())
}

/// Whether a line of the log is of level WARN or ERROR; the level is among its first words.
fn is_alarm(line: &str) -> bool {
    let is_level = |word: &str| matches!(word.trim_matches(['"', ',']), "WARN" | "ERROR");
    line.contains(r#""level":"WARN""#)
        || line.contains(r#""level":"ERROR""#)
        || line.split_whitespace().take(3).any(is_level)
}

fn expect_success(command: &mut Command) -> Result<()> {
    let finished = process::run(command, b"", COMMAND_LIMIT)?;
    ensure!(finished.code == 0, "{command:?} ended with {}: {}", finished.code, finished.stderr);
    Ok(())
}

/// A temporary directory that other users may enter, as `/var/lib` is.
pub fn scratch_directory() -> Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix("neargate-test-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("create temporary directory")?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_exported_values() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(exported(text, "AWS_DEFAULT_REGION").as_deref(), expect, "{text}");
        };
        check("export AWS_DEFAULT_REGION=us-east-1\n", Some("us-east-1"));
        check("export A=b AWS_DEFAULT_REGION=eu-west-3", Some("eu-west-3"));
        check("AWS_DEFAULT_REGION='us-east-1';", Some("us-east-1"));
        check("export XAWS_DEFAULT_REGION=us-east-1", None);
    }

    #[test]
    fn knows_alarms_by_their_level() {
        let check = |line: &str, expect: bool| assert_eq!(is_alarm(line), expect, "{line}");
        check("2026-01-01T00:00:00Z  WARN node: slow disk", true);
        check("ERROR commit refused", true);
        check(r#"{"timestamp":"…","level":"ERROR","fields":{}}"#, true);
        check("2026-01-01T00:00:00Z  INFO task: printed the word ERROR", false);
        check("a line without a level", false);
    }
}
