//! What can go wrong with a store, by what the caller should do about it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::key::Key;
use crate::lease::LeaseId;

/// A backend's own error. Shared, because one failed disk write answers a whole group of transactions.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// Why the store did not do what was asked.
///
/// Of [`Store::commit`](crate::Store::commit), every variant means that nothing was applied and nothing will be;
/// an open outcome is [`Commit::Unknown`](crate::Commit::Unknown), never an error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store cannot answer now; the same request may succeed later.
    #[error("reach the store: it is not available now; try again in {retry_after:?}")]
    Unavailable {
        /// How long to wait before the next attempt.
        retry_after: Duration,
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// A limit of [`limits`](crate::limits) is passed; no retry helps.
    #[error("send {what} of {size} to the store: the limit is {limit}; split or shorten it")]
    TooLarge {
        /// What is too large, with its unit.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// The request breaks a rule of the contract; the caller has a bug.
    #[error("read the request to the store")]
    Malformed(#[source] Malformed),
    /// The caller has lost the right to write this.
    #[error("write to the store")]
    Fenced(#[source] Fence),
    /// What is stored cannot be understood.
    #[error(
        "read {what} from the store: it is damaged or of a newer version; restore it from a backup or upgrade"
    )]
    Corrupt {
        /// The key, or "the database".
        what: String,
        /// What the decoder said.
        #[source]
        source: Cause,
    },
    /// The disk, or the size allowed for the store, is full. Reads go on, and writes do once there is space.
    #[error("write to the store: its disk is full; free some space, then try again")]
    Full {
        /// What the backend said.
        #[source]
        source: Cause,
    },
    /// Whether a transaction was applied could not be found out within the bounded number of attempts.
    #[error(
        "settle transaction {txn}: the store did not say whether it was applied; read its keys again before retrying"
    )]
    Unresolved {
        /// The transaction that may or may not have been applied.
        txn: Uuid,
    },
}

/// A broken rule of the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A key is empty; only prefixes may be.
    #[error("a key is empty")]
    EmptyKey,
    /// Two writes of one transaction touch one key and not both delete it. etcd refuses that, so all do.
    #[error("two writes of one transaction touch {0}; merge them into one")]
    Overlap(Key),
    /// A prefix to delete is empty: that would be everything.
    #[error("the prefix to delete is empty")]
    DeleteAll,
}

/// Why a writer was shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fence {
    /// The lease has expired or was revoked, and the keys under it are gone or going.
    #[error("lease {0} has expired; take a new lease and rebuild what it guarded")]
    Lease(LeaseId),
    /// The outcome of this transaction id was already answered as "not applied".
    #[error("transaction {0} was already settled as not applied; start again under a new id")]
    Txn(Uuid),
}

impl StoreError {
    /// An [`Unavailable`](Self::Unavailable) from any error.
    pub fn unavailable(retry_after: Duration, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Unavailable { retry_after, source: Arc::new(source) }
    }

    /// A [`Corrupt`](Self::Corrupt) that names what could not be read.
    pub fn corrupt(what: impl ToString, source: impl Error + Send + Sync + 'static) -> Self {
        Self::Corrupt { what: what.to_string(), source: Arc::new(source) }
    }
}

/// The store was asked for a revision it has not reached.
#[derive(Debug, thiserror::Error)]
#[error("the store is at revision {at}, revision {wanted} is ahead of it")]
pub(crate) struct Ahead {
    pub(crate) at: crate::Rev,
    pub(crate) wanted: crate::Rev,
}
