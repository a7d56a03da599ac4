//! The store of one machine: SQLite in WAL mode with `synchronous=FULL` (<https://sqlite.org/wal.html>).
//!
//! ```text
//!  commit ─┐                       ┌─ BEGIN, each transaction in order, COMMIT (one fsync)
//!  commit ─┼─> bounded queue ─> writer thread ─> recent entries ─> get
//!  outcome ┘                       │         └─> change log ─> watches
//!                                  └─ answers, then a checkpoint when the WAL is long
//!  get of others, scan ─> one of a few reader connections, on the caller's thread
//! ```
//!
//! Only the writer thread changes the database, so preconditions need no locks and transactions that wait while
//! one fsync runs share the next. A reader begins a snapshot after the last `COMMIT` returned, so it sees all that
//! was acknowledged, and nothing that is not durable: SQLite publishes a commit to readers after its fsync. What was
//! written or read lately is answered from memory, by the same rule: `recent` tells how.

mod open;
mod reader;
mod recent;
mod reserve;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::changes::{ChangeLog, LogWatch};
use crate::clock::Clock;
use crate::error::StoreError;
use crate::key::Key;
use crate::lease::{Deadlines, Lease, LeaseId, LeaseKeeper};
use crate::limits::Limited;
use crate::store::{Consistency, Entry, Page, Rev, Store, StoreId, Watch};
use crate::txn::{Commit, Txn};

pub use open::{OpenError, SqliteOptions};
use reader::Readers;
use recent::Recent;
use writer::Command;

/// Commands that may wait for the writer; further callers wait for a place.
const QUEUE: usize = 1024;

/// How long a reader should wait for a writer that does not get on.
const BEHIND_RETRY: Duration = Duration::from_millis(100);

/// A store in one SQLite file. Dropping it ends the writer thread after the queue is empty, and checkpoints the WAL.
pub struct SqliteStore {
    id: StoreId,
    shared: Arc<Shared>,
    readers: Option<Readers>,
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
}

/// What the handle, its leases and the writer thread have in common.
struct Shared {
    log: Arc<ChangeLog>,
    deadlines: Deadlines,
    clock: Arc<dyn Clock>,
    recent: Recent,
}

impl Shared {
    /// Lets a reader go on that has seen this revision.
    fn catch_up(&self, rev: Rev) -> Result<(), StoreError> {
        if self.recent.wait_for(rev) { Ok(()) } else { Err(StoreError::unavailable(BEHIND_RETRY, Behind)) }
    }
}

impl SqliteStore {
    /// Opens the store at `path`, creating it (mode 0600) if there is none. Blocks for a few fsyncs, and after an
    /// unclean shutdown for a check of the whole file.
    ///
    /// A lock file beside it keeps a second server out.
    pub fn open(path: impl AsRef<Path>) -> Result<Limited<Self>, OpenError> {
        SqliteOptions::default().open(path)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        ask(self.commands.as_ref(), command).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn id(&self) -> StoreId {
        self.id
    }

    async fn get(&self, keys: &[Key], c: Consistency) -> Result<Vec<Option<Entry>>, StoreError> {
        let recent = &self.shared.recent;
        c.admit(recent.rev())?;
        if let Some(found) = recent.get(keys) {
            return Ok(found);
        }
        let (rev, found) = self.readers.as_ref().ok_or_else(closed)?.get(keys)?;
        self.shared.catch_up(rev)?;
        recent.remember(rev, keys, &found);
        Ok(found)
    }

    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<Page, StoreError> {
        c.admit(self.shared.recent.rev())?;
        let page = self.readers.as_ref().ok_or_else(closed)?.scan(prefix, after, limit)?;
        self.shared.catch_up(page.rev)?;
        Ok(page)
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        let (answer, answered) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(closed)?;
        commands.send(Command::Commit(txn, answer)).await.map_err(|_| closed())?;
        // A writer that died with the command in hand may have committed it.
        answered.await.unwrap_or(Ok(Commit::Unknown))
    }

    async fn outcome(&self, txn: Uuid) -> Result<Option<Rev>, StoreError> {
        self.ask(|answer| Command::Outcome(txn, answer)).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> Watch {
        Watch::new(LogWatch::new(self.shared.log.clone(), prefix, after))
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let id = self.ask(|answer| Command::Grant(ttl, answer)).await?;
        let commands = self.commands.as_ref().ok_or_else(closed)?.downgrade();
        Ok(Lease::new(id, ttl, Arc::new(Keeper { shared: self.shared.clone(), commands })))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Readers first: the last connection to close can then remove the WAL.
        self.readers = None;
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked; the next start checks the database");
        }
    }
}

/// Keeps leases alive without the writer: a slow disk must not end them.
struct Keeper {
    shared: Arc<Shared>,
    /// Weak, so that a forgotten lease does not keep the writer running.
    commands: mpsc::WeakSender<Command>,
}

#[async_trait]
impl LeaseKeeper for Keeper {
    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        self.shared.deadlines.keep_alive(id, self.shared.clock.now())
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.shared.deadlines.end(id);
        let commands = self.commands.upgrade();
        ask(commands.as_ref(), |answer| Command::Revoke(id, answer)).await
    }
}

async fn ask<T>(
    commands: Option<&mpsc::Sender<Command>>,
    command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
) -> Result<T, StoreError> {
    let (answer, answered) = oneshot::channel();
    let commands = commands.ok_or_else(closed)?;
    commands.send(command(answer)).await.map_err(|_| closed())?;
    answered.await.map_err(|_| closed())?
}

fn closed() -> StoreError {
    StoreError::unavailable(Duration::from_secs(1), Closed)
}

#[derive(Debug, thiserror::Error)]
#[error("the store's writer has ended")]
struct Closed;

#[derive(Debug, thiserror::Error)]
#[error("the store's writer does not get on")]
struct Behind;

/// What an SQLite error before `COMMIT` means to the caller (<https://sqlite.org/rescode.html>).
fn classify(source: Arc<rusqlite::Error>) -> StoreError {
    use rusqlite::ErrorCode;
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { source },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { what: "the database".to_owned(), source }
        }
        _ => StoreError::Unavailable { retry_after: Duration::from_secs(1), source },
    }
}
