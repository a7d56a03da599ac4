//! What runs between clone and exec, in the container's namespaces.
//!
//! The child is a copy of the single-threaded supervisor, so it may use memory as it likes, but it keeps
//! to plain system calls in a fixed order, logs nothing, and tells a failure over the socket that closes
//! by itself when `execve(2)` succeeds. Until then it is not dumpable (inherited from the supervisor), so
//! nothing in the container can look into it.
//!
//! No path of the image is ever resolved by name alone: fixed mount points are opened without following
//! links, and everything else with `openat2(2)` confined to the root.

mod environment;
mod files;
mod limits;
mod mounts;
mod paths;
mod program;
mod reaper;
mod terminal;

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount};

use crate::cgroup;
use crate::devices::Device;
use crate::failure::{Failure, Step};
use crate::launchpad::{LAYERS_DIR, ROOT_DIR};
use crate::protocol::StartPlan;
use crate::rootfs::{Root, Volume};
use crate::sys;
use crate::user::{self, User};
pub(crate) use files::{MaskedPath, masked_paths};
pub(crate) use limits::ResourceLimit;
pub(crate) use program::Program;

/// The byte by which the supervisor says that the id maps are written.
pub(crate) const GO: u8 = 1;

/// The id of the frame with our end of a new terminal; a failure's is 0.
pub(crate) const TERMINAL: u64 = 1;

/// All that the first process of a container takes over. Built before the clone.
pub(crate) struct Init<'a> {
    pub(crate) plan: &'a StartPlan,
    pub(crate) program: &'a Program,
    pub(crate) hostname: &'a str,
    pub(crate) resolv_conf: &'a [u8],
    pub(crate) masked: &'a [MaskedPath],
    pub(crate) filter: &'a [libc::sock_filter],
    pub(crate) root: Root,
    pub(crate) sysfs: OwnedFd,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) devices: Vec<Device>,
    /// Of a container in the host's IPC namespace.
    pub(crate) host_ipc: Option<HostIpc>,
    /// The user namespace to enter, of a container that has none of its own.
    pub(crate) joined: Option<BorrowedFd<'a>>,
    pub(crate) tasks: Vec<fs::File>,
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) mount_cgroup2: bool,
    pub(crate) limits: &'a [ResourceLimit],
}

/// Detached mounts of what belongs to the host's IPC namespace.
pub(crate) struct HostIpc {
    mqueue: OwnedFd,
    shm: OwnedFd,
}

impl HostIpc {
    /// Makes the mounts; the caller is in the host's namespaces.
    pub(crate) fn open() -> Result<Self, Failure> {
        Ok(Self {
            mqueue: mounts::new_mqueue().step("make /dev/mqueue")?,
            shm: mounts::clone_host_shm().step("open /dev/shm of the host")?,
        })
    }
}

/// All that a second process in a running container takes over.
pub(crate) struct Exec<'a> {
    pub(crate) pidfd: BorrowedFd<'a>,
    pub(crate) program: &'a Program,
    pub(crate) user: Option<&'a str>,
    pub(crate) working_dir: &'a [u8],
    pub(crate) capabilities: u64,
    pub(crate) filter: &'a [libc::sock_filter],
    pub(crate) tasks: Vec<fs::File>,
    pub(crate) streams: Streams,
}

/// What a second process reads and writes.
pub(crate) enum Streams {
    /// The container's `/dev/null`.
    Null,
    Stdio([OwnedFd; 3]),
    /// A terminal with so many rows and columns.
    Terminal(u16, u16),
}

/// Becomes the container's first process.
pub(crate) fn start(init: Init<'_>, sync: OwnedFd, parents: BorrowedFd<'_>) -> ! {
    let reaper = init.plan.init;
    finish(&sync, reaper, || {
        sys::cloexec_from_3().step("close descriptors")?;
        wait_for_go(&sync, parents)?;
        set_up(init)
    })
}

/// Becomes a second process of a running container.
pub(crate) fn exec(exec: Exec<'_>, sync: OwnedFd, parents: BorrowedFd<'_>) -> ! {
    finish(&sync, false, || {
        sys::cloexec_from_3().step("close descriptors")?;
        wait_for_go(&sync, parents)?;
        enter(exec, &sync)
    })
}

/// Runs the set-up, then the program; on a failure tells it and ends.
fn finish<'a>(sync: &OwnedFd, reaper: bool, set_up: impl FnOnce() -> Result<&'a Program, Failure>) -> ! {
    let run = || {
        let program = set_up()?;
        if reaper && reaper::fork_program().step("fork program")? == reaper::Role::Reaper {
            reaper::run();
        }
        sys::reset_signals();
        Err(program.execute())
    };
    let result: Result<Result<(), Failure>, _> = catch_unwind(AssertUnwindSafe(run));
    let failure = match result {
        Ok(Err(failure)) => failure,
        _ => Failure::System { step: "set up container".to_owned(), errno: libc::ENOTRECOVERABLE },
    };
    // Nobody is left to tell when this fails, and the exit status says it, too.
    let _ = neargate_ipc::channel::send(sync.as_fd(), 0, &neargate_ipc::wire::encode(&failure), &[], true);
    sys::exit_now(127)
}

/// Waits until the supervisor has written the id maps. Without a supervisor there is no use in going on; that it is gone
/// shows only once no copy of its end, `parents`, is open, and this process was cloned with one. It also has one of the
/// lock on the supervisor's seat, which the next supervisor waits for.
fn wait_for_go(sync: &OwnedFd, parents: BorrowedFd<'_>) -> Result<(), Failure> {
    sys::close_copy(parents).step("close the supervisor's end")?;
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(sync, &mut byte)) {
        Ok(1) if byte[0] == GO => Ok(()),
        _ => sys::exit_now(126),
    }
}

fn set_up<'a>(mut init: Init<'a>) -> Result<&'a Program, Failure> {
    cgroup::join(&mut init.tasks).step("join cgroup")?;
    // After joining, so that the v1 groups, too, are the roots of the new namespace.
    let mut namespaces = libc::CLONE_NEWCGROUP;
    let mut proc = None;
    if let Some(userns) = init.joined {
        // The PID namespace is the host's own, so that only now a proc of it can be made.
        proc = Some(mounts::new_proc().step("make proc")?);
        sys::setns(userns, libc::CLONE_NEWUSER).step("enter user namespace")?;
        namespaces |= libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
        namespaces |= if init.host_ipc.is_some() { 0 } else { libc::CLONE_NEWIPC };
    }
    sys::unshare(namespaces).step("make namespaces")?;
    attach_stdio(&init.stdio)?;
    init.limits.iter().try_for_each(|limit| limit.set(0))?;
    // Until now the user was one of the host's, whom the new user namespace does not know.
    sys::set_ids(0, 0, &[]).step("become root of the container")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let user = build_root(&mut init, proc)?;
    environment::enter_working_dir(&init.plan.working_dir)?;
    if init.plan.read_only_root {
        environment::make_root_read_only()?;
    }
    environment::drop_privileges(&user, init.plan.capabilities, init.filter)?;
    Ok(init.program)
}

/// Assembles the root and moves into it.
fn build_root(init: &mut Init<'_>, proc: Option<OwnedFd>) -> Result<User, Failure> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step("make mounts private")?;
    let attach = |mount, dir| {
        move_mount(mount, c"", rustix::fs::CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .step("attach root file system")
    };
    // Goes away with the old root below, for one grace period in all; see `Root`.
    init.root.layers.iter().try_for_each(|layer| attach(layer, LAYERS_DIR))?;
    attach(&init.root.overlay, ROOT_DIR)?;
    let root = init.root.overlay.as_fd();
    let fixed = mounts::Fixed {
        proc,
        sysfs: &init.sysfs,
        mount_cgroup2: init.mount_cgroup2,
        shm_bytes: init.plan.shm_bytes,
        host_ipc: init.host_ipc.take().map(|host| (host.mqueue, host.shm)),
    };
    let dev = mounts::mount_fixed(root, fixed)?;
    for device in &init.devices {
        mounts::mount_device(root, device)?;
    }
    files::write_network_files(root, init.hostname, init.resolv_conf)?;
    for volume in &init.volumes {
        mounts::mount_volume(root, dev.as_fd(), volume)?;
    }
    files::mask(root, init.masked)?;
    rustix::system::sethostname(init.hostname.as_bytes()).step("set host name")?;
    let user = look_up_user(root, init.plan.user.as_deref())?;
    rustix::process::fchdir(root).step("enter root file system")?;
    // pivot_root(2) allows both to be the same directory: the old root is then stacked on the new one.
    rustix::process::pivot_root(c".", c".").step("change root")?;
    unmount(c".", UnmountFlags::DETACH).step("detach old root")?;
    rustix::process::chdir(c"/").step("enter root file system")?;
    Ok(user)
}

fn look_up_user(root: BorrowedFd<'_>, user: Option<&str>) -> Result<User, Failure> {
    let Some(user) = user else { return Ok(User::default()) };
    let read = |path| files::read_in_root(root, path).step("read users of the image");
    user::resolve(user, &read(c"/etc/passwd")?, &read(c"/etc/group")?)
        .map_err(|why| Failure::UnknownUser { user: user.to_owned(), why })
}

fn attach_stdio(stdio: &[OwnedFd; 3]) -> Result<(), Failure> {
    // A session of its own: no controlling terminal is shared with the supervisor.
    rustix::process::setsid().step("make session")?;
    for (number, stream) in stdio.iter().enumerate() {
        sys::dup2(stream.as_fd(), number as i32).step("connect standard streams")?;
    }
    Ok(())
}

/// Joins the namespaces of a running container; its PID namespace was entered by the clone.
fn enter<'a>(mut exec: Exec<'a>, sync: &OwnedFd) -> Result<&'a Program, Failure> {
    cgroup::join(&mut exec.tasks).step("join cgroup")?;
    let all = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    sys::setns(exec.pidfd, all).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => Failure::NotRunning {},
        other => Failure::System { step: "enter container".to_owned(), errno: other.unwrap_or(libc::EIO) },
    })?;
    sys::set_ids(0, 0, &[]).step("become root of the container")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, rustix::fs::Mode::empty()).step("open root")?;
    let user = look_up_user(root.as_fd(), exec.user)?;
    match &exec.streams {
        Streams::Stdio(stdio) => attach_stdio(stdio)?,
        Streams::Null => environment::attach_null(root.as_fd())?,
        Streams::Terminal(rows, columns) => terminal::attach(root.as_fd(), &user, (*rows, *columns), sync)?,
    }
    environment::enter_working_dir(exec.working_dir)?;
    environment::drop_privileges(&user, exec.capabilities, exec.filter)?;
    Ok(exec.program)
}
