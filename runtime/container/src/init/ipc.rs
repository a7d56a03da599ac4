//! The IPC namespace that the containers of a task share, and their `/dev/shm`.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};

use super::mounts;
use crate::failure::{Failure, Step};
use crate::launchpad::SHM_DIR;
use crate::sys;

/// Moves the calling process, in the launch namespace, to a new IPC namespace of the task's user namespace, and to a mount
/// namespace of it where a `/dev/shm` of `shm_bytes` is in [`SHM_DIR`].
pub(crate) fn make_shared_ipc(userns: BorrowedFd<'_>, shm_bytes: u64) -> Result<(), Failure> {
    sys::setns(userns, libc::CLONE_NEWUSER).step("enter user namespace")?;
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC).step("make namespaces")?;
    sys::set_ids(0, 0, &[]).step("become root of the task")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step("make mounts private")?;
    let shm = mounts::new_shm(shm_bytes).step("make /dev/shm")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(SHM_DIR, flags, Mode::empty()).step("open place of /dev/shm")?;
    mounts::attach(shm.as_fd(), place.as_fd()).step("mount /dev/shm")
}

/// A copy of the mount of the task's `/dev/shm`, for a process in a copy of that mount namespace.
pub(super) fn clone_shm() -> rustix::io::Result<std::os::fd::OwnedFd> {
    open_tree(CWD, Path::new(SHM_DIR), OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE)
}
