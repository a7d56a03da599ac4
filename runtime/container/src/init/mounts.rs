//! The mounts inside a container's root.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick, move_mount, open_tree,
};

use super::{HostIpc, Ipc, ipc, paths};
use crate::devices::Device;
use crate::failure::{Failure, Step, errno};
use crate::launchpad::{DEVICE_DIR, DEVICES};
use crate::protocol::{SourcePlan, TmpfsPlan};
use crate::rootfs::{Volume, clone_tree, new_tmpfs, open_real};
use crate::standing::Standing;
use crate::sys;

const NO_EXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
const NO_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);

/// Terminals that a container may have: more than a person opens, and a fraction of the 3072 that the kernel lets all
/// containers have together (`kernel.pty.max` without `kernel.pty.reserve`).
const TERMINALS_MAX: &CStr = c"256";

/// Size of a `/dev/shm` before a plan is known: what most containers get, as with Docker.
pub(super) const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// Puts a detached mount on a directory or file.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

fn new_mount(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// A proc of the caller's PID namespace.
pub(super) fn new_proc() -> rustix::io::Result<OwnedFd> {
    new_mount(c"proc", &[], NO_EXEC)
}

/// The message queues of the caller's IPC namespace.
pub(super) fn new_mqueue() -> rustix::io::Result<OwnedFd> {
    new_mount(c"mqueue", &[], NO_EXEC)
}

/// A copy of the mount of the host's `/dev/shm`.
pub(super) fn clone_host_shm() -> rustix::io::Result<OwnedFd> {
    let shm = clone_tree(open_real(Path::new("/dev/shm"))?.as_fd(), OpenTreeFlags::empty())?;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    match sys::mount_setattr(shm.as_fd(), attributes, None) {
        Ok(()) => Ok(shm),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// Mounts what every container has in a directory with places for it; returns dev.
pub(super) fn mount_fixed(
    stage: BorrowedFd<'_>,
    proc: Option<OwnedFd>,
    sysfs: &OwnedFd,
    ipc: Ipc,
) -> Result<Dev, Failure> {
    let proc = proc.map_or_else(new_proc, Ok).step("make proc")?;
    attach(proc.as_fd(), top_dir(stage, "proc")?.as_fd()).step("mount proc")?;
    let place = top_dir(stage, "dev")?;
    let dev = new_tmpfs(c"1m", c"0755", NO_DEV | MountAttrFlags::MOUNT_ATTR_NOEXEC).step("make dev")?;
    attach(dev.as_fd(), place.as_fd()).step("mount dev")?;
    let own_shm = fill_dev(dev.as_fd(), ipc)?;
    attach(sysfs.as_fd(), top_dir(stage, "sys")?.as_fd()).step("mount sys")?;
    Ok(Dev { dev, own_shm })
}

/// A container's `/dev`.
pub(super) struct Dev {
    /// Its mount.
    pub(super) dev: OwnedFd,
    /// The mount of its own `/dev/shm`, of the usual size.
    pub(super) own_shm: Option<OwnedFd>,
}

/// Moves what is mounted in the stage to the root.
pub(super) fn move_fixed(stage: &Path, root: BorrowedFd<'_>) -> Result<(), Failure> {
    for name in ["proc", "dev", "sys"] {
        let target = top_dir(root, name)?;
        let from = stage.join(name);
        move_mount(CWD, &from, target, c"", MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
            .step(&format!("mount {name}"))?;
    }
    Ok(())
}

/// Mounts the hierarchy of cgroup v2 in a sysfs.
pub(super) fn mount_cgroup2(sysfs: BorrowedFd<'_>) -> Result<(), Failure> {
    let attributes = NO_EXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
    let cgroup = new_mount(c"cgroup2", &[], attributes).step("make cgroup2")?;
    let target = paths::open_plain(sysfs, "fs/cgroup", OFlags::PATH).step("open sys/fs/cgroup")?;
    attach(cgroup.as_fd(), target.as_fd()).step("mount cgroup2")
}

/// Gives a tmpfs another size.
pub(super) fn resize(tmpfs: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let context = fspick(tmpfs, c"", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), c"size", &size_option(bytes)?)?;
    Ok(fsconfig_reconfigure(context.as_fd())?)
}

/// A size as tmpfs takes it. It takes 0 for unlimited, which is not what a size of 0 asks for.
fn size_option(bytes: u64) -> io::Result<CString> {
    Ok(CString::new(bytes.max(1).to_string())?)
}

fn top_dir(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failure> {
    paths::open_top_dir(root, name).map_err(|error| match error {
        Errno::NOTDIR | Errno::LOOP => {
            Failure::InvalidImage { why: format!("its /{name} is not a directory") }
        }
        other => Failure::System { step: format!("open /{name}"), errno: other.raw_os_error() },
    })
}

/// Fills `/dev`; returns its own shm.
fn fill_dev(dev: BorrowedFd<'_>, ipc: Ipc) -> Result<Option<OwnedFd>, Failure> {
    for (name, major, minor) in DEVICES {
        bind_device(dev, name, major, minor).step(&format!("make /dev/{name}"))?;
    }
    let links = [
        (c"/proc/self/fd", c"fd"),
        (c"/proc/self/fd/0", c"stdin"),
        (c"/proc/self/fd/1", c"stdout"),
        (c"/proc/self/fd/2", c"stderr"),
        (c"pts/ptmx", c"ptmx"),
    ];
    for (target, name) in links {
        rustix::fs::symlinkat(target, dev, name).step("make links in /dev")?;
    }
    // Group 5 is tty in every distribution; Docker uses the same options, but for the last.
    let pts_options = [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"max", TERMINALS_MAX), (c"gid", c"5")];
    // Where there is no group 5 terminals have their user's group.
    let pts_options = if Standing::own().is_host() { &pts_options[..] } else { &pts_options[..3] };
    let pts = new_mount(
        c"devpts",
        pts_options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .step("make /dev/pts")?;
    let is_own = matches!(ipc, Ipc::Own);
    let (mqueue, shm) = ipc_mounts(ipc)?;
    let shm_place = shm.as_ref().map(|shm| (shm, c"shm"));
    for (mount, name) in [(&pts, c"pts")].into_iter().chain(shm_place).chain([(&mqueue, c"mqueue")]) {
        rustix::fs::mkdirat(dev, name, Mode::from_raw_mode(0o755)).step("fill /dev")?;
        move_mount(mount, c"", dev, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).step("fill /dev")?;
    }
    Ok(shm.filter(|_| is_own))
}

/// The message queues and the `/dev/shm` of an IPC namespace, in which the caller is.
fn ipc_mounts(ipc: Ipc) -> Result<(OwnedFd, Option<OwnedFd>), Failure> {
    let shm = match ipc {
        Ipc::Own => Some(new_shm(SHM_BYTES_DEFAULT).step("make /dev/shm")?),
        Ipc::OwnWithoutShm => None,
        Ipc::Host(HostIpc { mqueue, shm }) => return Ok((mqueue, Some(shm))),
        Ipc::Shared(_) => Some(ipc::clone_shm().step("open /dev/shm of task")?),
    };
    Ok((new_mqueue().step("make /dev/mqueue")?, shm))
}

/// A `/dev/shm`.
pub(super) fn new_shm(size_bytes: u64) -> io::Result<OwnedFd> {
    let shm = TmpfsPlan { size_bytes, exec: false, mode: 0o1777, uid: 0, gid: 0, inodes_max: None };
    tmpfs_of(&shm, false)
}

/// Puts a device of the host in its place below `/dev`.
pub(super) fn mount_device(root: BorrowedFd<'_>, device: &Device) -> Result<(), Failure> {
    let target = Path::new(OsStr::from_bytes(&device.target));
    let place = || -> io::Result<()> {
        let target = paths::open_or_make(root, target, false)?;
        Ok(attach(device.node.as_fd(), target.as_fd())?)
    };
    place().step(&format!("make {}", target.display()))
}

fn bind_device(dev: BorrowedFd<'_>, name: &str, major: u32, minor: u32) -> rustix::io::Result<()> {
    let node = device(name, major, minor)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    drop(rustix::fs::openat(dev, name, flags, Mode::from_raw_mode(0o666))?);
    move_mount(node, c"", dev, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// A detached mount of one device node of the launch namespace.
pub(super) fn device(name: &str, major: u32, minor: u32) -> rustix::io::Result<OwnedFd> {
    let path = format!("{DEVICE_DIR}/{name}");
    let node = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE)?;
    if paths::is_device(node.as_fd(), major, minor)? { Ok(node) } else { Err(Errno::NODEV) }
}

/// Mounts one volume. Its target is resolved inside the root, links included, and made when missing.
pub(super) fn mount_volume(
    root: BorrowedFd<'_>,
    dev: BorrowedFd<'_>,
    volume: &Volume,
) -> Result<(), Failure> {
    let plan = &volume.plan;
    let source_path = match &plan.source {
        SourcePlan::Host { path } => path.clone(),
        SourcePlan::Tmpfs { .. } => b"tmpfs".to_vec(),
    };
    let mount = || -> io::Result<()> {
        let target = paths::open_or_make(root, Path::new(OsStr::from_bytes(&plan.target)), volume.is_dir)?;
        refuse_system_dir(root, dev, target.as_fd())?;
        if let Some(mount) = &volume.mount {
            attach(mount.as_fd(), target.as_fd())?;
        }
        if let SourcePlan::Tmpfs { tmpfs } = &plan.source {
            attach(tmpfs_of(tmpfs, plan.read_only)?.as_fd(), target.as_fd())?;
        }
        Ok(())
    };
    mount().map_err(|error| Failure::Mount {
        source_path: source_path.clone(),
        target: plan.target.clone(),
        errno: errno(&error),
    })
}

/// A detached tmpfs. Its pages count as memory of the container that writes them.
fn tmpfs_of(plan: &TmpfsPlan, read_only: bool) -> io::Result<OwnedFd> {
    let mut options = vec![
        (c"size", size_option(plan.size_bytes)?),
        (c"mode", CString::new(format!("{:o}", plan.mode))?),
        (c"uid", CString::new(plan.uid.to_string())?),
        (c"gid", CString::new(plan.gid.to_string())?),
    ];
    if let Some(inodes) = plan.inodes_max {
        options.push((c"nr_inodes", CString::new(inodes.max(1).to_string())?));
    }
    let options: Vec<_> = options.iter().map(|(key, value)| (*key, value.as_c_str())).collect();
    let tmpfs = new_mount(c"tmpfs", &options, if plan.exec { NO_DEV } else { NO_EXEC })?;
    if read_only {
        sys::mount_setattr(tmpfs.as_fd(), libc::MOUNT_ATTR_RDONLY, None)?;
    }
    Ok(tmpfs)
}

/// Keeps volumes off the root, `/dev`, and everything in proc and sysfs, wherever links may lead.
fn refuse_system_dir(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const PROC_MAGIC: i64 = 0x9fa0;
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    let kind = rustix::fs::fstatfs(target)?.f_type;
    let is_system = matches!(kind, PROC_MAGIC | SYSFS_MAGIC | CGROUP2_MAGIC);
    if is_system || paths::is_same(target, root)? || paths::is_same(target, dev)? {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    Ok(())
}
