//! Publishing the status of one task: the newest one wins, and the loop can wait until it is durable.

use std::sync::Arc;
use std::time::Duration;

use neargate_model::{NodeReport, TaskKey, TaskStatus, chain};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::StatusSink;

/// The longest pause between two attempts to publish.
const RETRY_MS_MAX: u64 = 2_000;

/// Publishes one task's statuses in order; statuses that are overtaken by a newer one are left out.
pub(crate) struct Publisher {
    latest: watch::Sender<TaskStatus>,
    durable: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Publisher {
    /// A publisher of a task whose `known` status is durable already.
    pub(crate) fn new(sink: Arc<dyn StatusSink>, task: TaskKey, known: TaskStatus) -> Self {
        let (durable_tx, durable) = watch::channel(known.version);
        let (latest, latest_rx) = watch::channel(known);
        let task = tokio::spawn(publish_all(sink, task, latest_rx, durable_tx));
        Self { latest, durable, task }
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

    /// Waits until the status last offered is durable.
    pub(crate) async fn settle(&mut self) {
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
) {
    let mut pause_ms = 10;
    while latest.changed().await.is_ok() {
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
