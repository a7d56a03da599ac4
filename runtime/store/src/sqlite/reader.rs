//! Reads, on the caller's thread.
//!
//! A point read takes a few microseconds, less than handing it to another thread and back would; pages are bounded,
//! so that even the largest holds a tokio worker for about a millisecond. `examples/commit_rate.rs` measures both.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row};

use super::{OpenError, classify};
use crate::error::StoreError;
use crate::key::Key;
use crate::limits::MAX_PAGE_BYTES;
use crate::store::{Entry, Page, Rev};

/// Connections for reading: as many reads run at once; more wait, microseconds, for one to end.
const READERS: usize = 4;

const GET: &str = "SELECT value, rev FROM kv WHERE key = ?1";
const SCAN: &str = "SELECT key, value, rev FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3";
const REV: &str = "SELECT max(rev) FROM revision";

pub(super) struct Readers {
    connections: Vec<Mutex<Connection>>,
    next: AtomicUsize,
}

impl Readers {
    pub(super) fn open(connect: impl Fn() -> Result<Connection, OpenError>) -> Result<Self, OpenError> {
        let connections = (0..READERS).map(|_| connect().map(Mutex::new)).collect::<Result<_, _>>()?;
        Ok(Self { connections, next: AtomicUsize::new(0) })
    }

    /// The entries, and the revision that they are of.
    pub(super) fn get(&self, keys: &[Key]) -> Result<(Rev, Vec<Option<Entry>>), StoreError> {
        let db = self.any();
        let read = || {
            let snapshot = db.unchecked_transaction()?;
            let rev = current_rev(&snapshot)?;
            let mut get = snapshot.prepare_cached(GET)?;
            let entries = keys.iter().map(|key| get_entry(&mut get, key));
            Ok((rev, entries.collect::<rusqlite::Result<_>>()?))
        };
        read().map_err(|error: rusqlite::Error| classify(Arc::new(error)))
    }

    pub(super) fn scan(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page, StoreError> {
        let db = self.any();
        let read = || {
            let snapshot = db.unchecked_transaction()?;
            let rev = current_rev(&snapshot)?;
            let page = scan_page(&snapshot, (prefix, after), limit, rev)?;
            Ok(page)
        };
        read().map_err(|error: rusqlite::Error| classify(Arc::new(error)))
    }

    /// A connection nobody uses, or the next in turn.
    fn any(&self) -> MutexGuard<'_, Connection> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % READERS;
        let mut turn = self.connections.iter().cycle().skip(first).take(READERS);
        turn.find_map(|connection| connection.try_lock().ok())
            // A connection has no state of ours that a panic could have left half-changed.
            .unwrap_or_else(|| self.connections[first].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The newest revision of the snapshot `db` is in.
pub(super) fn current_rev(db: &Connection) -> rusqlite::Result<Rev> {
    db.prepare_cached(REV)?.query_row([], |row| rev(row, 0))
}

/// Reads one key.
pub(super) fn entry(db: &Connection, key: &Key) -> rusqlite::Result<Option<Entry>> {
    get_entry(&mut db.prepare_cached(GET)?, key)
}

fn get_entry(get: &mut CachedStatement<'_>, key: &Key) -> rusqlite::Result<Option<Entry>> {
    get.query_row([key.as_bytes()], |row| {
        Ok(Entry { key: key.clone(), value: blob(row, 0)?, rev: rev(row, 1)? })
    })
    .optional()
}

fn scan_page(
    db: &Connection,
    (prefix, after): (&Key, Option<&Key>),
    limit: u32,
    at: Rev,
) -> rusqlite::Result<Page> {
    let (start, end) = (Key::scan_start(prefix, after), prefix.prefix_end());
    let mut page = Page { entries: Vec::new(), next: None, rev: at };
    let mut bytes = 0;
    let mut scan = db.prepare_cached(SCAN)?;
    // One more than asked tells whether there is a next page.
    let mut rows = scan.query((start.as_bytes(), end.as_bytes(), i64::from(limit) + 1))?;
    while let Some(row) = rows.next()? {
        if page.entries.len() == limit as usize || bytes >= MAX_PAGE_BYTES {
            page.next = page.entries.last().map(|entry| entry.key.clone());
            break;
        }
        let key = Key::from(row.get_ref(0)?.as_blob()?.to_vec());
        let value = blob(row, 1)?;
        bytes += value.len();
        page.entries.push(Entry { key, value, rev: rev(row, 2)? });
    }
    Ok(page)
}

fn blob(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    Ok(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?))
}

pub(super) fn rev(row: &Row<'_>, column: usize) -> rusqlite::Result<Rev> {
    // SQLite's integers are signed; ours begin at zero and cannot reach the sign in the age of the universe.
    row.get::<_, i64>(column).map(|number| Rev::from(number.cast_unsigned()))
}
