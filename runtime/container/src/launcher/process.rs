//! What runs between the clone and the role, in a new process.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use neargate_driver::{ProcessNetwork, ProcessUser};
use neargate_ipc::channel;
use neargate_ipc::wire::encode;
use rustix::net::RecvFlags;

use super::Roles;
use super::ground::{self, Ground};
use super::protocol::{ProcessPlan, Report};
use crate::cgroup;
use crate::failure::{Failure, Step};
use crate::fence::{self, Fence, Filters, Needs};
use crate::sys;

/// How long such a process may keep a core from others that become ready to run: the least that the kernel takes. It
/// may be busy for hours, and what waits beside it are requests, and the threads that commit a task's next state.
const SLICE: Duration = Duration::from_micros(100);

/// The byte by which the launcher says that the id maps are written.
pub(super) const GO: u8 = 1;
/// Exit code of a role that panicked, as of a Rust program.
const PANICKED: i32 = 101;
/// What a process sees as its host's name.
const HOST_NAME: &[u8] = b"neargate";

/// All that a new process takes over. Built before the clone.
pub(super) struct Start<'a> {
    pub(super) plan: ProcessPlan,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) roles: Roles,
    /// Missing where the kernel refuses namespaces.
    pub(super) ground: Option<&'a Ground>,
    /// Detached mounts by their names.
    pub(super) mounts: Vec<(String, OwnedFd)>,
    /// The network namespace of the sandbox that it belongs to.
    pub(super) network: Option<OwnedFd>,
    /// v1 groups to join.
    pub(super) tasks: Vec<fs::File>,
    pub(super) filters: &'a mut Filters,
    pub(super) sync: OwnedFd,
}

/// Becomes the process: puts up the fences, says so, and does what its role is. Never returns.
pub(super) fn run(mut start: Start<'_>) -> ! {
    let fenced = catch_unwind(AssertUnwindSafe(|| enclose(&mut start)));
    let failure = match fenced {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure),
        Err(_) => Some(Failure::System { step: "fence process".to_owned(), errno: libc::ENOTRECOVERABLE }),
    };
    let Start { plan, fds, roles, sync, .. } = start;
    if let Some(failure) = failure {
        // Nobody is left to tell when this fails, and the exit status says it, too.
        let _ = report(&sync, &Report::Failed { failure });
        sys::exit_now(127);
    }
    if report(&sync, &Report::Ready {}).is_err() {
        sys::exit_now(126);
    }
    drop(sync);
    // Without the role there would be no process.
    let Some(role) = roles.of(plan.role()) else { sys::exit_now(126) };
    sys::exit_now(catch_unwind(AssertUnwindSafe(|| role(&plan.input, fds))).unwrap_or(PANICKED))
}

fn report(sync: &OwnedFd, report: &Report) -> std::io::Result<()> {
    channel::send(sync.as_fd(), 0, &encode(report), &[], true)
}

fn enclose(start: &mut Start<'_>) -> Result<(), Failure> {
    cgroup::join(&mut start.tasks).step("join cgroup")?;
    // The launcher takes some of them by a descriptor.
    sys::set_blocked(&[], libc::SIG_SETMASK);
    keep_only_own(start)?;
    let prepared = prepare(start)?;
    if start.ground.is_none() || start.plan.user() == ProcessUser::Root {
        // The launcher does this when it writes id maps. Only lowering can be refused.
        drop(fs::write("/proc/self/oom_score_adj", "0"));
    }
    if let Some(ground) = start.ground {
        enter_namespaces(start, ground, &prepared)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Kernels before Linux 6.12 have no slice of a task's own, and go on with theirs.
    let _ = sys::set_slice(SLICE);
    let plan = &start.plan;
    // Process listings; a longer name is cut by the kernel.
    let name = std::ffi::CString::new(format!("ng-{}", plan.name)).map_err(std::io::Error::from);
    rustix::thread::set_name(&name.step("name process")?).step("name process")?;
    let beneath: Vec<(String, bool)> =
        plan.mounts.iter().map(|mount| (mount.name.clone(), mount.read_only)).collect();
    let fence = Fence {
        needs: needs(plan, rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()),
        beneath: &beneath,
        address_space_bytes: plan.address_space_bytes,
        cpu_seconds: plan.cpu_seconds,
        core: plan.core,
    };
    let sync = &start.sync;
    fence::close(&fence, start.filters, || is_open(sync))
}

/// What the filter of a process depends on.
pub(super) fn needs(plan: &ProcessPlan, pid: u32) -> Needs {
    Needs { role: plan.role(), files: !plan.mounts.is_empty(), network: plan.network(), pid }
}

/// Lets the role open what only belongs to the process. What a descriptor of `/proc` shows depends on what its opener
/// may: of memory, physical addresses to those who have capabilities on the host.
fn prepare(start: &Start<'_>) -> Result<Vec<RawFd>, Failure> {
    const STEP: &str = "prepare process";
    let sets = rustix::thread::capabilities(None).step(STEP)?;
    let none = rustix::thread::CapabilitySet::empty();
    let harmless = rustix::thread::CapabilitySets { effective: none, ..sets };
    rustix::thread::set_capabilities(None, harmless).step(STEP)?;
    let opened = (start.roles.preparation)(start.plan.role());
    rustix::thread::set_capabilities(None, sets).step(STEP)?;
    Ok(opened)
}

/// Closes every descriptor that is the launcher's or another process's. Nothing is closed by exec here.
fn keep_only_own(start: &Start<'_>) -> Result<(), Failure> {
    let mut kept: Vec<RawFd> = vec![start.sync.as_raw_fd()];
    kept.extend(start.fds.iter().map(AsRawFd::as_raw_fd));
    kept.extend(start.mounts.iter().map(|(_, mount)| mount.as_raw_fd()));
    kept.extend(start.network.iter().map(AsRawFd::as_raw_fd));
    if let Some(ground) = start.ground {
        kept.extend([ground.mounts.as_raw_fd(), ground.network.as_raw_fd()]);
    }
    sys::close_all_but(&mut kept).step("close descriptors")
}

/// Enters the launch namespaces, and at last a user namespace that owns none of them, unless files of foreign owners
/// are its business.
fn enter_namespaces(start: &mut Start<'_>, ground: &Ground, prepared: &[RawFd]) -> Result<(), Failure> {
    let of_ground = (start.plan.network() != ProcessNetwork::Host).then_some(&ground.network);
    if let Some(network) = start.network.as_ref().or(of_ground) {
        sys::setns(network.as_fd(), libc::CLONE_NEWNET).step("enter network namespace")?;
    }
    sys::setns(ground.mounts.as_fd(), libc::CLONE_NEWNS).step("enter launch namespace")?;
    sys::unshare(libc::CLONE_NEWNS).step("make mount namespace")?;
    if !start.mounts.is_empty() {
        ground::enter_mounts(&start.mounts)?;
        start.mounts.clear();
    }
    rustix::system::sethostname(HOST_NAME).step("set host name")?;
    if start.plan.user() != ProcessUser::Root {
        sys::unshare(libc::CLONE_NEWUSER).step("make user namespace")?;
        report(&start.sync, &Report::Unshared {}).step("ask for id maps")?;
        wait_for_go(&start.sync);
    }
    become_root()?;
    // The descriptors of the launch namespaces, which a process must not keep.
    let mut kept: Vec<RawFd> = vec![start.sync.as_raw_fd()];
    kept.extend(start.fds.iter().map(AsRawFd::as_raw_fd));
    kept.extend(prepared);
    sys::close_all_but(&mut kept).step("close descriptors")
}

/// Becomes the only user that the namespace has.
fn become_root() -> Result<(), Failure> {
    match sys::set_groups(&[]) {
        // Where an ordinary user has made the namespace, it cannot give up groups either (user_namespaces(7)).
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        other => other.step("leave groups")?,
    }
    sys::set_user(0, 0).step("change user")
}

/// Waits until the launcher has written the id maps. Without a launcher there is no use in going on.
fn wait_for_go(sync: &OwnedFd) {
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(sync, &mut byte)) {
        Ok(1) if byte[0] == GO => {}
        _ => sys::exit_now(126),
    }
}

/// Whether the launcher still holds the other end.
fn is_open(sync: &OwnedFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    rustix::net::recv(sync, &mut [0u8; 1], flags) == Err(rustix::io::Errno::AGAIN)
}
