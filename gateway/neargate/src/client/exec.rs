//! `neargate exec`: runs a command in a container of a running task.

use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use neargate_sdk::{Error, ExecEvent, ExecInput, ExecRequest};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::AsyncWriteExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::connect::ClientOptions;
use super::hint::Hinted;
use super::task_ref;
use crate::report;

/// Bytes of standard input read at once.
const READ_BYTES: usize = 16 << 10;

/// Reads of standard input that wait to be sent.
const READS_MAX: usize = 2;

/// The size of a terminal that does not know its own.
const WINDOW_DEFAULT: (u16, u16) = (24, 80);

/// Options of `neargate exec`.
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Send standard input to the command.
    #[arg(long, short)]
    interactive: bool,
    /// Give the command a terminal.
    #[arg(long, short)]
    tty: bool,
    /// The container; needed where the task has several.
    #[arg(long, short, value_name = "NAME")]
    container: Option<String>,
    /// Run as this user instead of the container's: a name or number, and perhaps :GROUP.
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Set a variable of the command's environment; may be repeated.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The task's ARN, its id, or at least six digits that its id begins with.
    #[arg(value_name = "TASK")]
    task: String,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    options: ClientOptions,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is not of the form NAME=VALUE".to_owned()),
    }
}

/// Runs a command; its output is this command's, and so is its exit code.
pub(crate) async fn run(args: ExecArgs) -> Result<ExitCode> {
    let has_terminal = io::stdin().is_terminal();
    if args.tty && args.interactive && !has_terminal {
        let message = "attach a terminal: standard input is none".to_owned();
        return Err(Hinted::refused(message, "leave out -t, or call this from a terminal").into());
    }
    let client = args.options.connect()?;
    let arn = task_ref::find(&client, &args.task).await?;
    let request = ExecRequest {
        command: args.command,
        container: args.container,
        user: args.user,
        environment: args.env,
        stdin: args.interactive,
        terminal: args.tty.then(window),
    };
    // Before it starts, so that no signal is missed.
    let signals = Signals::catch(args.tty).context("catch signals")?;
    let mut exec = match client.exec(&arn, &request).await {
        Err(error @ Error::NotRun { exit_code, .. }) => {
            report::print(&error.into());
            return Ok(ExitCode::from(exit_code));
        }
        other => other.context("run the command")?,
    };
    let raw = (args.tty && args.interactive).then(RawMode::enter).transpose().context("set up terminal")?;
    if args.interactive {
        tokio::spawn(send_input(exec.input()));
    }
    tokio::spawn(signals.forward(exec.input()));
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let (code, reason) = loop {
        match exec.next().await? {
            ExecEvent::Output(bytes) => {
                stdout.write_all(&bytes).await?;
                stdout.flush().await?;
            }
            ExecEvent::Errors(bytes) => {
                stderr.write_all(&bytes).await?;
                stderr.flush().await?;
            }
            ExecEvent::Ended { code, reason } => break (code, reason),
        }
    };
    drop(raw);
    if !reason.is_empty() {
        eprintln!("note: the command ended abnormally: {reason:.1000}");
    }
    // Exit codes have eight bits.
    Ok(ExitCode::from((code & 0xff) as u8))
}

/// Rows and columns of the terminal that we are at.
fn window() -> (u16, u16) {
    let found = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    let found = found.or_else(|_| tcgetwinsize(io::stderr()));
    found.map_or(WINDOW_DEFAULT, |size| (size.ws_row, size.ws_col))
}

/// Sends standard input to its end. What the command does not take is no error: it may not want it.
async fn send_input(input: ExecInput) {
    let (sender, mut reads) = mpsc::channel::<Vec<u8>>(READS_MAX);
    // A thread of its own, which nobody waits for: a read of a terminal cannot be called off.
    let reader = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match io::stdin().lock().read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
            }
        }
    });
    if reader.is_err() {
        // Without a reader the channel is closed, and the command sees the end of its input.
        eprintln!("warning: standard input cannot be read");
    }
    while let Some(bytes) = reads.recv().await {
        if input.write(&bytes).await.is_err() {
            return;
        }
    }
    let _ = input.end().await;
}

/// The signals that are the command's and not ours.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    quit: Signal,
    resize: Option<Signal>,
}

impl Signals {
    fn catch(tty: bool) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            resize: tty.then(|| signal(SignalKind::window_change())).transpose()?,
        })
    }

    /// Passes signals on until the connection has ended, which the caller notices.
    async fn forward(mut self, input: ExecInput) {
        loop {
            let resized = async {
                match &mut self.resize {
                    Some(resize) => resize.recv().await,
                    None => std::future::pending().await,
                }
            };
            let number = tokio::select! {
                _ = self.interrupt.recv() => rustix::process::Signal::INT,
                _ = self.terminate.recv() => rustix::process::Signal::TERM,
                _ = self.hang_up.recv() => rustix::process::Signal::HUP,
                _ = self.quit.recv() => rustix::process::Signal::QUIT,
                _ = resized => {
                    let (rows, columns) = window();
                    if input.resize(rows, columns).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let number = u8::try_from(number.as_raw()).unwrap_or_default();
            if input.signal(number).await.is_err() {
                return;
            }
        }
    }
}

/// Passes what is typed on as it is, until it is dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_a_name() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(variable("A").is_err());
        assert!(variable("=b").is_err());
    }
}
