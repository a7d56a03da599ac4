//! A run in a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use neargate_driver::Exit;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Permissions, Worker};
use crate::pool::At;
use crate::protocol::{Cause, RunExit, Stop, Usage};

/// The exit code of what was killed.
const KILLED: i32 = 137;

/// A run that was sent to a worker.
pub(crate) struct Run {
    id: u64,
    worker: Arc<Worker>,
    at: At,
    ended: watch::Sender<Option<Ended>>,
    usage: watch::Sender<Usage>,
    /// Whether its usage has been asked for and not been told.
    asked: AtomicBool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) cause: Cause,
    pub(crate) reason: Option<String>,
    /// Whether it ended because its worker did.
    pub(crate) is_loss: bool,
}

impl Ended {
    pub(super) fn of(exit: &RunExit) -> Self {
        Self { code: Some(exit.code), cause: exit.cause.clone(), reason: exit.reason.clone(), is_loss: false }
    }

    pub(crate) fn unknown() -> Self {
        Self { code: None, cause: Cause::Stopped {}, reason: None, is_loss: true }
    }

    pub(crate) fn into_exit(self) -> Exit {
        Exit { code: self.code, oom: self.cause == (Cause::OutOfMemory {}), reason: self.reason }
    }
}

impl Run {
    pub(super) fn new(id: u64, worker: Arc<Worker>, at: At) -> Self {
        Self {
            id,
            worker,
            at,
            ended: watch::Sender::new(None),
            usage: watch::Sender::new(Usage::default()),
            asked: AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What another run beside it may ask for: what it reaches, and nothing that is kept.
    pub(crate) fn permissions_beside(&self) -> Permissions {
        let reach = self.worker.permissions(self.id).map(|may| may.reach).unwrap_or_default();
        Permissions { reach, key_values: false }
    }

    /// Where its worker is in the pool.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    pub(crate) async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(ended)) => ended,
            _ => Ended::unknown(),
        }
    }

    pub(crate) async fn stop(&self, stop: Stop) -> std::io::Result<()> {
        if self.has_ended() { Ok(()) } else { self.worker.stop(self, stop).await }
    }

    /// Kills it without anybody's waiting for that.
    pub(super) fn kill_in_background(self: Arc<Self>) {
        // Without a runtime there is no owner either, and the worker ends with its socket.
        let Ok(runtime) = Handle::try_current() else { return };
        // It ends by the deadlines of sending and of killing.
        runtime.spawn(async move {
            if let Err(error) = self.stop(Stop::Kill { code: KILLED }).await {
                tracing::debug!(run = self.id, %error, "kill a run");
            }
        });
    }

    /// What it has used: asked of the worker while it runs, and what is known when there is no answer.
    pub(crate) async fn usage(&self, deadline: Duration) -> Usage {
        let mut usage = self.usage.subscribe();
        let mut ended = self.ended.subscribe();
        if ended.borrow().is_none() {
            let is_asked = self.asked.swap(true, Ordering::AcqRel);
            let asked = is_asked || self.worker.ask_usage(self.id).await.is_ok();
            if asked {
                let told = async {
                    tokio::select! {
                        _ = usage.changed() => {}
                        _ = ended.wait_for(Option::is_some) => {}
                    }
                };
                // Late usage is better than none, and will be there the next time.
                let _ = timeout(deadline, told).await;
            }
            self.asked.store(false, Ordering::Release);
        }
        self.usage.borrow().clone()
    }

    pub(super) fn note_usage(&self, usage: Usage) {
        self.usage.send_replace(usage);
    }

    /// Settles how it ended; only the first word counts.
    pub(super) fn end(&self, end: Ended) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(end);
            first
        });
    }
}
