//! Transactions: preconditions, writes, and what becomes of them.

use bytes::Bytes;
use uuid::Uuid;

use crate::error::{Fence, StoreError};
use crate::key::Key;
use crate::lease::LeaseId;
use crate::store::{Entry, Rev};

/// What must hold for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pre {
    /// The key does not exist.
    Absent(Key),
    /// The key exists and was last written at this revision.
    AtRev(Key, Rev),
    /// The lease has not ended: fences a holder that was cut off.
    LeaseAlive(LeaseId),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key. It then belongs to `lease`, or to none, whatever it belonged to before.
    Put {
        /// The key.
        key: Key,
        /// The value.
        value: Bytes,
        /// The lease whose end deletes the key.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; nothing happens if it does not exist.
    Delete(Key),
    /// Deletes every key with this prefix.
    DeletePrefix(Key),
}

/// A transaction: all of it or nothing. Every `Done` takes one new revision, also when it writes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Txn {
    /// Names this attempt; never use an id for two different transactions.
    pub id: Uuid,
    /// The preconditions, all checked before the first write.
    pub pre: Vec<Pre>,
    /// The writes, in order.
    pub writes: Vec<Write>,
}

impl Txn {
    /// An empty transaction under this id.
    pub fn new(id: Uuid) -> Self {
        Self { id, pre: Vec::new(), writes: Vec::new() }
    }

    /// An empty transaction under a new random id.
    pub fn fresh() -> Self {
        Self::new(Uuid::new_v4())
    }

    /// Demands that `key` does not exist.
    #[must_use]
    pub fn absent(mut self, key: impl Into<Key>) -> Self {
        self.pre.push(Pre::Absent(key.into()));
        self
    }

    /// Demands that `key` was last written at `rev`.
    #[must_use]
    pub fn at_rev(mut self, key: impl Into<Key>, rev: Rev) -> Self {
        self.pre.push(Pre::AtRev(key.into(), rev));
        self
    }

    /// Demands that `lease` has not ended.
    #[must_use]
    pub fn lease_alive(mut self, lease: LeaseId) -> Self {
        self.pre.push(Pre::LeaseAlive(lease));
        self
    }

    /// Sets `key`, free of any lease.
    #[must_use]
    pub fn put(mut self, key: impl Into<Key>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Sets `key`, to be deleted when `lease` ends. Fenced if it has ended already.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<Key>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Key>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// Deletes every key that begins with `prefix`.
    #[must_use]
    pub fn delete_prefix(mut self, prefix: impl Into<Key>) -> Self {
        self.writes.push(Write::DeletePrefix(prefix.into()));
        self
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Applied, and durable.
    Done(Rev),
    /// Not applied: preconditions failed.
    Conflict {
        /// Indexes into [`Txn::pre`] of those that failed.
        failed: Vec<usize>,
        /// For each of `failed`, the entry its key has now; `None` for an absent key and for a lease.
        now: Vec<Option<Entry>>,
    },
    /// Not known; ask [`Store::outcome`](crate::Store::outcome), or use
    /// [`commit_retrying`](crate::commit_retrying).
    Unknown,
}

/// Evaluates all preconditions. `Ok(None)` if they hold, else the conflict.
pub(crate) fn check_pre<E>(
    pre: &[Pre],
    mut lookup: impl FnMut(&Key) -> Result<Option<Entry>, E>,
    alive: impl Fn(LeaseId) -> bool,
) -> Result<Option<Commit>, E> {
    let mut failed = Vec::new();
    let mut now = Vec::new();
    for (index, pre) in pre.iter().enumerate() {
        let (holds, entry) = match pre {
            Pre::Absent(key) => {
                let entry = lookup(key)?;
                (entry.is_none(), entry)
            }
            Pre::AtRev(key, rev) => {
                let entry = lookup(key)?;
                (entry.as_ref().is_some_and(|entry| entry.rev == *rev), entry)
            }
            Pre::LeaseAlive(lease) => (alive(*lease), None),
        };
        if !holds {
            failed.push(index);
            now.push(entry);
        }
    }
    Ok((!failed.is_empty()).then_some(Commit::Conflict { failed, now }))
}

/// Refuses a transaction that would put a key under an ended lease.
pub(crate) fn check_fence(writes: &[Write], alive: impl Fn(LeaseId) -> bool) -> Result<(), StoreError> {
    for write in writes {
        if let Write::Put { lease: Some(lease), .. } = write
            && !alive(*lease)
        {
            return Err(StoreError::Fenced(Fence::Lease(*lease)));
        }
    }
    Ok(())
}
