//! What processes are started from: a mount namespace with nothing in it and a network namespace with nothing
//! in it.
//!
//! A new mount namespace is a copy of its parent's, mount by mount. A process therefore enters the launch
//! namespace, whose only mount is an empty read-only tmpfs, before it makes its own: that copies one
//! mount, and no path of the host is ever in it.
//!
//! The launcher makes them by moving into a new one and back, which is twice as fast as a child that dies for it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use neargate_driver::{ProcessRole, ProcessUser, VOLUME_ID_BASE};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
    move_mount, unmount,
};

use super::protocol::ProcessMountPlan;
use crate::failure::{Failure, Step, errno};
use crate::rootfs::{self, new_tmpfs};
use crate::sys;

/// A place in the launch namespace to mount on.
pub(super) const ROOT_DIR: &str = "/root";
/// The host's user of processes that own nothing, if the launcher is root. Just below the ids of volumes, so
/// no login user, no container and no volume has it.
const NOBODY_ID: u32 = VOLUME_ID_BASE - 1;

/// Namespaces to enter.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) mounts: OwnedFd,
    pub(super) network: OwnedFd,
    /// Whether the launcher is in a user namespace that it has made for itself.
    own_userns: bool,
    /// The launcher's ids, as the invoking user's.
    ids: (u32, u32),
}

impl Ground {
    /// Makes the namespaces, at first a user namespace if that is what it takes.
    pub(super) fn make() -> Result<Self, Failure> {
        let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let own_userns = match sys::unshare(libc::CLONE_NEWNS) {
            Ok(()) => false,
            Err(_) => {
                enter_userns(ids)?;
                true
            }
        };
        // The host's later mounts are seen here, and none of ours there.
        let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change(c"/", downstream).step("make mounts private")?;
        let home = Home::open()?;
        let mounts = home.excursion(libc::CLONE_NEWNS, "mnt", furnish)?;
        let network = match own_userns {
            false => home.excursion(libc::CLONE_NEWNET, "net", || Ok(()))?,
            // The host's is not the launcher's to go back to.
            true => network_of_child()?,
        };
        Ok(Self { mounts, network, own_userns, ids })
    }

    /// Whether processes of this role can have rights over files: root's over those of foreign owners; an ordinary user's
    /// keeper, as root of the launcher's namespace, over the user's own, which containers may have closed.
    pub(super) fn may_keep_files(&self, role: ProcessRole) -> bool {
        match self.own_userns {
            true => role == ProcessRole::FileKeeper,
            false => self.ids.0 == 0,
        }
    }

    /// User and group in the launcher's user namespace that are 0 in the process's.
    pub(super) fn ids_of(&self, user: ProcessUser, invoker: Option<(u32, u32)>) -> (u32, u32) {
        match user {
            _ if self.own_userns => (0, 0),
            ProcessUser::Root => (0, 0),
            ProcessUser::Nobody => (NOBODY_ID, NOBODY_ID),
            ProcessUser::Volumes => (VOLUME_ID_BASE, VOLUME_ID_BASE),
            ProcessUser::Invoker => invoker.unwrap_or(self.ids),
        }
    }

    /// Makes a detached mount of a directory of the host. What is mounted below it is not carried along, except
    /// without root, where the kernel refuses to uncover what is beneath.
    pub(super) fn open_mount(&self, plan: &ProcessMountPlan) -> Result<OwnedFd, Failure> {
        let fail = |error: std::io::Error| Failure::Mount {
            source_path: plan.source.clone(),
            target: plan.name.clone().into_bytes(),
            errno: errno(&error),
        };
        let place = rootfs::open_real(rootfs::path_of(&plan.source)).map_err(|error| fail(error.into()))?;
        let kind = FileType::from_raw_mode(fstat(&place).map_err(|error| fail(error.into()))?.st_mode);
        if kind != FileType::Directory {
            return Err(fail(std::io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let tree = match rootfs::clone_tree(place.as_fd(), OpenTreeFlags::empty()) {
            Err(rustix::io::Errno::INVAL) if self.own_userns => {
                rootfs::clone_tree(place.as_fd(), OpenTreeFlags::AT_RECURSIVE)
            }
            other => other,
        };
        let tree = tree.map_err(|error| fail(error.into()))?;
        let mut attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        if plan.read_only {
            attributes |= libc::MOUNT_ATTR_RDONLY;
        }
        sys::mount_setattr_all(tree.as_fd(), attributes).map_err(fail)?;
        Ok(tree)
    }
}

/// Makes a user namespace for the launcher itself, in which it is root and has all capabilities.
fn enter_userns((uid, gid): (u32, u32)) -> Result<(), Failure> {
    sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).step("make user namespace")?;
    // Without it the kernel lets no ordinary user write a group map (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").step("map own ids")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).step("map own ids")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).step("map own ids")
}

/// The way back into the namespaces and to the root directory in which the launcher is.
struct Home {
    /// `/proc/self`, to be found wherever the root directory is.
    proc_self: OwnedFd,
    root: OwnedFd,
}

impl Home {
    fn open() -> Result<Self, Failure> {
        let open = |path: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).step("remember the host's namespaces")
        };
        Ok(Self { proc_self: open("/proc/self")?, root: open("/")? })
    }

    /// Makes a namespace, which `fill` fills from within, returns to this one and returns the new one.
    fn excursion(
        &self,
        flag: i32,
        kind: &str,
        fill: fn() -> Result<(), Failure>,
    ) -> Result<OwnedFd, Failure> {
        let step = format!("make {kind} namespace");
        let open = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&self.proc_self, format!("ns/{kind}"), flags, Mode::empty()).step(&step)
        };
        let home = open()?;
        sys::unshare(flag).step(&step)?;
        let made = fill().and_then(|()| open());
        if let Err(error) = self.enter(&home, flag) {
            // Here nothing can be started, nor a directory of the host be found.
            panic!("return from a new {kind} namespace: {error}");
        }
        made
    }

    fn enter(&self, home: &OwnedFd, flag: i32) -> std::io::Result<()> {
        sys::setns(home.as_fd(), flag)?;
        if flag == libc::CLONE_NEWNS {
            // The root of the namespace, which setns(2) has entered, may be outside ours.
            rustix::process::fchdir(&self.root)?;
            rustix::process::chroot(c".")?;
        }
        Ok(())
    }
}

/// Makes a network namespace in a child.
fn network_of_child() -> Result<OwnedFd, Failure> {
    const STEP: &str = "make net namespace";
    let (wait, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(STEP)?;
    match sys::clone3(libc::CLONE_NEWNET as u64, None).step(STEP)? {
        sys::Clone::Child => {
            drop(hold);
            // Returns when the launcher has closed its end, or has died.
            let _ = rustix::io::read(&wait, &mut [0u8; 1]);
            sys::exit_now(0)
        }
        sys::Clone::Parent { pid, pidfd } => {
            let made = fs::File::open(format!("/proc/{pid}/ns/net")).step(STEP);
            drop((wait, hold));
            sys::wait_child(Some(pidfd.as_fd()), true).step(STEP)?;
            made.map(OwnedFd::from)
        }
    }
}

/// Makes an empty tmpfs the root of the mount namespace in which the caller is.
fn furnish() -> Result<(), Failure> {
    const STEP: &str = "furnish launch namespace";
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step(STEP)?;
    let tmpfs = new_tmpfs(c"64k", c"0555", attributes()).step(STEP)?;
    rustix::fs::mkdirat(&tmpfs, ROOT_DIR.trim_start_matches('/'), Mode::from_raw_mode(0o555)).step(STEP)?;
    sys::mount_setattr(tmpfs.as_fd(), libc::MOUNT_ATTR_RDONLY, None).step(STEP)?;
    // Any directory serves for the moment, and this one is on every Linux.
    enter_root(&tmpfs, Path::new("/proc")).step(STEP)
}

/// What every root directory of processes is mounted with, besides read-only.
fn attributes() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC
}

/// Attaches a detached mount at `place` and makes it the root, without what was there before.
fn enter_root(mount: &OwnedFd, place: &Path) -> rustix::io::Result<()> {
    move_mount(mount, c"", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(mount)?;
    // pivot_root(2) allows both to be the same directory: the old root is then stacked on the new one.
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// Makes a root directory of the given mounts and moves into it; for a process in its own copy of the launch
/// namespace.
pub(super) fn enter_mounts(mounts: &[(String, OwnedFd)]) -> Result<(), Failure> {
    const STEP: &str = "make root directory";
    let tmpfs = new_tmpfs(c"256k", c"0555", attributes()).step(STEP)?;
    for (name, _) in mounts {
        rustix::fs::mkdirat(&tmpfs, name.as_str(), Mode::from_raw_mode(0o555)).step(STEP)?;
    }
    enter_root(&tmpfs, Path::new(ROOT_DIR)).step(STEP)?;
    for (name, mount) in mounts {
        move_mount(mount, c"", CWD, name.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .step("attach mount")?;
    }
    let root = open_root().step(STEP)?;
    sys::mount_setattr(root.as_fd(), libc::MOUNT_ATTR_RDONLY, None).step(STEP)
}

fn open_root() -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, c"/", flags, Mode::empty())
}
