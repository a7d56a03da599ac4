//! The last step of every import: a complete, staged image is verified, classified and put into the store.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;

use neargate_model::Timestamp;
use neargate_model::image::{Digest, ImageReference};
use rustix::fs::FlockOperation;

use crate::archive::read_staged;
use crate::document::{Config, Document, ImageConfig, Manifest, Platform};
use crate::error::{ImportError, at};
use crate::layers::{self, LayerJob, Prepared};
use crate::record::{self, Kind, Record, WasmRecord};
use crate::stage::{Staged, Staging};
use crate::store::Shared;
use crate::unpack::member::{self, Members};
use crate::unpack::{self, UnpackError};
use crate::wasm::{self, WasmFormat};

/// What was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The name that it can be resolved by.
    pub name: ImageReference,
    /// Further names that the archive gives to the same image.
    pub aliases: Vec<ImageReference>,
    /// The manifest, or the index that it was chosen from.
    pub digest: Digest,
    /// What it is.
    pub kind: Kind,
}

/// A complete image in a staging directory; every blob has the digest by which it is named.
pub(crate) struct Bundle {
    /// Indexes that lead to the manifest, outermost first.
    pub(crate) indexes: Vec<Staged>,
    pub(crate) manifest: Staged,
    pub(crate) config: Staged,
    /// In the manifest's order.
    pub(crate) layers: Vec<Staged>,
}

/// What was done for an image before its commit, by whoever brought its blobs.
#[derive(Default)]
pub(crate) struct Beforehand {
    /// Layers that were unpacked and verified.
    pub(crate) prepared: Vec<Prepared>,
    /// Layers whose content is known to unpack to their diffID.
    pub(crate) verified: HashSet<(Digest, Digest)>,
    /// The platform that the image must be for, unless it is the store's.
    pub(crate) platform: Option<Platform>,
    /// Whether it came from a registry, from which it can come again.
    pub(crate) pulled: bool,
}

impl Shared {
    /// Puts an image into the store under its names, of which there is at least one. Nothing is collected
    /// meanwhile, so a layer or blob that is found to be there stays. On error nothing is in the store that was not there before.
    pub(crate) fn commit(
        &self,
        bundle: &Bundle,
        name: ImageReference,
        aliases: Vec<ImageReference>,
        staging: &Staging,
    ) -> Result<Imported, ImportError> {
        self.commit_prepared(bundle, Beforehand::default(), name, aliases, staging)
    }

    /// As [`Shared::commit`], with a part of the work done.
    pub(crate) fn commit_prepared(
        &self,
        bundle: &Bundle,
        beforehand: Beforehand,
        name: ImageReference,
        aliases: Vec<ImageReference>,
        staging: &Staging,
    ) -> Result<Imported, ImportError> {
        let Beforehand { mut prepared, verified, platform, pulled } = beforehand;
        let platform = platform.as_ref().unwrap_or(&self.options.platform);
        if !prepared.is_empty() {
            // The long part, before anybody has to wait.
            self.sync()?;
        }
        let _lock = self.lock(FlockOperation::LockShared)?;
        let mut blobs: Vec<Staged> = bundle.indexes.clone();
        blobs.extend(bundle.layers.iter().cloned());
        blobs.extend([bundle.config.clone(), bundle.manifest.clone()]);
        let (wasm, added) = match self.classify(bundle, platform, staging)? {
            Class::Wasm(record, binary) => {
                blobs.extend(binary);
                (Some(record), Vec::new())
            }
            Class::Oci(mut jobs) => {
                let is_there = |job: &LayerJob| {
                    verified.contains(&(job.digest, job.diff_id))
                        && self.layers.join(job.diff_id.hex()).exists()
                };
                jobs.retain(|job| !prepared.iter().any(|p| p.diff_id == job.diff_id) && !is_there(job));
                (None, layers::prepare(jobs, &self.layers, staging, &self.settings())?)
            }
        };
        match (prepared.is_empty(), added.is_empty()) {
            (true, true) => {
                for blob in &blobs {
                    File::open(&blob.path).and_then(|f| f.sync_all()).map_err(at("sync", &blob.path))?;
                }
            }
            (_, false) => self.sync()?,
            (false, true) => {}
        }
        prepared.extend(added);
        layers::install(&prepared, &self.layers, &*self.options.files)?;
        record::sync_directory(&self.layers)?;
        self.install_blobs(&blobs)?;
        let digest = bundle.indexes.first().unwrap_or(&bundle.manifest).digest;
        let kind = if wasm.is_some() { Kind::Wasm } else { Kind::Oci };
        let imported = Timestamp::from(std::time::SystemTime::now());
        for name in aliases.iter().chain([&name]) {
            let (name, wasm) = (name.clone(), wasm.clone());
            let record = Record { name, digest, manifest: bundle.manifest.digest, wasm, imported, pulled };
            record::write(&self.refs, staging, &record)?;
        }
        tracing::info!(image = %name, %digest, ?kind, "image imported");
        Ok(Imported { name, aliases, digest, kind })
    }

    pub(crate) fn install_blobs(&self, blobs: &[Staged]) -> Result<(), ImportError> {
        let mut directories = BTreeMap::new();
        for blob in blobs {
            let target = self.blob(blob.digest);
            let directory = target.parent().unwrap_or(&self.blobs).to_owned();
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(at("create", &directory)(e).into());
                }
                _ => directories.insert(directory, ()),
            };
            // A blob that is there stays, unless a disk fault has cut it.
            if fs::metadata(&target).is_ok_and(|m| m.len() == blob.size) {
                continue;
            }
            neargate_failpoint::reach("image::blob::before");
            match fs::rename(&blob.path, &target) {
                // The same blob twice in one image.
                Err(_) if target.exists() => {}
                moved => moved.map_err(at("create", &target))?,
            }
        }
        neargate_failpoint::reach("image::blob::after");
        for directory in directories.keys() {
            record::sync_directory(directory)?;
        }
        Ok(record::sync_directory(&self.blobs)?)
    }

    /// Finds out what an image is: the cheap signs first, the binary's own magic number always.
    fn classify(
        &self,
        bundle: &Bundle,
        platform: &Platform,
        staging: &Staging,
    ) -> Result<Class, ImportError> {
        let manifest = parse_manifest(bundle)?;
        if wasm::is_spin(&manifest.config.media_type) {
            let advice = "import its component's .wasm file by itself";
            return Err(ImportError::Unsupported { what: "a Spin application".to_owned(), advice });
        }
        if wasm::is_artifact(&manifest) {
            let [layer] = bundle.layers.as_slice() else {
                let advice = "an artifact has exactly one application/wasm layer; push it again with one";
                let what = format!("a Wasm artifact with {} layers", bundle.layers.len());
                return Err(ImportError::Unsupported { what, advice });
            };
            let format = check_binary(layer, "the Wasm layer")?;
            return Ok(Class::Wasm(WasmRecord { digest: layer.digest, format }, None));
        }
        let bytes = read_staged(&bundle.config, "the configuration")?;
        let wrong = |source| ImportError::Document {
            member: format!("configuration {}", bundle.config.digest),
            source,
        };
        let config = Config::parse(&bytes, bundle.layers.len()).map_err(wrong)?;
        config.check_platform(platform)?;
        let process = config.image_config().map_err(wrong)?;
        let is_declared = config.platform.is_wasm()
            || manifest.annotations.contains_key("module.wasm.image/variant")
            || manifest.annotations.get("run.oci.handler").is_some_and(|h| h.starts_with("wasm"));
        match self.extract_wasm(bundle, &process, staging)? {
            Some((record, binary)) => Ok(Class::Wasm(record, Some(binary))),
            None if is_declared => Err(ImportError::Wasm {
                input: "the image".to_owned(),
                reason: "it is declared as Wasm, but its entrypoint is not a .wasm file in its layers"
                    .to_owned(),
            }),
            None => Ok(Class::Oci(jobs(bundle, &config))),
        }
    }

    /// The file that an entrypoint ending in `.wasm` names, taken out of the layers.
    fn extract_wasm(
        &self,
        bundle: &Bundle,
        process: &ImageConfig,
        staging: &Staging,
    ) -> Result<Option<(WasmRecord, Staged)>, ImportError> {
        let Some(program) = process.entrypoint.first().or(process.cmd.first()) else { return Ok(None) };
        if !program.ends_with(".wasm") {
            return Ok(None);
        }
        let Some(path) = absolute(&process.working_dir, program) else { return Ok(None) };
        for layer in bundle.layers.iter().rev() {
            match self.find_in_layer(layer, &path, staging)? {
                Found::Nothing => {}
                Found::Removed => return Ok(None),
                Found::File(binary) => {
                    let mut head = Vec::new();
                    let file = File::open(&binary.path).map_err(at("open", &binary.path))?;
                    file.take(8).read_to_end(&mut head).map_err(at("read", &binary.path))?;
                    let Some(format) = wasm::format(&head) else { return Ok(None) };
                    return Ok(Some((WasmRecord { digest: binary.digest, format }, binary)));
                }
            }
        }
        Ok(None)
    }

    fn find_in_layer(&self, layer: &Staged, path: &str, staging: &Staging) -> Result<Found, ImportError> {
        let wrong = |source: UnpackError| crate::LayerError::Unpack { layer: layer.digest, source };
        let file = File::open(&layer.path).map_err(at("open", &layer.path))?;
        let mut members = Members::new(unpack::open(file, &self.options.limits).map_err(wrong)?);
        let mut found = Found::Nothing;
        while let Some(member) = members.next().map_err(wrong)? {
            let Ok(name) = std::str::from_utf8(&member.path) else { continue };
            let Some(name) = absolute("", name) else { continue };
            if name == path && member.kind == member::Kind::File {
                if member.size > wasm::WASM_BYTES_MAX {
                    return Err(ImportError::TooLarge { what: "bytes of Wasm", limit: wasm::WASM_BYTES_MAX });
                }
                let mut writer = staging.create()?;
                let copied = writer.copy(&mut members, &mut vec![0; 128 << 10])?;
                copied.map_err(|e| wrong(members.read_error(e)))?;
                found = Found::File(writer.finish()?);
            } else if matches!(found, Found::Nothing) && hides(&name, path) {
                found = Found::Removed;
            }
        }
        Ok(found)
    }
}

enum Class {
    /// A Wasm image; with the binary when it was taken out of a layer.
    Wasm(WasmRecord, Option<Staged>),
    Oci(Vec<LayerJob>),
}

enum Found {
    Nothing,
    Removed,
    File(Staged),
}

fn parse_manifest(bundle: &Bundle) -> Result<Manifest, ImportError> {
    let member = || format!("manifest {}", bundle.manifest.digest);
    let bytes = read_staged(&bundle.manifest, "the manifest")?;
    match Document::parse(&bytes, None) {
        Ok(Document::Manifest(manifest)) => Ok(*manifest),
        Ok(Document::Index(_)) => {
            Err(ImportError::Document { member: member(), source: crate::DocumentError::Confused })
        }
        Err(source) => Err(ImportError::Document { member: member(), source }),
    }
}

fn jobs(bundle: &Bundle, config: &Config) -> Vec<LayerJob> {
    let job = |(layer, diff_id): (&Staged, &Digest)| LayerJob {
        blob: layer.path.clone(),
        digest: layer.digest,
        diff_id: *diff_id,
    };
    let mut jobs: Vec<LayerJob> = bundle.layers.iter().zip(config.diff_ids()).map(job).collect();
    let mut seen = HashSet::new();
    jobs.retain(|job| seen.insert((job.digest, job.diff_id)));
    jobs
}

/// The format of a staged Wasm binary; anything else is refused.
pub(crate) fn check_binary(staged: &Staged, input: &str) -> Result<WasmFormat, ImportError> {
    let mut head = Vec::new();
    let file = File::open(&staged.path).map_err(at("open", &staged.path))?;
    file.take(512).read_to_end(&mut head).map_err(at("read", &staged.path))?;
    wasm::format(&head).ok_or_else(|| ImportError::Wasm {
        input: input.to_owned(),
        reason: format!("it is {}", wasm::describe(&head)),
    })
}

/// Whether the whiteout `name` removes `path` or a directory above it.
fn hides(name: &str, path: &str) -> bool {
    let (parent, name) = name.rsplit_once('/').unwrap_or(("", name));
    let Some(hidden) = name.strip_prefix(".wh.") else { return false };
    let is_below = |directory: &str| {
        path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if hidden == ".wh..opq" { is_below(parent) } else { is_below(&format!("{parent}/{hidden}")) }
}

/// `path` seen from `base`, absolute and without `.` and `..`.
fn absolute(base: &str, path: &str) -> Option<String> {
    let base = if path.starts_with('/') { "" } else { base };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(format!("/{}", parts.join("/"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whiteouts_hide_files_and_trees() {
        let check = |name, path, expect| assert_eq!(hides(name, path), expect, "{name} {path}");
        check("/.wh.app.wasm", "/app.wasm", true);
        check("/a/.wh.b", "/a/b/c.wasm", true);
        check("/a/.wh.b", "/a/bc.wasm", false);
        check("/a/.wh..wh..opq", "/a/c.wasm", true);
        check("/.wh..wh..opq", "/c.wasm", true);
        check("/b/.wh..wh..opq", "/a/c.wasm", false);
        check("/a/b", "/a/b", false);
    }
}
