//! One suite, every backend, each also under injected faults.
//!
//! A test is a generic function over a [`Fixture`]; the macro at the end runs all of them on all fixtures.

#![allow(clippy::unwrap_used, reason = "clippy allows it in #[test] functions, not in what they call")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use neargate_store::limits::{MAX_LOG_AGE, MAX_PAGE_BYTES, MAX_VALUE};
use neargate_store::testing::{Faulty, ManualClock};
use neargate_store::{
    Commit, Consistency, Entry, Fence, Key, MemoryStore, Page, Rev, Settled, SqliteOptions, Store,
    StoreError, Txn, Watch, WatchItem, commit_retrying,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use uuid::Uuid;

const LIN: Consistency = Consistency::Linearizable;

/// An empty store with its clock, and whatever must outlive it.
struct Fixture {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    _dir: Option<tempfile::TempDir>,
}

impl Fixture {
    fn memory() -> Self {
        let clock = Arc::new(ManualClock::default());
        Self { store: Arc::new(MemoryStore::with_clock(clock.clone())), clock, _dir: None }
    }

    fn sqlite() -> Self {
        let clock = Arc::new(ManualClock::default());
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteOptions::default().clock(clock.clone()).open(dir.path().join("store.db")).unwrap();
        Self { store: Arc::new(store), clock, _dir: Some(dir) }
    }

    fn faulty(self, seed: u64) -> Self {
        Self { store: Arc::new(Faulty::new(self.store, seed)), ..self }
    }

    fn faulty_memory() -> Self {
        Self::memory().faulty(1)
    }

    fn faulty_sqlite() -> Self {
        Self::sqlite().faulty(2)
    }

    async fn commit(&self, txn: Txn) -> Settled {
        commit_retrying(&*self.store, txn).await.unwrap()
    }

    async fn done(&self, txn: Txn) -> Rev {
        match self.commit(txn).await {
            Settled::Done(rev) => rev,
            conflict => panic!("{conflict:?}"),
        }
    }

    async fn get(&self, key: &str) -> Option<Entry> {
        let keys = [Key::from(key)];
        insist(|| self.store.get(&keys, LIN)).await.unwrap().pop().unwrap()
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Page {
        insist(|| self.store.scan(prefix, after, limit, LIN)).await.unwrap()
    }

    async fn keys(&self, prefix: &str) -> Vec<String> {
        let page = self.scan(&Key::from(prefix), None, 1000).await;
        page.entries.iter().map(|entry| entry.key.to_string()).collect()
    }

    async fn outcome(&self, id: Uuid) -> Option<Rev> {
        insist(|| self.store.outcome(id)).await.unwrap()
    }

    async fn lease(&self, ttl: Duration) -> neargate_store::Lease {
        insist(|| self.store.lease(ttl)).await.unwrap()
    }
}

/// Repeats a call while the store is unavailable.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(call: impl Fn() -> F) -> Result<T, StoreError> {
    loop {
        match call().await {
            Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
            answer => return answer,
        }
    }
}

/// Waits for the next change, past any progress.
async fn change(watch: &mut Watch) -> WatchItem {
    loop {
        match watch.next().await {
            WatchItem::Progress(_) => {}
            item => return item,
        }
    }
}

fn brief(item: &WatchItem) -> String {
    match item {
        WatchItem::Put(entry) => format!("{}={}", entry.key, entry.value.escape_ascii()),
        WatchItem::Delete(key, _) => format!("-{key}"),
        other => format!("{other:?}"),
    }
}

async fn preconditions_decide(fixture: Fixture) {
    let rev = fixture.done(Txn::fresh().absent("a").put("a", "1")).await;
    let entry = fixture.get("a").await.unwrap();
    assert_eq!((entry.rev, &entry.value[..]), (rev, &b"1"[..]));

    let txn = Txn::fresh().at_rev("a", rev).absent("a").at_rev("b", rev).absent("b").put("a", "2");
    let conflict = Settled::Conflict { failed: vec![1, 2], now: vec![Some(entry), None] };
    assert_eq!(fixture.commit(txn).await, conflict);
    assert_eq!(fixture.get("a").await.unwrap().value, "1", "a conflict changes nothing");

    let later = fixture.done(Txn::fresh().at_rev("a", rev).put("a", "2").put("b", "3")).await;
    assert!(later > rev);
    assert_eq!(fixture.get("b").await.unwrap().rev, later, "one revision for the whole transaction");
    assert!(matches!(
        fixture.commit(Txn::fresh().at_rev("a", rev).delete("a")).await,
        Settled::Conflict { .. }
    ));
    fixture.done(Txn::fresh().at_rev("a", later).delete("a").delete("never-was")).await;
    assert_eq!(fixture.get("a").await, None);
}

async fn prefixes_are_deleted_exactly(fixture: Fixture) {
    let names = ["a", "ab", "b", "b/", "b/1", "b/2", "b0", "c"];
    fixture.done(names.iter().fold(Txn::fresh(), |txn, name| txn.put(*name, *name))).await;
    fixture.done(Txn::fresh().put(vec![0xff, 0xff], "")).await;
    fixture.done(Txn::fresh().delete_prefix("b/").put("d", "")).await;
    assert_eq!(fixture.keys("").await, ["a", "ab", "b", "b0", "c", "d", "\\xff\\xff"]);
    fixture.done(Txn::fresh().delete_prefix(vec![0xff])).await;
    fixture.done(Txn::fresh().delete_prefix("x")).await;
    assert_eq!(fixture.keys("").await, ["a", "ab", "b", "b0", "c", "d"]);
}

async fn pages_cover_everything_once(fixture: Fixture) {
    for chunk in 0..3 {
        let put = |txn: Txn, n: u32| txn.put(format!("p/{:03}", chunk * 50 + n), "v");
        fixture.done((0..50).fold(Txn::fresh(), put)).await;
    }
    let rev = fixture.done(Txn::fresh().put("o", "").put("q", "")).await;
    let (prefix, mut after, mut seen) = (Key::from("p/"), None, Vec::new());
    loop {
        let page = fixture.scan(&prefix, after.as_ref(), 7).await;
        assert!(page.entries.len() <= 7 && page.rev >= rev);
        seen.extend(page.entries.into_iter().map(|entry| entry.key.to_string()));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..150).map(|n| format!("p/{n:03}")).collect::<Vec<_>>());

    for n in 0..=(MAX_PAGE_BYTES / MAX_VALUE) {
        fixture.done(Txn::fresh().put(format!("big/{n}"), vec![0; MAX_VALUE])).await;
    }
    let page = fixture.scan(&Key::from("big/"), None, 1000).await;
    assert_eq!(page.entries.len(), MAX_PAGE_BYTES / MAX_VALUE, "a page ends at its bytes");
    assert_eq!(fixture.scan(&Key::from("big/"), page.next.as_ref(), 1000).await.entries.len(), 1);
    assert_eq!(fixture.scan(&Key::from("o"), Some(&Key::from("z")), 10).await.entries, []);
}

async fn limits_hold(fixture: Fixture) {
    let refused = [
        Txn::fresh().put("k".repeat(513), ""),
        Txn::fresh().put("k", vec![0; MAX_VALUE + 1]),
        (0..101).fold(Txn::fresh(), |txn, n| txn.put(format!("{n}"), "")),
    ];
    for txn in refused {
        let id = txn.id;
        let error = commit_retrying(&*fixture.store, txn).await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
        assert_eq!(fixture.outcome(id).await, None);
    }
    let keys = vec![Key::from("k"); 1001];
    assert!(matches!(insist(|| fixture.store.get(&keys, LIN)).await, Err(StoreError::TooLarge { .. })));
    let full = (0..100).fold(Txn::fresh(), |txn, n| txn.put(format!("{n:0>512}"), vec![0; 9000]));
    fixture.done(full).await;
    assert_eq!(fixture.lease(Duration::from_millis(1)).await.ttl(), Duration::from_secs(1));
    assert_eq!(fixture.lease(Duration::from_millis(1500)).await.ttl(), Duration::from_secs(2));
}

async fn reads_wait_for_nobody_but_refuse_to_lie(fixture: Fixture) {
    let rev = fixture.done(Txn::fresh().put("a", "1")).await;
    let keys = [Key::from("a"), Key::from("b"), Key::from("a")];
    let found = insist(|| fixture.store.get(&keys, Consistency::AtLeast(rev))).await.unwrap();
    assert!(found[0].is_some() && found[1].is_none() && found[2] == found[0]);
    let ahead = Consistency::AtLeast(Rev::from(u64::MAX));
    assert!(matches!(fixture.store.get(&keys, ahead).await, Err(StoreError::Unavailable { .. })));
    let scan = fixture.store.scan(&Key::from(""), None, 1, ahead).await;
    assert!(matches!(scan, Err(StoreError::Unavailable { .. })));
}

async fn a_transaction_is_applied_once(fixture: Fixture) {
    let txn = Txn::fresh().put("a", "1");
    let first = loop {
        match fixture.store.commit(txn.clone()).await {
            Ok(Commit::Done(rev)) => break rev,
            Ok(Commit::Unknown) | Err(StoreError::Unavailable { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    fixture.done(Txn::fresh().put("a", "2")).await;
    let again = loop {
        match fixture.store.commit(txn.clone()).await {
            Ok(Commit::Unknown) | Err(StoreError::Unavailable { .. }) => {}
            other => break other.unwrap(),
        }
    };
    assert_eq!(again, Commit::Done(first));
    assert_eq!(fixture.get("a").await.unwrap().value, "2", "the repetition wrote nothing");
    assert_eq!(fixture.outcome(txn.id).await, Some(first));
}

async fn a_given_up_transaction_never_happens(fixture: Fixture) {
    let txn = Txn::fresh().put("a", "1");
    assert_eq!(fixture.outcome(txn.id).await, None);
    let late = loop {
        match fixture.store.commit(txn.clone()).await {
            Ok(Commit::Unknown) | Err(StoreError::Unavailable { .. }) => {}
            other => break other,
        }
    };
    assert!(matches!(late, Err(StoreError::Fenced(Fence::Txn(id))) if id == txn.id), "{late:?}");
    assert_eq!(fixture.outcome(txn.id).await, None);
    assert_eq!(fixture.get("a").await, None);
}

async fn concurrent_counters_lose_nothing(fixture: Fixture) {
    const TASKS: u64 = 8;
    const EACH: u64 = 25;
    let fixture = Arc::new(fixture);
    fixture.done(Txn::fresh().put("n", "0")).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let fixture = fixture.clone();
        tasks.spawn(async move {
            let (mut acked, mut seen) = (0, 0);
            while acked < EACH {
                let entry = fixture.get("n").await.unwrap();
                let now: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                assert!(now >= seen, "a read went back from {seen} to {now}");
                let txn = Txn::fresh().at_rev("n", entry.rev).put("n", (now + 1).to_string());
                match fixture.commit(txn.put(format!("by/{task}/{now}"), "")).await {
                    Settled::Done(_) => (acked, seen) = (acked + 1, now + 1),
                    Settled::Conflict { .. } => seen = now,
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(fixture.get("n").await.unwrap().value, (TASKS * EACH).to_string());
    assert_eq!(fixture.keys("by/").await.len() as u64, TASKS * EACH, "every increment has one owner");
}

async fn watches_tell_all_in_order(fixture: Fixture) {
    let mut watch = fixture.store.watch(Key::from("w/"), Rev::ZERO);
    let first = fixture.done(Txn::fresh().put("w/b", "1").put("v", "").put("w/a", "2")).await;
    fixture.done(Txn::fresh().put("x", "")).await;
    let last = fixture.done(Txn::fresh().delete("w/b").delete("w/none").put("w/c", "3")).await;
    let end = fixture.done(Txn::fresh().delete_prefix("w/")).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(brief(&change(&mut watch).await));
    }
    assert_eq!(seen, ["w/b=1", "w/a=2", "-w/b", "w/c=3", "-w/a", "-w/c"]);
    loop {
        match watch.next().await {
            WatchItem::Progress(rev) if rev >= end => break,
            WatchItem::Progress(_) => {}
            other => panic!("only progress is left: {other:?}"),
        }
    }

    let mut resumed = fixture.store.watch(Key::from("w/"), first);
    assert_eq!(change(&mut resumed).await, WatchItem::Delete(Key::from("w/b"), last));
}

async fn watches_wake_and_fall_behind(fixture: Fixture) {
    let start = fixture.done(Txn::fresh().put("a", "1")).await;
    let mut slow = fixture.store.watch(Key::from("a"), Rev::ZERO);
    let mut waiting = fixture.store.watch(Key::from("a"), start);
    let told = tokio::spawn(async move { brief(&change(&mut waiting).await) });
    tokio::task::yield_now().await;
    fixture.clock.advance(MAX_LOG_AGE + Duration::from_secs(1));
    let rev = fixture.done(Txn::fresh().put("a", "2")).await;
    assert_eq!(told.await.unwrap(), "a=2");
    let WatchItem::Gone { compacted } = slow.next().await else { panic!("a watch behind the log is gone") };
    assert!(compacted >= start && compacted < rev);
    assert_eq!(brief(&change(&mut fixture.store.watch(Key::from("a"), compacted)).await), "a=2");
}

async fn leases_end_and_fence(fixture: Fixture) {
    let ttl = Duration::from_secs(10);
    let (kept, lost) = (fixture.lease(ttl).await, fixture.lease(ttl).await);
    assert_ne!(kept.id(), lost.id());
    let txn = Txn::fresh().put_leased("l/kept", "", kept.id()).put_leased("l/lost", "", lost.id());
    fixture.done(txn.put_leased("l/freed", "", lost.id()).put("plain", "")).await;
    let rev = fixture.done(Txn::fresh().put("l/freed", "mine again")).await;
    let mut watch = fixture.store.watch(Key::from("l/"), rev);

    fixture.clock.advance(ttl - Duration::from_millis(1));
    fixture.done(Txn::fresh().lease_alive(lost.id()).put("plain", "1")).await;
    kept.keep_alive().await.unwrap();
    fixture.clock.advance(Duration::from_millis(1));
    let fenced = |error| matches!(error, StoreError::Fenced(Fence::Lease(id)) if id == lost.id());
    assert!(fenced(lost.keep_alive().await.unwrap_err()));
    let conflict = Settled::Conflict { failed: vec![0], now: vec![None] };
    assert_eq!(fixture.commit(Txn::fresh().lease_alive(lost.id()).put("plain", "2")).await, conflict);
    let put = Txn::fresh().put_leased("l/late", "", lost.id());
    assert!(fenced(commit_retrying(&*fixture.store, put).await.unwrap_err()));
    assert_eq!(fixture.keys("l/").await, ["l/freed", "l/kept"]);
    assert_eq!(fixture.get("plain").await.unwrap().value, "1");
    assert_eq!(brief(&change(&mut watch).await), "-l/lost");

    kept.revoke().await.unwrap();
    assert_eq!(fixture.keys("l/").await, ["l/freed"]);
    assert!(matches!(kept.keep_alive().await, Err(StoreError::Fenced(_))));
}

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<u8>, u8),
    PutAbsent(Vec<u8>, u8),
    /// Writes if the revision is the one the model has, or deliberately a stale one.
    Cas(Vec<u8>, u8, bool),
    Delete(Vec<u8>),
    DeletePrefix(Vec<u8>),
    Swap(Vec<u8>, Vec<u8>),
    Scan(Vec<u8>, u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b', b'/', 0xff]), 1..4);
    let op = prop_oneof![
        (key(), any::<u8>()).prop_map(|(key, value)| Op::Put(key, value)),
        (key(), any::<u8>()).prop_map(|(key, value)| Op::PutAbsent(key, value)),
        (key(), any::<u8>(), any::<bool>()).prop_map(|(key, value, stale)| Op::Cas(key, value, stale)),
        key().prop_map(Op::Delete),
        key().prop_map(Op::DeletePrefix),
        (key(), key()).prop_map(|(from, to)| Op::Swap(from, to)),
        (key(), 1u32..5).prop_map(|(prefix, limit)| Op::Scan(prefix, limit)),
    ];
    prop::collection::vec(op, 1..40)
}

type Model = BTreeMap<Vec<u8>, (Vec<u8>, Rev)>;

async fn step(fixture: &Fixture, model: &mut Model, op: Op) {
    let rev_of = |model: &Model, key: &Vec<u8>| model.get(key).map(|(_, rev)| *rev);
    match op {
        Op::Put(key, value) => {
            let rev = fixture.done(Txn::fresh().put(key.clone(), vec![value])).await;
            model.insert(key, (vec![value], rev));
        }
        Op::PutAbsent(key, value) => {
            match fixture.commit(Txn::fresh().absent(key.clone()).put(key.clone(), vec![value])).await {
                Settled::Done(rev) => assert_eq!(model.insert(key, (vec![value], rev)), None),
                Settled::Conflict { now, .. } => {
                    assert_eq!(now[0].as_ref().map(|e| e.rev), rev_of(model, &key))
                }
            }
        }
        Op::Cas(key, value, stale) => {
            let now = rev_of(model, &key).unwrap_or(Rev::ZERO);
            let guess = if stale { Rev::from(now.get() + 1) } else { now };
            let fits = !stale && model.contains_key(&key);
            match fixture.commit(Txn::fresh().at_rev(key.clone(), guess).put(key.clone(), vec![value])).await
            {
                Settled::Done(rev) => {
                    assert!(fits);
                    model.insert(key, (vec![value], rev));
                }
                Settled::Conflict { .. } => assert!(!fits),
            }
        }
        Op::Delete(key) => {
            fixture.done(Txn::fresh().delete(key.clone())).await;
            model.remove(&key);
        }
        Op::DeletePrefix(prefix) => {
            fixture.done(Txn::fresh().delete_prefix(prefix.clone())).await;
            model.retain(|key, _| !key.starts_with(&prefix));
        }
        Op::Swap(from, to) if from != to => {
            let txn = Txn::fresh().absent(to.clone()).delete(from.clone()).put(to.clone(), from.clone());
            match fixture.commit(txn).await {
                Settled::Done(rev) => {
                    model.remove(&from);
                    assert_eq!(model.insert(to, (from, rev)), None);
                }
                Settled::Conflict { .. } => assert!(model.contains_key(&to)),
            }
        }
        Op::Swap(..) => {}
        Op::Scan(prefix, limit) => {
            let page = fixture.scan(&Key::from(prefix.clone()), None, limit).await;
            let under: Vec<_> = model.iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
            let expect = &under[..under.len().min(limit as usize)];
            assert_eq!(page.next.is_some(), under.len() > limit as usize);
            assert_eq!(page.entries.len(), expect.len());
            for (entry, (key, (value, rev))) in page.entries.iter().zip(expect) {
                assert_eq!((entry.key.as_bytes(), &entry.value[..], entry.rev), (&key[..], &value[..], *rev));
            }
        }
    }
}

/// Runs operations against a map, then rebuilds the map from a scan and from a watch.
async fn agree_with_model(fixture: Fixture, ops: Vec<Op>) {
    let mut model = Model::new();
    for op in ops {
        step(&fixture, &mut model, op).await;
    }
    let end = fixture.done(Txn::fresh()).await;
    let flat = |entry: Entry| (entry.key.as_bytes().to_vec(), (entry.value.to_vec(), entry.rev));
    let page = fixture.scan(&Key::from(""), None, 1000).await;
    assert_eq!(page.entries.into_iter().map(flat).collect::<Model>(), model);

    let (mut watch, mut replayed, mut last) =
        (fixture.store.watch(Key::from(""), Rev::ZERO), Model::new(), Rev::ZERO);
    loop {
        match watch.next().await {
            WatchItem::Put(entry) => {
                assert!(entry.rev >= last);
                last = entry.rev;
                replayed.extend([flat(entry)]);
            }
            WatchItem::Delete(key, rev) => {
                assert!(rev >= last);
                last = rev;
                assert!(
                    replayed.remove(key.as_bytes()).is_some(),
                    "{key} was told deleted but did not exist"
                );
            }
            WatchItem::Progress(rev) if rev >= end => break,
            WatchItem::Progress(_) => {}
            gone @ WatchItem::Gone { .. } => panic!("{gone:?}"),
        }
    }
    assert_eq!(replayed, model);
}

fn model(new: fn() -> Fixture, cases: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&ops(), |ops| {
            runtime.block_on(agree_with_model(new(), ops));
            Ok(())
        })
        .unwrap();
}

macro_rules! suite {
    ($($fixture:ident: $cases:literal),*; $tests:tt) => { $(suite!(@one $fixture, $cases, $tests);)* };
    (@one $fixture:ident, $cases:literal, [$($test:ident),* $(,)?]) => {
        mod $fixture {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(Fixture::$fixture()).await; })*
            #[test]
            fn any_operations_agree_with_a_map() { super::model(Fixture::$fixture, $cases); }
        }
    };
}

suite! {
    memory: 256, sqlite: 24, faulty_memory: 256, faulty_sqlite: 24;
    [
        preconditions_decide,
        prefixes_are_deleted_exactly,
        pages_cover_everything_once,
        limits_hold,
        reads_wait_for_nobody_but_refuse_to_lie,
        a_transaction_is_applied_once,
        a_given_up_transaction_never_happens,
        concurrent_counters_lose_nothing,
        watches_tell_all_in_order,
        watches_wake_and_fall_behind,
        leases_end_and_fence,
    ]
}

#[tokio::test(start_paused = true)]
async fn memory_follows_paused_time() {
    let store = MemoryStore::new();
    let lease = store.lease(Duration::from_secs(5)).await.unwrap();
    let txn = Txn::fresh().put_leased("a", Bytes::new(), lease.id());
    let Commit::Done(rev) = store.commit(txn).await.unwrap() else { panic!("no precondition") };
    let mut watch = store.watch(Key::from("a"), rev);
    let begun = tokio::time::Instant::now();
    tokio::select! {
        lost = lease.hold() => panic!("{lost}"),
        () = tokio::time::sleep(Duration::from_secs(60)) => {}
    }
    assert!(matches!(change(&mut watch).await, WatchItem::Delete(..)));
    let lived = begun.elapsed().as_secs();
    assert!((63..=65).contains(&lived), "kept for 60 s, then ended by itself: {lived}");
    assert!(matches!(lease.hold().await, StoreError::Fenced(_)));
}
