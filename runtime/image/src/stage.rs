//! Files and directories on their way into the store.
//!
//! A staging directory belongs to one operation, which holds a lock on it: the kernel drops the lock when the
//! process dies, so whoever opens the store later can tell what was left behind and removes it. What is complete is
//! renamed out of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use neargate_model::image::Digest;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use crate::error::{FileError, at};
use crate::files::LayerFiles;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory for the unfinished files of one operation; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    next: AtomicU64,
    files: Arc<dyn LayerFiles>,
    _lock: File,
}

/// A complete file in a staging directory.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Staging {
    pub(crate) fn new(parent: &Path, files: Arc<dyn LayerFiles>) -> Result<Self, FileError> {
        loop {
            let path =
                parent.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(at("create", &path))?,
            }
            // A process that is opening the store may remove the directory before it is locked.
            if let Ok(lock) = File::open(&path) {
                flock(&lock, FlockOperation::LockExclusive).map_err(at("lock", &path))?;
                if is_same(&lock, &path) {
                    return Ok(Self { path, next: AtomicU64::new(0), files, _lock: lock });
                }
            }
        }
    }

    /// A path in the directory that is not in use.
    pub(crate) fn fresh(&self) -> PathBuf {
        self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A file to be written and hashed.
    pub(crate) fn create(&self) -> Result<Writer, FileError> {
        let path = self.fresh();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(at("create", &path))?;
        Ok(Writer { file, path, hash: Sha256::new(), size: 0 })
    }

    /// A file with these contents.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<Staged, FileError> {
        let mut writer = self.create()?;
        writer.write_all(bytes).map_err(at("write", &writer.path))?;
        writer.finish()
    }

    /// Removes what operations of dead processes left in `parent`.
    pub(crate) fn sweep(parent: &Path, files: &dyn LayerFiles) -> Result<(), FileError> {
        for entry in fs::read_dir(parent).map_err(at("read", parent))? {
            let path = entry.map_err(at("read", parent))?.path();
            let Ok(lock) = File::open(&path) else { continue };
            let is_dead =
                flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() && is_same(&lock, &path);
            if is_dead {
                tracing::info!(path = %path.display(), "removing what an interrupted import left");
                remove(&path, files).map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path, &*self.files) {
            tracing::warn!(path = %self.path.display(), %error, "temporary files stay until the store is opened again");
        }
    }
}

/// Removes a staging directory: what was unpacked in it is not ours.
fn remove(path: &Path, files: &dyn LayerFiles) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.remove(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir(path)
}

fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Writes a staged file and hashes it on the way.
pub(crate) struct Writer {
    file: File,
    path: PathBuf,
    hash: Sha256,
    size: u64,
}

impl Writer {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Copies all of `reader`; the inner error is the reader's, the outer one the file's.
    pub(crate) fn copy(
        &mut self,
        reader: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<io::Result<()>, FileError> {
        loop {
            match reader.read(buffer) {
                Ok(0) => return Ok(Ok(())),
                Ok(n) => self.write_all(&buffer[..n]).map_err(at("write", &self.path))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    pub(crate) fn finish(self) -> Result<Staged, FileError> {
        let digest = Digest::from_bytes(self.hash.finalize().into());
        Ok(Staged { path: self.path, digest, size: self.size })
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.hash.update(&buffer[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
