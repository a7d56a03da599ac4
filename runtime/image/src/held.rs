//! Blobs that are kept for somebody without a name: those of a registry's repositories.
//!
//! ```text
//! held/<holder>/<hex>    an empty file: the holder has this blob; its time is when the holder was last told so
//! ```
//!
//! Whether a blob is in the store says nothing about who may read it: a holder has what was brought for it or handed to
//! it, and nothing else. That is a file beside the blobs and no record elsewhere, so that whoever collects garbage, in
//! whichever process, knows what is needed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use neargate_model::image::{Digest, ImageReference};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use crate::document::Document;
use crate::error::{FileError, ImportError, ResolveError, at};
use crate::record::sync_directory;
use crate::stage::Staged;
use crate::store::{ImageStore, Shared};

/// How long ago a holder was told of a blob for it to be worth telling anew.
const RENEWED_AFTER: Duration = Duration::from_secs(10 * 60);

/// Somebody who has blobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder(String);

impl Holder {
    /// The holder with this name, of whatever parts: no two lists of parts are the same holder.
    pub fn named(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(Digest::from_bytes(hash.finalize().into()).hex())
    }

    /// A name for a directory: 64 hexadecimal digits.
    pub(crate) fn directory(&self) -> &str {
        &self.0
    }
}

/// A blob that a holder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which one.
    pub digest: Digest,
    /// When the holder was last told that it has it.
    pub since: SystemTime,
}

impl ImageStore {
    /// Puts a small blob into the store for a holder, durably.
    pub fn put_held(&self, holder: &Holder, bytes: &[u8]) -> Result<Digest, ImportError> {
        let shared = &self.shared;
        let staging = shared.staging()?;
        let staged = staging.write(bytes)?;
        File::open(&staged.path).and_then(|file| file.sync_all()).map_err(at("sync", &staged.path))?;
        shared.install_held(holder, &staged)?;
        Ok(staged.digest)
    }

    /// The size of a blob, in bytes, if the holder has it.
    pub fn held_size(&self, holder: &Holder, digest: Digest) -> Result<Option<u64>, FileError> {
        Ok(self.open_held(holder, digest)?.map(|(_, size)| size))
    }

    /// A blob and its size in bytes, if the holder has it.
    pub fn open_held(&self, holder: &Holder, digest: Digest) -> Result<Option<(File, u64)>, FileError> {
        let mark = self.shared.mark_path(holder, digest);
        if !mark.try_exists().map_err(at("look for", &mark))? {
            return Ok(None);
        }
        let path = self.shared.blob(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(at("open", &path))?,
        };
        let size = file.metadata().map_err(at("read", &path))?.len();
        Ok(Some((file, size)))
    }

    /// Hands a blob that one holder has to another one, or tells a holder anew that it has it; `false` if `from` does not.
    pub fn hand_over(&self, from: &Holder, to: &Holder, digest: Digest) -> Result<bool, FileError> {
        let shared = &self.shared;
        // Nothing is collected meanwhile.
        let _lock = shared.lock(FlockOperation::LockShared)?;
        if self.held_size(from, digest)?.is_none() {
            return Ok(false);
        }
        shared.hold(to, digest)?;
        Ok(true)
    }

    /// Gives a holder all blobs of the image that has a name, and answers its manifest: of an image for several platforms,
    /// the one that is here.
    pub fn give(&self, name: &ImageReference, holder: &Holder) -> Result<Vec<u8>, ResolveError> {
        let shared = &self.shared;
        // Nothing is collected meanwhile.
        let _lock = shared.lock(FlockOperation::LockShared)?;
        let damaged = |source| ResolveError::Damaged { name: name.clone(), source: Box::new(source) };
        let found = shared.record(name).map_err(damaged)?;
        let record = found.ok_or_else(|| ResolveError::NotFound { name: name.clone() })?;
        let (manifest, _) = shared.read_image(record.manifest).map_err(damaged)?;
        let parts = manifest.layers.iter().map(|layer| layer.digest);
        for digest in parts.chain([manifest.config.digest, record.manifest]) {
            let path = shared.blob(digest);
            fs::metadata(&path).map_err(|error| damaged(at("read", &path)(error).into()))?;
            shared.hold(holder, digest)?;
        }
        shared.read_blob(record.manifest).map_err(damaged)
    }

    /// Tells a holder anew that it has a blob, if it has it and was told long ago: it will not be let go for a while.
    pub fn renew(&self, holder: &Holder, digest: Digest) -> Result<(), FileError> {
        let path = self.shared.mark_path(holder, digest);
        let Ok(since) = fs::metadata(&path).and_then(|meta| meta.modified()) else { return Ok(()) };
        if since.elapsed().is_ok_and(|age| age > RENEWED_AFTER) {
            let renewed = File::options().append(true).open(&path);
            // It may have been released just now.
            let Ok(file) = renewed else { return Ok(()) };
            file.set_modified(SystemTime::now()).map_err(at("touch", &path))?;
        }
        Ok(())
    }

    /// Takes a blob from a holder; `false` if it does not have it. The bytes go with the next collection if nobody else
    /// needs them.
    pub fn release(&self, holder: &Holder, digest: Digest) -> Result<bool, FileError> {
        let path = self.shared.mark_path(holder, digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true).map_err(at("remove", &path)),
        }
    }

    /// All that a holder has.
    pub fn held(&self, holder: &Holder) -> Result<Vec<Held>, FileError> {
        let directory = self.shared.held.join(holder.directory());
        let mut held = Vec::new();
        for path in entries(&directory)? {
            let Some(digest) = digest_of(&path) else { continue };
            // It may have been released since the directory was read.
            let Ok(since) = fs::metadata(&path).and_then(|meta| meta.modified()) else { continue };
            held.push(Held { digest, since });
        }
        Ok(held)
    }

    /// Everybody who has or had something.
    pub fn holders(&self) -> Result<Vec<Holder>, FileError> {
        let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Ok(entries(&self.shared.held)?.into_iter().filter_map(name).map(Holder).collect())
    }

    /// Takes everything from a holder that nobody will ask for again, what it is being sent included.
    pub fn dismiss(&self, holder: &Holder) -> Result<(), FileError> {
        for parent in [&self.shared.uploads, &self.shared.held] {
            let directory = parent.join(holder.directory());
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(at("remove", &directory))?,
            }
        }
        Ok(())
    }
}

impl Shared {
    fn mark_path(&self, holder: &Holder, digest: Digest) -> PathBuf {
        self.held.join(holder.directory()).join(digest.hex())
    }

    /// Moves a complete, synced file to its place and gives it to a holder, durably.
    pub(crate) fn install_held(&self, holder: &Holder, staged: &Staged) -> Result<(), ImportError> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        self.install_blobs(std::slice::from_ref(staged))?;
        Ok(self.hold(holder, staged.digest)?)
    }

    /// Writes down that a holder has a blob that is there; the store's lock is held.
    fn hold(&self, holder: &Holder, digest: Digest) -> Result<(), FileError> {
        let path = self.mark_path(holder, digest);
        let directory = self.held.join(holder.directory());
        match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(at("create", &directory)(error));
            }
            Err(_) => {}
            Ok(()) => sync_directory(&self.held)?,
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(at("create", &path))?;
        file.set_modified(SystemTime::now()).map_err(at("touch", &path))?;
        sync_directory(&directory)
    }

    /// Every blob that some holder has.
    pub(crate) fn all_held(&self) -> Result<Vec<Digest>, FileError> {
        let mut held = Vec::new();
        for directory in entries(&self.held)? {
            held.extend(entries(&directory)?.iter().filter_map(|path| digest_of(path)));
        }
        Ok(held)
    }

    /// Names of the unpacked layers of a manifest, as far as it is one that runs here: kept so that a task of an image
    /// that is held finds them.
    pub(crate) fn layers_of_held(&self, digest: Digest) -> Vec<String> {
        let mut head = [0];
        let is_json =
            File::open(self.blob(digest)).and_then(|mut file| file.read(&mut head)).is_ok_and(|n| n == 1)
                && head == *b"{";
        if !is_json || !matches!(self.read_document(digest), Ok(Document::Manifest(_))) {
            return Vec::new();
        }
        let config = self.read_image(digest).map(|(_, config)| config).unwrap_or_default();
        config.diff_ids().iter().map(Digest::hex).collect()
    }
}

/// What is in a directory; nothing if there is none.
pub(crate) fn entries(directory: &std::path::Path) -> Result<Vec<PathBuf>, FileError> {
    let read = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(at("read", directory))?,
    };
    read.map(|entry| entry.map(|entry| entry.path()).map_err(at("read", directory))).collect()
}

fn digest_of(path: &std::path::Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}
