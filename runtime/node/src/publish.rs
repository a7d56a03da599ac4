//! Publishing the status of one task: the newest one wins, and the loop can wait until it is durable.
//!
//! A status that nobody waits for is held back for a moment: the next one often overtakes it, and what is never
//! written neither takes the store's time nor makes a status wait that somebody does wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use neargate_model::{LastStatus, NodeReport, TaskKey, TaskStatus, chain};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::StatusSink;

/// The longest pause between two attempts to publish.
const RETRY_MS_MAX: u64 = 2_000;

/// How long a status is held back before anything has started: longer than a start takes whose image is there. Once such
/// a status is committed, the intent to start has to be committed as well.
const LINGER_AT_START: Duration = Duration::from_millis(25);

/// How long any other status is held back: less than anybody sees who asks over HTTP.
const LINGER: Duration = Duration::from_millis(4);

/// Publishes one task's statuses in order; statuses that are overtaken by a newer one are left out.
pub(crate) struct Publisher {
    latest: watch::Sender<TaskStatus>,
    durable: watch::Receiver<u64>,
    wishes: Arc<Wishes>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Wishes {
    /// Told when the newest status is waited for.
    hurry: Notify,
    /// Whether anything has been published or may have been.
    has_told: AtomicBool,
}

impl Publisher {
    /// A publisher of a task whose `known` status is durable already.
    pub(crate) fn new(sink: Arc<dyn StatusSink>, task: TaskKey, known: TaskStatus) -> Self {
        let (durable_tx, durable) = watch::channel(known.version);
        let is_new = known.version <= TaskStatus::ACCEPTED_VERSION;
        let (latest, latest_rx) = watch::channel(known);
        let wishes = Arc::new(Wishes { has_told: AtomicBool::new(!is_new), ..Wishes::default() });
        let task = tokio::spawn(publish_all(sink, task, latest_rx, durable_tx, wishes.clone()));
        Self { latest, durable, wishes, task }
    }

    /// Offers a status; returns at once.
    pub(crate) fn offer(&self, status: &TaskStatus) {
        self.latest.send_if_modified(|latest| {
            let is_newer = status.version > latest.version;
            if is_newer {
                *latest = status.clone();
            }
            is_newer
        });
    }

    /// Publishes the status last offered without delay.
    pub(crate) fn hurry(&self) {
        self.wishes.hurry.notify_one();
    }

    /// Whether something is committed of the task besides its acceptance, or may be: unless it is, whatever is published
    /// next is what was offered last.
    pub(crate) fn has_told(&self) -> bool {
        self.wishes.has_told.load(Ordering::SeqCst)
    }

    /// Waits until the status last offered is durable.
    pub(crate) async fn settle(&mut self) {
        self.hurry();
        let version = self.latest.borrow().version;
        // The publishing task only ends when this publisher does.
        let _ = self.durable.wait_for(|durable| *durable >= version).await;
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn publish_all(
    sink: Arc<dyn StatusSink>,
    task: TaskKey,
    mut latest: watch::Receiver<TaskStatus>,
    durable: watch::Sender<u64>,
    wishes: Arc<Wishes>,
) {
    let mut pause_ms = 10;
    while latest.changed().await.is_ok() {
        linger(&mut latest, &wishes.hurry).await;
        loop {
            // Before the status is taken: who offers one and then finds this unset knows that none before it is published.
            wishes.has_told.store(true, Ordering::SeqCst);
            let status = latest.borrow_and_update().clone();
            let version = status.version;
            match sink.publish(NodeReport { task: task.clone(), status }).await {
                Ok(()) => {
                    pause_ms = 10;
                    durable.send_replace(version);
                    break;
                }
                Err(error) => {
                    tracing::warn!(task = %task.id, error = chain(&error), "status is not durable yet");
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms = (pause_ms * 2).min(RETRY_MS_MAX);
                }
            }
        }
    }
}

/// Holds back what was offered, until somebody waits for it or it has waited long enough.
async fn linger(latest: &mut watch::Receiver<TaskStatus>, hurry: &Notify) {
    let mut until = Instant::now() + LINGER_AT_START;
    loop {
        if latest.borrow_and_update().last >= LastStatus::Running {
            until = until.min(Instant::now() + LINGER);
        }
        tokio::select! {
            // A hurry for a status that was published meanwhile only makes the next one come sooner.
            () = hurry.notified() => return,
            () = tokio::time::sleep_until(until) => return,
            changed = latest.changed() => if changed.is_err() { return },
        }
    }
}
