//! Handlers of WASI 0.3: what those of 0.2 promise holds for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use neargate_wasm::protocol::{EngineKind, Entry, HostReply, Network, RunLimits, StartFailure, Stop};

use crate::harness::Setup;
use crate::outgoing::{answer_lookup, peer};
use crate::served::{Served, guest, worker};

fn third() -> Served {
    third_with(|_| {})
}

/// Served by a handler of WASI 0.3 with a plan that was changed.
fn third_with(change: impl FnOnce(&mut Setup<'_>)) -> Served {
    Served::of("http3", &EngineKind::Concurrent {}, 16, |setup| {
        setup.plan.grants = vec!["wasi:p3".to_owned()];
        change(setup);
    })
}

#[test]
fn a_request_is_answered() {
    let served = third();
    let mut client = served.client();
    let response = client.get("/hello");
    assert_eq!((response.status, response.text()), (200, "hello\n"));
    assert!(response.header("date").is_some());
    client.write(b"GET /describe?a=b HTTP/1.1\r\nHost: example.com:81\r\n\r\n");
    let text = "Method::Get Some(Scheme::Http) Some(\"example.com:81\") Some(\"/describe?a=b\")\n";
    assert_eq!(client.response().unwrap().text(), text);
    client.write(b"GET /headers HTTP/1.1\r\nHost: a\r\nX-Twice: 1\r\nX-Twice: 2\r\nUpgrade: b\r\n\r\n");
    assert_eq!(client.response().unwrap().text(), "x-twice: 1\nx-twice: 2\n");
    assert_eq!(client.get("/empty").status, 204);
    assert_eq!(client.get("/nowhere").status, 404);
    client.write(b"HEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 200);
    // Had a body come, it would be read as the next status line.
    assert_eq!(client.get("/hello").text(), "hello\n");
    served.wait_for_no_instance();
    assert_eq!(served.usage().requests, 7);
    assert_eq!(served.end(), "");
}

#[test]
fn it_is_granted_or_refused() {
    let worker = worker(16);
    let wasm = guest("http3");
    worker.load_for(&wasm, &EngineKind::Concurrent {}).unwrap();
    let mut setup = Setup::default();
    setup.plan.entry = Entry::Http { reuse: None };
    setup.plan.listeners = 1;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = worker.start_and(&wasm, &setup, vec![listener.into()]).map(drop);
    assert!(
        matches!(&refused, Err(StartFailure::Import { why }) if why.contains("`wasi:p3`")),
        "{refused:?}"
    );
}

#[test]
fn instances_are_fresh_or_reused() {
    let served = third();
    let mut client = served.client();
    assert!((0..3).all(|_| client.get("/seen").text() == "1"));
    let served = third_with(|setup| setup.plan.entry = Entry::Http { reuse: Some(3) });
    let mut client = served.client();
    let seen: Vec<String> = (0..7).map(|_| client.get("/seen").text().to_owned()).collect();
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3", "1"]);
    assert_eq!(client.get("/trap").status, 500);
    assert_eq!(client.get("/seen").text(), "1", "an instance that trapped is not used again");
}

#[test]
fn hosts_are_names() {
    let served = third();
    let mut client = served.client();
    client.write(b"GET /describe HTTP/1.1\r\nHost: \r\n\r\n");
    let response = client.response().unwrap();
    assert_eq!(response.text(), "Method::Get Some(Scheme::Http) None Some(\"/describe\")\n");
    client.write(b"GET /describe HTTP/1.1\r\nHost: a/b c\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 400);
    assert_eq!(client.get("/hello").status, 200, "the connection goes on");
}

#[test]
fn bodies_stream() {
    let served = third();
    let mut client = served.client();
    client.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut head = None;
    for part in ["one", "three", "two"] {
        client.write(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes());
        head.get_or_insert_with(|| client.head().unwrap());
        assert_eq!(client.chunk().unwrap().unwrap(), part.as_bytes());
    }
    client.write(b"0\r\n\r\n");
    assert_eq!(client.chunk().unwrap(), None);

    let sent: Vec<u8> =
        (0..8u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut writer, copy) = (client.writer(), sent.clone());
    let writing = std::thread::spawn(move || {
        write!(writer, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", copy.len()).unwrap();
        writer.write_all(&copy).unwrap();
    });
    assert!(client.response().unwrap().body == sent, "the body has changed");
    writing.join().unwrap();

    client.write(b"GET /stream?64 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().unwrap().body.len(), 64 << 20);
    assert!(served.usage().memory_peak_bytes < 16 << 20, "{:?}", served.usage());
    assert_eq!(client.get("/hello").status, 200);
    assert_eq!(served.end(), "");
}

#[test]
fn a_guest_learns_how_a_body_ended() {
    let served = third();
    let mut client = served.client();
    client.write(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345");
    assert_eq!(client.response().unwrap().text(), "5");
    let head = "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n";
    client.write(format!("{head}3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n").as_bytes());
    assert_eq!(client.response().unwrap().text(), "3 x-sum=6");
    client.write(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345");
    assert_eq!(client.response().unwrap().text(), "not read\n");
}

#[test]
fn a_body_has_the_length_that_it_says() {
    let served = third();
    let mut client = served.client();
    let response = client.get("/length?10,10");
    assert_eq!((response.header("content-length"), response.body.len()), (Some("10"), 10));
    // Neither less nor more looks like a whole body.
    for query in ["10,9", "10,11"] {
        let mut client = served.client();
        client.write(format!("GET /length?{query} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(client.response(), None, "{query}");
    }
    assert_eq!(served.get("/hello").status, 200);
}

#[test]
fn failures_are_answered_and_logged() {
    let served = third();
    let mut client = served.client();
    for (path, text) in [
        ("/trap", "the handler trapped"),
        ("/error", "the handler gave no response"),
        ("/exit", "the handler gave no response"),
    ] {
        let response = client.get(path);
        assert_eq!(response.status, 500, "{path}");
        assert!(response.text().contains(text), "{path}: {}", response.text());
        assert_eq!(client.get("/hello").status, 200, "the connection and the run go on");
    }
    client.write(b"GET /trap-in-body HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 200);
    let end = loop {
        match client.chunk() {
            Some(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, None, "the body ends as if it were whole");
    served.wait_for_no_instance();
    let log = served.end();
    for part in ["as asked", "the handler trapped: ", "LoopDetected", "exited with code", "in the body"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    assert_eq!(log.lines().filter(|line| line.starts_with("neargate: request")).count(), 4, "{log}");
}

#[test]
fn memory_is_limited() {
    let limits = RunLimits { memory_bytes: Some(64 << 20), ..RunLimits::default() };
    let served = third_with(|setup| setup.plan.limits = limits);
    let mut client = served.client();
    assert_eq!(client.get("/grow").status, 500);
    assert_eq!(client.get("/hello").status, 200, "its memory was given back");
    assert!(served.end().contains("its memory limit was reached"));
}

#[test]
fn a_guest_that_computes_does_not_hold_up_others() {
    let served = third();
    let mut spinning = served.client();
    spinning.write(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n");
    served.wait_for_instances();
    let begun = std::time::Instant::now();
    let mut client = served.client();
    assert!((0..10).all(|_| client.get("/hello").status == 200));
    assert!(begun.elapsed().as_secs() < 10, "10 answers took {:?}", begun.elapsed());
    spinning.close();
    served.wait_for_no_instance();
}

#[test]
fn a_client_that_goes_takes_its_guest_along() {
    let served = third();
    for path in ["/wait", "/stream?4096"] {
        let mut client = served.client();
        client.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        served.wait_for_instances();
        client.close();
        served.wait_for_no_instance();
    }
    assert_eq!(served.end(), "");
}

#[test]
fn a_run_that_is_asked_to_end_finishes_its_requests() {
    let served = third();
    let mut client = served.client();
    assert_eq!(client.get("/late").text(), "early\n");
    assert_eq!(client.get("/hello").status, 200, "the connection is free");
    client.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    assert_eq!(client.head().unwrap().status, 200);
    served.worker.stop(served.started.run, Stop::Ask { code: 143 });
    client.write(b"def");
    let mut text = Vec::new();
    while let Some(part) = client.chunk().unwrap() {
        text.extend(part);
    }
    assert_eq!(text, b"abcdef");
    assert_eq!(served.exit().code, 0);
    assert_eq!(served.said(), "late work is done\n", "the end waits for it");
}

#[test]
fn a_run_that_is_killed_ends_now() {
    let served = third();
    let mut client = served.client();
    client.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    served.wait_for_instances();
    assert_eq!(served.worker.kill(served.started.run).code, 137);
    assert!(client.is_closed());
}

#[test]
fn requests_of_its_own_obey_the_policy() {
    let hello = || {
        peer(|head, stream| {
            let line = head.lines().next().unwrap_or_default();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
        })
    };
    let (server, other) = (hello(), hello());
    let ask = |served: &Served, scheme: &str, address: SocketAddr| {
        served.get(&format!("/fetch?{scheme},{address},/a?b")).text().to_owned()
    };
    assert!(ask(&third(), "http", other).contains("HttpRequestDenied"));

    let control = vec![server];
    let served = third_with(|setup| setup.plan.network = Network::Host { control });
    assert_eq!(ask(&served, "http", other), "200 17 GET /a?b HTTP/1.1");
    assert!(ask(&served, "http", server).contains("DestinationIpProhibited"));
    let metadata = SocketAddr::new([169, 254, 169, 254].into(), other.port());
    assert!(ask(&served, "http", metadata).contains("DestinationIpProhibited"));
    assert!(ask(&served, "https", other).contains("Tls"));

    let mut client = served.client();
    client.write(format!("GET /fetch?http,a.test:{},/ HTTP/1.1\r\nHost: a\r\n\r\n", other.port()).as_bytes());
    let addresses = vec!["169.254.169.254".to_owned(), "127.0.0.1".to_owned()];
    answer_lookup(&served, "a.test", HostReply::Addresses { addresses });
    assert!(client.response().unwrap().text().starts_with("200 "));

    let silent = peer(|_, stream| drop(stream.read_to_end(&mut Vec::new())));
    let late = served.get(&format!("/fetch?http,{silent},/,100"));
    assert!(late.text().contains("HttpResponseTimeout"), "{}", late.text());
}
