//! An image of the registry of this machine's server, for `neargate run`: the server makes it ready in the image store
//! that both use.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use neargate_model::image::ImageReference;
use neargate_node::{ImageProblem, Images, TaskImage};
use neargate_sdk::{Client, Config, Explicit, local};

use crate::client::variable;

/// How long the server may take: it may have to unpack layers.
const LIMIT: Duration = Duration::from_secs(600);

/// The name by which the image store knows an image of the server's registry. `None` where no server has used the
/// directory, or the name is one of another registry.
pub(super) fn known_as(name: &ImageReference, data: &Path) -> Result<Option<ImageReference>> {
    let Some(endpoint) = local::endpoint(data).filter(|endpoint| may_be_of(name, endpoint)) else {
        return Ok(None);
    };
    let explicit = Explicit {
        endpoint: Some(endpoint.clone()),
        region: None,
        profile: None,
        data: Some(data.to_owned()),
        credentials: None,
    };
    let config = Config::resolve(&explicit, &variable)?.attempts_max(1).attempt_timeout(LIMIT);
    let client = Client::new(config)?;
    // It has no thread of its own, and is gone before anything is forked.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("ask the server")?;
    let found = runtime.block_on(client.own_image(&name.canonical()));
    let found = found.with_context(|| format!("ask the server at {endpoint} for {}", name.familiar()))?;
    found.map(|found| found.parse().context("read the server's answer")).transpose()
}

/// Whether a name can be one of the registry at this URL: by port, or because it looks like one of ECR.
fn may_be_of(name: &ImageReference, endpoint: &str) -> bool {
    let port = endpoint.rsplit_once(':').map(|(_, port)| port.trim_end_matches('/'));
    let registry = name.registry();
    registry.ends_with(".amazonaws.com") || registry.rsplit_once(':').map(|(_, port)| port) == port
}

/// The one image of a run, by another name.
pub(super) struct Known {
    pub(super) name: ImageReference,
    pub(super) images: Arc<dyn Images>,
}

#[async_trait]
impl Images for Known {
    async fn resolve(&self, _: &str) -> Result<TaskImage, ImageProblem> {
        self.images.resolve(&self.name.canonical()).await
    }

    async fn find_again(&self, _: &str, digest: Option<&str>) -> Result<TaskImage, ImageProblem> {
        self.images.find_again(&self.name.canonical(), digest).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_may_be_the_servers_are_asked_for() {
        let check = |name: &str, expect: bool| {
            assert_eq!(may_be_of(&name.parse().unwrap(), "http://127.0.0.1:7878"), expect, "{name}");
        };
        check("127.0.0.1:7878/app", true);
        check("localhost:7878/app", true);
        check("127.0.0.1:5000/app", false);
        check("123456789012.dkr.ecr.us-east-1.amazonaws.com/app", true);
        check("alpine", false);
        check("localhost/app", false);
    }
}
