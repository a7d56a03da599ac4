//! How much is left of the disk that holds the data directory: measured here for all who want to know.
//!
//! Control asks before it accepts something, the store before it makes up for its reserve, and `neargate doctor` shows
//! it. Below [`Space::low_bytes`] no task is accepted; below [`Space::full_bytes`] only what ends or removes something.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use neargate_control::{Disk, DiskRoom};
use tokio_util::sync::CancellationToken;

/// What the store keeps for a full disk, in its database and in its WAL each, in bytes. The end of a task writes three
/// or four pages of 4 KiB to the WAL, and may add one to the database, so that this is enough for two thousand.
pub(crate) const RESERVE_BYTES: u64 = 8 << 20;

/// How many times the reserve must be free before it is made, so that the disk is not filled by it.
const RESERVE_ROOM: u64 = 3;

/// A disk has room for new tasks while one part in so many is free, or [`LOW_BYTES_MAX`]: of a large disk less is enough.
const LOW_PART: u64 = 20;
const LOW_BYTES_MAX: u64 = 4 << 30;

/// A disk is full when one part in so many is free, or [`FULL_BYTES_MAX`].
const FULL_PART: u64 = 100;
const FULL_BYTES_MAX: u64 = 64 << 20;

/// How often the log tells how the disk stands, should that have changed.
const INTERVAL: Duration = Duration::from_secs(5);

/// A file system at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// What is free for a process that is not root, in bytes.
    pub(crate) free_bytes: u64,
    /// Its size in bytes.
    pub(crate) size_bytes: u64,
}

impl Space {
    /// Of the file system that a directory is on.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        Ok(Self { free_bytes: stat.f_bavail * stat.f_frsize, size_bytes: stat.f_blocks * stat.f_frsize })
    }

    /// Below this no task is accepted.
    pub(crate) fn low_bytes(self) -> u64 {
        (self.size_bytes / LOW_PART).min(LOW_BYTES_MAX)
    }

    /// Below this nothing is accepted that makes the store larger.
    pub(crate) fn full_bytes(self) -> u64 {
        (self.size_bytes / FULL_PART).min(FULL_BYTES_MAX)
    }

    pub(crate) fn room(self) -> DiskRoom {
        match self.free_bytes {
            free if free < self.full_bytes() => DiskRoom::Full,
            free if free < self.low_bytes() => DiskRoom::Low,
            _ => DiskRoom::Ample,
        }
    }

    /// Whether the store may make up for its reserve.
    pub(crate) fn takes_reserve(self) -> bool {
        self.free_bytes >= self.full_bytes() + RESERVE_ROOM * RESERVE_BYTES
    }
}

/// The disk of a data directory. Says in the log when it stands otherwise than before.
pub(crate) struct DataDisk {
    directory: PathBuf,
    last: Mutex<DiskRoom>,
}

impl DataDisk {
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), last: Mutex::default() }
    }

    /// Looks at the disk until the end, so that the log tells also when nobody asks.
    pub(crate) async fn watch(&self, end: CancellationToken) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = tick.tick() => drop(self.room()),
            }
        }
    }

    fn tell(&self, space: Space) {
        let (free_mib, low_mib) = (space.free_bytes >> 20, space.low_bytes() >> 20);
        match space.room() {
            DiskRoom::Ample => {
                tracing::info!(free_mib, low_mib, "the disk has room again: tasks are accepted")
            }
            DiskRoom::Low => {
                tracing::warn!(free_mib, low_mib, "the disk is nearly full: no task is accepted")
            }
            DiskRoom::Full => {
                tracing::error!(
                    free_mib,
                    low_mib,
                    "the disk is full: nothing new is accepted, and ends are recorded"
                );
            }
        }
    }
}

impl Disk for DataDisk {
    fn room(&self) -> DiskRoom {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be measured is as it was: the directory is open and in use, so that this is no common fault.
        let Ok(space) = Space::of(&self.directory) else { return *last };
        if space.room() != *last {
            *last = space.room();
            self.tell(space);
        }
        *last
    }
}

/// A disk that is not looked at, for a task of the caller's own.
pub(crate) struct AnyDisk;

impl Disk for AnyDisk {
    fn room(&self) -> DiskRoom {
        DiskRoom::Ample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_the_disk_the_less_must_be_free() {
        const GIB: u64 = 1 << 30;
        let check = |free_bytes, size_bytes, expect| {
            assert_eq!(Space { free_bytes, size_bytes }.room(), expect, "{free_bytes} of {size_bytes}");
        };
        check(GIB, 20 * GIB, DiskRoom::Ample);
        check(GIB - 1, 20 * GIB, DiskRoom::Low);
        check(4 * GIB, 1000 * GIB, DiskRoom::Ample);
        check(4 * GIB - 1, 1000 * GIB, DiskRoom::Low);
        check(64 << 20, 1000 * GIB, DiskRoom::Low);
        check((64 << 20) - 1, 1000 * GIB, DiskRoom::Full);
        check(10, 1000, DiskRoom::Low);
        check(9, 1000, DiskRoom::Full);
        check(0, 1000, DiskRoom::Full);
    }
}
