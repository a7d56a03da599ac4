use neargate_model::Timestamp;
use neargate_telemetry::{FilterQuery, GetQuery, LogStoreConfig};

use crate::{DAY_MS, Fixture, event, now, scope};

fn small_segments() -> LogStoreConfig {
    LogStoreConfig { segment_bytes: 4000, ..LogStoreConfig::default() }
}

/// Fills `stream` with `batches` batches of about 2,500 bytes, two to a segment.
fn fill(f: &Fixture, stream: &str, time: i64, batches: usize) {
    for batch in 0..batches {
        let events: Vec<_> =
            (0..5).map(|i| event(time, &format!("{batch}.{i} {}", "x".repeat(480)))).collect();
        f.put(stream, &events);
    }
}

#[test]
fn expired_events_vanish_at_once_and_their_space_at_a_sweep() {
    let f = Fixture::with(small_segments());
    fill(&f, "s", now() - 3 * DAY_MS, 6);
    fill(&f, "s", now(), 1);
    assert_eq!(f.messages("s").len(), 35);
    f.store.put_retention(&scope(), "g", 1).unwrap();
    assert_eq!(f.messages("s").len(), 5);
    let before = f.store.stats().total_bytes;
    let report = f.store.sweep();
    assert_eq!((report.segments_removed, report.errors), (3, 0));
    assert_eq!(report.bytes_reclaimed, before - f.store.stats().total_bytes);
    assert!(f.store.stats().total_bytes < 4000);
    assert_eq!(f.files("seg").len(), 1);
    assert_eq!(f.store.sweep(), neargate_telemetry::SweepReport::default());
    assert_eq!(f.reopen().messages("s").len(), 5);
}

#[test]
fn an_expired_active_segment_is_removed_too() {
    let f = Fixture::new();
    fill(&f, "s", now() - 3 * DAY_MS, 1);
    f.store.put_retention(&scope(), "g", 1).unwrap();
    assert_eq!(f.store.sweep().segments_removed, 1);
    assert_eq!(f.store.stats().total_bytes, 0);
    fill(&f, "s", now(), 1);
    assert_eq!(f.reopen().messages("s").len(), 5);
}

#[test]
fn deleted_streams_give_their_space_back() {
    let f = Fixture::with(small_segments());
    let t = now();
    f.put("keep", &[event(t, "kept")]);
    fill(&f, "doomed", t, 5);
    f.put("keep", &[event(t + 1, "kept too")]);
    let query = GetQuery { start_from_head: true, limit: Some(1), ..GetQuery::default() };
    let token = f.store.get_events(&scope(), "g", "keep", &query).unwrap().next_forward_token;
    f.store.delete_stream(&scope(), "g", "doomed").unwrap();
    let report = f.store.sweep();
    assert!(report.segments_rewritten >= 1 && report.segments_removed >= 1, "{report:?}");
    assert!(f.store.stats().total_bytes < 4000);
    let check = |f: &Fixture| {
        assert_eq!(f.messages("keep"), ["kept", "kept too"]);
        let query = GetQuery { token: Some(token.clone()), ..GetQuery::default() };
        assert_eq!(f.store.get_events(&scope(), "g", "keep", &query).unwrap().events[0].message, "kept too");
        assert_eq!(f.filter(FilterQuery::default()).0.len(), 2);
    };
    check(&f);
    let f = f.reopen();
    check(&f);
    f.put("keep", &[event(t + 2, "new")]);
    assert_eq!(f.messages("keep").len(), 3);
}

#[test]
fn deleted_groups_leave_nothing() {
    let f = Fixture::with(small_segments());
    fill(&f, "s", now(), 4);
    f.store.delete_group(&scope(), "g").unwrap();
    assert_eq!(f.store.stats().total_bytes, 0);
    let left: Vec<_> = std::fs::read_dir(f.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["LOCK"]);
    f.store.create_group(&scope(), "g", None).unwrap();
    fill(&f, "s", now(), 1);
    assert_eq!(f.messages("s").len(), 5);
}

#[test]
fn the_oldest_segments_go_when_the_store_is_too_large() {
    let f = Fixture::with(LogStoreConfig { total_bytes_max: Some(12_000), ..small_segments() });
    f.store.create_group(&scope(), "other", None).unwrap();
    f.store.create_stream(&scope(), "other", "o").unwrap();
    f.store.put_events(&scope(), "other", "o", &[event(now(), "oldest of all")]).unwrap();
    fill(&f, "s", now(), 12);
    let report = f.store.sweep();
    assert_eq!(report.errors, 0);
    let total = f.store.stats().total_bytes;
    assert!((6_000..=12_000).contains(&total), "{total}");
    let messages = f.messages("s");
    assert!(messages.last().unwrap().starts_with("11.4"));
    assert!(!messages[0].starts_with("0.0"));
    assert_eq!(f.reopen().messages("s"), messages);
}

#[test]
fn a_lower_retention_cuts_reading_by_time() {
    let f = Fixture::new();
    let t = now();
    f.put("s", &[event(t - 2 * DAY_MS, "old")]);
    f.put("s", &[event(t, "new")]);
    f.store.put_retention(&scope(), "g", 1).unwrap();
    let query = FilterQuery { start: Some(Timestamp(0)), ..FilterQuery::default() };
    assert_eq!(f.filter(query).0, ["new"]);
    f.store.delete_retention(&scope(), "g").unwrap();
    assert_eq!(f.messages("s"), ["old", "new"]);
}
