//! What the node says: whole statuses, committed in the order of their versions.

use std::sync::Arc;

use neargate_model::{LastStatus, NodeReport, Task};
use neargate_store::{StoreError, Txn, Versioned};

use crate::Control;
use crate::tables::{INTERFACES, STOPPED, TASKS, WRITE_ATTEMPTS, commit_at, task_key, too_contended};

/// Why a report was not committed; the node says it again.
#[derive(Debug, thiserror::Error)]
#[error("commit status of task")]
pub struct ReportError(#[from] StoreError);

impl Control {
    /// Commits a status. Once this returns, the status is durable, or a newer one is, or the task is not
    /// known any more and nobody will ask for it.
    pub async fn apply_report(&self, report: &NodeReport) -> Result<(), ReportError> {
        let at = task_key(&TASKS, &report.task);
        for _ in 0..WRITE_ATTEMPTS {
            let Some(found) = self.memos().tasks.get(self.store(), &at).await? else { return Ok(()) };
            if report.status.version <= found.value.status.version {
                return Ok(());
            }
            let mut task = Task::clone(&found.value);
            task.status = report.status.clone();
            let has_stopped = task.status.last == LastStatus::Stopped;
            let txn = Txn::fresh().at_rev(&at, found.rev);
            let stopped_at = task_key(&STOPPED, &report.task);
            let (txn, now_at) = match has_stopped {
                // Its interface goes with it; a task without one has no such key.
                true => (txn.delete(&at).delete(task_key(&INTERFACES, &report.task)), &stopped_at),
                false => (txn, &at),
            };
            let txn = TASKS.put(txn, now_at, &task)?;
            neargate_failpoint::reach("control::report::before");
            if let Some(rev) = commit_at(self.store(), txn).await? {
                neargate_failpoint::reach("control::report::after");
                let task = Arc::new(task);
                self.memos().tasks.enter(now_at, Versioned { value: task.clone(), rev });
                if has_stopped {
                    self.memos().tasks.forget(&at);
                    self.shared.ledger.give_back(&report.task);
                    self.shared.networks.addresses.give_back(&report.task, self.now());
                    self.shared.networks.bridge.give_back(&report.task, self.now());
                    tracing::info!(task = %task.id, reason = stop_reason(&task.status), "task stopped");
                }
                self.shared.waiters.tell(&report.task);
                return Ok(());
            }
        }
        Err(too_contended().into())
    }
}

fn stop_reason(status: &neargate_model::TaskStatus) -> &str {
    status.stop.as_ref().map_or("", |stop| stop.reason.as_str())
}
