//! Blobs that somebody sends piece by piece.
//!
//! ```text
//! uploads/<holder>/<id>    what has come so far, locked while it is written to
//! ```
//!
//! An upload belongs to a holder and is found only by it. What has come stays when the process is killed, and whoever
//! goes on is told how much that is. The digest is worked out on the way; after a restart, from the file.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use neargate_model::image::Digest;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::error::{FileError, ImportError, at, is_no_space};
use crate::held::{Holder, entries};
use crate::stage::Staged;
use crate::store::{ImageStore, Shared};

/// The largest blob: what one layer may unpack to, so that none is taken that could never be used.
pub const BLOB_BYTES_MAX: u64 = 32 << 30;
/// How many uploads of one holder may be under way; a client sends a few at once.
pub const UPLOADS_MAX: usize = 256;
/// Characters of an id: a UUID with hyphens.
const ID_LEN: usize = 36;
/// Uploads whose digest so far is remembered; others are read again.
const HASHES_MAX: usize = 1024;
const READ_BYTES: usize = 256 << 10;

/// Digests of what has come so far, by file, with its length.
pub(crate) type Hashes = Mutex<HashMap<PathBuf, (Sha256, u64)>>;

/// Why something that was sent was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// There is no such upload of this holder.
    #[error("there is no such upload; it may have ended")]
    NotFound,
    /// Somebody is sending a piece of it just now.
    #[error("another piece of this upload is being received")]
    Busy,
    /// Too many are under way.
    #[error("more than {UPLOADS_MAX} uploads are under way; finish or cancel some")]
    TooMany,
    /// It is over [`BLOB_BYTES_MAX`].
    #[error("a blob has at most {BLOB_BYTES_MAX} bytes")]
    TooLarge,
    /// What has come is not what it was said to be. Nothing of it is kept.
    #[error("the content has the digest {actual}, not {expected}")]
    WrongDigest {
        /// What it was said to be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// The file system or the quota is full.
    #[error("no space left for {}; free some space, or remove images", path.display())]
    NoSpace {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// The blob could not be put into the store.
    #[error(transparent)]
    Install(ImportError),
    /// A file could not be read or written.
    #[error(transparent)]
    File(FileError),
}

impl From<FileError> for UploadError {
    fn from(error: FileError) -> Self {
        if is_no_space(&error.source) { Self::NoSpace { path: error.path } } else { Self::File(error) }
    }
}

impl From<ImportError> for UploadError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::NoSpace { path } => Self::NoSpace { path },
            ImportError::File(error) => error.into(),
            other => Self::Install(other),
        }
    }
}

/// An upload that nobody else can write to while this lives. It goes on when this is dropped.
#[derive(Debug)]
pub struct Upload {
    shared: Arc<Shared>,
    holder: Holder,
    path: PathBuf,
    file: File,
    hash: Sha256,
    size: u64,
}

impl ImageStore {
    /// Begins an upload with this id: a UUID of the caller's, by which it is found again.
    pub fn begin_upload(&self, holder: &Holder, id: &str) -> Result<Upload, UploadError> {
        let shared = &self.shared;
        let path = shared.upload_path(holder, id).ok_or(UploadError::NotFound)?;
        let directory = shared.uploads.join(holder.directory());
        loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at("create", &directory)(error).into());
                }
                _ => {}
            }
            if entries(&directory)?.len() >= UPLOADS_MAX {
                return Err(UploadError::TooMany);
            }
            match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
                // The directory was empty, and was removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => {
                    made.map_err(at("create", &path))?;
                    return self.open_upload(holder, id);
                }
            }
        }
    }

    /// Goes on with an upload of this holder.
    pub fn open_upload(&self, holder: &Holder, id: &str) -> Result<Upload, UploadError> {
        let path = self.shared.upload_path(holder, id).ok_or(UploadError::NotFound)?;
        let file = match OpenOptions::new().append(true).read(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(UploadError::NotFound),
            opened => opened.map_err(at("open", &path))?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(UploadError::Busy),
            locked => locked.map_err(at("lock", &path))?,
        }
        // It may have been finished between opening and locking.
        if !path.exists() {
            return Err(UploadError::NotFound);
        }
        let size = file.metadata().map_err(at("read", &path))?.len();
        let known = self.shared.hashes().remove(&path).filter(|(_, length)| *length == size);
        let hash = match known {
            Some((hash, _)) => hash,
            None => hash_file(&path)?,
        };
        Ok(Upload { shared: self.shared.clone(), holder: holder.clone(), path, file, hash, size })
    }

    /// How many bytes of an upload have come, also while more are coming; `None` if this holder has no such upload.
    pub fn upload_size(&self, holder: &Holder, id: &str) -> Result<Option<u64>, UploadError> {
        let Some(path) = self.shared.upload_path(holder, id) else { return Ok(None) };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(Some(found.map_err(at("read", &path))?.len())),
        }
    }

    /// Removes uploads to which nothing was added for so long, and tells how many there were.
    pub fn expire_uploads(&self, after: Duration) -> Result<usize, FileError> {
        let now = SystemTime::now();
        let mut expired = 0;
        for directory in entries(&self.shared.uploads)? {
            for path in entries(&directory)? {
                let Ok(changed) = fs::metadata(&path).and_then(|meta| meta.modified()) else { continue };
                let Ok(file) = File::open(&path) else { continue };
                let is_old = now.duration_since(changed).is_ok_and(|age| age > after);
                if is_old && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    fs::remove_file(&path).map_err(at("remove", &path))?;
                    self.shared.hashes().remove(&path);
                    expired += 1;
                }
            }
            // One that is empty goes; the next upload makes it again.
            let _ = fs::remove_dir(&directory);
        }
        Ok(expired)
    }
}

impl Upload {
    /// Bytes that have come.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds the next bytes.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        if self.size + bytes.len() as u64 > BLOB_BYTES_MAX {
            return Err(UploadError::TooLarge);
        }
        if let Err(error) = self.file.write_all(bytes) {
            // What was written of it is not in the digest.
            let _ = self.file.set_len(self.size);
            return Err(at("write", &self.path)(error).into());
        }
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Puts the blob into the store, durably, if it has this digest; else nothing is left of it. Tells its size.
    pub fn finish(mut self, expected: Digest) -> Result<u64, UploadError> {
        let hash = std::mem::take(&mut self.hash);
        let actual = Digest::from_bytes(hash.finalize().into());
        if actual != expected {
            self.remove()?;
            return Err(UploadError::WrongDigest { expected, actual });
        }
        self.file.sync_all().map_err(at("sync", &self.path))?;
        let staged = Staged { path: self.path.clone(), digest: actual, size: self.size };
        self.shared.install_held(&self.holder, &staged)?;
        // It stays where the blob was there already.
        self.remove()?;
        Ok(self.size)
    }

    /// Ends the upload; nothing is left of it.
    pub fn cancel(mut self) -> Result<(), UploadError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), UploadError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(at("remove", &self.path)(error).into())
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.path.exists() {
            return;
        }
        let mut hashes = self.shared.hashes();
        if hashes.len() >= HASHES_MAX {
            hashes.clear();
        }
        hashes.insert(self.path.clone(), (std::mem::take(&mut self.hash), self.size));
    }
}

impl Shared {
    /// `None` for an id that none of ours can be.
    fn upload_path(&self, holder: &Holder, id: &str) -> Option<PathBuf> {
        let is_id = id.len() == ID_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        is_id.then(|| self.uploads.join(holder.directory()).join(id))
    }

    fn hashes(&self) -> MutexGuard<'_, HashMap<PathBuf, (Sha256, u64)>> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash_file(path: &Path) -> Result<Sha256, FileError> {
    let mut file = File::open(path).map_err(at("open", path))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(at("read", path))? {
            0 => return Ok(hash),
            n => hash.update(&buffer[..n]),
        }
    }
}
