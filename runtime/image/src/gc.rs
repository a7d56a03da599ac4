//! What keeps images, and what removes them: names, pins, and the collection of the rest.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use neargate_model::image::{Digest, ImageReference};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::document::{DOCUMENT_BYTES_MAX, Document};
use crate::error::{Damage, FileError, PinError, RemoveError, at};
use crate::record;
use crate::store::{ImageKind, ImageStore, ResolvedImage, Shared};

/// Keeps an image in the store while it lives, also after its name is gone and against other processes. The
/// kernel drops it with the process.
#[derive(Clone, Debug)]
pub struct Pin {
    _files: Arc<[Arc<PinFile>]>,
}

/// A shared lock on the pin file of one blob.
#[derive(Debug)]
pub(crate) struct PinFile(#[allow(dead_code, reason = "the open file is the lock")] File);

/// What a collection gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Blobs that were removed.
    pub blobs: u64,
    /// Unpacked layers that were removed.
    pub layers: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// A name that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The name.
    pub name: ImageReference,
    /// The image that it stood for.
    pub digest: Digest,
    /// What was given back; `None` while an import is under way, which the next removal makes up for.
    pub reclaimed: Option<Reclaimed>,
}

impl ImageStore {
    /// Keeps what `image` needs until the pin is dropped. Pin after resolving and before using the paths; if the
    /// image was removed in between, resolve again.
    pub fn pin(&self, image: &ResolvedImage) -> Result<Pin, PinError> {
        let mut pinned = self.shared.pinned.lock().unwrap_or_else(|e| e.into_inner());
        self.pin_under(FlockOperation::LockShared, image, &mut pinned)
    }

    /// What a reference leads to, pinned, if it was resolved before and nobody has to be waited for: one `stat`, and some
    /// ten system calls more for the first of several pins.
    pub fn resolve_known(&self, reference: &ImageReference) -> Option<(Arc<ResolvedImage>, Pin)> {
        let image = self.shared.cached(reference)?;
        // Whoever holds it may wait for a collection.
        let mut pinned = self.shared.pinned.try_lock().ok()?;
        let pin = self.pin_under(FlockOperation::NonBlockingLockShared, &image, &mut pinned).ok()?;
        drop(pinned);
        Some((image, pin))
    }

    fn pin_under(
        &self,
        operation: FlockOperation,
        image: &ResolvedImage,
        pinned: &mut HashMap<Digest, Weak<PinFile>>,
    ) -> Result<Pin, PinError> {
        let mut digests = vec![image.manifest, image.digest];
        if let ImageKind::Wasm { digest, .. } = &image.kind {
            digests.push(*digest);
        }
        digests.dedup();
        let shared = &self.shared;
        let live: Vec<_> = digests.iter().filter_map(|d| pinned.get(d).and_then(Weak::upgrade)).collect();
        if live.len() == digests.len() {
            return Ok(Pin { _files: live.into() });
        }
        // No collection is under way while the lock is held, so what is there stays.
        let _lock = shared.lock(operation)?;
        let is_there = digests.iter().all(|d| shared.blob(*d).exists());
        let has_layers = match &image.kind {
            ImageKind::Oci { layers } => layers.iter().all(|l| l.exists()),
            ImageKind::Wasm { .. } => true,
        };
        if !is_there || !has_layers {
            return Err(PinError::NotFound { digest: image.digest });
        }
        let mut files = Vec::new();
        for digest in digests {
            let file = Arc::new(shared.pin_file(digest)?);
            pinned.insert(digest, Arc::downgrade(&file));
            files.push(file);
        }
        pinned.retain(|_, file| file.strong_count() > 0);
        Ok(Pin { _files: files.into() })
    }

    /// Removes a name, and whatever no other name and no pin needs.
    pub fn remove(&self, reference: &ImageReference) -> Result<Removed, RemoveError> {
        let path = record::path(&self.shared.refs, reference);
        let not_found = || RemoveError::NotFound { name: reference.clone() };
        let record = record::read(&path)?.ok_or_else(not_found)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(not_found()),
            removed => removed.map_err(at("remove", &path))?,
        }
        neargate_failpoint::reach("image::name::after");
        record::sync_directory(&self.shared.refs)?;
        let reclaimed = self.try_prune()?;
        tracing::info!(image = %reference, digest = %record.digest, ?reclaimed, "image removed");
        Ok(Removed { name: record.name, digest: record.digest, reclaimed })
    }

    /// Removes whatever no name and no pin needs, after waiting for imports that are under way.
    pub fn prune(&self) -> Result<Reclaimed, RemoveError> {
        let lock = self.shared.lock(FlockOperation::LockExclusive)?;
        self.shared.collect(&lock)
    }
}

impl ImageStore {
    /// As [`ImageStore::prune`], but waits for nobody: `None` while an import is under way.
    pub fn try_prune(&self) -> Result<Option<Reclaimed>, RemoveError> {
        match self.shared.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => self.shared.collect(&lock).map(Some),
            Err(error) if error.source.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error()) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Shared {
    fn pin_file(&self, digest: Digest) -> Result<PinFile, FileError> {
        let path = self.pins.join(digest.hex());
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(at("open", &path))?;
        flock(&file, FlockOperation::LockShared).map_err(at("lock", &path))?;
        Ok(PinFile(file))
    }

    /// Marks what names and pins need, and removes the rest. Nothing is removed if that cannot be told.
    pub(crate) fn collect(&self, _lock: &File) -> Result<Reclaimed, RemoveError> {
        let mut used = Used::default();
        for (_, record) in record::read_all(&self.refs)? {
            used.blobs.extend(record.wasm.map(|w| w.digest));
            self.mark(record.digest, &mut used)?;
            self.mark(record.manifest, &mut used)?;
        }
        for digest in self.live_pins()? {
            self.mark(digest, &mut used)?;
        }
        for digest in self.all_held()? {
            used.layers.extend(self.layers_of_held(digest));
            used.blobs.insert(digest);
        }
        let mut reclaimed = Reclaimed::default();
        self.sweep_layers(&used, &mut reclaimed)?;
        self.sweep_blobs(&used, &mut reclaimed)?;
        for note in children(&self.notes)? {
            if digest_of(&note).is_none_or(|digest| !used.blobs.contains(&digest)) {
                fs::remove_file(&note).map_err(at("remove", &note))?;
            }
        }
        Ok(reclaimed)
    }

    /// Marks a blob and, if it is an index or a manifest, what it leads to.
    fn mark(&self, digest: Digest, used: &mut Used) -> Result<(), Damage> {
        if !used.blobs.insert(digest) {
            return Ok(());
        }
        let path = self.blob(digest);
        let Ok(meta) = fs::metadata(&path) else { return Ok(()) };
        let mut head = [0];
        let is_json =
            File::open(&path).and_then(|mut f| std::io::Read::read(&mut f, &mut head)).is_ok_and(|n| n == 1)
                && head == *b"{";
        if !is_json || meta.len() > DOCUMENT_BYTES_MAX {
            return Ok(());
        }
        match self.read_document(digest)? {
            // Only one manifest of an index is in the store, and a name or a pin marks it by itself.
            Document::Index(manifests) => {
                for manifest in manifests.iter().filter(|m| self.blob(m.digest).exists()) {
                    self.mark(manifest.digest, used)?;
                }
            }
            Document::Manifest(_) => {
                let (manifest, config) = self.read_image(digest)?;
                used.blobs.insert(manifest.config.digest);
                used.blobs.extend(manifest.layers.iter().map(|l| l.digest));
                used.layers.extend(config.diff_ids().iter().map(Digest::hex));
            }
        }
        Ok(())
    }

    /// Blobs that somebody holds a pin of; files of pins that nobody holds are removed.
    pub(crate) fn live_pins(&self) -> Result<Vec<Digest>, FileError> {
        let mut live = Vec::new();
        for path in children(&self.pins)? {
            let Some(digest) = digest_of(&path) else { continue };
            let file = File::open(&path).map_err(at("open", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => fs::remove_file(&path).map_err(at("remove", &path))?,
                Err(Errno::WOULDBLOCK) => live.push(digest),
                Err(error) => return Err(at("lock", &path)(error)),
            }
        }
        Ok(live)
    }

    fn sweep_layers(&self, used: &Used, reclaimed: &mut Reclaimed) -> Result<(), FileError> {
        let (trash, files) = (self.staging()?, &self.options.files);
        for path in children(&self.layers)? {
            if path.file_name().and_then(OsStr::to_str).is_some_and(|hex| used.layers.contains(hex)) {
                continue;
            }
            // It leaves its place in one step, so that no half layer is ever found there.
            let doomed = trash.fresh();
            files.rename(&path, &doomed).map_err(at("remove", &path))?;
            neargate_failpoint::reach("image::collect::layer");
            reclaimed.bytes += files.size(&doomed).map_err(at("measure", &doomed))?;
            reclaimed.layers += 1;
            files.remove(&doomed).map_err(at("remove", &doomed))?;
        }
        Ok(())
    }

    fn sweep_blobs(&self, used: &Used, reclaimed: &mut Reclaimed) -> Result<(), FileError> {
        for directory in children(&self.blobs)? {
            for path in children(&directory)? {
                if digest_of(&path).is_some_and(|digest| used.blobs.contains(&digest)) {
                    continue;
                }
                reclaimed.bytes += fs::metadata(&path).map_or(0, |m| m.len());
                reclaimed.blobs += 1;
                fs::remove_file(&path).map_err(at("remove", &path))?;
                neargate_failpoint::reach("image::collect::blob");
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Used {
    blobs: HashSet<Digest>,
    layers: HashSet<String>,
}

fn children(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = fs::read_dir(directory).map_err(at("read", directory))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(at("read", directory))).collect()
}

fn digest_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}
