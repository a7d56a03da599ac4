use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use neargate_model::Timestamp;
use neargate_telemetry::{Appended, FollowFrom, LogStoreConfig};

use crate::{Fixture, append, event, now, scope};

async fn next(follower: &mut neargate_telemetry::Follower) -> Vec<String> {
    let events = follower.next().await.unwrap().expect("the stream goes on");
    events.into_iter().map(|event| event.message).collect()
}

#[tokio::test]
async fn followers_begin_where_asked() {
    let f = Fixture::new();
    let t = now() - 1000;
    f.put("s", &[event(t, "0"), event(t + 1, "1"), event(t + 2, "2")]);
    let f = f.reopen();
    let follow = |from| f.store.follow(&scope(), "g", "s", from).unwrap();
    let mut newest = follow(FollowFrom::Newest);
    assert_eq!(next(&mut follow(FollowFrom::Oldest)).await, ["0", "1", "2"]);
    assert_eq!(next(&mut follow(FollowFrom::Last(2))).await, ["1", "2"]);
    assert_eq!(next(&mut follow(FollowFrom::Last(9))).await, ["0", "1", "2"]);
    assert_eq!(next(&mut follow(FollowFrom::Since(Timestamp(t + 2)))).await, ["2"]);
    append(&f.writer("s"), "3");
    assert_eq!(next(&mut newest).await, ["3"]);
    let mut few = follow(FollowFrom::Oldest);
    assert!(few.ready().await);
    assert_eq!(few.read(3).unwrap().len(), 3);
    assert_eq!(few.read(3).unwrap().len(), 1);
    assert_eq!(few.read(3).unwrap().len(), 0);
}

#[tokio::test]
async fn events_out_of_order_reach_a_follower() {
    let f = Fixture::new();
    f.put("s", &[event(now(), "now")]);
    let mut follower = f.store.follow(&scope(), "g", "s", FollowFrom::Newest).unwrap();
    f.put("s", &[event(now() - 5000, "late")]);
    assert_eq!(next(&mut follower).await, ["late"]);
}

#[tokio::test]
async fn following_ends_with_the_stream_the_group_and_the_store() {
    let f = Fixture::new();
    f.store.create_group(&scope(), "h", None).unwrap();
    for (group, stream) in [("g", "a"), ("g", "b"), ("h", "a")] {
        f.store.create_stream(&scope(), group, stream).unwrap();
    }
    let follow = |group, stream| f.store.follow(&scope(), group, stream, FollowFrom::Oldest).unwrap();
    let (mut a, mut b, mut h) = (follow("g", "a"), follow("g", "b"), follow("h", "a"));
    f.store.delete_stream(&scope(), "g", "a").unwrap();
    assert_eq!(a.next().await.unwrap(), None);
    f.store.delete_group(&scope(), "h").unwrap();
    assert_eq!(h.next().await.unwrap(), None);
    append(&f.writer("b"), "last");
    f.store.close();
    assert_eq!(next(&mut b).await, ["last"]);
    assert_eq!(b.next().await.unwrap(), None);
    assert_eq!(follow("g", "b").next().await.unwrap().map(|events| events.len()), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appenders_followers_readers_and_sweeps_work_together() {
    const LINES: usize = 3000;
    let f = Arc::new(Fixture::with(LogStoreConfig { segment_bytes: 16 << 10, ..LogStoreConfig::default() }));
    let streams = ["a", "b", "c", "d"];
    streams.iter().for_each(|stream| drop(f.writer(stream)));
    let mut followers = tokio::task::JoinSet::new();
    for stream in streams {
        let mut follower = f.store.follow(&scope(), "g", stream, FollowFrom::Oldest).unwrap();
        followers.spawn(async move {
            let mut lines = Vec::new();
            while lines.len() < LINES {
                lines.extend(next(&mut follower).await);
            }
            (stream, lines)
        });
    }
    let done = Arc::new(AtomicBool::new(false));
    let sweeper = {
        let (f, done) = (f.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                append(&f.writer("doomed"), &"x".repeat(500));
                f.store.flush();
                f.store.delete_stream(&scope(), "g", "doomed").unwrap();
                assert_eq!(f.store.sweep().errors, 0);
                f.filter(neargate_telemetry::FilterQuery { limit: Some(10_000), ..Default::default() });
            }
        })
    };
    let appenders: Vec<_> = streams
        .iter()
        .map(|stream| {
            let writer = f.writer(stream);
            std::thread::spawn(move || {
                for i in 0..LINES {
                    let line = format!("{} {i}", writer.stream());
                    assert_eq!(writer.append_blocking(Timestamp(now()), line.as_bytes()), Appended::Queued);
                }
            })
        })
        .collect();
    while let Some(followed) = followers.join_next().await {
        let (stream, lines) = followed.unwrap();
        let expect: Vec<_> = (0..LINES).map(|i| format!("{stream} {i}")).collect();
        assert!(lines == expect, "{stream} has {} lines", lines.len());
    }
    done.store(true, Ordering::Relaxed);
    appenders.into_iter().for_each(|thread| thread.join().unwrap());
    sweeper.join().unwrap();
    assert_eq!(f.store.stats().events_dropped, 0);
    assert_eq!(f.store.stats().write_errors, 0);
}
