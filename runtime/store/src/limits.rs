//! The limits of every backend, and the wrapper that enforces them.
//!
//! They sit below etcd's defaults (128 operations and 1.5 MiB a request, etcd `--max-txn-ops`,
//! `--max-request-bytes`), with room for the operations a backend adds to record a transaction's fate.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::{Malformed, StoreError};
use crate::key::Key;
use crate::lease::Lease;
use crate::store::{Consistency, Entry, Page, Rev, Store, StoreId, Watch};
use crate::txn::{Commit, Pre, Txn, Write};

/// Bytes of a key.
pub const MAX_KEY: usize = 512;
/// Bytes of a value.
pub const MAX_VALUE: usize = 256 << 10;
/// Preconditions of a transaction, and also writes of a transaction.
pub const MAX_TXN_OPS: usize = 100;
/// Bytes of all keys and values of a transaction.
pub const MAX_TXN_BYTES: usize = 1 << 20;
/// Keys of one `get`: ten full transactions' worth.
pub const MAX_GET: usize = 1000;
/// Entries of one page: keeps the time one read holds a connection near a millisecond.
pub const MAX_PAGE: u32 = 1000;
/// Bytes of values after which a page ends: one full transaction's worth.
pub const MAX_PAGE_BYTES: usize = 1 << 20;
/// The shortest lease: etcd counts leases in seconds.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// The longest lease: what should live longer should be a plain key.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// How long a transaction's fate is remembered for `outcome` and for repeated commits.
pub const OUTCOME_WINDOW: Duration = Duration::from_secs(600);
/// Changes a local backend keeps for watches.
pub const MAX_LOG_CHANGES: usize = 100_000;
/// Bytes of changes a local backend keeps for watches: a few thousand task records.
pub const MAX_LOG_BYTES: usize = 16 << 20;
/// Age after which a local backend forgets changes, once others follow.
pub const MAX_LOG_AGE: Duration = Duration::from_secs(600);

/// Enforces the limits of this module on any store. Every backend's constructor returns one.
#[derive(Debug)]
pub struct Limited<S> {
    inner: S,
}

impl<S> Limited<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner }
    }
}

#[async_trait]
impl<S: Store> Store for Limited<S> {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn get(&self, keys: &[Key], c: Consistency) -> Result<Vec<Option<Entry>>, StoreError> {
        at_most("a read (keys)", keys.len(), MAX_GET)?;
        keys.iter().try_for_each(check_key)?;
        self.inner.get(keys, c).await
    }

    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<Page, StoreError> {
        check_prefix(prefix)?;
        if let Some(after) = after {
            check_prefix(after)?;
        }
        self.inner.scan(prefix, after, limit.clamp(1, MAX_PAGE), c).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        check_txn(&txn)?;
        self.inner.commit(txn).await
    }

    async fn outcome(&self, txn: Uuid) -> Result<Option<Rev>, StoreError> {
        self.inner.outcome(txn).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> Watch {
        self.inner.watch(prefix, after)
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let rounded = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        self.inner.lease(rounded.clamp(MIN_TTL, MAX_TTL)).await
    }
}

fn check_txn(txn: &Txn) -> Result<(), StoreError> {
    at_most("a transaction (preconditions)", txn.pre.len(), MAX_TXN_OPS)?;
    at_most("a transaction (writes)", txn.writes.len(), MAX_TXN_OPS)?;
    let mut bytes = 0;
    for pre in &txn.pre {
        if let Pre::Absent(key) | Pre::AtRev(key, _) = pre {
            check_key(key)?;
            bytes += key.len();
        }
    }
    for write in &txn.writes {
        bytes += check_write(write)?;
    }
    at_most("a transaction (bytes)", bytes, MAX_TXN_BYTES)?;
    check_overlap(&txn.writes)
}

fn check_write(write: &Write) -> Result<usize, StoreError> {
    match write {
        Write::Put { key, value, .. } => {
            check_key(key)?;
            at_most("a value (bytes)", value.len(), MAX_VALUE)?;
            Ok(key.len() + value.len())
        }
        Write::Delete(key) => check_key(key).map(|()| key.len()),
        Write::DeletePrefix(prefix) if prefix.len() == 0 => Err(StoreError::Malformed(Malformed::DeleteAll)),
        Write::DeletePrefix(prefix) => check_prefix(prefix).map(|()| prefix.len()),
    }
}

/// Refuses a key that is put and touched again. Two deletes of one key are harmless.
fn check_overlap(writes: &[Write]) -> Result<(), StoreError> {
    let mut puts: Vec<&Key> = writes
        .iter()
        .filter_map(|write| match write {
            Write::Put { key, .. } => Some(key),
            Write::Delete(_) | Write::DeletePrefix(_) => None,
        })
        .collect();
    puts.sort_unstable();
    let twice = puts.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    let deleted = || {
        writes.iter().find_map(|write| match write {
            Write::Put { .. } => None,
            Write::Delete(key) => puts.binary_search(&key).ok().map(|_| key),
            Write::DeletePrefix(prefix) => {
                let first = puts.partition_point(|key| *key < prefix);
                puts.get(first).copied().filter(|key| key.starts_with(prefix))
            }
        })
    };
    match twice.or_else(deleted) {
        Some(key) => Err(StoreError::Malformed(Malformed::Overlap(key.clone()))),
        None => Ok(()),
    }
}

fn check_key(key: &Key) -> Result<(), StoreError> {
    if key.len() == 0 {
        return Err(StoreError::Malformed(Malformed::EmptyKey));
    }
    check_prefix(key)
}

fn check_prefix(prefix: &Key) -> Result<(), StoreError> {
    at_most("a key (bytes)", prefix.len(), MAX_KEY)
}

fn at_most(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { what, size, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_judged_whole() {
        let check = |txn: Txn, expect: &str| {
            let verdict = match check_txn(&txn) {
                Ok(()) => "ok".to_owned(),
                Err(StoreError::TooLarge { what, .. }) => what.to_owned(),
                Err(StoreError::Malformed(malformed)) => malformed.to_string(),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(verdict, expect);
        };
        let new = || Txn::new(Uuid::nil());
        let many = |n: usize| (0..n).fold(new(), |txn, n| txn.put(format!("k{n}"), ""));
        check(new(), "ok");
        check(many(MAX_TXN_OPS), "ok");
        check(many(MAX_TXN_OPS + 1), "a transaction (writes)");
        check((0..=MAX_TXN_OPS).fold(new(), |txn, _| txn.absent("k")), "a transaction (preconditions)");
        check(new().put("k".repeat(MAX_KEY), vec![0; MAX_VALUE]), "ok");
        check(new().put("k".repeat(MAX_KEY + 1), ""), "a key (bytes)");
        check(new().absent("k".repeat(MAX_KEY + 1)), "a key (bytes)");
        check(new().delete_prefix("k".repeat(MAX_KEY + 1)), "a key (bytes)");
        check(new().put("k", vec![0; MAX_VALUE + 1]), "a value (bytes)");
        let four = |size: usize| (0..4).fold(new(), |txn, n| txn.put(format!("{n}"), vec![0; size]));
        check(four(MAX_VALUE - 1), "ok");
        check(four(MAX_VALUE), "a transaction (bytes)");
        check(new().put("", "v"), "a key is empty");
        check(new().delete(""), "a key is empty");
        check(new().delete_prefix(""), "the prefix to delete is empty");
        check(new().delete("k").delete("k").delete_prefix("k"), "ok");
        check(
            new().put("k", "1").put("k", "2"),
            "two writes of one transaction touch k; merge them into one",
        );
        check(new().delete("k").put("k", "2"), "two writes of one transaction touch k; merge them into one");
        check(
            new().put("a", "1").delete_prefix("k").put("kk", "2"),
            "two writes of one transaction touch kk; merge them into one",
        );
        check(new().put("a", "1").delete_prefix("b").put("c", "2"), "ok");
    }
}
