//! The namespaces from which containers are cloned.
//!
//! A new mount namespace is a copy of its parent's, mount by mount. The supervisor therefore keeps a
//! second, tiny one beside its own: a tmpfs as root, the device nodes that containers get, and a proc. It
//! enters that one, and the sandbox's network namespace, only around `clone3` — which is safe because it has
//! one thread. A container's first process has thus never seen a path of the host.
//!
//! A proc must be there and fully visible, or the kernel refuses to let a user namespace mount another
//! (`mount_too_revealing()`).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use neargate_ipc::channel;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};

use crate::failure::{Failure, Step, errno};
use crate::rootfs::new_tmpfs;
use crate::standing::Standing;
use crate::sys;

/// The character devices of a container: name, major and minor (devices.txt of the kernel).
pub(crate) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Where the launch namespace has an empty directory for the container's root.
pub(crate) const ROOT_DIR: &str = "/root";
/// Where it has room to attach overlay layers on kernels that take them by path only.
pub(crate) const LAYERS_DIR: &str = "/layers";
/// Where it has empty directories for what is mounted before there is a root.
pub(crate) const STAGE_DIR: &str = "/stage";
/// Where the mount namespace of a task that shares a `/dev/shm` has it.
pub(crate) const SHM_DIR: &str = "/shm";
/// Where it has the device nodes.
pub(crate) const DEVICE_DIR: &str = "/dev";

/// Descriptors of the namespaces to enter and to come back to.
#[derive(Debug)]
pub(crate) struct Launchpad {
    own_mounts: OwnedFd,
    own_network: OwnedFd,
    own_pids: OwnedFd,
    launch_mounts: OwnedFd,
}

fn namespace(kind: &str) -> Result<OwnedFd, Failure> {
    fs::File::open(format!("/proc/self/ns/{kind}")).map(OwnedFd::from).step("open own namespace")
}

impl Launchpad {
    /// Moves the supervisor to a mount namespace of its own and makes the launch namespace.
    ///
    /// The own one receives the host's later mounts, so that volumes on them work, and gives none back.
    pub(crate) fn build() -> Result<Self, Failure> {
        sys::unshare(libc::CLONE_NEWNS).step("make mount namespace")?;
        let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(c"/", flags).step("make mounts private")?;
        let own_mounts = namespace("mnt")?;
        sys::unshare(libc::CLONE_NEWNS).step("make launch namespace")?;
        let built = furnish().and_then(|()| namespace("mnt"));
        sys::setns(own_mounts.as_fd(), libc::CLONE_NEWNS).step("return to own mount namespace")?;
        let launch_mounts = built?;
        Ok(Self { own_network: namespace("net")?, own_pids: namespace("pid")?, own_mounts, launch_mounts })
    }

    /// Its descriptors, for a child that closes all others.
    pub(crate) fn raw_fds(&self) -> Vec<RawFd> {
        let Self { own_mounts, own_network, own_pids, launch_mounts } = self;
        [own_mounts, own_network, own_pids, launch_mounts].map(AsRawFd::as_raw_fd).to_vec()
    }

    /// Runs `act` inside a sandbox's network namespace.
    pub(crate) fn in_network<T>(
        &self,
        network: BorrowedFd<'_>,
        act: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        sys::setns(network, libc::CLONE_NEWNET).step("enter network namespace")?;
        let result = act();
        leave(&self.own_network, libc::CLONE_NEWNET);
        result
    }

    /// Runs `act`, whose clones are in the PID namespace of the process that `pidfd` refers to.
    pub(crate) fn in_pids<T>(
        &self,
        pidfd: BorrowedFd<'_>,
        act: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        // Affects future children only (pid_namespaces(7)).
        sys::setns(pidfd, libc::CLONE_NEWPID).step("enter pid namespace")?;
        let result = act();
        leave(&self.own_pids, libc::CLONE_NEWPID);
        result
    }

    /// The launch namespace.
    pub(crate) fn mounts(&self) -> BorrowedFd<'_> {
        self.launch_mounts.as_fd()
    }

    /// The host's network namespace.
    pub(crate) fn host_network(&self) -> Result<OwnedFd, Failure> {
        self.own_network.try_clone().step("open network namespace of host")
    }

    /// A detached mount of a device node with these permission bits, which everyone may use: the file system of the
    /// host's own node has owners that a container does not know.
    pub(crate) fn device_node(
        &self,
        kind: FileType,
        device: rustix::fs::Dev,
        mode: u32,
    ) -> Result<OwnedFd, Failure> {
        const STEP: &str = "make device node";
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let letter = if kind == FileType::BlockDevice { 'b' } else { 'c' };
        // Kept for the next container; there are no more than the operator's policy names.
        let path = format!("{DEVICE_DIR}/{letter}-{major}-{minor}-{mode:o}");
        self.in_launch(|| {
            let mode = Mode::from_raw_mode(mode);
            match rustix::fs::mknodat(CWD, &path, kind, mode, device) {
                Ok(()) => rustix::fs::chmodat(CWD, &path, mode, rustix::fs::AtFlags::empty()).step(STEP)?,
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error).step(STEP),
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
            open_tree(CWD, &path, flags).step(STEP)
        })
    }

    /// Runs `act` inside the launch namespace.
    pub(crate) fn in_launch<T>(&self, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        sys::setns(self.launch_mounts.as_fd(), libc::CLONE_NEWNS).step("enter launch namespace")?;
        let result = act();
        leave(&self.own_mounts, libc::CLONE_NEWNS);
        result
    }

    /// Clones from the launch namespace, with `owner` as the host's user id to whom a new user namespace belongs. In
    /// the child this returns there; in the supervisor back home.
    ///
    /// What the kernel counts by user (inotify instances, bytes of message queues, signals that wait) it counts for the
    /// user of a namespace and for the owner of the namespace (`kernel/ucount.c`). Were that root, as whom the
    /// supervisor runs, all tasks and the host itself would share one allowance.
    pub(crate) fn clone_from_launch(
        &self,
        flags: u64,
        cgroup: Option<BorrowedFd<'_>>,
        owner: u32,
    ) -> Result<sys::Clone, Failure> {
        sys::setns(self.launch_mounts.as_fd(), libc::CLONE_NEWNS).step("enter launch namespace")?;
        let owner = Standing::own().root_of(owner);
        let cloned = sys::set_effective_user(owner).and_then(|()| sys::clone3(flags, cgroup));
        if !matches!(cloned, Ok(sys::Clone::Child)) {
            become_root_again();
            leave(&self.own_mounts, libc::CLONE_NEWNS);
        }
        cloned.step("clone process")
    }

    /// Clones into the PID namespace of the process that `pidfd` refers to.
    pub(crate) fn clone_into_pids(
        &self,
        pidfd: BorrowedFd<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<sys::Clone, Failure> {
        if !Standing::own().is_host() {
            return clone_by_child(pidfd);
        }
        // Affects future children only (pid_namespaces(7)).
        sys::setns(pidfd, libc::CLONE_NEWPID).map_err(|error| not_entered(errno(&error)))?;
        let cloned = sys::clone3(0, cgroup);
        if !matches!(cloned, Ok(sys::Clone::Child)) {
            leave(&self.own_pids, libc::CLONE_NEWPID);
        }
        cloned.step("clone process")
    }
}

fn not_entered(errno: i32) -> Failure {
    match errno {
        libc::ESRCH => Failure::NotRunning {},
        errno => Failure::System { step: "enter pid namespace".to_owned(), errno },
    }
}

/// Clones into a PID namespace from a user namespace, in which nobody may come back to the host's: a child goes there and
/// clones a sibling of its own, which is a child of the caller as well.
fn clone_by_child(pidfd: BorrowedFd<'_>) -> Result<sys::Clone, Failure> {
    const STEP: &str = "clone process";
    let (ours, theirs) = channel::pair().step(STEP)?;
    let sys::Clone::Parent { pidfd: child, .. } = sys::clone3(0, None).step(STEP)? else {
        drop(ours);
        let entered = sys::setns(pidfd, libc::CLONE_NEWPID);
        let told = match entered.and_then(|()| sys::clone3(libc::CLONE_PARENT as u64, None)) {
            Ok(sys::Clone::Child) => return Ok(sys::Clone::Child),
            Ok(sys::Clone::Parent { pid, pidfd }) => {
                channel::send(theirs.as_fd(), u64::from(pid.cast_unsigned()), &[], &[pidfd.as_fd()], true)
            }
            Err(error) => channel::send(theirs.as_fd(), 0, &errno(&error).to_le_bytes(), &[], true),
        };
        sys::exit_now(i32::from(told.is_err()))
    };
    drop(theirs);
    let heard = channel::receive(ours.as_fd(), &mut Vec::new(), true).step(STEP);
    sys::wait_child(Some(child.as_fd()), true).step(STEP)?;
    let lost = || Failure::System { step: STEP.to_owned(), errno: libc::ECHILD };
    let mut frame = heard?.ok_or_else(lost)?;
    match (u32::try_from(frame.id).map(u32::cast_signed), frame.fds.pop()) {
        (Ok(pid), Some(pidfd)) if pid > 0 => Ok(sys::Clone::Parent { pid, pidfd }),
        _ => {
            let errno = <[u8; 4]>::try_from(&frame.message[..]).map_or(libc::EBADMSG, i32::from_le_bytes);
            Err(not_entered(errno))
        }
    }
}

/// A supervisor lost in a task's namespace must not go on: it would do to one task what is meant for
/// another. Ending closes the socket, and the next start-up cleans up.
fn leave(home: &OwnedFd, kind: i32) {
    if let Err(error) = sys::setns(home.as_fd(), kind) {
        eprintln!("neargate-supervisor: return from a sandbox's namespace: {error}");
        std::process::abort();
    }
}

/// A supervisor that stays another user must not go on either: what it makes would be that user's.
fn become_root_again() {
    if let Err(error) = sys::set_effective_user(0) {
        eprintln!("neargate-supervisor: become root again: {error}");
        std::process::abort();
    }
}

/// Makes a network namespace with `lo` up. It belongs to the host's user namespace, so root of a
/// container has no rights over it.
pub(crate) fn make_network() -> Result<OwnedFd, Failure> {
    let home = namespace("net")?;
    sys::unshare(libc::CLONE_NEWNET).step("make network namespace")?;
    let made = furnish_network().and_then(|()| namespace("net"));
    leave(&home, libc::CLONE_NEWNET);
    made
}

/// Makes a network namespace with `lo` up that belongs to a user namespace of a task, so that NET_ADMIN and NET_RAW in
/// that one count for it.
///
/// Who has entered a user namespace cannot come back, so a child does it.
pub(crate) fn make_network_of(userns: BorrowedFd<'_>, launchpad: &Launchpad) -> Result<OwnedFd, Failure> {
    const STEP: &str = "make network namespace of task";
    let (ours, theirs) = channel::pair().step(STEP)?;
    match sys::clone3(0, None).step(STEP)? {
        sys::Clone::Child => {
            drop(ours);
            let made =
                sys::setns(userns, libc::CLONE_NEWUSER).and_then(|()| sys::unshare(libc::CLONE_NEWNET));
            if made.is_ok() && rustix::io::write(&theirs, &[0]).is_ok() {
                // Returns when the supervisor has closed its end, or has died.
                let _ = rustix::io::read(&theirs, &mut [0u8; 1]);
            }
            sys::exit_now(0)
        }
        sys::Clone::Parent { pid, pidfd } => {
            drop(theirs);
            // Nothing comes from a child that has failed.
            let made = match rustix::io::retry_on_intr(|| rustix::io::read(&ours, &mut [0u8; 1])) {
                Ok(1) => fs::File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from).step(STEP),
                _ => Err(Failure::System { step: STEP.to_owned(), errno: libc::EPERM }),
            };
            drop(ours);
            sys::wait_child(Some(pidfd.as_fd()), true).step(STEP)?;
            let network = made?;
            launchpad.in_network(network.as_fd(), furnish_network)?;
            Ok(network)
        }
    }
}

/// Sets up the network namespace that the caller is in.
fn furnish_network() -> Result<(), Failure> {
    sys::bring_loopback_up().step("bring loopback up")?;
    // NET_BIND_SERVICE does not reach a namespace of the host's, and raw sockets for ping need the capability that
    // containers do not have.
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").step("open low ports")?;
    let last = match Standing::own() {
        // The highest group that the kernel takes.
        Standing::Host => i32::MAX,
        Standing::Realm => 0,
    };
    fs::write("/proc/sys/net/ipv4/ping_group_range", format!("0 {last}")).step("allow ping")?;
    // An interface that comes has none until its task gets an address; loopback has it already.
    match fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.step("switch IPv6 off"),
    }
}

/// Fills the launch namespace, in which the caller is, and makes it the root.
fn furnish() -> Result<(), Failure> {
    const STEP: &str = "furnish launch namespace";
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step(STEP)?;
    let tmpfs = new_tmpfs(c"1m", c"0755", MountAttrFlags::MOUNT_ATTR_NOSUID).step(STEP)?;
    let fittings = Fittings::open()?;
    // Any directory serves for the moment, and this one is on every Linux.
    let place = Path::new("/proc");
    move_mount(&tmpfs, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step(STEP)?;
    for dir in ["proc", "root", "dev", "layers", "shm", "stage", "stage/proc", "stage/dev", "stage/sys"] {
        fs::create_dir(place.join(dir)).step(STEP)?;
    }
    for (index, (name, major, minor)) in DEVICES.into_iter().enumerate() {
        let node = place.join("dev").join(name);
        match fittings.nodes.get(index) {
            Some(host) => bind(host, &node),
            None => make_node(&node, rustix::fs::makedev(major, minor)),
        }
        .step("make device node")?;
    }
    let target = place.join("proc");
    move_mount(&fittings.proc, c"", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step(STEP)?;
    rustix::process::chdir(place).step(STEP)?;
    rustix::process::pivot_root(c".", c".").step(STEP)?;
    unmount(c".", UnmountFlags::DETACH).step(STEP)?;
    rustix::process::chdir(c"/").step(STEP)
}

/// What is put into the launch namespace, as detached mounts.
struct Fittings {
    proc: OwnedFd,
    /// The host's nodes of [`DEVICES`], where none can be made.
    nodes: Vec<OwnedFd>,
}

impl Fittings {
    /// Opens them, while the caller still sees what the host has.
    ///
    /// In a user namespace no device can be made, and no proc of the PID namespace, which is the host's: the host's own
    /// are used. What is mounted below that proc cannot be left out (`has_locked_children()`).
    fn open() -> Result<Self, Failure> {
        const STEP: &str = "open what the launch namespace has";
        if Standing::own().is_host() {
            let proc = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC).step(STEP)?;
            fsconfig_create(proc.as_fd()).step(STEP)?;
            let proc = fsmount(proc.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
            return Ok(Self { proc: proc.step(STEP)?, nodes: Vec::new() });
        }
        let clone = |path: &str, more| {
            let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | more;
            open_tree(CWD, path, flags).step(STEP)
        };
        let node = |(name, ..): (&str, u32, u32)| clone(&format!("/dev/{name}"), OpenTreeFlags::empty());
        let nodes = DEVICES.into_iter().map(node).collect::<Result<_, _>>()?;
        Ok(Self { proc: clone("/proc", OpenTreeFlags::AT_RECURSIVE)?, nodes })
    }
}

fn make_node(path: &Path, device: rustix::fs::Dev) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, device)?;
    rustix::fs::chmodat(CWD, path, mode, rustix::fs::AtFlags::empty())
}

fn bind(node: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::open(path, flags, Mode::from_raw_mode(0o666))?);
    move_mount(node, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
