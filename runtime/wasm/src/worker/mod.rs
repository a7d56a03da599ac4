//! One worker process, seen from the server.
//!
//! ```text
//!  start ──> [Worker: images, runs] ── messages ──> socket ──> process
//!                  ↑ settled by
//!               owner: the one task that receives, notices the end, and ends what must end
//! ```
//!
//! Whoever starts a run sends its messages itself, without a hop; answers come through the owner. A worker has one
//! life: when it is lost, all its runs end with the reason, and the pool starts another.

mod artifacts;
mod owner;
mod run;
mod spawn;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use neargate_driver::{ProcessExit, StartError, TaskSockets, ThreadSlot};
use neargate_ipc::channel;
use neargate_ipc::wire::encode;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::code::Code;
use crate::config::Deadlines;
use crate::pool::Seat;
use crate::protocol::{Cause, RunPlan, StartFailure, Stop, ToWorker};

pub(crate) use owner::{Retire, own};
pub(crate) use run::{Ended, Run};
pub(crate) use spawn::{Fences, Hosts, SpawnFailure, spawn};

/// What sending to a worker that has ended gives.
const GONE: i32 = rustix::io::Errno::PIPE.raw_os_error();

/// A worker that has said that it is ready.
pub(crate) struct Worker {
    name: String,
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
    /// Says why the worker must end, to its owner.
    condemned: watch::Sender<Option<String>>,
    deadlines: Deadlines,
    images_max: usize,
}

#[derive(Default)]
struct State {
    /// Why it is no more.
    lost: Option<Arc<Loss>>,
    next_run: u64,
    next_image: u32,
    uses: u64,
    runs: HashMap<u64, Entry>,
    images: HashMap<String, Image>,
}

/// A run that the worker has not ended yet.
struct Entry {
    run: Arc<Run>,
    started: Option<oneshot::Sender<Result<(), StartFailure>>>,
    artifacts: Option<PathBuf>,
    /// What it left before its end, which is told when that is kept.
    left: Option<oneshot::Receiver<()>>,
    may: Permissions,
    /// What must stay while it runs.
    held: Held,
}

/// What a run holds: its place in the pool, its code, and its thread's place in a cgroup.
type Held = (Seat, Arc<Code>, Option<Arc<ThreadSlot>>);

/// What a run may ask the server for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Permissions {
    pub(crate) reach: Reach,
    pub(crate) key_values: bool,
}

/// Whose names and sockets a run may ask for.
#[derive(Clone, Debug, Default)]
pub(crate) enum Reach {
    #[default]
    Nothing,
    /// The host's names; sockets its worker makes itself.
    Host,
    /// Names as its task is told them, and sockets in the network of that.
    Own(Arc<dyn TaskSockets>),
}

struct Image {
    id: u32,
    used: u64,
    /// Starts that count on it.
    pins: u32,
    loaded: watch::Sender<Option<Result<(), String>>>,
}

/// Why a worker is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// How its process ended; 137 where that is not known.
    pub(crate) code: i32,
    pub(crate) oom: bool,
    pub(crate) why: String,
    /// Whether it was meant to end.
    pub(crate) intended: bool,
}

impl Loss {
    /// The end of a run that was in it.
    fn as_end(&self) -> Ended {
        let reason = match self.intended {
            true => format!("the Wasm worker of this task was ended: {}", self.why),
            false => format!("the Wasm worker of this task ended unexpectedly: {}", self.why),
        };
        let cause = if self.oom { Cause::OutOfMemory {} } else { Cause::Stopped {} };
        Ended { code: Some(self.code), cause, reason: Some(reason), is_loss: true }
    }
}

/// Why a run did not start in a worker.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The worker is no more, and the run was never seen by it: it may be started in another.
    Lost(Arc<Loss>),
    /// It cannot be started.
    Start(StartError),
}

impl RunError {
    pub(crate) fn into_start_error(self) -> StartError {
        match self {
            Self::Start(error) => error,
            Self::Lost(loss) => {
                let why = loss.as_end().reason.unwrap_or_default();
                system("start the program in its Wasm worker", io::Error::other(why))
            }
        }
    }
}

/// What a run is started with.
pub(crate) struct Order {
    pub(crate) plan: RunPlan,
    /// Streams and listening sockets.
    pub(crate) fds: Vec<OwnedFd>,
    /// For a run with a thread of its own: the cgroups that this joins.
    pub(crate) slot: Option<Arc<ThreadSlot>>,
    pub(crate) code: Arc<Code>,
    pub(crate) artifacts: Option<PathBuf>,
    pub(crate) may: Permissions,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker behind a socket; it has said that it is ready. Needs a runtime.
    pub(crate) fn new(
        name: String,
        socket: OwnedFd,
        deadlines: Deadlines,
        images_max: u32,
    ) -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "its replacement is unsafe for types that lie about their descriptor; this one owns it"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self {
            name,
            socket,
            state: Mutex::default(),
            condemned: watch::Sender::new(None),
            deadlines,
            images_max: images_max.max(1) as usize,
        })
    }

    /// Whether an image is loaded, so that a run of it starts at once.
    pub(crate) fn has_image(&self, digest: &str) -> bool {
        self.lock().images.get(digest).is_some_and(|image| matches!(&*image.loaded.borrow(), Some(Ok(()))))
    }

    /// Starts a run and returns once its program runs. Cancelling the future kills what was started.
    pub(crate) async fn start(self: &Arc<Self>, order: &Order, seat: Seat) -> Result<Arc<Run>, RunError> {
        let pin = self.load(&order.code).await?;
        let (sender, started) = oneshot::channel();
        let run = self.register(order, sender, seat)?;
        // From here on the worker may know the run.
        let guard = KillOnDrop::new(run.clone());
        let message =
            ToWorker::Start { run: run.id(), plan: RunPlan { image: pin.id, ..order.plan.clone() } };
        let cgroups = order.slot.iter().flat_map(|slot| &slot.tasks);
        let fds: Vec<BorrowedFd<'_>> = order.fds.iter().chain(cgroups).map(AsFd::as_fd).collect();
        if let Err(source) = self.send(&message, &fds).await {
            return Err(self.not_sent(&run, source));
        }
        drop(pin);
        match timeout(self.deadlines.start, started).await {
            Ok(Ok(Ok(()))) => {
                guard.defuse();
                Ok(run)
            }
            Ok(Ok(Err(failure))) => {
                guard.defuse();
                Err(RunError::Start(failed(failure)))
            }
            // The run is gone without an answer: the worker is.
            Ok(Err(_)) => {
                guard.defuse();
                Err(RunError::Start(system("start the program in its Wasm worker", self.loss_error())))
            }
            Err(_) => Err(RunError::Start(system(
                "start the program in its Wasm worker",
                io::ErrorKind::TimedOut.into(),
            ))),
        }
    }

    fn register(
        self: &Arc<Self>,
        order: &Order,
        started: oneshot::Sender<Result<(), StartFailure>>,
        seat: Seat,
    ) -> Result<Arc<Run>, RunError> {
        let mut state = self.lock();
        if let Some(lost) = &state.lost {
            let lost = lost.clone();
            drop(state);
            // The seat locks the pool, which is locked before workers; so it goes only now.
            drop(seat);
            return Err(RunError::Lost(lost));
        }
        state.next_run += 1;
        let run = Arc::new(Run::new(state.next_run, self.clone(), seat.at()));
        let entry = Entry {
            run: run.clone(),
            started: Some(started),
            artifacts: order.artifacts.clone(),
            left: None,
            may: order.may.clone(),
            held: (seat, order.code.clone(), order.slot.clone()),
        };
        state.runs.insert(run.id(), entry);
        Ok(run)
    }

    /// The message did not arrive, so that the worker knows nothing of the run.
    fn not_sent(&self, run: &Run, source: io::Error) -> RunError {
        let entry = self.lock().runs.remove(&run.id());
        drop(entry);
        run.end(Ended::unknown());
        match source.raw_os_error() {
            Some(errno) if errno == GONE => RunError::Lost(self.current_loss()),
            _ => RunError::Start(system("send the program to its Wasm worker", source)),
        }
    }

    fn current_loss(&self) -> Arc<Loss> {
        self.lock().lost.clone().unwrap_or_else(|| Arc::new(Loss::unexpected("it closed its socket")))
    }

    fn loss_error(&self) -> io::Error {
        io::Error::other(self.current_loss().as_end().reason.unwrap_or_default())
    }

    /// Makes sure that an image is loaded, and keeps it so until the pin is dropped.
    async fn load(self: &Arc<Self>, code: &Arc<Code>) -> Result<Pin, RunError> {
        let (pin, messages) = self.pin(code)?;
        let mut loaded = pin.loaded.clone();
        for (message, needs_code) in messages {
            let sent = match needs_code {
                true => match code.open() {
                    Ok(file) => self.send(&message, &[file.as_fd()]).await,
                    Err(error) => Err(error),
                },
                false => self.send(&message, &[]).await,
            };
            if let Err(source) = sent {
                self.forget_image(&code.digest, pin.id, "it could not be sent");
                let is_gone = source.raw_os_error() == Some(GONE);
                return Err(match is_gone {
                    true => RunError::Lost(self.current_loss()),
                    false => RunError::Start(system("send code to a Wasm worker", source)),
                });
            }
        }
        let answer = match timeout(self.deadlines.load, loaded.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) => return Err(RunError::Lost(self.current_loss())),
            Err(_) => None,
        };
        match answer {
            Some(Ok(())) => Ok(pin),
            Some(Err(why)) => Err(RunError::Start(StartError::InvalidImage { why })),
            None => {
                self.forget_image(&code.digest, pin.id, "its worker took too long");
                self.condemn("it did not load code in time");
                let source = io::ErrorKind::TimedOut.into();
                Err(RunError::Start(system("load code in a Wasm worker", source)))
            }
        }
    }

    /// The image's place in the table, and what must be sent for it, with whether that takes the code's file.
    fn pin(self: &Arc<Self>, code: &Code) -> Result<(Pin, Vec<(ToWorker, bool)>), RunError> {
        let mut state = self.lock();
        if let Some(lost) = &state.lost {
            return Err(RunError::Lost(lost.clone()));
        }
        state.uses += 1;
        let used = state.uses;
        let mut messages = Vec::new();
        if !state.images.contains_key(&code.digest) {
            if state.images.len() >= self.images_max {
                messages.push((ToWorker::Unload { image: state.make_room()? }, false));
            }
            state.next_image += 1;
            let id = state.next_image;
            let image = Image { id, used, pins: 0, loaded: watch::Sender::new(None) };
            state.images.insert(code.digest.clone(), image);
            messages.push((ToWorker::Load { image: id, code: code.info() }, true));
        }
        let image = state.images.get_mut(&code.digest).expect("the image was put there if it was not");
        image.used = used;
        image.pins += 1;
        let pin = Pin {
            worker: self.clone(),
            digest: code.digest.clone(),
            id: image.id,
            loaded: image.loaded.subscribe(),
        };
        Ok((pin, messages))
    }

    fn forget_image(&self, digest: &str, id: u32, why: &str) {
        let mut state = self.lock();
        if state.images.get(digest).is_some_and(|image| image.id == id)
            && let Some(image) = state.images.remove(digest)
        {
            image.loaded.send_replace(Some(Err(format!("the code was not loaded: {why}"))));
        }
    }

    /// Ends a run. What does not end it in time costs the worker its life.
    pub(crate) async fn stop(&self, run: &Run, stop: Stop) -> io::Result<()> {
        let is_kill = matches!(stop, Stop::Kill { .. });
        match self.send(&ToWorker::Stop { run: run.id(), stop }, &[]).await {
            // Its runs have ended or are about to.
            Err(error) if error.raw_os_error() == Some(GONE) => return Ok(()),
            sent => sent?,
        }
        if is_kill && timeout(self.deadlines.kill, run.wait()).await.is_err() {
            self.condemn("it did not end a run that was killed");
        }
        Ok(())
    }

    /// Asks for a run's usage.
    pub(crate) async fn ask_usage(&self, run: u64) -> io::Result<()> {
        self.send(&ToWorker::Stats { run }, &[]).await
    }

    /// Tells the owner to end the worker.
    pub(crate) fn condemn(&self, why: &str) {
        self.condemned.send_if_modified(|condemned| {
            let first = condemned.is_none();
            condemned.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    async fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(message);
        let sending = self
            .socket
            .async_io(Interest::WRITABLE, |socket| channel::send(socket.as_fd(), 0, &bytes, fds, false));
        match timeout(self.deadlines.send, sending).await {
            Ok(sent) => sent,
            Err(_) => {
                self.condemn("it does not read what it is sent");
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes out the loaded image that was used longest ago and on which no start counts.
    fn make_room(&mut self) -> Result<u32, RunError> {
        let is_free = |image: &&Image| image.pins == 0 && image.loaded.borrow().is_some();
        let oldest =
            self.images.values().filter(is_free).min_by_key(|image| image.used).map(|image| image.id);
        let Some(id) = oldest else {
            let source = io::Error::new(io::ErrorKind::QuotaExceeded, "all places are being used");
            return Err(RunError::Start(system("take a place for code in a Wasm worker", source)));
        };
        self.images.retain(|_, image| image.id != id);
        Ok(id)
    }
}

/// Keeps an image loaded.
struct Pin {
    worker: Arc<Worker>,
    digest: String,
    id: u32,
    loaded: watch::Receiver<Option<Result<(), String>>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(image) = self.worker.lock().images.get_mut(&self.digest)
            && image.id == self.id
        {
            image.pins -= 1;
        }
    }
}

/// Kills a run for which nobody waits any more.
pub(crate) struct KillOnDrop {
    run: Option<Arc<Run>>,
}

impl KillOnDrop {
    pub(crate) fn new(run: Arc<Run>) -> Self {
        Self { run: Some(run) }
    }

    pub(crate) fn defuse(mut self) {
        self.run = None;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            run.kill_in_background();
        }
    }
}

impl Loss {
    pub(crate) fn unexpected(why: &str) -> Self {
        Self { code: 137, oom: false, why: why.to_owned(), intended: false }
    }

    fn of_exit(exit: ProcessExit) -> Self {
        let why = match exit.oom {
            true => "it went over its memory limit".to_owned(),
            false => describe_code(exit.code),
        };
        let code = if exit.code > 128 { exit.code } else { 137 };
        Self { code, oom: exit.oom, why, intended: false }
    }
}

/// An exit code in words.
pub(crate) fn describe_code(code: i32) -> String {
    match code {
        129.. => format!("signal {}", code - 128),
        _ => format!("exit code {code}"),
    }
}

fn system(step: &str, source: io::Error) -> StartError {
    StartError::System { step: step.to_owned(), source }
}

fn failed(failure: StartFailure) -> StartError {
    match failure {
        StartFailure::NoEntry { why } | StartFailure::Import { why } => StartError::InvalidImage { why },
        StartFailure::Preopen { name, errno } => {
            system(&format!("open directory {name} in the Wasm worker"), io::Error::from_raw_os_error(errno))
        }
        StartFailure::Full {} => system(
            "take a place for a Wasm container",
            io::Error::new(io::ErrorKind::QuotaExceeded, "all are taken"),
        ),
        StartFailure::System { step, errno } => system(&step, io::Error::from_raw_os_error(errno)),
    }
}
