//! The store, and what a reference leads to.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use neargate_model::Timestamp;
use neargate_model::image::{Digest, ImageReference};
use rustix::fs::{FlockOperation, flock};

use crate::document::{Config, DOCUMENT_BYTES_MAX, Document, HistoryStep, ImageConfig, Manifest, Platform};
use crate::error::{Damage, FileError, LayerError, OpenError, ResolveError, at};
use crate::files::{LayerFiles, OwnLayerFiles};
use crate::gc::PinFile;
use crate::layers::{self, LayerJob, Settings};
use crate::record::{self, Kind, Record};
use crate::stage::Staging;
use crate::tidy;
use crate::unpack::{Limits, Ownership};
use crate::upload::Hashes;
use crate::wasm::{self, WasmFormat};

/// How many references are remembered; a node runs fewer different images.
const CACHE_ENTRIES_MAX: usize = 512;

/// How a store unpacks.
#[derive(Clone, Debug)]
pub struct Options {
    /// What one layer may cost.
    pub limits: Limits,
    /// Whether files keep their owners; `files` must be able to give them.
    pub ownership: Ownership,
    /// The platform that images of several are chosen for.
    pub platform: Platform,
    /// Whom the store belongs to. Everybody else may have changed it.
    pub owner: u32,
    /// What looks after unpacked layers.
    pub files: Arc<dyn LayerFiles>,
}

impl Default for Options {
    /// Default limits, this machine's platform, a store of this process's user, its own rights, and owners kept when it is
    /// root.
    fn default() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let ownership = if is_root { Ownership::Preserve } else { Ownership::Caller };
        let (files, owner) = (Arc::new(OwnLayerFiles), rustix::process::geteuid().as_raw());
        Self { limits: Limits::default(), ownership, platform: Platform::host(), owner, files }
    }
}

/// Images on disk; cheap to clone, and safe to use from many threads and processes at once.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) layers: PathBuf,
    pub(crate) refs: PathBuf,
    pub(crate) pins: PathBuf,
    pub(crate) notes: PathBuf,
    pub(crate) tmp: PathBuf,
    pub(crate) held: PathBuf,
    pub(crate) uploads: PathBuf,
    pub(crate) hashes: Hashes,
    pub(crate) options: Options,
    cache: Mutex<HashMap<ImageReference, Cached>>,
    pub(crate) pinned: Mutex<HashMap<Digest, Weak<PinFile>>>,
}

#[derive(Clone, Debug)]
struct Cached {
    record: PathBuf,
    stamp: Stamp,
    image: Arc<ResolvedImage>,
    /// When its use was noted last.
    touched: Instant,
}

/// How often it is noted that an image is used.
const TOUCH_INTERVAL: Duration = Duration::from_secs(600);

/// Tells one version of a record from another: every write makes a new inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok()?;
        Some(Self { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()), size: meta.len() })
    }
}

/// What a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedImage {
    /// The image that the name stands for: a manifest, or an index of several.
    pub digest: Digest,
    /// The manifest for this machine; the same as `digest` unless that is an index.
    pub manifest: Digest,
    /// What the image says about its process; empty for a Wasm artifact, which has no such configuration.
    pub config: ImageConfig,
    /// What is run.
    pub kind: ImageKind,
    /// Whether it came from a registry, where its name may lead elsewhere by now.
    pub pulled: bool,
}

/// What a driver runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A Linux root file system.
    Oci {
        /// Unpacked layers, lowest first, in overlayfs form; never written to.
        layers: Vec<PathBuf>,
    },
    /// A WebAssembly binary.
    Wasm {
        /// The file in the store.
        path: PathBuf,
        /// Its digest, the key of its compiled code.
        digest: Digest,
        /// Core module or component.
        format: WasmFormat,
    },
}

/// One line of a list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The name.
    pub name: ImageReference,
    /// The image it stands for.
    pub digest: Digest,
    /// What it is.
    pub kind: Kind,
    /// Compressed size of configuration and layers.
    pub size_bytes: u64,
    /// When it came into the store.
    pub created: Timestamp,
}

/// All that is known about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDetail {
    /// The line of the list.
    pub summary: ImageSummary,
    /// The manifest for this machine.
    pub manifest: Digest,
    /// The platform that its configuration names; `None` for a Wasm artifact.
    pub platform: Option<Platform>,
    /// What the image says about its process.
    pub config: ImageConfig,
    /// The binary and its format, for a Wasm image.
    pub wasm: Option<(Digest, WasmFormat)>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerDetail>,
    /// How it was made, oldest step first, as its configuration tells it.
    pub history: Vec<HistoryStep>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDetail {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the uncompressed archive; `None` if the layer is no archive.
    pub diff_id: Option<Digest>,
    /// Media type.
    pub media_type: String,
    /// Size of the blob.
    pub size_bytes: u64,
}

impl ImageStore {
    /// Opens the store in `directory`, making it if it is not there, and removes what interrupted imports left.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(directory, Options::default())
    }

    /// Opens a store with limits, ownership and platform other than the defaults.
    pub fn open_with(directory: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let root = directory.as_ref();
        make_private(root)?;
        let root = fs::canonicalize(root).map_err(at("find", root))?;
        let owner = fs::metadata(&root).map_err(at("read", &root))?.uid();
        if owner != options.owner {
            return Err(OpenError::ForeignOwner { path: root, owner });
        }
        fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(at("make private", &root))?;
        let blobs = root.join("blobs/sha256");
        let [layers, refs, pins, notes, tmp] =
            ["layers", "refs", "pins", "notes", "tmp"].map(|name| root.join(name));
        let [held, uploads] = ["held", "uploads"].map(|name| root.join(name));
        for directory in [&blobs, &layers, &refs, &pins, &notes, &tmp, &held, &uploads] {
            make_private(directory)?;
        }
        Staging::sweep(&tmp, &*options.files)?;
        let (cache, pinned, hashes) = Default::default();
        let shared = Shared {
            root,
            blobs,
            layers,
            refs,
            pins,
            notes,
            tmp,
            held,
            uploads,
            hashes,
            options,
            cache,
            pinned,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What `reference` leads to; its layers are unpacked now if they are not yet.
    ///
    /// A reference with a digest leads to that image if some name of the same repository has it: knowing the
    /// digest of another repository's image gives no access to it. Keep a [`crate::Pin`] for as long as the paths are
    /// used. A second call for the same reference costs one `stat`.
    pub fn resolve(&self, reference: &ImageReference) -> Result<Arc<ResolvedImage>, ResolveError> {
        let shared = &self.shared;
        if let Some(image) = shared.cached(reference) {
            return Ok(image);
        }
        let damaged = |source| ResolveError::Damaged { name: reference.clone(), source: Box::new(source) };
        let found = shared.find(reference).map_err(damaged)?;
        let (path, _, record) = found.ok_or_else(|| ResolveError::NotFound { name: reference.clone() })?;
        let (manifest, config) = shared.read_image(record.manifest).map_err(damaged)?;
        let kind = match &record.wasm {
            Some(wasm) => {
                ImageKind::Wasm { path: shared.blob(wasm.digest), digest: wasm.digest, format: wasm.format }
            }
            None => {
                shared.unpack_missing(&manifest, &config).map_err(|e| ResolveError::layer(reference, e))?;
                ImageKind::Oci { layers: layers::stack(config.diff_ids(), &shared.layers) }
            }
        };
        let config = config
            .image_config()
            .map_err(|source| damaged(Damage::Document { digest: record.manifest, source }))?;
        let Record { digest, manifest, pulled, .. } = record;
        let image = Arc::new(ResolvedImage { digest, manifest, config, kind, pulled });
        tidy::touch(&path);
        // Of a record that was replaced since it was read nothing is remembered.
        if let (Some(stamp), Ok(Some(now))) = (Stamp::of(&path), record::read(&path))
            && (now.digest, now.manifest) == (image.digest, image.manifest)
        {
            let (image, touched) = (image.clone(), Instant::now());
            shared.remember(reference, Cached { record: path, stamp, image, touched });
        }
        Ok(image)
    }

    /// The image of layers whose manifest this is, whatever its names lead to by now; `None` if it is not complete. For who
    /// was given it before: no name stands for the right to have it.
    pub fn resolve_manifest(&self, manifest: Digest) -> Option<ResolvedImage> {
        let (document, config) = self.shared.read_image(manifest).ok()?;
        let layers = layers::stack(config.diff_ids(), &self.shared.layers);
        if wasm::is_artifact(&document) || layers.is_empty() || !layers.iter().all(|layer| layer.exists()) {
            return None;
        }
        let (config, kind) = (config.image_config().ok()?, ImageKind::Oci { layers });
        Some(ResolvedImage { digest: manifest, manifest, config, kind, pulled: true })
    }

    /// All names, sorted.
    pub fn list(&self) -> Result<Vec<ImageSummary>, Damage> {
        let records = record::read_all(&self.shared.refs)?;
        records
            .iter()
            .map(|(_, record)| Ok(self.shared.summary(record, &self.shared.read_image(record.manifest)?.0)))
            .collect()
    }

    /// All that is known about one image, without unpacking it.
    pub fn inspect(&self, reference: &ImageReference) -> Result<ImageDetail, ResolveError> {
        let damaged = |source| ResolveError::Damaged { name: reference.clone(), source: Box::new(source) };
        let found = self.shared.find(reference).map_err(damaged)?;
        let (_, _, record) = found.ok_or_else(|| ResolveError::NotFound { name: reference.clone() })?;
        let (manifest, config) = self.shared.read_image(record.manifest).map_err(damaged)?;
        let layer = |(i, layer): (usize, &crate::document::Descriptor)| LayerDetail {
            digest: layer.digest,
            diff_id: config.diff_ids().get(i).copied(),
            media_type: layer.media_type.clone(),
            size_bytes: layer.size,
        };
        let process = config.image_config();
        Ok(ImageDetail {
            summary: self.shared.summary(&record, &manifest),
            manifest: record.manifest,
            platform: Some(config.platform.clone()).filter(|p| !p.os.is_empty()),
            config: process
                .map_err(|source| damaged(Damage::Document { digest: record.manifest, source }))?,
            wasm: record.wasm.as_ref().map(|w| (w.digest, w.format)),
            layers: manifest.layers.iter().enumerate().map(layer).collect(),
            history: config.history().to_vec(),
        })
    }
}

impl Shared {
    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs.join(&hex[..2]).join(hex)
    }

    /// Locks the store until the file is dropped. Locks belong to the open file, so threads exclude each other
    /// as processes do (flock(2)).
    pub(crate) fn lock(&self, operation: FlockOperation) -> Result<File, FileError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(at("open", &path))?;
        flock(&file, operation).map_err(at("lock", &path))?;
        Ok(file)
    }

    pub(crate) fn settings(&self) -> Settings {
        let Options { limits, ownership, files, .. } = &self.options;
        Settings { limits: *limits, ownership: *ownership, files: files.clone() }
    }

    /// A directory for the unfinished files of an operation.
    pub(crate) fn staging(&self) -> Result<Staging, FileError> {
        Staging::new(&self.tmp, self.options.files.clone())
    }

    /// Writes all that is dirty on the store's file system to disk: one call instead of an fsync for each file.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        let root = File::open(&self.root).map_err(at("open", &self.root))?;
        rustix::fs::syncfs(&root).map_err(at("sync", &self.root))
    }

    /// A manifest or index of the store.
    pub(crate) fn read_document(&self, digest: Digest) -> Result<Document, Damage> {
        let bytes = self.read_blob(digest)?;
        Document::parse(&bytes, None).map_err(|source| Damage::Document { digest, source })
    }

    pub(crate) fn read_blob(&self, digest: Digest) -> Result<Vec<u8>, Damage> {
        let path = self.blob(digest);
        let size = fs::metadata(&path).map_err(at("read", &path))?.len();
        if size > DOCUMENT_BYTES_MAX {
            let source = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
            return Err(at("read", &path)(source).into());
        }
        Ok(fs::read(&path).map_err(at("read", &path))?)
    }

    /// Manifest and configuration; that of a Wasm artifact is empty.
    pub(crate) fn read_image(&self, digest: Digest) -> Result<(Manifest, Config), Damage> {
        let Document::Manifest(manifest) = self.read_document(digest)? else {
            return Err(Damage::Document { digest, source: crate::document::DocumentError::Confused });
        };
        if wasm::is_artifact(&manifest) {
            return Ok((*manifest, Config::default()));
        }
        let bytes = self.read_blob(manifest.config.digest)?;
        let config = Config::parse(&bytes, manifest.layers.len());
        let config = config.map_err(|source| Damage::Document { digest: manifest.config.digest, source })?;
        Ok((*manifest, config))
    }

    fn summary(&self, record: &Record, manifest: &Manifest) -> ImageSummary {
        let layers = manifest.layers.iter().map(|l| l.size);
        ImageSummary {
            name: record.name.clone(),
            digest: record.digest,
            kind: record.kind(),
            size_bytes: layers.fold(manifest.config.size, u64::saturating_add),
            created: record.imported,
        }
    }

    /// The record for a reference.
    pub(crate) fn record(&self, reference: &ImageReference) -> Result<Option<Record>, Damage> {
        Ok(self.find(reference)?.map(|(_, _, record)| record))
    }

    /// The record for a reference, its file, and the file's stamp from before it was read.
    fn find(&self, reference: &ImageReference) -> Result<Option<(PathBuf, Stamp, Record)>, Damage> {
        let path = record::path(&self.refs, reference);
        if let Some(stamp) = Stamp::of(&path)
            && let Some(record) = record::read(&path)?
        {
            if &record.name != reference {
                return Err(Damage::WrongRecord { path, found: record.name.canonical() });
            }
            return Ok(Some((path, stamp, record)));
        }
        let Some(digest) = reference.digest() else { return Ok(None) };
        let is_same = |r: &Record| {
            (r.digest == digest || r.manifest == digest)
                && (r.name.registry(), r.name.repository()) == (reference.registry(), reference.repository())
        };
        let found = record::read_all(&self.refs)?.into_iter().find(|(_, r)| is_same(r));
        Ok(found.and_then(|(path, record)| Stamp::of(&path).map(|stamp| (path, stamp, record))))
    }

    pub(crate) fn cached(&self, reference: &ImageReference) -> Option<Arc<ResolvedImage>> {
        let cached = self.cache.lock().unwrap_or_else(|e| e.into_inner()).get(reference).cloned()?;
        let is_current =
            cached.touched.elapsed() < TOUCH_INTERVAL && Stamp::of(&cached.record) == Some(cached.stamp);
        is_current.then_some(cached.image)
    }

    fn remember(&self, reference: &ImageReference, cached: Cached) {
        let mut cache = self.cache.lock().unwrap_or_else(|e| e.into_inner());
        if cache.len() >= CACHE_ENTRIES_MAX && !cache.contains_key(reference) {
            let victim = cache.keys().next().cloned();
            victim.and_then(|victim| cache.remove(&victim));
        }
        cache.insert(reference.clone(), cached);
    }

    /// Unpacks the layers that have no directory.
    fn unpack_missing(&self, manifest: &Manifest, config: &Config) -> Result<(), LayerError> {
        let is_missing = |job: &LayerJob| !self.layers.join(job.diff_id.hex()).exists();
        let all = || {
            manifest.layers.iter().zip(config.diff_ids()).map(|(layer, diff_id)| LayerJob {
                blob: self.blob(layer.digest),
                digest: layer.digest,
                diff_id: *diff_id,
            })
        };
        let mut jobs: Vec<LayerJob> = all().filter(is_missing).collect();
        if jobs.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(FlockOperation::LockShared)?;
        // Whoever else needs one of these layers waits for us; all take the locks in the same order.
        jobs.sort_by_key(|job| job.digest);
        jobs.dedup_by_key(|job| job.diff_id);
        let mut locks = Vec::new();
        for path in jobs.iter().map(|job| &job.blob) {
            let blob = File::open(path).map_err(at("open", path))?;
            flock(blob.as_fd(), FlockOperation::LockExclusive).map_err(at("lock", path))?;
            locks.push(blob);
        }
        jobs.retain(is_missing);
        let staging = self.staging()?;
        let prepared = layers::prepare(jobs, &self.layers, &staging, &self.settings())?;
        if !prepared.is_empty() {
            self.sync()?;
        }
        layers::install(&prepared, &self.layers, &*self.options.files)
    }
}

fn make_private(path: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create", path))
}
