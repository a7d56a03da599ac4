//! Turns `Unknown` into an answer.

use std::time::Duration;

use uuid::Uuid;

use crate::error::StoreError;
use crate::store::{Entry, Rev, Store};
use crate::txn::{Commit, Txn};

/// Attempts to commit, and for each to learn the outcome. With the waits below: about ten seconds.
const ATTEMPTS: u32 = 10;
/// The longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What became of a transaction, for certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Applied, and durable.
    Done(Rev),
    /// Not applied: preconditions failed. As [`Commit::Conflict`].
    Conflict {
        /// Indexes into [`Txn::pre`] of those that failed.
        failed: Vec<usize>,
        /// For each of `failed`, the entry its key has now.
        now: Vec<Option<Entry>>,
    },
}

/// Commits, resolves `Unknown` through [`Store::outcome`], and tries again while the store is unavailable, a bounded
/// number of times.
///
/// It never applies a transaction twice: a new attempt is made only after the last is known not to have been applied.
/// Errors are those of `commit`, plus [`StoreError::Unresolved`] when the store stopped answering in between.
pub async fn commit_retrying(store: &dyn Store, mut txn: Txn) -> Result<Settled, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let failure = match store.commit(txn.clone()).await {
            Ok(Commit::Done(rev)) => return Ok(Settled::Done(rev)),
            Ok(Commit::Conflict { failed, now }) => return Ok(Settled::Conflict { failed, now }),
            Ok(Commit::Unknown) => match resolve(store, txn.id).await? {
                Some(rev) => return Ok(Settled::Done(rev)),
                // The id is spent: the store refuses it from now on.
                None => {
                    let spent = std::mem::replace(&mut txn.id, Uuid::new_v4());
                    StoreError::unavailable(Duration::ZERO, NotApplied { txn: spent })
                }
            },
            Err(failure @ StoreError::Unavailable { .. }) => failure,
            Err(fatal) => return Err(fatal),
        };
        if attempt == ATTEMPTS {
            return Err(failure);
        }
        wait(&failure, attempt).await;
    }
}

async fn resolve(store: &dyn Store, txn: Uuid) -> Result<Option<Rev>, StoreError> {
    for attempt in 1..=ATTEMPTS {
        match store.outcome(txn).await {
            Ok(outcome) => return Ok(outcome),
            Err(failure) => wait(&failure, attempt).await,
        }
    }
    Err(StoreError::Unresolved { txn })
}

/// Waits as long as the store asked, longer with each attempt.
async fn wait(failure: &StoreError, attempt: u32) {
    let asked = match failure {
        StoreError::Unavailable { retry_after, .. } => *retry_after,
        _ => Duration::from_millis(100),
    };
    if asked.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep((asked * attempt).min(MAX_WAIT)).await;
    }
}

#[derive(Debug, thiserror::Error)]
#[error("transaction {txn} was not applied")]
struct NotApplied {
    txn: Uuid,
}
