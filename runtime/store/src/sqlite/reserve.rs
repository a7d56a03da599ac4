//! Room kept for a full disk: free pages in the database, and blocks beyond the end of the WAL.
//!
//! SQLite takes free pages before it makes its file longer, and gives them back to nobody
//! (<https://sqlite.org/fileformat2.html#the_freelist>), so that a database with some of them takes writes that the disk
//! has no room for. They come from a row that is written, checkpointed and deleted. The database uses them up as it
//! grows; they are made up for when the writer is idle, or when few are left, and only while the disk has room.
//!
//! What is committed must also fit into the file, or the WAL could never be emptied, and nothing could be written any
//! more. That the disk had room when it was asked does not help: to write the row takes tenths of a second on a busy
//! disk, in which others can fill it. So the file is made as long as the row will need it before the row is written.
//!
//! The WAL is written from its start again once all of it is checkpointed, and keeps its blocks meanwhile.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, FileControl, MAIN_DB};
use rustix::fs::{FallocateFlags, fallocate};

/// How long the writer must have had nothing to do before pages are made up for, which takes some hundredths of a second.
const IDLE: Duration = Duration::from_millis(100);

/// How soon it is tried again where the disk has no room.
const RETRY: Duration = Duration::from_secs(1);

/// The row that holds the pages while they are made.
const ROW: &str = "reserve";

/// What else the database and the WAL need for the row, as a part of it: the headers of frames, and pages of the tree.
const OVERHEAD_PART: u64 = 32;

/// How much is kept, and where.
pub(super) struct Reserve {
    bytes: u64,
    /// Whether the disk has room for more.
    has_room: Box<dyn Fn() -> bool + Send>,
    wal: PathBuf,
    /// How long the writer has to be idle before pages are made up for; none while there are enough.
    due_in: Option<Duration>,
}

impl Reserve {
    pub(super) fn new(store: &Path, bytes: u64, has_room: Box<dyn Fn() -> bool + Send>) -> Self {
        let mut wal = store.as_os_str().to_owned();
        wal.push("-wal");
        Self { bytes, has_room, wal: PathBuf::from(wal), due_in: None }
    }

    /// Gives the WAL its blocks: after it was made, and after it was truncated.
    pub(super) fn hold_wal(&self) {
        // No lock is lost when this descriptor is closed: SQLite has none on the WAL
        // (<https://sqlite.org/walformat.html#locks>), as it has on the other two files.
        let held = OpenOptions::new().write(true).open(&self.wal).and_then(|wal| {
            fallocate(&wal, FallocateFlags::KEEP_SIZE, 0, with_overhead(self.bytes))
                .map_err(std::io::Error::from)
        });
        if let Err(error) = held {
            tracing::warn!(%error, "no room is kept for the store's WAL; on a full disk ends may be recorded late");
        }
    }

    /// Gives back what an earlier writer has not, and makes what is not there: before the first command, because what
    /// that starts may fill the disk.
    pub(super) fn begin(&mut self, db: &Connection) {
        self.hold_wal();
        match grow_by_pages(db).and_then(|()| give_back(db)).and_then(|()| self.look(db)) {
            Ok(true) => self.make_up(db),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the store's reserve could not be looked at"),
        }
    }

    /// Sees whether pages have to be made up for; returns whether so few are left that it should not wait.
    pub(super) fn look(&mut self, db: &Connection) -> rusqlite::Result<bool> {
        let free = (pragma(db, "PRAGMA freelist_count")? * pragma(db, "PRAGMA page_size")?).cast_unsigned();
        if free >= self.bytes / 4 * 3 {
            self.due_in = None;
        } else {
            self.due_in.get_or_insert(IDLE);
        }
        Ok(free < self.bytes / 4)
    }

    /// How long the writer may wait for a command before it should call [`make_up`](Self::make_up).
    pub(super) fn due_in(&self) -> Option<Duration> {
        self.due_in
    }

    /// Makes up for the pages that were used, if the disk has room.
    pub(super) fn make_up(&mut self, db: &Connection) {
        self.due_in = Some(RETRY);
        // The row of an attempt that failed at its end holds all the pages.
        let made = give_back(db).and_then(|()| {
            let has_room = (self.has_room)();
            if has_room { make(db, self.bytes).map(|()| true) } else { Ok(false) }
        });
        match made {
            Ok(true) => self.due_in = None,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the store could not make up for its reserve"),
        }
    }
}

fn make(db: &Connection, bytes: u64) -> rusqlite::Result<()> {
    // The row then is written from the start of the WAL, where its blocks are.
    checkpoint(db)?;
    hold_database(db, with_overhead(bytes))?;
    db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, zeroblob(?2))")?
        .execute((ROW, bytes.cast_signed()))?;
    // Pages of a transaction that also frees them would never be written.
    checkpoint(db)?;
    give_back(db)
}

fn give_back(db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM meta WHERE name = ?1")?.execute([ROW]).map(drop)
}

fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// Lets the file be made longer ahead of what is written to it, by whole pages
/// (<https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html#sqlitefcntlchunksize>).
fn grow_by_pages(db: &Connection) -> rusqlite::Result<()> {
    let mut page_bytes = db.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    db.file_control(Some(MAIN_DB), FileControl::ChunkSize(&mut page_bytes))
}

/// Makes the file as long as it will be with so many bytes in use more than now, by a write to each of its blocks.
///
/// If the disk has no room for that, or the row cannot be written, the file is longer than its pages, which its header
/// counts: SQLite uses the rest as it grows, or cuts it off after a checkpoint.
fn hold_database(db: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let used = pragma(db, "PRAGMA page_count")? - pragma(db, "PRAGMA freelist_count")?;
    let mut size = used * pragma(db, "PRAGMA page_size")? + bytes.cast_signed();
    db.file_control(Some(MAIN_DB), FileControl::SizeHint(&mut size))
}

fn pragma(db: &Connection, sql: &str) -> rusqlite::Result<i64> {
    db.query_row(sql, [], |row| row.get(0))
}

fn with_overhead(bytes: u64) -> u64 {
    bytes + bytes / OVERHEAD_PART
}
