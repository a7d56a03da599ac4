//! Repositories of the registry, and the images in them.
//!
//! ```text
//! repository ─┬─ image: a manifest, by digest ── its tags
//!             └─ blobs, kept by the image store
//! ```
//!
//! A record tells of a manifest what lists show of it; the manifest itself is a blob.

mod lifecycle;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::iam::ResourcePolicy;
use crate::image::Digest;
use crate::{ImageTag, RepositoryName, Tags, Timestamp};

pub use lifecycle::{Expiry, LifecyclePolicy, MalformedLifecycle, RULES_MAX, Rule, Selection, TagStatus};

/// Most repositories of an account in a region (ECR User Guide, "Amazon ECR service quotas").
pub const REPOSITORIES_MAX: usize = 100_000;
/// Most images of a repository. ECR has 100,000; here each is a record that a sweep reads.
pub const IMAGES_MAX: usize = 20_000;
/// Most tags of an image: they are in its record. ECR has 1,000.
pub const TAGS_PER_IMAGE_MAX: usize = 1_000;
/// Most bytes of a repository's policy (ECR API reference, SetRepositoryPolicy).
pub const POLICY_LEN_MAX: usize = 10_240;
/// Most bytes of a lifecycle policy (ECR API reference, PutLifecyclePolicy).
pub const LIFECYCLE_LEN_MAX: usize = 30_720;

/// Whether a tag may be given to another image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mutability {
    /// It may.
    #[default]
    Mutable,
    /// It may not.
    Immutable,
}

/// A repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repository {
    /// Its name.
    pub name: RepositoryName,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether its tags may move.
    pub mutability: Mutability,
    /// How many images it has.
    pub images: usize,
    /// Tags of the repository itself.
    pub tags: Tags,
    /// Who else may do what with it.
    pub policy: Option<ResourcePolicy>,
    /// Which images are of no use any more.
    pub lifecycle: Option<LifecyclePolicy>,
    /// A lifecycle policy that somebody wants to see the effect of.
    #[serde(default)]
    pub preview: Option<LifecyclePolicy>,
    /// When images were last expired.
    #[serde(default)]
    pub swept_at: Option<Timestamp>,
    /// What the API that made it wants to show again.
    #[serde(default)]
    pub face: String,
}

/// An image: a manifest or an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The media type of its manifest.
    pub media_type: String,
    /// What it is, of an artifact.
    pub artifact_type: Option<String>,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
    /// Bytes of what its manifest names.
    pub content_bytes: u64,
    /// When it was pushed last.
    pub pushed_at: Timestamp,
    /// When it was pulled last, to the hour.
    pub pulled_at: Option<Timestamp>,
    /// Its tags.
    pub tags: BTreeSet<ImageTag>,
    /// The image that it is about.
    pub subject: Option<Digest>,
    /// The images that it is an index of.
    pub children: Vec<Digest>,
}

/// Why repositories and images were not read or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// There is no such repository.
    #[error("repository {name} does not exist")]
    RepositoryNotFound {
        /// The name.
        name: RepositoryName,
    },
    /// The name is taken.
    #[error("repository {name} exists already")]
    RepositoryExists {
        /// The name.
        name: RepositoryName,
    },
    /// It still has images.
    #[error("repository {name} still has images")]
    RepositoryNotEmpty {
        /// The name.
        name: RepositoryName,
    },
    /// There is no such image.
    #[error("image {reference} does not exist")]
    ImageNotFound {
        /// Its tag or digest.
        reference: String,
    },
    /// The image has this tag already.
    #[error("image {digest} has the tag {tag} already")]
    ImageExists {
        /// The image.
        digest: Digest,
        /// The tag.
        tag: String,
    },
    /// Another image has the tag, and tags do not move here.
    #[error("tag {tag} cannot be given to another image, because tags of the repository are immutable")]
    TagImmutable {
        /// The tag.
        tag: ImageTag,
    },
    /// An index still leads to the image.
    #[error("image {digest} is part of {index}")]
    InIndex {
        /// The image.
        digest: Digest,
        /// The index.
        index: Digest,
    },
    /// The repository has no policy of this kind.
    #[error("repository {name} has no {what}")]
    NoPolicy {
        /// The repository.
        name: RepositoryName,
        /// What it has not.
        what: &'static str,
    },
    /// Over a limit.
    #[error("{what} are limited to {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}
