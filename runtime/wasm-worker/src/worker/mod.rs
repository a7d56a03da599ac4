//! The worker role: a process that runs compiled Wasm, and nothing else.
//!
//! ```text
//!  control   the socket to the server, in and out
//!    │ messages
//!  runs      the images and runs of the worker; each run is one task of the runtime
//!    │ starts
//!  run       one run from its plan to its exit: a store, its entry, what it left
//!  thread    the same on a thread of its own
//!  turns     which guest goes first             stop     how a run is asked to end
//!  exit      how an end is told                 remains  core dumps and profiles
//!  trace     where a trap happened
//! ```
//!
//! One thread runs all guests, as tasks of a tokio runtime without other threads: two threads of one process
//! instantiate slower than one, because they share the memory map. A second thread sleeps, and interrupts
//! guests that compute. Files are opened and read on a few threads that come and go.
//!
//! A worker ends when the server closes the control socket or says what is no message. When its own code panics for
//! a run, it tells the end of that run and then ends, as what it holds may be broken; the server reports its other
//! runs as lost and starts another worker.

mod control;
mod exit;
mod images;
mod outgoing;
mod remains;
mod run;
mod runs;
mod stop;
mod thread;
mod trace;
pub(crate) mod turns;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use neargate_ipc::wire;
use neargate_wasm::protocol::{FromWorker, VERSION, WorkerSetup};
use tokio::sync::mpsc;

pub(crate) use exit::reason;
pub(crate) use images::Image;
pub(crate) use outgoing::Outgoing;
pub(crate) use remains::core_dump;
pub(crate) use stop::Stopping;
pub(crate) use turns::Turns;

use control::{Control, ControlError};
use runs::Runs;

/// Messages to the server that may wait; who has more to say waits as well.
const OUTGOING_MAX: usize = 256;
/// Threads that open and read files, at most. A file that blocks (a pipe in a volume) holds one.
const FILE_THREADS_MAX: usize = 8;
/// How long such a thread waits for more work.
const FILE_THREAD_IDLE: Duration = Duration::from_secs(2);

/// Why a worker ended other than by the server's wish.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("read the set-up")]
    Setup(#[from] wire::Malformed),
    #[error("the server speaks version {0} of the protocol, not {VERSION}")]
    Version(u32),
    #[error("a worker takes one descriptor, its control socket")]
    Descriptors,
    #[error(transparent)]
    Engine(#[from] crate::engine::SetupError),
    #[error("answer own system calls")]
    Signals(#[source] std::io::Error),
    #[error("make the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// The role function of a worker process.
///
/// `input` is an encoded [`WorkerSetup`]; `fds` is the worker's end of the control socket alone. Returns the exit
/// code of the process when the server has closed the socket (0) or something went wrong (1).
pub fn worker_main(input: &[u8], fds: Vec<OwnedFd>) -> i32 {
    match work(input, fds) {
        Ok(()) => 0,
        Err(error) => {
            // Nobody may be there to read it; the exit code says the rest.
            tracing::error!(error = &error as &dyn std::error::Error, "worker ended");
            1
        }
    }
}

fn work(input: &[u8], fds: Vec<OwnedFd>) -> Result<(), WorkerError> {
    let setup: WorkerSetup = wire::decode(input)?;
    if setup.version != VERSION {
        return Err(WorkerError::Version(setup.version));
    }
    let [control] = <[OwnedFd; 1]>::try_from(fds).map_err(|_| WorkerError::Descriptors)?;
    crate::net::answer_own_calls().map_err(WorkerError::Signals)?;
    let engines = crate::engine::Engines::new(&setup)?;
    let runtime = runtime().map_err(WorkerError::Runtime)?;
    let ended = runtime.block_on(async {
        let control = Arc::new(Control::new(control)?);
        let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
        let ticker = Arc::clone(engines.ticker());
        let runs = Runs::new(&setup, engines, outgoing.clone());
        let turns = runs.turns().clone();
        ticker.watch(&control.fd());
        // The first place of an empty queue is free.
        let _ = outgoing.try_send(FromWorker::Ready { version: VERSION }.into());
        // Tasks of their own rather than branches of this future: waking this one costs a system call.
        let mut tasks = tokio::task::JoinSet::new();
        let sender = Arc::clone(&control);
        tasks.spawn(async move { sender.send_all(queue).await });
        tasks.spawn(async move { control.receive_all(runs).await });
        tasks.spawn(async move { turns.give().await });
        match tasks.join_next().await {
            Some(Ok(ended)) => ended,
            _ => Err(ControlError::Panicked),
        }
    });
    // What still runs is dropped where it is; a thread that is stuck in a file does not hold the worker up.
    runtime.shutdown_background();
    Ok(ended?)
}

/// A runtime for guests on the calling thread.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(FILE_THREADS_MAX)
        .thread_keep_alive(FILE_THREAD_IDLE)
        .build()
}
