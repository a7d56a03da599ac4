//! Large files on their way to the disk while they are written.
//!
//! The kernel keeps dirty pages for half a minute or until a tenth of the memory is dirty (`vm.dirty_*`), so that without
//! a word all of an image would go to the disk at its end, in the one sync that its commit waits for.

use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;

use rustix::fs::{Advice, fadvise};

/// Written out at a time; files below are left to the sync.
const BYTES: u64 = 8 << 20;

/// How far a file has been handed to the disk.
#[derive(Debug, Default)]
pub(crate) struct WriteOut {
    begun: u64,
}

impl WriteOut {
    /// Has the disk begin with what was written up to `end`, if that has become much.
    pub(crate) fn reached(&mut self, file: BorrowedFd<'_>, end: u64) {
        let Some(length) = NonZeroU64::new(end.saturating_sub(self.begun)).filter(|n| n.get() >= BYTES)
        else {
            return;
        };
        // It begins to write dirty pages and waits for none (mm/fadvise.c); clean ones that nobody reads any more go. That it
        // may fail costs time at most.
        let _ = fadvise(file, self.begun, Some(length), Advice::DontNeed);
        self.begun = end;
    }
}
