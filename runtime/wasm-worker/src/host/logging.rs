//! `wasi:logging`: lines on the run's standard error, where its other logs are.

use std::fmt::Write;

use tokio::io::AsyncWriteExt;

use super::bindings::wasi::{logging, logging0_1_0_draft};
use super::{HostCtx, not_granted};

/// The longest line, in bytes; what is beyond is cut off. The log drivers of most platforms cut there or earlier.
const LINE_BYTES_MAX: usize = 16 << 10;

/// One line: the level, the context if there is one, and the message, with control characters escaped so that
/// a message can neither end its line nor speak to a terminal.
fn line(level: &str, context: &str, message: &str) -> String {
    let mut line = String::with_capacity(level.len() + context.len() + message.len() + 4);
    line.push_str(level);
    line.push(' ');
    if !context.is_empty() {
        escape(&mut line, context);
        line.push_str(": ");
    }
    escape(&mut line, message);
    line.push('\n');
    line
}

fn escape(line: &mut String, text: &str) {
    for character in text.chars() {
        if line.len() > LINE_BYTES_MAX {
            return line.push('…');
        }
        // Writing to a string cannot fail.
        let _ = match character {
            '\t' => line.write_char('\t'),
            '\\' => line.write_str("\\\\"),
            control if control.is_control() => write!(line, "{}", control.escape_default()),
            other => line.write_char(other),
        };
    }
}

impl HostCtx<'_> {
    /// Waits until the kernel takes the line, so a guest that logs a lot is slowed down and fills no memory.
    async fn log_line(&mut self, level: &str, context: &str, message: &str) -> wasmtime::Result<()> {
        let mut errors = self.host.log.clone().ok_or_else(|| not_granted("wasi:logging"))?;
        // A reader that is gone misses it.
        let _ = errors.write_all(line(level, context, message).as_bytes()).await;
        Ok(())
    }
}

macro_rules! implement {
    ($version:ident) => {
        impl $version::logging::Host for HostCtx<'_> {
            async fn log(
                &mut self,
                level: $version::logging::Level,
                context: String,
                message: String,
            ) -> wasmtime::Result<()> {
                use $version::logging::Level;
                let level = match level {
                    Level::Trace => "TRACE",
                    Level::Debug => "DEBUG",
                    Level::Info => "INFO",
                    Level::Warn => "WARN",
                    Level::Error => "ERROR",
                    Level::Critical => "CRITICAL",
                };
                self.log_line(level, &context, &message).await
            }
        }
    };
}
implement!(logging);
implement!(logging0_1_0_draft);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |context: &str, message: &str, expect: &str| {
            assert_eq!(line("INFO", context, message), expect);
        };
        check("", "ready", "INFO ready\n");
        check("db", "took 3 ms\tgrüße", "INFO db: took 3 ms\tgrüße\n");
        check(
            "a\nb",
            "x\r\n\u{1b}[31mred\u{7f}\u{85}\\",
            "INFO a\\nb: x\\r\\n\\u{1b}[31mred\\u{7f}\\u{85}\\\\\n",
        );
        let long = line("WARN", "", &"ü".repeat(LINE_BYTES_MAX));
        assert!(long.len() < LINE_BYTES_MAX + 8 && long.ends_with("ü…\n"));
    }
}
