//! The directories of a task on the host: what its containers write, and its volumes.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use neargate_model::TaskId;

use crate::files::TaskFiles;

/// The scratch directory of one task, named by its id.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    /// The scratch directory of a task below a root; nothing is made yet.
    pub(crate) fn new(root: &Path, task: &TaskId) -> Self {
        Self { dir: root.join(task.as_str()) }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty directory for what a container writes; what an earlier life of it wrote is gone.
    pub(crate) fn container(&self, index: usize, files: &dyn TaskFiles) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("container-{index}"));
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
        files.remove(&self.dir)
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn exists(dir: &Path) -> bool {
    dir.symlink_metadata().is_ok()
}
