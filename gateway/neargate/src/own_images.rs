//! Images of the server's own registry, run out of the store that they were pushed into.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use neargate_image::ImageStore;
use neargate_model::chain;
use neargate_model::image::ImageReference;
use neargate_node::{ImageProblem, Images, LocalImages, TaskImage};
use neargate_server::{OwnImageError, Registry};

/// Images of the registry, once it is there, and others by other means.
pub(crate) struct OwnImages {
    here: LocalImages,
    others: LocalImages,
    registry: Arc<OnceLock<Arc<Registry>>>,
}

impl OwnImages {
    /// Images of a registry that is still to be made, which keeps them in this store, and other images.
    pub(crate) fn new(
        store: ImageStore,
        others: LocalImages,
        registry: Arc<OnceLock<Arc<Registry>>>,
    ) -> Self {
        Self { here: LocalImages::new(store), others, registry }
    }

    /// The name by which the store knows an image of the registry, which is ready then; `None` for one of another registry,
    /// and for what is no name.
    async fn own(&self, image: &str) -> Option<Result<ImageReference, OwnImageError>> {
        self.registry.get()?.own(&image.parse().ok()?).await
    }
}

#[async_trait]
impl Images for OwnImages {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        match self.own(image).await {
            Some(Ok(name)) => self.here.resolve(&name.canonical()).await,
            Some(Err(error)) => Err(problem(image, &error)),
            None => self.others.resolve(image).await,
        }
    }

    async fn find_again(&self, image: &str, digest: Option<&str>) -> Result<TaskImage, ImageProblem> {
        let absent = match self.others.find_again(image, digest).await {
            Err(absent) => absent,
            found => return found,
        };
        // Under its name in the registry the store does not know it.
        match self.own(image).await {
            Some(Ok(name)) => self.here.find_again(&name.canonical(), digest).await,
            Some(Err(error)) => Err(problem(image, &error)),
            None => Err(absent),
        }
    }
}

fn problem(image: &str, error: &OwnImageError) -> ImageProblem {
    ImageProblem {
        reason: format!("CannotPullContainerError: failed to resolve ref {image}: {}", chain(error)),
    }
}
