//! Row 84 of `security-tests.md`: tasks and servers that mean harm.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use simple_dns::TYPE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{Bench, OTHER, Script, TASK, exchange, query, receive};

const WEB: &str = "ok aa 10.0.0.5 20";

#[tokio::test]
async fn row_84_addresses_of_the_task_itself_are_left_out() {
    let bad = [[169, 254, 170, 2], [169, 254, 169, 254], [127, 0, 0, 1], [0, 0, 0, 0]].map(Ipv4Addr::from);
    let mixed = bad.into_iter().chain([Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 1, 2, 3)]).collect();
    let bench = Bench::new(&[
        ("rebind.example.com", Script::Addresses(bad.to_vec(), 30)),
        ("mixed.example.com", Script::Addresses(mixed, 30)),
        ("alias.example.com", Script::Loopback),
    ])
    .await;
    assert_eq!(bench.ask(TASK, "rebind.example.com", TYPE::A).await, "ok");
    assert_eq!(bench.ask_over_tcp(TASK, "rebind.example.com", TYPE::A).await, "ok");
    assert_eq!(bench.ask(TASK, "alias.example.com", TYPE::A).await, "ok");
    assert_eq!(bench.ask(TASK, "mixed.example.com", TYPE::A).await, "ok 192.0.2.1 30 10.1.2.3 30");
}

#[tokio::test]
async fn row_84_long_chains_end() {
    let bench = Bench::new(&[
        ("chain.example.com", Script::Chain(10)),
        ("long.example.com", Script::Chain(17)),
        ("endless.example.com", Script::Chain(400)),
    ])
    .await;
    let told = bench.ask_over_tcp(TASK, "chain.example.com", TYPE::A).await;
    assert!(told.ends_with("-> l10.example 192.0.2.1 30"), "{told}");
    assert_eq!(bench.ask(TASK, "long.example.com", TYPE::A).await, "ServerFailure");
    assert_eq!(bench.ask(TASK, "endless.example.com", TYPE::A).await, "ServerFailure");
}

#[tokio::test]
async fn row_84_answers_of_others_are_not_believed() {
    let bench =
        Bench::new(&[("forged.example.com", Script::Forged), ("lower.example.com", Script::LowerCase)]).await;
    assert_eq!(bench.ask(TASK, "forged.example.com", TYPE::A).await, "ok 192.0.2.1 30");
    assert_eq!(bench.ask(TASK, "lower.example.com", TYPE::A).await, "ok 192.0.2.1 30");
}

#[tokio::test]
async fn row_84_silence_and_noise_of_servers_end_in_time() {
    let noise = Script::Bytes(vec![0xc0; 512]);
    let bench = Bench::new(&[("silent.example.com", Script::Silent), ("noise.example.com", noise)]).await;
    for name in ["silent.example.com", "noise.example.com"] {
        let start = Instant::now();
        assert_eq!(bench.ask(TASK, name, TYPE::A).await, "ServerFailure", "{name}");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}");
    }
}

#[tokio::test]
async fn row_84_a_task_that_asks_for_what_is_silent_takes_nothing_from_others() {
    let scripts: Vec<(String, Script)> =
        (0..200).map(|number| (format!("s{number}.example.com"), Script::Silent)).collect();
    let scripts: Vec<(&str, Script)> =
        scripts.iter().map(|(name, script)| (name.as_str(), script.clone())).collect();
    let bench = Bench::new(&scripts).await;
    bench.script("www.example.com", Script::Addresses(vec![Ipv4Addr::new(192, 0, 2, 1)], 30));
    let socket = bench.socket(TASK).await;
    for (name, _) in &scripts {
        socket.send(&query(name, TYPE::A)).await.unwrap();
    }
    // Those that are too many are told at once; the others are still asked for.
    let mut refused = 0;
    while receive(&socket, Duration::from_millis(300)).await.is_some() {
        refused += 1;
    }
    assert_eq!(refused, 200 - 64);
    assert_eq!(bench.ask(OTHER, "www.example.com", TYPE::A).await, "ok 192.0.2.1 30");
    assert_eq!(bench.ask(TASK, "web.ns.local", TYPE::A).await, WEB);
}

#[tokio::test]
async fn row_84_a_flood_is_cut_down() {
    let bench = Bench::new(&[]).await;
    let socket = bench.socket(TASK).await;
    let start = Instant::now();
    let mut answered = 0_u32;
    for _ in 0..6000 {
        socket.send(&query("web.ns.local", TYPE::A)).await.unwrap();
        while socket.try_recv(&mut [0; 512]).is_ok() {
            answered += 1;
        }
    }
    while receive(&socket, Duration::from_millis(200)).await.is_some() {
        answered += 1;
    }
    let most = 1024.0 * (1.0 + start.elapsed().as_secs_f64());
    assert!(answered >= 500 && f64::from(answered) <= most, "{answered} of at most {most}");
    assert_eq!(bench.ask(OTHER, "localhost", TYPE::A).await, "ok aa 127.0.0.1 0");
}

#[tokio::test]
async fn row_84_a_storm_of_names_that_do_not_exist_is_answered() {
    let bench =
        Bench::new(&[("www.example.com", Script::Addresses(vec![Ipv4Addr::new(192, 0, 2, 1)], 60))]).await;
    assert_eq!(bench.ask(OTHER, "www.example.com", TYPE::A).await, "ok 192.0.2.1 60");
    let socket = bench.socket(TASK).await;
    for number in 0..900 {
        socket.send(&query(&format!("n{number}.example.com"), TYPE::A)).await.unwrap();
        // One after the other, so that none is one too many.
        assert!(receive(&socket, Duration::from_secs(5)).await.is_some(), "{number}");
    }
    let before = bench.times_asked();
    assert!(bench.ask(OTHER, "www.example.com", TYPE::A).await.starts_with("ok 192.0.2.1"));
    assert_eq!(bench.times_asked(), before, "what others have asked for is still kept");
}

#[tokio::test]
async fn row_84_connections_are_few_and_short() {
    let bench = Bench::new(&[]).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = bench.connect(TASK).await;
        assert!(exchange(&mut stream, &query("web.ns.local", TYPE::A)).await.is_ok());
        held.push(stream);
    }
    let mut one_too_many = bench.connect(TASK).await;
    assert!(exchange(&mut one_too_many, &query("web.ns.local", TYPE::A)).await.is_err());
    assert_eq!(bench.ask_over_tcp(OTHER, "localhost", TYPE::A).await, "ok aa 127.0.0.1 0");
    drop(held);
    // Given back as soon as the server has seen that they are closed.
    let deadline = Instant::now() + Duration::from_secs(5);
    while exchange(&mut bench.connect(TASK).await, &query("web.ns.local", TYPE::A)).await.is_err() {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    // 64 KiB, of which not a byte is waited for.
    let mut stream = bench.connect(TASK).await;
    stream.write_all(&[0xff, 0xff]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    // Half of a question, and no more.
    let mut stream = bench.connect(TASK).await;
    stream.write_all(&[0, 40, 1, 2, 3]).await.unwrap();
    let start = Instant::now();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    assert!(start.elapsed() < Duration::from_secs(8));
}
