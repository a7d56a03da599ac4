//! What the first process of a container does before anybody knows what will run in it.
//!
//! Most of the work of a start depends on neither image nor program: namespaces, groups, proc, `/dev`, sysfs and what is
//! hidden of them. It is done here, in a place beside the root that is still to come; so a process can be made ahead of
//! need and wait, and what is left to do is done in a fraction of the time.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::mounts::{self, Dev};
use super::{Ground, Ipc, Shell, environment, files};
use crate::cgroup;
use crate::failure::{Failure, Step};
use crate::launchpad::STAGE_DIR;
use crate::sys;

/// What is mounted beside the root that is still to come.
pub(super) struct Room {
    dev: Dev,
}

/// Takes the process's groups and ids, and mounts what every container has.
pub(super) fn furnish(ground: &Ground<'_>, shell: Shell) -> Result<Room, Failure> {
    let Shell { sysfs, mut tasks, is_masked, ipc, joined } = shell;
    let _ = rustix::thread::set_name(c"ng-parked");
    cgroup::join(&mut tasks).step("join cgroup")?;
    // After joining, so that the v1 groups, too, are the roots of the new namespace.
    let mut namespaces = libc::CLONE_NEWCGROUP;
    let mut proc = None;
    if let Some(userns) = joined {
        // The PID namespace is the host's own, so that only now a proc of it can be made.
        proc = Some(mounts::new_proc().step("make proc")?);
        sys::setns(userns.as_fd(), libc::CLONE_NEWUSER).step("enter user namespace")?;
        // Which may have changed that (`commit_creds()`), and there may be others in its PID namespace.
        sys::prctl(libc::PR_SET_DUMPABLE, 0).step("enter user namespace")?;
        namespaces |= libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
        match &ipc {
            Ipc::Own | Ipc::OwnWithoutShm => namespaces |= libc::CLONE_NEWIPC,
            Ipc::Host(_) => {}
            Ipc::Shared(shared) => {
                sys::setns(shared.namespace.as_fd(), libc::CLONE_NEWIPC).step("enter IPC namespace")?;
                // Left again at once, for a copy of it.
                sys::setns(shared.mounts.as_fd(), libc::CLONE_NEWNS).step("enter mount namespace")?;
            }
        }
    }
    sys::unshare(namespaces).step("make namespaces")?;
    // No controlling terminal is shared with the supervisor, and no stream: who reads what the server tells must not
    // wait for the end of a process that waits.
    rustix::process::setsid().step("make session")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).step("open root")?;
    environment::attach_null(root.as_fd())?;
    // Until now the user was one of the host's, whom the new user namespace does not know.
    sys::set_ids(0, 0, &[]).step("become root of the container")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(c"/", private).step("make mounts private")?;
    let stage = rustix::fs::open(STAGE_DIR, flags, Mode::empty()).step("open stage")?;
    let dev = mounts::mount_fixed(stage.as_fd(), proc, &sysfs, ipc)?;
    files::mask(stage.as_fd(), if is_masked { ground.masked } else { &[] })?;
    if ground.mount_cgroup2 {
        mounts::mount_cgroup2(sysfs.as_fd())?;
    }
    Ok(Room { dev })
}

impl Room {
    /// Moves what is mounted to the root, and gives it what the plan says.
    pub(super) fn move_into(&self, root: BorrowedFd<'_>, shm_bytes: u64) -> Result<(), Failure> {
        if let Some(shm) = self.dev.own_shm.as_ref().filter(|_| shm_bytes != mounts::SHM_BYTES_DEFAULT) {
            mounts::resize(shm.as_fd(), shm_bytes).step("set size of /dev/shm")?;
        }
        mounts::move_fixed(Path::new(STAGE_DIR), root)
    }

    /// The mount of `/dev`.
    pub(super) fn dev(&self) -> BorrowedFd<'_> {
        self.dev.dev.as_fd()
    }
}
