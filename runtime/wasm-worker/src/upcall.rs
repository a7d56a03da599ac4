//! What the worker asks of the server: names, sockets, and `wasi:keyvalue`. And what it hands over while a run goes on.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use neargate_wasm::protocol::{Attachment, FromWorker, HostReply, HostRequest};
use tokio::sync::{mpsc, oneshot};

use crate::worker::Outgoing;

/// How long an answer is waited for. The server looks up names and reads a database; both take milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Questions of all runs together that wait for an answer at a time.
const OPEN_MAX: usize = 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpcallError {
    /// The worker ends.
    #[error("the server is gone")]
    Gone,
    /// The server takes too long.
    #[error("the server did not answer within {} s", ANSWER_MAX.as_secs())]
    Late,
    /// Guests ask too much.
    #[error("{OPEN_MAX} questions to the server are open already")]
    TooMany,
}

/// Asks the server on behalf of one run.
#[derive(Clone)]
pub(crate) struct Upcalls {
    run: u64,
    outgoing: mpsc::Sender<Outgoing>,
    open: Arc<Open>,
}

/// What the server answers, and the socket that may be part of it.
type Answer = (HostReply, Option<OwnedFd>);

/// The questions that have no answer yet, of all runs.
#[derive(Default)]
pub(crate) struct Open {
    next: AtomicU64,
    calls: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Open {
    /// Passes on an answer. One that nobody waits for any more is dropped.
    pub(crate) fn answer(&self, call: u64, reply: HostReply, socket: Option<OwnedFd>) {
        let asked = self.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&call);
        if let Some(asked) = asked {
            let _ = asked.send((reply, socket));
        }
    }
}

impl Upcalls {
    pub(crate) fn new(run: u64, outgoing: mpsc::Sender<Outgoing>, open: Arc<Open>) -> Self {
        Self { run, outgoing, open }
    }

    /// Asks, and waits for the answer. Dropping the future forgets the question.
    pub(crate) async fn ask(&self, request: HostRequest) -> Result<HostReply, UpcallError> {
        self.ask_for_socket(request).await.map(|(reply, _)| reply)
    }

    /// Asks for something that is answered with a socket if all goes well.
    pub(crate) async fn ask_for_socket(&self, request: HostRequest) -> Result<Answer, UpcallError> {
        let (answer, answered) = oneshot::channel();
        let call = self.open.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut calls = self.open.calls.lock().unwrap_or_else(PoisonError::into_inner);
            if calls.len() >= OPEN_MAX {
                return Err(UpcallError::TooMany);
            }
            calls.insert(call, answer);
        }
        let _forget = Forget { open: &self.open, call };
        let message = FromWorker::HostCall { run: self.run, call, request };
        let asked = async {
            self.outgoing.send(message.into()).await.map_err(|_| UpcallError::Gone)?;
            answered.await.map_err(|_| UpcallError::Gone)
        };
        tokio::time::timeout(ANSWER_MAX, asked).await.map_err(|_| UpcallError::Late)?
    }

    /// Hands over what the run leaves while it goes on. It is made only when there is room in the queue, and this
    /// does not wait for any; says whether it is on its way.
    pub(crate) fn leave(&self, attachment: Attachment, make: impl FnOnce() -> Option<OwnedFd>) -> bool {
        let Ok(place) = self.outgoing.try_reserve() else { return false };
        let Some(file) = make() else { return false };
        let message = FromWorker::Left { run: self.run, attachment };
        place.send(Outgoing { message, fds: vec![file], then_end: false });
        true
    }
}

/// Takes a question back when it is dropped.
struct Forget<'a> {
    open: &'a Open,
    call: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.open.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.call);
    }
}
