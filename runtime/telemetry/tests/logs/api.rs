use neargate_model::{AccountId, Scope, Timestamp};
use neargate_telemetry::{
    Appended, Create, GetQuery, GroupQuery, LogStore, LogStoreConfig, MetaError, OpenError, PutError,
    ReadError, Rejected, StreamOrder, StreamQuery, What,
};

use crate::{DAY_MS, Fixture, append, event, now, scope};

fn group_names(store: &LogStore, query: GroupQuery) -> (Vec<String>, Option<String>) {
    let page = store.describe_groups(&scope(), &query).unwrap();
    (page.items.into_iter().map(|group| group.name).collect(), page.next_token)
}

#[test]
fn groups_are_created_listed_and_deleted() {
    let f = Fixture::new();
    let elsewhere = Scope { account: AccountId::new("000000000000".to_owned()).unwrap(), ..scope() };
    for name in ["/ecs/web", "/ecs/api", "h"] {
        f.store.create_group(&scope(), name, Some(7)).unwrap();
    }
    f.store.create_group(&elsewhere, "/ecs/web", None).unwrap();
    let again = f.store.create_group(&scope(), "h", None);
    assert!(matches!(again, Err(MetaError::AlreadyExists { what: What::Group, .. })));
    assert!(matches!(f.store.create_group(&scope(), "a b", None), Err(MetaError::InvalidParameter { .. })));
    assert!(matches!(f.store.create_group(&scope(), "x", Some(2)), Err(MetaError::InvalidParameter { .. })));
    let f = f.reopen();
    assert_eq!(group_names(&f.store, GroupQuery::default()).0, ["/ecs/api", "/ecs/web", "g", "h"]);
    let prefix = GroupQuery { prefix: Some("/ecs/".to_owned()), ..GroupQuery::default() };
    assert_eq!(group_names(&f.store, prefix.clone()).0, ["/ecs/api", "/ecs/web"]);
    let pattern = GroupQuery { pattern: Some("we".to_owned()), ..GroupQuery::default() };
    assert_eq!(group_names(&f.store, pattern).0, ["/ecs/web"]);
    let both = GroupQuery { pattern: Some("we".to_owned()), ..prefix };
    assert!(f.store.describe_groups(&scope(), &both).is_err());
    f.store.delete_group(&scope(), "/ecs/web").unwrap();
    assert!(matches!(
        f.store.delete_group(&scope(), "/ecs/web"),
        Err(MetaError::NotFound { what: What::Group, .. })
    ));
    let f = f.reopen();
    assert_eq!(group_names(&f.store, GroupQuery::default()).0, ["/ecs/api", "g", "h"]);
    assert_eq!(f.store.describe_groups(&elsewhere, &GroupQuery::default()).unwrap().items.len(), 1);
}

#[test]
fn group_pages_follow_each_other() {
    let f = Fixture::new();
    for i in 0..5 {
        f.store.create_group(&scope(), &format!("p{i}"), None).unwrap();
    }
    let mut query = GroupQuery { prefix: Some("p".to_owned()), limit: Some(2), ..GroupQuery::default() };
    let mut pages = Vec::new();
    loop {
        let (names, token) = group_names(&f.store, query.clone());
        pages.push(names.join(" "));
        match token {
            Some(token) => query.token = Some(token),
            None => break,
        }
    }
    assert_eq!(pages, ["p0 p1", "p2 p3", "p4"]);
    for limit in [0, 51] {
        assert!(
            f.store.describe_groups(&scope(), &GroupQuery { limit: Some(limit), ..query.clone() }).is_err()
        );
    }
    assert!(f.store.describe_groups(&scope(), &GroupQuery { token: Some("x".to_owned()), ..query }).is_err());
}

#[test]
fn retention_is_kept_and_removed() {
    let f = Fixture::new();
    f.store.put_retention(&scope(), "g", 14).unwrap();
    assert!(f.store.put_retention(&scope(), "g", 15).is_err());
    let f = f.reopen();
    let retention = |f: &Fixture| {
        f.store.describe_groups(&scope(), &GroupQuery::default()).unwrap().items[0].retention_days
    };
    assert_eq!(retention(&f), Some(14));
    f.store.delete_retention(&scope(), "g").unwrap();
    assert_eq!(retention(&f), None);
    assert!(f.store.delete_retention(&scope(), "none").is_err());
}

fn stream_pages(f: &Fixture, mut query: StreamQuery) -> Vec<String> {
    let mut pages = Vec::new();
    loop {
        let page = f.store.describe_streams(&scope(), "g", &query).unwrap();
        pages.push(page.items.into_iter().map(|stream| stream.name).collect::<Vec<_>>().join(" "));
        match page.next_token {
            Some(token) => query.token = Some(token),
            None => return pages,
        }
    }
}

#[test]
fn streams_are_listed_in_each_order() {
    let f = Fixture::new();
    let base = now() - 10_000;
    for (name, time) in [("b/1", 30), ("a/1", 20), ("b/2", 10), ("c", 20)] {
        f.put(name, &[event(base + time, "x")]);
    }
    f.store.create_stream(&scope(), "g", "empty").unwrap();
    let f = f.reopen();
    let by_name = |descending, prefix: Option<&str>| StreamQuery {
        prefix: prefix.map(str::to_owned),
        descending,
        limit: Some(2),
        ..StreamQuery::default()
    };
    let by_time = |descending| StreamQuery { order: StreamOrder::LastEventTime, ..by_name(descending, None) };
    assert_eq!(stream_pages(&f, by_name(false, None)), ["a/1 b/1", "b/2 c", "empty"]);
    assert_eq!(stream_pages(&f, by_name(true, None)), ["empty c", "b/2 b/1", "a/1"]);
    assert_eq!(stream_pages(&f, by_name(false, Some("b/"))), ["b/1 b/2"]);
    assert_eq!(stream_pages(&f, by_name(true, Some("b"))), ["b/2 b/1"]);
    assert_eq!(stream_pages(&f, by_name(true, Some("z"))), [""]);
    assert_eq!(stream_pages(&f, by_time(false)), ["empty b/2", "a/1 c", "b/1"]);
    assert_eq!(stream_pages(&f, by_time(true)), ["b/1 c", "a/1 b/2", "empty"]);
    let both = StreamQuery { order: StreamOrder::LastEventTime, ..by_name(false, Some("b")) };
    assert!(f.store.describe_streams(&scope(), "g", &both).is_err());
}

#[test]
fn stream_times_survive_a_restart() {
    let f = Fixture::new();
    let base = now();
    f.put("s", &[event(base - 5, "first"), event(base - 3, "second")]);
    f.put("s", &[event(base - 9, "late")]);
    let check = |f: &Fixture| {
        let page = f.store.describe_streams(&scope(), "g", &StreamQuery::default()).unwrap();
        let stream = &page.items[0];
        assert_eq!(stream.first_event, Some(Timestamp(base - 9)));
        assert_eq!(stream.last_event, Some(Timestamp(base - 3)));
        assert!(stream.last_ingestion.unwrap().as_millis() >= base);
        assert!(stream.created.as_millis() >= base);
        assert!(
            f.store.describe_groups(&scope(), &GroupQuery::default()).unwrap().items[0].stored_bytes > 15
        );
    };
    check(&f);
    check(&f.reopen());
}

#[test]
fn a_stream_created_anew_is_empty() {
    let f = Fixture::new();
    let writer = f.writer("s");
    append(&writer, "old");
    f.store.flush();
    let taken = f.store.create_stream(&scope(), "g", "s");
    assert!(matches!(taken, Err(MetaError::AlreadyExists { what: What::Stream, .. })));
    f.store.delete_stream(&scope(), "g", "s").unwrap();
    assert_eq!(writer.append(Timestamp(1), b"x"), Appended::Closed);
    assert!(f.store.delete_stream(&scope(), "g", "s").is_err());
    f.store.create_stream(&scope(), "g", "s").unwrap();
    let f = f.reopen();
    assert_eq!(f.messages("s"), Vec::<String>::new());
    append(&f.writer("s"), "new");
    f.store.flush();
    assert_eq!(f.messages("s"), ["new"]);
}

#[test]
fn writers_create_what_they_may() {
    let f = Fixture::new();
    let open =
        |group: &str, stream: &str, create| f.store.open_writer(&scope(), group, stream, create).map(drop);
    assert!(matches!(open("g", "s", Create::Nothing), Err(MetaError::NotFound { what: What::Stream, .. })));
    assert!(matches!(open("new", "s", Create::Stream), Err(MetaError::NotFound { what: What::Group, .. })));
    assert!(matches!(open("g", "s:", Create::Stream), Err(MetaError::InvalidParameter { .. })));
    open("g", "s", Create::Stream).unwrap();
    open("g", "s", Create::Nothing).unwrap();
    open("new", "s", Create::GroupAndStream).unwrap();
    open("new", "s", Create::GroupAndStream).unwrap();
}

#[test]
fn batches_follow_the_rules_of_put_log_events() {
    let f = Fixture::new();
    f.store.create_stream(&scope(), "g", "s").unwrap();
    f.store.put_retention(&scope(), "g", 1).unwrap();
    let put = |events: &[_]| f.store.put_events(&scope(), "g", "s", events);
    let t = now();
    assert!(matches!(put(&[]), Err(PutError::InvalidParameter { .. })));
    assert!(matches!(put(&[event(t, "a"), event(t - 1, "b")]), Err(PutError::InvalidParameter { .. })));
    let mixed =
        [event(1, "old"), event(t - 2 * DAY_MS, "expired"), event(t, "good"), event(t + DAY_MS, "new")];
    let rejected = Rejected { too_old_end: Some(1), expired_end: Some(2), too_new_start: Some(3) };
    assert_eq!(put(&mixed).unwrap(), rejected);
    assert_eq!(put(&mixed[..1]).unwrap(), Rejected { too_old_end: Some(1), ..Rejected::default() });
    assert_eq!(f.messages("s"), ["good"]);
    let unknown = f.store.put_events(&scope(), "g", "x", &mixed);
    assert!(matches!(unknown, Err(PutError::NotFound { what: What::Stream, .. })));
    let unknown = f.store.get_events(&scope(), "x", "s", &GetQuery::default());
    assert!(matches!(unknown, Err(ReadError::NotFound { what: What::Group, .. })));
}

#[test]
fn long_and_broken_lines_become_events() {
    let f = Fixture::new();
    let writer = f.writer("s");
    let long = "é".repeat(200 << 10);
    append(&writer, &long);
    append(&writer, "");
    assert_eq!(writer.append(Timestamp(now()), b"a\xffb"), Appended::Queued);
    assert_eq!(writer.append(Timestamp(-5), b"before time"), Appended::Queued);
    f.store.flush();
    let messages = f.messages("s");
    assert_eq!(messages.len(), 5);
    assert_eq!(messages[0], "before time");
    assert_eq!(format!("{}{}", messages[1], messages[2]), long);
    assert_eq!(messages[3..], ["", "a\u{fffd}b"]);
}

#[test]
fn a_store_has_one_owner_and_an_end() {
    let f = Fixture::new();
    let second = LogStore::open(f.dir.path(), LogStoreConfig::default());
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    let writer = f.writer("s");
    append(&writer, "last words");
    f.store.close();
    assert_eq!(writer.append(Timestamp(1), b"x"), Appended::Closed);
    assert_eq!(writer.append_blocking(Timestamp(1), b"x"), Appended::Closed);
    let put = f.store.put_events(&scope(), "g", "s", &[event(now(), "x")]);
    assert!(matches!(put, Err(PutError::Closed { .. })));
    f.store.flush();
    assert_eq!(f.messages("s"), ["last words"]);
    drop(writer);
    assert_eq!(f.reopen().messages("s"), ["last words"]);
}
