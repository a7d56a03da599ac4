//! An image that a holder has becomes one with a name, as if it had been pulled: its blobs are here already.

use std::fs;

use neargate_model::image::{Digest, ImageReference};

use crate::archive::read_staged;
use crate::commit::{Bundle, Imported};
use crate::document::{self, Config, Descriptor, Document, DocumentError};
use crate::error::{FileError, ImportError, at};
use crate::held::Holder;
use crate::record;
use crate::stage::Staged;
use crate::store::ImageStore;
use crate::wasm;

/// An index may lead to another index, as in [`crate::ImageStore::import`].
const INDEX_DEPTH_MAX: usize = 3;

impl ImageStore {
    /// Gives a name to the image with this digest, of which the holder has every part that runs here: its layers are
    /// unpacked now.
    pub fn adopt(
        &self,
        holder: &Holder,
        digest: Digest,
        name: ImageReference,
    ) -> Result<Imported, ImportError> {
        let bundle = self.gather(holder, digest)?;
        self.shared.commit(&bundle, name, Vec::new(), &self.shared.staging()?)
    }

    /// Whether something has this name.
    pub fn is_named(&self, name: &ImageReference) -> Result<bool, FileError> {
        let path = record::path(&self.shared.refs, name);
        path.try_exists().map_err(at("look for", &path))
    }

    /// Takes a name away, and leaves what it stood for to the next collection; `false` if there is none.
    pub fn forget(&self, name: &ImageReference) -> Result<bool, FileError> {
        let path = record::path(&self.shared.refs, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            removed => {
                removed.map_err(at("remove", &path))?;
                record::sync_directory(&self.shared.refs).map(|()| true)
            }
        }
    }

    /// Follows indexes to the manifest for this machine, and finds its parts.
    fn gather(&self, holder: &Holder, digest: Digest) -> Result<Bundle, ImportError> {
        let (mut next, mut indexes) = (Descriptor::new("", digest, 0), Vec::new());
        let mut wanted_by = "the registry".to_owned();
        loop {
            let staged = self.part(holder, next.digest, &wanted_by)?;
            let member = format!("manifest {}", next.digest);
            let stated = Some(next.media_type.as_str()).filter(|stated| !stated.is_empty());
            match Document::parse(&read_staged(&staged, &member)?, stated) {
                Ok(Document::Index(_)) if indexes.len() == INDEX_DEPTH_MAX => {
                    let (what, limit) = ("nested indexes", INDEX_DEPTH_MAX as u64);
                    return Err(ImportError::TooLarge { what, limit });
                }
                Ok(Document::Index(manifests)) => {
                    indexes.push(staged);
                    next = document::select(&manifests, &self.shared.options.platform)?.clone();
                    wanted_by = member;
                }
                Ok(Document::Manifest(manifest)) => {
                    let config = self.part(holder, manifest.config.digest, &member)?;
                    if !wasm::is_artifact(&manifest) && !wasm::is_spin(&manifest.config.media_type) {
                        self.check_platform(&config, manifest.layers.len())?;
                    }
                    let layer = |layer: &Descriptor| self.part(holder, layer.digest, &member);
                    let layers = manifest.layers.iter().map(layer).collect::<Result<_, _>>()?;
                    return Ok(Bundle { indexes, manifest: staged, config, layers });
                }
                Err(source) => return Err(ImportError::Document { member, source }),
            }
        }
    }

    /// A foreign platform is told before layers are unpacked.
    fn check_platform(&self, config: &Staged, layers: usize) -> Result<(), ImportError> {
        let member = format!("configuration {}", config.digest);
        let parsed = Config::parse(&read_staged(config, &member)?, layers);
        let parsed = parsed.map_err(|source: DocumentError| ImportError::Document { member, source })?;
        Ok(parsed.check_platform(&self.shared.options.platform)?)
    }

    fn part(&self, holder: &Holder, digest: Digest, wanted_by: &str) -> Result<Staged, ImportError> {
        let size = self.held_size(holder, digest)?.ok_or_else(|| ImportError::Missing {
            member: digest.to_string(),
            wanted_by: wanted_by.to_owned(),
        })?;
        Ok(Staged { path: self.shared.blob(digest), digest, size })
    }
}
