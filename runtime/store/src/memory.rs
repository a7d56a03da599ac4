//! The store that forgets: a `BTreeMap` under a mutex.
//!
//! It starts no thread and keeps no timer, so it is deterministic under a paused tokio clock. Leases are ended by
//! whoever comes next: any call, or a watch that sleeps until the next deadline.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::changes::{Change, ChangeLog, LogWatch};
use crate::clock::{Clock, SystemClock};
use crate::error::{Fence, StoreError};
use crate::key::Key;
use crate::lease::{Deadlines, Lease, LeaseId, LeaseKeeper};
use crate::limits::{Limited, MAX_PAGE_BYTES};
use crate::settled::Fates;
use crate::store::{Consistency, Entry, Page, Rev, Store, StoreId, Watch, WatchItem, WatchSource};
use crate::txn::{Commit, Txn, Write, check_fence, check_pre};

/// How many old fates one commit forgets at most: more than it adds, so their number stays bounded.
const FORGET_PER_COMMIT: usize = 4;

/// A store in memory, lost with its last handle.
pub struct MemoryStore {
    id: StoreId,
    shared: Arc<Shared>,
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    pub fn new() -> Limited<Self> {
        Self::with_clock(Arc::new(SystemClock::default()))
    }

    /// An empty store on this clock.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Limited<Self> {
        let shared = Shared {
            state: Mutex::default(),
            deadlines: Deadlines::default(),
            log: Arc::new(ChangeLog::new(Rev::ZERO)),
            clock,
        };
        Limited::new(Self { id: StoreId(Uuid::new_v4()), shared: Arc::new(shared) })
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.shared.log.close();
    }
}

struct Shared {
    state: Mutex<State>,
    deadlines: Deadlines,
    log: Arc<ChangeLog>,
    clock: Arc<dyn Clock>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<Key, Record>,
    rev: Rev,
    fates: Fates,
}

struct Record {
    value: Bytes,
    rev: Rev,
    lease: Option<LeaseId>,
}

#[async_trait]
impl Store for MemoryStore {
    fn id(&self) -> StoreId {
        self.id
    }

    async fn get(&self, keys: &[Key], c: Consistency) -> Result<Vec<Option<Entry>>, StoreError> {
        let (state, _) = self.shared.enter();
        c.admit(state.rev)?;
        Ok(keys.iter().map(|key| state.entry(key)).collect())
    }

    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<Page, StoreError> {
        let (state, _) = self.shared.enter();
        c.admit(state.rev)?;
        Ok(state.page(prefix, after, limit as usize))
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        let (mut state, now) = self.shared.enter();
        state.fates.forget_old(now, FORGET_PER_COMMIT);
        match state.fates.get(txn.id) {
            Some(Some(rev)) => return Ok(Commit::Done(rev)),
            Some(None) => return Err(StoreError::Fenced(Fence::Txn(txn.id))),
            None => {}
        }
        let alive = |lease| self.shared.deadlines.alive(lease, now);
        if let Some(conflict) = check_pre(&txn.pre, |key| Ok::<_, StoreError>(state.entry(key)), alive)? {
            return Ok(conflict);
        }
        check_fence(&txn.writes, alive)?;
        let rev = state.advance();
        let changes = txn.writes.into_iter().flat_map(|write| state.apply(write, rev)).collect();
        state.fates.record(txn.id, Some(rev), rev, now);
        self.shared.log.publish(rev, changes, now);
        Ok(Commit::Done(rev))
    }

    async fn outcome(&self, txn: Uuid) -> Result<Option<Rev>, StoreError> {
        let (mut state, now) = self.shared.enter();
        if let Some(fate) = state.fates.get(txn) {
            return Ok(fate);
        }
        let rev = state.advance();
        state.fates.record(txn, None, rev, now);
        self.shared.log.publish(rev, Vec::new(), now);
        Ok(None)
    }

    fn watch(&self, prefix: Key, after: Rev) -> Watch {
        let log = LogWatch::new(self.shared.log.clone(), prefix, after);
        Watch::new(MemoryWatch { log, shared: self.shared.clone() })
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let (mut state, now) = self.shared.enter();
        let rev = state.advance();
        let id = LeaseId(rev.get());
        self.shared.deadlines.grant(id, ttl, now);
        self.shared.log.publish(rev, Vec::new(), now);
        Ok(Lease::new(id, ttl, self.shared.clone()))
    }
}

impl Shared {
    /// Locks the state after ending the leases that are due.
    fn enter(&self) -> (MutexGuard<'_, State>, Duration) {
        // No caller panics between the first and the last change of a transaction.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let ended = self.deadlines.ended(now);
        if !ended.is_empty() {
            let rev = state.advance();
            let changes = state.end_leases(&ended, rev);
            self.deadlines.forget(&ended);
            self.log.publish(rev, changes, now);
        }
        (state, now)
    }
}

impl State {
    fn advance(&mut self) -> Rev {
        self.rev = self.rev.next();
        self.rev
    }

    fn entry(&self, key: &Key) -> Option<Entry> {
        let record = self.records.get(key)?;
        Some(Entry { key: key.clone(), value: record.value.clone(), rev: record.rev })
    }

    fn page(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Page {
        let (start, end) = (Key::scan_start(prefix, after), prefix.prefix_end());
        let mut page = Page { entries: Vec::new(), next: None, rev: self.rev };
        if start >= end {
            return page;
        }
        let mut bytes = 0;
        for (key, record) in self.records.range((Bound::Included(start), Bound::Excluded(end))) {
            if page.entries.len() == limit || bytes >= MAX_PAGE_BYTES {
                page.next = page.entries.last().map(|entry| entry.key.clone());
                break;
            }
            bytes += record.value.len();
            page.entries.push(Entry { key: key.clone(), value: record.value.clone(), rev: record.rev });
        }
        page
    }

    fn apply(&mut self, write: Write, rev: Rev) -> Vec<Change> {
        match write {
            Write::Put { key, value, lease } => {
                self.records.insert(key.clone(), Record { value: value.clone(), rev, lease });
                vec![Change { rev, key, value: Some(value) }]
            }
            Write::Delete(key) => match self.records.remove(&key) {
                Some(_) => vec![Change { rev, key, value: None }],
                None => Vec::new(),
            },
            Write::DeletePrefix(prefix) => {
                let end = prefix.prefix_end();
                let gone = self.records.extract_if(prefix..end, |_, _| true);
                gone.map(|(key, _)| Change { rev, key, value: None }).collect()
            }
        }
    }

    fn end_leases(&mut self, ended: &[LeaseId], rev: Rev) -> Vec<Change> {
        let due = |record: &mut Record| record.lease.is_some_and(|lease| ended.contains(&lease));
        let gone = self.records.extract_if(.., |_, record| due(record));
        gone.map(|(key, _)| Change { rev, key, value: None }).collect()
    }
}

#[async_trait]
impl LeaseKeeper for Shared {
    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError> {
        self.deadlines.keep_alive(id, self.clock.now())
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        self.deadlines.end(id);
        drop(self.enter());
        Ok(())
    }
}

/// A watch that also ends the leases that come due while it waits, since nobody else may call.
struct MemoryWatch {
    log: LogWatch,
    shared: Arc<Shared>,
}

#[async_trait]
impl WatchSource for MemoryWatch {
    async fn next(&mut self) -> WatchItem {
        loop {
            // A lease granted while we wait takes a revision, which ends the wait with a `Progress`.
            let Some(wait) = self.shared.deadlines.next(self.shared.clock.now()) else {
                return self.log.next().await;
            };
            tokio::select! {
                biased;
                item = self.log.next() => return item,
                () = tokio::time::sleep(wait) => drop(self.shared.enter()),
            }
        }
    }
}
