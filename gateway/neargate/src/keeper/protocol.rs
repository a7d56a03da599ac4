//! What is said between the server and its processes that keep files.

use std::error::Error;
use std::io;

use neargate_image::{Limits, Ownership, UnpackError, Unpacked};
use neargate_ipc::{wire_enum, wire_struct};
use neargate_model::image::Digest;

wire_enum! {
    /// What the keeper of files is asked for. A path begins with the name of the directory that it is below.
    pub(super) enum Request {
        /// Remove a file or a tree.
        0 => Remove { path: Vec<u8> },
        /// Move a tree.
        1 => Rename { from: Vec<u8>, to: Vec<u8> },
        /// Tell the bytes of the files of a tree.
        2 => Size { path: Vec<u8> },
        /// Give a directory to the containers' root.
        3 => Give { path: Vec<u8> },
        /// Tell what a tree takes up on the disk, if it is not more than enough.
        4 => Usage { path: Vec<u8>, enough: u64 },
        /// Remove everything in a directory.
        5 => Clear { path: Vec<u8> },
    }
}

wire_enum! {
    /// What it answers.
    pub(super) enum Response {
        /// It is done.
        0 => Done {},
        /// So many.
        1 => Bytes { bytes: u64 },
        /// It cannot be measured: directories are nested too deep.
        2 => TooDeep {},
        /// It could not be done.
        3 => Failed { errno: Option<i32>, text: String },
    }
}

impl Response {
    /// Tells an error.
    pub(super) fn failed(error: &io::Error) -> Self {
        Self::Failed { errno: error.raw_os_error(), text: error.to_string() }
    }
}

wire_struct! {
    /// What an unpacker is to do with the layer whose descriptor it has.
    pub(super) struct UnpackOrder {
        /// Whether it has a directory to unpack into; else it only reads.
        unpacks: bool,
        /// Whether files get their owners.
        preserves: bool,
        entries_max: u64,
        depth_max: u64,
        bytes_max: u64,
        ratio_max: u64,
    }
}

impl UnpackOrder {
    pub(super) fn new(unpacks: bool, limits: &Limits, ownership: Ownership) -> Self {
        Self {
            unpacks,
            preserves: ownership == Ownership::Preserve,
            entries_max: limits.entries,
            depth_max: limits.depth as u64,
            bytes_max: limits.bytes,
            ratio_max: limits.ratio,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            entries: self.entries_max,
            depth: usize::try_from(self.depth_max).unwrap_or(usize::MAX),
            bytes: self.bytes_max,
            ratio: self.ratio_max,
        }
    }

    pub(super) fn ownership(&self) -> Ownership {
        if self.preserves { Ownership::Preserve } else { Ownership::Caller }
    }
}

wire_enum! {
    /// What an unpacker tells at its end.
    pub(super) enum Unpacking {
        /// The layer was read, and unpacked if that was the order.
        0 => Done { diff_id: String, entries: u64, bytes: u64, skipped: u64 },
        /// The disk is full.
        1 => NoSpace { member: String },
        /// Another error, and what caused it.
        2 => Failed { text: String, cause: Option<String> },
    }
}

impl From<Result<Unpacked, UnpackError>> for Unpacking {
    fn from(result: Result<Unpacked, UnpackError>) -> Self {
        match result {
            Ok(Unpacked { diff_id, entries, bytes, skipped }) => {
                Self::Done { diff_id: diff_id.to_string(), entries, bytes, skipped }
            }
            Err(UnpackError::NoSpace { member }) => Self::NoSpace { member },
            Err(error) => {
                let cause = error.source().map(neargate_model::chain);
                Self::Failed { text: error.to_string(), cause }
            }
        }
    }
}

impl Unpacking {
    /// What the caller is told.
    pub(super) fn unpacked(self) -> Result<Unpacked, UnpackError> {
        match self {
            Self::Done { diff_id, entries, bytes, skipped } => {
                let unreadable = |error| UnpackError::Process { source: io::Error::other(error) };
                let diff_id: Digest = diff_id.parse().map_err(unreadable)?;
                Ok(Unpacked { diff_id, entries, bytes, skipped })
            }
            Self::NoSpace { member } => Err(UnpackError::NoSpace { member }),
            Self::Failed { text, cause } => {
                Err(UnpackError::Told { text, source: cause.map(io::Error::other) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use neargate_ipc::wire::{decode, encode};
    use neargate_model::chain;

    use super::*;

    #[test]
    fn an_error_says_the_same_on_both_sides() {
        let check = |error: UnpackError| {
            let before = chain(&error);
            let told: Unpacking = decode(&encode(&Unpacking::from(Err(error)))).unwrap();
            let after = told.unpacked().unwrap_err();
            assert_eq!(chain(&after), before);
            after
        };
        let member = || "etc/passwd".to_owned();
        let source = io::Error::from_raw_os_error(5);
        check(UnpackError::Write { action: "create file", member: member(), source });
        check(UnpackError::Read { member: member(), source: io::Error::other("bad block") });
        check(UnpackError::TooLarge { what: "members", limit: 3 });
        let full = check(UnpackError::NoSpace { member: member() });
        assert!(matches!(full, UnpackError::NoSpace { .. }), "{full:?}");
    }

    #[test]
    fn an_order_keeps_its_limits() {
        let limits = Limits { entries: 1, depth: 2, bytes: 3, ratio: 4 };
        let order = UnpackOrder::new(true, &limits, Ownership::Preserve);
        let order: UnpackOrder = decode(&encode(&order)).unwrap();
        let found = order.limits();
        assert_eq!((found.entries, found.depth, found.bytes, found.ratio), (1, 2, 3, 4));
        assert_eq!(order.ownership(), Ownership::Preserve);
    }
}
