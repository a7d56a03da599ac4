//! Errors and logs as a person at a terminal sees them.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::client;

/// Prints what failed, why, and what to do, each in a line of its own.
pub(crate) fn print(error: &anyhow::Error) {
    let mut causes = error.chain();
    if let Some(first) = causes.next() {
        eprintln!("error: {first}");
    }
    let mut last = error.to_string();
    for cause in causes {
        let text = cause.to_string();
        // A transparent error repeats the one below it.
        if text != last {
            eprintln!("because: {text}");
        }
        last = text;
    }
    if let Some(hint) = client::hint(error) {
        eprintln!("hint: {hint}");
    }
}

/// Whether the reader of our output has gone, as `head` does: no error of anybody's.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_closed = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(is_closed)
}

/// Sends the log to stderr, at the level of `NEARGATE_LOG` (default `info`).
pub(crate) fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("NEARGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
