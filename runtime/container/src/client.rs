//! The server's side: the driver contract over the supervisor's socket.
//!
//! Requests are sent by whoever makes them and are answered in any order. One plain thread receives:
//! it belongs to no runtime, so the client may be made before there is one and used from several. Its
//! wake-up costs some 10 µs more than a task on the caller's own runtime would.

mod handle;
mod link_local;
mod plan;
mod seat;
mod session;
mod sockets;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use async_trait::async_trait;
use neargate_driver::{
    ContainerSpec, Driver, Exit, Handle, LinkLocalError, LinkLocalSockets, NetworkTurn, ProcessError,
    RecoverError, Recovered, Sandbox, SandboxError, SandboxHost, SandboxNetwork, SandboxSpec, SocketKind,
    StartError, Stats, Stdio, Traffic,
};
use neargate_model::{Cidr, ContainerId, Hosts, SecurityGroupRules, TaskId};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::bridge::BridgedPlan;
use crate::config::SupervisorConfig;
use crate::interface::groups_requests;
use crate::peer;
use crate::protocol::{BlockPlan, End, HostsPlan, InterfacePlan, LendPlan, NetworkPlan, Request, Response};
use crate::spawn::{self, SpawnError};
use crate::steward::Succession;
use handle::ContainerHandle;
use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};
use seat::{Found, SeatClient, Snapshot};

/// Requests that may be sent and not answered yet; more wait. Commands in containers do not count.
const REQUESTS_MAX: usize = 1024;

/// How many supervisors in a row are asked for the same.
const ATTEMPTS: usize = 5;

/// Starts the supervisor.
#[derive(Debug)]
pub struct Supervisor;

impl Supervisor {
    /// Starts a supervisor that ends with this process. Must be called before this process has a second thread.
    ///
    /// This succeeds without root, too: preparing a sandbox then fails and says what is missing.
    pub fn spawn(config: &SupervisorConfig) -> Result<SupervisorClient, SpawnError> {
        let (child, socket) = spawn::spawn()?;
        let setup = encode(&Request::Setup { setup: config.to_setup() });
        // Answered with id 0, which nobody waits for: what failed is told to whoever prepares a sandbox.
        channel::send(socket.as_fd(), 0, &setup, &[], true).map_err(SpawnError::Socket)?;
        Ok(SupervisorClient::new(socket, None, Some(child)))
    }

    /// Attaches to the supervisor of a directory, and to what it runs; it is started if there is none. Must be called
    /// before this process has a second thread.
    ///
    /// It and its containers go on when this process ends or is killed, until [`SupervisorClient::shut_down`]. When it
    /// is killed itself, another one takes its place.
    pub fn attach(config: &SupervisorConfig, directory: &Path) -> Result<SupervisorClient, SpawnError> {
        let (seat, socket, snapshot) = seat::attach(config, directory)?;
        let client = SupervisorClient::new(socket, Some(seat), None);
        client.connection.shared.take_in(snapshot);
        Ok(client)
    }
}

/// The container driver and sandbox host. Clones share one supervisor. One that was [spawned](Supervisor::spawn) ends,
/// with all containers, when the last of them and of their handles is gone.
#[derive(Clone, Debug)]
pub struct SupervisorClient {
    connection: Arc<Connection>,
}

/// The container driver; another name for its client, which needs no more state.
pub type ContainerDriver = SupervisorClient;

#[derive(Debug)]
struct Connection {
    receiver: Once,
    child: Mutex<Option<Child>>,
    permits: Semaphore,
    next_id: AtomicU64,
    /// Whether the supervisor may make cgroups: whether this process was root when it started or found it.
    has_groups: bool,
    shared: Arc<Shared>,
}

/// What the receiving thread holds, too.
#[derive(Debug)]
struct Shared {
    link: Mutex<Arc<OwnedFd>>,
    state: Mutex<State>,
    /// Of a supervisor that outlives this process.
    seat: Option<SeatClient>,
    /// The security groups as they were last told, for the next supervisor: messages, in order.
    groups: Mutex<Vec<Vec<u8>>>,
    /// The same of the hosts that share VPCs.
    hosts: Mutex<Option<Vec<u8>>>,
    /// Whether there is a network with interfaces in VPCs.
    is_routed: watch::Sender<bool>,
    /// Whether nobody wants the supervisor any more, so that no other one is looked for.
    leaving: AtomicBool,
    /// How often a supervisor was attached to, or that there is none any more.
    attached: watch::Sender<Attached>,
    /// Becomes true when the supervisor has ended and was reaped, or was left.
    ended: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attached {
    Times(u64),
    Never,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    pending: HashMap<u64, Pending>,
    containers: HashMap<String, Arc<Started>>,
    /// Tasks with sandboxes that were there before this process.
    sandboxes: HashSet<String>,
}

#[derive(Debug)]
enum Pending {
    Reply(oneshot::Sender<Response>),
    /// An answer with descriptors.
    Lend(oneshot::Sender<(Response, Vec<OwnedFd>)>),
    /// Two answers: a start, perhaps with a descriptor, and an end.
    Attend(session::Attended),
    /// A start is entered among the containers before anyone hears of it, so that a start whose caller has
    /// gone away can be found, and no exit is missed.
    Start {
        started: Arc<Started>,
        reply: oneshot::Sender<Response>,
    },
}

/// A container that was started.
#[derive(Debug)]
struct Started {
    id: String,
    task: TaskId,
    ended: watch::Sender<Option<(Exit, Stats)>>,
    /// Tells the exit code if it ends while there is no supervisor.
    pidfd: Mutex<Option<OwnedFd>>,
    /// The reading ends of its standard output and error, if it was there before this process, until they are taken.
    readers: Mutex<Option<[OwnedFd; 2]>>,
}

/// Lets an error pass that says no more than that the supervisor is gone.
fn unless_gone(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(())
        }
        other => other,
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the supervisor has ended")
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ends the receiving thread, which holds the socket as well, and tells the supervisor.
        self.shared.leave();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the maps whole, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.link.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the connection for good.
    fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        if let Some(seat) = &self.seat {
            seat.dismiss_steward();
        }
        let _ = rustix::net::shutdown(&*self.link(), rustix::net::Shutdown::Both);
    }

    fn receive_all(&self) {
        while self.receive_from(&self.link()) {}
        self.attached.send_replace(Attached::Never);
        let mut state = self.state();
        state.closed = true;
        state.pending.clear();
        let reason = "the supervisor has ended".to_owned();
        for (_, started) in state.containers.drain() {
            // What goes on without this process has not ended.
            if !self.leaving.load(Ordering::SeqCst) || self.seat.is_none() {
                started.end(Exit { code: None, oom: false, reason: Some(reason.clone()) }, Stats::default());
            }
        }
    }

    /// Hears one supervisor to its end; returns whether another one has taken its place.
    fn receive_from(&self, link: &OwnedFd) -> bool {
        let mut buffer = Vec::new();
        while let Ok(Some(frame)) = channel::receive(link.as_fd(), &mut buffer, true) {
            match decode::<Response>(&frame.message) {
                Ok(response) => self.dispatch(frame, response),
                Err(error) => {
                    tracing::error!(%error, "supervisor sent what cannot be read; give it up");
                    break;
                }
            }
        }
        let _ = rustix::net::shutdown(link, rustix::net::Shutdown::Both);
        let Some(seat) = self.seat.as_ref().filter(|_| !self.leaving.load(Ordering::SeqCst)) else {
            return false;
        };
        tracing::warn!("the supervisor of containers has ended; they go on, and another one is started");
        // Whoever waits for an answer asks the next one.
        self.state().pending.clear();
        match seat.reattach() {
            Ok((socket, snapshot)) => {
                tracing::info!(
                    containers = snapshot.containers.len(),
                    "another supervisor has found the containers"
                );
                // First of all: what is prepared before has no rules. Before the groups the hosts, whose tasks would be
                // strangers otherwise.
                let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let mut parts = hosts.iter().chain(&groups);
                if let Err(error) =
                    parts.try_for_each(|part| channel::send(socket.as_fd(), 0, part, &[], true))
                {
                    tracing::error!(%error, "tell another supervisor the hosts and the security groups");
                }
                *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(socket);
                self.take_in(snapshot);
                !self.leaving.load(Ordering::SeqCst)
            }
            Err(error) => {
                tracing::error!(%error, "no other supervisor can be reached; containers cannot be run any more");
                false
            }
        }
    }

    /// Enters what a supervisor knows, and ends what it does not know any more.
    fn take_in(&self, mut snapshot: Snapshot) {
        let known: Vec<Arc<Started>> = self.state().containers.values().cloned().collect();
        for started in known.iter().filter(|started| started.ended.borrow().is_none()) {
            match snapshot.containers.remove(&started.id) {
                Some(Found { end: None, .. }) => {}
                Some(Found { end: Some(end), .. }) => started.end_as(end),
                None => started.end_as(End { code: None, oom: false, stats: Stats::default() }),
            }
        }
        let mut state = self.state();
        for (id, found) in snapshot.containers {
            if state.containers.get(&id).is_some_and(|known| found.end.is_some() || !known.has_ended()) {
                continue;
            }
            // Task ids are checked where they are made; another one could not be asked for.
            let Ok(task) = TaskId::new(found.task) else { continue };
            let ended = found.end.map(|end| (end.exit(), end.stats));
            let (pidfd, readers) = (Mutex::new(found.pidfd), Mutex::new(found.readers));
            let started = Started { id: id.clone(), task, ended: watch::Sender::new(ended), pidfd, readers };
            state.containers.insert(id, Arc::new(started));
        }
        state.sandboxes = snapshot.sandboxes;
        drop(state);
        self.attached.send_modify(|attached| {
            if let Attached::Times(times) = attached {
                *times += 1;
            }
        });
    }

    fn dispatch(&self, frame: Frame, response: Response) {
        let mut state = self.state();
        if let Response::Exited { container, code, oom, stats } = response {
            if let Some(started) = state.containers.get(&container).cloned() {
                drop(state);
                started.end_as(End { code, oom, stats });
            }
            return;
        }
        // Whoever asked may have gone away.
        match state.pending.remove(&frame.id) {
            Some(Pending::Reply(reply)) => drop(reply.send(response)),
            Some(Pending::Lend(reply)) => {
                drop(state);
                if let Err((Response::Lent { .. }, _)) = reply.send((response, frame.fds)) {
                    self.give_back(frame.id);
                }
            }
            Some(Pending::Attend(attended)) => {
                if let Some(attended) = attended.take(self, frame.id, response, frame.fds) {
                    state.pending.insert(frame.id, Pending::Attend(attended));
                }
            }
            Some(Pending::Start { started, reply }) => {
                if matches!(response, Response::Started {}) {
                    started.keep(frame.fds.into_iter().next());
                    state.containers.insert(started.id.clone(), started);
                }
                drop(reply.send(response));
            }
            None => {}
        }
    }
}

impl Shared {
    /// Gives a lent group back without waiting. What cannot be sent now is taken back with its sandbox.
    fn give_back(&self, lending: u64) {
        let request = encode(&Request::GiveBack { lending });
        let _ = channel::send(self.link().as_fd(), 0, &request, &[], false);
    }
}

impl End {
    fn exit(&self) -> Exit {
        let lost = "it ended while nobody watched it, so its exit code is not known";
        let reason = self.code.is_none().then(|| lost.to_owned());
        Exit { code: self.code, oom: self.oom, reason }
    }
}

impl Started {
    fn new(id: &str, task: &TaskId) -> Self {
        let (pidfd, readers) = (Mutex::new(None), Mutex::new(None));
        Self { id: id.to_owned(), task: task.clone(), ended: watch::Sender::new(None), pidfd, readers }
    }

    fn keep(&self, pidfd: Option<OwnedFd>) {
        *self.pidfd.lock().unwrap_or_else(PoisonError::into_inner) = pidfd;
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Enters its end as a supervisor tells it. One that has not seen the end does not know the code; the pidfd does.
    fn end_as(&self, mut end: End) {
        let pidfd = self.pidfd.lock().unwrap_or_else(PoisonError::into_inner).take();
        if end.code.is_none() {
            end.code = pidfd.as_ref().and_then(seat::exit_code);
        }
        self.end(end.exit(), end.stats);
    }

    fn end(&self, exit: Exit, stats: Stats) {
        self.ended.send_replace(Some((exit, stats)));
    }
}

impl Connection {
    /// Starts the receiving thread at the first request: `spawn` itself must not leave a thread behind, since
    /// the caller may have more to do that needs none.
    fn start_receiver(&self) {
        self.receiver.call_once(|| {
            let shared = Arc::clone(&self.shared);
            let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
            let receive = move || {
                shared.receive_all();
                // Ends when its containers are removed.
                if let Some(mut child) = child
                    && let Err(error) = child.wait()
                {
                    tracing::warn!(%error, "wait for supervisor");
                }
                shared.ended.send_replace(true);
            };
            let thread = std::thread::Builder::new().name("supervisor-client".to_owned());
            if let Err(error) = thread.spawn(receive) {
                tracing::error!(%error, "start thread that hears the supervisor");
                self.shared.state().closed = true;
            }
        });
    }

    /// Asks for something that may be asked for twice: a supervisor that is killed before it answers is not the last.
    async fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Response> {
        let _permit = self.permits.acquire().await.map_err(|_| gone())?;
        for _ in 0..ATTEMPTS {
            let asked_of = self.attached();
            let (reply, response) = oneshot::channel();
            unless_gone(self.send(request, fds, Pending::Reply(reply)).await)?;
            // One that could not be sent has no answer.
            if let Ok(response) = response.await {
                return Ok(response);
            }
            self.wait_for_another(asked_of).await?;
        }
        Err(gone())
    }

    /// Asks once for something that is answered with descriptors; tells the request's id, too.
    async fn call_for_fds(&self, request: &Request) -> io::Result<(u64, (Response, Vec<OwnedFd>))> {
        let _permit = self.permits.acquire().await.map_err(|_| gone())?;
        let (reply, response) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.send_as(id, request, &[], Pending::Lend(reply)).await?;
        Ok((id, response.await.map_err(|_| gone())?))
    }

    fn attached(&self) -> Attached {
        *self.shared.attached.borrow()
    }

    /// Waits until another supervisor than the one that was asked is there.
    async fn wait_for_another(&self, asked_of: Attached) -> io::Result<()> {
        let mut attached = self.shared.attached.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail; it is bounded by the receiving thread's own wait.
        match attached.wait_for(|attached| *attached != asked_of).await.as_deref() {
            Ok(Attached::Times(_)) => Ok(()),
            Ok(Attached::Never) | Err(_) => Err(gone()),
        }
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>], pending: Pending) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.send_as(id, request, fds, pending).await
    }

    async fn send_as(
        &self,
        id: u64,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        pending: Pending,
    ) -> io::Result<()> {
        self.start_receiver();
        {
            let mut state = self.shared.state();
            if state.closed {
                return Err(gone());
            }
            state.pending.insert(id, pending);
        }
        let sent = peer::send(&self.shared.link(), id, encode(request), fds).await;
        if sent.is_err() {
            self.shared.state().pending.remove(&id);
        }
        sent
    }
}

impl SupervisorClient {
    fn new(socket: OwnedFd, seat: Option<SeatClient>, child: Option<Child>) -> Self {
        let shared = Arc::new(Shared {
            link: Mutex::new(Arc::new(socket)),
            state: Mutex::default(),
            seat,
            groups: Mutex::default(),
            hosts: Mutex::default(),
            is_routed: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            attached: watch::Sender::new(Attached::Times(0)),
            ended: watch::Sender::new(false),
        });
        let connection = Arc::new(Connection {
            receiver: Once::new(),
            child: Mutex::new(child),
            permits: Semaphore::new(REQUESTS_MAX),
            next_id: AtomicU64::new(1),
            has_groups: rustix::process::geteuid().is_root(),
            shared,
        });
        Self { connection }
    }

    /// Ends the supervisor with all its containers and waits until it is gone. Idempotent.
    pub async fn shut_down(&self) {
        let shared = &self.connection.shared;
        self.connection.start_receiver();
        shared.leaving.store(true, Ordering::SeqCst);
        match shared.seat {
            // It closes the connection by its end.
            Some(ref seat) => {
                seat.dismiss_steward();
                let farewell = encode(&Request::Farewell {});
                let _ = peer::send(&shared.link(), 0, farewell, &[]).await;
            }
            None => shared.leave(),
        }
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Lets go of a supervisor that outlives this process, and of its containers, which go on. Idempotent.
    pub async fn leave(&self) {
        self.connection.start_receiver();
        self.connection.shared.leave();
        let _ = self.connection.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// What a launcher needs to replace the steward when that is killed; the first caller gets it.
    pub fn take_succession(&self) -> Option<Succession> {
        self.connection.shared.seat.as_ref()?.take_succession()
    }

    /// Tasks whose sandboxes were there before this process.
    pub fn found(&self) -> BTreeSet<TaskId> {
        let state = self.connection.shared.state();
        state.sandboxes.iter().filter_map(|task| TaskId::new(task.clone()).ok()).collect()
    }

    /// Tasks with containers that run.
    pub fn running(&self) -> BTreeSet<TaskId> {
        let state = self.connection.shared.state();
        let running = state.containers.values().filter(|started| !started.has_ended());
        running.map(|started| started.task.clone()).collect()
    }

    /// Makes a group in a sandbox; returns its name, whether its v2 directory is among the descriptors, and those.
    pub(crate) async fn lend(&self, plan: LendPlan) -> Result<(u64, bool, Vec<OwnedFd>), ProcessError> {
        let unavailable = |source| ProcessError::Unavailable { source };
        let (id, answer) =
            self.connection.call_for_fds(&Request::Lend { plan }).await.map_err(unavailable)?;
        match answer {
            (Response::Lent { unified }, fds) => Ok((id, unified, fds)),
            (Response::Failed { failure }, _) => Err(failure.into_process()),
            _ => Err(unavailable(unexpected())),
        }
    }

    /// Whether something in a lent group was killed for going over the memory limit.
    pub(crate) async fn lent_oom(&self, lending: u64) -> bool {
        let told = self.connection.call(&Request::LentOom { lending }, &[]).await;
        matches!(told, Ok(Response::Oom { oom: true }))
    }

    /// Gives a group back, which is removed once it is empty; does not wait for that.
    pub(crate) fn give_back(&self, lending: u64) {
        self.connection.shared.give_back(lending);
    }

    fn started(&self, id: &str) -> Option<Arc<Started>> {
        self.connection.shared.state().containers.get(id).cloned()
    }

    fn handle(&self, started: Arc<Started>) -> Arc<dyn Handle> {
        Arc::new(ContainerHandle { connection: Arc::clone(&self.connection), started })
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the supervisor answered something else than it was asked")
}

#[async_trait]
impl Driver for SupervisorClient {
    async fn start(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Arc<dyn Handle>, StartError> {
        let unavailable = |source| StartError::Unavailable { source };
        if spec.task != sandbox.task {
            let why = format!("the sandbox belongs to task {}", sandbox.task);
            return Err(StartError::Unsupported { what: format!("task {} in it", spec.task), why });
        }
        let plan = plan::of(&spec)?;
        let id = plan.container.clone();
        let Stdio { stdin, stdout, stderr, readers } = &spec.stdio;
        let mut fds = vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        fds.extend(readers.iter().flatten().map(AsFd::as_fd));
        let _permit = self.connection.permits.acquire().await.map_err(|_| unavailable(gone()))?;
        let request = Request::Start { plan };
        // A container that is started again: that it has ended may be said of the run before.
        let ran_before = self.started(&id).is_some();
        for _ in 0..ATTEMPTS {
            let asked_of = self.connection.attached();
            let started = Arc::new(Started::new(&id, &spec.task));
            let (reply, response) = oneshot::channel();
            let pending = Pending::Start { started: Arc::clone(&started), reply };
            unless_gone(self.connection.send(&request, &fds, pending).await).map_err(unavailable)?;
            match response.await {
                Ok(Response::Started {}) => return Ok(self.handle(started)),
                Ok(Response::Failed { failure }) => return Err(failure.into_start()),
                Ok(_) => return Err(unavailable(unexpected())),
                Err(_) => self.connection.wait_for_another(asked_of).await.map_err(unavailable)?,
            }
            // Whether the one before has come so far as to let it go, the next one knows.
            if let Some(started) = self.started(&id).filter(|started| !ran_before || !started.has_ended()) {
                return Ok(self.handle(started));
            }
        }
        Err(unavailable(gone()))
    }

    async fn recover(&self, id: &ContainerId) -> Result<Option<Recovered>, RecoverError> {
        let Some(started) = self.started(id.as_str()) else { return Ok(None) };
        // Its end is told without a request, which may never come.
        self.connection.start_receiver();
        let readers = started.readers.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(Some(Recovered { handle: self.handle(started), readers }))
    }
}

#[async_trait]
impl SandboxHost for SupervisorClient {
    async fn find(&self, spec: &SandboxSpec) -> Option<Sandbox> {
        let found = self.connection.shared.state().sandboxes.contains(spec.task.as_str());
        found.then(|| Sandbox { task: spec.task.clone(), limits: spec.limits.clone() })
    }

    async fn prepare(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        let sandbox = Sandbox { task: spec.task.clone(), limits: spec.limits.clone() };
        if !spec.linux {
            return Ok(sandbox);
        }
        let request = Request::Prepare {
            task: spec.task.to_string(),
            hostname: spec.hostname.clone(),
            limits: spec.limits.clone(),
            network: match &spec.network {
                SandboxNetwork::Own => NetworkPlan::Own {},
                SandboxNetwork::Managed => NetworkPlan::Managed {},
                SandboxNetwork::Host => NetworkPlan::Host {},
                SandboxNetwork::Vpc { interface, mbps, managed } => {
                    NetworkPlan::Vpc { interface: InterfacePlan::of(interface, *mbps), managed: *managed }
                }
                SandboxNetwork::Bridge { block, containers, managed } => NetworkPlan::Bridge {
                    containers: containers.iter().map(BridgedPlan::of).collect(),
                    block: BlockPlan::of(block),
                    managed: *managed,
                },
            },
            sharing: plan::sharing_of(&spec.sharing),
        };
        let unavailable = |source| SandboxError::Unavailable { source };
        match self.connection.call(&request, &[]).await.map_err(unavailable)? {
            Response::Done {} => Ok(sandbox),
            Response::Failed { failure } => Err(failure.into_sandbox()),
            _ => Err(unavailable(unexpected())),
        }
    }

    fn has_groups(&self) -> bool {
        self.connection.has_groups
    }

    async fn set_groups(&self, groups: &[SecurityGroupRules], vpcs: &[Cidr]) -> Result<(), SandboxError> {
        let requests = groups_requests(groups, vpcs);
        let shared = &self.connection.shared;
        *shared.groups.lock().unwrap_or_else(PoisonError::into_inner) = requests.iter().map(encode).collect();
        let unavailable = |source| SandboxError::Unavailable { source };
        for request in &requests {
            match self.connection.call(request, &[]).await.map_err(unavailable)? {
                Response::Done {} => {}
                Response::Failed { failure } => return Err(failure.into_sandbox()),
                _ => return Err(unavailable(unexpected())),
            }
        }
        shared.is_routed.send_if_modified(|is_routed| {
            let is_first = !*is_routed && !vpcs.is_empty();
            *is_routed |= is_first;
            is_first
        });
        Ok(())
    }

    async fn set_hosts(&self, hosts: Option<&Hosts>) -> Result<(), SandboxError> {
        let request = Request::Hosts { hosts: hosts.map(HostsPlan::of) };
        let shared = &self.connection.shared;
        *shared.hosts.lock().unwrap_or_else(PoisonError::into_inner) = Some(encode(&request));
        let unavailable = |source| SandboxError::Unavailable { source };
        match self.connection.call(&request, &[]).await.map_err(unavailable)? {
            Response::Done {} => Ok(()),
            Response::Failed { failure } => Err(failure.into_sandbox()),
            _ => Err(unavailable(unexpected())),
        }
    }

    async fn traffic(&self, task: &TaskId) -> Result<Option<Traffic>, SandboxError> {
        let request = Request::Traffic { task: task.to_string() };
        let unavailable = |source| SandboxError::Unavailable { source };
        match self.connection.call(&request, &[]).await.map_err(unavailable)? {
            Response::Traffic { traffic } => Ok(traffic),
            Response::Failed { failure } => Err(failure.into_sandbox()),
            _ => Err(unavailable(unexpected())),
        }
    }

    async fn network_after(&self, turn: NetworkTurn) -> NetworkTurn {
        self.connection.network_after(turn).await
    }

    async fn link_local(&self) -> Result<LinkLocalSockets, LinkLocalError> {
        self.connection.link_local().await
    }

    async fn socket(&self, task: &TaskId, kind: SocketKind) -> Result<OwnedFd, SandboxError> {
        self.connection.socket(task, kind).await
    }

    async fn release(&self, task: &TaskId) -> Result<(), SandboxError> {
        let request = Request::Release { task: task.to_string() };
        let unavailable = |source| SandboxError::Unavailable { source };
        match self.connection.call(&request, &[]).await.map_err(unavailable)? {
            Response::Done {} => {
                let mut state = self.connection.shared.state();
                state.containers.retain(|_, started| started.task != *task);
                state.sandboxes.remove(task.as_str());
                Ok(())
            }
            Response::Failed { failure } => Err(failure.into_sandbox()),
            _ => Err(unavailable(unexpected())),
        }
    }
}
