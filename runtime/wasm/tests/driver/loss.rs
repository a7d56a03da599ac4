//! Workers that end, or do what none of ours does: only their own runs are lost, and each says why.

use std::time::Duration;

use neargate_driver::Signal;

use crate::bench::{Bench, task};
use crate::fake::Event;

const LOST: &str = "the Wasm worker of this task ended unexpectedly";

#[tokio::test]
async fn a_killed_worker_loses_only_its_own_runs() {
    let bench = Bench::with(|config| config.workers = 1);
    let lost = [bench.run(task("hold")).await, bench.run(task("hold")).await];
    let other = bench.run(task("hold").tenant("b")).await;
    bench.host.kill(0);
    for handle in lost {
        let exit = handle.wait().await;
        assert_eq!((exit.code, exit.oom), (Some(137), false));
        assert_eq!(exit.reason.as_deref(), Some(&*format!("{LOST}: signal 9")));
        assert_eq!(handle.stats().await.unwrap().pids, 0);
    }
    assert_eq!(other.stats().await.unwrap().pids, 1);
    assert_eq!(bench.run(task("exit 4")).await.wait().await.code, Some(4));
    assert_eq!(bench.host.workers(), 3);
}

#[tokio::test]
async fn every_end_of_a_worker_is_told() {
    let check = async |words: &str, code: i32, oom: bool, reason: &str| {
        let bench = Bench::with(|config| config.workers = 1);
        let bystander = bench.run(task("hold")).await;
        let culprit = bench.run(task(words)).await;
        for handle in [bystander, culprit] {
            let exit = handle.wait().await;
            assert_eq!((exit.code, exit.oom), (Some(code), oom), "{words}: {exit:?}");
            assert_eq!(exit.reason.as_deref(), Some(&*format!("{LOST}: {reason}")), "{words}");
        }
    };
    check("die", 139, false, "signal 11").await;
    check("swell", 137, true, "it went over its memory limit").await;
    check("garbage", 137, false, "it sent a message that is none").await;
    check("strays", 137, false, "it speaks of runs that it does not have").await;
}

#[tokio::test]
async fn a_flood_of_notices_is_no_harm() {
    let bench = Bench::with(|config| config.workers = 1);
    let other = bench.run(task("hold")).await;
    assert_eq!(bench.run(task("flood")).await.wait().await.code, Some(0));
    assert_eq!(other.stats().await.unwrap().pids, 1);
}

#[tokio::test]
async fn a_run_that_cannot_be_killed_costs_the_worker_its_life() {
    let bench = Bench::with(|config| config.workers = 1);
    let handle = bench.run(task("deaf")).await;
    handle.signal(Signal::Stop(15)).await.unwrap();
    handle.signal(Signal::Kill).await.unwrap();
    let exit = handle.wait().await;
    assert_eq!(exit.code, Some(137));
    assert_eq!(exit.reason.as_deref(), Some(&*format!("{LOST}: it did not end a run that was killed")));
}

#[tokio::test]
async fn a_start_without_an_answer_is_given_up() {
    let bench = Bench::with(|config| config.workers = 1);
    let text = bench.refuse(task("mute")).await;
    assert!(text.starts_with("start the program in its Wasm worker"), "{text}");
    // It was asked to kill what it may have started, and does not answer that either.
    bench
        .host
        .until("the end of the worker", |events| {
            events.iter().any(|event| matches!(event, Event::Ended { .. }))
        })
        .await;
    assert_eq!(bench.run(task("exit 0")).await.wait().await.code, Some(0));
}

#[tokio::test]
async fn a_cancelled_start_leaves_nothing() {
    let bench = Bench::with(|config| {
        config.workers = 1;
        config.deadlines.start = Duration::from_secs(60);
    });
    let starting = bench.start(task("mute"));
    let started = bench
        .host
        .until("the start", |events| events.iter().any(|event| matches!(event, Event::Started { .. })));
    tokio::select! {
        _ = starting => panic!("it should not start"),
        _ = started => {}
    }
    bench
        .host
        .until("the killing", |events| events.iter().any(|event| matches!(event, Event::Stopped { .. })))
        .await;
}

#[tokio::test]
async fn a_worker_that_is_not_ready_is_an_error_and_later_ones_are_tried() {
    let bench = Bench::with(|config| config.workers = 1);
    bench.host.stillborn.store(1, std::sync::atomic::Ordering::SeqCst);
    let text = bench.refuse(task("exit 0")).await;
    assert!(text.contains("wait for a Wasm worker to be ready"), "{text}");
    assert_eq!(bench.run(task("exit 0")).await.wait().await.code, Some(0));
}

#[tokio::test]
async fn a_worker_that_keeps_ending_is_started_ever_more_slowly() {
    let bench = Bench::with(|config| config.workers = 1);
    let began = std::time::Instant::now();
    for _ in 0..4 {
        bench.run(task("die")).await.wait().await;
    }
    assert!(began.elapsed() < Duration::from_secs(2), "the first ends cost little");
    // The fourth came after pauses of 100 and 200 ms.
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    assert_eq!(bench.run(task("exit 0")).await.wait().await.code, Some(0));
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(bench.host.workers(), 5);
}

#[tokio::test]
async fn the_end_of_the_driver_ends_all() {
    let bench = Bench::new();
    let handle = bench.run(task("hold")).await;
    let http = bench.run(task("hold").http()).await;
    bench.driver.shut_down().await;
    let exit = handle.wait().await;
    assert_eq!(exit.reason.as_deref(), Some("the Wasm worker of this task was ended: the server ends"));
    assert!(http.wait().await.code.is_some());
    let text = bench.refuse(task("exit 0")).await;
    assert!(text.contains("the driver has ended"), "{text}");
}

#[tokio::test]
async fn a_lost_part_of_an_http_handler_is_started_again() {
    let bench = Bench::new();
    let handle = bench.run(task("hold").http()).await;
    let started = |count: usize| {
        move |events: &[Event]| {
            events.iter().filter(|event| matches!(event, Event::Started { .. })).count() >= count
        }
    };
    bench.host.until("both parts", started(2)).await;
    bench.host.kill(0);
    bench.host.until("the part that was lost", started(3)).await;
    assert_eq!(bench.host.starts()[2].1.listeners, 1);
    let both_run = async {
        while handle.stats().await.unwrap().pids < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both_run).await.unwrap();
    // Both have used 100 ns, and the one that was lost nothing that was told.
    assert_eq!(handle.stats().await.unwrap().cpu_ns, 200);
    handle.signal(Signal::Stop(15)).await.unwrap();
    let exit = handle.wait().await;
    assert_eq!((exit.code, exit.reason), (Some(143), None));
    assert_eq!(handle.stats().await.unwrap().cpu_ns, 400);
    assert_eq!(bench.host.workers(), 3);
}
