//! The factory of cells, a child of the supervisor.
//!
//! The processes that it makes are the supervisor's children, not its own (`CLONE_PARENT`), so that the supervisor can
//! wait for them. It is forked early: to clone a process costs the more, the more memory it has.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};
use neargate_ipc::{wire_enum, wire_struct};

use super::start::{NAMESPACES, abandon, admit, go, sync_pair};
use super::{leave_standard_error, router};
use crate::cgroup::{Group, Groups};
use crate::failure::{Failure, Step};
use crate::init::{self, Ground, Ipc, Shell};
use crate::launchpad::{self, Launchpad};
use crate::rootfs::{self, Scratch};
use crate::sys::{self, Clone};

wire_struct! {
    /// A cell to be made. Beside it is the router's network namespace, if the cell's network is to have a link there.
    pub(super) struct Order {
        name: String,
        /// Whether the network namespace beside it is the one that the cell is to have, link included.
        is_used: bool,
    }
}

wire_enum! {
    /// What the factory tells of what it was asked for.
    pub(super) enum Made {
        /// A cell whose process has this id, and whose network has a link to the router if it was asked for. Beside it
        /// are the process's user namespace, the network namespace, the process's socket and its pidfd.
        0 => Cell { pid: i32, linked: bool },
        /// There will be none, of this name or any other.
        1 => Failed { failure: Failure },
    }
}

/// Forks the factory; returns its socket and the process. It is reaped with the supervisor, by whoever reaps that.
pub(super) fn start(
    launchpad: &Launchpad,
    groups: &Groups,
    ground: &Ground<'_>,
    scratch: Option<&Path>,
) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (ours, theirs) = sync_pair()?;
    match sys::clone3(0, None).step("clone factory of cells")? {
        Clone::Parent { pidfd, .. } => Ok((ours, pidfd)),
        Clone::Child => {
            // The supervisor sees its socket close.
            let ended = Factory { launchpad, groups, ground, scratch }.serve(&theirs);
            sys::exit_now(i32::from(ended.is_err()))
        }
    }
}

struct Factory<'a> {
    launchpad: &'a Launchpad,
    groups: &'a Groups,
    ground: &'a Ground<'a>,
    /// Where directories for what containers write are made.
    scratch: Option<&'a Path>,
}

/// Where the network of a cell comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// It is made, with a link to a router if there is one.
    New { router: Option<BorrowedFd<'a>> },
    /// A task has left it.
    Used(BorrowedFd<'a>),
}

/// A cell on its way to the supervisor.
struct Fresh {
    user: OwnedFd,
    network: OwnedFd,
    first: First,
    linked: bool,
}

impl Factory<'_> {
    /// Makes a cell for each message until there are no more.
    fn serve(&self, socket: &OwnedFd) -> Result<(), Failure> {
        const STEP: &str = "serve as factory of cells";
        let mut kept = self.launchpad.raw_fds();
        kept.push(socket.as_raw_fd());
        kept.extend(self.ground.seat.map(|seat| seat.as_raw_fd()));
        sys::close_all_but(&mut kept).step(STEP)?;
        sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).step(STEP)?;
        let _ = rustix::thread::set_name(c"ng-cells");
        // Who reads it must not wait for this process.
        leave_standard_error();
        let mut buffer = Vec::new();
        // A supervisor that died before the call above has closed its end.
        while let Some(frame) = channel::receive(socket.as_fd(), &mut buffer, true).step(STEP)? {
            neargate_failpoint::reach("container::factory::before");
            let ids = u32::try_from(frame.id).unwrap_or_default();
            let network = frame.fds.first().map(AsFd::as_fd);
            let made = match decode(&frame.message) {
                Ok(Order { name, is_used }) => {
                    let used = network.filter(|_| is_used).map(Origin::Used);
                    self.make(&name, ids, used.unwrap_or(Origin::New { router: network }))
                }
                Err(_) => Err(Failure::System { step: STEP.to_owned(), errno: libc::EBADMSG }),
            };
            neargate_failpoint::reach("container::factory::after");
            let (made, fresh) = match made {
                Ok(fresh) => (Made::Cell { pid: fresh.first.pid, linked: fresh.linked }, Some(fresh)),
                Err(failure) => (Made::Failed { failure }, None),
            };
            let fds: Vec<BorrowedFd<'_>> = fresh.iter().flat_map(Fresh::fds).collect();
            // Fails when nobody needs it any more.
            if channel::send(socket.as_fd(), frame.id, &encode(&made), &fds, true).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn make(&self, name: &str, ids: u32, origin: Origin<'_>) -> Result<Fresh, Failure> {
        let scratch =
            self.scratch.map(|directory| Scratch::make(Scratch::place(directory, name), ids)).transpose()?;
        let made = self.make_groups(name, ids, origin);
        if let (Err(_), Some(scratch)) = (&made, scratch) {
            scratch.remove();
        }
        made
    }

    fn make_groups(&self, name: &str, ids: u32, origin: Origin<'_>) -> Result<Fresh, Failure> {
        let cell = self.groups.make_cell(name)?;
        let made = self.groups.make_first(&cell).and_then(|group| {
            let made = self.furnish(&group, ids, origin);
            if made.is_err() {
                group.remove();
            }
            made
        });
        if made.is_err() {
            cell.remove();
        }
        made
    }

    fn furnish(&self, group: &Group, ids: u32, origin: Origin<'_>) -> Result<Fresh, Failure> {
        let (network, linked) = match origin {
            Origin::Used(network) => (network.try_clone_to_owned().step("keep network namespace")?, true),
            Origin::New { router } => {
                let network = launchpad::make_network()?;
                // Where it fails the task that needs it tries again, and says why it cannot be.
                let link = |router| router::add_link(router, ids, network.as_fd(), self.launchpad).is_ok();
                let linked = router.is_some_and(link);
                (network, linked)
            }
        };
        let shape = Shape { is_sibling: true, is_masked: true, ipc: Ipc::Own, pids: Pids::Own, joined: None };
        let first = clone_first(self.launchpad, self.ground, network.as_fd(), group, ids, shape)?;
        let user = fs::File::open(format!("/proc/{}/ns/user", first.pid)).step("open user namespace")?;
        Ok(Fresh { user: user.into(), network, first, linked })
    }
}

impl Fresh {
    fn fds(&self) -> [BorrowedFd<'_>; 4] {
        [self.user.as_fd(), self.network.as_fd(), self.first.sync.as_fd(), self.first.pidfd.as_fd()]
    }
}

/// The first process of a container, and the socket on which it waits.
pub(super) struct First {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) sync: OwnedFd,
}

/// In what one first process differs from another.
pub(super) struct Shape<'a> {
    /// Whether it is a child of the caller's parent.
    pub(super) is_sibling: bool,
    /// Whether parts of proc and sysfs are hidden or protected.
    pub(super) is_masked: bool,
    /// Its IPC namespace and `/dev/shm`.
    pub(super) ipc: Ipc,
    /// Its PID namespace; only a container that joins a user namespace has another one's.
    pub(super) pids: Pids<'a>,
    /// The user namespace to enter, of a container that has none of its own.
    pub(super) joined: Option<BorrowedFd<'a>>,
}

/// Which PID namespace a container has.
#[derive(Clone, Copy)]
pub(super) enum Pids<'a> {
    /// Its own.
    Own,
    /// That of the process which this pidfd refers to.
    Of(BorrowedFd<'a>),
    /// The host's.
    Host,
}

/// Clones the first process of a container, which furnishes its namespaces and then waits for its orders.
pub(super) fn clone_first(
    launchpad: &Launchpad,
    ground: &Ground<'_>,
    network: BorrowedFd<'_>,
    group: &Group,
    ids: u32,
    shape: Shape<'_>,
) -> Result<First, Failure> {
    let Shape { is_sibling, is_masked, ipc, pids, joined } = shape;
    let (ours, theirs) = sync_pair()?;
    let namespaces = match (joined, pids) {
        (None, _) => NAMESPACES,
        (Some(_), Pids::Own) => libc::CLONE_NEWPID,
        (Some(_), Pids::Of(_) | Pids::Host) => 0,
    };
    let flags = namespaces | if is_sibling { libc::CLONE_PARENT } else { 0 };
    let maps = joined.is_none().then_some(ids);
    let cloned = launchpad.in_network(network, || {
        let shell = Shell {
            sysfs: rootfs::new_sysfs().step("make sysfs")?,
            tasks: group.open_tasks().step("open cgroup tasks")?,
            is_masked,
            ipc,
            joined: joined.map(|fd| fd.try_clone_to_owned()).transpose().step("open user namespace")?,
        };
        let clone = || match launchpad.clone_from_launch(flags as u64, group.unified_fd(), ids)? {
            Clone::Child => init::start(ground, shell, theirs),
            Clone::Parent { pid, pidfd } => Ok((pid, pidfd)),
        };
        match pids {
            Pids::Own | Pids::Host => clone(),
            Pids::Of(process) => launchpad.in_pids(process, clone),
        }
    });
    let (pid, pidfd) = cloned?;
    match admit(pid, maps).and_then(|()| go(&ours)) {
        Ok(()) => Ok(First { pid, pidfd, sync: ours }),
        Err(failure) => {
            abandon(&pidfd);
            Err(failure)
        }
    }
}
