//! What became of containers that ended when their supervisor was gone: a file in its directory.
//!
//! ```text
//!  steward, as subreaper ── one line for each, before it reaps ──▶ ends ──▶ the next supervisor
//! ```
//!
//! Only its parent learns how a process has ended, and the kernel makes the steward the parent of what a dead supervisor
//! leaves. The steward writes the line first and reaps then: as long as there is no line the process can still be found,
//! and who does not find it finds the line. It is the only writer; what is told of a container is the supervisor's
//! matter, whose journal it ends up in.
//!
//! A container is named by its group, which no other one ever gets, and its process. Lines are appended with one
//! `write(2)` each and never synced, as in the journal: nothing of it outlives the machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the file in the supervisor's directory.
const FILE: &str = "ends";
/// The lines before the last [rotation](Ends::rotate).
const OLD: &str = "ends.old";

/// Where the lines of a directory are found.
#[derive(Debug)]
pub(crate) struct Ends {
    directory: PathBuf,
}

/// What became of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It ended with this code.
    Code(i32),
    /// It never came to its program.
    Unbegun,
}

/// In place of a code.
const UNBEGUN: &str = "unbegun";

/// Appends the end of the first process of a container.
pub(crate) fn append(directory: &Path, group: &str, pid: i32, told: Told) -> io::Result<()> {
    let path = directory.join(FILE);
    let mut file = File::options().append(true).create(true).mode(0o600).open(path)?;
    // A line that a kill has cut off lacks its last character, and spoils no other.
    let what = match told {
        Told::Code(code) => code.to_string(),
        Told::Unbegun => UNBEGUN.to_owned(),
    };
    file.write_all(format!("\n{group} {pid} {what};").as_bytes())
}

impl Ends {
    /// The lines in a directory.
    pub(crate) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// All that is written down now.
    pub(crate) fn read(&self) -> Known {
        let text = |name| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        Known(text(OLD) + &text(FILE))
    }

    /// Drops the lines before the last rotation. To be called when all of them were made use of, so that there are never
    /// more than two supervisors' lives have left.
    pub(crate) fn rotate(&self) -> io::Result<()> {
        match fs::rename(self.directory.join(FILE), self.directory.join(OLD)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the files, because nothing is left that they could tell of.
    pub(crate) fn remove(&self) {
        for name in [FILE, OLD] {
            let _ = fs::remove_file(self.directory.join(name));
        }
    }
}

/// Lines that were read.
pub(crate) struct Known(String);

impl Known {
    /// What was written down of a container's first process.
    pub(crate) fn of(&self, group: &str, pid: i32) -> Option<Told> {
        self.0.lines().find_map(|line| {
            let what = line.strip_prefix(group)?.strip_prefix(' ')?;
            let what = what.strip_prefix(pid.to_string().as_str())?.strip_prefix(' ')?;
            match what.strip_suffix(';')? {
                UNBEGUN => Some(Told::Unbegun),
                code => code.parse().ok().map(Told::Code),
            }
        })
    }

    /// The exit code of a container's first process, if it was written down.
    pub(crate) fn code(&self, group: &str, pid: i32) -> Option<i32> {
        match self.of(group, pid) {
            Some(Told::Code(code)) => Some(code),
            Some(Told::Unbegun) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_of_the_container_it_was_written_for() {
        let directory = tempfile::tempdir().unwrap();
        let ends = Ends::of(directory.path());
        assert_eq!(ends.read().code("a.1", 7), None);
        append(directory.path(), "a.1", 7, Told::Code(3)).unwrap();
        append(directory.path(), "a.11", 77, Told::Code(137)).unwrap();
        append(directory.path(), "a.2", 8, Told::Unbegun).unwrap();
        assert_eq!(ends.read().of("a.2", 8), Some(Told::Unbegun));
        let check = |group: &str, pid: i32, expect: Option<i32>| {
            assert_eq!(ends.read().code(group, pid), expect, "{group} {pid}");
        };
        check("a.1", 7, Some(3));
        check("a.11", 77, Some(137));
        check("a.1", 77, None);
        check("a.11", 7, None);
        check("a", 7, None);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "\na.1 7 0;\na.2 8 13").unwrap();
        append(directory.path(), "a.3", 9, Told::Code(1)).unwrap();
        let known = Ends::of(directory.path()).read();
        assert_eq!(
            (known.code("a.1", 7), known.code("a.2", 8), known.code("a.3", 9)),
            (Some(0), None, Some(1))
        );
    }

    #[test]
    fn a_line_outlives_one_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let ends = Ends::of(directory.path());
        append(directory.path(), "a.1", 7, Told::Code(3)).unwrap();
        ends.rotate().unwrap();
        append(directory.path(), "a.2", 8, Told::Code(4)).unwrap();
        assert_eq!((ends.read().code("a.1", 7), ends.read().code("a.2", 8)), (Some(3), Some(4)));
        ends.rotate().unwrap();
        assert_eq!((ends.read().code("a.1", 7), ends.read().code("a.2", 8)), (None, Some(4)));
        ends.remove();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
