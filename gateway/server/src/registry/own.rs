//! Images that tasks run out of this registry: no byte of them travels.

use neargate_control::{ImageWanted, NewRepository, RepositoryChangeError};
use neargate_image::ResolveError;
use neargate_model::image::{Digest, ImageReference, InvalidReference};
use neargate_model::repository::{Mutability, RepositoryError};
use neargate_model::{ImageTag, Tags};

use super::Registry;
use super::shelf::{ShelfError, holder, reference};

/// Why an image of this registry cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum OwnImageError {
    /// It is not in the registry.
    #[error("{reason}")]
    NotFound {
        /// What of it is missing.
        reason: String,
    },
    /// It is nothing that runs here, or it could not be made ready.
    #[error("use the image")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Registry {
    /// Makes an image of this registry ready to run, and tells the name by which the image store knows it; `None` if the
    /// name is one of another registry.
    ///
    /// It is taken as it is now: a tag that moves while this works leads to the image that it was given to before.
    pub async fn own(&self, name: &ImageReference) -> Option<Result<ImageReference, OwnImageError>> {
        let (scope, repository) = self.own_image(name)?;
        let wanted = match (name.digest(), name.tag().map(ImageTag::new)) {
            (Some(digest), _) => ImageWanted::Digest(digest),
            (None, Some(Ok(tag))) => ImageWanted::Tag(tag),
            (None, _) => return None,
        };
        let control = &self.shelf.control;
        let image = match control.image(&scope, &repository, &wanted).await {
            Ok(image) => image,
            Err(error) => return Some(Err(unusable(error.into()))),
        };
        let known_as = reference(&scope, &repository, image.digest)?;
        let holder = holder(&scope, &repository);
        self.shelf.note_pull(&scope, &repository, &image).await;
        // Two tasks of one image do not unpack it twice.
        let _turn = self.turns[turn(image.digest)].lock().await;
        let name = known_as.clone();
        let ready = self.shelf.with_images(move |images| match images.is_named(&name) {
            Ok(true) => Ok(()),
            Ok(false) => images.adopt(&holder, image.digest, name).map(drop).map_err(ShelfError::from),
            Err(error) => Err(error.into()),
        });
        Some(ready.await.and_then(|ready| ready).map(|()| known_as).map_err(unusable))
    }
}

impl Registry {
    /// Puts an image that the image store knows by a name into a repository, which is made if it is not there, and tells
    /// its digest. `to` names an image of this registry by tag.
    pub async fn push(&self, image: &ImageReference, to: &ImageReference) -> Result<Digest, OwnImageError> {
        let not_ours = || OwnImageError::NotFound {
            reason: format!(
                "{} is no name of this registry with a tag; push it elsewhere with skopeo",
                to.familiar()
            ),
        };
        let (scope, name) = self.own_image(to).ok_or_else(not_ours)?;
        let tag = to.tag().filter(|_| to.digest().is_none()).and_then(|tag| ImageTag::new(tag).ok());
        let wanted = ImageWanted::Tag(tag.ok_or_else(not_ours)?);
        let new = NewRepository {
            name: name.clone(),
            mutability: Mutability::Mutable,
            tags: Tags::new(),
            face: String::new(),
        };
        match self.shelf.control.create_repository(&scope, &new).await {
            Err(RepositoryChangeError::Repository(RepositoryError::RepositoryExists { .. })) => {}
            made => made.map(drop).map_err(|error| unusable(error.into()))?,
        }
        let put = self.shelf.put_named(&scope, &name, image.clone(), &wanted).await;
        match put {
            Ok(shelved) => Ok(shelved.digest),
            Err(ShelfError::Resolve(error)) if matches!(*error, ResolveError::NotFound { .. }) => {
                Err(OwnImageError::NotFound { reason: error.to_string() })
            }
            Err(error) => Err(unusable(error)),
        }
    }

    /// The name of a repository of this registry by the address that the server listens on, for one that names no registry.
    pub(crate) fn by_address(&self, name: &str) -> Result<ImageReference, InvalidReference> {
        format!("{}/{name}", self.config.address).parse()
    }
}

/// How many images are made ready at a time, at most.
pub(super) const TURNS: usize = 8;

fn turn(digest: Digest) -> usize {
    usize::from(digest.as_bytes()[0]) % TURNS
}

fn unusable(error: ShelfError) -> OwnImageError {
    match error {
        ShelfError::Change(RepositoryChangeError::Repository(
            error @ (RepositoryError::RepositoryNotFound { .. } | RepositoryError::ImageNotFound { .. }),
        )) => OwnImageError::NotFound { reason: format!("not found: {error}") },
        other => OwnImageError::Unusable(Box::new(other)),
    }
}
