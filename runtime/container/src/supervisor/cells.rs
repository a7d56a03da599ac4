//! Cells: what the first container of every task has and none differs in, made ahead of need.
//!
//! ```text
//!  host ── range of ids, name ──▶ factory: groups, network namespace, directories, and a process that waits in them
//!       ◀──── descriptors ─────
//! ```
//!
//! Most of a start's work depends on neither image nor program. So a child of the supervisor, the factory, does it
//! ahead, for as many tasks as lately came at once. When nothing is ready, or there is no factory any more, the supervisor
//! does it itself: a start never waits for the factory. It makes what it was asked for one at a time, and dies with the
//! supervisor; so do the processes that wait, because their socket closes.
//!
//! What a task leaves of its network, a namespace with a link to the router and nothing else in it, becomes part of a
//! cell for another task with the same policy: to make both takes the kernel as long as all the rest, and to take them
//! apart longer still, under a lock that whoever connects a task needs as well.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};
use neargate_network::rules::Policy;

use super::factory::{self, Made, Order};
use super::host::Process;
use super::inside::{self, Legacy};
use super::{report, unwatch, watch};
use crate::cgroup::{Group, Groups};
use crate::failure::{Failure, Step};
use crate::id_range::IdRanges;
use crate::init::Ground;
use crate::launchpad::{self, Launchpad};
use crate::protocol::NetworkPlan;
use crate::rootfs::{self, Scratch};
use crate::standing::Standing;
use crate::sys;

/// Cells that are kept ready: at first, and at most. Each time that there is none the number doubles. One that waits
/// takes some 400 KiB, nearly all of it the kernel's.
const SPARE_MIN: usize = 4;
const SPARE_MAX: usize = 32;
/// Networks that are kept for the next tasks with their policies.
const USED_MAX: usize = 32;
/// How long nothing must have been started before the factory is to fill up what is used: its work would slow down the
/// starts that it is meant to make faster. When less than half is left it does not wait.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// A sandbox before it is known for which task.
pub(super) struct Cell {
    /// Range of host user ids.
    pub(super) ids: u32,
    pub(super) namespaces: Namespaces,
    pub(super) group: Group,
    /// Whether its network has a link to the router.
    pub(super) linked: bool,
    /// What its network has of earlier tasks; only those with the same policy may have it.
    pub(super) legacy: Option<Legacy>,
    /// None where there was no time to make one.
    pub(super) parked: Option<Parked>,
}

/// Namespaces that the containers of a task share.
pub(super) struct Namespaces {
    /// Holds the id map of the task.
    pub(super) user: OwnedFd,
    pub(super) network: OwnedFd,
    /// Whether the user namespace owns the network.
    pub(super) owns_network: bool,
}

/// The first process of a container, which waits to be told what to become, and its group.
pub(super) struct Parked {
    pub(super) process: Process,
    pub(super) group: Group,
    /// None where there is no place for it.
    pub(super) scratch: Option<Scratch>,
}

/// A network with a link to the router, that tasks have had.
pub(super) struct Used {
    /// Range of host user ids, after which the link is named.
    pub(super) ids: u32,
    pub(super) network: OwnedFd,
    pub(super) legacy: Legacy,
}

/// The cells that are ready, and the factory of more.
pub(super) struct Cells {
    ids: IdRanges,
    ready: VecDeque<Cell>,
    /// Networks for cells that are to be made.
    used: VecDeque<Used>,
    /// The policies of the tasks that took the cells which are to be replaced.
    taken_by: VecDeque<Option<Policy>>,
    /// How many are kept ready.
    spare: usize,
    /// Where directories for what containers write are made.
    scratch: Option<PathBuf>,
    factory: Option<Factory>,
    names: Names,
    /// The network namespace to which the networks of cells are linked, while tasks come that need it.
    router: Option<OwnedFd>,
    /// When the last one was taken.
    taken: Instant,
    buffer: Vec<u8>,
}

/// Names of cells, none of which was ever given before on this machine.
struct Names {
    prefix: String,
    last: u64,
}

struct Factory {
    socket: OwnedFd,
    process: OwnedFd,
    /// What it is making, in order.
    asked: VecDeque<Asked>,
}

/// What the factory was asked for.
struct Asked {
    ids: u32,
    name: String,
    legacy: Option<Legacy>,
}

impl Cells {
    /// Starts the factory, whose socket reports to `epoll` under `token`. Without one there are cells all the same.
    ///
    /// Directories for what containers write are made in `scratch`, which is emptied first.
    pub(super) fn start(
        ids: IdRanges,
        scratch: Option<PathBuf>,
        (epoll, token): (&OwnedFd, u64),
        launchpad: &Launchpad,
        groups: &Groups,
        ground: &Ground<'_>,
    ) -> Self {
        let scratch = scratch.filter(|path| match Scratch::prepare(path) {
            Ok(()) => true,
            Err(error) => {
                report(&format!("empty {}", path.display()), &error);
                false
            }
        });
        let factory =
            factory::start(launchpad, groups, ground, scratch.as_deref()).and_then(|(socket, process)| {
                watch(epoll, socket.as_fd(), token).step("watch factory of cells")?;
                Ok(Factory { socket, process, asked: VecDeque::new() })
            });
        if let Err(failure) = &factory {
            report("start factory of cells", &failure.clone().into_start());
        }
        let (ready, used, taken_by) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (factory, names) = (factory.ok(), Names::new());
        let (spare, router, taken) = (SPARE_MIN, None, Instant::now());
        let buffer = Vec::new();
        let mut cells =
            Self { ids, ready, used, taken_by, spare, scratch, factory, names, router, taken, buffer };
        cells.refill(taken, launchpad);
        cells
    }

    /// First id of the range in which volumes are stored.
    pub(super) fn volumes(&self) -> u32 {
        self.ids.volumes()
    }

    /// What the names of all cells made here begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.names.prefix
    }

    /// A cell for a new sandbox, whose interface has a policy if it has one.
    pub(super) fn take(&mut self, groups: &Groups, policy: Option<&Policy>) -> Result<Cell, Failure> {
        self.taken = Instant::now();
        self.taken_by.push_back(policy.cloned());
        // The latest are those whose like may come again.
        if self.taken_by.len() > SPARE_MAX {
            self.taken_by.pop_front();
        }
        let is_theirs = |cell: &Cell| cell.policy().is_some() && cell.policy() == policy;
        let is_new = |cell: &Cell| cell.policy().is_none();
        let fitting = self.ready.iter().position(is_theirs).or_else(|| self.ready.iter().position(is_new));
        if let Some(cell) = fitting.and_then(|at| self.ready.remove(at)) {
            return Ok(cell);
        }
        self.spare = (self.spare * 2).min(SPARE_MAX);
        let exhausted = || Failure::System { step: "take user id range".to_owned(), errno: libc::ENOSPC };
        let ids = self.ids.take().ok_or_else(exhausted)?;
        let name = self.names.next();
        let made = Namespaces::make(ids).and_then(|namespaces| Ok((namespaces, groups.make_cell(&name)?)));
        let (namespaces, group) = made.inspect_err(|_| self.ids.give_back(ids))?;
        Ok(Cell { ids, namespaces, group, linked: false, legacy: None, parked: None })
    }

    /// A cell that waits for a policy with which no tasks come any more, when there is no room for others.
    pub(super) fn take_unwanted(&mut self) -> Option<Cell> {
        let is_full = self.ready.len() >= self.spare && self.ready.iter().all(|cell| cell.legacy.is_some());
        let wanted = |policy| self.taken_by.iter().any(|by| by.as_ref() == policy);
        let at = self.ready.iter().position(|cell| !wanted(cell.policy()));
        at.filter(|_| is_full && !self.taken_by.is_empty()).and_then(|at| self.ready.remove(at))
    }

    /// Keeps a network that nobody uses any more for another task with its policy.
    pub(super) fn keep(&mut self, used: Used) {
        self.used.push_back(used);
        if self.used.len() > USED_MAX {
            self.used.pop_front().into_iter().for_each(|oldest| self.ids.give_back(oldest.ids));
        }
    }

    /// Has the next cells linked to this router, or to none.
    pub(super) fn link_to(&mut self, router: Option<OwnedFd>) {
        self.router = router;
    }

    /// Whether the next cells are linked to a router.
    pub(super) fn are_linked(&self) -> bool {
        self.router.is_some()
    }

    /// Gives the range of a cell back whose sandbox is gone.
    pub(super) fn give_back(&mut self, ids: u32) {
        self.ids.give_back(ids);
    }

    /// How many are ready or asked for; none where there is no factory.
    fn coming(&self) -> Option<usize> {
        Some(self.ready.len() + self.factory.as_ref()?.asked.len())
    }

    /// When the missing are to be asked for; `None` when none are.
    pub(super) fn refill_at(&self) -> Option<Instant> {
        self.coming().filter(|coming| *coming < self.spare).map(|_| self.taken + QUIET)
    }

    /// Asks for those that are missing, if it is time.
    pub(super) fn refill(&mut self, now: Instant, launchpad: &Launchpad) {
        let is_low = self.coming().is_some_and(|coming| coming < self.spare / 2);
        if !is_low && self.refill_at().is_none_or(|at| now < at) {
            return;
        }
        while self.coming().is_some_and(|coming| coming < self.spare) {
            // Looked at again in a while where there are no ids left, or it is behind; that it is gone its socket tells.
            self.taken = now;
            if !self.ask(launchpad) {
                return;
            }
        }
    }

    /// Asks the factory for a cell in the place of one that was taken, in a network of the same policy if one is left.
    fn ask(&mut self, launchpad: &Launchpad) -> bool {
        let used = self.taken_by.pop_front().flatten().and_then(|policy| self.take_used(&policy, launchpad));
        let Some(ids) = used.as_ref().map(|used| used.ids).or_else(|| self.ids.take()) else { return false };
        let Some(factory) = &mut self.factory else { return false };
        let (network, legacy) = used.map(|used| (used.network, used.legacy)).unzip();
        let asked = Asked { ids, name: self.names.next(), legacy };
        let order = Order { name: asked.name.clone(), is_used: network.is_some() };
        let fds: Vec<BorrowedFd<'_>> =
            network.as_ref().or(self.router.as_ref()).map(AsFd::as_fd).into_iter().collect();
        match channel::send(factory.socket.as_fd(), u64::from(ids), &encode(&order), &fds, false) {
            Ok(()) => factory.asked.push_back(asked),
            Err(_) => {
                self.ids.give_back(ids);
                return false;
            }
        }
        true
    }

    /// A network that tasks with a policy have left, with nothing in it.
    fn take_used(&mut self, policy: &Policy, launchpad: &Launchpad) -> Option<Used> {
        let at = self.used.iter().position(|used| {
            let Used { network, legacy, .. } = used;
            // The one socket is the legacy's. The kernel forgets those of the task a little after it has closed them.
            legacy.policy == *policy
                && inside::is_unused(network.as_fd(), 1, launchpad).is_ok_and(|unused| unused)
        });
        at.and_then(|at| self.used.remove(at))
    }

    /// Takes what the factory has made.
    pub(super) fn on_factory(&mut self, epoll: &OwnedFd, groups: &Groups) {
        while let Some(factory) = &mut self.factory {
            let taken = match channel::receive(factory.socket.as_fd(), &mut self.buffer, false) {
                Ok(Some(frame)) => factory.take(frame, groups, self.scratch.as_deref()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => Err(gone()),
            };
            match taken {
                Ok(cell) => self.ready.push_back(cell),
                Err(failure) => {
                    report("make cells", &failure.into_start());
                    return self.lose_factory(epoll);
                }
            }
        }
    }

    /// Ends the factory and the processes that wait, and leaves their groups to be swept; cells are made one by one from
    /// now on.
    pub(super) fn close(&mut self, groups: &Groups) {
        if let Some(mut factory) = self.factory.take() {
            let _ = sys::pidfd_signal(factory.process.as_fd(), libc::SIGKILL);
            let _ = sys::wait_child(Some(factory.process.as_fd()), true);
            while let Ok(Some(frame)) = channel::receive(factory.socket.as_fd(), &mut self.buffer, false) {
                self.ready.extend(factory.take(frame, groups, self.scratch.as_deref()).ok());
            }
            factory.asked.into_iter().for_each(|asked| self.ids.give_back(asked.ids));
        }
        let parked: Vec<Parked> = self.ready.iter_mut().filter_map(|cell| cell.parked.take()).collect();
        parked.iter().for_each(Parked::kill);
        for parked in parked {
            let _ = sys::wait_child(Some(parked.process.pidfd.as_fd()), true);
        }
        self.ready.drain(..).for_each(|cell| self.ids.give_back(cell.ids));
        self.used.drain(..).for_each(|used| self.ids.give_back(used.ids));
        let _ = self.scratch.as_ref().map(fs::remove_dir_all);
    }

    /// Goes on without a factory that has failed.
    fn lose_factory(&mut self, epoll: &OwnedFd) {
        let Some(factory) = self.factory.take() else { return };
        unwatch(epoll, factory.socket.as_fd());
        factory.asked.into_iter().for_each(|asked| self.ids.give_back(asked.ids));
    }
}

impl Cell {
    /// Whose tasks alone may have it, if not everybody's.
    fn policy(&self) -> Option<&Policy> {
        self.legacy.as_ref().map(|legacy| &legacy.policy)
    }
}

impl Factory {
    fn take(&mut self, frame: Frame, groups: &Groups, scratch: Option<&Path>) -> Result<Cell, Failure> {
        let malformed = || Failure::System { step: "read cell".to_owned(), errno: libc::EBADMSG };
        let Asked { ids, name, legacy } = self.asked.pop_front().ok_or_else(malformed)?;
        let made: Made = decode(&frame.message).map_err(|_| malformed())?;
        let (pid, linked) = match made {
            Made::Cell { pid, linked } => (pid, linked),
            Made::Failed { failure } => return Err(failure),
        };
        let [user, network, sync, pidfd] = <[OwnedFd; 4]>::try_from(frame.fds).map_err(|_| malformed())?;
        let namespaces = Namespaces { user, network, owns_network: false };
        let process = Process { sync: Some(sync), ..Process::running(pid, pidfd) };
        let (group, mut first) = groups.open_cell(&name)?;
        first.name_after(pid)?;
        let scratch = scratch.map(|directory| Scratch::at(Scratch::place(directory, &name)));
        let parked = Some(Parked { process, group: first, scratch });
        Ok(Cell { ids, namespaces, group, linked, legacy, parked })
    }
}

impl Namespaces {
    /// Makes them for a range of ids.
    pub(super) fn make(ids: u32) -> Result<Self, Failure> {
        let map = Standing::own().id_map(ids);
        let (user, network) = (rootfs::make_userns(&map, &map)?, launchpad::make_network()?);
        Ok(Self { user, network, owns_network: false })
    }

    /// Puts the network in place that a sandbox was asked for.
    pub(super) fn replace_network(
        &mut self,
        network: &NetworkPlan,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        self.owns_network = network.is_managed();
        if self.owns_network {
            self.network = launchpad::make_network_of(self.user.as_fd(), launchpad)?;
        } else if *network == (NetworkPlan::Host {}) {
            self.network = launchpad.host_network()?;
        }
        Ok(())
    }
}

impl Parked {
    /// Whether the process still waits; one that does not is reaped by this.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(sys::wait_child(Some(self.process.pidfd.as_fd()), false), Ok(None))
    }

    pub(super) fn kill(&self) {
        let _ = sys::pidfd_signal(self.process.pidfd.as_fd(), libc::SIGKILL);
        self.scratch.iter().for_each(Scratch::remove);
    }
}

impl Names {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { prefix: format!("cell-{:x}-", since.as_nanos()), last: 0 }
    }

    fn next(&mut self) -> String {
        self.last += 1;
        format!("{}{}", self.prefix, self.last)
    }
}

fn gone() -> Failure {
    Failure::System { step: "wait for factory of cells".to_owned(), errno: libc::EPIPE }
}
