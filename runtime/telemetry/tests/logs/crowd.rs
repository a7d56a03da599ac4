use std::collections::HashMap;
use std::fs;

use neargate_model::Timestamp;
use neargate_telemetry::{Appended, Create, FilterQuery, GetQuery, LogStoreConfig, StreamQuery};

use crate::{Fixture, append, now, scope};

/// Descriptors of this process that are open on files under `dir`.
fn open_files(dir: &std::path::Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    links.filter(|target| target.starts_with(dir)).count()
}

#[test]
fn thousands_of_tiny_streams_share_a_few_files() {
    const STREAMS: usize = 2000;
    let f = Fixture::new();
    let writers: Vec<_> = (0..STREAMS).map(|i| f.writer(&format!("task/{i:04}"))).collect();
    for line in 0..3 {
        for writer in &writers {
            append(writer, &format!("{} {line}", writer.stream()));
        }
    }
    f.store.flush();
    assert!(open_files(f.dir.path()) <= 6, "{} open files", open_files(f.dir.path()));
    let files = fs::read_dir(f.dir.path().join("g00000001")).unwrap().count();
    assert!(files <= 4, "{files} files");
    drop(writers);
    let f = f.reopen();
    for i in (0..STREAMS).step_by(97) {
        let stream = format!("task/{i:04}");
        assert_eq!(f.messages(&stream), [0, 1, 2].map(|line| format!("{stream} {line}")));
    }
    assert_eq!(f.filter(FilterQuery::default()).0.len(), STREAMS * 3);
    let mut query = StreamQuery { prefix: Some("task/1".to_owned()), ..StreamQuery::default() };
    let mut count = 0;
    loop {
        let page = f.store.describe_streams(&scope(), "g", &query).unwrap();
        count += page.items.len();
        match page.next_token {
            Some(token) => query.token = Some(token),
            None => break,
        }
    }
    assert_eq!(count, 1000);
}

#[test]
fn more_groups_than_open_files() {
    const GROUPS: usize = 200;
    let f = Fixture::new();
    let open =
        |i: usize| f.store.open_writer(&scope(), &format!("g{i}"), "s", Create::GroupAndStream).unwrap();
    let writers: Vec<_> = (0..GROUPS).map(open).collect();
    for line in ["first", "second"] {
        writers.iter().for_each(|writer| append(writer, line));
        f.store.flush();
    }
    assert!(open_files(f.dir.path()) <= 132);
    drop(writers);
    let f = f.reopen();
    for i in 0..GROUPS {
        let page = f.store.get_events(&scope(), &format!("g{i}"), "s", &GetQuery::default()).unwrap();
        assert_eq!(page.events.iter().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    }
}

fn tiny_queue() -> LogStoreConfig {
    LogStoreConfig { queue_bytes: 1000, stream_queue_bytes: 600, ..LogStoreConfig::default() }
}

#[test]
fn a_full_queue_drops_counts_and_records_a_gap() {
    let f = Fixture::with(tiny_queue());
    let writer = f.writer("s");
    let mut outcomes: HashMap<bool, u64> = HashMap::new();
    while outcomes.get(&false).copied().unwrap_or_default() < 10 {
        let queued = writer.append(Timestamp(now()), b"a line") == Appended::Queued;
        *outcomes.entry(queued).or_default() += 1;
    }
    // The writer records the gap by itself; this line only bounds the wait for it.
    assert_eq!(writer.append_blocking(Timestamp(now()), b"end"), Appended::Queued);
    f.store.flush();
    let page = f.store.get_events(&scope(), "g", "s", &GetQuery::default()).unwrap();
    let lost: u64 = page.events.iter().filter(|e| e.gap).map(|e| lost_in(&e.message)).sum();
    let kept = page.events.iter().filter(|event| event.message == "a line").count() as u64;
    assert_eq!(Some(&lost), outcomes.get(&false));
    assert_eq!(Some(&kept), outcomes.get(&true));
    assert_eq!(writer.dropped(), lost);
    assert_eq!(f.store.stats().events_dropped, lost);
}

/// Reads the number from `[neargate] 12 log events (34 bytes) lost here`.
pub(crate) fn lost_in(message: &str) -> u64 {
    message.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{message}"))
}

#[test]
fn one_flood_does_not_drown_others() {
    let f = Fixture::with(LogStoreConfig {
        queue_bytes: 100_000,
        stream_queue_bytes: 600,
        ..LogStoreConfig::default()
    });
    let (flood, quiet) = (f.writer("flood"), f.writer("quiet"));
    while flood.append(Timestamp(now()), b"x") != Appended::Dropped {}
    append(&quiet, "heard");
    f.store.flush();
    assert_eq!(f.messages("quiet"), ["heard"]);
    assert_eq!(quiet.dropped(), 0);
}

#[tokio::test]
async fn back_pressure_loses_nothing() {
    const LINES: usize = 300;
    let f = Fixture::with(tiny_queue());
    let (blocking, waiting) = (f.writer("blocking"), f.writer("waiting"));
    let thread = std::thread::spawn(move || {
        for i in 0..LINES {
            assert_eq!(
                blocking.append_blocking(Timestamp(now()), i.to_string().as_bytes()),
                Appended::Queued
            );
        }
    });
    for i in 0..LINES {
        assert_eq!(waiting.append_async(Timestamp(now()), i.to_string().as_bytes()).await, Appended::Queued);
    }
    thread.join().unwrap();
    f.store.flush();
    let expect: Vec<_> = (0..LINES).map(|i| i.to_string()).collect();
    assert_eq!(f.messages("blocking"), expect);
    assert_eq!(f.messages("waiting"), expect);
    assert_eq!(f.store.stats().events_dropped, 0);
}
