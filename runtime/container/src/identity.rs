//! The user that a program becomes when it has started what needs root.

use std::io;

use rustix::thread::CapabilitySet;

use crate::failure::Failure;
use crate::fence;
use crate::spawn::{SpawnError, check_threads};
use crate::sys;

/// What a program may still do that has become another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// What the user may.
    Own,
    /// Also read every file (DAC_READ_SEARCH, capabilities(7)).
    ReadAll,
}

/// Makes this process another user's, for good: without supplementary groups, with the capabilities of `rights` and no
/// others in any set, and without a way to new ones (`no_new_privs`). Its memory is closed to other processes of the
/// user. Must be called before this process has a second thread, which would keep its rights.
pub fn become_user(uid: u32, gid: u32, rights: Rights) -> Result<(), SpawnError> {
    check_threads()?;
    change(uid, gid, rights).map_err(|source| SpawnError::User { uid, source })
}

fn change(uid: u32, gid: u32, rights: Rights) -> io::Result<()> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let kept = match rights {
        Rights::Own => CapabilitySet::empty(),
        Rights::ReadAll => permitted & CapabilitySet::DAC_READ_SEARCH,
    };
    if !kept.is_empty() {
        // Else all are gone with user 0 (capabilities(7)).
        sys::prctl(libc::PR_SET_KEEPCAPS, 1)?;
    }
    fence::empty_bounding_set().map_err(into_io)?;
    sys::set_ids(uid, gid, &[])?;
    fence::keep_capabilities(kept).map_err(into_io)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Has the files that this process makes belong to a user, while it keeps its rights over all others. Must be called before
/// this process has a second thread.
pub fn make_files_of(uid: u32, gid: u32) -> Result<(), SpawnError> {
    check_threads()?;
    let change = || {
        let before = rustix::thread::capabilities(None)?;
        sys::set_fs_ids(uid, gid)?;
        // The rights over files went out of effect with user 0 (setfsuid(2)).
        rustix::thread::set_capabilities(None, before).map_err(io::Error::from)
    };
    change().map_err(|source| SpawnError::User { uid, source })
}

fn into_io(failure: Failure) -> io::Error {
    io::Error::other(failure.into_process())
}
