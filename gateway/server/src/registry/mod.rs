//! The registry: OCI distribution 1.1 (which is Docker's registry API, version 2) at `/v2/`.
//!
//! ```text
//! request ─▶ route.rs: what is meant ─▶ access.rs: who asks, may they ─┬─ blobs.rs, uploads.rs ─▶ image store
//!                                                                      └─ manifests.rs, lists.rs ─▶ shelf.rs
//! ECR's API ─▶ ecr/ ──────────────────────────────────────────────────────────────────────────────▶ shelf.rs
//! ```
//!
//! Records of repositories and images are control's, bytes the image store's. A manifest is acknowledged when it and all
//! that it names are durable. Who may read a blob is decided by the repository that has it: to know a digest is no right.
//! Blobs pass through in pieces; no request holds more than [`uploads::PIECE_BYTES`] of one.

mod access;
mod answer;
mod blobs;
mod error;
mod lists;
pub(crate) mod manifest;
mod manifests;
mod own;
mod range;
mod route;
pub(crate) mod shelf;
mod sweep;
#[cfg(test)]
mod tests;
pub(crate) mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Response};
use hyper::body::Incoming;
use neargate_control::Control;
use neargate_image::ImageStore;
use neargate_model::image::ImageReference;
use neargate_model::{AccountId, Region, RepositoryName, Scope};
use tokio::sync::{Mutex, Notify, Semaphore};

use crate::access::Access;
use crate::body::Body;
use crate::pipeline::is_of_a_page;

use error::RegistryError;
use route::Route;
pub(crate) use shelf::Shelf;

pub use own::OwnImageError;

/// Bodies that are received at a time: each takes two pieces of memory and now and then a thread.
const RECEIVING_MAX: usize = 64;

/// Whose the registry is, and where.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// The account whose repositories it has.
    pub account: AccountId,
    /// The region of callers who name none.
    pub region: Region,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The registry.
pub struct Registry {
    shelf: Shelf,
    access: Arc<Access>,
    config: RegistryConfig,
    receiving: Semaphore,
    /// Held while an image is made ready to run; one for some of all digests.
    turns: [Mutex<()>; own::TURNS],
    /// Somebody wants a sweep sooner than it would come by itself.
    wanted: Notify,
}

impl Registry {
    /// A registry over control's records and the image store.
    pub fn new(control: Control, images: ImageStore, access: Arc<Access>, config: RegistryConfig) -> Self {
        let shelf = Shelf::new(control, images);
        let turns = std::array::from_fn(|_| Mutex::default());
        Self { shelf, access, config, receiving: Semaphore::new(RECEIVING_MAX), turns, wanted: Notify::new() }
    }

    pub(crate) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// Whether a request is for the registry.
    pub(crate) fn is_meant(path: &str) -> bool {
        path == "/v2" || path.starts_with("/v2/")
    }

    /// The answer to one request.
    pub(crate) async fn answer(&self, head: &Parts, body: Incoming) -> Response<Body> {
        match self.try_answer(head, body).await {
            Ok(response) => answer::finish(response),
            Err(error) => {
                tracing::debug!(code = error.code(), method = %head.method, path = head.uri.path(), "registry refused");
                answer::finish(error.response(head))
            }
        }
    }

    async fn try_answer(&self, head: &Parts, body: Incoming) -> Result<Response<Body>, RegistryError> {
        if self.access.is_open() && is_of_a_page(head) {
            return Err(RegistryError::denied(
                "with --dev the server answers programs on this machine, not pages",
            ));
        }
        let route = Route::parse(head.uri.path())?;
        if let (&Method::GET | &Method::HEAD, Route::Blob(name, digest)) = (&head.method, &route)
            && let Some(scope) = self.ticket_scope(head, name, *digest)
        {
            return self.get_blob(head, &scope, name, *digest).await;
        }
        let asker = self.asker(head).await?;
        match (&head.method, &route) {
            (&Method::GET | &Method::HEAD, Route::Ping) => Ok(answer::empty_json()),
            (&Method::GET, Route::Catalog) => self.catalog(head, &asker).await,
            (&Method::GET, Route::Tags(name)) => self.tags(head, &asker, name).await,
            (&Method::GET, Route::Referrers(name, digest)) => {
                self.referrers(head, &asker, name, *digest).await
            }
            (&Method::GET | &Method::HEAD, Route::Manifest(name, wanted)) => {
                self.get_manifest(head, &asker, name, wanted).await
            }
            (&Method::PUT, Route::Manifest(name, wanted)) => {
                self.put_manifest(head, &asker, name, wanted, body).await
            }
            (&Method::DELETE, Route::Manifest(name, wanted)) => {
                self.delete_manifest(&asker, name, wanted).await
            }
            (&Method::GET | &Method::HEAD, Route::Blob(name, digest)) => {
                self.check_blob_read(head, &asker, name).await?;
                self.get_blob(head, &asker.scope, name, *digest).await
            }
            (&Method::DELETE, Route::Blob(name, digest)) => self.delete_blob(&asker, name, *digest).await,
            (&Method::POST, Route::Uploads(name)) => self.begin_upload(head, &asker, name, body).await,
            (&Method::GET | &Method::HEAD, Route::Upload(name, id)) => {
                self.upload_state(&asker, name, id).await
            }
            (&Method::PATCH, Route::Upload(name, id)) => {
                self.receive_piece(head, &asker, name, id, body).await
            }
            (&Method::PUT, Route::Upload(name, id)) => self.finish_upload(head, &asker, name, id, body).await,
            (&Method::DELETE, Route::Upload(name, id)) => self.cancel_upload(&asker, name, id).await,
            _ => Err(RegistryError::method_not_allowed(route.methods())),
        }
    }

    /// Which image of ours a name means, in which scope; `None` if it names another registry. A name by address is in the
    /// region of the server.
    fn own_image(&self, name: &ImageReference) -> Option<(Scope, RepositoryName)> {
        let region = own_region(&self.config, name.registry())?;
        let scope = Scope { account: self.config.account.clone(), region };
        Some((scope, RepositoryName::new(name.repository()).ok()?))
    }

    /// What repositories are called by whoever has reached the server under this name.
    pub(crate) fn host(&self, reached: Option<&str>) -> String {
        let address = self.config.address;
        let is_host = |host: &&str| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
        };
        reached.filter(is_host).map_or_else(|| address.to_string(), str::to_owned)
    }

    /// Makes the scope of a request: the caller's account, and the region of the name by which it has reached us, or of its
    /// password, or of the server.
    fn scope(&self, head: &Parts, asked_in: Region) -> Scope {
        let host = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let by_name = host.and_then(|host| ecr_region(&self.config.account, host));
        Scope { account: self.config.account.clone(), region: by_name.unwrap_or(asked_in) }
    }
}

/// The ARN of a repository.
pub(crate) fn repository_arn(scope: &Scope, name: &RepositoryName) -> String {
    let Scope { account, region } = scope;
    format!("arn:aws:ecr:{region}:{account}:repository/{name}")
}

/// The name that ECR gives to the registry of an account in a region.
pub(crate) fn ecr_host(scope: &Scope) -> String {
    let Scope { account, region } = scope;
    format!("{account}.dkr.ecr.{region}.amazonaws.com")
}

/// The region of a registry that is ours, by its host.
fn own_region(config: &RegistryConfig, host: &str) -> Option<Region> {
    if let Some(region) = ecr_region(&config.account, host) {
        return Some(region);
    }
    let port = config.address.port();
    let is_loopback = ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{port}"));
    let is_ours = is_loopback || host == config.address.to_string();
    is_ours.then(|| config.region.clone())
}

/// The region in ECR's name of this account's registry.
fn ecr_region(account: &AccountId, host: &str) -> Option<Region> {
    let rest = host.strip_prefix(account.as_str())?.strip_prefix(".dkr.ecr.")?;
    Region::new(rest.strip_suffix(".amazonaws.com")?).ok()
}
