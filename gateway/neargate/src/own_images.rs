//! Images of the server's own registry, run out of the store that they were pushed into.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use neargate_model::chain;
use neargate_model::image::ImageReference;
use neargate_node::{ImageProblem, Images, TaskImage};
use neargate_server::{OwnImageError, Registry};

/// Images of the registry, once it is there, and others by other means.
pub(crate) struct OwnImages {
    others: Arc<dyn Images>,
    registry: Arc<OnceLock<Arc<Registry>>>,
}

impl OwnImages {
    /// Images of a registry that is still to be made, and other images.
    pub(crate) fn new(others: Arc<dyn Images>, registry: Arc<OnceLock<Arc<Registry>>>) -> Self {
        Self { others, registry }
    }
}

#[async_trait]
impl Images for OwnImages {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        let own = match (self.registry.get(), image.parse::<ImageReference>()) {
            (Some(registry), Ok(name)) => registry.own(&name).await,
            // What is no name is refused as every other one.
            _ => None,
        };
        match own {
            Some(Ok(name)) => self.others.resolve(&name.canonical()).await,
            Some(Err(error)) => Err(problem(image, &error)),
            None => self.others.resolve(image).await,
        }
    }
}

fn problem(image: &str, error: &OwnImageError) -> ImageProblem {
    ImageProblem {
        reason: format!("CannotPullContainerError: failed to resolve ref {image}: {}", chain(error)),
    }
}
