//! The one thread that writes: group commit, leases, checkpoints, and what to do when the disk fails.
//!
//! ```text
//!  healthy ── COMMIT fails with an I/O error ──> suspect: the group is answered Unknown
//!     ^                                             │ nothing is written or answered but Unavailable
//!     └── rolled back, checkpointed, state reloaded ┘ (tried before each turn)
//! ```
//!
//! After a failed fsync the kernel may have dropped the dirty pages (fsync(2)), and the WAL may or may not hold the
//! group. Checkpointing with `TRUNCATE` settles it: what SQLite holds committed is then synced in the database file, and
//! the rest is cut off.
//!
//! A full disk is no such case: SQLite writes the frame that commits last, so when a write fails nothing was
//! committed, and the next turn simply tries again.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::open::LockFile;
use super::reader::{self, current_rev};
use super::reserve::Reserve;
use super::{Shared, classify};
use crate::changes::Change;
use crate::error::{Fence, StoreError};
use crate::key::Key;
use crate::lease::LeaseId;
use crate::limits::MAX_TXN_BYTES;
use crate::settled::{Fate, Fates};
use crate::store::Rev;
use crate::txn::{Commit, Txn, Write, check_fence, check_pre};

/// Commands of one group: bounds how long the first waits for the last.
const MAX_GROUP: usize = 256;
/// Bytes of values after which a group takes no more commands.
const MAX_GROUP_BYTES: usize = MAX_TXN_BYTES;
/// WAL frames (4 KiB pages) above which the writer checkpoints; SQLite's own default.
const CHECKPOINT_FRAMES: i64 = 1000;
/// Groups between two looks at the length of the WAL.
const CHECKPOINT_EVERY: u32 = 32;
/// Old fates a group may forget: more than it can add.
const FORGET_PER_GROUP: usize = 2 * MAX_GROUP;
/// How soon the writer tries again what the disk did not let it do.
const RETRY: Duration = Duration::from_secs(1);

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer can be asked. All are answered in the order they came.
pub(super) enum Command {
    Commit(Txn, Answer<Commit>),
    Outcome(Uuid, Answer<Option<Rev>>),
    Grant(Duration, Answer<LeaseId>),
    Revoke(LeaseId, Answer<()>),
}

impl Command {
    fn bytes(&self) -> usize {
        let Self::Commit(txn, _) = self else { return 0 };
        let size = |write: &Write| if let Write::Put { value, .. } = write { value.len() } else { 0 };
        txn.writes.iter().map(size).sum()
    }

    // A caller that stopped waiting is not a fault, so what `send` says is dropped here and below.

    fn answer(self, verdict: Verdict) {
        match (self, verdict) {
            (Self::Commit(_, answer), Verdict::Commit(result)) => drop(answer.send(result)),
            (Self::Outcome(_, answer), Verdict::Outcome(fate)) => drop(answer.send(Ok(fate))),
            (Self::Grant(_, answer), Verdict::Granted(id)) => drop(answer.send(Ok(id))),
            (Self::Revoke(_, answer), Verdict::Revoked) => drop(answer.send(Ok(()))),
            _ => unreachable!("`apply` gives each command a verdict of its own kind"),
        }
    }

    fn refuse(self, error: StoreError) {
        match self {
            Self::Commit(_, answer) => drop(answer.send(Err(error))),
            Self::Outcome(_, answer) => drop(answer.send(Err(error))),
            Self::Grant(_, answer) => drop(answer.send(Err(error))),
            Self::Revoke(_, answer) => drop(answer.send(Err(error))),
        }
    }

    /// Answers after a `COMMIT` of which nobody knows whether it happened.
    fn leave_open(self, error: StoreError) {
        match self {
            Self::Commit(_, answer) => drop(answer.send(Ok(Commit::Unknown))),
            other => other.refuse(error),
        }
    }
}

/// The answer to a command, for when it is durable.
enum Verdict {
    Commit(Result<Commit, StoreError>),
    Outcome(Fate),
    Granted(LeaseId),
    Revoked,
}

/// Everything a group changes besides the database; kept only if its `COMMIT` succeeds.
struct Group {
    rev: Rev,
    now: Duration,
    changes: Vec<Change>,
    fates: Vec<(Uuid, Fate, Rev)>,
    granted: Vec<(LeaseId, Duration)>,
    revoked: Vec<LeaseId>,
}

impl Group {
    fn new(rev: Rev, now: Duration) -> Self {
        let (changes, fates, granted, revoked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { rev, now, changes, fates, granted, revoked }
    }

    fn changed(&mut self, key: Key, value: Option<Bytes>) {
        self.changes.push(Change { rev: self.rev, key, value });
    }
}

/// What `load` finds: the revision, recent fates, and leases with their times.
type Loaded = (Rev, Fates, Vec<(LeaseId, Duration)>);

pub(super) struct Writer {
    db: Connection,
    lock: LockFile,
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    rev: Rev,
    fates: Fates,
    groups: u32,
    /// Set after a `COMMIT` whose outcome is not known.
    suspect: bool,
    /// Set when the keys of an ended lease could not be deleted.
    behind: bool,
    reserve: Option<Reserve>,
}

impl Writer {
    pub(super) fn new(
        db: Connection,
        lock: LockFile,
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Command>,
        rev: Rev,
        fates: Fates,
    ) -> Self {
        Self { db, lock, shared, queue, rev, fates, groups: 0, suspect: false, behind: false, reserve: None }
    }

    /// Keeps a reserve from now on.
    pub(super) fn with(self, reserve: Option<Reserve>) -> Self {
        Self { reserve, ..self }
    }

    /// Reads what the writer keeps in memory. Ages begin anew: a fate is then kept longer, never shorter.
    pub(super) fn load(db: &Connection, now: Duration) -> rusqlite::Result<Loaded> {
        let mut fates = Fates::default();
        let mut rows =
            db.prepare("SELECT rev, txn, applied FROM revision WHERE txn IS NOT NULL ORDER BY rev")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let rev = reader::rev(row, 0)?;
            let fate = row.get::<_, bool>(2)?.then_some(rev);
            fates.record(Uuid::from_bytes(row.get(1)?), fate, rev, now);
        }
        let mut leases = db.prepare("SELECT id, ttl_ms FROM lease")?;
        let leases = leases.query_map([], |row| {
            let ttl = Duration::from_millis(row.get::<_, i64>(1)?.cast_unsigned());
            Ok((LeaseId(row.get::<_, i64>(0)?.cast_unsigned()), ttl))
        })?;
        Ok((current_rev(db)?, fates, leases.collect::<rusqlite::Result<_>>()?))
    }

    pub(super) fn spawn(self) -> io::Result<JoinHandle<()>> {
        // A runtime of its own, only for waiting on the queue with a deadline.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || self.run(&runtime))
    }

    fn run(mut self, runtime: &Runtime) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        if let Some(reserve) = &mut self.reserve {
            reserve.begin(&self.db);
        }
        loop {
            match runtime.block_on(self.first()) {
                Wake::Command(first) => group.push(first),
                Wake::Deadline => self.make_up_reserve(),
                Wake::Closed => break,
            }
            let mut bytes = group.first().map_or(0, Command::bytes);
            while !group.is_empty() && group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
                let Ok(command) = self.queue.try_recv() else { break };
                bytes += command.bytes();
                group.push(command);
            }
            self.turn(&mut group);
        }
        self.close();
    }

    async fn first(&mut self) -> Wake {
        let received =
            |command| if let Some(command) = command { Wake::Command(command) } else { Wake::Closed };
        let next = self.shared.deadlines.next(self.shared.clock.now());
        let wait = if self.behind || self.suspect { Some(RETRY) } else { next };
        let due_in = self.reserve.as_ref().and_then(Reserve::due_in);
        let Some(wait) = wait.into_iter().chain(due_in).min() else {
            return received(self.queue.recv().await);
        };
        tokio::time::timeout(wait, self.queue.recv()).await.map_or(Wake::Deadline, received)
    }

    fn turn(&mut self, commands: &mut Vec<Command>) {
        if self.suspect
            && let Err(error) = self.recover()
        {
            let error = classify(Arc::new(error));
            commands.drain(..).for_each(|command| command.refuse(error.clone()));
            return;
        }
        match self.write_or_make_room(commands) {
            Ok(verdicts) => {
                commands.drain(..).zip(verdicts).for_each(|(command, verdict)| command.answer(verdict));
                neargate_failpoint::reach("store::answer::after");
            }
            Err(failure) => self.fail(failure, commands),
        }
        self.checkpoint_if_long();
    }

    /// Writes; on a full disk once more, after the WAL was emptied: it is then written from its start again.
    fn write_or_make_room(&mut self, commands: &[Command]) -> Result<Vec<Verdict>, Failure> {
        let failure = match self.write(commands) {
            Ok(verdicts) => return Ok(verdicts),
            Err(failure) => failure,
        };
        let is_full = failure.source.sqlite_error_code() == Some(ErrorCode::DiskFull);
        let rolled_back = self.db.is_autocommit() || self.run_sql("ROLLBACK").is_ok();
        match is_full && rolled_back && self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)").is_ok() {
            true => self.write(commands),
            false => Err(failure),
        }
    }

    /// One SQLite transaction with everything that is due.
    fn write(&mut self, commands: &[Command]) -> Result<Vec<Verdict>, Failure> {
        let before = |source| Failure { at_commit: false, source };
        let now = self.shared.clock.now();
        let mut group = Group::new(self.rev, now);
        let ended = self.shared.deadlines.ended(now);
        self.run_sql("BEGIN IMMEDIATE").map_err(before)?;
        self.end_leases(&mut group, &ended).map_err(before)?;
        let verdicts: Vec<_> = commands
            .iter()
            .map(|command| self.apply(&mut group, command))
            .collect::<rusqlite::Result<_>>()
            .map_err(before)?;
        if let Some(forgotten) = self.fates.forget_old(now, FORGET_PER_GROUP) {
            self.forget(forgotten).map_err(before)?;
        }
        neargate_failpoint::reach("store::commit::before");
        self.run_sql("COMMIT").map_err(|source| Failure { at_commit: true, source })?;
        neargate_failpoint::reach("store::commit::after");
        self.keep(group, &ended);
        Ok(verdicts)
    }

    fn apply(&self, group: &mut Group, command: &Command) -> rusqlite::Result<Verdict> {
        Ok(match command {
            Command::Commit(txn, _) => Verdict::Commit(self.commit(group, txn)?),
            Command::Outcome(id, _) => Verdict::Outcome(self.outcome(group, *id)?),
            Command::Grant(ttl, _) => Verdict::Granted(self.grant(group, *ttl)?),
            Command::Revoke(id, _) => {
                self.end_leases(group, &[*id])?;
                group.revoked.push(*id);
                Verdict::Revoked
            }
        })
    }

    fn commit(&self, group: &mut Group, txn: &Txn) -> rusqlite::Result<Result<Commit, StoreError>> {
        match self.fate(group, txn.id) {
            Some(Some(rev)) => return Ok(Ok(Commit::Done(rev))),
            Some(None) => return Ok(Err(StoreError::Fenced(Fence::Txn(txn.id)))),
            None => {}
        }
        let alive = |lease| self.shared.deadlines.alive(lease, group.now);
        if let Some(conflict) = check_pre(&txn.pre, |key| reader::entry(&self.db, key), alive)? {
            return Ok(Ok(conflict));
        }
        if let Err(fenced) = check_fence(&txn.writes, alive) {
            return Ok(Err(fenced));
        }
        let rev = self.advance(group, Some((txn.id, true)))?;
        for write in &txn.writes {
            self.apply_write(group, write)?;
        }
        Ok(Ok(Commit::Done(rev)))
    }

    fn outcome(&self, group: &mut Group, id: Uuid) -> rusqlite::Result<Fate> {
        if let Some(fate) = self.fate(group, id) {
            return Ok(fate);
        }
        self.advance(group, Some((id, false)))?;
        Ok(None)
    }

    fn grant(&self, group: &mut Group, ttl: Duration) -> rusqlite::Result<LeaseId> {
        let id = LeaseId(self.advance(group, None)?.get());
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.db.prepare_cached("INSERT INTO lease VALUES (?1, ?2)")?.execute((signed(id.0), ttl_ms))?;
        group.granted.push((id, ttl));
        Ok(id)
    }

    fn fate(&self, group: &Group, id: Uuid) -> Option<Fate> {
        let staged = group.fates.iter().find(|(staged, ..)| *staged == id).map(|(_, fate, _)| *fate);
        staged.or_else(|| self.fates.get(id))
    }

    /// Takes the next revision and records whose it is: a transaction that was applied or given up, or a lease.
    fn advance(&self, group: &mut Group, txn: Option<(Uuid, bool)>) -> rusqlite::Result<Rev> {
        group.rev = group.rev.next();
        let rev = group.rev;
        let (id, applied) = txn.map_or((None, true), |(id, applied)| (Some(id), applied));
        let mut insert = self.db.prepare_cached("INSERT INTO revision VALUES (?1, ?2, ?3)")?;
        insert.execute((signed(rev.get()), id.as_ref().map(|id| id.as_bytes()), applied))?;
        group.fates.extend(id.map(|id| (id, applied.then_some(rev), rev)));
        Ok(rev)
    }

    fn apply_write(&self, group: &mut Group, write: &Write) -> rusqlite::Result<()> {
        match write {
            Write::Put { key, value, lease } => {
                let mut put = self.db.prepare_cached(PUT)?;
                let (rev, lease) = (signed(group.rev.get()), lease.map(|lease| signed(lease.0)));
                put.execute((key.as_bytes(), &value[..], rev, lease))?;
                group.changed(key.clone(), Some(value.clone()));
            }
            Write::Delete(key) => {
                let mut delete = self.db.prepare_cached("DELETE FROM kv WHERE key = ?1")?;
                if delete.execute([key.as_bytes()])? > 0 {
                    group.changed(key.clone(), None);
                }
            }
            Write::DeletePrefix(prefix) => {
                let range = (prefix.as_bytes(), prefix.prefix_end());
                let sql = "DELETE FROM kv WHERE key >= ?1 AND key < ?2 RETURNING key";
                self.delete(group, sql, (range.0, range.1.as_bytes()))?;
            }
        }
        Ok(())
    }

    fn end_leases(&self, group: &mut Group, ended: &[LeaseId]) -> rusqlite::Result<()> {
        if ended.is_empty() {
            return Ok(());
        }
        self.advance(group, None)?;
        for id in ended {
            self.delete(group, "DELETE FROM kv WHERE lease = ?1 RETURNING key", [signed(id.0)])?;
            self.db.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([signed(id.0)])?;
        }
        Ok(())
    }

    fn delete(&self, group: &mut Group, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
        let mut delete = self.db.prepare_cached(sql)?;
        let keys = delete.query_map(params, |row| row.get::<_, Vec<u8>>(0).map(Key::from))?;
        let mut keys = keys.collect::<rusqlite::Result<Vec<_>>>()?;
        // SQLite promises no order for RETURNING (<https://sqlite.org/lang_returning.html>), a watch does.
        keys.sort_unstable();
        keys.into_iter().for_each(|key| group.changed(key, None));
        Ok(())
    }

    /// Removes the records of old fates, but never the newest revision, which is the store's own.
    fn forget(&self, up_to: Rev) -> rusqlite::Result<()> {
        let sql = "DELETE FROM revision WHERE rev <= ?1 AND rev < (SELECT max(rev) FROM revision)";
        self.db.prepare_cached(sql)?.execute([signed(up_to.get())])?;
        Ok(())
    }

    /// After `COMMIT`: brings memory up to what is durable, and lets the watches know.
    fn keep(&mut self, group: Group, ended: &[LeaseId]) {
        for (id, fate, rev) in group.fates {
            self.fates.record(id, fate, rev, group.now);
        }
        for (id, ttl) in group.granted {
            self.shared.deadlines.grant(id, ttl, group.now);
        }
        self.shared.deadlines.forget(ended);
        self.shared.deadlines.forget(&group.revoked);
        self.behind = false;
        if group.rev > self.rev {
            self.rev = group.rev;
            self.shared.recent.advance(group.rev, &group.changes);
            self.shared.log.publish(group.rev, group.changes, group.now);
        }
    }

    fn fail(&mut self, failure: Failure, commands: &mut Vec<Command>) {
        let io_error = failure.source.sqlite_error_code() == Some(ErrorCode::SystemIoFailure);
        let rolled_back = self.db.is_autocommit() || self.run_sql("ROLLBACK").is_ok();
        self.suspect = !rolled_back || (failure.at_commit && io_error);
        self.behind = true;
        let source = Arc::new(failure.source);
        tracing::warn!(error = %source, commands = commands.len(), suspect = self.suspect, "the store could not write");
        let error = classify(source);
        let open = failure.at_commit && self.suspect;
        for command in commands.drain(..) {
            if open { command.leave_open(error.clone()) } else { command.refuse(error.clone()) }
        }
    }

    /// Settles what an I/O error left open: see the module's text.
    fn recover(&mut self) -> rusqlite::Result<()> {
        if !self.db.is_autocommit() {
            self.run_sql("ROLLBACK")?;
        }
        self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")?;
        let now = self.shared.clock.now();
        let (rev, fates, _) = Self::load(&self.db, now)?;
        if rev > self.rev {
            // The group was committed after all. Its changes were never published, so no watch may go on.
            self.shared.recent.restart(rev);
            self.shared.log.restart(rev);
        }
        (self.rev, self.fates, self.suspect) = (rev, fates, false);
        if let Some(reserve) = &self.reserve {
            reserve.hold_wal();
        }
        tracing::info!(%rev, "the store can write again");
        Ok(())
    }

    fn checkpoint_if_long(&mut self) {
        self.groups += 1;
        if self.suspect || !self.groups.is_multiple_of(CHECKPOINT_EVERY) {
            return;
        }
        let frames = self.checkpoint("PRAGMA wal_checkpoint(NOOP)");
        let result = frames.and_then(|frames| {
            if frames > CHECKPOINT_FRAMES {
                self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
            } else {
                Ok(frames)
            }
        });
        if let Err(error) = result {
            // The WAL keeps what was acknowledged and grows until a checkpoint succeeds.
            tracing::warn!(%error, "the store could not checkpoint");
        }
        match self.reserve.as_mut().map(|reserve| reserve.look(&self.db)) {
            Some(Ok(true)) => self.make_up_reserve(),
            Some(Err(error)) => tracing::warn!(%error, "the store's reserve could not be looked at"),
            Some(Ok(false)) | None => {}
        }
    }

    fn make_up_reserve(&mut self) {
        if !self.suspect
            && let Some(reserve) = self.reserve.as_mut().filter(|reserve| reserve.due_in().is_some())
        {
            reserve.make_up(&self.db);
        }
    }

    /// Runs a checkpoint pragma and returns the frames in the WAL (<https://sqlite.org/pragma.html#pragma_wal_checkpoint>).
    fn checkpoint(&self, pragma: &str) -> rusqlite::Result<i64> {
        let (busy, frames) =
            self.db.query_row(pragma, [], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?)))?;
        if busy && pragma.contains("TRUNCATE") {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                Some("a reader is in the way of the checkpoint".to_owned()),
            ));
        }
        Ok(frames)
    }

    fn run_sql(&self, sql: &str) -> rusqlite::Result<()> {
        self.db.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn close(mut self) {
        self.shared.log.close();
        let clean = !self.suspect && self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)").is_ok();
        self.db.flush_prepared_statement_cache();
        if let Err((_, error)) = self.db.close() {
            tracing::warn!(%error, "the store did not close cleanly; the next start checks it");
        } else if clean && let Err(error) = self.lock.mark_clean() {
            tracing::warn!(%error, "the store's lock file could not be emptied; the next start checks the store");
        }
    }
}

const PUT: &str = "INSERT INTO kv (key, value, rev, lease) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, rev = excluded.rev, lease = excluded.lease";

/// SQLite's integers are signed; ours never reach the sign.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

enum Wake {
    Command(Command),
    Deadline,
    Closed,
}

/// A group that was not, or perhaps not, committed.
struct Failure {
    at_commit: bool,
    source: rusqlite::Error,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::{ChangeLog, LogWatch};
    use crate::lease::Deadlines;
    use crate::sqlite::SqliteStore;
    use crate::sqlite::recent::Recent;
    use crate::store::{WatchItem, WatchSource};
    use crate::testing::ManualClock;

    /// A writer on a new store, without its thread.
    fn writer(dir: &tempfile::TempDir) -> Writer {
        let path = dir.path().join("store.db");
        drop(SqliteStore::open(&path).unwrap());
        let db = Connection::open(&path).unwrap();
        let (rev, fates, _) = Writer::load(&db, Duration::ZERO).unwrap();
        let shared = Shared {
            log: Arc::new(ChangeLog::new(rev)),
            deadlines: Deadlines::default(),
            clock: Arc::new(ManualClock::default()),
            recent: Recent::new(rev),
        };
        let (_, queue) = mpsc::channel(1);
        Writer::new(db, LockFile::take(&path).unwrap(), Arc::new(shared), queue, rev, fates)
    }

    /// Fails a group as an fsync that returns EIO does, with `db` left as the test made it.
    fn fail_commit(writer: &mut Writer, txn: &Txn) -> Result<Commit, StoreError> {
        let (answer, mut answered) = oneshot::channel();
        let eio = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        let failure = Failure { at_commit: true, source: rusqlite::Error::SqliteFailure(eio, None) };
        writer.fail(failure, &mut vec![Command::Commit(txn.clone(), answer)]);
        assert!(writer.suspect);
        answered.try_recv().unwrap()
    }

    fn outcome(writer: &mut Writer, id: Uuid) -> Option<Rev> {
        let (answer, mut answered) = oneshot::channel();
        writer.turn(&mut vec![Command::Outcome(id, answer)]);
        answered.try_recv().unwrap().unwrap()
    }

    #[test]
    fn a_commit_lost_to_the_disk_is_unknown_then_settled() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir);
        let txn = Txn::fresh().put("a", "1");
        writer.run_sql("BEGIN IMMEDIATE").unwrap();
        let mut group = Group::new(writer.rev, Duration::ZERO);
        assert!(matches!(writer.commit(&mut group, &txn).unwrap(), Ok(Commit::Done(_))));
        assert_eq!(fail_commit(&mut writer, &txn).unwrap(), Commit::Unknown);
        assert_eq!(outcome(&mut writer, txn.id), None);
        assert!(!writer.suspect);
        assert_eq!(reader::entry(&writer.db, &Key::from("a")).unwrap(), None);
    }

    #[tokio::test]
    async fn a_commit_that_reached_the_disk_is_unknown_then_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir);
        let mut watch = LogWatch::new(writer.shared.log.clone(), Key::from(""), Rev::ZERO);
        let txn = Txn::fresh().put("a", "1");
        writer.run_sql("BEGIN IMMEDIATE").unwrap();
        let mut group = Group::new(writer.rev, Duration::ZERO);
        assert!(matches!(writer.commit(&mut group, &txn).unwrap(), Ok(Commit::Done(_))));
        writer.run_sql("COMMIT").unwrap();
        assert_eq!(fail_commit(&mut writer, &txn).unwrap(), Commit::Unknown);
        assert_eq!(outcome(&mut writer, txn.id), Some(group.rev));
        assert_eq!(writer.shared.recent.rev(), group.rev, "readers may ask for it");
        assert_eq!(watch.next().await, WatchItem::Gone { compacted: group.rev }, "its change was never told");
    }

    #[test]
    fn while_the_disk_fails_nothing_is_promised() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(&dir);
        let txn = Txn::fresh().put("a", "1");
        assert_eq!(fail_commit(&mut writer, &txn).unwrap(), Commit::Unknown);
        // A reader inside a snapshot keeps the checkpoint from finishing.
        writer.run_sql("INSERT INTO lease VALUES (99, 1)").unwrap();
        let reader = Connection::open(dir.path().join("store.db")).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM kv;").unwrap();
        writer.db.busy_timeout(Duration::ZERO).unwrap();
        let (answer, mut answered) = oneshot::channel();
        writer.turn(&mut vec![Command::Outcome(txn.id, answer)]);
        let refused = answered.try_recv().unwrap();
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        drop(reader);
        assert_eq!(outcome(&mut writer, txn.id), None);
    }
}
