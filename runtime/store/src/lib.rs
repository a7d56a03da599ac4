//! Neargate's control state: an ordered key-value store with revisions.
//!
//! [`Store`] is the contract: point reads, ordered scans, optimistic transactions, watches from a revision, and
//! leases that fence. It is deliberately no larger than what etcd, SQLite and a `BTreeMap` can all keep, and the
//! limits of the smallest ([`limits`]) hold on each of them, so nothing works on one machine that would fail on
//! many. There are no secondary indexes (write index keys in the same transaction), no locks, no queues, no
//! wall clock.
//!
//! * [`MemoryStore`]: nothing survives; for tests and for `neargate run`.
//! * [`SqliteStore`]: one machine; what it acknowledges is on disk.
//! * [`Table`]: typed records on top of any of them.
//! * [`testing`]: faults by seed and a clock by hand, for the tests of other crates.

#![forbid(unsafe_code)]

mod changes;
mod clock;
mod error;
mod key;
mod lease;
pub mod limits;
mod memory;
mod retry;
mod settled;
mod sqlite;
mod store;
mod table;
pub mod testing;
mod txn;

pub use clock::{Clock, SystemClock};
pub use error::{Cause, Fence, Malformed, StoreError};
pub use key::Key;
pub use lease::{Lease, LeaseId, LeaseKeeper};
pub use limits::Limited;
pub use memory::MemoryStore;
pub use retry::{Settled, commit_retrying};
pub use sqlite::{OpenError, SqliteOptions, SqliteStore};
pub use store::{Consistency, Entry, Page, Rev, Store, StoreId, Watch, WatchItem, WatchSource};
pub use table::{Table, TablePage, Versioned};
pub use txn::{Commit, Pre, Txn, Write};
