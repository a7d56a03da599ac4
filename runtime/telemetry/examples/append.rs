//! Measures the log store: `cargo run --release -p neargate-telemetry --example append [dir]`.
//!
//! Reports lines per second through one stream and through many, and what a tiny stream costs.

use std::time::{Instant, SystemTime};

use neargate_model::{AccountId, Region, Scope, Timestamp};
use neargate_telemetry::{Appended, Create, FilterPattern, FilterQuery, LogStore, LogStoreConfig};

const LINES: usize = 1_000_000;
const TINY_STREAMS: usize = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or(temporary.path().to_owned(), Into::into);
    let scope = Scope {
        account: AccountId::new("123456789012".to_owned())?,
        region: Region::new("us-east-1".to_owned())?,
    };
    let store = LogStore::open(&dir, LogStoreConfig::default())?;
    let line =
        b"2026-01-01T00:00:00Z INFO request handled path=/index.html status=200 duration_ms=12 bytes=1534";
    for streams in [1, 1000] {
        let group = format!("lines-{streams}");
        let open = |i| store.open_writer(&scope, &group, &format!("s{i}"), Create::GroupAndStream);
        let writers = (0..streams).map(open).collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        for i in 0..LINES {
            let now = Timestamp::from(SystemTime::now());
            if writers[i % streams].append_blocking(now, line) != Appended::Queued {
                return Err("the store is closed".into());
            }
        }
        store.flush();
        let seconds = start.elapsed().as_secs_f64();
        println!("{streams:5} streams: {:9.0} lines/s of {} bytes", LINES as f64 / seconds, line.len());
        let pattern = Some(FilterPattern::parse("nothing")?);
        let query = FilterQuery { pattern, ..FilterQuery::default() };
        let start = Instant::now();
        store.filter_events(&scope, &group, &query)?;
        println!(
            "{streams:5} streams: {:9.0} lines/s searched",
            LINES as f64 / start.elapsed().as_secs_f64()
        );
    }
    let (memory, bytes) = (resident_kib(), store.stats().total_bytes);
    let start = Instant::now();
    for i in 0..TINY_STREAMS {
        let writer = store.open_writer(&scope, "tiny", &format!("task/{i:032x}"), Create::GroupAndStream)?;
        for line in [&b"started"[..], b"working", b"done"] {
            if writer.append_blocking(Timestamp::from(SystemTime::now()), line) != Appended::Queued {
                return Err("the store is closed".into());
            }
        }
    }
    store.flush();
    let micros = start.elapsed().as_secs_f64() * 1e6 / TINY_STREAMS as f64;
    let per_stream = |total: u64| total as f64 / TINY_STREAMS as f64;
    println!(
        "a stream of 3 lines: {micros:.1} us, {:.0} bytes on disk, {:.0} bytes of memory",
        per_stream(store.stats().total_bytes - bytes),
        per_stream((resident_kib() - memory.min(resident_kib())) * 1024)
    );
    let start = Instant::now();
    drop(store);
    println!("close: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let store = LogStore::open(&dir, LogStoreConfig::default())?;
    println!(
        "open: {:.0} ms for {} MiB",
        start.elapsed().as_secs_f64() * 1e3,
        store.stats().total_bytes >> 20
    );
    Ok(())
}

/// Resident memory of this process (proc(5)).
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}
