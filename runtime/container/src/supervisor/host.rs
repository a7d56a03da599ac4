//! What runs on this host: sandboxes, their containers, and second commands in them.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use neargate_driver::Limits;

use super::cells::{Cell, Cells};
use super::lend::Lent;
use super::{FACTORY, report, unwatch};
use crate::cgroup::{Group, Groups};
use crate::failure::{Failure, Step};
use crate::id_range::IdRanges;
use crate::init::{self, MaskedPath, masked_paths};
use crate::launchpad::Launchpad;
use crate::protocol::{Request, Response, Setup, StartPlan};
use crate::rootfs::LayerPassing;
use crate::seccomp::Filters;
use crate::sys;
use neargate_ipc::channel;
use neargate_ipc::wire::decode;

/// How soon a busy cgroup directory, or an OOM event whose victim is not known yet, is looked at again: at
/// first, and after having looked in vain for long.
const LOOK_AGAIN_MIN: Duration = Duration::from_micros(200);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(20);
/// How long after an OOM event its kill is waited for.
const OOM_WAIT: Duration = Duration::from_secs(1);
/// Most containers at once, so that a runaway server cannot use up the host's process ids.
const CONTAINERS_MAX: usize = 16_384;

/// What an epoll token stands for.
pub(super) enum Event {
    /// A process has ended.
    Ended(u64),
    /// A process tells a failure, or has exec'd.
    Synced(u64),
    /// A container is out of memory.
    OutOfMemory(u64),
}

impl Event {
    /// The tokens of process `n` are 4n, 4n+1 and 4n+2; those below 4 belong to the loop.
    pub(super) fn of(token: u64) -> Self {
        match token % 4 {
            0 => Event::Ended(token / 4),
            1 => Event::Synced(token / 4),
            _ => Event::OutOfMemory(token / 4),
        }
    }

    pub(super) fn token(&self) -> u64 {
        match self {
            Event::Ended(n) => n * 4,
            Event::Synced(n) => n * 4 + 1,
            Event::OutOfMemory(n) => n * 4 + 2,
        }
    }
}

/// What the containers of a task share.
pub(super) struct Sandbox {
    pub(super) hostname: String,
    pub(super) ids: u32,
    pub(super) userns: OwnedFd,
    pub(super) network: OwnedFd,
    pub(super) group: Group,
    /// Its containers and commands that have not been reaped.
    pub(super) live: HashSet<u64>,
    /// How many groups of ended containers are not removed yet.
    leaving: usize,
    /// Requests to answer when it is gone; `Some` once its end was asked for.
    releasing: Option<Vec<u64>>,
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

/// A group to be removed, and what to answer then: a start that failed has left nothing behind.
struct Leaving {
    task: String,
    group: Group,
    answer: Option<(u64, Response)>,
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
    pub(super) sandboxes: HashMap<String, Sandbox>,
    pub(super) containers: HashMap<u64, Container>,
    pub(super) numbers: HashMap<String, u64>,
    pub(super) execs: HashMap<u64, Exec>,
    pub(super) responses: Vec<(u64, Response)>,
    /// Responses with descriptors, and those that must not overtake them.
    pub(super) lendings: Vec<(u64, Response, Vec<OwnedFd>)>,
    /// Groups of processes and threads that somebody else has started, by the requests for them.
    pub(super) lent: HashMap<u64, Lent>,
    // The rest is what `deadline` and `clean_up` look through at every turn, so that a turn costs the same
    // with one container and with thousands.
    leaving: Vec<Leaving>,
    releasing: Vec<String>,
    out_of_memory: Vec<u64>,
    look_again: Duration,
    last_number: u64,
}

impl Host {
    /// Makes ready to run containers; a failure says what this host or this process lacks.
    pub(super) fn open(setup: Setup, epoll: Rc<OwnedFd>) -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(not_permitted("run containers"));
        }
        let seed = u32::from_str_radix(setup.instance.get(..6).unwrap_or_default(), 16).unwrap_or(0);
        let launchpad = Launchpad::build().map_err(explain)?;
        let groups = Groups::open(&setup.instance).map_err(explain)?;
        let filters = Filters::compile()
            .map_err(|error| std::io::Error::other(error.to_string()))
            .step("compile seccomp filter")?;
        Ok(Self {
            cells: Cells::start(IdRanges::new(setup.id_base, seed), &epoll, FACTORY),
            passing: if setup.layers_by_path { LayerPassing::Paths } else { LayerPassing::Descriptors },
            setup,
            epoll,
            groups,
            launchpad,
            filters,
            masked: masked_paths(),
            sandboxes: HashMap::new(),
            containers: HashMap::new(),
            numbers: HashMap::new(),
            execs: HashMap::new(),
            responses: Vec::new(),
            lendings: Vec::new(),
            lent: HashMap::new(),
            leaving: Vec::new(),
            releasing: Vec::new(),
            out_of_memory: Vec::new(),
            look_again: LOOK_AGAIN_MIN,
            last_number: 0,
        })
    }

    /// Acts on one request; its answer is put into `responses` now or later.
    pub(super) fn on_request(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let result = match request {
            Request::Setup { .. } => {
                Err(Failure::System { step: "agree on protocol".to_owned(), errno: libc::EPROTO })
            }
            Request::Prepare { task, hostname, limits } => {
                self.prepare(task, hostname, &limits).map(|()| Some(Response::Done {}))
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
            Request::Exec { plan } => self.exec(id, plan, fds).map(|()| None),
            Request::Lend { plan } => self.lend(id, &plan).map(|()| None),
            Request::GiveBack { lending } => {
                self.take_back(lending);
                Ok(Some(Response::Done {}))
            }
            Request::SignalCommand { command, signal } => {
                self.signal_exec(command, signal).map(|()| Some(Response::Done {}))
            }
            Request::LentOom { lending } => Ok(Some(self.lent_oom(lending))),
        };
        match result {
            Ok(Some(response)) => self.responses.push((id, response)),
            Ok(None) => {}
            Err(failure) => self.responses.push((id, Response::Failed { failure })),
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn has_room(&self) -> bool {
        self.containers.len() + self.execs.len() < CONTAINERS_MAX
    }

    pub(super) fn find(&self, container: &str) -> Result<u64, Failure> {
        self.numbers.get(container).copied().ok_or(Failure::NotRunning {})
    }

    fn prepare(&mut self, task: String, hostname: String, limits: &Limits) -> Result<(), Failure> {
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
        let Cell { ids, userns, network } = self.cells.take()?;
        let group = match self.groups.make_task(&task, limits) {
            Ok(group) => group,
            Err(failure) => {
                self.cells.give_back(ids);
                return Err(failure);
            }
        };
        let (live, leaving, releasing) = (HashSet::new(), 0, None);
        let sandbox = Sandbox { hostname, ids, userns, network, group, live, leaving, releasing };
        self.sandboxes.insert(task, sandbox);
        Ok(())
    }

    /// Takes the cells that the factory has made.
    pub(super) fn on_factory(&mut self) {
        self.cells.on_factory(&self.epoll);
    }

    /// Kills what runs in a sandbox; the answer comes when all is removed.
    fn release(&mut self, task: &str, request: Option<u64>) -> Option<Response> {
        let Some(sandbox) = self.sandboxes.get_mut(task) else { return Some(Response::Done {}) };
        let is_first = sandbox.releasing.is_none();
        sandbox.releasing.get_or_insert_default().extend(request);
        sandbox.group.kill();
        // Commands are processes of a container's namespace and die with it.
        sandbox.live.iter().filter_map(|n| self.containers.get(n)).for_each(kill);
        if is_first {
            self.releasing.push(task.to_owned());
            self.take_all_back(task);
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
        }
    }

    fn on_sync(&mut self, n: u64) {
        if let Some(container) = self.containers.get_mut(&n) {
            // A failure is answered when the process is reaped, so that nothing is left behind by then.
            if read_sync(&self.epoll, &mut container.process)
                && container.process.failure.is_none()
                && let Some(request) = container.start_request.take()
            {
                self.responses.push((request, Response::Started {}));
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
        let code = match sys::wait_child(Some(container.process.pidfd.as_fd()), false) {
            Ok(Some((_, code))) => code,
            Ok(None) => return,
            Err(error) => {
                report("reap container", &error);
                return;
            }
        };
        // The end of file that tells a successful exec may come in the same turn, after this event.
        self.on_sync(n);
        let Some(container) = self.containers.remove(&n) else { return };
        self.numbers.remove(&container.plan.container);
        unwatch(&self.epoll, container.process.pidfd.as_fd());
        if let Some(event) = &container.oom_event {
            unwatch(&self.epoll, event.as_fd());
        }
        let answer = match (container.process.failure, container.start_request) {
            (Some(failure), Some(request)) => Some((request, Response::Failed { failure })),
            (_, pending) => {
                self.responses.extend(pending.map(|request| (request, Response::Started {})));
                let (oom, stats) = (container.group.oom_kills() > 0, container.group.stats());
                let container = container.plan.container;
                self.responses.push((0, Response::Exited { container, code, oom, stats }));
                None
            }
        };
        self.leave(n, container.plan.task, container.group, answer);
    }

    /// Notes that a group has no more processes of ours and can be removed; `answer` is given then.
    pub(super) fn leave(&mut self, n: u64, task: String, group: Group, answer: Option<(u64, Response)>) {
        if let Some(sandbox) = self.sandboxes.get_mut(&task) {
            sandbox.live.remove(&n);
            sandbox.leaving += 1;
        }
        self.leaving.push(Leaving { task, group, answer });
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
            || self.releasing.iter().any(is_waiting);
        self.look_again = if look_again { (self.look_again * 2).min(LOOK_AGAIN_MAX) } else { LOOK_AGAIN_MIN };
        let soon = look_again.then(|| Instant::now() + self.look_again);
        let timeouts = self.execs.values().filter(|exec| !exec.timed_out).map(|exec| exec.deadline);
        timeouts.chain(soon).min()
    }

    /// Removes the groups of ended containers, and sandboxes that were released, and has cells made for the next.
    pub(super) fn clean_up(&mut self) {
        for leaving in std::mem::take(&mut self.leaving) {
            if !leaving.group.remove() {
                self.leaving.push(leaving);
                continue;
            }
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
        self.cells.refill();
    }

    /// Removes a released sandbox whose processes and groups are gone, and answers those who wait for it.
    fn try_remove(&mut self, task: &str) -> bool {
        let Some(sandbox) = self.sandboxes.get(task) else { return true };
        if !sandbox.live.is_empty() || sandbox.leaving > 0 || !sandbox.group.remove() {
            return false;
        }
        if let Some(sandbox) = self.sandboxes.remove(task) {
            self.cells.give_back(sandbox.ids);
            let waiting = sandbox.releasing.unwrap_or_default();
            self.responses.extend(waiting.into_iter().map(|request| (request, Response::Done {})));
        }
        true
    }

    /// Whether nothing is left of any task.
    pub(super) fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty() && self.leaving.is_empty()
    }

    /// Removes what belongs to the server itself.
    pub(super) fn close(&self) {
        self.groups.close();
    }
}

impl Sandbox {
    /// Whether containers may still be started in it.
    pub(super) fn is_open(&self) -> bool {
        self.releasing.is_none()
    }
}

impl Container {
    /// A container whose process has just been let go.
    pub(super) fn new(process: Process, plan: StartPlan, group: Group, request: u64) -> Self {
        Self {
            process,
            plan,
            group,
            start_request: Some(request),
            oom_event: None,
            oom_until: Instant::now(),
        }
    }
}

/// Ends all processes of a container: its first one is PID 1 of a namespace that holds all others, and
/// takes them along.
fn kill(container: &Container) {
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
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
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
