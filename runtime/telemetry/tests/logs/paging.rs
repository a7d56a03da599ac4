use neargate_model::Timestamp;
use neargate_telemetry::{FilterPattern, FilterQuery, GetQuery, LogStoreConfig, ReadError, StreamSelect};
use proptest::prelude::*;

use crate::{Fixture, append, event, now, scope};

fn get(f: &Fixture, query: &GetQuery) -> (String, String, String) {
    let page = f.store.get_events(&scope(), "g", "s", query).unwrap();
    let messages: Vec<_> = page.events.into_iter().map(|event| event.message).collect();
    (messages.join(" "), page.next_forward_token, page.next_backward_token)
}

fn with(token: &str, limit: usize) -> GetQuery {
    GetQuery { token: Some(token.to_owned()), limit: Some(limit), ..GetQuery::default() }
}

#[test]
fn tokens_lead_both_ways_and_repeat_at_the_ends() {
    let f = Fixture::new();
    let t = now() - 1000;
    let events: Vec<_> = (0..5).map(|i| event(t + i, &i.to_string())).collect();
    f.put("s", &events);
    let head = GetQuery { start_from_head: true, limit: Some(2), ..GetQuery::default() };
    let (messages, forward, backward) = get(&f, &head);
    assert_eq!(messages, "0 1");
    let (messages, same_forward, same_backward) = get(&f, &with(&backward, 2));
    assert_eq!((messages.as_str(), same_backward), ("", backward));
    assert_eq!(get(&f, &with(&same_forward, 2)).0, "0 1");
    let (messages, forward, _) = get(&f, &with(&forward, 2));
    assert_eq!(messages, "2 3");
    let (messages, forward, _) = get(&f, &with(&forward, 2));
    assert_eq!(messages, "4");
    let (messages, end, back_from_end) = get(&f, &with(&forward, 2));
    assert_eq!((messages.as_str(), &end), ("", &forward));
    assert_eq!(get(&f, &with(&back_from_end, 2)).0, "3 4");
    f.put("s", &[event(t + 9, "9")]);
    let f = f.reopen();
    assert_eq!(get(&f, &with(&end, 2)).0, "9");
    let (messages, _, backward) = get(&f, &GetQuery { limit: Some(4), ..GetQuery::default() });
    assert_eq!(messages, "2 3 4 9");
    let (messages, forward, _) = get(&f, &with(&backward, 4));
    assert_eq!(messages, "0 1");
    assert_eq!(get(&f, &with(&forward, 4)).0, "2 3 4 9");
}

#[test]
fn an_empty_stream_has_tokens_that_wait() {
    let f = Fixture::new();
    f.store.create_stream(&scope(), "g", "s").unwrap();
    for start_from_head in [true, false] {
        let (messages, forward, backward) = get(&f, &GetQuery { start_from_head, ..GetQuery::default() });
        assert_eq!(messages, "");
        assert_eq!(
            get(&f, &with(&forward, 1)),
            (String::new(), forward.clone(), get(&f, &with(&forward, 1)).2)
        );
        assert_eq!(get(&f, &with(&backward, 1)).2, backward);
    }
    let (_, forward, _) = get(&f, &GetQuery::default());
    f.put("s", &[event(now(), "x")]);
    assert_eq!(get(&f, &with(&forward, 1)).0, "x");
}

#[test]
fn times_and_limits_bound_a_page() {
    let f = Fixture::new();
    let t = now() - 1000;
    f.put("s", &[event(t, "0"), event(t + 1, "1"), event(t + 2, "2")]);
    let range = |start: i64, end: i64| GetQuery {
        start: Some(Timestamp(t + start)),
        end: Some(Timestamp(t + end)),
        ..GetQuery::default()
    };
    assert_eq!(get(&f, &range(0, 2)).0, "0 1");
    assert_eq!(get(&f, &range(1, 9)).0, "1 2");
    assert_eq!(get(&f, &range(3, 9)).0, "");
    let filter = |start: i64, end: i64| {
        let (start, end) = (Some(Timestamp(t + start)), Some(Timestamp(t + end)));
        f.filter(FilterQuery { start, end, ..FilterQuery::default() }).0.join(" ")
    };
    assert_eq!(filter(0, 1), "0 1");
    assert_eq!(filter(1, 9), "1 2");
    for limit in [0, 10_001] {
        let query = GetQuery { limit: Some(limit), ..GetQuery::default() };
        let refused = f.store.get_events(&scope(), "g", "s", &query);
        assert!(matches!(refused, Err(ReadError::InvalidParameter { .. })));
    }
}

#[test]
fn a_page_has_at_most_a_mebibyte() {
    let f = Fixture::new();
    let writer = f.writer("s");
    for _ in 0..10 {
        append(&writer, &"x".repeat(250 << 10));
    }
    f.store.flush();
    let query = GetQuery { start_from_head: true, ..GetQuery::default() };
    assert_eq!(f.store.get_events(&scope(), "g", "s", &query).unwrap().events.len(), 4);
    assert_eq!(f.messages("s").len(), 10);
    let (messages, pages) = f.filter(FilterQuery::default());
    assert_eq!((messages.len(), pages), (10, 3));
}

#[test]
fn tokens_of_others_are_refused() {
    let f = Fixture::new();
    f.put("s", &[event(now(), "x")]);
    f.put("other", &[event(now(), "y")]);
    let (_, forward, _) = get(&f, &GetQuery::default());
    for (stream, token) in [("other", forward.as_str()), ("s", "f/1/s"), ("s", ""), ("s", "g/x")] {
        let refused = f.store.get_events(&scope(), "g", stream, &with(token, 1));
        assert!(matches!(refused, Err(ReadError::InvalidParameter { .. })), "{token}");
    }
    let query = FilterQuery { token: Some(forward), ..FilterQuery::default() };
    assert!(f.store.filter_events(&scope(), "g", &query).is_err());
}

#[test]
fn searches_interleave_the_chosen_streams() {
    let f = Fixture::new();
    let t = now() - 1000;
    f.put("a/1", &[event(t, "a0 ERROR"), event(t + 4, "a4")]);
    f.put("a/2", &[event(t + 2, "b2"), event(t + 3, "b3 ERROR")]);
    f.put("c", &[event(t + 1, "c1 ERROR")]);
    let all = ["a0 ERROR", "c1 ERROR", "b2", "b3 ERROR", "a4"];
    let check = |query: FilterQuery, expect: &[&str]| {
        for limit in [1, 2, 10] {
            assert_eq!(f.filter(FilterQuery { limit: Some(limit), ..query.clone() }).0, expect);
        }
        let mut reversed = expect.to_vec();
        reversed.reverse();
        assert_eq!(f.filter(FilterQuery { newest_first: true, limit: Some(2), ..query }).0, reversed);
    };
    check(FilterQuery::default(), &all);
    let errors = FilterPattern::parse("ERROR").unwrap();
    check(FilterQuery { pattern: Some(errors), ..FilterQuery::default() }, &[all[0], all[1], all[3]]);
    let prefix = StreamSelect::Prefix("a/".to_owned());
    check(FilterQuery { streams: prefix, ..FilterQuery::default() }, &[all[0], all[2], all[3], all[4]]);
    let names = |names: &[&str]| StreamSelect::Names(names.iter().map(|name| (*name).to_owned()).collect());
    check(FilterQuery { streams: names(&["c", "a/1"]), ..FilterQuery::default() }, &[all[0], all[1], all[4]]);
    for wrong in [names(&["none"]), names(&[]), names(&["c"; 101])] {
        assert!(
            f.store
                .filter_events(&scope(), "g", &FilterQuery { streams: wrong, ..FilterQuery::default() })
                .is_err()
        );
    }
    let page = f.store.filter_events(&scope(), "g", &FilterQuery::default()).unwrap();
    let mut ids: Vec<_> = page.items.iter().map(|found| found.id.clone()).collect();
    assert!(ids.iter().all(|id| id.len() == 56));
    assert!(ids.is_sorted());
    ids.dedup();
    assert_eq!(ids.len(), all.len());
    assert_eq!(page.items[1].stream, "c");
}

/// A batch: which stream, the first event's age, and how many.
type Batch = (usize, i64, i64);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever was put in whatever order, in however many segments: pages forwards and backwards, searches
    /// and a restart all show the events sorted by time and arrival.
    #[test]
    fn pages_cover_what_was_put(
        batches in proptest::collection::vec((0..3usize, 0..400i64, 1..40i64), 1..12),
        restart in 0..12usize,
        limit in 1..70usize,
        segment_bytes in 500..20_000u64,
        scan_bytes_max in prop_oneof![Just(1u64), Just(1 << 20)],
    ) {
        pages_agree(&batches, restart, limit, LogStoreConfig { segment_bytes, scan_bytes_max, ..LogStoreConfig::default() });
    }
}

fn pages_agree(batches: &[Batch], restart: usize, limit: usize, config: LogStoreConfig) {
    let mut f = Fixture::with(config);
    let base = now() - 10_000;
    let mut model: Vec<(i64, usize, usize, String)> = Vec::new();
    for (index, &(stream, age, count)) in batches.iter().enumerate() {
        if index == restart {
            f = f.reopen();
        }
        let events: Vec<_> = (0..count).map(|i| (base + 400 - age + i, format!("{index}.{i}"))).collect();
        f.put(&format!("s{stream}"), &events.iter().map(|(t, m)| event(*t, m)).collect::<Vec<_>>());
        model.extend(events.into_iter().map(|(t, m)| (t, index, stream, m)));
    }
    model.sort_by_key(|(t, index, ..)| (*t, *index));
    let expect = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        model.iter().filter(|(_, _, stream, _)| wanted(*stream)).map(|(.., m)| m.clone()).collect()
    };
    for newest_first in [false, true] {
        let mut all = f.filter(FilterQuery { limit: Some(limit), newest_first, ..FilterQuery::default() }).0;
        if newest_first {
            all.reverse();
        }
        assert_eq!(all, expect(&|_| true));
    }
    for stream in batches.iter().map(|batch| batch.0).collect::<std::collections::BTreeSet<_>>() {
        let name = format!("s{stream}");
        let of_stream = expect(&|s| s == stream);
        assert_eq!(f.messages(&name), of_stream);
        let mut query = GetQuery { limit: Some(limit), ..GetQuery::default() };
        let mut backwards = Vec::new();
        loop {
            let page = f.store.get_events(&scope(), "g", &name, &query).unwrap();
            backwards.splice(0..0, page.events.into_iter().map(|event| event.message));
            if query.token.as_ref() == Some(&page.next_backward_token) {
                break;
            }
            query.token = Some(page.next_backward_token);
        }
        assert_eq!(backwards, of_stream);
    }
}
