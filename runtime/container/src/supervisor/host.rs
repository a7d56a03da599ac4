//! What runs on this host: sandboxes, their containers, and second commands in them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::cells::Cells;
use super::journal::{self, Entry, Journal};
use super::lend::Lent;
use super::router::Network;
use super::sandbox::{Leaving, Sandbox};
use super::seat::Seat;
use super::{FACTORY, NETWORK, report, unwatch, watch};
use crate::cgroup::{Fencing, Group, Groups};
use crate::ends::Ends;
use crate::failure::{Failure, Step};
use crate::id_range::IdRanges;
use crate::init::{self, Ground, MaskedPath, masked_paths};
use crate::launchpad::Launchpad;
use crate::protocol::{BlockPlan, End, GroupPlan, Request, Response, Setup, StartPlan};
use crate::rootfs::LayerPassing;
use crate::seccomp::Filters;
use crate::standing::Standing;
use crate::sys;
use neargate_driver::Traffic;
use neargate_ipc::channel;
use neargate_ipc::wire::decode;

/// How soon a busy cgroup directory, or an OOM event whose victim is not known yet, is looked at again: at
/// first, and after having looked in vain for long.
const LOOK_AGAIN_MIN: Duration = Duration::from_micros(200);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(20);
/// How long after an OOM event its kill is waited for.
const OOM_WAIT: Duration = Duration::from_secs(1);
/// How long the end of a process that is not the supervisor's child is waited for, when its parent is slow to reap it.
const ORPHAN_WAIT: Duration = Duration::from_secs(2);
/// Most containers at once, so that a runaway server cannot use up the host's process ids.
const CONTAINERS_MAX: usize = 16_384;

/// Name of the directory for directories made ahead, in the supervisor's.
const SCRATCH: &str = "cells";

/// The request id of a command whose server is gone; no server gets that far.
const NOBODY: u64 = u64::MAX;

/// What an epoll token stands for.
pub(super) enum Event {
    /// A process has ended.
    Ended(u64),
    /// A process tells a failure, or has exec'd.
    Synced(u64),
    /// A container is out of memory.
    OutOfMemory(u64),
    /// A child has ended, perhaps one that is nobody's.
    Stray,
}

impl Event {
    /// The tokens of process `n` are 4n, 4n+1 and 4n+2; those below 4 belong to the loop. Process numbers begin with 1.
    pub(super) fn of(token: u64) -> Self {
        match token % 4 {
            0 => Event::Ended(token / 4),
            1 => Event::Synced(token / 4),
            2 => Event::OutOfMemory(token / 4),
            _ => Event::Stray,
        }
    }

    pub(super) fn token(&self) -> u64 {
        match self {
            Event::Ended(n) => n * 4,
            Event::Synced(n) => n * 4 + 1,
            Event::OutOfMemory(n) => n * 4 + 2,
            Event::Stray => 4 + 3,
        }
    }
}

/// A process of the supervisor's and how it reports.
pub(super) struct Process {
    /// Its id in the supervisor's namespace; not used by another process before it is reaped.
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// Open until the process has exec'd or failed.
    pub(super) sync: Option<OwnedFd>,
    pub(super) failure: Option<Failure>,
    /// Our end of the terminal that it has made for itself.
    pub(super) terminal: Option<OwnedFd>,
}

impl Process {
    /// A process whose program runs.
    pub(super) fn running(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, sync: None, failure: None, terminal: None }
    }
}

/// A container from its clone to its reaping.
pub(super) struct Container {
    pub(super) process: Process,
    pub(super) plan: StartPlan,
    pub(super) group: Group,
    /// The request to answer at exec.
    pub(super) start_request: Option<u64>,
    pub(super) oom_event: Option<OwnedFd>,
    /// Until when the kill that follows an OOM event is waited for.
    oom_until: Instant,
    /// The reading ends of its standard output and error, kept for the next server.
    pub(super) readers: Option<[OwnedFd; 2]>,
    /// Set once the process, of another parent, is seen to have ended: until when its exit code is waited for.
    orphan_until: Option<Instant>,
}

/// What is kept of a container that has ended, as long as its sandbox.
pub(super) struct Ended {
    pub(super) task: String,
    pub(super) end: End,
    /// What it has written and nobody has read is in these.
    pub(super) readers: Option<[OwnedFd; 2]>,
}

/// A second command in a container.
pub(super) struct Exec {
    pub(super) process: Process,
    pub(super) task: String,
    pub(super) request: u64,
    pub(super) deadline: Instant,
    pub(super) timed_out: bool,
    /// The number of its container.
    pub(super) container: u64,
    /// Whether its start is still to be answered.
    pub(super) starts: bool,
}

/// Everything, keyed by task id, container id and process number.
pub(super) struct Host {
    pub(super) setup: Setup,
    pub(super) epoll: Rc<OwnedFd>,
    pub(super) groups: Groups,
    pub(super) launchpad: Launchpad,
    pub(super) filters: Filters,
    pub(super) masked: Vec<MaskedPath>,
    pub(super) passing: LayerPassing,
    pub(super) cells: Cells,
    pub(super) network: Network,
    /// Security groups that are told in parts, until the last one has come.
    groups_told: Vec<Vec<GroupPlan>>,
    pub(super) sandboxes: HashMap<String, Sandbox>,
    pub(super) containers: HashMap<u64, Container>,
    pub(super) numbers: HashMap<String, u64>,
    /// Containers that have ended, by id.
    pub(super) ended: HashMap<String, Ended>,
    pub(super) execs: HashMap<u64, Exec>,
    pub(super) responses: Vec<(u64, Response)>,
    /// Responses with descriptors, and those that must not overtake them.
    pub(super) lendings: Vec<(u64, Response, Vec<OwnedFd>)>,
    /// Groups of processes and threads that somebody else has started, by the requests for them.
    pub(super) lent: HashMap<u64, Lent>,
    // The rest is what `deadline` and `clean_up` look through at every turn, so that a turn costs the same
    // with one container and with thousands.
    pub(super) leaving: Vec<Leaving>,
    pub(super) releasing: Vec<String>,
    out_of_memory: Vec<u64>,
    orphans: Vec<u64>,
    look_again: Duration,
    last_number: u64,
    /// Tells that a child has ended, once there is a container in the host's PID namespace.
    pub(super) strays: Option<OwnedFd>,
    /// Only of a supervisor that outlives its server.
    pub(super) journal: Option<Journal>,
    /// As the journal.
    pub(super) ends: Option<Ends>,
    /// As the journal.
    seat: Option<OwnedFd>,
}

impl Host {
    /// Makes ready to run containers; a failure says what this host or this process lacks. With a `seat`, in
    /// whose directory its journal is, it finds again what an earlier supervisor has left running.
    pub(super) fn open(setup: Setup, seat: Option<&Seat>, epoll: Rc<OwnedFd>) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(not_permitted("run containers"));
        }
        let standing = Standing::look_up().step("look up own ids")?;
        let directory = seat.map(|seat| seat.directory.as_path());
        let seat = seat.map(Seat::hold).transpose().step("hold seat")?;
        let seed = u32::from_str_radix(setup.instance.get(..6).unwrap_or_default(), 16).unwrap_or(0);
        let launchpad = Launchpad::build().map_err(explain)?;
        let journal_path = directory.map(journal::path);
        let fencing = if setup.devices_by_programs { Fencing::Programs } else { Fencing::Any };
        let groups = match standing {
            Standing::Host => {
                Groups::open(&setup.instance, journal_path.as_deref(), fencing).map_err(explain)?
            }
            Standing::Realm => Groups::nominal(&setup.instance, !setup.without_limits),
        };
        let (journal, known) = match directory.map(Journal::open).transpose().step("open journal")? {
            Some((journal, known)) => (Some(journal), known),
            None => Default::default(),
        };
        let filters = Filters::compile()
            .map_err(|error| io::Error::other(error.to_string()))
            .step("compile seccomp filter")?;
        let mut ids = IdRanges::new(setup.id_base, seed);
        known.values().for_each(|sandbox| ids.claim(sandbox.ids));
        let scratch = directory.map(|directory| directory.join(SCRATCH));
        let masked = masked_paths();
        let (mount_cgroup2, held) = (groups.mounts_cgroup2(), seat.as_ref().map(OwnedFd::as_fd));
        let ground = Ground { filters: &filters, masked: &masked, mount_cgroup2, seat: held };
        let network = Network::open(directory, &setup.instance, &launchpad);
        let mut host = Self {
            network,
            groups_told: Vec::new(),
            cells: Cells::start(ids, scratch, (&epoll, FACTORY), &launchpad, &groups, &ground),
            passing: if setup.layers_by_path { LayerPassing::Paths } else { LayerPassing::Descriptors },
            setup,
            epoll,
            groups,
            launchpad,
            filters,
            masked,
            sandboxes: HashMap::new(),
            containers: HashMap::new(),
            numbers: HashMap::new(),
            ended: HashMap::new(),
            execs: HashMap::new(),
            responses: Vec::new(),
            lendings: Vec::new(),
            lent: HashMap::new(),
            leaving: Vec::new(),
            releasing: Vec::new(),
            out_of_memory: Vec::new(),
            orphans: Vec::new(),
            look_again: LOOK_AGAIN_MIN,
            last_number: 0,
            strays: None,
            journal,
            ends: directory.map(Ends::of),
            seat,
        };
        if host.journal.is_some() {
            host.adopt(known);
        }
        Ok(host)
    }

    /// Writes a record, where there is a journal.
    pub(super) fn note(&mut self, entry: impl FnOnce() -> Entry) -> io::Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(&entry()))
    }

    /// Writes a record of something that has happened already. Without it the next supervisor would look for what is
    /// gone, and find that out.
    pub(super) fn note_done(&mut self, entry: impl FnOnce() -> Entry) {
        if let Err(error) = self.note(entry) {
            report("write journal", &error);
        }
    }

    /// Acts on one request; its answer is put into `responses` now or later.
    pub(super) fn on_request(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let result = match request {
            // The loop takes these.
            Request::Setup { .. } | Request::Farewell {} | Request::Renew { .. } | Request::Resign { .. } => {
                Err(Failure::System { step: "agree on protocol".to_owned(), errno: libc::EPROTO })
            }
            Request::Prepare { task, hostname, limits, network, sharing } => {
                let prepared = self.prepare(task, hostname, &limits, (&network, sharing));
                prepared.map(|()| Some(Response::Done {}))
            }
            Request::Groups { part, groups, vpcs, more } => {
                self.set_groups(part, groups, (&vpcs, more)).map(|()| Some(Response::Done {}))
            }
            Request::Release { task } => Ok(self.release(&task, Some(id))),
            Request::Start { plan } => self.start(id, plan, fds).map(|()| None),
            Request::Signal { container, signal } => {
                self.signal(&container, signal).map(|()| Some(Response::Done {}))
            }
            Request::Stats { container } => self.find(&container).map(|n| {
                let stats = self.containers.get(&n).map(|c| c.group.stats()).unwrap_or_default();
                Some(Response::Usage { stats })
            }),
            Request::UsageDetails { container } => self.find(&container).map(|n| {
                let details = self.containers.get(&n).map(|c| c.group.usage_details()).unwrap_or_default();
                Some(Response::UsageDetails { details })
            }),
            Request::Exec { plan } => self.exec(id, plan, fds).map(|()| None),
            Request::Lend { plan } => self.lend(id, &plan).map(|()| None),
            Request::GiveBack { lending } => {
                self.take_back(lending);
                Ok(Some(Response::Done {}))
            }
            Request::SignalCommand { command, signal } => {
                self.signal_exec(command, signal).map(|()| Some(Response::Done {}))
            }
            Request::Traffic { task } => {
                self.traffic(&task).map(|traffic| Some(Response::Traffic { traffic }))
            }
            Request::Hosts { hosts } => {
                let hosts = hosts.map(|hosts| hosts.read()).transpose();
                let set = hosts.and_then(|hosts| self.network.set_hosts(hosts, &self.launchpad));
                set.map(|()| Some(Response::Done {}))
            }
            Request::LinkLocal {} => self.lend_link_local(id).map(|()| None),
            Request::Socket { task, socket } => self.lend_socket(id, &task, &socket).map(|()| None),
            Request::LentOom { lending } => Ok(Some(self.lent_oom(lending))),
        };
        match result {
            Ok(Some(response)) => self.responses.push((id, response)),
            Ok(None) => {}
            Err(failure) => self.responses.push((id, Response::Failed { failure })),
        }
    }

    fn set_groups(
        &mut self,
        part: u32,
        groups: Vec<GroupPlan>,
        (vpcs, more): (&[BlockPlan], bool),
    ) -> Result<(), Failure> {
        if part == 0 {
            self.groups_told.clear();
        }
        // Somebody has told an earlier supervisor the others. To enforce a part would be to take the rest away.
        if self.groups_told.len() != part as usize {
            return Err(Failure::System { step: "read security groups".to_owned(), errno: libc::EBADMSG });
        }
        self.groups_told.push(groups);
        if more {
            return Ok(());
        }
        let groups: Vec<GroupPlan> = std::mem::take(&mut self.groups_told).into_iter().flatten().collect();
        let rules = groups.iter().map(|plan| plan.read().map(|rules| (rules.group.clone(), rules)));
        let vpcs = vpcs.iter().map(BlockPlan::read).collect::<Result<_, _>>()?;
        self.network.set_groups(rules.collect::<Result<_, _>>()?, vpcs, &self.launchpad)
    }

    /// What has passed the interface of a task; one that is gone has none.
    fn traffic(&self, task: &str) -> Result<Option<Traffic>, Failure> {
        let wiring = self.sandboxes.get(task).and_then(|sandbox| sandbox.wiring.as_ref());
        wiring.map_or(Ok(None), |wiring| self.network.traffic(wiring))
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Numbers that an earlier supervisor has given are not given again.
    pub(super) fn skip_number(&mut self, number: u64) {
        self.last_number = self.last_number.max(number);
    }

    pub(super) fn has_room(&self) -> bool {
        self.containers.len() + self.execs.len() < CONTAINERS_MAX
    }

    pub(super) fn find(&self, container: &str) -> Result<u64, Failure> {
        self.numbers.get(container).copied().ok_or(Failure::NotRunning {})
    }

    /// Takes the cells that the factory has made.
    pub(super) fn on_factory(&mut self) {
        self.cells.on_factory(&self.epoll, &self.groups);
    }

    /// Puts back what others have removed from the network of tasks.
    pub(super) fn on_network(&mut self) {
        if let Err(failure) = self.network.repair(&self.launchpad) {
            report("repair the network of tasks", &failure.into_start());
        }
    }

    /// Listens to changes of the network of tasks, once there is one.
    pub(super) fn watch_network(&mut self) {
        for fd in self.network.take_unwatched() {
            if let Err(error) = watch(&self.epoll, fd, NETWORK) {
                report("watch the network of tasks", &error);
            }
        }
    }

    /// What the first processes of all containers have in common.
    pub(super) fn ground(&self) -> Ground<'_> {
        let (mount_cgroup2, seat) = (self.groups.mounts_cgroup2(), self.seat.as_ref().map(OwnedFd::as_fd));
        Ground { filters: &self.filters, masked: &self.masked, mount_cgroup2, seat }
    }

    /// Goes on without the server that has sent the requests so far: nobody waits for their answers, commands end with
    /// those who attended them, and what was lent is taken back.
    pub(super) fn detach(&mut self) {
        self.containers.values_mut().for_each(|container| container.start_request = None);
        self.sandboxes.values_mut().for_each(Sandbox::forget_waiting);
        self.leaving.iter_mut().for_each(|leaving| leaving.answer = None);
        let commands: Vec<u64> = self.execs.values().map(|exec| exec.request).collect();
        for command in commands {
            let _ = self.signal_exec(command, 0);
        }
        self.execs.values_mut().for_each(|exec| exec.request = NOBODY);
        let tasks: Vec<String> = self.sandboxes.keys().cloned().collect();
        tasks.iter().for_each(|task| self.take_all_back(task));
        self.responses.clear();
        self.lendings.clear();
    }

    /// Goes on with the settings of another server.
    pub(super) fn serve_by(&mut self, setup: Setup) {
        self.groups.be_strict(!setup.without_limits);
        self.setup = setup;
    }

    /// Whether a server's settings are of the instance whose containers these are.
    pub(super) fn serves(&self, setup: &Setup) -> bool {
        (&setup.instance, setup.id_base) == (&self.setup.instance, self.setup.id_base)
    }

    /// Ends what another program could not find again.
    pub(super) fn make_ready_to_renew(&mut self) -> Result<(), Failure> {
        if !self.execs.is_empty() || !self.leaving.is_empty() {
            let step = "wait for commands to end".to_owned();
            return Err(Failure::System { step, errno: libc::EAGAIN });
        }
        // They would not outlive it, and their groups are swept by who comes after.
        let tasks: Vec<String> = self.sandboxes.keys().cloned().collect();
        tasks.iter().for_each(|task| self.discard_parked(task));
        for leaving in std::mem::take(&mut self.leaving) {
            let _ = leaving.process.map(|process| sys::wait_child(Some(process.as_fd()), true));
        }
        self.cells.close(&self.groups);
        Ok(())
    }

    fn signal(&self, id: &str, signal: i32) -> Result<(), Failure> {
        // An ended container is not an error.
        let Some(container) = self.numbers.get(id).and_then(|n| self.containers.get(n)) else {
            return Ok(());
        };
        if signal == 0 {
            kill(container);
            return Ok(());
        }
        match sys::pidfd_signal(container.process.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.step("send signal"),
        }
    }

    /// Acts on something that happened to a process.
    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Ended(n) => {
                self.end_container(n);
                self.end_exec(n);
            }
            Event::Synced(n) => self.on_sync(n),
            Event::OutOfMemory(n) => self.on_oom(n),
            // Reaped at the end of the turn.
            Event::Stray => {}
        }
    }

    fn on_sync(&mut self, n: u64) {
        if let Some(container) = self.containers.get_mut(&n) {
            // A failure is answered when the process is reaped, so that nothing is left behind by then.
            if read_sync(&self.epoll, &mut container.process)
                && container.process.failure.is_none()
                && let Some(request) = container.start_request.take()
            {
                neargate_failpoint::reach("container::exec::after");
                // Without its pidfd the server could only not tell the exit code after a death of the supervisor.
                let pidfd = container.process.pidfd.try_clone().into_iter().collect();
                self.lendings.push((request, Response::Started {}, pidfd));
            }
        } else {
            self.sync_exec(n);
        }
    }

    fn on_oom(&mut self, n: u64) {
        let Some(container) = self.containers.get_mut(&n) else { return };
        if let Some(event) = &container.oom_event {
            // Only resets the counter; what happened is read from the group.
            let _ = rustix::io::read(event, &mut [0u8; 8]);
        }
        container.oom_until = Instant::now() + OOM_WAIT;
        if !self.out_of_memory.contains(&n) {
            self.out_of_memory.push(n);
        }
    }

    fn end_container(&mut self, n: u64) {
        let Some(container) = self.containers.get_mut(&n) else { return };
        // Reaped only when its end is in the journal: until then somebody can still learn it.
        let (code, is_child) = match sys::peek_child(Some(container.process.pidfd.as_fd())) {
            Ok(Some((_, code))) => (Some(code), true),
            Ok(None) => return,
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                match orphan_code(container, self.ends.as_ref(), Instant::now()) {
                    Ok(code) => (code, false),
                    Err(StillUnreaped) => return self.look_at_later(n),
                }
            }
            Err(error) => {
                report("reap container", &error);
                return;
            }
        };
        let sandbox = self.sandboxes.get(&container.plan.task);
        if sandbox.is_some_and(|sandbox| sandbox.sharing.shares_pids()) && !container.group.is_empty() {
            // Its end did not take the others along.
            container.group.end_all();
            return self.look_at_later(n);
        }
        self.orphans.retain(|orphan| *orphan != n);
        // The end of file that tells a successful exec may come in the same turn, after this event.
        self.on_sync(n);
        let Some(container) = self.containers.remove(&n) else { return };
        self.numbers.remove(&container.plan.container);
        unwatch(&self.epoll, container.process.pidfd.as_fd());
        if let Some(event) = &container.oom_event {
            unwatch(&self.epoll, event.as_fd());
        }
        let Container { process, plan, group, start_request, readers, .. } = container;
        let pid = process.pid;
        let answer = match (process.failure, start_request) {
            (Some(failure), Some(request)) => Some((request, Response::Failed { failure })),
            (_, pending) => {
                self.lendings
                    .extend(pending.map(|request| (request, Response::Started {}, vec![process.pidfd])));
                let (oom, stats) = (group.oom_kills() > 0, group.stats());
                let told =
                    Response::Exited { container: plan.container.clone(), code, oom, stats: stats.clone() };
                // In order behind the answer that it runs.
                self.lendings.push((0, told, Vec::new()));
                let (task, end) = (plan.task.clone(), End { code, oom, stats });
                neargate_failpoint::reach("container::exit::before");
                self.note_done(|| Entry::Ended { number: n, task: task.clone(), end: end.clone() });
                neargate_failpoint::reach("container::exit::after");
                self.ended.insert(plan.container, Ended { task, end, readers });
                None
            }
        };
        if is_child && let Err(error) = sys::reap_child(pid) {
            report("reap container", &error);
        }
        self.leave(n, plan.task, group, None, answer);
    }

    /// Has a container be looked at again in a while whose first process has ended: its pidfd stays readable.
    fn look_at_later(&mut self, n: u64) {
        if let Some(container) = self.containers.get(&n) {
            unwatch(&self.epoll, container.process.pidfd.as_fd());
        }
        if !self.orphans.contains(&n) {
            self.orphans.push(n);
        }
    }

    /// Looks again at containers whose end does not count yet.
    fn look_at_orphans(&mut self) {
        for n in std::mem::take(&mut self.orphans) {
            self.end_container(n);
        }
    }

    /// Kills what is over its time.
    pub(super) fn on_time(&mut self, now: Instant) {
        for exec in self.execs.values_mut().filter(|exec| !exec.timed_out && exec.deadline <= now) {
            exec.timed_out = true;
            // It leads a process group, unless it has not come that far. An ended process is about to be reaped.
            let _ = sys::kill(-exec.process.pid, libc::SIGKILL);
            let _ = sys::pidfd_signal(exec.process.pidfd.as_fd(), libc::SIGKILL);
            if let Some(container) = self.containers.get(&exec.container) {
                container.group.kill_session(exec.process.pid);
            }
        }
        self.look_at_orphans();
        if self.network.retry_at().is_some_and(|at| at <= now) {
            self.on_network();
        }
        let containers = &self.containers;
        self.out_of_memory
            .retain(|n| containers.get(n).is_some_and(|container| !is_oom_over(container, now)));
    }

    /// When something has to be looked at, though nothing happens.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let is_waiting =
            |task: &String| self.sandboxes.get(task).is_some_and(|sandbox| sandbox.live.is_empty());
        let look_again = !self.leaving.is_empty()
            || !self.out_of_memory.is_empty()
            || !self.orphans.is_empty()
            || self.releasing.iter().any(is_waiting);
        self.look_again = if look_again { (self.look_again * 2).min(LOOK_AGAIN_MAX) } else { LOOK_AGAIN_MIN };
        let soon = look_again.then(|| Instant::now() + self.look_again);
        let timeouts = self.execs.values().filter(|exec| !exec.timed_out).map(|exec| exec.deadline);
        timeouts.chain(soon).chain(self.cells.refill_at()).chain(self.network.retry_at()).min()
    }

    /// Whether nothing is left of any task.
    pub(super) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty() && self.leaving.is_empty()
    }

    /// Removes what belongs to the server itself.
    pub(super) fn close(&mut self) {
        self.cells.close(&self.groups);
        self.network.close(&self.launchpad);
        self.groups.sweep(&HashMap::new(), None);
        self.groups.close();
        if let Some(journal) = &self.journal {
            journal.remove();
        }
        if let Some(ends) = &self.ends {
            ends.remove();
        }
    }
}

impl Container {
    /// A container whose process has just been let go for a request, or was found.
    pub(super) fn new(process: Process, plan: StartPlan, group: Group, start_request: Option<u64>) -> Self {
        Self {
            process,
            plan,
            group,
            start_request,
            oom_event: None,
            oom_until: Instant::now(),
            readers: None,
            orphan_until: None,
        }
    }
}

/// A process has ended and its parent, which is not the supervisor, has not reaped it yet.
struct StillUnreaped;

/// The exit code of a container whose process another supervisor has started; none where nobody can tell it.
fn orphan_code(
    container: &mut Container,
    ends: Option<&Ends>,
    now: Instant,
) -> Result<Option<i32>, StillUnreaped> {
    let until = *container.orphan_until.get_or_insert(now + ORPHAN_WAIT);
    // Before Linux 6.15 the kernel tells it to nobody but the parent.
    if let Ok(Some(code)) = sys::pidfd_exit_code(container.process.pidfd.as_fd()) {
        return Ok(Some(code));
    }
    let Container { process, group, .. } = container;
    let unreaped = sys::unreaped_exit_code(process.pid);
    // Looked at in this order: what was read is this process's if that is still there, and the steward reaps when it has
    // written.
    let is_unreaped = group.holds(process.pid);
    match ends.and_then(|ends| ends.read().code(group.name(), process.pid)) {
        None if is_unreaped && now < until => Err(StillUnreaped),
        // Its parent does not care.
        None if is_unreaped => Ok(unreaped),
        told => Ok(told),
    }
}

/// Ends all processes of a container: its first one is PID 1 of a namespace that holds all others, and
/// takes them along, or they are killed after its end.
pub(super) fn kill(container: &Container) {
    container.group.kill();
    let _ = sys::pidfd_signal(container.process.pidfd.as_fd(), libc::SIGKILL);
}

/// Kills a container of which the OOM killer has taken a process: on v1 the kernel kills just one, and a
/// container must not go on as a part of itself. False while the kill is still to be waited for.
fn is_oom_over(container: &Container, now: Instant) -> bool {
    let is_hit = container.group.oom_kills() > 0;
    if is_hit {
        kill(container);
    }
    is_hit || container.oom_until <= now
}

/// Reads what a process tells before its exec; true once there is nothing more to come.
pub(super) fn read_sync(epoll: &OwnedFd, process: &mut Process) -> bool {
    let Some(sync) = &process.sync else { return true };
    let mut buffer = Vec::new();
    loop {
        match channel::receive(sync.as_fd(), &mut buffer, false) {
            Ok(Some(mut frame)) if frame.id == init::TERMINAL => process.terminal = frame.fds.pop(),
            Ok(Some(frame)) => {
                let unreadable = Failure::System { step: "read failure".to_owned(), errno: libc::EBADMSG };
                process.failure = Some(decode(&frame.message).unwrap_or(unreadable));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(None) | Err(_) => break,
        }
    }
    unwatch(epoll, sync.as_fd());
    process.sync = None;
    true
}

fn not_permitted(what: &str) -> Failure {
    let hint = "start `neargate serve` as root; `neargate doctor` tells what is missing".to_owned();
    Failure::NotPermitted { what: what.to_owned(), hint }
}

/// Turns a refusal by the kernel into advice.
fn explain(failure: Failure) -> Failure {
    match failure {
        Failure::System { step, errno: libc::EPERM | libc::EACCES | libc::EROFS } => not_permitted(&step),
        other => other,
    }
}
