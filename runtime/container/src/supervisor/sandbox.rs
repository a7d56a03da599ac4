//! Sandboxes: made of cells, and removed when nothing of them is left.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use neargate_driver::Limits;

use super::bridge::Place;
use super::cells::{Cell, Namespaces, Parked, Used};
use super::host::{Host, kill};
use super::inside::Legacy;
use super::journal::{Entry, Journal};
use super::pause::Pause;
use super::router::{Site, Wiring};
use super::{allow, ordinary, report};
use crate::cgroup::Group;
use crate::failure::{Failure, Step};
use crate::init::SharedIpc;
use crate::launchpad;
use crate::protocol::{NetworkPlan, Response, SharingPlan};
use crate::sys;

/// What the containers of a task share.
pub(super) struct Sandbox {
    pub(super) hostname: String,
    pub(super) ids: u32,
    pub(super) namespaces: Namespaces,
    /// What its containers share besides the network.
    pub(super) sharing: SharingPlan,
    /// The IPC namespace of its containers, once there is one for all.
    pub(super) ipc: Option<SharedIpc>,
    /// The process that holds what they share, once there is one.
    pub(super) pause: Option<Pause>,
    pub(super) group: Group,
    /// Its place at the router.
    pub(super) wiring: Option<Wiring>,
    /// Those of its containers, where each has a network of its own; the first one's is the sandbox's.
    pub(super) places: Vec<Place>,
    /// How many processes it may have.
    pub(super) pids_max: Option<u32>,
    /// The process that waits to become its first container's.
    pub(super) parked: Option<Parked>,
    /// Its containers and commands that have not been reaped.
    pub(super) live: HashSet<u64>,
    /// How many groups of ended containers are not removed yet.
    leaving: usize,
    /// Requests to answer when it is gone; `Some` once its end was asked for.
    releasing: Option<Vec<u64>>,
}

/// A group to be removed, and what to answer then: a start that failed has left nothing behind.
pub(super) struct Leaving {
    task: String,
    group: Group,
    /// A process in it that was killed and is not reaped yet.
    pub(super) process: Option<OwnedFd>,
    pub(super) answer: Option<(u64, Response)>,
}

impl Host {
    pub(super) fn prepare(
        &mut self,
        task: String,
        hostname: String,
        limits: &Limits,
        (network, sharing): (&NetworkPlan, SharingPlan),
    ) -> Result<(), Failure> {
        match self.sandboxes.get(&task) {
            Some(sandbox) if sandbox.releasing.is_none() => return Ok(()),
            Some(_) => {
                return Err(Failure::System { step: "wait for release".to_owned(), errno: libc::EBUSY });
            }
            None => {}
        }
        // A task's id becomes a directory name; the server has checked it, and so do we.
        if task.is_empty() || !task.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Failure::System { step: "check task id".to_owned(), errno: libc::EINVAL });
        }
        allow::check_network(&self.setup.allowed, network)?;
        allow::check_sharing(&self.setup.allowed, &sharing)?;
        ordinary::check_sandbox(network, &sharing)?;
        let policy = network.interface()?.map(|interface| interface.policy());
        let Cell { ids, namespaces, group, linked, legacy, parked } =
            self.cells.take(&self.groups, policy.as_ref())?;
        neargate_failpoint::reach("container::cell::after");
        // From now on it is the task's, and goes as a task goes.
        let name = group.name().to_owned();
        // What waits in a network with a link is of no use to a task without an interface.
        let is_fitting = !linked || network.is_linked();
        let is_usual = network.is_usual() && is_fitting && sharing == SharingPlan::NONE;
        let sandbox = Sandbox::new(hostname.clone(), ids, namespaces, sharing.clone(), group, parked);
        let readied = self.ready(&task, sandbox, limits, (network, linked, legacy)).and_then(|()| {
            neargate_failpoint::reach("container::cgroup::task");
            let entry = || {
                let (task, limits, network) = (task.clone(), limits.clone(), network.clone());
                Entry::Prepared { task, group: name, hostname, ids, limits, network, sharing }
            };
            self.note(entry).step("write journal")
        });
        if readied.is_err() {
            self.release(&task, None);
        } else if !is_usual {
            self.discard_parked(&task);
        }
        readied
    }

    /// Enters a sandbox, and gives it the network and the limits of its task.
    fn ready(
        &mut self,
        task: &str,
        sandbox: Sandbox,
        limits: &Limits,
        (network, linked, legacy): (&NetworkPlan, bool, Option<Legacy>),
    ) -> Result<(), Failure> {
        let sandbox = self.sandboxes.entry(task.to_owned()).insert_entry(sandbox).into_mut();
        sandbox.namespaces.replace_network(network, &self.launchpad)?;
        if network.is_linked() {
            // A network of the task's own user namespace is another one than the cell's.
            let linked = linked && network.is_usual();
            let (router, launchpad) = (&mut self.network, &self.launchpad);
            if let Some(interface) = network.interface()? {
                let namespace = sandbox.namespaces.network.as_fd();
                let inside = legacy.map(|legacy| legacy.inside).filter(|_| linked);
                let site = Site { namespace, linked, inside };
                sandbox.wiring = Some(router.wire(sandbox.ids, &interface, site, launchpad)?);
            }
            sandbox.connect(network.endpoints()?, linked, (router, launchpad))?;
            if !self.cells.are_linked() {
                self.cells.link_to(self.network.namespace());
            }
        } else {
            self.cells.link_to(None);
            if linked && network.is_usual() {
                sandbox.namespaces.network = launchpad::make_network()?;
            }
        }
        sandbox.pids_max = limits.pids_max;
        self.groups.give_to_task(&sandbox.group, task, limits)
    }

    /// Ends the process that waits in a sandbox and will not be needed.
    pub(super) fn discard_parked(&mut self, task: &str) {
        let sandbox = self.sandboxes.get_mut(task);
        if let Some(parked) = sandbox.and_then(|sandbox| sandbox.parked.take()) {
            parked.kill();
            self.leave(0, task.to_owned(), parked.group, Some(parked.process.pidfd), None);
        }
    }

    /// Kills what runs in a sandbox; the answer comes when all is removed.
    pub(super) fn release(&mut self, task: &str, request: Option<u64>) -> Option<Response> {
        let Some(sandbox) = self.sandboxes.get_mut(task) else { return Some(Response::Done {}) };
        let is_first = sandbox.releasing.is_none();
        sandbox.releasing.get_or_insert_default().extend(request);
        sandbox.group.kill();
        // Commands are in a container's group, or processes of its namespace, and die with it.
        sandbox.live.iter().filter_map(|n| self.containers.get(n)).for_each(kill);
        if is_first {
            self.releasing.push(task.to_owned());
            self.take_all_back(task);
            self.discard_parked(task);
            self.discard_pause(task);
        }
        None
    }

    /// Releases every sandbox, because the server is gone.
    pub(super) fn release_all(&mut self) {
        let tasks: Vec<String> = self.sandboxes.keys().cloned().collect();
        for task in tasks {
            self.release(&task, None);
        }
    }

    /// Notes that a group has no more processes of ours, but for a killed one that is to be reaped, and can be removed;
    /// `answer` is given then.
    pub(super) fn leave(
        &mut self,
        n: u64,
        task: String,
        group: Group,
        process: Option<OwnedFd>,
        answer: Option<(u64, Response)>,
    ) {
        if let Some(sandbox) = self.sandboxes.get_mut(&task) {
            sandbox.live.remove(&n);
            sandbox.leaving += 1;
        }
        self.leaving.push(Leaving { task, group, process, answer });
    }

    /// Removes the groups of ended containers, and sandboxes that were released, and has cells made for the next.
    pub(super) fn clean_up(&mut self) {
        for leaving in std::mem::take(&mut self.leaving) {
            neargate_failpoint::reach("container::removal::before");
            if !leaving.is_reaped() || !leaving.group.remove() {
                self.leaving.push(leaving);
                continue;
            }
            neargate_failpoint::reach("container::removal::after");
            self.responses.extend(leaving.answer);
            if let Some(sandbox) = self.sandboxes.get_mut(&leaving.task) {
                sandbox.leaving -= 1;
            }
        }
        for task in std::mem::take(&mut self.releasing) {
            if !self.try_remove(&task) {
                self.releasing.push(task);
            }
        }
        self.watch_network();
        self.reap_strays();
        self.discard_unwanted();
        self.cells.refill(Instant::now(), &self.launchpad);
        if let Some(Err(error)) = self.journal.as_mut().map(Journal::compact) {
            report("write journal anew", &error);
        }
    }

    /// Has a cell that nobody takes make room for another; it goes as a task goes.
    fn discard_unwanted(&mut self) {
        let Some(Cell { ids, namespaces, group, parked, .. }) = self.cells.take_unwanted() else { return };
        let name = group.name().to_owned();
        let sandbox = Sandbox::new(name.clone(), ids, namespaces, SharingPlan::NONE, group, parked);
        self.sandboxes.insert(name.clone(), sandbox);
        self.release(&name, None);
    }

    /// Removes a released sandbox whose processes and groups are gone, and answers those who wait for it.
    fn try_remove(&mut self, task: &str) -> bool {
        let Some(sandbox) = self.sandboxes.get(task) else { return true };
        if !sandbox.live.is_empty() || sandbox.leaving > 0 || !sandbox.group.remove() {
            return false;
        }
        if let Some(sandbox) = self.sandboxes.remove(task) {
            self.ended.retain(|_, ended| ended.task != task);
            let Namespaces { network, owns_network, .. } = sandbox.namespaces;
            let legacy = sandbox.wiring.and_then(|wiring| self.network.unwire(wiring, &self.launchpad));
            let legacy = legacy.filter(|_| !owns_network);
            sandbox.places.iter().for_each(|place| self.network.unwire_place(place));
            neargate_failpoint::reach("container::release::before");
            self.note_done(|| Entry::Released { task: task.to_owned() });
            neargate_failpoint::reach("container::release::after");
            match legacy {
                Some(legacy) => self.cells.keep(Used { ids: sandbox.ids, network, legacy }),
                None => self.cells.give_back(sandbox.ids),
            }
            let waiting = sandbox.releasing.unwrap_or_default();
            self.responses.extend(waiting.into_iter().map(|request| (request, Response::Done {})));
        }
        true
    }
}

impl Sandbox {
    /// A sandbox in which nothing runs yet.
    pub(super) fn new(
        hostname: String,
        ids: u32,
        namespaces: Namespaces,
        sharing: SharingPlan,
        group: Group,
        parked: Option<Parked>,
    ) -> Self {
        let (ipc, pause, wiring, places) = (None, None, None, Vec::new());
        let (live, leaving, releasing) = (HashSet::new(), 0, None);
        Self {
            hostname,
            ids,
            namespaces,
            sharing,
            ipc,
            pause,
            group,
            wiring,
            places,
            pids_max: None,
            parked,
            live,
            leaving,
            releasing,
        }
    }

    /// Forgets who waits for its release, which goes on.
    pub(super) fn forget_waiting(&mut self) {
        if let Some(waiting) = &mut self.releasing {
            waiting.clear();
        }
    }

    /// Whether containers may still be started in it.
    pub(super) fn is_open(&self) -> bool {
        self.releasing.is_none()
    }
}

impl Leaving {
    /// Whether its process is gone.
    fn is_reaped(&self) -> bool {
        let ended = self.process.as_ref().map(|process| sys::wait_child(Some(process.as_fd()), false));
        !matches!(ended, Some(Ok(None)))
    }
}
