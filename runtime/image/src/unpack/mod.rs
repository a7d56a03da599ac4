//! Unpacks a layer into a directory, in the form that overlayfs takes as a lower directory.
//!
//! Nothing here trusts the archive: every path is opened relative to the root's descriptor with
//! `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so no member is ever written through a symbolic link or
//! outside the root, and everything has a limit. Whiteouts become character devices 0:0 and opaque directories
//! the attribute `overlay.opaque` (kernel `Documentation/filesystems/overlayfs.rst`).

mod extract;
pub(crate) mod member;
pub(crate) mod stream;

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use neargate_model::image::Digest;

use extract::Extractor;
use member::Members;
use stream::{LayerStream, over_limit};

/// What one layer may cost. The defaults let the largest public images pass.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Members.
    pub entries: u64,
    /// Directories below one another; removing a tree recurses this deep.
    pub depth: usize,
    /// Bytes of the uncompressed archive.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed one, judged after the first 64 MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 500_000, depth: 256, bytes: 32 << 30, ratio: 200 }
    }
}

/// Whether files get the owners that the archive names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// As in the archive, with file capabilities, and `trusted.overlay.*` for opaque directories; needs root.
    Preserve,
    /// All files belong to the caller, file capabilities are dropped, and opaque directories are marked with
    /// `user.overlay.*`, for overlays mounted with `userxattr` in a user namespace.
    Caller,
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed archive, to be compared with the image's.
    pub diff_id: Digest,
    /// Members that were read.
    pub entries: u64,
    /// Bytes of file contents written.
    pub bytes: u64,
    /// Members that were left out: device nodes and AUFS metadata.
    pub skipped: u64,
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive ends early, or its compression is damaged.
    #[error("read the archive at or after member {member:?}; it is damaged or incomplete")]
    Read {
        /// The last member whose header could be read; empty before the first.
        member: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A member that is malformed, ambiguous or hostile.
    #[error("member {member:?} is refused: {reason}")]
    Member {
        /// Its path, or that of the member before when its own cannot be read.
        member: String,
        /// The rule that it breaks.
        reason: Reason,
    },
    /// The archive is larger than the limits allow.
    #[error("the archive has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// A file could not be written.
    #[error("{action} {member:?}")]
    Write {
        /// The attempt, for example `create file`.
        action: &'static str,
        /// The member's path.
        member: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The file system or the quota is full.
    #[error("no space left to unpack {member:?}; free some space, or remove images")]
    NoSpace {
        /// The member's path.
        member: String,
    },
    /// One of the above, as the process tells it that has unpacked.
    #[error("{text}")]
    Told {
        /// The error.
        text: String,
        /// Its cause, if it has one.
        #[source]
        source: Option<io::Error>,
    },
    /// The process that was to unpack did not start, or was ended.
    #[error("unpack in a process of its own")]
    Process {
        /// What became of it.
        #[source]
        source: io::Error,
    },
}

/// The rule that a refused member breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// `..` would leave the directory.
    #[error("its path contains \"..\"")]
    DotDot,
    /// The path is empty, too long, or holds a NUL.
    #[error("its path is longer than 4095 bytes, has a part longer than 255 bytes, or contains a NUL")]
    Path,
    /// A non-directory at the root itself.
    #[error("it would replace the root directory")]
    Root,
    /// Writing through a symbolic link.
    #[error("a directory in its path is a symbolic link")]
    SymlinkParent,
    /// Writing below a file.
    #[error("a part of its path is not a directory")]
    FileParent,
    /// A whiteout of nothing, of `.` or of `..`.
    #[error("it is not a valid whiteout")]
    Whiteout,
    /// A symbolic link without a target, or with one longer than 4095 bytes.
    #[error("its link target is empty, too long, or contains a NUL")]
    LinkTarget,
    /// A hard link out of the directory.
    #[error("its hard link target contains \"..\"")]
    LinkDotDot,
    /// A hard link to nothing.
    #[error("its hard link target is not an earlier file of the same archive")]
    LinkMissing,
    /// The header's checksum does not match.
    #[error("its header has a wrong checksum")]
    Checksum,
    /// A number in the header cannot be read.
    #[error("its header has a malformed number")]
    Header,
    /// A PAX record cannot be read.
    #[error("its PAX header is malformed")]
    Pax,
    /// A global PAX header that tools disagree about.
    #[error("a global PAX header changes later members")]
    GlobalPax,
    /// Two headers name the same member.
    #[error("two headers name the same member")]
    TwoNames,
    /// A header for a member that does not come.
    #[error("a header describes a member that does not follow")]
    NoMember,
    /// One zero block, which tools disagree about.
    #[error("a single zero block stands between members")]
    LoneZeroBlock,
    /// Data after something that has none.
    #[error("it has data although it is not a file")]
    DataWithoutFile,
    /// uid or gid beyond 32 bits.
    #[error("its owner is not a 32-bit number")]
    Owner,
    /// Sparse members, which no image builder writes.
    #[error("it is a sparse file; pack it without --sparse")]
    Sparse,
    /// A type that is not known.
    #[error("its type is not known")]
    MemberType,
}

/// Unpacks the layer in `reader` (tar, plain or compressed with gzip or zstd) into the empty directory `root`.
///
/// The stream is read to its end. Where owners are kept, `root` belongs to root unless the archive says otherwise. On error the directory holds a part of the layer and must be removed.
pub fn unpack(
    reader: impl Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
    ownership: Ownership,
) -> Result<Unpacked, UnpackError> {
    let mut members = Members::new(open(reader, limits)?);
    let mut extractor = Extractor::new(root, limits, ownership);
    extractor.begin()?;
    let mut entries = 0;
    while let Some(member) = members.next()? {
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::TooLarge { what: "members", limit: limits.entries });
        }
        extractor.place(&member, &mut members)?;
    }
    let (bytes, skipped) = extractor.finish()?;
    let diff_id = finish(members)?;
    Ok(Unpacked { diff_id, entries, bytes, skipped })
}

/// The digest of the uncompressed archive in `reader`, without unpacking it.
pub fn diff_id(reader: impl Read, limits: &Limits) -> Result<Digest, UnpackError> {
    finish(Members::new(open(reader, limits)?))
}

pub(crate) fn open<'a>(reader: impl Read + 'a, limits: &Limits) -> Result<LayerStream<'a>, UnpackError> {
    LayerStream::new(reader, limits).map_err(|source| UnpackError::Read { member: String::new(), source })
}

fn finish(members: Members<LayerStream<'_>>) -> Result<Digest, UnpackError> {
    members.into_inner().finish().map_err(|source| match over_limit(&source) {
        Some(over) => UnpackError::TooLarge { what: over.what, limit: over.limit },
        None => UnpackError::Read { member: "(end of archive)".to_owned(), source },
    })
}
