//! The least that starting a container takes: a small program in C, see `floor.c`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::shell::run;

const SOURCE: &str = include_str!("floor.c");

/// The program, compiled; it goes with this value.
pub(super) struct Binary(TempDir);

impl Binary {
    pub(super) fn build() -> Result<Self> {
        let directory = tempfile::tempdir().context("make directory for the floor")?;
        let source = directory.path().join("floor.c");
        fs::write(&source, SOURCE).context("write the floor")?;
        run(Command::new("cc").args(["-O2", "-o"]).arg(directory.path().join("floor")).arg(&source))
            .context("compile the floor; it takes a C compiler")?;
        Ok(Self(directory))
    }
}

/// One running program, which starts one container at a time.
pub(super) struct Floor {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Where it keeps upper directories.
    _scratch: TempDir,
}

impl Floor {
    pub(super) fn start(binary: &Binary, root: &Path) -> Result<Self> {
        let scratch = tempfile::tempdir().context("make scratch directory for the floor")?;
        let mut process = Command::new(binary.0.path().join("floor"))
            .arg(root)
            .arg(scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the floor")?;
        let requests = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().context("read from the floor")?);
        Ok(Self { process, requests, answers, _scratch: scratch })
    }

    /// Starts one container and sees it end: milliseconds to exec, and to the end.
    pub(super) fn run(&mut self) -> Result<Vec<f64>> {
        let requests = self.requests.as_mut().context("write to the floor")?;
        writeln!(requests).context("ask the floor")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("ask the floor")?;
        let numbers: Result<Vec<f64>, _> = answer.split_whitespace().map(str::parse).collect();
        let numbers = numbers.with_context(|| format!("read answer of the floor: {answer}"))?;
        anyhow::ensure!(numbers.len() == 2, "the floor has failed; it says on standard error why");
        Ok(numbers)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It ends with its input, and removes its groups then.
        drop(self.requests.take());
        let _ = self.process.wait();
    }
}
