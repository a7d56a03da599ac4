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
//! notes/<hex>            which registries have handed a blob out, and what it unpacks to; hints
//! pins/<hex>             locked by processes whose tasks use the image
//! tmp/<pid>-<n>/         unfinished files of one operation, locked by it
//! ```
//!
//! Several processes may use one store. Whatever appears under its final name was complete, verified and synced
//! before; readers therefore take no lock. Calls block: an async caller makes them on a blocking thread.
//! Nothing here speaks to a registry: [`Pull`] takes what a client of one brings, and ends with the commit of every import.

#![forbid(unsafe_code)]

mod adopt;
mod archive;
mod commit;
mod document;
mod error;
mod files;
mod gc;
mod growing;
mod held;
mod import;
mod layers;
mod note;
mod pack;
mod pull;
mod record;
mod stage;
mod store;
mod tidy;
mod tree;
mod unpack;
mod upload;
mod wasm;
mod write_out;

pub use commit::Imported;
pub use document::{DocumentError, HistoryStep, ImageConfig, InvalidPlatform, NoPlatform, Platform};
pub use error::{
    Damage, FileError, ImportError, LayerError, OpenError, PackError, PinError, RemoveError, ResolveError,
};
pub use files::{LayerFiles, OwnLayerFiles};
pub use gc::{Pin, Reclaimed, Removed};
pub use growing::{GrowingWriter, Pieces};
pub use held::{Held, Holder};
pub use pack::{Compression, PackOptions};
pub use pull::{BlobRef, DOCUMENT_BYTES_MAX, Incoming, Next, Pull, PullLayer};
pub use record::Kind;
pub use store::{ImageDetail, ImageKind, ImageStore, ImageSummary, LayerDetail, Options, ResolvedImage};
pub use tidy::{Tidied, TidyOptions};
pub use unpack::{Limits, Ownership, Reason, UnpackError, Unpacked, diff_id, unpack};
pub use upload::{BLOB_BYTES_MAX, UPLOADS_MAX, Upload, UploadError};
pub use wasm::WasmFormat;
