//! Standard streams: every byte, in both directions, at the speed of the slower side.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result};
use neargate_tests::cli::{Cli, LIMIT};
use neargate_tests::process::{code, run, wait};

use crate::suite::{Case, Needs};
use crate::{TRAP, guests};

pub(crate) const CASES: &[Case] = &[
    ("streams/ten_megabytes_and_a_slow_reader", Needs::Wasm, ten_megabytes_and_a_slow_reader),
    ("streams/an_ended_input_stays_ended", Needs::Wasm, an_ended_input_stays_ended),
    ("streams/are_no_terminals", Needs::Wasm, are_no_terminals),
    ("streams/escapes_pass_unchanged", Needs::Wasm, escapes_pass_unchanged),
    ("streams/a_reader_that_goes_away", Needs::Wasm, a_reader_that_goes_away),
    ("streams/a_closed_output", Needs::Wasm, a_closed_output),
];

const LENGTH: usize = 10 << 20;

fn every_byte(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// The reader takes single bytes first, while all pipes are full and the writer waits.
fn ten_megabytes_and_a_slow_reader() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let input = every_byte(LENGTH);
        let mut command = cli.run_command(&["--quiet", &image, "--", "copy"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut to = child.stdin.take().context("stdin is piped")?;
        let mut from = child.stdout.take().context("stdout is piped")?;
        let sent = input.clone();
        let writer = thread::spawn(move || to.write_all(&sent));
        let mut output = vec![0; 4096];
        for byte in &mut output {
            from.read_exact(std::slice::from_mut(byte))?;
        }
        from.read_to_end(&mut output)?;
        writer.join().unwrap()?;
        let status = wait(&mut child, LIMIT)?.context("it did not end")?;
        assert_eq!(code(status), 0);
        assert!(output == input, "{} bytes came back, or others", output.len());
    }
    Ok(())
}

fn an_ended_input_stays_ended() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run_with(&["--quiet", &image, "--", "ends"], b"12345")?;
        assert_eq!(finished.text(), "5 0\n", "{}", finished.stderr);
        assert_eq!(finished.stderr, "this is standard error\n");
        // No input at all is an input that has ended.
        let mut command = cli.run_command(&["--quiet", &image, "--", "ends"]);
        let output = command.stdin(Stdio::null()).output()?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "0 0\n");
    }
    Ok(())
}

fn are_no_terminals() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run(&["--quiet", &image, "--", "terminals"])?;
        assert_eq!(finished.text(), "false false\n", "{}", finished.stderr);
    }
    Ok(())
}

/// `run` is as transparent as the program itself; only what is shown from a log is made harmless.
fn escapes_pass_unchanged() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let escapes = b"\x1b]0;title\x07\x1b[31mred\x1b[0m\x00\x07\x7f\xff\x9b31m";
    for image in guests()? {
        let finished = cli.run_with(&["--quiet", &image, "--", "copy"], escapes)?;
        assert_eq!(finished.stdout, escapes, "{}", finished.stderr);
    }
    Ok(())
}

/// A writer learns that nobody reads, as of a broken pipe, and does not write for ever.
fn a_reader_that_goes_away() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let mut command = cli.run_command(&["--quiet", &image, "--", "flood", "1000000000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut from = child.stdout.take().context("stdout is piped")?;
        from.read_exact(&mut [0; 100])?;
        drop(from);
        let status = wait(&mut child, LIMIT)?.context("it writes to nobody for ever")?;
        // The guest expects its output to be writable and panics.
        assert_eq!(code(status), TRAP);
    }
    Ok(())
}

fn a_closed_output() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let line = "exec \"$0\" run --quiet --data \"$1\" \"$2\" -- exit 0 >&- 2>&-";
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).arg(neargate_tests::binary()).args([cli.data(), image]);
        assert_eq!(run(&mut shell, b"", LIMIT)?.code, 0);
    }
    Ok(())
}
