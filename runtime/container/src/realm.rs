//! The realm of an ordinary user: a user namespace in which the supervisor is root, with a network namespace beside it.
//!
//! ```text
//!  host       serve (uid 1000)        steward ──┐ enters
//!  ───────────────────────────────────────────────────────────────
//!  realm      supervisor (0 = 1000), a "host" network of its own
//!               ├─ router's network           all as with root,
//!               └─ tasks, each in a user      but for what the kernel
//!                  namespace below            keeps for the host's root
//! ```
//!
//! It has one id, the user's, which the kernel lets everybody map (user_namespaces(7)); it is root's in it, and with that
//! in all tasks.
//!
//! It lives as long as anything in it. Who comes later finds it through what is there: the supervisor, or else the
//! router or a container. When nothing is left there is nothing to find, and a new one is as good.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::supervisor::{self, holder};
use crate::{init, rootfs, sys};

/// What tells where a realm is.
enum Found {
    /// Its supervisor, which is in its user and its network namespace.
    Supervisor(OwnedFd),
    /// Its user namespace. Nobody is in its network namespace any more.
    Owner(OwnedFd),
}

/// Enters the realm of a supervisor's directory, or a new one; the caller has one thread and is an ordinary user.
pub(crate) fn enter(directory: Option<&Path>) -> io::Result<()> {
    match directory.and_then(find) {
        Some(Found::Supervisor(process)) => {
            sys::setns(process.as_fd(), libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
            sys::unshare(libc::CLONE_NEWNS)
        }
        Some(Found::Owner(user)) => {
            sys::setns(user.as_fd(), libc::CLONE_NEWUSER)?;
            sys::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS)
        }
        None => make(),
    }
}

/// Makes a new one around the caller.
fn make() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS)?;
    // Without it the kernel lets no ordinary user write a group map (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn find(directory: &Path) -> Option<Found> {
    let owner = || {
        supervisor::router_of(directory).and_then(|network| sys::owner_of(network.as_fd()).ok()).or_else(
            || {
                supervisor::containers_of(directory).into_iter().find_map(|process| {
                    let user = File::open(format!("/proc/{process}/ns/user")).ok()?;
                    sys::parent_of(user.as_fd()).ok()
                })
            },
        )
    };
    holder(directory).map(Found::Supervisor).or_else(|| owner().map(Found::Owner))
}

/// What an ordinary user's containers need of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// User, network and mount namespaces.
    Namespaces,
    /// A proc of a PID namespace of one's own, which a container around this process may hinder that hides parts of its.
    Proc,
    /// An overlay file system (Linux 5.11).
    Overlay,
}

/// Whether it is there: tries, in a process of its own.
pub(crate) fn try_out(need: Need) -> io::Result<()> {
    in_child(|| {
        make()?;
        match need {
            Need::Namespaces => Ok(()),
            Need::Proc => {
                sys::unshare(libc::CLONE_NEWPID)?;
                // Its first process is the next child.
                in_child(init::try_proc)
            }
            Need::Overlay => rootfs::try_overlay(),
        }
    })
}

/// Runs `act` in a child, and tells how that went by the number of its error.
fn in_child(act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match sys::fork()? {
        0 => sys::exit_now(act().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO))),
        pid => match sys::wait_process(pid)? {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        },
    }
}
