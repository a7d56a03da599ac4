//! The content-addressed image store: imports images, unpacks their layers, and resolves references to what a
//! driver runs.
//!
//! ```text
//! lock                   held shared while something is added, alone while something is collected
//! blobs/sha256/ab/<hex>  manifests, configurations, compressed layers, Wasm binaries; named by their digest
//! layers/<diffID>/       unpacked layers, complete by construction; overlayfs lower directories
//! refs/<escaped name>    one JSON record for each name; written last, so that a name never leads to a half image
//! held/<holder>/<hex>    blobs that a repository of the registry has
//! uploads/<holder>/<id>  blobs that are being sent to one
//! pins/<hex>             locked by processes whose tasks use the image
//! tmp/<pid>-<n>/         unfinished files of one operation, locked by it
//! ```
//!
//! Several processes may use one store. Whatever appears under its final name was complete, verified and synced
//! before; readers therefore take no lock. Calls block: an async caller makes them on a blocking thread.
//! Nothing here pulls from a registry: a puller brings the same blobs and ends with the same commit.

#![forbid(unsafe_code)]

mod adopt;
mod archive;
mod commit;
mod document;
mod error;
mod files;
mod gc;
mod held;
mod import;
mod layers;
mod pack;
mod record;
mod stage;
mod store;
mod tree;
mod unpack;
mod upload;
mod wasm;

pub use commit::Imported;
pub use document::{DocumentError, ImageConfig, NoPlatform, Platform};
pub use error::{
    Damage, FileError, ImportError, LayerError, OpenError, PackError, PinError, RemoveError, ResolveError,
};
pub use files::{LayerFiles, OwnLayerFiles};
pub use gc::{Pin, Reclaimed, Removed};
pub use held::{Held, Holder};
pub use pack::{Compression, PackOptions};
pub use record::Kind;
pub use store::{ImageDetail, ImageKind, ImageStore, ImageSummary, LayerDetail, Options, ResolvedImage};
pub use unpack::{Limits, Ownership, Reason, UnpackError, Unpacked, diff_id, unpack};
pub use upload::{BLOB_BYTES_MAX, UPLOADS_MAX, Upload, UploadError};
pub use wasm::WasmFormat;
