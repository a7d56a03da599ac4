//! What SQLite must survive: kill -9 at any moment, a torn or damaged WAL, a full disk, a second server.
//!
//! The crash test runs itself again as a child that commits and reports what was acknowledged, and kills it.

#![allow(clippy::unwrap_used, reason = "clippy allows it in #[test] functions, not in what they call")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use neargate_store::testing::ManualClock;
use neargate_store::{
    Commit, Consistency, Entry, Key, OpenError, SqliteOptions, SqliteStore, Store, StoreError, Txn, WatchItem,
};

const LIN: Consistency = Consistency::Linearizable;
const CHILD_STORE: &str = "NEARGATE_CRASH_TEST_STORE";
const CHILD_CLIENTS: &str = "NEARGATE_CRASH_TEST_CLIENTS";

/// Each client writes `c/<client>/<n>` for n = 0, 1, … and in the same transaction `last/<client>` = n.
async fn commit_forever(store: Arc<dyn Store>, client: u64) {
    let last = Key::from(format!("last/{client}"));
    let found = store.get(std::slice::from_ref(&last), LIN).await.unwrap().pop().unwrap();
    let mut next = found.map_or(0, |entry| number(&entry) + 1);
    loop {
        let key = format!("c/{client}/{next:08}");
        let txn = Txn::fresh().absent(key.clone()).put(key, vec![7; 700]).put(&last, next.to_string());
        assert!(matches!(store.commit(txn).await.unwrap(), Commit::Done(_)));
        // One write, so that lines of several clients never mix.
        std::io::stdout().write_all(format!("ack {client} {next}\n").as_bytes()).unwrap();
        next += 1;
    }
}

fn number(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
}

fn run_child_if_asked() {
    let Some(path) = std::env::var_os(CHILD_STORE) else { return };
    let clients: u64 = std::env::var(CHILD_CLIENTS).unwrap().parse().unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(path).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..clients).map(|client| tokio::spawn(commit_forever(store.clone(), client))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Runs this test binary's `test` as a child, kills it after `acks` acknowledgements, and returns the last of each
/// client.
fn crash(test: &str, path: &Path, clients: u64, acks: usize) -> BTreeMap<u64, u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_STORE, path)
        .env(CHILD_CLIENTS, clients.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acked = BTreeMap::new();
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The harness prints on the same line before the first.
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let (client, n) = ack.split_once(' ').unwrap();
        acked.insert(client.parse().unwrap(), n.parse().unwrap());
        seen += 1;
        if seen == acks {
            child.kill().unwrap();
        }
    }
    assert!(!child.wait().unwrap().success(), "the child only ends by being killed");
    assert!(seen >= acks, "the child ended after {seen} acknowledgements");
    acked
}

/// Checks that each client's commits are whole and without a gap, and returns how many each has.
async fn count(store: &dyn Store, clients: u64) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for client in 0..clients {
        let (prefix, mut after, mut n) = (Key::from(format!("c/{client}/")), None, 0);
        loop {
            let page = store.scan(&prefix, after.as_ref(), 1000, LIN).await.unwrap();
            for entry in &page.entries {
                assert_eq!(entry.key, Key::from(format!("c/{client}/{n:08}")), "no gap");
                assert!(entry.value.len() == 700 && entry.rev <= page.rev);
                n += 1;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let last = store.get(&[Key::from(format!("last/{client}"))], LIN).await.unwrap().pop().unwrap();
        assert_eq!(last.as_ref().map_or(0, |entry| number(entry) + 1), n, "both keys or neither");
        counts.insert(client, n);
    }
    counts
}

fn kill_and_check(test: &str, clients: u64) {
    run_child_if_asked();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Points before, at and after group boundaries and checkpoints; each child continues the last one's store.
    for acks in [1, 2, 37, 150, 3, 411, 64] {
        let acked = crash(test, &path, clients, acks);
        let store = SqliteStore::open(&path).unwrap();
        for (client, count) in runtime.block_on(count(&store, clients)) {
            let Some(last) = acked.get(&client) else { continue };
            assert!(
                count == last + 1 || count == last + 2,
                "client {client}: {count} stored, {last} acknowledged last"
            );
        }
    }
}

#[test]
fn one_client_loses_nothing_to_kill() {
    kill_and_check("one_client_loses_nothing_to_kill", 1);
}

#[test]
fn eight_clients_lose_nothing_to_kill() {
    kill_and_check("eight_clients_lose_nothing_to_kill", 8);
}

#[test]
fn a_torn_or_damaged_wal_leaves_a_clean_prefix() {
    run_child_if_asked();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let acked = crash("a_torn_or_damaged_wal_leaves_a_clean_prefix", &path, 2, 60);
    let database = std::fs::read(&path).unwrap();
    let wal = std::fs::read(dir.path().join("store.db-wal")).unwrap();
    assert!(wal.len() > 4096 * 60, "the commits are in the WAL: {} bytes", wal.len());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut random = 0x5eed_u64;
    for round in 0..24 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Keep the first commits: cutting into the very first would leave an empty file, a store like any new one.
        let cut = wal.len() / 8 + (random >> 33) as usize % (wal.len() - wal.len() / 8);
        let mut torn = wal.clone();
        if round % 2 == 0 {
            torn.truncate(cut)
        } else {
            torn[cut] ^= 0x40
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        std::fs::write(&path, &database).unwrap();
        std::fs::write(dir.path().join("store.db-wal"), torn).unwrap();
        std::fs::write(dir.path().join("store.db.lock"), "1\n").unwrap();
        let store = SqliteStore::open(&path).unwrap();
        for (client, count) in runtime.block_on(count(&store, 2)) {
            assert!(count <= acked[&client] + 2, "cut at {cut}");
        }
        let txn = Txn::fresh().put("after", "");
        assert!(matches!(runtime.block_on(store.commit(txn)).unwrap(), Commit::Done(_)));
    }
}

fn new_path() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    (dir, path)
}

#[tokio::test]
async fn everything_survives_a_clean_restart() {
    let (dir, path) = new_path();
    let (applied, given_up) = (Txn::fresh().put("a", "1"), Txn::fresh().put("a", "2"));
    let clock = Arc::new(ManualClock::default());
    let open = || SqliteOptions::default().clock(clock.clone()).open(&path).unwrap();
    let store = open();
    let id = store.id();
    let Commit::Done(rev) = store.commit(applied.clone()).await.unwrap() else { panic!("no precondition") };
    assert_eq!(store.outcome(given_up.id).await.unwrap(), None);
    let lease = store.lease(Duration::from_secs(10)).await.unwrap();
    store.commit(Txn::fresh().put_leased("leased", "", lease.id())).await.unwrap();
    drop(store);
    assert!(!dir.path().join("store.db-wal").exists(), "a clean close leaves no WAL");
    assert_eq!(std::fs::read(dir.path().join("store.db.lock")).unwrap(), b"");
    assert!(matches!(lease.revoke().await, Err(StoreError::Unavailable { .. })), "its store is closed");

    let store = open();
    assert_eq!(store.id(), id);
    assert_eq!(store.outcome(applied.id).await.unwrap(), Some(rev));
    assert_eq!(store.commit(applied).await.unwrap(), Commit::Done(rev));
    assert!(matches!(store.commit(given_up).await, Err(StoreError::Fenced(_))));
    let mut watch = store.watch(Key::from(""), rev);
    assert!(matches!(watch.next().await, WatchItem::Gone { compacted } if compacted > rev));
    // The lease has its full time again, then takes its key along.
    clock.advance(Duration::from_secs(9));
    store.commit(Txn::fresh().lease_alive(lease.id()).put("b", "")).await.unwrap();
    clock.advance(Duration::from_secs(1));
    store.commit(Txn::fresh()).await.unwrap();
    let found = store.get(&[Key::from("a"), Key::from("b"), Key::from("leased")], LIN).await.unwrap();
    assert!(found[0].is_some() && found[1].is_some() && found[2].is_none(), "{found:?}");
}

#[test]
fn a_second_server_is_told_who_holds_the_store() {
    let (dir, path) = new_path();
    let store = SqliteStore::open(&path).unwrap();
    let error = SqliteStore::open(&path).map(drop).unwrap_err();
    let pid = std::process::id();
    let expect = format!("process {pid} is using it; stop that server or choose another data directory");
    assert!(error.to_string().ends_with(&expect), "{error}");
    drop(store);
    drop(SqliteStore::open(&path).unwrap());
    for file in dir.path().read_dir().unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn files_that_are_not_ours_are_refused_untouched() {
    let refuse = |bytes: &[u8]| {
        let (_dir, path) = new_path();
        std::fs::write(&path, bytes).unwrap();
        let error = SqliteStore::open(&path).map(drop).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "untouched");
        error
    };
    let sqlite = |sql: &str| {
        let (_dir, path) = new_path();
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        refuse(&std::fs::read(&path).unwrap())
    };
    assert!(matches!(refuse(&[b'x'; 4096]), OpenError::Foreign { .. }));
    assert!(matches!(sqlite("CREATE TABLE t (a)"), OpenError::Foreign { .. }));
    let newer = sqlite("PRAGMA application_id = 0x4e475354; PRAGMA user_version = 9; CREATE TABLE t (a)");
    assert!(matches!(newer, OpenError::Version { found: 9, known: 1, .. }), "{newer}");
}

#[test]
fn damage_is_found_after_an_unclean_shutdown() {
    let (_dir, path) = new_path();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = SqliteStore::open(&path).unwrap();
    for n in 0..200 {
        runtime.block_on(store.commit(Txn::fresh().put(format!("{n}"), vec![1; 2000]))).unwrap();
    }
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    // The headers of all leaves in the middle of the file.
    for page in 20..60 {
        bytes[page * 4096..page * 4096 + 8].fill(0xee);
    }
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(path.with_extension("db.lock"), "1\n").unwrap();
    let error = SqliteStore::open(&path).map(drop).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

/// Fills the store until it refuses, then checks that reads go on and that space makes it write again.
async fn fill_and_recover(store: &dyn Store, make_space: impl AsyncFnOnce()) {
    let mut stored = 0;
    let error = loop {
        match store.commit(Txn::fresh().put(format!("fill/{stored:04}"), vec![3; 60_000])).await {
            Ok(Commit::Done(_)) => stored += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
        assert!(stored < 1000, "never full");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(stored > 3);
    let page = store.scan(&Key::from("fill/"), None, 1, LIN).await.unwrap();
    assert_eq!(page.entries[0].value.len(), 60_000, "reads go on");
    make_space().await;
    let mut after = None;
    for n in 0..stored {
        let page = store.scan(&Key::from("fill/"), after.as_ref(), 1, LIN).await.unwrap();
        assert_eq!(page.entries[0].key, Key::from(format!("fill/{n:04}")), "what was acknowledged is there");
        after = Some(page.entries[0].key.clone());
    }
    assert_eq!(store.scan(&Key::from("fill/"), after.as_ref(), 1, LIN).await.unwrap().entries, []);
    assert!(matches!(store.commit(Txn::fresh().put("again", vec![0; 5000])).await, Ok(Commit::Done(_))));
}

#[tokio::test]
async fn a_full_store_refuses_and_recovers() {
    let (_dir, path) = new_path();
    let store = SqliteOptions::default().bytes_max(1 << 20).open(&path).unwrap();
    store.commit(Txn::fresh().put("ballast", vec![0; 100_000])).await.unwrap();
    fill_and_recover(&store, async || {
        store.commit(Txn::fresh().delete("ballast")).await.unwrap();
    })
    .await;
}

/// A small tmpfs, unmounted also when the test fails.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as a failing test still has its files open.
        let umount = Command::new("umount").arg("-l").arg(self.0.path()).status();
        if !umount.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.path().display());
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let Some(disk) = SmallDisk::mount(4) else {
        eprintln!("SKIPPED a_full_disk_refuses_and_recovers: mounting a tmpfs needs root");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let path = disk.0.path().join("store.db");
    let store = SqliteStore::open(&path).unwrap();
    fill_and_recover(&store, async || std::fs::remove_file(&ballast).unwrap()).await;
    drop(store);
    drop(SqliteStore::open(&path).unwrap());
}

/// Writes a file until only so many bytes of the disk are left, or none.
fn fill(file: &Path, left: u64) {
    let disk = rustix::fs::statvfs(file.parent().unwrap()).unwrap();
    let mut file = File::create(file).unwrap();
    let blocks = (disk.f_bavail * disk.f_frsize).saturating_sub(left) / 4096;
    let all = if left == 0 { u64::MAX } else { blocks };
    (0..all).take_while(|_| file.write_all(&[0; 4096]).is_ok()).for_each(drop);
}

/// Waits until a reserve of `bytes` is in the database.
fn until_reserved(path: &Path, bytes: u64) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(path).unwrap().len() < bytes {
        assert!(Instant::now() < give_up, "no reserve was made");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_reserve_takes_writes_on_a_full_disk() {
    const RESERVE: u64 = 4 << 20;
    let Some(disk) = SmallDisk::mount(48) else {
        eprintln!("SKIPPED a_reserve_takes_writes_on_a_full_disk: mounting a tmpfs needs root");
        return;
    };
    let path = disk.0.path().join("store.db");
    let store = SqliteOptions::default().reserve(RESERVE, || true).open(&path).unwrap();
    until_reserved(&path, RESERVE);
    // What an earlier load has left in the WAL must not be in the way.
    for n in 0..100 {
        store.commit(Txn::fresh().put(format!("before/{n}"), vec![0; 5000])).await.unwrap();
    }
    let ballast = disk.0.path().join("ballast");
    fill(&ballast, 0);
    let mut taken: u64 = 0;
    let refused = loop {
        match store.commit(Txn::fresh().put(format!("after/{taken}"), vec![0; 1000])).await {
            Ok(done) => assert!(matches!(done, Commit::Done(_)), "{done:?}"),
            Err(error) => break error,
        }
        taken += 1000;
        assert!(taken < 10 * RESERVE, "the disk was never full");
    };
    assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
    assert!(taken > RESERVE / 2, "only {taken} bytes");
    std::fs::remove_file(&ballast).unwrap();
    let room = store.commit(Txn::fresh().put("room", "")).await;
    assert!(matches!(room, Ok(Commit::Done(_))), "{room:?}");
}

/// Others fill the disk between the question whether it has room and the writing of the reserve.
#[tokio::test]
async fn a_reserve_that_finds_no_room_is_in_nobodys_way() {
    const RESERVE: u64 = 4 << 20;
    let Some(disk) = SmallDisk::mount(48) else {
        eprintln!("SKIPPED a_reserve_that_finds_no_room_is_in_nobodys_way: mounting a tmpfs needs root");
        return;
    };
    let path = disk.0.path().join("store.db");
    let ballast = disk.0.path().join("ballast");
    let file = ballast.clone();
    let has_room = move || {
        // Room for the row in the WAL, and not for its pages in the database.
        fill(&file, RESERVE / 4);
        true
    };
    let store = SqliteOptions::default().reserve(RESERVE, has_room).open(&path).unwrap();
    store.commit(Txn::fresh().put("key", "0")).await.unwrap();
    assert!(ballast.exists(), "the reserve is made before the first command");
    for n in 0..200 {
        let done = store.commit(Txn::fresh().put("key", n.to_string())).await;
        assert!(matches!(done, Ok(Commit::Done(_))), "{done:?} of {n}");
    }
    drop(store);
    std::fs::remove_file(&ballast).unwrap();
    // The next start checks the file, which may be longer than its pages.
    std::fs::write(disk.0.path().join("store.db.lock"), "1\n").unwrap();
    let store = SqliteOptions::default().reserve(RESERVE, || true).open(&path).unwrap();
    until_reserved(&path, RESERVE);
    let found = store.get(&[Key::from("key")], LIN).await.unwrap().pop().unwrap();
    assert_eq!(&found.unwrap().value[..], b"199");
}

#[tokio::test]
async fn a_killed_server_starts_again_on_a_full_disk() {
    const RESERVE: u64 = 4 << 20;
    let open = |path: &Path| SqliteOptions::default().reserve(RESERVE, || true).open(path).unwrap();
    if let Some(path) = std::env::var_os(CHILD_STORE) {
        let store = open(Path::new(&path));
        store.commit(Txn::fresh().put("before", "")).await.unwrap();
        std::process::abort();
    }
    let Some(disk) = SmallDisk::mount(48) else {
        eprintln!("SKIPPED a_killed_server_starts_again_on_a_full_disk: mounting a tmpfs needs root");
        return;
    };
    let path = disk.0.path().join("store.db");
    let mut child = Command::new(std::env::current_exe().unwrap());
    let child =
        child.args(["--exact", "a_killed_server_starts_again_on_a_full_disk"]).env(CHILD_STORE, &path);
    assert!(!child.output().unwrap().status.success(), "the child only ends by being killed");
    fill(&disk.0.path().join("ballast"), 0);
    let store = open(&path);
    assert!(
        !disk.0.path().join("store.db-shm").exists(),
        "no memory is mapped that the disk may have no room for"
    );
    assert!(store.get(&[Key::from("before")], LIN).await.unwrap()[0].is_some());
    let done = store.commit(Txn::fresh().put("after", vec![0; 5000])).await;
    assert!(matches!(done, Ok(Commit::Done(_))), "{done:?}");
}
