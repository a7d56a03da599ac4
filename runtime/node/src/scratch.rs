//! The directories of a task on the host: what its containers write, and its volumes.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use neargate_model::TaskId;
use tokio::sync::RwLock;
use tokio::time::timeout;

use crate::files::TaskFiles;

/// Directories that are kept for tasks to come: more than tasks end before as many others have begun.
const SPARES_MAX: usize = 64;

/// What the names of spare directories begin with; no task's id does.
const SPARE: &str = "spare-";

/// The directory of the first container, which a spare one has.
const FIRST: &str = "container-0";

/// The scratch directories of a node, and those of tasks that have ended, emptied, for tasks to come: to move two
/// directories takes less than a tenth of making and removing them on a disk.
#[derive(Debug)]
pub(crate) struct Scratches {
    root: PathBuf,
    spares: Mutex<Spares>,
}

#[derive(Debug, Default)]
struct Spares {
    dirs: Vec<PathBuf>,
    /// The number of the next.
    next: u64,
}

impl Scratches {
    /// Scratch directories below a root, which is made when it is needed.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), spares: Mutex::default() }
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a spare directory a task's; `false` when there is none.
    fn give(&self, dir: &Path) -> bool {
        let Some(spare) = self.spares().dirs.pop() else { return false };
        fs::rename(spare, dir).is_ok()
    }

    /// Keeps a task's directory, in which there is nothing but the empty one of the first container. `false` when there
    /// are enough.
    fn keep(&self, dir: &Path) -> io::Result<bool> {
        let mut spares = self.spares();
        if spares.dirs.len() >= SPARES_MAX {
            return Ok(false);
        }
        let spare = self.root.join(format!("{SPARE}{}", spares.next));
        fs::rename(dir, &spare)?;
        spares.next += 1;
        spares.dirs.push(spare);
        Ok(true)
    }
}

impl Drop for Scratches {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        for spare in &self.spares().dirs {
            let _ = fs::remove_dir(spare.join(FIRST)).and_then(|()| fs::remove_dir(spare));
        }
    }
}

/// The removals of files of tasks that have ended, for which nobody waits but who ends; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Removals(Arc<RwLock<()>>);

impl Removals {
    /// Counts one more, until the answer is dropped.
    pub(crate) fn begin(&self) -> Option<impl Send + 'static> {
        // Somebody waits already: only for what is removed before tasks are said to have stopped.
        self.0.clone().try_read_owned().ok()
    }

    /// Waits until all that have begun are done; `false` if they take longer than this.
    pub async fn settle(&self, limit: Duration) -> bool {
        timeout(limit, self.0.write()).await.is_ok()
    }
}

/// The scratch directory of one task, named by its id.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    all: Arc<Scratches>,
}

impl Scratch {
    /// The scratch directory of a task; nothing is made yet.
    pub(crate) fn new(all: &Arc<Scratches>, task: &TaskId) -> Self {
        Self { dir: all.root.join(task.as_str()), all: all.clone() }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty directory for what a container writes; what an earlier life of it wrote is gone.
    pub(crate) fn container(&self, index: usize, files: &dyn TaskFiles) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("container-{index}"));
        if index == 0 && !self.exists() && self.all.give(&self.dir) {
            return Ok(dir);
        }
        if exists(&dir) {
            files.remove(&dir)?;
        }
        make(&dir)?;
        Ok(dir)
    }

    /// The directory of a task-scoped volume; it lives as long as the task. It belongs to the containers'
    /// root where this process may give files away, and every user of the containers may write to it; nobody
    /// else reaches it, because the directory above is closed.
    pub(crate) fn volume(&self, index: usize, files: &dyn TaskFiles) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("volume-{index}"));
        make(&dir)?;
        files.give(&dir)?;
        Ok(dir)
    }

    /// Whether anything was made.
    pub(crate) fn exists(&self) -> bool {
        exists(&self.dir)
    }

    /// Removes all of it; nothing to remove is no error.
    pub(crate) fn remove(&self, files: &dyn TaskFiles) -> io::Result<()> {
        if self.has_first_only() {
            files.clear(&self.dir.join(FIRST))?;
            if self.all.keep(&self.dir)? {
                return Ok(());
            }
        }
        files.remove(&self.dir)
    }

    /// Whether all of it is the first container's, as with most tasks.
    fn has_first_only(&self) -> bool {
        let Ok(mut entries) = fs::read_dir(&self.dir) else { return false };
        let is_first = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == FIRST);
        entries.next().is_some_and(is_first) && entries.next().is_none()
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn exists(dir: &Path) -> bool {
    dir.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::OwnTaskFiles;

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn directories_are_used_again_and_empty() {
        let root = tempfile::tempdir().unwrap();
        let all = Arc::new(Scratches::new(root.path()));
        let task = |number: u32| Scratch::new(&all, &TaskId::new(format!("{number:032x}")).unwrap());
        let files = &OwnTaskFiles;
        for number in 0..3 {
            let dir = task(number).container(0, files).unwrap();
            assert_eq!(names(&dir), Vec::<String>::new());
            fs::create_dir_all(dir.join("upper/a/b")).unwrap();
            fs::write(dir.join("upper/file"), "text").unwrap();
            std::os::unix::fs::symlink("/", dir.join("host")).unwrap();
            task(number).remove(files).unwrap();
            assert_eq!(names(root.path()), [format!("spare-{number}")]);
        }
        // One of several containers or with a volume is no other task's.
        let dir = task(3).container(1, files).unwrap();
        task(3).volume(0, files).unwrap();
        assert_eq!(names(&root.path().join("spare-2")), ["container-0"]);
        assert!(dir.ends_with("container-1"));
        task(3).remove(files).unwrap();
        // Of a container that is started again nothing stays.
        let dir = task(4).container(0, files).unwrap();
        fs::write(dir.join("file"), "text").unwrap();
        assert_eq!(names(&task(4).container(0, files).unwrap()), Vec::<String>::new());
        task(4).remove(files).unwrap();
        task(4).remove(files).unwrap();
        assert_eq!(names(root.path()), ["spare-3"]);
        drop(all);
        assert_eq!(names(root.path()), Vec::<String>::new());
    }

    #[test]
    fn no_more_are_kept_than_are_needed() {
        let root = tempfile::tempdir().unwrap();
        let all = Arc::new(Scratches::new(root.path()));
        let tasks: Vec<_> = (0..SPARES_MAX + 3)
            .map(|number| Scratch::new(&all, &TaskId::new(format!("{number:032x}")).unwrap()))
            .collect();
        tasks.iter().for_each(|task| drop(task.container(0, &OwnTaskFiles).unwrap()));
        tasks.iter().for_each(|task| task.remove(&OwnTaskFiles).unwrap());
        assert_eq!(names(root.path()).len(), SPARES_MAX);
    }
}
