//! The last steps before the program: working directory, user, capabilities, seccomp.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::paths;
use crate::capabilities;
use crate::failure::{Failure, Step};
use crate::sys;
use crate::user::User;

/// Enters the working directory, made when missing, and proves that it lies in the container.
///
/// A working directory like `/proc/self/fd/7` must not lead to a descriptor of the host
/// (CVE-2024-21626): magic links are refused, and a directory outside of the root has no path.
pub(super) fn enter_working_dir(path: &[u8]) -> Result<(), Failure> {
    let path = Path::new(OsStr::from_bytes(path));
    let invalid =
        |why: &str| Failure::InvalidImage { why: format!("working directory {}: {why}", path.display()) };
    if !path.is_absolute() {
        return Err(invalid("it is not an absolute path"));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).step("open root")?;
    let dir = paths::open_or_make(root.as_fd(), path, true).map_err(|error| invalid(&error.to_string()))?;
    rustix::process::fchdir(&dir).map_err(|error| invalid(&error.to_string()))?;
    let current = rustix::process::getcwd(Vec::new()).step("read working directory")?;
    // The kernel puts "(unreachable)" before a path outside of the root (getcwd(3)).
    if current.as_bytes().first() == Some(&b'/') { Ok(()) } else { Err(invalid("it is outside of the root")) }
}

/// Makes the root mount read-only; mounts below it keep their own flags.
pub(super) fn make_root_read_only() -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).step("open root")?;
    sys::mount_setattr(root.as_fd(), libc::MOUNT_ATTR_RDONLY, None).step("make root read-only")
}

/// Connects the standard streams to the container's `/dev/null`.
pub(crate) fn attach_null(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let null = paths::open(root, "/dev/null", OFlags::RDWR).step("open /dev/null")?;
    if !paths::is_device(null.as_fd(), 1, 3).step("check /dev/null")? {
        return Err(Failure::System { step: "check /dev/null".to_owned(), errno: libc::ENODEV });
    }
    for number in 0..3 {
        sys::dup2(null.as_fd(), number).step("connect standard streams")?;
    }
    Ok(())
}

/// Gives up everything but what the program may have. The order matters: the bounding set needs SETPCAP,
/// ids need SETUID and SETGID, the filter needs `no_new_privs`, and after it only listed calls work.
pub(super) fn drop_privileges(
    user: &User,
    capabilities: u64,
    filter: &[libc::sock_filter],
) -> Result<(), Failure> {
    for bit in 0..=capabilities::LAST {
        if capabilities & 1 << bit != 0 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_DROP, bit) {
            // Past the last capability that the kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other.step("drop capabilities")?,
        }
    }
    sys::set_ids(user.uid, user.gid, &user.groups).step("change user")?;
    // As with Docker, an ordinary user holds none; the bounding set remains for setuid programs, which
    // no_new_privs forbids.
    let held = CapabilitySet::from_bits_retain(if user.uid == 0 { capabilities } else { 0 });
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).step("set capabilities")?;
    sys::clear_ambient().step("clear ambient capabilities")?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).step("set no_new_privs")?;
    sys::cloexec_from_3().step("close descriptors")?;
    sys::seccomp(filter).step("install seccomp filter")
}
