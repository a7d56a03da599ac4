//! Why an operation on the store failed: one enum for each family of operations.

use std::io;
use std::path::{Path, PathBuf};

use neargate_model::image::{Digest, ImageReference, InvalidReference};
use rustix::io::Errno;

use crate::document::{DocumentError, NoPlatform};
use crate::unpack::UnpackError;

/// One failed operation on a file of the store, or on a file that the caller named.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    /// The attempt, for example `create`.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

/// Adds attempt and path to an I/O error.
pub(crate) fn at<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source: source.into() }
}

/// Whether the disk or the quota is full.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::NOSPC.raw_os_error()) || code == Some(Errno::DQUOT.raw_os_error())
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory of the store could not be made or read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Others can write to the store's directory, so nothing in it can be trusted.
    #[error("open image store {}: it belongs to uid {owner}, not to us; use another --data directory", path.display())]
    ForeignOwner {
        /// The store's directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
    },
}

/// Why a layer was not put into the store.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's archive is damaged, hostile or too large.
    #[error("unpack layer {layer}")]
    Unpack {
        /// Digest of the layer's blob.
        layer: Digest,
        /// What is wrong with it.
        #[source]
        source: UnpackError,
    },
    /// The layer is not what the image's configuration says it is.
    #[error(
        "layer {layer} unpacks to {actual}, but the image's configuration says {expected}; the image is damaged"
    )]
    WrongDiffId {
        /// Digest of the layer's blob.
        layer: Digest,
        /// The diffID of the configuration.
        expected: Digest,
        /// The diffID of the content.
        actual: Digest,
    },
    /// A file of the store could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl LayerError {
    fn no_space(&self) -> Option<PathBuf> {
        match self {
            LayerError::Unpack { source: UnpackError::NoSpace { member }, .. } => Some(member.into()),
            LayerError::File(error) if is_no_space(&error.source) => Some(error.path.clone()),
            _ => None,
        }
    }
}

/// Why something was not imported. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The input is nothing that holds an image.
    #[error(
        "{input} is not an image: it is {found}; expected an OCI image layout, a docker save archive or a .wasm file"
    )]
    NotAnImage {
        /// What was imported.
        input: String,
        /// What it looks like.
        found: &'static str,
    },
    /// A damaged or hostile outer archive.
    #[error("read image archive {input}")]
    Archive {
        /// What was imported.
        input: String,
        /// The member and what is wrong with it.
        #[source]
        source: UnpackError,
    },
    /// A file that another one names is not there.
    #[error("image has no {member}, which {wanted_by} names; the archive is incomplete, save it again")]
    Missing {
        /// The missing member.
        member: String,
        /// Who names it.
        wanted_by: String,
    },
    /// Content that does not have the digest or the size by which it is named.
    #[error("{member} is {actual_size} bytes of {actual}, not {expected_size} of {expected}; it is damaged")]
    WrongContent {
        /// The member.
        member: String,
        /// The digest by which it is named.
        expected: Digest,
        /// The digest of what is there.
        actual: Digest,
        /// The size by which it is named.
        expected_size: u64,
        /// The size of what is there.
        actual_size: u64,
    },
    /// A manifest, index or configuration that cannot be read.
    #[error("read {member} of the image")]
    Document {
        /// The member.
        member: String,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// A layer that is damaged or hostile.
    #[error(transparent)]
    Layer(LayerError),
    /// The image is for other machines.
    #[error(transparent)]
    Platform(#[from] NoPlatform),
    /// An image of a kind that cannot run here.
    #[error("{what} cannot run here; {advice}")]
    Unsupported {
        /// What it is.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// A damaged or unusable Wasm binary.
    #[error("{input} is not a usable Wasm binary: {reason}")]
    Wasm {
        /// The file.
        input: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive holds several images.
    #[error("the archive holds {} images ({}); choose one by name", names.len(), names.join(", "))]
    Ambiguous {
        /// The names in the archive.
        names: Vec<String>,
    },
    /// The image's own name is not a name.
    #[error("the image's own name cannot be used; give it one with --name")]
    Name(#[source] InvalidReference),
    /// A limit of the importer.
    #[error("the image has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// The file system or the quota is full.
    #[error("no space left for {}; free some space, or remove images", path.display())]
    NoSpace {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(FileError),
}

impl From<FileError> for ImportError {
    fn from(error: FileError) -> Self {
        if is_no_space(&error.source) { Self::NoSpace { path: error.path } } else { Self::File(error) }
    }
}

impl From<LayerError> for ImportError {
    fn from(error: LayerError) -> Self {
        match error.no_space() {
            Some(path) => Self::NoSpace { path },
            None => Self::Layer(error),
        }
    }
}

/// Why a directory was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the directory could not be read.
    #[error(transparent)]
    File(FileError),
    /// A device node or a socket.
    #[error("pack {}: {kind} cannot be in an image; remove it", path.display())]
    FileType {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file changed while it was read.
    #[error("pack {}: it changed meanwhile; try again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The image could not be stored.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// Why a reference leads to no usable image.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no such image here; it can be imported or pulled.
    #[error("image {name} is not in the store; import or pull it first")]
    NotFound {
        /// The reference.
        name: ImageReference,
    },
    /// The store holds the image, but a part of it is missing or damaged.
    #[error("image {name} is damaged; remove and import it again")]
    Damaged {
        /// The reference.
        name: ImageReference,
        /// What is wrong.
        #[source]
        source: Box<Damage>,
    },
    /// A layer could not be unpacked.
    #[error("unpack image {name}")]
    Layer {
        /// The reference.
        name: ImageReference,
        /// What went wrong.
        #[source]
        source: Box<LayerError>,
    },
    /// The file system or the quota is full.
    #[error("no space left for {}; free some space, or remove images", path.display())]
    NoSpace {
        /// The file that did not fit.
        path: PathBuf,
    },
    /// A file of the store could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ResolveError {
    pub(crate) fn layer(name: &ImageReference, error: LayerError) -> Self {
        match error.no_space() {
            Some(path) => Self::NoSpace { path },
            None => Self::Layer { name: name.clone(), source: Box::new(error) },
        }
    }
}

/// What is wrong with an image of the store.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A blob or a record is not there or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A document of the image cannot be read.
    #[error("read blob {digest}")]
    Document {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// A record of the store cannot be read.
    #[error("read record {}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The record is that of another name.
    #[error("record {} is that of {found}", path.display())]
    WrongRecord {
        /// The record.
        path: PathBuf,
        /// The name in it.
        found: String,
    },
    /// Configuration and manifest disagree about the layers.
    #[error("manifest {manifest} has {layers} layers, its configuration {diff_ids}")]
    LayerCount {
        /// The manifest.
        manifest: Digest,
        /// Layers in it.
        layers: usize,
        /// diffIDs in the configuration.
        diff_ids: usize,
    },
}

/// Why an image was not removed, or the store not tidied.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// There is no such image.
    #[error("image {name} is not in the store")]
    NotFound {
        /// The reference.
        name: ImageReference,
    },
    /// What is still in use cannot be told, so nothing was reclaimed.
    #[error("find out what images use; nothing was reclaimed")]
    Damaged(#[from] Damage),
    /// A file of the store could not be read or removed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why an image was not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The image was removed since it was resolved; resolve it again.
    #[error("image {digest} was removed meanwhile; resolve it again")]
    NotFound {
        /// The image.
        digest: Digest,
    },
    /// The pin's file could not be made.
    #[error(transparent)]
    File(#[from] FileError),
}
