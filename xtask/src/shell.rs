//! Running other programs: shown, timed, captured, and their output summed up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::{repository, target_directory};

use crate::tally::Tally;

/// Lines of a failed step's log that are shown.
const TAIL_LINES: usize = 80;

/// Whether a program of this name is on the PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// A command that runs in the root of the repository.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(repository());
    command
}

/// The Cargo that runs us.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = command(cargo, arguments);
    command.env("CARGO_TERM_COLOR", "never");
    command
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs a command whose output matters only if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {name}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{name} ended with {}:\n{}", output.status, tail(&String::from_utf8_lossy(&text)));
    }
    Ok(())
}

/// Runs a command for its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = shown(command);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("start {name}"))?;
    ensure!(output.status.success(), "{name} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("read the output of {name}"))
}

/// The steps of a run: each prints one line with its seconds, and the first that fails ends the run.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    tally: Tally,
}

impl Steps {
    /// What all steps have counted so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// A step that is a function of ours.
    pub(crate) fn call<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let result = step();
        report(name, started, Tally::default(), result.is_ok());
        result.with_context(|| name.to_owned())
    }

    /// A step that is a function of ours and has run tests.
    pub(crate) fn counted(&mut self, name: &str, step: impl FnOnce() -> (Tally, Result<()>)) -> Result<()> {
        let started = Instant::now();
        let (counted, result) = step();
        self.tally.add(counted);
        report(name, started, counted, result.is_ok());
        result.with_context(|| name.to_owned())
    }

    /// A step that is a command; its output goes to a log, and what test harnesses say in it is counted.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let started = Instant::now();
        let log = log_path(name)?;
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = file.try_clone().context("share the step's log")?;
        let shown = shown(command);
        let status = command.stdin(Stdio::null()).stdout(file).stderr(errors).status();
        let status = status.with_context(|| format!("start {shown}"))?;
        let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let counted = Tally::of_output(&text);
        self.tally.add(counted);
        report(name, started, counted, status.success());
        for line in text.lines().filter(|line| line.starts_with("SKIPPED:")) {
            println!("     {line}");
        }
        if status.success() {
            return Ok(());
        }
        println!("{}", tail(&text));
        bail!("{name}: {shown} ended with {status}; its whole output is in {}", log.display())
    }
}

fn report(name: &str, started: Instant, counted: Tally, is_ok: bool) {
    let mark = if is_ok { "ok  " } else { "FAIL" };
    let seconds = started.elapsed().as_secs_f64();
    let tests = if counted == Tally::default() { String::new() } else { format!("  {counted}") };
    println!("{mark} {name:<34} {seconds:>7.1} s{tests}");
}

/// Where the output of a step goes.
pub(crate) fn log_path(name: &str) -> Result<PathBuf> {
    let directory = target_directory().join("xtask");
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(directory.join(format!("{file}.log")))
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_commands_as_typed() {
        let check = |arguments: &[&str], expect: &str| {
            assert_eq!(shown(Command::new("/usr/bin/aws").args(arguments)), expect);
        };
        check(&["ecs", "list-tasks"], "aws ecs list-tasks");
        check(&["--query", "tasks[0]", ""], "aws --query 'tasks[0]' ''");
        check(&["it's"], r"aws 'it'\''s'");
    }
}
