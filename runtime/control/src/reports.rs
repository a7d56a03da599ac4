//! What the node says: whole statuses, committed in the order of their versions.

use neargate_model::{LastStatus, NodeReport};
use neargate_store::{StoreError, Txn};

use crate::Control;
use crate::tables::{NOW, STOPPED, TASKS, WRITE_ATTEMPTS, commit, task_key, too_contended};

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
            let Some(found) = TASKS.get(self.store(), &at, NOW).await? else { return Ok(()) };
            let mut task = found.value;
            if report.status.version <= task.status.version {
                return Ok(());
            }
            task.status = report.status.clone();
            let has_stopped = task.status.last == LastStatus::Stopped;
            let mut txn = Txn::fresh().at_rev(&at, found.rev);
            if has_stopped {
                txn = STOPPED.put(txn.delete(&at), &task_key(&STOPPED, &report.task), &task)?;
            } else {
                txn = TASKS.put(txn, &at, &task)?;
            }
            neargate_failpoint::reach("control::report::before");
            if commit(self.store(), txn).await? {
                neargate_failpoint::reach("control::report::after");
                if has_stopped {
                    self.shared.ledger.give_back(&report.task);
                    tracing::info!(task = %task.id, reason = stop_reason(&task.status), "task stopped");
                }
                return Ok(());
            }
        }
        Err(too_contended().into())
    }
}

fn stop_reason(status: &neargate_model::TaskStatus) -> &str {
    status.stop.as_ref().map_or("", |stop| stop.reason.as_str())
}
