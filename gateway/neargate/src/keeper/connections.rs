//! The sockets to the process that keeps files, which is started when it is needed and again when it was killed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use neargate_driver::{
    Process, ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser,
};
use neargate_ipc::channel;
use neargate_ipc::wire::{Wire, decode, encode};

use super::protocol::{Request, Response};

/// Requests that are under way at once, each with a thread of the process: so many that a tree which takes long to
/// remove or to measure holds up nobody.
const CONNECTIONS: usize = 8;
/// The most memory of the process: what it keeps of a tree is a path's depth.
const MEMORY_BYTES: u64 = 256 << 20;
/// How often something is asked for: once more after the process was killed.
const ATTEMPTS: usize = 2;

pub(super) struct Connections {
    processes: Arc<dyn ProcessHost>,
    mounts: Vec<ProcessMount>,
    state: Mutex<State>,
    /// A socket was given back, or there are others.
    freed: Condvar,
}

#[derive(Default)]
struct State {
    /// The process, held because it belongs to nobody else.
    process: Option<Arc<dyn Process>>,
    /// Counts the processes, so that no socket of a dead one is given back.
    life: u64,
    idle: Vec<OwnedFd>,
}

impl Connections {
    pub(super) fn new(processes: Arc<dyn ProcessHost>, mounts: Vec<ProcessMount>) -> Self {
        Self { processes, mounts, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Asks, and waits for the answer.
    pub(super) fn call(&self, request: &Request) -> io::Result<Response> {
        let request = encode(request);
        for _ in 0..ATTEMPTS {
            let (life, socket) = self.take()?;
            match exchange(&socket, &request)? {
                Some(response) => {
                    self.give_back(life, socket);
                    return Ok(response);
                }
                None => self.forget(life),
            }
        }
        Err(io::Error::new(io::ErrorKind::BrokenPipe, "the keeper of files ends again and again"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> io::Result<(u64, OwnedFd)> {
        let mut state = self.state();
        loop {
            if state.process.is_none() {
                self.start(&mut state)?;
            }
            match state.idle.pop() {
                Some(socket) => return Ok((state.life, socket)),
                None => state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn give_back(&self, life: u64, socket: OwnedFd) {
        let mut state = self.state();
        if state.life == life {
            state.idle.push(socket);
            self.freed.notify_one();
        }
    }

    /// Forgets a process that has ended.
    fn forget(&self, life: u64) {
        let mut state = self.state();
        if state.life == life {
            tracing::warn!("the process that keeps files has ended; another one is started");
            let next = life + 1;
            *state = State { life: next, ..State::default() };
            self.freed.notify_all();
        }
    }

    fn start(&self, state: &mut State) -> io::Result<()> {
        let pairs = (0..CONNECTIONS).map(|_| channel::pair()).collect::<io::Result<Vec<_>>>()?;
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let spec = ProcessSpec {
            role: ProcessRole::FileKeeper,
            name: "file-keeper".to_owned(),
            input: Vec::new(),
            fds: theirs,
            mounts: self.mounts.clone(),
            user: ProcessUser::Root,
            network: ProcessNetwork::None,
            memory_bytes: Some(MEMORY_BYTES),
            address_space_bytes: None,
            cpu_seconds: None,
            core: None,
        };
        let process = blocking(self.processes.spawn(spec))?.map_err(io::Error::other)?;
        (state.process, state.idle) = (Some(process), ours);
        self.freed.notify_all();
        Ok(())
    }
}

/// Sends a request and receives the answer; none when the other end is gone.
fn exchange(socket: &OwnedFd, request: &[u8]) -> io::Result<Option<Response>> {
    match channel::send(socket.as_fd(), 0, request, &[], true) {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            return Ok(None);
        }
        sent => sent?,
    }
    receive(socket)
}

/// Waits for a message; none when the other end is gone.
pub(super) fn receive<T: Wire>(socket: &OwnedFd) -> io::Result<Option<T>> {
    let frame = channel::receive(socket.as_fd(), &mut Vec::new(), true)?;
    frame.map(|frame| decode(&frame.message).map_err(io::Error::other)).transpose()
}

/// Waits for what needs no runtime of its own, from wherever the caller may be: on a thread of a runtime, which must not
/// be entered twice, or on one of none.
pub(super) fn blocking<T: Send>(future: impl Future<Output = T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let wait = || Ok(tokio::runtime::Builder::new_current_thread().build()?.block_on(future));
        let thread = std::thread::Builder::new().spawn_scoped(scope, wait)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
