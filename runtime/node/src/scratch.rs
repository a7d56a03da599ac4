//! The directories of a task on the host: what its containers write, and its volumes.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use neargate_model::TaskId;

use crate::volumes::give_to_containers;

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
    pub(crate) fn container(&self, index: usize) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("container-{index}"));
        remove_all(&dir)?;
        make(&dir)?;
        Ok(dir)
    }

    /// The directory of a task-scoped volume; it lives as long as the task. It belongs to the containers'
    /// root where this process may give files away, and every user of the containers may write to it; nobody
    /// else reaches it, because the directory above is closed.
    pub(crate) fn volume(&self, index: usize) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("volume-{index}"));
        make(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o777))?;
        give_to_containers(&dir)?;
        Ok(dir)
    }

    /// Whether anything was made.
    pub(crate) fn exists(&self) -> bool {
        self.dir.symlink_metadata().is_ok()
    }

    /// Removes all of it; nothing to remove is no error.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_all(&self.dir)
    }
}

fn make(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
