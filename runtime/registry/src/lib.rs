//! Pulls images from registries of the OCI distribution-spec and Docker's API v2 into the store.
//!
//! ```text
//! Puller ─▶ Flight (one for each image under way) ─▶ Session (one repository, one who asks)
//!              │                                        │ client.rs: manifests, blobs, ranges
//!              │ pull.rs: index ▶ manifest ▶ layers     │ auth.rs: challenges, tokens
//!              ▼                                        ▼ transport.rs: deadlines, redirects
//!          neargate_image::Pull ◀── download.rs ◀── reach.rs: connections that go no further inside
//! ```
//!
//! A registry is taken for hostile. It decides neither where credentials go nor how far inside the network is asked, nor how
//! much memory, disk or time is spent; and nothing counts that does not have the digest by which it was asked for.

#![forbid(unsafe_code)]

mod auth;
mod challenge;
mod client;
mod config;
mod credentials;
mod download;
mod error;
mod pull;
mod reach;
mod target;
mod transport;

pub use config::RegistryConfig;
pub use credentials::{Credential, CredentialFiles};
pub use error::{ConfigError, CredentialError, PullError, RequestError};
pub use pull::{Flight, LayerProgress, PullRequest, Puller};
pub use transport::Patience;
