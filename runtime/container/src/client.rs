//! The server's side: the driver contract over the supervisor's socket.
//!
//! Requests are sent by whoever makes them and are answered in any order. One plain thread receives:
//! it belongs to no runtime, so the client may be made before there is one and used from several. Its
//! wake-up costs some 10 µs more than a task on the caller's own runtime would.

mod session;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use async_trait::async_trait;
use neargate_driver::{
    ContainerSpec, Driver, ExecError, ExecSpec, Exit, Handle, MountSource, ProcessError, RecoverError,
    Rootfs, Sandbox, SandboxError, SandboxHost, SandboxSpec, Session, SessionSpec, Signal, SignalError,
    StartError, Stats, StatsError, Stdio, Ulimit,
};
use neargate_model::{ContainerId, TaskId};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::capabilities;
use crate::config::SupervisorConfig;
use crate::failure::Failure;
use crate::peer;
use crate::protocol::{ExecPlan, LendPlan, MountPlan, Request, Response, SourcePlan, StartPlan, TmpfsPlan};
use crate::spawn::{self, SpawnError};
use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};

/// Requests that may be sent and not answered yet; more wait. Commands in containers do not count.
const REQUESTS_MAX: usize = 1024;

/// Starts the supervisor.
#[derive(Debug)]
pub struct Supervisor;

impl Supervisor {
    /// Starts the supervisor. Must be called before this process has a second thread.
    ///
    /// This succeeds without root, too: preparing a sandbox then fails and says what is missing.
    pub fn spawn(config: &SupervisorConfig) -> Result<SupervisorClient, SpawnError> {
        let (child, socket) = spawn::spawn()?;
        let connection = Arc::new(Connection {
            receiver: Once::new(),
            child: Mutex::new(Some(child)),
            permits: Semaphore::new(REQUESTS_MAX),
            next_id: AtomicU64::new(1),
            shared: Arc::new(Shared { socket, state: Mutex::default(), ended: watch::Sender::new(false) }),
        });
        let setup = encode(&Request::Setup { setup: config.to_setup() });
        // Answered with id 0, which nobody waits for: what failed is told to whoever prepares a sandbox.
        channel::send(connection.shared.socket.as_fd(), 0, &setup, &[], true).map_err(SpawnError::Socket)?;
        Ok(SupervisorClient { connection })
    }
}

/// The container driver and sandbox host. Clones share one supervisor, which ends, with all containers,
/// when the last of them and of their handles is gone.
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
    shared: Arc<Shared>,
}

/// What the receiving thread holds, too.
#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    state: Mutex<State>,
    /// Becomes true when the supervisor has ended and was reaped.
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    pending: HashMap<u64, Pending>,
    containers: HashMap<String, Arc<Started>>,
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
}

/// What a caller can do with a started container.
struct ContainerHandle {
    connection: Arc<Connection>,
    started: Arc<Started>,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the supervisor has ended")
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ends the receiving thread, which holds the socket as well, and tells the supervisor.
        let _ = rustix::net::shutdown(&self.shared.socket, rustix::net::Shutdown::Both);
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the maps whole, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive_all(&self) {
        let mut buffer = Vec::new();
        while let Ok(Some(frame)) = channel::receive(self.socket.as_fd(), &mut buffer, true) {
            match decode::<Response>(&frame.message) {
                Ok(response) => self.dispatch(frame, response),
                Err(error) => {
                    tracing::error!(%error, "supervisor sent what cannot be read; give it up");
                    break;
                }
            }
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let mut state = self.state();
        state.closed = true;
        state.pending.clear();
        let reason = "the supervisor has ended".to_owned();
        for (_, started) in state.containers.drain() {
            started.end(Exit { code: None, oom: false, reason: Some(reason.clone()) }, Stats::default());
        }
    }

    fn dispatch(&self, frame: Frame, response: Response) {
        let mut state = self.state();
        if let Response::Exited { container, code, oom, stats } = response {
            if let Some(started) = state.containers.get(&container) {
                started.end(Exit { code: Some(code), oom, reason: None }, stats);
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
        let _ = channel::send(self.socket.as_fd(), 0, &request, &[], false);
    }
}

impl Started {
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

    async fn call(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<Response> {
        let _permit = self.permits.acquire().await.map_err(|_| gone())?;
        let (reply, response) = oneshot::channel();
        self.send(request, fds, Pending::Reply(reply)).await?;
        response.await.map_err(|_| gone())
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
        let sent = peer::send(&self.shared, id, encode(request), fds).await;
        if sent.is_err() {
            self.shared.state().pending.remove(&id);
        }
        sent
    }
}

impl SupervisorClient {
    /// Ends the supervisor with all its containers and waits until it is gone. Idempotent.
    pub async fn shut_down(&self) {
        self.connection.start_receiver();
        let _ = rustix::net::shutdown(&self.connection.shared.socket, rustix::net::Shutdown::Both);
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.connection.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Makes a group in a sandbox; returns its name, whether its v2 directory is among the descriptors, and those.
    pub(crate) async fn lend(&self, plan: LendPlan) -> Result<(u64, bool, Vec<OwnedFd>), ProcessError> {
        let unavailable = |source| ProcessError::Unavailable { source };
        let connection = &self.connection;
        let _permit = connection.permits.acquire().await.map_err(|_| unavailable(gone()))?;
        let (reply, response) = oneshot::channel();
        let id = connection.next_id.fetch_add(1, Ordering::Relaxed);
        let pending = Pending::Lend(reply);
        connection.send_as(id, &Request::Lend { plan }, &[], pending).await.map_err(unavailable)?;
        match response.await.map_err(|_| unavailable(gone()))? {
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
        let plan = plan_of(&spec)?;
        let started = Arc::new(Started {
            id: plan.container.clone(),
            task: spec.task.clone(),
            ended: watch::Sender::new(None),
        });
        let Stdio { stdin, stdout, stderr } = &spec.stdio;
        let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let _permit = self.connection.permits.acquire().await.map_err(|_| unavailable(gone()))?;
        let (reply, response) = oneshot::channel();
        let pending = Pending::Start { started: Arc::clone(&started), reply };
        self.connection.send(&Request::Start { plan }, &fds, pending).await.map_err(unavailable)?;
        match response.await.map_err(|_| unavailable(gone()))? {
            Response::Started {} => Ok(self.handle(started)),
            Response::Failed { failure } => Err(failure.into_start()),
            _ => Err(unavailable(unexpected())),
        }
    }

    /// Finds containers of this supervisor only: in this form it does not outlive the server.
    async fn recover(&self, id: &ContainerId) -> Result<Option<Arc<dyn Handle>>, RecoverError> {
        let started = self.connection.shared.state().containers.get(id.as_str()).cloned();
        Ok(started.map(|started| self.handle(started)))
    }
}

#[async_trait]
impl SandboxHost for SupervisorClient {
    async fn prepare(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        let sandbox = Sandbox { task: spec.task.clone(), limits: spec.limits.clone() };
        if !spec.linux {
            return Ok(sandbox);
        }
        let request = Request::Prepare {
            task: spec.task.to_string(),
            hostname: spec.hostname.clone(),
            limits: spec.limits.clone(),
        };
        let unavailable = |source| SandboxError::Unavailable { source };
        match self.connection.call(&request, &[]).await.map_err(unavailable)? {
            Response::Done {} => Ok(sandbox),
            Response::Failed { failure } => Err(failure.into_sandbox()),
            _ => Err(unavailable(unexpected())),
        }
    }

    async fn release(&self, task: &TaskId) -> Result<(), SandboxError> {
        let request = Request::Release { task: task.to_string() };
        let unavailable = |source| SandboxError::Unavailable { source };
        match self.connection.call(&request, &[]).await.map_err(unavailable)? {
            Response::Done {} => {
                self.connection.shared.state().containers.retain(|_, started| started.task != *task);
                Ok(())
            }
            Response::Failed { failure } => Err(failure.into_sandbox()),
            _ => Err(unavailable(unexpected())),
        }
    }
}

#[async_trait]
impl Handle for ContainerHandle {
    async fn wait(&self) -> Exit {
        let mut ended = self.started.ended.subscribe();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some((exit, _))) => exit.clone(),
            // The sender is in `self`.
            _ => Exit { code: None, oom: false, reason: Some("its end was not told".to_owned()) },
        }
    }

    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        if self.started.ended.borrow().is_some() {
            return Ok(());
        }
        let request = Request::Signal { container: self.started.id.clone(), signal: number_of(signal)? };
        match self.connection.call(&request, &[]).await.map_err(|source| SignalError { source })? {
            Response::Done {} => Ok(()),
            Response::Failed { failure } => Err(failure.into_signal()),
            _ => Err(SignalError { source: unexpected() }),
        }
    }

    async fn stats(&self) -> Result<Stats, StatsError> {
        let at_end = || self.started.ended.borrow().as_ref().map(|(_, stats)| stats.clone());
        if let Some(stats) = at_end() {
            return Ok(stats);
        }
        let request = Request::Stats { container: self.started.id.clone() };
        match self.connection.call(&request, &[]).await.map_err(|source| StatsError { source })? {
            Response::Usage { stats } => Ok(stats),
            // It ended meanwhile; its exit was told before this answer.
            Response::Failed { failure: Failure::NotRunning {} } => Ok(at_end().unwrap_or_default()),
            Response::Failed { failure } => Err(failure.into_stats()),
            _ => Err(StatsError { source: unexpected() }),
        }
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Exit, ExecError> {
        if self.started.ended.borrow().is_some() {
            return Err(ExecError::NotRunning);
        }
        let plan = ExecPlan {
            container: self.started.id.clone(),
            argv: spec.argv,
            env: spec.env,
            timeout_ms: u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX),
            has_stdio: spec.stdio.is_some(),
            user: None,
            attended: false,
            window: None,
        };
        let fds = match &spec.stdio {
            Some(Stdio { stdin, stdout, stderr }) => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            None => Vec::new(),
        };
        let unavailable = |source| ExecError::Start(StartError::Unavailable { source });
        let (reply, response) = oneshot::channel();
        let pending = Pending::Reply(reply);
        self.connection.send(&Request::Exec { plan }, &fds, pending).await.map_err(unavailable)?;
        match response.await.map_err(|_| unavailable(gone()))? {
            response @ Response::Executed { .. } => Ok(session::exit(&response)),
            Response::Failed { failure } => Err(failure.into_exec()),
            _ => Err(unavailable(unexpected())),
        }
    }

    async fn open(&self, spec: SessionSpec) -> Result<Box<dyn Session>, ExecError> {
        if self.started.ended.borrow().is_some() {
            return Err(ExecError::NotRunning);
        }
        session::open(&self.connection, &self.started.id, spec).await
    }
}

/// The number of a signal in requests, where 0 is the kill of all.
fn number_of(signal: Signal) -> Result<i32, SignalError> {
    match signal {
        Signal::Kill | Signal::Stop(libc::SIGKILL) => Ok(0),
        Signal::Stop(signal @ 1..=64) => Ok(signal),
        Signal::Stop(_) => Err(SignalError { source: io::Error::from_raw_os_error(libc::EINVAL) }),
    }
}

/// `setrlimit(2)` numbers by ECS's names.
const ULIMITS: [(&str, u32); 15] = [
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// Size of `/dev/shm` unless a spec says otherwise (Docker's default).
const SHM_BYTES_DEFAULT: u64 = 64 << 20;

/// Permission bits of a tmpfs unless a spec says otherwise (Docker's default).
const TMPFS_MODE_DEFAULT: u32 = 0o1777;

fn source_of(source: &MountSource) -> SourcePlan {
    match source {
        MountSource::Host(path) => SourcePlan::Host { path: path.as_os_str().as_bytes().to_vec() },
        MountSource::Tmpfs { size_bytes, options } => SourcePlan::Tmpfs {
            tmpfs: TmpfsPlan {
                size_bytes: *size_bytes,
                exec: options.exec,
                mode: options.mode.unwrap_or(TMPFS_MODE_DEFAULT),
                uid: options.uid,
                gid: options.gid,
                inodes_max: options.inodes_max,
            },
        },
    }
}

/// Number, soft and hard limit.
fn ulimit_of(limit: &Ulimit) -> Result<(u32, (u64, u64)), StartError> {
    let refuse = |why: &str| {
        Err(StartError::Unsupported { what: format!("ulimit {:?}", limit.name), why: why.to_owned() })
    };
    match ULIMITS.iter().find(|(name, _)| *name == limit.name) {
        Some(_) if limit.soft > limit.hard => refuse("its soft limit is above its hard limit"),
        // Real-time processes are not bounded by the CPU limit of a cgroup (sched(7)).
        Some((_, libc::RLIMIT_RTPRIO)) if limit.hard > 0 => {
            refuse("a task has no real-time priority, which would get around CPU limits")
        }
        Some((_, number)) => Ok((*number, (limit.soft, limit.hard))),
        None => refuse("there is no limit of that name"),
    }
}

/// Checks a spec and turns it into what the supervisor is told.
fn plan_of(spec: &ContainerSpec) -> Result<StartPlan, StartError> {
    let unsupported = |what: String, why: &str| StartError::Unsupported { what, why: why.to_owned() };
    let Rootfs::Layers(layers) = &spec.rootfs else {
        return Err(unsupported("a Wasm image".to_owned(), "this driver runs Linux containers"));
    };
    let ulimits: Result<Vec<_>, StartError> = spec.ulimits.iter().map(ulimit_of).collect();
    let mounts: Result<Vec<_>, StartError> = spec
        .mounts
        .iter()
        .map(|mount| {
            if !mount.target.is_absolute() {
                let what = format!("a mount at {}", mount.target.display());
                return Err(unsupported(what, "its path in the container must be absolute"));
            }
            let target = mount.target.as_os_str().as_bytes().to_vec();
            Ok(MountPlan { source: source_of(&mount.source), target, read_only: mount.read_only })
        })
        .collect();
    Ok(StartPlan {
        container: spec.id.to_string(),
        task: spec.task.to_string(),
        layers: layers.iter().map(|layer| layer.as_os_str().as_bytes().to_vec()).collect(),
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        working_dir: spec.working_dir.as_os_str().as_bytes().to_vec(),
        user: spec.user.clone(),
        limits: spec.limits.clone(),
        ulimits: ulimits?,
        read_only_root: spec.read_only_root,
        mounts: mounts?,
        shm_bytes: spec.shm_bytes.unwrap_or(SHM_BYTES_DEFAULT),
        capabilities: capabilities::resolve(&spec.capabilities_add, &spec.capabilities_drop)?,
        init: spec.init,
        scratch: spec.scratch.as_os_str().as_bytes().to_vec(),
    })
}
