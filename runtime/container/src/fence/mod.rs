//! The fences that a process puts up around itself, from inside, and cannot take down again.
//!
//! Runs in a process with one thread that is about to take a role: one of the launcher's, or the first
//! process of a Wasm container. The order matters: the bounding set needs SETPCAP, ids need SETUID, a parent's
//! death signal is forgotten at a change of either, Landlock and the filter need `no_new_privs`, and after the
//! filter no limit can be set.

mod filter;
mod landlock;

use neargate_driver::ProcessRole;
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet, sched_setaffinity, set_capabilities};

use crate::capabilities;
use crate::failure::{Failure, Step};
use crate::init::NO_CORE;
use crate::sys;
pub(crate) use filter::{Filters, Needs};

/// Most open files of a process; a worker holds one socket per connection.
const NOFILE_MAX: u64 = 65_536;
/// Most threads of a process. Runs of class `thread` have one each; all other things together need a dozen.
pub(crate) const THREADS_MAX: u64 = 1024;

/// What a process may still do.
#[derive(Debug)]
pub(crate) struct Fence<'a> {
    /// System calls and sockets.
    pub(crate) needs: Needs,
    /// Directories that it may use, and whether they are read-only.
    pub(crate) beneath: &'a [(String, bool)],
    /// `RLIMIT_AS`, in bytes.
    pub(crate) address_space_bytes: Option<u64>,
    /// `RLIMIT_CPU`, in seconds.
    pub(crate) cpu_seconds: Option<u64>,
    /// The core that it stays on.
    pub(crate) core: Option<u32>,
}

/// Puts the fences up. `is_parent_alive` is asked once the parent's death will be told by a signal.
pub(crate) fn close(
    fence: &Fence<'_>,
    filters: &mut Filters,
    is_parent_alive: impl FnOnce() -> bool,
) -> Result<(), Failure> {
    if let Some(core) = fence.core {
        stay_on(core)?;
    }
    set_limits(fence)?;
    empty_bounding_set()?;
    keep_capabilities(kept(fence.needs.role))?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).step("set no_new_privs")?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0).step("forbid core dumps")?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).step("die with the parent")?;
    if !is_parent_alive() {
        sys::exit_now(126);
    }
    landlock::restrict(fence.beneath, fence.needs.role, fence.needs.network).step("restrict files")?;
    let filter = filters.get(fence.needs).step("compile seccomp filter")?;
    if let Some(bytes) = fence.address_space_bytes {
        sys::prlimit(0, libc::RLIMIT_AS, bytes, bytes).step("limit address space")?;
    }
    sys::seccomp(filter).step("install seccomp filter")
}

fn stay_on(core: u32) -> Result<(), Failure> {
    let core = core as usize;
    if core >= CpuSet::MAX_CPU {
        return Err(Failure::System { step: format!("stay on core {core}"), errno: libc::EINVAL });
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None::<Pid>, &set).step(&format!("stay on core {core}"))
}

fn set_limits(fence: &Fence<'_>) -> Result<(), Failure> {
    // Raising a hard limit takes SYS_RESOURCE on the host, which is gone by now.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let files = most.min(NOFILE_MAX);
    sys::prlimit(0, libc::RLIMIT_NOFILE, files, files).step("limit open files")?;
    sys::prlimit(0, libc::RLIMIT_CORE, NO_CORE, NO_CORE).step("forbid core dumps")?;
    let most = rustix::process::getrlimit(rustix::process::Resource::Nproc).maximum.unwrap_or(u64::MAX);
    let threads = most.min(THREADS_MAX);
    sys::prlimit(0, libc::RLIMIT_NPROC, threads, threads).step("limit threads")?;
    // What ends a process by itself is told apart from what kills it.
    sys::exit_on_signals(&[libc::SIGABRT, libc::SIGXCPU]).step("exit on signals")?;
    if let Some(seconds) = fence.cpu_seconds {
        // SIGXCPU comes at the soft limit; a process that has taken the handler away is killed a second later.
        sys::prlimit(0, libc::RLIMIT_CPU, seconds, seconds.saturating_add(1)).step("limit CPU time")?;
    }
    Ok(())
}

/// The capabilities of a role: none, unless it is about files of foreign owners. SYS_ADMIN is for the attribute by
/// which overlayfs knows an opaque directory (`trusted.*`, xattr(7)); all else that it allows is killed or refused by
/// the filter.
fn kept(role: ProcessRole) -> CapabilitySet {
    // Not CAP_FSETID for the keeper: nothing that it gives away has a set-id bit.
    let keeper = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    match role {
        ProcessRole::WasmWorker | ProcessRole::WasmCompiler => CapabilitySet::empty(),
        ProcessRole::FileKeeper => keeper,
        ProcessRole::Unpacker => {
            keeper | CapabilitySet::FSETID | CapabilitySet::SETFCAP | CapabilitySet::SYS_ADMIN
        }
    }
}

/// Gives up what could bring capabilities back by an exec.
pub(crate) fn empty_bounding_set() -> Result<(), Failure> {
    for bit in 0..=capabilities::LAST {
        match sys::prctl(libc::PR_CAPBSET_DROP, bit) {
            // Past the last capability that the kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            // In no user namespace of its own an ordinary user's process has none, and no right to drop it.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => break,
            other => other.step("drop capabilities")?,
        }
    }
    Ok(())
}

/// Gives up all capabilities but those that are kept.
pub(crate) fn keep_capabilities(kept: CapabilitySet) -> Result<(), Failure> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).step("drop capabilities")?;
    sys::clear_ambient().step("clear ambient capabilities")
}
