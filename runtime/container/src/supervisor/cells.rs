//! Cells: what every sandbox has and none differs in, made ahead of need.
//!
//! ```text
//!  host ── first id of a range ──▶ factory: user namespace with that range, network namespace with lo up
//!       ◀──── two descriptors ────
//! ```
//!
//! To make both takes a millisecond, most of it in a lock of the kernel. So a child of the supervisor, the factory,
//! keeps [`SPARE`] of them ready. When there is none, or no factory any more, the supervisor makes one itself: a
//! start never waits for the factory. It makes what it was asked for one at a time, and dies with the supervisor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use neargate_ipc::channel;

use super::start::sync_pair;
use super::{report, unwatch, watch};
use crate::failure::{Failure, Step};
use crate::id_range::IdRanges;
use crate::launchpad::{self, Launchpad};
use crate::protocol::NetworkPlan;
use crate::rootfs;
use crate::sys::{self, Clone};
use crate::user::ID_RANGE;

/// Cells that are kept ready. An unused network namespace takes some 50 KiB of the kernel's memory.
const SPARE: usize = 16;

/// A sandbox's range of host user ids, and its namespaces.
pub(super) struct Cell {
    pub(super) ids: u32,
    pub(super) userns: OwnedFd,
    pub(super) network: OwnedFd,
    /// Whether the user namespace owns the network.
    pub(super) owns_network: bool,
}

/// The cells that are ready, and the factory of more.
pub(super) struct Cells {
    ids: IdRanges,
    ready: Vec<Cell>,
    factory: Option<Factory>,
    buffer: Vec<u8>,
}

struct Factory {
    socket: OwnedFd,
    process: OwnedFd,
    /// The ranges that it makes cells for, in order.
    asked: VecDeque<u32>,
}

impl Cells {
    /// Starts the factory, whose socket reports to `epoll` under `token`. Without one there are cells all the same.
    pub(super) fn start(ids: IdRanges, epoll: &OwnedFd, token: u64) -> Self {
        let factory = match Factory::start().and_then(|factory| {
            watch(epoll, factory.socket.as_fd(), token).step("watch factory of cells")?;
            Ok(factory)
        }) {
            Ok(factory) => Some(factory),
            Err(failure) => {
                report("start factory of cells", &failure.into_start());
                None
            }
        };
        let mut cells = Self { ids, ready: Vec::new(), factory, buffer: Vec::new() };
        cells.refill();
        cells
    }

    /// First id of the range in which volumes are stored.
    pub(super) fn volumes(&self) -> u32 {
        self.ids.volumes()
    }

    /// A cell for a new sandbox.
    pub(super) fn take(&mut self) -> Result<Cell, Failure> {
        if let Some(cell) = self.ready.pop() {
            return Ok(cell);
        }
        let exhausted = || Failure::System { step: "take user id range".to_owned(), errno: libc::ENOSPC };
        let ids = self.ids.take().ok_or_else(exhausted)?;
        make(ids).inspect_err(|_| self.ids.give_back(ids))
    }

    /// Gives the range of a cell back whose sandbox is gone.
    pub(super) fn give_back(&mut self, ids: u32) {
        self.ids.give_back(ids);
    }

    /// Asks for as many as are missing. To be called when nothing else is to be done.
    pub(super) fn refill(&mut self) {
        let Some(factory) = &mut self.factory else { return };
        while self.ready.len() + factory.asked.len() < SPARE {
            let Some(ids) = self.ids.take() else { return };
            match channel::send(factory.socket.as_fd(), u64::from(ids), &[], &[], false) {
                Ok(()) => factory.asked.push_back(ids),
                // It is behind, or gone, which its socket tells.
                Err(_) => return self.ids.give_back(ids),
            }
        }
    }

    /// Takes what the factory has made.
    pub(super) fn on_factory(&mut self, epoll: &OwnedFd) {
        while let Some(factory) = &mut self.factory {
            match channel::receive(factory.socket.as_fd(), &mut self.buffer, false) {
                Ok(Some(frame)) => {
                    let asked = factory.asked.pop_front();
                    match (asked, <[OwnedFd; 2]>::try_from(frame.fds)) {
                        (Some(ids), Ok([userns, network])) if u64::from(ids) == frame.id => {
                            self.ready.push(Cell { ids, userns, network, owns_network: false });
                        }
                        (asked, _) => return self.lose_factory(epoll, asked),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => return self.lose_factory(epoll, None),
            }
        }
    }

    /// Ends the factory; cells are made one by one from now on.
    pub(super) fn close(&mut self) {
        if let Some(factory) = self.factory.take() {
            let _ = sys::pidfd_signal(factory.process.as_fd(), libc::SIGKILL);
            let _ = sys::wait_child(Some(factory.process.as_fd()), true);
        }
    }

    /// Goes on without a factory that has failed; it has told why.
    fn lose_factory(&mut self, epoll: &OwnedFd, asked: Option<u32>) {
        let Some(factory) = self.factory.take() else { return };
        unwatch(epoll, factory.socket.as_fd());
        for ids in asked.into_iter().chain(factory.asked) {
            self.ids.give_back(ids);
        }
    }
}

impl Factory {
    fn start() -> Result<Self, Failure> {
        let (ours, theirs) = sync_pair()?;
        match sys::clone3(0, None).step("clone factory of cells")? {
            Clone::Child => {
                let code = match run(&theirs) {
                    Ok(()) => 0,
                    Err(failure) => {
                        report("make cells", &failure.into_start());
                        1
                    }
                };
                sys::exit_now(code)
            }
            // It is reaped with the supervisor, by whoever reaps that.
            Clone::Parent { pidfd, .. } => Ok(Self { socket: ours, process: pidfd, asked: VecDeque::new() }),
        }
    }
}

/// The factory: makes a cell for each message until there are no more.
fn run(socket: &OwnedFd) -> Result<(), Failure> {
    const STEP: &str = "serve as factory of cells";
    sys::close_all_but(&mut [socket.as_raw_fd()]).step(STEP)?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).step(STEP)?;
    let _ = rustix::thread::set_name(c"ng-cells");
    let mut buffer = Vec::new();
    // A supervisor that died before the call above has closed its end.
    while let Some(frame) = channel::receive(socket.as_fd(), &mut buffer, true).step(STEP)? {
        neargate_failpoint::reach("container::factory::before");
        let cell = make(u32::try_from(frame.id).unwrap_or_default())?;
        neargate_failpoint::reach("container::factory::after");
        let fds = [cell.userns.as_fd(), cell.network.as_fd()];
        match channel::send(socket.as_fd(), frame.id, &[], &fds, true) {
            // Nobody needs it any more.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                break;
            }
            other => other.step(STEP)?,
        }
    }
    Ok(())
}

/// Makes a cell with a range of ids that is already taken.
pub(super) fn make(ids: u32) -> Result<Cell, Failure> {
    let map = format!("0 {ids} {ID_RANGE}");
    let (userns, network) = (rootfs::make_userns(&map, &map)?, launchpad::make_network()?);
    Ok(Cell { ids, userns, network, owns_network: false })
}

/// The cell with the network that a sandbox was asked for.
pub(super) fn with_network(
    cell: Cell,
    network: &NetworkPlan,
    launchpad: &Launchpad,
) -> Result<Cell, Failure> {
    match network {
        NetworkPlan::Own {} => Ok(cell),
        NetworkPlan::Host {} => Ok(Cell { network: launchpad.host_network()?, ..cell }),
        NetworkPlan::Managed {} => {
            let network = launchpad::make_network_of(cell.userns.as_fd(), launchpad)?;
            Ok(Cell { network, owns_network: true, ..cell })
        }
    }
}
