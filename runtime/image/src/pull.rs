//! An image that comes from a registry, piece by piece, and is unpacked on the way.
//!
//! Nothing here speaks to a registry: whoever does hands in documents, fills the files of layers, and commits.
//!
//! ```text
//! begin_pull ─▶ document* ─▶ config ─▶ layers ──▶ reuse | receive (one for each, side by side) ─▶ commit
//! ```
//!
//! Until the commit everything is in a staging directory, which goes with the [`Pull`] or with the process.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use neargate_model::image::{Digest, ImageReference};
use sha2::{Digest as _, Sha256};

use crate::commit::{Beforehand, Bundle, Imported};
use crate::document::{self, Config, Descriptor, Document, Manifest, Platform};
use crate::error::{ImportError, LayerError, at};
use crate::growing::{Growing, GrowingWriter};
use crate::layers::Prepared;
use crate::note;
use crate::stage::{Staged, Staging};
use crate::store::{ImageStore, Shared};
use crate::unpack::{UnpackError, Unpacked};
use crate::wasm;

/// An index may lead to another index; no deeper.
const INDEX_DEPTH_MAX: usize = 3;
/// The largest layer of a registry, compressed: what the largest public images have, several times over.
const LAYER_BYTES_MAX: u64 = 64 << 30;
/// Read from the growing file, hashed and handed to the unpacker at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// The pipe to the unpacker, so that neither waits for the other's every piece; the most that pipe(7) gives to anybody.
const PIPE_BYTES: usize = 1 << 20;

/// What one document says about a blob that is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is.
    pub media_type: String,
}

impl From<&Descriptor> for BlobRef {
    fn from(descriptor: &Descriptor) -> Self {
        let Descriptor { digest, size, media_type, .. } = descriptor;
        Self { digest: *digest, size: *size, media_type: media_type.clone() }
    }
}

/// What a pull needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The manifest or index that was chosen from an index.
    Document(BlobRef),
    /// The configuration of the image.
    Config(BlobRef),
}

/// A layer that the image needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullLayer {
    /// The blob.
    pub blob: BlobRef,
    /// What it unpacks to; `None` if it is no archive, or the file in it is all that is wanted.
    diff_id: Option<Digest>,
    /// Whether the store has it, and the registry of the reference has handed it out before.
    pub is_here: bool,
}

/// An image on its way into the store. Dropping it removes what there is of it.
#[derive(Debug)]
pub struct Pull {
    shared: Arc<Shared>,
    staging: Staging,
    name: ImageReference,
    platform: Platform,
    indexes: Vec<Staged>,
    manifest: Option<(Staged, Manifest)>,
    config: Option<Staged>,
    received: Mutex<Received>,
}

#[derive(Debug, Default)]
struct Received {
    blobs: HashMap<Digest, Staged>,
    prepared: Vec<Prepared>,
    /// Layers whose content was seen to unpack to their diffID.
    verified: HashSet<(Digest, Digest)>,
}

impl ImageStore {
    /// Begins to put an image together that a registry has under `name`, for `platform` or else for the store's.
    pub fn begin_pull(&self, name: ImageReference, platform: Option<Platform>) -> Result<Pull, ImportError> {
        let shared = self.shared.clone();
        let staging = shared.staging()?;
        let platform = platform.unwrap_or_else(|| shared.options.platform.clone());
        let (indexes, manifest, config, received) = Default::default();
        Ok(Pull { shared, staging, name, platform, indexes, manifest, config, received })
    }
}

impl Pull {
    /// Takes the document that the reference or the last [`Next::Document`] leads to. Its digest was compared with what
    /// named it by the caller for the first, and is compared here for the others.
    pub fn document(
        &mut self,
        bytes: &[u8],
        media_type: Option<&str>,
        expected: Option<&BlobRef>,
    ) -> Result<Next, ImportError> {
        let staged = self.stage(bytes, expected)?;
        let member = format!("blob {}", staged.digest);
        let wrong = |source| ImportError::Document { member: member.clone(), source };
        match Document::parse(bytes, media_type).map_err(wrong)? {
            Document::Index(manifests) => {
                if self.indexes.len() == INDEX_DEPTH_MAX {
                    let limit = INDEX_DEPTH_MAX as u64;
                    return Err(ImportError::TooLarge { what: "nested indexes", limit });
                }
                self.indexes.push(staged);
                Ok(Next::Document(document::select(&manifests, &self.platform)?.into()))
            }
            Document::Manifest(manifest) => {
                if manifest.layers.iter().any(|layer| layer.size > LAYER_BYTES_MAX) {
                    return Err(ImportError::TooLarge { what: "bytes in a layer", limit: LAYER_BYTES_MAX });
                }
                let config = Next::Config((&manifest.config).into());
                self.manifest = Some((staged, *manifest));
                Ok(config)
            }
        }
    }

    /// Takes the configuration, and says which layers are needed, each once.
    pub fn config(&mut self, bytes: &[u8]) -> Result<Vec<PullLayer>, ImportError> {
        let Some((_, manifest)) = &self.manifest else { return Err(self.incomplete("manifest")) };
        let manifest = manifest.clone();
        let staged = self.stage(bytes, Some(&(&manifest.config).into()))?;
        let member = format!("configuration {}", staged.digest);
        self.config = Some(staged);
        let mut diff_ids: Vec<Option<Digest>> = vec![None; manifest.layers.len()];
        if !wasm::is_artifact(&manifest) && !wasm::is_spin(&manifest.config.media_type) {
            let wrong = |source| ImportError::Document { member: member.clone(), source };
            let config = Config::parse(bytes, manifest.layers.len()).map_err(wrong)?;
            config.check_platform(&self.platform)?;
            let process = config.image_config().map_err(wrong)?;
            let program = process.entrypoint.first().or(process.cmd.first());
            // Of an image whose program is Wasm only that file is taken, out of the whole layers.
            if !program.is_some_and(|program| program.ends_with(".wasm")) {
                diff_ids = config.diff_ids().iter().copied().map(Some).collect();
            }
        }
        let mut seen = HashSet::new();
        let layers = manifest.layers.iter().zip(diff_ids);
        let layers = layers.filter(|(layer, _)| seen.insert(layer.digest));
        Ok(layers.map(|(layer, diff_id)| self.plan(layer.into(), diff_id)).collect())
    }

    fn plan(&self, blob: BlobRef, diff_id: Option<Digest>) -> PullLayer {
        let mut layer = PullLayer { blob, diff_id, is_here: false };
        self.look(&mut layer);
        layer
    }

    /// Looks whether a layer is here by now: somebody else may have brought it.
    pub fn look(&self, layer: &mut PullLayer) {
        let blob = &layer.blob;
        let note = note::read(&self.shared.notes, blob.digest);
        let is_known = note.registries.iter().any(|known| known == self.name.registry());
        let is_whole = || fs::metadata(self.shared.blob(blob.digest)).is_ok_and(|m| m.len() == blob.size);
        layer.is_here = is_known && is_whole();
    }

    /// Takes a layer that the store has. False if it has it no longer: then it must be fetched.
    ///
    /// The caller has asked the registry whether it gives the blob to whoever pulls.
    pub fn reuse(&self, layer: &PullLayer) -> Result<bool, ImportError> {
        let path = self.staging.fresh();
        // A name of its own, so that no collection takes it away meanwhile.
        if fs::hard_link(self.shared.blob(layer.blob.digest), &path).is_err() {
            return Ok(false);
        }
        let staged = Staged { path, digest: layer.blob.digest, size: layer.blob.size };
        let known = note::read(&self.shared.notes, layer.blob.digest).diff_id;
        let mut received = self.received();
        received.blobs.insert(staged.digest, staged);
        if let (Some(known), Some(wanted)) = (known, layer.diff_id)
            && known == wanted
        {
            received.verified.insert((layer.blob.digest, wanted));
        }
        Ok(true)
    }

    /// A file for a layer, and what fills it. The other half is for [`Pull::receive`].
    pub fn open(&self, layer: &PullLayer) -> Result<(GrowingWriter, Incoming), ImportError> {
        let path = self.staging.fresh();
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let (growing, writer) = Growing::new(file.map_err(at("create", &path))?, path);
        Ok((writer, Incoming { growing, layer: layer.clone() }))
    }

    /// Reads a layer as it comes, checks its digest and unpacks it. Blocks until it is complete or given up.
    pub fn receive(&self, incoming: &Incoming) -> Result<(), ImportError> {
        let PullLayer { blob, diff_id, .. } = &incoming.layer;
        let unpacks = diff_id.filter(|diff_id| !self.shared.layers.join(diff_id.hex()).exists());
        let directory = unpacks.map(|_| self.directory()).transpose()?;
        let (digest, size, unpacked) = match diff_id {
            Some(_) => self.hash_and_unpack(incoming, directory.as_deref())?,
            None => {
                let mut follower = incoming.growing.follow(blob.size);
                let mut hash = Hash::default();
                copy(&mut follower, |chunk| {
                    hash.update(chunk);
                    Ok(())
                })
                .map_err(at("read", incoming.growing.path()))?;
                let (digest, size) = hash.finish();
                (digest, size, None)
            }
        };
        if (digest, size) != (blob.digest, blob.size) {
            return Err(wrong_content(blob, digest, size));
        }
        let staged = Staged { path: incoming.growing.path().to_owned(), digest, size };
        let mut received = self.received();
        received.blobs.insert(digest, staged);
        let (Some(expected), Some(unpacked)) = (*diff_id, unpacked) else { return Ok(()) };
        if unpacked != expected {
            let layer = blob.digest;
            return Err(LayerError::WrongDiffId { layer, expected, actual: unpacked }.into());
        }
        received.verified.insert((digest, expected));
        if let Some(directory) = directory {
            received.prepared.push(Prepared { directory, diff_id: expected });
        }
        Ok(())
    }

    /// The blob's digest and size, and the digest of what it unpacks to.
    fn hash_and_unpack(
        &self,
        incoming: &Incoming,
        directory: Option<&Path>,
    ) -> Result<(Digest, u64, Option<Digest>), ImportError> {
        let blob = &incoming.layer.blob;
        let wrong = |source| LayerError::Unpack { layer: blob.digest, source };
        let options = &self.shared.options;
        let (reader, mut writer) = io::pipe().map_err(at("create a pipe for", incoming.growing.path()))?;
        // Who cannot have a large one takes longer.
        let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
        thread::scope(|scope| {
            let unpacking = scope.spawn(|| -> Result<Digest, UnpackError> {
                let archive = File::from(OwnedFd::from(reader));
                match directory {
                    Some(directory) => {
                        let Unpacked { diff_id, .. } =
                            options.files.unpack(archive, directory, &options.limits, options.ownership)?;
                        Ok(diff_id)
                    }
                    None => options.files.diff_id(archive, &options.limits),
                }
            });
            let mut hash = Hash::default();
            let copied = copy(&mut incoming.growing.follow(blob.size), |chunk| {
                hash.update(chunk);
                match writer.write_all(chunk) {
                    // An unpacker that has read enough, or refuses the archive; its answer says which.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(stop()),
                    written => written,
                }
            });
            drop(writer);
            let unpacked = unpacking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (copied, unpacked) {
                // That the archive ends where the download was given up says nothing new.
                (Err(error), _) if !is_stop(&error) => Err(at("read", incoming.growing.path())(error).into()),
                (_, Err(error)) => Err(wrong(error).into()),
                (Err(_), Ok(diff_id)) => self.hash_rest(incoming, diff_id),
                (Ok(()), Ok(diff_id)) => {
                    let (digest, size) = hash.finish();
                    Ok((digest, size, Some(diff_id)))
                }
            }
        })
    }

    /// The digest of a blob of which the unpacker did not need the end.
    fn hash_rest(
        &self,
        incoming: &Incoming,
        diff_id: Digest,
    ) -> Result<(Digest, u64, Option<Digest>), ImportError> {
        let mut hash = Hash::default();
        copy(&mut incoming.growing.follow(incoming.layer.blob.size), |chunk| {
            hash.update(chunk);
            Ok(())
        })
        .map_err(at("read", incoming.growing.path()))?;
        let (digest, size) = hash.finish();
        Ok((digest, size, Some(diff_id)))
    }

    /// Puts the image into the store under its name. Blocks for as long as the disk takes.
    pub fn commit(&self) -> Result<Imported, ImportError> {
        let (Some((staged, manifest)), Some(config)) = (&self.manifest, &self.config) else {
            return Err(self.incomplete("configuration"));
        };
        let received = std::mem::take(&mut *self.received());
        let layer = |layer: &Descriptor| {
            let found = received.blobs.get(&layer.digest).cloned();
            found.ok_or_else(|| self.incomplete(&format!("blob {}", layer.digest)))
        };
        let layers = manifest.layers.iter().map(layer).collect::<Result<Vec<_>, _>>()?;
        let (manifest, config, indexes) = (staged.clone(), config.clone(), self.indexes.clone());
        let bundle = Bundle { indexes, manifest, config, layers };
        let Received { prepared, verified, blobs } = received;
        let beforehand = Beforehand {
            prepared,
            verified: verified.clone(),
            platform: Some(self.platform.clone()),
            pulled: true,
        };
        let imported =
            self.shared.commit_prepared(&bundle, beforehand, self.name.clone(), Vec::new(), &self.staging)?;
        for blob in blobs.keys() {
            let diff_id = verified.iter().find(|(known, _)| known == blob).map(|(_, diff_id)| *diff_id);
            let noted = note::add(&self.shared.notes, *blob, self.name.registry(), diff_id, &self.staging);
            if let Err(error) = noted {
                tracing::debug!(%blob, %error, "a layer will be fetched again by the next image that has it");
            }
        }
        Ok(imported)
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self) -> Result<PathBuf, ImportError> {
        let directory = self.staging.fresh();
        DirBuilder::new().mode(0o755).create(&directory).map_err(at("create", &directory))?;
        // The process's umask must not show in a container.
        let mode = fs::set_permissions(&directory, Permissions::from_mode(0o755));
        mode.map_err(at("set mode of", &directory))?;
        Ok(directory)
    }

    /// A document, complete, and with the digest that names it.
    fn stage(&self, bytes: &[u8], expected: Option<&BlobRef>) -> Result<Staged, ImportError> {
        if bytes.len() as u64 > document::DOCUMENT_BYTES_MAX {
            let what = "bytes of manifest or configuration";
            return Err(ImportError::TooLarge { what, limit: document::DOCUMENT_BYTES_MAX });
        }
        let digest = Digest::from_bytes(Sha256::digest(bytes).into());
        match expected {
            Some(blob) if (blob.digest, blob.size) != (digest, bytes.len() as u64) => {
                Err(wrong_content(blob, digest, bytes.len() as u64))
            }
            _ => Ok(self.staging.write(bytes)?),
        }
    }

    fn incomplete(&self, member: &str) -> ImportError {
        ImportError::Missing { member: member.to_owned(), wanted_by: self.name.canonical() }
    }
}

/// A layer that is being downloaded.
#[derive(Debug)]
pub struct Incoming {
    growing: Arc<Growing>,
    layer: PullLayer,
}

/// The largest manifest, index or configuration, in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = document::DOCUMENT_BYTES_MAX;

fn wrong_content(blob: &BlobRef, actual: Digest, actual_size: u64) -> ImportError {
    ImportError::WrongContent {
        member: format!("blob {}", blob.digest),
        expected: blob.digest,
        actual,
        expected_size: blob.size,
        actual_size,
    }
}

#[derive(Default)]
struct Hash {
    hash: Sha256,
    size: u64,
}

impl Hash {
    fn update(&mut self, chunk: &[u8]) {
        self.hash.update(chunk);
        self.size += chunk.len() as u64;
    }

    fn finish(self) -> (Digest, u64) {
        (Digest::from_bytes(self.hash.finalize().into()), self.size)
    }
}

/// Hands all of `reader` to `take`.
fn copy(reader: &mut impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            n => take(&buffer[..n])?,
        }
    }
}

/// Ends a copy that nobody needs any more.
fn stop() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn is_stop(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted
}
