//! The least that starting a container takes: a small program in C, see `floor.c`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::shell::run;

const SOURCE: &str = include_str!("floor.c");

/// A program in C, compiled; it goes with this value.
pub(super) struct Binary {
    path: PathBuf,
    _directory: TempDir,
}

impl Binary {
    /// The floor.
    pub(super) fn floor() -> Result<Self> {
        Self::build("floor", SOURCE)
    }

    pub(super) fn build(name: &str, source: &str) -> Result<Self> {
        let directory = tempfile::tempdir().with_context(|| format!("make directory for {name}"))?;
        let (path, text) = (directory.path().join(name), directory.path().join(format!("{name}.c")));
        fs::write(&text, source).with_context(|| format!("write {name}"))?;
        run(Command::new("cc").args(["-O2", "-static", "-o"]).arg(&path).arg(&text))
            .with_context(|| format!("compile {name}; it takes a C compiler"))?;
        Ok(Self { path, _directory: directory })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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
        let mut process = Command::new(binary.path())
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
