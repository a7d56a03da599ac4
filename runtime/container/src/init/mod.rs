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
mod ipc;
mod limits;
mod mounts;
mod orders;
mod paths;
mod program;
mod reaper;
mod room;
mod terminal;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use crate::cgroup;
use crate::failure::{Failure, Step};
use crate::launchpad::{LAYERS_DIR, ROOT_DIR};
use crate::seccomp::Filters;
use crate::standing::Standing;
use crate::sys;
use crate::user::{self, User};
pub(crate) use environment::attach_null;
pub(crate) use files::{MaskedPath, masked_paths};
pub(crate) use ipc::make_shared_ipc;
pub(crate) use limits::{NO_CORE, ResourceLimit};
pub(crate) use orders::{Orders, Parts, give};
pub(crate) use program::Program;
use room::Room;

/// The byte by which the supervisor says that the id maps are written.
pub(crate) const GO: u8 = 1;
/// Name of a process that ends without having come to its program.
const UNBEGUN: &std::ffi::CStr = c"ng-unbegun";

/// The id of the frame with our end of a new terminal; a failure's is 0.
pub(crate) const TERMINAL: u64 = 1;

/// What the first processes of all containers have in common.
pub(crate) struct Ground<'a> {
    pub(crate) filters: &'a Filters,
    pub(crate) masked: &'a [MaskedPath],
    /// Whether containers see a cgroup2 file system.
    pub(crate) mount_cgroup2: bool,
    /// The lock on the supervisor's seat, which no other supervisor gets before each of them has executed its program or
    /// ended.
    pub(crate) seat: Option<BorrowedFd<'a>>,
}

/// What the first process of a container is cloned with. Nothing of it depends on the image or the program.
pub(crate) struct Shell {
    /// A sysfs of the container's network namespace.
    pub(crate) sysfs: OwnedFd,
    /// The opened `tasks` files of its v1 groups.
    pub(crate) tasks: Vec<fs::File>,
    /// Whether parts of proc and sysfs are hidden or protected.
    pub(crate) is_masked: bool,
    /// Its IPC namespace.
    pub(crate) ipc: Ipc,
    /// The user namespace to enter, of a container that has none of its own.
    pub(crate) joined: Option<OwnedFd>,
}

impl Shell {
    fn raw_fds(&self) -> Vec<RawFd> {
        let ipc = match &self.ipc {
            Ipc::Own | Ipc::OwnWithoutShm => Vec::new(),
            Ipc::Host(HostIpc { mqueue, shm }) => vec![mqueue, shm],
            Ipc::Shared(SharedIpc { namespace, mounts }) => vec![namespace, mounts],
        };
        let rest = self.joined.iter().chain([&self.sysfs]).chain(ipc).map(AsRawFd::as_raw_fd);
        self.tasks.iter().map(AsRawFd::as_raw_fd).chain(rest).collect()
    }
}

/// Which IPC namespace and `/dev/shm` a container has.
pub(crate) enum Ipc {
    /// Its own.
    Own,
    /// Its own, without a `/dev/shm`.
    OwnWithoutShm,
    /// The host's. Only for a container that joins a user namespace.
    Host(HostIpc),
    /// Its task's, of the user namespace that it joins.
    Shared(SharedIpc),
}

/// What [`make_shared_ipc`] has made.
pub(crate) struct SharedIpc {
    /// The IPC namespace.
    pub(crate) namespace: OwnedFd,
    /// The mount namespace that has the `/dev/shm`.
    pub(crate) mounts: OwnedFd,
}

impl SharedIpc {
    /// Those of a process.
    pub(crate) fn of(pid: i32) -> Result<Self, Failure> {
        let open = |kind| fs::File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
        let opened = || std::io::Result::Ok(Self { namespace: open("ipc")?, mounts: open("mnt")? });
        opened().step("open IPC namespace of task")
    }

    /// The same once more.
    pub(crate) fn try_clone(&self) -> Result<Self, Failure> {
        let copy = || {
            let (namespace, mounts) = (self.namespace.try_clone()?, self.mounts.try_clone()?);
            std::io::Result::Ok(Self { namespace, mounts })
        };
        copy().step("open IPC namespace of task")
    }
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
    pub(crate) program: Program,
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

/// Makes a proc as a container's first process does.
pub(crate) fn try_proc() -> std::io::Result<()> {
    mounts::new_proc().map(drop).map_err(std::io::Error::from)
}

/// Becomes the container's first process: furnishes its namespaces, then waits for its orders.
pub(crate) fn start(ground: &Ground<'_>, shell: Shell, sync: OwnedFd) -> ! {
    finish(&sync, || {
        // For good, and not only when the program is executed: this may wait for long, and others would not learn that the
        // supervisor is gone as long as a copy of its end of their socket is open. The seat is held until then.
        let mut kept = shell.raw_fds();
        kept.push(sync.as_raw_fd());
        kept.extend(ground.seat.map(|seat| seat.as_raw_fd()));
        sys::close_all_but(&mut kept).step("close descriptors")?;
        wait_for_go(&sync)?;
        let room = room::furnish(ground, shell)?;
        // Without a supervisor there is no use in going on.
        let Some((orders, parts)) = orders::receive(&sync)? else { end_unbegun(126) };
        settle(ground, &room, &orders, &parts)
    })
}

/// Becomes a second process of a running container.
pub(crate) fn exec(exec: Exec<'_>, sync: OwnedFd, parents: BorrowedFd<'_>) -> ! {
    finish(&sync, || {
        sys::cloexec_from_3().step("close descriptors")?;
        // That the supervisor is gone shows only once no copy of its end is open.
        sys::close_copy(parents).step("close the supervisor's end")?;
        wait_for_go(&sync)?;
        enter(exec, &sync)
    })
}

/// A program that is ready to be executed.
struct Ready {
    program: Program,
    /// Whether a reaper is its parent.
    reaper: bool,
}

/// Runs the set-up, then the program; on a failure tells it and ends.
fn finish(sync: &OwnedFd, set_up: impl FnOnce() -> Result<Ready, Failure>) -> ! {
    let run = || {
        let Ready { program, reaper } = set_up()?;
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
    end_unbegun(127)
}

/// Ends a process that has not come to its program, so that who finds it afterwards sees that.
fn end_unbegun(code: i32) -> ! {
    let _ = rustix::thread::set_name(UNBEGUN);
    sys::exit_now(code)
}

/// Whether the first process of a container, which has ended and was not reaped, never came to its program: starting the
/// container again runs nothing twice.
pub(crate) fn is_unbegun(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| tells_unbegun(&stat))
}

/// A name alone could be a program's; none can set the flag, which exec clears. Of proc_pid_stat(5).
fn tells_unbegun(stat: &str) -> bool {
    /// `PF_FORKNOEXEC` of the kernel's `linux/sched.h`.
    const FORKED_ONLY: u64 = 0x40;
    let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else {
        return false;
    };
    let flags = rest.split(' ').nth(6).and_then(|flags| flags.parse::<u64>().ok());
    name.as_bytes() == UNBEGUN.to_bytes() && flags.is_some_and(|flags| flags & FORKED_ONLY != 0)
}

/// Waits until the id maps are written. Without a supervisor there is no use in going on.
fn wait_for_go(sync: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(sync, &mut byte)) {
        Ok(1) if byte[0] == GO => Ok(()),
        _ => end_unbegun(126),
    }
}

/// Does what the container's plan says.
fn settle(ground: &Ground<'_>, room: &Room, orders: &Orders, parts: &Parts) -> Result<Ready, Failure> {
    let program = Program::new(&orders.plan.argv, &orders.plan.env)?;
    let filter = ground.filters.of(&orders.plan)?;
    attach_stdio(&parts.stdio)?;
    orders.limits().try_for_each(|limit| limit.set(0))?;
    let user = build_root(room, orders, parts)?;
    environment::enter_working_dir(&orders.plan.working_dir)?;
    if orders.plan.read_only_root {
        environment::make_root_read_only()?;
    }
    environment::drop_privileges(&user, orders.plan.capabilities, filter)?;
    Ok(Ready { program, reaper: orders.plan.init })
}

/// Assembles the root and moves into it.
fn build_root(room: &Room, orders: &Orders, parts: &Parts) -> Result<User, Failure> {
    let attach = |mount, dir| {
        move_mount(mount, c"", rustix::fs::CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .step("attach root file system")
    };
    // Goes away with the old root below, for one grace period in all; see `Root`.
    parts.root.layers.iter().try_for_each(|layer| attach(layer, LAYERS_DIR))?;
    attach(&parts.root.overlay, ROOT_DIR)?;
    let root = parts.root.overlay.as_fd();
    room.move_into(root, orders.plan.shm_bytes)?;
    for device in &parts.devices {
        mounts::mount_device(root, device)?;
    }
    let Orders { hostname, hosts, resolv_conf, .. } = orders;
    files::write_network_files(root, hostname, (hosts, resolv_conf), parts.root.has_network_files)?;
    for volume in &parts.volumes {
        mounts::mount_volume(root, room.dev(), volume)?;
    }
    rustix::system::sethostname(orders.hostname.as_bytes()).step("set host name")?;
    let user = look_up_user(root, orders.plan.user.as_deref())?;
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
    let found = user::resolve(user, &read(c"/etc/passwd")?, &read(c"/etc/group")?)
        .map_err(|why| Failure::UnknownUser { user: user.to_owned(), why })?;
    match found.within(Standing::own().count()) {
        Some(user) => Ok(user),
        None => Err(Failure::Unsupported {
            what: format!("user {user} in a container"),
            why: "without root a container has one user, its root, who is whoever has started neargate; let the image \
                  run as user 0, or start neargate as root"
                .to_owned(),
        }),
    }
}

fn attach_stdio(stdio: &[OwnedFd; 3]) -> Result<(), Failure> {
    for (number, stream) in stdio.iter().enumerate() {
        sys::dup2(stream.as_fd(), number as i32).step("connect standard streams")?;
    }
    Ok(())
}

/// Joins the namespaces of a running container; its PID namespace was entered by the clone.
fn enter(mut exec: Exec<'_>, sync: &OwnedFd) -> Result<Ready, Failure> {
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
    // No controlling terminal is shared with the supervisor.
    rustix::process::setsid().step("make session")?;
    match &exec.streams {
        Streams::Stdio(stdio) => attach_stdio(stdio)?,
        Streams::Null => attach_null(root.as_fd())?,
        Streams::Terminal(rows, columns) => terminal::attach(root.as_fd(), &user, (*rows, *columns), sync)?,
    }
    environment::enter_working_dir(exec.working_dir)?;
    environment::drop_privileges(&user, exec.capabilities, exec.filter)?;
    Ok(Ready { program: exec.program, reaper: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_not_executed_is_unbegun() {
        let check = |name: &str, flags: u64, expect: bool| {
            let stat = format!("7 ({name}) Z 1 7 7 0 -1 {flags} 0 0 0 0");
            assert_eq!(tells_unbegun(&stat), expect, "{stat}");
        };
        check("ng-unbegun", 0x40_0044, true);
        check("ng-unbegun", 0x40_0004, false);
        check("ng-supervisor", 0x40_0044, false);
        check("a) Z (ng-unbegun", 0x40_0044, false);
        assert!(!tells_unbegun(""));
    }
}
