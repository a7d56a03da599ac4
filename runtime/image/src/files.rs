//! What is done with files of foreign owners: those of unpacked layers.
//!
//! Everything else in a store belongs to its user. That these are apart lets a store be used by somebody who may
//! not give files away, with another process that may and that reads nothing but layers.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use neargate_model::image::Digest;

use crate::tree;
use crate::unpack::{self, Limits, Ownership, UnpackError, Unpacked};

/// Looks after unpacked layers. Calls block, and come from many threads.
pub trait LayerFiles: fmt::Debug + Send + Sync {
    /// Unpacks a layer (tar, plain or compressed) into an empty directory, as [`unpack`](crate::unpack) does.
    fn unpack(
        &self,
        layer: File,
        directory: &Path,
        limits: &Limits,
        ownership: Ownership,
    ) -> Result<Unpacked, UnpackError>;

    /// The digest of a layer's uncompressed archive, without unpacking it.
    fn diff_id(&self, layer: File, limits: &Limits) -> Result<Digest, UnpackError>;

    /// Moves a tree to another name on the same file system.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file or a tree, following no link; that there is none is no error.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Bytes of the regular files of a tree; what cannot be read counts nothing.
    fn size(&self, path: &Path) -> io::Result<u64>;
}

/// Does it in this process, with the rights that it has.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnLayerFiles;

impl LayerFiles for OwnLayerFiles {
    fn unpack(
        &self,
        layer: File,
        directory: &Path,
        limits: &Limits,
        ownership: Ownership,
    ) -> Result<Unpacked, UnpackError> {
        let wrong = |source| {
            let (action, member) = ("open", directory.display().to_string());
            UnpackError::Write { action, member, source }
        };
        let root = File::open(directory).map_err(wrong)?;
        unpack::unpack(layer, root.as_fd(), limits, ownership)
    }

    fn diff_id(&self, layer: File, limits: &Limits) -> Result<Digest, UnpackError> {
        unpack::diff_id(layer, limits)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        tree::remove(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(tree::size(path))
    }
}
