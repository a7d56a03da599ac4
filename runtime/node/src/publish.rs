//! Publishing the status of one task: the newest one wins, and the loop can wait until it is durable.
//!
//! A status that nobody waits for is held back for a moment: the next one often overtakes it, and what is never
//! written neither takes the store's time nor makes a status wait that somebody does wait for.

use std::sync::Arc;
use std::time::Duration;

use neargate_model::{NodeReport, TaskKey, TaskStatus, chain};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::StatusSink;

/// The longest pause between two attempts to publish.
const RETRY_MS_MAX: u64 = 2_000;

/// How long a status is held back: less than anybody sees who asks over HTTP.
const LINGER: Duration = Duration::from_millis(2);

/// Publishes one task's statuses in order; statuses that are overtaken by a newer one are left out.
pub(crate) struct Publisher {
    latest: watch::Sender<TaskStatus>,
    durable: watch::Receiver<u64>,
    /// Told when the newest status is waited for.
    hurry: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// A publisher of a task whose `known` status is durable already.
    pub(crate) fn new(sink: Arc<dyn StatusSink>, task: TaskKey, known: TaskStatus) -> Self {
        let (durable_tx, durable) = watch::channel(known.version);
        let (latest, latest_rx) = watch::channel(known);
        let hurry = Arc::new(Notify::new());
        let task = tokio::spawn(publish_all(sink, task, latest_rx, durable_tx, hurry.clone()));
        Self { latest, durable, hurry, task }
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
        self.hurry.notify_one();
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
    hurry: Arc<Notify>,
) {
    let mut pause_ms = 10;
    while latest.changed().await.is_ok() {
        // A hurry for a status that was published meanwhile only makes the next one come sooner.
        let _ = tokio::time::timeout(LINGER, hurry.notified()).await;
        loop {
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
