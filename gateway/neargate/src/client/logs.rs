//! `neargate logs`: what a task has written.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use futures_util::TryStreamExt;
use neargate_sdk::LogEvent;
use neargate_sdk::types::Timestamp;

use super::connect::{ClientOptions, variable};
use super::hint::Hinted;
use super::task_ref;
use super::terminal::harmless;

/// ANSI colours that are readable on light and dark ground.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Options of `neargate logs`.
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Go on until the task has stopped.
    #[arg(long, short)]
    follow: bool,
    /// Show this container's output only.
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Begin each line with the time it was written at, in UTC.
    #[arg(long, short)]
    timestamps: bool,
    /// The task's ARN, its id, or at least six digits that its id begins with.
    #[arg(value_name = "TASK")]
    task: String,
    #[command(flatten)]
    options: ClientOptions,
}

/// Writes a task's output to stdout.
pub(crate) async fn run(args: LogsArgs) -> Result<ExitCode> {
    let client = args.options.connect()?;
    let arn = task_ref::find(&client, &args.task).await?;
    let task = client.task(&arn).await?;
    let names: Vec<String> =
        task.containers.iter().flatten().filter_map(|container| container.name.clone()).collect();
    let mut logs = client.logs(&arn);
    let mut shown = names.clone();
    if let Some(name) = args.container {
        if !names.contains(&name) {
            let hint = format!("it has {}", names.join(", "));
            return Err(Hinted::not_found(format!("find container '{name}' of the task"), hint).into());
        }
        shown = vec![name.clone()];
        logs = logs.container(name);
    }
    let lines = Lines::new(shown, args.timestamps, Sink::stdout());
    let mut events = if args.follow { logs.follow() } else { logs.read() };
    while let Some(event) = events.try_next().await.context("read the task's output")? {
        io::stdout().write_all(lines.line(&event).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// A file or a pipe: a task's output stays as it is.
    Bytes,
    /// A terminal.
    Terminal {
        /// Whether it shows colours, and nobody has asked for none (no-color.org).
        colour: bool,
    },
}

impl Sink {
    fn stdout() -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        match io::stdout().is_terminal() {
            true => {
                Self::Terminal { colour: !is_set("NO_COLOR") && variable("TERM").as_deref() != Some("dumb") }
            }
            false => Self::Bytes,
        }
    }
}

/// How lines are shown.
struct Lines {
    /// The containers whose lines are told apart; with one, there is nothing to tell.
    containers: Vec<String>,
    width: usize,
    timestamps: bool,
    sink: Sink,
}

impl Lines {
    fn new(containers: Vec<String>, timestamps: bool, sink: Sink) -> Self {
        let width = containers.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        Self { containers, width, timestamps, sink }
    }

    fn line(&self, event: &LogEvent) -> String {
        let time = match self.timestamps {
            true => format!("{} ", Timestamp::from_millis(event.timestamp_ms)),
            false => String::new(),
        };
        let message = match self.sink {
            Sink::Bytes => Cow::Borrowed(event.message.as_str()),
            Sink::Terminal { colour } => harmless(&event.message, colour),
        };
        format!("{}{time}{message}\n", self.prefix(&event.container))
    }

    fn prefix(&self, container: &str) -> String {
        if self.containers.len() < 2 {
            return String::new();
        }
        let prefix = format!("{container:<width$} | ", width = self.width);
        let index = self.containers.iter().position(|name| name == container).unwrap_or_default();
        match self.sink {
            Sink::Terminal { colour: true } => {
                format!("\x1b[{}m{prefix}\x1b[0m", COLOURS[index % COLOURS.len()])
            }
            _ => prefix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMINAL: Sink = Sink::Terminal { colour: true };

    fn check(containers: &[&str], timestamps: bool, sink: Sink, message: &str, expect: &str) {
        let containers = containers.iter().map(|name| (*name).to_owned()).collect();
        let event =
            LogEvent { container: "app".into(), timestamp_ms: 1_700_000_000_123, message: message.into() };
        assert_eq!(Lines::new(containers, timestamps, sink).line(&event), expect);
    }

    #[test]
    fn lines_are_told_apart_when_there_is_more_than_one_container() {
        let check = |containers: &[&str], timestamps, sink, expect: &str| {
            check(containers, timestamps, sink, "hi\tthere", expect);
        };
        check(&["app"], false, TERMINAL, "hi\tthere\n");
        check(&["app"], true, Sink::Bytes, "2023-11-14T22:13:20.123Z hi\tthere\n");
        check(&["sidecar", "app"], false, Sink::Bytes, "app     | hi\tthere\n");
        check(&["sidecar", "app"], false, Sink::Terminal { colour: false }, "app     | hi\tthere\n");
        check(&["sidecar", "app"], false, TERMINAL, "\x1b[33mapp     | \x1b[0mhi\tthere\n");
        check(&["a", "app"], true, Sink::Bytes, "app | 2023-11-14T22:13:20.123Z hi\tthere\n");
    }

    #[test]
    fn escapes_reach_files_and_not_terminals() {
        check(&["app"], false, Sink::Bytes, "\x1b]0;x\x07", "\x1b]0;x\x07\n");
        check(&["app"], false, TERMINAL, "\x1b]0;x\x07", "\u{241b}]0;x\u{2407}\n");
    }
}
