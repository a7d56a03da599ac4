//! Errors of repositories as ECR words them. Every variant is named; nothing unexpected is shown to a client.

use neargate_control::RepositoryChangeError;
use neargate_image::{FileError, ImportError, UploadError};
use neargate_model::repository::RepositoryError;
use neargate_store::StoreError;
use neargate_wire::ecr::EcrError;

use super::Place;
use crate::registry::shelf::ShelfError;

pub(super) fn invalid(message: impl Into<String>) -> EcrError {
    EcrError::InvalidParameter { message: message.into() }
}

pub(super) fn repository_not_found(name: &str, registry: &str) -> EcrError {
    let message = format!(
        "The repository with name '{name:.256}' does not exist in the registry with id '{registry:.16}'"
    );
    EcrError::RepositoryNotFound { message }
}

fn server(message: &str) -> EcrError {
    EcrError::Server { message: message.to_owned() }
}

/// A failure of ours: its details are for the log, not for the client.
pub(super) fn store(error: &StoreError) -> EcrError {
    if let StoreError::TooLarge { what, size, limit } = error {
        return invalid(format!("The request is too large to be stored: {what} of {size} is over {limit}."));
    }
    tracing::error!(error = neargate_model::chain(error), "store failed");
    match error {
        StoreError::Full { .. } => server("The server's disk is full; nothing was accepted."),
        _ => server("The server could not reach its store; try again."),
    }
}

fn file(error: &FileError) -> EcrError {
    tracing::error!(error = neargate_model::chain(error), "image store failed");
    server("The server could not use its image store; see its log.")
}

fn import(error: &ImportError) -> EcrError {
    match error {
        ImportError::NoSpace { .. } => server("The server's disk is full; nothing was accepted."),
        ImportError::File(error) => file(error),
        other => invalid(neargate_model::chain(other)),
    }
}

impl Place<'_> {
    pub(super) fn change(&self, error: RepositoryChangeError) -> EcrError {
        match error {
            RepositoryChangeError::Store(error) => store(&error),
            RepositoryChangeError::Repository(error) => self.repository_error(&error),
        }
    }

    /// As ECR ends its sentences.
    fn within(&self) -> String {
        format!("the repository with name '{}' in the registry with id '{}'", self.name, self.scope.account)
    }

    fn repository_error(&self, error: &RepositoryError) -> EcrError {
        use EcrError as W;
        use RepositoryError as E;
        let (name, account) = (self.name.as_str(), self.scope.account.as_str());
        match error {
            E::RepositoryNotFound { name } => repository_not_found(name.as_str(), account),
            E::RepositoryExists { .. } => W::RepositoryAlreadyExists {
                message: format!(
                    "The repository with name '{name}' already exists in the registry with id '{account}'"
                ),
            },
            E::RepositoryNotEmpty { .. } => W::RepositoryNotEmpty {
                message: format!(
                    "The repository with name '{name}' in registry with id '{account}' cannot be deleted because it \
                     still contains images"
                ),
            },
            E::ImageNotFound { reference } => self.image_not_found(reference),
            E::ImageExists { digest, tag } => W::ImageAlreadyExists {
                message: format!(
                    "Image with digest '{digest}' and tag '{tag}' already exists in {}",
                    self.within()
                ),
            },
            E::TagImmutable { tag } => W::ImageTagAlreadyExists {
                message: format!(
                    "The image tag '{tag}' already exists in the '{name}' repository and cannot be overwritten because \
                     the tag is immutable."
                ),
            },
            E::InIndex { index, .. } => {
                invalid(format!("Requested image referenced by manifest list: [{index}]"))
            }
            E::NoPolicy { what: "lifecycle policy", .. } => W::LifecyclePolicyNotFound {
                message: format!("Lifecycle policy does not exist for {}", self.within()),
            },
            E::NoPolicy { .. } => W::RepositoryPolicyNotFound {
                message: format!("Repository policy does not exist for {}", self.within()),
            },
            E::Limit { .. } => W::LimitExceeded { message: format!("{error}.") },
        }
    }

    pub(super) fn image_not_found(&self, reference: &str) -> EcrError {
        let id = match reference.contains(':') {
            true => format!("imageDigest:'{reference}', imageTag:'null'"),
            false => format!("imageDigest:'null', imageTag:'{reference}'"),
        };
        let message = format!("The image with imageId {{{id}}} does not exist within {}", self.within());
        EcrError::ImageNotFound { message }
    }

    pub(super) fn shelf(&self, error: ShelfError) -> EcrError {
        match error {
            ShelfError::Change(error) => self.change(error),
            ShelfError::Store(error) => store(&error),
            ShelfError::Import(error) => import(&error),
            ShelfError::Resolve(error) => invalid(neargate_model::chain(&error)),
            ShelfError::File(error) => file(&error),
            ShelfError::Manifest(error) => {
                invalid(format!("Invalid parameter at 'ImageManifest' failed to satisfy constraint: {error}"))
            }
            ShelfError::WrongDigest { .. } => {
                EcrError::ImageDigestDoesNotMatch { message: error.to_string() }
            }
            ShelfError::BlobUnknown { digest } => EcrError::LayersNotFound {
                message: format!(
                    "Layers with digests '[{digest}]' required for pushing image into {} not found",
                    self.within()
                ),
            },
            ShelfError::Stopped => server("The server is ending."),
        }
    }

    pub(super) fn upload(&self, error: UploadError, id: &str) -> EcrError {
        match error {
            UploadError::NotFound => EcrError::UploadNotFound {
                message: format!("The upload with id '{id:.64}' does not exist in {}", self.within()),
            },
            UploadError::Busy => invalid("Another part of this upload is being received."),
            UploadError::TooMany | UploadError::TooLarge => {
                EcrError::LimitExceeded { message: format!("{error}.") }
            }
            UploadError::WrongDigest { .. } => EcrError::InvalidLayer { message: format!("{error}.") },
            UploadError::NoSpace { .. } => server("The server's disk is full; nothing was accepted."),
            UploadError::Install(error) => import(&error),
            UploadError::File(error) => file(&error),
        }
    }
}
