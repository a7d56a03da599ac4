//! Images of repositories: the one way in and out for the registry and for ECR's API.

use std::collections::HashSet;
use std::io::Read;

use bytes::Bytes;
use neargate_control::{Control, ImageWanted, NewImage, Put, RepositoryChangeError};
use neargate_image::{FileError, Holder, ImageStore, ImportError, ResolveError};
use neargate_model::image::{Digest, ImageReference};
use neargate_model::repository::{RepositoryError, StoredImage};
use neargate_model::{RepositoryName, Scope};
use neargate_store::StoreError;
use sha2::{Digest as _, Sha256};
use tokio::sync::RwLock;

use super::ecr_host;
use super::manifest::{InvalidManifest, MANIFEST_BYTES_MAX, Manifest};

/// Why an image was not put in or taken out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShelfError {
    #[error(transparent)]
    Change(#[from] RepositoryChangeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Resolve(Box<ResolveError>),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    #[error("the manifest has the digest {actual}, not {expected}")]
    WrongDigest { expected: Digest, actual: Digest },
    #[error("the repository does not have {digest}, which the manifest names")]
    BlobUnknown { digest: Digest },
    #[error("the server is ending")]
    Stopped,
}

impl From<ResolveError> for ShelfError {
    fn from(error: ResolveError) -> Self {
        Self::Resolve(Box::new(error))
    }
}

/// An image that was put in.
#[derive(Debug)]
pub(crate) struct Shelved {
    pub(crate) digest: Digest,
    pub(crate) subject: Option<Digest>,
    pub(crate) put: Put,
}

/// Records and bytes of images.
pub(crate) struct Shelf {
    pub(crate) control: Control,
    pub(crate) images: ImageStore,
    /// Held shared while a blob or an image is put in, alone while blobs that no image names are let go: so none goes
    /// between being looked for and being named.
    pub(crate) sweeping: RwLock<()>,
}

impl Shelf {
    pub(super) fn new(control: Control, images: ImageStore) -> Self {
        Self { control, images, sweeping: RwLock::default() }
    }

    /// Works with the image store, whose calls block.
    pub(crate) async fn with_images<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> T + Send + 'static,
    ) -> Result<T, ShelfError> {
        let images = self.images.clone();
        tokio::task::spawn_blocking(move || work(&images)).await.map_err(|_| ShelfError::Stopped)
    }

    /// Puts an image in, under a tag if it has one. `wanted` is what the client calls it.
    pub(crate) async fn put(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        (bytes, sent_as): (Bytes, Option<&str>),
        wanted: Option<&ImageWanted>,
    ) -> Result<Shelved, ShelfError> {
        let manifest = Manifest::parse(&bytes, sent_as)?;
        let digest = digest_of(&bytes);
        let tag = match wanted {
            Some(ImageWanted::Digest(expected)) if *expected != digest => {
                return Err(ShelfError::WrongDigest { expected: *expected, actual: digest });
            }
            Some(ImageWanted::Tag(tag)) => Some(tag),
            _ => None,
        };
        self.control.check_room()?;
        let _no_sweep = self.sweeping.read().await;
        for child in &manifest.children {
            let found = self.control.image(scope, name, &ImageWanted::Digest(*child)).await;
            found.map_err(|error| match error {
                RepositoryChangeError::Repository(_) => ShelfError::BlobUnknown { digest: *child },
                error => error.into(),
            })?;
        }
        let new = NewImage {
            digest,
            media_type: manifest.media_type,
            artifact_type: manifest.artifact_type,
            manifest_bytes: bytes.len() as u64,
            content_bytes: manifest.content_bytes,
            subject: manifest.subject,
            children: manifest.children,
        };
        let (holder, blobs) = (holder(scope, name), manifest.blobs);
        self.with_images(move |images| {
            for digest in blobs {
                if images.held_size(&holder, digest)?.is_none() {
                    return Err(ShelfError::BlobUnknown { digest });
                }
            }
            images.put_held(&holder, &bytes).map_err(ShelfError::from)
        })
        .await??;
        let put = self.control.put_image(scope, name, &new, tag).await?;
        if manifest.is_wasm && put == Put::New {
            let name = reference(scope, name, digest).map(|name| name.canonical());
            self.control.prepare(name.into_iter()).await;
        }
        Ok(Shelved { digest, subject: new.subject, put })
    }

    /// Puts in an image that the image store knows by a name, without sending it.
    pub(super) async fn put_named(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        image: ImageReference,
        wanted: &ImageWanted,
    ) -> Result<Shelved, ShelfError> {
        self.control.check_room()?;
        let holder = holder(scope, name);
        let manifest =
            self.with_images(move |images| images.give(&image, &holder).map_err(ShelfError::from)).await??;
        self.put(scope, name, (Bytes::from(manifest), None), Some(wanted)).await
    }

    /// The record of an image, and its manifest.
    pub(crate) async fn get(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        wanted: &ImageWanted,
    ) -> Result<(StoredImage, Bytes), ShelfError> {
        let image = self.control.image(scope, name, wanted).await?;
        let bytes = self.manifest(scope, name, image.digest).await?;
        // What is gone from the disk is gone, whatever the records say.
        let missing = || RepositoryError::ImageNotFound { reference: wanted.to_string() };
        Ok((image, bytes.ok_or_else(|| RepositoryChangeError::from(missing()))?))
    }

    /// The bytes of a manifest that the repository has.
    pub(crate) async fn manifest(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<Option<Bytes>, ShelfError> {
        let holder = holder(scope, name);
        self.with_images(move |images| {
            let Some((file, size)) = images.open_held(&holder, digest)? else { return Ok(None) };
            if size > MANIFEST_BYTES_MAX as u64 {
                return Ok(None);
            }
            let mut bytes = Vec::with_capacity(size as usize);
            let read = (&file).read_to_end(&mut bytes);
            read.map_err(|source| FileError { action: "read", path: digest.hex().into(), source })?;
            Ok(Some(Bytes::from(bytes)))
        })
        .await?
    }

    /// Notes that somebody has pulled an image; that this fails is nobody's misfortune.
    pub(crate) async fn note_pull(&self, scope: &Scope, name: &RepositoryName, image: &StoredImage) {
        if let Err(error) = self.control.note_pull(scope, name, image).await {
            tracing::debug!(%error, "a pull was not noted");
        }
    }

    /// Takes an image out, with all its tags.
    pub(crate) async fn delete(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<StoredImage, ShelfError> {
        let deleted = self.control.delete_image(scope, name, digest).await?;
        // No task may run it any more; one that runs it keeps it. What it needed is let go by a sweep: somebody may be
        // putting it in again.
        if let Some(reference) = reference(scope, name, digest) {
            self.with_images(move |images| images.forget(&reference)).await??;
        }
        Ok(deleted)
    }

    /// Takes a whole repository away.
    pub(crate) async fn delete_repository(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        force: bool,
    ) -> Result<neargate_model::repository::Repository, ShelfError> {
        // Nothing is put into a repository of that name meanwhile.
        let _alone = self.sweeping.write().await;
        let images = self.control.images(scope, name).await?;
        let deleted = self.control.delete_repository(scope, name, force).await?;
        let holder = holder(scope, name);
        let digests = images.into_iter().map(|image| image.digest);
        let names: Vec<ImageReference> =
            digests.filter_map(|digest| reference(scope, name, digest)).collect();
        self.with_images(move |images| {
            for name in &names {
                images.forget(name)?;
            }
            images.dismiss(&holder)
        })
        .await??;
        Ok(deleted)
    }

    /// Every blob that the images of a repository need, their manifests included.
    pub(crate) async fn needed(
        &self,
        scope: &Scope,
        name: &RepositoryName,
    ) -> Result<HashSet<Digest>, ShelfError> {
        let images = self.control.images(scope, name).await?;
        let holder = holder(scope, name);
        self.with_images(move |store| {
            let mut needed = HashSet::new();
            for image in images {
                needed.insert(image.digest);
                needed.extend(&image.children);
                // One that cannot be read keeps what it needs only in as far as others do; it cannot be pulled either.
                let Some((file, size)) = store.open_held(&holder, image.digest)? else { continue };
                let mut bytes = Vec::new();
                if (&file).take(size.min(MANIFEST_BYTES_MAX as u64)).read_to_end(&mut bytes).is_ok()
                    && let Ok(manifest) = Manifest::parse(&bytes, Some(&image.media_type))
                {
                    needed.extend(manifest.blobs);
                }
            }
            Ok(needed)
        })
        .await?
    }
}

/// The digest of a manifest.
pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Who has the blobs of a repository.
pub(crate) fn holder(scope: &Scope, name: &RepositoryName) -> Holder {
    Holder::named(&["repository", scope.account.as_str(), scope.region.as_str(), name.as_str()])
}

/// The name by which the image store knows an image of a repository that tasks have run.
pub(crate) fn reference(scope: &Scope, name: &RepositoryName, digest: Digest) -> Option<ImageReference> {
    format!("{}/{name}@{digest}", ecr_host(scope)).parse().ok()
}
