//! What is done with files of foreign owners: those that containers write, and directories given to them.

use std::fs;
use std::io;
use std::path::Path;

use neargate_driver::VOLUME_ID_BASE;
use neargate_image::{LayerFiles, OwnLayerFiles};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::usage::{self, UsageError};

/// Looks after files of containers below the node's directories. Calls block, and come from many threads.
pub trait TaskFiles: Send + Sync + 'static {
    /// Removes a tree, following no link; that there is none is no error.
    fn remove(&self, dir: &Path) -> io::Result<()>;

    /// Removes everything in a directory, following no link.
    fn clear(&self, dir: &Path) -> io::Result<()>;

    /// Gives a directory to the containers' root, and lets every user of a container write to it. The one above must be
    /// closed to everybody else.
    fn give(&self, dir: &Path) -> io::Result<()>;

    /// Bytes on the disk of everything below a directory; stops counting above `enough`. No link is followed.
    fn usage(&self, dir: &Path, enough: u64) -> Result<u64, UsageError>;
}

/// Does it in this process, with the rights that it has.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnTaskFiles;

impl TaskFiles for OwnTaskFiles {
    fn remove(&self, dir: &Path) -> io::Result<()> {
        // Also of what a container has closed to the user whose its root is.
        OwnLayerFiles.remove(dir)
    }

    fn clear(&self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => OwnLayerFiles.remove(&entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    fn give(&self, dir: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o777))?;
        let (uid, gid) = (Uid::from_raw(VOLUME_ID_BASE), Gid::from_raw(VOLUME_ID_BASE));
        match rustix::fs::fchown(&dir, Some(uid), Some(gid)) {
            // Without the right to give files away, or in a user namespace without that id, containers have the user's.
            Err(error) if !matches!(error, Errno::PERM | Errno::INVAL) => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn usage(&self, dir: &Path, enough: u64) -> Result<u64, UsageError> {
        usage::usage(dir, enough)
    }
}
