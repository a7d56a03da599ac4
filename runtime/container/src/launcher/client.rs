//! The program's side: the process host over the launcher's socket.
//!
//! As with the supervisor, requests are sent by whoever makes them and one plain thread receives: it belongs to
//! no runtime, so the client may be made before there is one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use async_trait::async_trait;
use neargate_driver::{Process, ProcessError, ProcessExit, ProcessHost, ProcessSpec};
use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};
use tokio::sync::{Semaphore, oneshot, watch};

use super::protocol::{PlacePlan, ProcessPlan, Request, Response};
use crate::failure::Failure;
use crate::peer;
use crate::sys;

/// Requests that may be sent and not answered yet; more wait.
const REQUESTS_MAX: usize = 256;
/// How a process ended whose launcher was killed: so was it.
const KILLED: ProcessExit = ProcessExit { code: 128 + libc::SIGKILL, oom: false };

/// The process host. Clones share one launcher, which ends, with all its processes, when the last of them
/// and of the processes is dropped.
#[derive(Clone, Debug)]
pub struct LauncherClient {
    connection: Arc<Connection>,
}

/// Which fences the processes of a launcher have.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fences {
    /// Why they have no namespaces and so no mounts; `None` when they have.
    pub namespaces: Option<io::Error>,
    /// Why they have no cgroup and so no memory limit; `None` when they have.
    pub cgroup: Option<io::Error>,
    /// Version of Landlock (landlock(7)); 0 for none.
    pub landlock_abi: u32,
}

#[derive(Debug)]
struct Connection {
    receiver: Once,
    permits: Semaphore,
    next_id: AtomicU64,
    shared: Arc<Shared>,
}

/// What the receiving thread holds, too.
#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    pid: i32,
    state: Mutex<State>,
    /// Becomes true when the launcher has ended and was reaped.
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    pending: HashMap<u64, Pending>,
    processes: HashMap<u64, watch::Sender<Option<ProcessExit>>>,
}

#[derive(Debug)]
enum Pending {
    Reply(oneshot::Sender<Response>),
    /// Entered among the processes before anyone hears of it, so that no exit is missed.
    Spawn(watch::Sender<Option<ProcessExit>>, oneshot::Sender<Response>),
}

/// A started process.
struct Launched {
    connection: Arc<Connection>,
    number: u64,
    pid: u32,
    exit: watch::Receiver<Option<ProcessExit>>,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the launcher has ended")
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the launcher answered something else than it was asked")
}

fn unavailable(source: io::Error) -> ProcessError {
    ProcessError::Unavailable { source }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Ends the receiving thread, which holds the socket as well, and tells the launcher.
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
                Ok(response) => self.dispatch(frame.id, response),
                Err(error) => {
                    tracing::error!(%error, "launcher sent what cannot be read; give it up");
                    break;
                }
            }
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        // Ends when its processes are gone.
        if let Err(error) = sys::wait_pid(self.pid) {
            tracing::warn!(%error, "wait for launcher");
        }
        let mut state = self.state();
        state.closed = true;
        state.pending.clear();
        for (_, exit) in state.processes.drain() {
            exit.send_replace(Some(KILLED));
        }
        drop(state);
        self.ended.send_replace(true);
    }

    fn dispatch(&self, id: u64, response: Response) {
        let mut state = self.state();
        if let Response::Exited { process, code, oom } = response {
            if let Some(exit) = state.processes.remove(&process) {
                exit.send_replace(Some(ProcessExit { code, oom }));
            }
            return;
        }
        match state.pending.remove(&id) {
            // Whoever asked may have gone away.
            Some(Pending::Reply(reply)) => drop(reply.send(response)),
            Some(Pending::Spawn(exit, reply)) => {
                let spawned = matches!(response, Response::Spawned { .. });
                if spawned {
                    state.processes.insert(id, exit);
                }
                drop(state);
                // A process that nobody waits for any more belongs to nobody.
                if reply.send(response).is_err() && spawned {
                    self.kill(id);
                }
            }
            None => {}
        }
    }

    /// Asks for a process to be killed. Fails only when the launcher is gone, and the process with it.
    fn kill(&self, process: u64) {
        let request = encode(&Request::Kill { process });
        let _ = channel::send(self.socket.as_fd(), 0, &request, &[], true);
    }
}

impl Connection {
    /// Starts the receiving thread at the first request: forking the launcher must not leave a thread behind.
    fn start_receiver(&self) {
        self.receiver.call_once(|| {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("launcher-client".to_owned());
            if let Err(error) = thread.spawn(move || shared.receive_all()) {
                tracing::error!(%error, "start thread that hears the launcher");
                self.shared.state().closed = true;
            }
        });
    }

    async fn send(
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

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

impl LauncherClient {
    pub(super) fn new(socket: OwnedFd, pid: i32) -> Self {
        let shared = Shared { socket, pid, state: Mutex::default(), ended: watch::Sender::new(false) };
        Self {
            connection: Arc::new(Connection {
                receiver: Once::new(),
                permits: Semaphore::new(REQUESTS_MAX),
                next_id: AtomicU64::new(1),
                shared: Arc::new(shared),
            }),
        }
    }

    /// Which fences the kernel and the user's rights allow. No capabilities, `no_new_privs`, seccomp and
    /// resource limits are always there.
    pub async fn fences(&self) -> io::Result<Fences> {
        let (reply, response) = oneshot::channel();
        let connection = &self.connection;
        connection.send(connection.next_id(), &Request::Fences {}, &[], Pending::Reply(reply)).await?;
        match response.await.map_err(|_| gone())? {
            Response::Fences { namespaces, cgroup, landlock_abi } => {
                let explain = |failure: Failure| io::Error::other(failure.into_process());
                let (namespaces, cgroup) = (namespaces.map(explain), cgroup.map(explain));
                Ok(Fences { namespaces, cgroup, landlock_abi })
            }
            _ => Err(unexpected()),
        }
    }

    /// Ends the launcher with all its processes and waits until it is gone. Idempotent.
    pub async fn shut_down(&self) {
        self.connection.start_receiver();
        let _ = rustix::net::shutdown(&self.connection.shared.socket, rustix::net::Shutdown::Both);
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.connection.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// The launcher's process id.
    pub fn id(&self) -> u32 {
        self.connection.shared.pid.unsigned_abs()
    }
}

#[async_trait]
impl ProcessHost for LauncherClient {
    async fn spawn(&self, spec: ProcessSpec) -> Result<Arc<dyn Process>, ProcessError> {
        self.spawn_at(spec, None).await
    }
}

/// Where a process is put that belongs to a sandbox.
#[derive(Debug)]
pub(crate) struct Place {
    /// Whether the second descriptor is a v2 cgroup directory.
    pub(crate) unified: bool,
    /// A network namespace, the directory, and v1 `tasks` files.
    pub(crate) fds: Vec<OwnedFd>,
}

impl LauncherClient {
    /// Starts a process, in a sandbox or by itself.
    pub(crate) async fn spawn_at(
        &self,
        spec: ProcessSpec,
        place: Option<Place>,
    ) -> Result<Arc<dyn Process>, ProcessError> {
        let connection = &self.connection;
        let _permit = connection.permits.acquire().await.map_err(|_| unavailable(gone()))?;
        let mut plan = ProcessPlan::of(&spec);
        let mut fds: Vec<BorrowedFd<'_>> = spec.fds.iter().map(AsFd::as_fd).collect();
        if let Some(place) = &place {
            let tasks = place.fds.len().saturating_sub(1 + usize::from(place.unified));
            let tasks = u32::try_from(tasks).unwrap_or(u32::MAX);
            plan.place = Some(PlacePlan { unified: place.unified, tasks });
            fds.extend(place.fds.iter().map(AsFd::as_fd));
        }
        if fds.len() > channel::FDS_MAX {
            let step = format!("pass {} descriptors, {} at most", fds.len(), channel::FDS_MAX);
            return Err(ProcessError::System { step, source: io::ErrorKind::InvalidInput.into() });
        }
        let number = connection.next_id();
        let (reply, response) = oneshot::channel();
        let ended = watch::Sender::new(None);
        let exit = ended.subscribe();
        let pending = Pending::Spawn(ended, reply);
        connection.send(number, &Request::Spawn { plan }, &fds, pending).await.map_err(unavailable)?;
        match response.await.map_err(|_| unavailable(gone()))? {
            Response::Spawned { pid } => {
                Ok(Arc::new(Launched { connection: Arc::clone(connection), number, pid, exit }))
            }
            Response::Failed { failure } => Err(failure.into_process()),
            _ => Err(unavailable(unexpected())),
        }
    }
}

#[async_trait]
impl Process for Launched {
    async fn wait(&self) -> ProcessExit {
        let mut exit = self.exit.clone();
        // The sender is dropped only after it has sent.
        exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit).unwrap_or(KILLED)
    }

    fn kill(&self) {
        if self.exit.borrow().is_none() {
            self.connection.shared.kill(self.number);
        }
    }

    fn id(&self) -> u32 {
        self.pid
    }
}
