//! The bounded log of recent changes that watches read from.
//!
//! It lives in memory on every local backend, SQLite too. Everyone who watches a local store is in its process and
//! scans when it starts, so a log on disk would double the bytes behind every fsync to serve nobody. Across a
//! restart a watch is `Gone`, as it is across a compaction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::key::Key;
use crate::limits::{MAX_LOG_AGE, MAX_LOG_BYTES, MAX_LOG_CHANGES};
use crate::store::{Entry, Rev, WatchItem, WatchSource};

/// How many changes a watch takes from the log in one visit.
const MAX_READ: usize = 256;

/// One key written or deleted.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) rev: Rev,
    pub(crate) key: Key,
    /// `None`: deleted.
    pub(crate) value: Option<Bytes>,
}

impl Change {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    fn item(&self) -> WatchItem {
        let Self { rev, key, value } = self.clone();
        match value {
            Some(value) => WatchItem::Put(Entry { key, value, rev }),
            None => WatchItem::Delete(key, rev),
        }
    }
}

#[derive(Debug)]
pub(crate) struct ChangeLog {
    log: Mutex<Log>,
    /// Wakes the watches; says whether the store is still open.
    wake: watch::Sender<bool>,
}

#[derive(Debug)]
struct Log {
    changes: VecDeque<(Duration, Change)>,
    /// The number of the first change in `changes`, counted from the opening of the store.
    first: u64,
    bytes: usize,
    /// Changes up to here are forgotten.
    compacted: Rev,
    /// Everything up to here has been published.
    rev: Rev,
}

impl ChangeLog {
    /// A log that begins after `rev`.
    pub(crate) fn new(rev: Rev) -> Self {
        let log = Log { changes: VecDeque::new(), first: 0, bytes: 0, compacted: rev, rev };
        Self { log: Mutex::new(log), wake: watch::Sender::new(true) }
    }

    /// Appends what happened up to `rev`. Callers must publish in revision order.
    pub(crate) fn publish(&self, rev: Rev, changes: Vec<Change>, now: Duration) {
        {
            let mut log = self.lock();
            log.rev = rev;
            for change in changes {
                log.bytes += change.bytes();
                log.changes.push_back((now, change));
            }
            log.compact(now);
        }
        self.wake.send_replace(true);
    }

    /// Forgets everything: changes up to `rev` happened that were never published, so every watch is `Gone`.
    pub(crate) fn restart(&self, rev: Rev) {
        {
            let mut log = self.lock();
            // One number is skipped, so that a watch at the very end is stranded too.
            log.first += log.changes.len() as u64 + 1;
            log.changes.clear();
            (log.bytes, log.compacted, log.rev) = (0, rev, rev);
        }
        self.wake.send_replace(true);
    }

    /// Ends every watch once it has told what is in the log.
    pub(crate) fn close(&self) {
        self.wake.send_replace(false);
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // A panic while the log is held could at worst have left `bytes` wrong, which only moves a bound.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn compact(&mut self, now: Duration) {
        while let Some((at, oldest)) = self.changes.front() {
            let keep = self.changes.len() <= MAX_LOG_CHANGES
                && self.bytes <= MAX_LOG_BYTES
                && *at + MAX_LOG_AGE >= now;
            if keep {
                break;
            }
            self.bytes -= oldest.bytes();
            self.compacted = oldest.rev;
            self.first += 1;
            self.changes.pop_front();
        }
    }
}

/// A watch's place in the log.
#[derive(Debug, Clone, Copy)]
enum Place {
    After(Rev),
    At(u64),
}

/// What a visit to the log found.
enum Read {
    More,
    /// The end of the log, which is at this revision.
    End(Rev),
    Gone(Rev),
}

/// A watch that reads the log.
#[derive(Debug)]
pub(crate) struct LogWatch {
    log: Arc<ChangeLog>,
    wake: watch::Receiver<bool>,
    prefix: Key,
    place: Place,
    ready: VecDeque<WatchItem>,
    /// The last revision the caller knows to be complete.
    told: Rev,
}

impl LogWatch {
    pub(crate) fn new(log: Arc<ChangeLog>, prefix: Key, after: Rev) -> Self {
        let wake = log.wake.subscribe();
        Self { log, wake, prefix, place: Place::After(after), ready: VecDeque::new(), told: after }
    }

    /// Moves matching changes from the log to `ready`.
    fn read(&mut self) -> Read {
        let log = self.log.lock();
        let from = match self.place {
            Place::After(rev) if rev < log.compacted => return Read::Gone(log.compacted),
            Place::After(rev) => log.changes.partition_point(|(_, change)| change.rev <= rev),
            Place::At(number) if number < log.first => return Read::Gone(log.compacted),
            Place::At(number) => {
                usize::try_from(number - log.first).expect("the log holds at most MAX_LOG_CHANGES")
            }
        };
        let to = log.changes.len().min(from + MAX_READ);
        let seen = log.changes.range(from..to).map(|(_, change)| change);
        self.ready.extend(seen.filter(|change| change.key.starts_with(&self.prefix)).map(Change::item));
        // A number, not a revision: the next visit may begin inside a transaction.
        self.place = Place::At(log.first + to as u64);
        if to == log.changes.len() { Read::End(log.rev) } else { Read::More }
    }
}

#[async_trait]
impl WatchSource for LogWatch {
    async fn next(&mut self) -> WatchItem {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return item;
            }
            // Marked as seen before the log is read, so a change published in between wakes us below.
            let open = *self.wake.borrow_and_update();
            let end = match self.read() {
                Read::More => continue,
                Read::Gone(compacted) => return WatchItem::Gone { compacted },
                Read::End(end) => end,
            };
            if end > self.told {
                self.told = end;
                self.ready.push_back(WatchItem::Progress(end));
            }
            if !self.ready.is_empty() {
                continue;
            }
            if !open || self.wake.changed().await.is_err() {
                return WatchItem::Gone { compacted: end };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(rev: u64, key: &str) -> Change {
        Change { rev: Rev::from(rev), key: Key::from(key), value: Some(Bytes::from_static(b"v")) }
    }

    fn publish(log: &ChangeLog, rev: u64, keys: &[&str], now: Duration) {
        log.publish(Rev::from(rev), keys.iter().map(|key| put(rev, key)).collect(), now);
    }

    fn key_of(item: &WatchItem) -> String {
        match item {
            WatchItem::Put(entry) => entry.key.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn one_large_revision_is_told_whole_and_in_order() {
        let log = Arc::new(ChangeLog::new(Rev::ZERO));
        let keys: Vec<String> = (0..MAX_READ * 2 + 7).map(|n| format!("k{n:04}")).collect();
        publish(&log, 1, &keys.iter().map(String::as_str).collect::<Vec<_>>(), Duration::ZERO);
        let mut watch = LogWatch::new(log, Key::from("k"), Rev::ZERO);
        for key in &keys {
            assert_eq!(&key_of(&watch.next().await), key);
        }
        assert_eq!(watch.next().await, WatchItem::Progress(Rev::from(1)));
    }

    #[tokio::test]
    async fn age_compacts_and_strands_the_slow() {
        let log = Arc::new(ChangeLog::new(Rev::ZERO));
        publish(&log, 1, &["a"], Duration::ZERO);
        let mut slow = LogWatch::new(log.clone(), Key::from(""), Rev::ZERO);
        let late = MAX_LOG_AGE + Duration::from_secs(1);
        publish(&log, 2, &["b"], late);
        let gone = WatchItem::Gone { compacted: Rev::from(1) };
        assert_eq!(slow.next().await, gone);
        assert_eq!(slow.next().await, gone, "gone is final");
        let mut fresh = LogWatch::new(log, Key::from(""), Rev::from(1));
        assert_eq!(key_of(&fresh.next().await), "b");
    }

    #[tokio::test]
    async fn number_and_bytes_compact_too() {
        let log = Arc::new(ChangeLog::new(Rev::ZERO));
        let value = Bytes::from(vec![0; MAX_LOG_BYTES / 2]);
        for rev in 1..=3 {
            let change = Change { rev: Rev::from(rev), key: Key::from("big"), value: Some(value.clone()) };
            log.publish(Rev::from(rev), vec![change], Duration::ZERO);
        }
        assert_eq!(log.lock().compacted, Rev::from(2));
        for rev in 4..(4 + MAX_LOG_CHANGES as u64) {
            publish(&log, rev, &["k"], Duration::ZERO);
        }
        assert_eq!(log.lock().changes.len(), MAX_LOG_CHANGES);
        assert_eq!(log.lock().compacted, Rev::from(3));
    }

    #[tokio::test]
    async fn a_restart_strands_every_watch() {
        let log = Arc::new(ChangeLog::new(Rev::ZERO));
        publish(&log, 1, &["a"], Duration::ZERO);
        let mut watch = LogWatch::new(log.clone(), Key::from(""), Rev::from(1));
        let told = tokio::time::timeout(Duration::ZERO, watch.next()).await;
        assert!(told.is_err(), "nothing to tell: {told:?}");
        log.restart(Rev::from(2));
        assert_eq!(watch.next().await, WatchItem::Gone { compacted: Rev::from(2) });
    }

    #[tokio::test]
    async fn a_closed_log_tells_its_rest_then_ends() {
        let log = Arc::new(ChangeLog::new(Rev::ZERO));
        let mut watch = LogWatch::new(log.clone(), Key::from(""), Rev::ZERO);
        publish(&log, 1, &["a"], Duration::ZERO);
        log.close();
        assert_eq!(key_of(&watch.next().await), "a");
        assert_eq!(watch.next().await, WatchItem::Progress(Rev::from(1)));
        assert_eq!(watch.next().await, WatchItem::Gone { compacted: Rev::from(1) });
    }
}
