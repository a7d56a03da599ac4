//! Resource limits (setrlimit(2)).

use crate::failure::{Failure, Step};
use crate::sys;

/// The limit of core dumps, in bytes, that lets the kernel make none: not into a file, which is at least a page, and not
/// for a program of the host, for which it heeds no other limit (core(5); `coredump_pipe` in fs/coredump.c).
pub(crate) const NO_CORE: u64 = 1;

/// A resource limit of the processes of a container.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResourceLimit {
    /// One of `RLIMIT_*`.
    pub(crate) resource: u32,
    /// What holds.
    pub(crate) soft: u64,
    /// What a process may raise it to.
    pub(crate) hard: u64,
}

impl ResourceLimit {
    /// Whether it is more than the caller's children inherit.
    pub(crate) fn is_raised(&self) -> bool {
        self.hard > sys::own_hard_limit(self.resource)
    }

    /// Sets it for a process, 0 for the caller. The kernel itself bounds open files (`fs.nr_open`), and others where
    /// the supervisor lacks SYS_RESOURCE.
    pub(crate) fn set(&self, pid: i32) -> Result<(), Failure> {
        match sys::prlimit(pid, self.resource, self.soft, self.hard) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(Failure::Unsupported {
                what: format!("a ulimit of {}", self.hard),
                why: "it is more than this machine allows; `sysctl fs.nr_open` tells the bound of open files"
                    .to_owned(),
            }),
            other => other.step("set limits"),
        }
    }
}
