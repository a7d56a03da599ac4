//! Prints how fast the SQLite store commits and reads on this machine's disk: `cargo run --release --example
//! commit_rate [DIRECTORY]`. Nothing is asserted; the numbers are those of the directory's file system.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use neargate_store::{Commit, Consistency, Key, SqliteStore, Store, Txn};

const VALUE: usize = 1024;
const RECORDS: u32 = 10_000;
const RUN: Duration = Duration::from_secs(3);
const LIN: Consistency = Consistency::Linearizable;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = match std::env::args_os().nth(1) {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build()?;
    println!("fsync of one written page      {:>9.1?}", fsync(&dir.path().join("probe"))?);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(dir.path().join("store.db"))?);
    runtime.block_on(async {
        for clients in [1, 8, 64] {
            let (rate, mut times) = commits(&store, clients).await;
            times.sort_unstable();
            println!(
                "commit, {clients:>2} clients             {rate:>9.0} /s   median {:>8.1?}   p99 {:>8.1?}",
                times[times.len() / 2],
                times[times.len() * 99 / 100]
            );
        }
        fill(&store).await;
        report("get, on the caller's thread", 20_000, async |n| {
            store.get(&[key(n)], LIN).await.expect("get");
        })
        .await;
        report("get, on a blocking thread", 20_000, async |n| {
            let (store, handle) = (store.clone(), tokio::runtime::Handle::current());
            let read = move || handle.block_on(store.get(&[key(n)], LIN));
            tokio::task::spawn_blocking(read).await.expect("join").expect("get");
        })
        .await;
        for limit in [10, 100, 1000] {
            report(&format!("scan of {limit}"), 500, async |n| {
                store.scan(&Key::from("r/"), Some(&key(n)), limit, LIN).await.expect("scan");
            })
            .await;
        }
        let writer = tokio::spawn({
            let store = store.clone();
            async move { commits(&store, 8).await.0 }
        });
        report("get, while 8 clients commit", 20_000, async |n| {
            store.get(&[key(n)], LIN).await.expect("get");
            tokio::task::yield_now().await;
        })
        .await;
        println!("commit, 8 clients, beside gets {:>9.0} /s", writer.await.expect("join"));
    });
    Ok(())
}

fn fsync(path: &Path) -> std::io::Result<Duration> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    let begun = Instant::now();
    for _ in 0..200 {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
    }
    Ok(begun.elapsed() / 200)
}

fn key(n: u32) -> Key {
    Key::from(format!("r/{:06}", n.wrapping_mul(2_654_435_761) % RECORDS))
}

async fn fill(store: &Arc<dyn Store>) {
    for chunk in 0..RECORDS / 100 {
        let put = |txn: Txn, n: u32| txn.put(format!("r/{:06}", chunk * 100 + n), vec![1; VALUE]);
        store.commit((0..100).fold(Txn::fresh(), put)).await.expect("fill");
    }
}

/// Clients that each rewrite records under a precondition, as control does, for `RUN`.
async fn commits(store: &Arc<dyn Store>, clients: u32) -> (f64, Vec<Duration>) {
    let begun = Instant::now();
    let tasks: Vec<_> =
        (0..clients).map(|client| tokio::spawn(client_loop(store.clone(), client, begun))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("join"));
    }
    (times.len() as f64 / begun.elapsed().as_secs_f64(), times)
}

async fn client_loop(store: Arc<dyn Store>, client: u32, begun: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut last = None;
    while begun.elapsed() < RUN {
        let key = Key::from(format!("t/{client}/{}", times.len() / 5));
        let txn = match last.take() {
            Some(rev) if times.len() % 5 > 0 => Txn::fresh().at_rev(&key, rev),
            _ => Txn::fresh(),
        };
        let started = Instant::now();
        match store.commit(txn.put(&key, vec![1; VALUE])).await.expect("commit") {
            Commit::Done(rev) => last = Some(rev),
            other => panic!("nobody else writes {key}: {other:?}"),
        }
        times.push(started.elapsed());
    }
    times
}

async fn report(what: &str, times: u32, call: impl AsyncFn(u32)) {
    let mut taken = Vec::new();
    for n in 0..times {
        let started = Instant::now();
        call(n).await;
        taken.push(started.elapsed());
    }
    taken.sort_unstable();
    let (median, p99) = (taken[taken.len() / 2], taken[taken.len() * 99 / 100]);
    println!("{what:<30} {:>9}      median {median:>8.1?}   p99 {p99:>8.1?}", "");
}
