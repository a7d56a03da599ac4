//! The contract every backend keeps.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::error::{Ahead, StoreError};
use crate::key::Key;
use crate::lease::Lease;
use crate::txn::{Commit, Txn};

/// How long a caller should wait for a revision the store has not reached.
const AHEAD_RETRY: Duration = Duration::from_millis(100);

/// A store's revision: grows with every transaction, comparable only within one [`StoreId`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rev(u64);

impl Rev {
    /// Before the first transaction.
    pub const ZERO: Self = Self(0);

    /// The revision as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl From<u64> for Rev {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which store this is; a restored or recreated store has another id, and its revisions mean nothing to the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub Uuid);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value, at most [`MAX_VALUE`](crate::limits::MAX_VALUE) bytes.
    pub value: Bytes,
    /// The revision of the last transaction that wrote it.
    pub rev: Rev,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every transaction acknowledged before the read began.
    Linearizable,
    /// Sees at least this revision; may be answered without a quorum. `Unavailable` if the store is behind it.
    AtLeast(Rev),
}

impl Consistency {
    /// Checks that a store at `at` may answer.
    pub(crate) fn admit(self, at: Rev) -> Result<(), StoreError> {
        match self {
            Self::AtLeast(wanted) if wanted > at => {
                Err(StoreError::unavailable(AHEAD_RETRY, Ahead { at, wanted }))
            }
            Self::AtLeast(_) | Self::Linearizable => Ok(()),
        }
    }
}

/// Part of a scan, in key order, all of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Pass as `after` to go on; `None` at the end. Later pages are of later revisions.
    pub next: Option<Key>,
    /// The revision this page shows; watch from here to follow it.
    pub rev: Rev,
}

/// An ordered key-value store with revisions.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Which store this is.
    fn id(&self) -> StoreId;

    /// Reads up to [`MAX_GET`](crate::limits::MAX_GET) keys at one revision, in the order asked.
    async fn get(&self, keys: &[Key], c: Consistency) -> Result<Vec<Option<Entry>>, StoreError>;

    /// Reads keys under `prefix` in order, beginning after `after`.
    ///
    /// A page ends at `limit`, at [`MAX_PAGE`](crate::limits::MAX_PAGE) entries or after
    /// [`MAX_PAGE_BYTES`](crate::limits::MAX_PAGE_BYTES), whichever comes first; it is never empty when there is more.
    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<Page, StoreError>;

    /// Applies all writes if all preconditions hold, else none. Durable on `Done`.
    ///
    /// Committing a transaction again under the same id answers `Done` with the first revision and changes nothing,
    /// as long as [`OUTCOME_WINDOW`](crate::limits::OUTCOME_WINDOW) lasts. A caller that stops waiting must treat
    /// the transaction as `Unknown`.
    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError>;

    /// Settles a transaction whose commit was `Unknown`: `Some` if it was applied, `None` if it was not and never
    /// will be.
    ///
    /// "Never" is kept by a tombstone: `None` is answered only once the id is durably recorded as given up, and a
    /// commit under a given-up id is [`Fenced`](StoreError::Fenced), however late it arrives. Records are kept for
    /// [`OUTCOME_WINDOW`](crate::limits::OUTCOME_WINDOW), so ask within it, and do not send a commit after it.
    async fn outcome(&self, txn: Uuid) -> Result<Option<Rev>, StoreError>;

    /// Follows all changes under `prefix` with revisions after `after`.
    fn watch(&self, prefix: Key, after: Rev) -> Watch;

    /// Takes a lease. Its keys are deleted when nobody has kept it alive for `ttl`.
    ///
    /// `ttl` is rounded up to a whole second and kept between [`MIN_TTL`](crate::limits::MIN_TTL) and
    /// [`MAX_TTL`](crate::limits::MAX_TTL). A lease outlives its handle and the process: after a restart of the store
    /// it has its full time again.
    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError>;
}

/// Forwards, so that a wrapper can share the store it wraps.
#[async_trait]
impl<S: Store + ?Sized> Store for std::sync::Arc<S> {
    fn id(&self) -> StoreId {
        (**self).id()
    }

    async fn get(&self, keys: &[Key], c: Consistency) -> Result<Vec<Option<Entry>>, StoreError> {
        (**self).get(keys, c).await
    }

    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<Page, StoreError> {
        (**self).scan(prefix, after, limit, c).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        (**self).commit(txn).await
    }

    async fn outcome(&self, txn: Uuid) -> Result<Option<Rev>, StoreError> {
        (**self).outcome(txn).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> Watch {
        (**self).watch(prefix, after)
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        (**self).lease(ttl).await
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// A key was written.
    Put(Entry),
    /// A key that existed was deleted, by a transaction or because its lease ended.
    Delete(Key, Rev),
    /// Every change up to this revision has been told.
    Progress(Rev),
    /// The changes this watch still owed are forgotten, or the store is closed: scan again and watch from the page's
    /// revision. Nothing follows but `Gone`.
    Gone {
        /// Changes up to this revision are forgotten.
        compacted: Rev,
    },
}

/// Where a [`Watch`] gets its items: a backend's half.
#[async_trait]
pub trait WatchSource: Send {
    /// The next item. Must lose nothing when the future is dropped.
    async fn next(&mut self) -> WatchItem;
}

/// A stream of changes in revision order; changes of one transaction come in the order of its writes.
///
/// Nothing is buffered for a slow watcher: it reads from the store's bounded log of changes, and is told
/// [`Gone`](WatchItem::Gone) when that has moved past it.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    /// A watch over a backend's source.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// Waits for the next item. Cancel-safe.
    pub async fn next(&mut self) -> WatchItem {
        self.0.next().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
