//! What is answered.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use simple_dns::{QTYPE, TYPE};

use crate::bench::{Bench, OTHER, STRANGER, Script, TASK, exchange, query, receive};

fn addresses(addresses: &[[u8; 4]], ttl: u32) -> Script {
    Script::Addresses(addresses.iter().map(|one| Ipv4Addr::from(*one)).collect(), ttl)
}

#[tokio::test]
async fn private_names_are_answered_to_those_who_see_them() {
    let bench = Bench::new(&[("web.ns.local", addresses(&[[192, 0, 2, 9]], 30))]).await;
    let check = async |task, name, kind, expect: &str| {
        assert_eq!(bench.ask(task, name, kind).await, expect, "{name} {kind:?}");
        assert_eq!(bench.ask_over_tcp(task, name, kind).await, expect, "{name} {kind:?} over TCP");
    };
    check(TASK, "web.ns.local", TYPE::A, "ok aa 10.0.0.5 20").await;
    check(TASK, "WEB.ns.LOCAL", TYPE::A, "ok aa 10.0.0.5 20").await;
    check(TASK, "web.ns.local", TYPE::SRV, "ok aa one.web.ns.local:80 20").await;
    check(TASK, "web.ns.local", TYPE::MX, "ok aa soa 15").await;
    check(TASK, "no.ns.local", TYPE::A, "NameError aa soa 15").await;
    check(TASK, "near.ns.local", TYPE::A, "ok aa -> web.ns.local 10.0.0.5 20").await;
    check(TASK, "near.ns.local", TYPE::CNAME, "ok aa -> web.ns.local").await;
    check(TASK, "round.ns.local", TYPE::A, "ServerFailure").await;
    check(TASK, "localhost", TYPE::A, "ok aa 127.0.0.1 0").await;
    check(TASK, "a.localhost", TYPE::MX, "ok aa").await;
    assert_eq!(bench.times_asked(), 0, "nobody outside hears of private names");
    check(OTHER, "web.ns.local", TYPE::A, "ok 192.0.2.9 30").await;
    assert_eq!(bench.ask(STRANGER, "web.ns.local", TYPE::A).await, "silence");
}

#[tokio::test]
async fn addresses_are_told_without_a_message() {
    let inside = addresses(&[[169, 254, 170, 2], [192, 0, 2, 7]], 30);
    let scripts = [("www.example.com", inside), ("bad.example.com", Script::Fails)];
    let bench = Bench::new(&scripts).await;
    let check = async |task, name, expect: Option<&[[u8; 4]]>| {
        let expect =
            expect.map(|found| found.iter().map(|one| Ipv4Addr::from(*one).into()).collect::<Vec<IpAddr>>());
        assert_eq!(bench.resolver.addresses(task, name).await, expect, "{name}");
    };
    check(TASK, "web.ns.local", Some(&[[10, 0, 0, 5]])).await;
    check(OTHER, "web.ns.local", Some(&[])).await;
    check(TASK, "WWW.example.com.", Some(&[[192, 0, 2, 7]])).await;
    check(TASK, "no.example.com", Some(&[])).await;
    check(TASK, "no..example.com", Some(&[])).await;
    check(TASK, "bad.example.com", None).await;
    check(STRANGER, "www.example.com", None).await;
    let local = bench.resolver.addresses(TASK, "localhost").await.unwrap();
    assert!(local.iter().all(IpAddr::is_loopback) && !local.is_empty(), "{local:?}");
}

#[tokio::test]
async fn other_names_are_asked_for_once() {
    let www = addresses(&[[192, 0, 2, 1], [192, 0, 2, 2]], 30);
    let bench = Bench::new(&[("www.example.com", www)]).await;
    for expect in [1, 1] {
        let told = bench.ask(TASK, "www.example.com", TYPE::A).await;
        assert_eq!(told, "ok 192.0.2.1 30 192.0.2.2 30");
        assert_eq!(bench.times_asked(), expect);
    }
    for expect in [2, 2] {
        assert_eq!(bench.ask(OTHER, "no.example.com", TYPE::A).await, "NameError soa 40");
        assert_eq!(bench.times_asked(), expect);
    }
    let told = bench.ask(TASK, "alias.ns.local", TYPE::A).await;
    assert_eq!(told, "ok -> www.example.com 192.0.2.1 30 192.0.2.2 30");
    assert_eq!(bench.times_asked(), 2);
}

#[tokio::test]
async fn long_answers_come_over_tcp() {
    let bench = Bench::new(&[("many.example.com", Script::Many(60))]).await;
    assert_eq!(bench.ask(TASK, "many.example.com", TYPE::A).await, "cut");
    let told = bench.ask_over_tcp(TASK, "many.example.com", TYPE::A).await;
    assert_eq!(told.matches("192.0.2.").count(), 60);
    // Several questions on one connection.
    let mut stream = bench.connect(TASK).await;
    for _ in 0..3 {
        assert!(exchange(&mut stream, &query("many.example.com", TYPE::A)).await.unwrap().len() > 900);
    }
}

#[tokio::test]
async fn failures_are_told_and_not_tried_again_at_once() {
    let bench = Bench::new(&[("bad.example.com", Script::Fails)]).await;
    assert_eq!(bench.ask(TASK, "bad.example.com", TYPE::A).await, "ServerFailure");
    let asked = bench.times_asked();
    bench.script("bad.example.com", addresses(&[[192, 0, 2, 1]], 30));
    assert_eq!(bench.ask(TASK, "bad.example.com", TYPE::A).await, "ServerFailure");
    assert_eq!(bench.times_asked(), asked);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.ask(TASK, "bad.example.com", TYPE::A).await, "ok 192.0.2.1 30");
}

#[tokio::test]
async fn who_asks_the_same_waits_for_one_answer() {
    let bench = Bench::new(&[("slow.example.com", Script::Silent)]).await;
    let socket = bench.socket(TASK).await;
    for _ in 0..20 {
        socket.send(&query("slow.example.com", TYPE::A)).await.unwrap();
    }
    // The first one is not heard, and only the one that asks asks again.
    tokio::time::sleep(Duration::from_millis(200)).await;
    bench.script("slow.example.com", addresses(&[[192, 0, 2, 1]], 30));
    for _ in 0..20 {
        assert!(receive(&socket, Duration::from_secs(3)).await.is_some());
    }
    assert_eq!(bench.times_asked(), 2);
}

#[tokio::test]
async fn servers_without_edns_are_understood() {
    let bench = Bench::new(&[("old.example.com", Script::OldServer)]).await;
    assert_eq!(bench.ask(TASK, "old.example.com", TYPE::A).await, "ok 192.0.2.1 30");
}

#[tokio::test]
async fn transfers_and_questions_for_everything_are_refused() {
    let bench = Bench::new(&[]).await;
    for kind in [QTYPE::ANY, QTYPE::AXFR, QTYPE::IXFR] {
        let mut message = query("www.example.com", TYPE::A);
        let at = message.len() - 4;
        message[at..at + 2].copy_from_slice(&u16::from(kind).to_be_bytes());
        let answer = bench.datagram(TASK, &message).await.unwrap();
        assert_eq!(simple_dns::Packet::parse(&answer).unwrap().rcode(), simple_dns::RCODE::NotImplemented);
    }
    assert_eq!(bench.times_asked(), 0);
}
