//! The process that holds the router's namespace, so that it outlives the supervisor, and how the next one finds it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::journal::boot;
use super::leave_standard_error;
use crate::failure::{Failure, Step};
use crate::sys::{self, Clone};

/// Name of the process that holds the namespace.
const HOLDER: &str = "ng-router";
/// Name of the file that tells the next supervisor where it is.
pub(super) const FILE: &str = "router";

/// Starts the process that holds a new namespace; with the supervisor it ends only where nobody could find it again.
pub(super) fn fork_holder(is_lasting: bool) -> Result<(OwnedFd, i32), Failure> {
    match sys::clone3(libc::CLONE_NEWNET as u64, None).step("start the router")? {
        Clone::Parent { pid, pidfd } => Ok((pidfd, pid)),
        Clone::Child => {
            let _ = sys::close_from_3();
            leave_standard_error();
            if let Ok(name) = std::ffi::CString::new(HOLDER) {
                let _ = rustix::thread::set_name(&name);
            }
            if !is_lasting {
                let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
            }
            sys::block_all_signals();
            loop {
                let _ = sys::wait_signal();
            }
        }
    }
}

/// Whether a process holds a router.
pub(crate) fn is_router(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == HOLDER)
}

/// Ends the process that holds a router, which may be another's child.
pub(super) fn end_holder(holder: &OwnedFd) {
    let _ = sys::pidfd_signal(holder.as_fd(), libc::SIGKILL);
    let _ = sys::wait_child(Some(holder.as_fd()), true);
}

/// Has the next supervisor find it.
pub(super) fn note_holder(directory: &Path, pid: i32, namespace: &fs::File) -> io::Result<()> {
    let inode = rustix::fs::fstat(namespace)?.st_ino;
    let (path, new) = (directory.join(FILE), directory.join(format!("{FILE}.new")));
    fs::write(&new, format!("{} {pid} {inode}\n", boot()?))?;
    fs::rename(new, path)
}

/// The process that holds the router of a directory, and the router's namespace.
pub(super) fn find_holder(directory: &Path) -> Option<(OwnedFd, OwnedFd)> {
    let text = fs::read_to_string(directory.join(FILE)).ok()?;
    let mut words = text.split_whitespace();
    let (of_boot, pid, inode) =
        (words.next()?, words.next()?.parse().ok()?, words.next()?.parse::<u64>().ok()?);
    if of_boot != boot().ok()? {
        return None;
    }
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).ok()?;
    let is_it = rustix::fs::fstat(&namespace).is_ok_and(|stat| stat.st_ino == inode);
    is_it.then_some((pidfd, namespace.into()))
}

/// The network namespace of a directory's router.
pub(crate) fn router_of(directory: &Path) -> Option<OwnedFd> {
    find_holder(directory).map(|(_, namespace)| namespace)
}
