//! Child processes with a deadline: a program that hangs must fail its test, not stop the suite.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// What a finished program left.
#[derive(Debug)]
pub struct Finished {
    /// The exit code, or 128 and the signal's number as shells count.
    pub code: i32,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error, as text.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Finished {
    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program with `input` on its standard input, and kills it after `limit`.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Finished> {
    let started = Instant::now();
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let input = input.to_vec();
    // A program need not read its input: EPIPE is its right.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let status = wait(&mut child, limit)?;
    if status.is_none() {
        child.kill().with_context(|| format!("kill {name}"))?;
        child.wait().with_context(|| format!("reap {name}"))?;
    }
    drop(writer);
    let stdout = stdout.join().expect("the reader does not panic");
    let stderr = String::from_utf8_lossy(&stderr.join().expect("the reader does not panic")).into_owned();
    let Some(status) = status else {
        bail!("{name} did not end within {limit:?}; its standard error:\n{stderr}");
    };
    Ok(Finished { code: code(status), stdout, stderr, elapsed: started.elapsed() })
}

/// The exit code of a status, or 128 and the signal's number.
pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Waits for a child, at most for `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("wait for child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    kill_process(Pid::from_child(child), signal).with_context(|| format!("send {signal:?} to {}", child.id()))
}

fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is to show.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}
