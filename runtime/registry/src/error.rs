//! Why something of a registry was not had.
//!
//! The words are those of containerd where there are such, because that is what ECS shows and what people search for.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use neargate_image::ImportError;
use neargate_model::image::{Digest, ImageReference};

/// Why a request to a registry failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such manifest or blob.
    #[error("{what}: not found")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Whoever asks may not have it, or it does not exist: registries do not tell which.
    #[error(
        "pull access denied, repository does not exist or may require authorization: server message: {message}"
    )]
    Denied {
        /// What the registry says.
        message: String,
    },
    /// The registry wants fewer requests.
    #[error("unexpected status from {url}: 429 Too Many Requests - Server message: {message}")]
    TooManyRequests {
        /// What was asked.
        url: String,
        /// What the registry says.
        message: String,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
    /// Another status than was to be expected.
    #[error("unexpected status from {url}: {status}{}", said(message))]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: http::StatusCode,
        /// What the registry says; may be empty.
        message: String,
    },
    /// No connection, or one that broke.
    #[error("failed to do request: {url}")]
    Connection {
        /// What was asked.
        url: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing came for too long.
    #[error("failed to do request: {url}: {what}: i/o timeout")]
    Timeout {
        /// What was asked.
        url: String,
        /// What was waited for.
        what: &'static str,
    },
    /// A registry leads to where it may not.
    #[error("{url} leads to {place}, which is refused: {why}")]
    Refused {
        /// What was asked.
        url: String,
        /// Where it leads.
        place: String,
        /// The rule.
        why: &'static str,
    },
    /// An answer that a registry does not give.
    #[error("{url} answered what no registry does: {what}")]
    Protocol {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// Credentials could not be read.
    #[error("read credentials for {registry}")]
    Credentials {
        /// The registry.
        registry: String,
        /// What went wrong.
        #[source]
        source: CredentialError,
    },
    /// The certificates that registries are checked against cannot be read.
    #[error("read the certificates that registries are checked against")]
    Certificates(#[source] io::Error),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" - Server message: {message}") }
}

impl RequestError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TooManyRequests { .. } | Self::Timeout { .. } => true,
            Self::Connection { source, .. } => !crate::reach::is_hopeless(source.as_ref()),
            Self::Status { status, .. } => status.is_server_error() || status.as_u16() == 408,
            Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Refused { .. }
            | Self::Protocol { .. }
            | Self::Credentials { .. }
            | Self::Certificates(_) => false,
        }
    }
}

/// Why credentials could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file that is there cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A file is not what Docker and Podman write.
    #[error("read {}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A program that keeps credentials failed.
    #[error("run docker-credential-{helper}: {what}")]
    Helper {
        /// Its name.
        helper: String,
        /// What became of it.
        what: String,
    },
}

/// Why an image was not pulled. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference leads to no image that can be had.
    #[error("pull image manifest has been retried {} time(s): failed to resolve ref {reference}", (*attempts).max(1))]
    Resolve {
        /// The reference.
        reference: Box<ImageReference>,
        /// How often it was tried.
        attempts: u32,
        /// What went wrong at last.
        #[source]
        source: RequestError,
    },
    /// A configuration or layer cannot be had.
    #[error("ref pull has been retried {} time(s): failed to copy {digest}", (*attempts).max(1))]
    Fetch {
        /// The blob.
        digest: Digest,
        /// How often it was tried without getting further.
        attempts: u32,
        /// What went wrong at last.
        #[source]
        source: RequestError,
    },
    /// The registry's manifest is another one than was asked for.
    #[error("failed to resolve ref {reference}: the registry answered {actual} instead of {expected}")]
    WrongDigest {
        /// The reference.
        reference: Box<ImageReference>,
        /// What the reference or the registry says.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The image cannot be put into the store.
    #[error("failed to extract the image")]
    Store(#[from] ImportError),
    /// A file of the download cannot be written.
    #[error("failed to write blob {digest}")]
    Write {
        /// The blob.
        digest: Digest,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A part of the pull ended unexpectedly.
    #[error("the pull was ended")]
    Ended,
}

/// Why the file that configures registries is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("read {}; docs/images.md says what it may hold", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A value in it.
    #[error("{}: {what} {value:?} of registry {registry:?}: {rule}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The registry that it is about.
        registry: String,
        /// The member.
        what: &'static str,
        /// The value.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
}
