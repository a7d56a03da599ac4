//! Which tasks may have been started, kept for the node's next life.
//!
//! A task must never be started a second time, so before its first start it is written down that it may run from now on.
//! The status with [`start_intended`](neargate_model::TaskStatus::start_intended) says so for good, but to commit it takes
//! as long as all the rest of a start. So the first start of a task of which nothing has been committed but its
//! acceptance is noted here instead: by a line of a file, which outlives the processes of this machine without any sync,
//! but not the machine.
//!
//! ```text
//! what is committed of a task             after a restart in the same boot    after a restart of the machine
//! start_intended                          it may run                          it may run
//! its acceptance, and nothing since       it may run if it is noted here      it may have run
//! a later status without start_intended   it was never started                it was never started
//! ```
//!
//! A task that may have run and is not found again is lost; one that was never started is started.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use neargate_model::{TaskId, TaskStatus};

/// Bytes after which the file is written anew, with what is still to be known: some thirty thousand lines.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Notes of starts, in a file that nobody else writes to: a line that names the boot, then `+TASK` for each start and
/// `-TASK` for each end.
#[derive(Debug)]
pub struct Starts {
    /// None where no task outlives the process.
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    boot: String,
    /// Whether tasks that were accepted before this process may have run in another boot, whose notes say nothing now.
    is_other_boot: bool,
    notes: Mutex<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    started: BTreeSet<String>,
    /// None until the notes are of this boot.
    file: Option<File>,
    /// Written since the file was last written anew.
    bytes: u64,
}

impl Starts {
    /// Notes in a file, which need not be there. `boot` names the machine's boot: the kernel's `random/boot_id`
    /// (random(4)).
    pub fn open(path: &Path, boot: &str) -> io::Result<Self> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        // What a loss of power has made of the file does not name this boot.
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let is_other_boot = lines.next() != Some(boot);
        let mut notes = Notes::default();
        if !is_other_boot {
            notes.file = Some(File::options().append(true).open(path)?);
            lines.for_each(|line| notes.read(line));
        }
        let (path, boot, notes) = (path.to_owned(), boot.to_owned(), Mutex::new(notes));
        Ok(Self { kept: Some(Kept { path, boot, is_other_boot, notes }) })
    }

    /// For a node whose tasks end with it: notes nothing.
    pub fn forgetful() -> Self {
        Self { kept: None }
    }

    /// Begins with the tasks that are left from before, once they were handed over and before others are: forgets all
    /// others, and has the notes be of this boot. May be interrupted at any point and done again. After an error the old
    /// notes hold: of this boot they are continued, and of another one they let tasks be started by their status alone.
    pub fn begin(&self, left: &BTreeSet<TaskId>) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let mut notes = kept.lock();
        let left = left.iter().map(|task| task.as_str().to_owned());
        notes.started = match kept.is_other_boot {
            // They may have run in the other boot, and the next process will not know that there was one.
            true => left.collect(),
            false => left.filter(|task| notes.started.contains(task)).collect(),
        };
        kept.rewrite(&mut notes)
    }

    /// Whether a task that was handed over before may have run, by what is committed of it and by the notes.
    pub(crate) fn may_have_run(&self, task: &TaskId, status: &TaskStatus) -> bool {
        let Some(kept) = &self.kept else { return status.start_intended };
        let is_noted = || kept.is_other_boot || kept.lock().started.contains(task.as_str());
        status.start_intended || (status.version <= TaskStatus::ACCEPTED_VERSION && is_noted())
    }

    /// Notes that a task may run from now on. After an error the status has to say so.
    pub(crate) fn note(&self, task: &TaskId) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let mut notes = kept.lock();
        notes.write('+', task)?;
        notes.started.insert(task.as_str().to_owned());
        Ok(())
    }

    /// Lets go of a task whose end is durable; that there is no note is no error.
    pub(crate) fn forget(&self, task: &TaskId) {
        let Some(kept) = &self.kept else { return };
        let mut notes = kept.lock();
        if !notes.started.remove(task.as_str()) {
            return;
        }
        let forgotten = notes.write('-', task).and_then(|()| match notes.bytes > FILE_BYTES_MAX {
            true => kept.rewrite(&mut notes),
            false => Ok(()),
        });
        if let Err(error) = forgotten {
            tracing::warn!(%task, %error, "note of a task's start stays until the next start of the server");
        }
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the file by one that says the same in fewer lines.
    fn rewrite(&self, notes: &mut Notes) -> io::Result<()> {
        let lines = notes.started.iter().map(|task| format!("+{task}\n"));
        let text = std::iter::once(format!("{}\n", self.boot)).chain(lines).collect::<String>();
        let unfinished = self.path.with_extension("new");
        // What has no room for all of it should not take what there is.
        fs::write(&unfinished, &text).inspect_err(|_| drop(fs::remove_file(&unfinished)))?;
        let file = File::options().append(true).open(&unfinished)?;
        fs::rename(&unfinished, &self.path)?;
        // Of what was written since: with many tasks that run for long it is not written anew for each line.
        (notes.file, notes.bytes) = (Some(file), 0);
        Ok(())
    }
}

impl Notes {
    fn read(&mut self, line: &str) {
        match line.split_at_checked(1) {
            Some(("+", task)) => drop(self.started.insert(task.to_owned())),
            Some(("-", task)) => drop(self.started.remove(task)),
            _ => {}
        }
    }

    /// One write, of which a kill of the process leaves all or nothing.
    fn write(&mut self, what: char, task: &TaskId) -> io::Result<()> {
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let line = format!("{what}{task}\n");
        file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use neargate_model::ContainerName;

    use super::*;

    fn id(number: u32) -> TaskId {
        TaskId::new(format!("{number:032x}")).unwrap()
    }

    fn status(version: u64, start_intended: bool) -> TaskStatus {
        let names = [ContainerName::new("a").unwrap()];
        TaskStatus { version, start_intended, ..TaskStatus::accepted(&names) }
    }

    #[test]
    fn what_may_have_run() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("starts");
        let check = |boot: &str, version, start_intended, expect: [bool; 2]| {
            let starts = Starts::open(&path, boot).unwrap();
            let may = [1, 2].map(|task| starts.may_have_run(&id(task), &status(version, start_intended)));
            assert_eq!(may, expect, "boot {boot}, version {version}, intended {start_intended}");
        };
        let starts = Starts::open(&path, "one").unwrap();
        assert!(starts.note(&id(1)).is_err(), "the notes are not of this boot yet");
        starts.begin(&BTreeSet::new()).unwrap();
        starts.note(&id(1)).unwrap();
        check("one", 1, false, [true, false]);
        check("one", 2, false, [false, false]);
        check("one", 2, true, [true, true]);
        check("two", 1, false, [true, true]);
        check("two", 2, false, [false, false]);
        check("two", 1, true, [true, true]);
        starts.forget(&id(1));
        starts.forget(&id(2));
        check("one", 1, false, [false, false]);
        fs::write(&path, [0; 100]).unwrap();
        check("one", 1, false, [true, true]);
    }

    #[test]
    fn what_was_unknown_stays_unknown_in_the_next_life() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("starts");
        Starts::open(&path, "one").unwrap().begin(&BTreeSet::new()).unwrap();
        Starts::open(&path, "two").unwrap().begin(&[id(1)].into()).unwrap();
        let next = Starts::open(&path, "two").unwrap();
        assert!(next.may_have_run(&id(1), &status(1, false)));
        assert!(!next.may_have_run(&id(2), &status(1, false)), "accepted since");
        next.note(&id(2)).unwrap();
        next.begin(&[id(2)].into()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("two\n+{}\n", id(2)), "the first has ended, the second goes on");
    }

    #[test]
    fn the_file_stays_small() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("starts");
        let starts = Starts::open(&path, "one").unwrap();
        starts.begin(&BTreeSet::new()).unwrap();
        starts.note(&id(0)).unwrap();
        for number in 1..20_000 {
            starts.note(&id(number)).unwrap();
            starts.forget(&id(number));
        }
        assert!(fs::metadata(&path).unwrap().len() < FILE_BYTES_MAX);
        let next = Starts::open(&path, "one").unwrap();
        assert!(next.may_have_run(&id(0), &status(1, false)));
        assert!(!next.may_have_run(&id(7), &status(1, false)));
    }

    #[test]
    fn where_nothing_outlives_the_process_nothing_is_noted() {
        let starts = Starts::forgetful();
        starts.note(&id(1)).unwrap();
        starts.begin(&BTreeSet::new()).unwrap();
        assert!(!starts.may_have_run(&id(1), &status(1, false)));
    }
}
