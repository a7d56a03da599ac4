//! Guests that fail: their clients are told, the run's log has the details, and the run goes on.

use neargate_wasm::protocol::{Attachment, EngineKind, FromWorker, RunLimits, Stop};

use crate::harness::contents;
use crate::served::Served;

#[test]
fn a_trap_is_answered_and_logged() {
    let served = Served::new();
    let mut client = served.client();
    let response = client.get("/trap");
    assert_eq!(response.status, 500);
    let text = response.text().to_owned();
    assert!(text.starts_with("500 Internal Server Error: the handler trapped (request "), "{text}");
    for internal in ["unreachable", "wasm", "panick", "as asked"] {
        assert!(!text.contains(internal), "{text} tells of {internal}");
    }
    assert_eq!(client.get("/hello").status, 200, "the connection and the run go on");
    let number = text.split_once("(request ").unwrap().1.split_once(')').unwrap().0.to_owned();
    let log = served.end();
    assert!(log.contains("as asked"), "what the guest said: {log}");
    let line = log.lines().find(|line| line.starts_with("neargate: ")).unwrap();
    assert!(line.contains(&format!("request {number}: the handler trapped: ")), "{line}");
    assert!(log.contains("unreachable"), "the trap: {log}");
}

/// One of each run: the first.
#[test]
fn the_first_trap_leaves_a_core_dump() {
    for name in ["http", "http3"] {
        let engine = if name == "http" { EngineKind::Sync {} } else { EngineKind::Concurrent {} };
        let served = Served::of(name, &engine, 16, |setup| {
            setup.argv = &["crasher"];
            setup.plan.grants = vec!["wasi:p3".to_owned()];
            setup.plan.core_dump = true;
        });
        let mut client = served.client();
        // Neither of these is a trap.
        assert_eq!(client.get("/exit").status, 500);
        assert_eq!(client.get("/error").status, 500);
        assert_eq!(client.get("/trap").status, 500);
        let left = |message: &FromWorker| match message {
            FromWorker::Left { run, attachment } => Some((*run, attachment.clone())),
            _ => None,
        };
        let (said, mut files) = served.worker.wait(left);
        assert_eq!((said, files.len()), ((served.started.run, Attachment::CoreDump {}), 1));
        let dump = contents(files.remove(0));
        assert!(dump.starts_with(b"\0asm"));
        let holds = |what: &[u8]| dump.windows(what.len()).any(|window| window == what);
        assert!(holds(b"crasher") && holds(b"corestack") && holds(b"as asked"));
        assert_eq!(client.get("/trap").status, 500);
        assert_eq!(client.get("/hello").status, 200, "the run goes on");
        served.worker.stop(served.started.run, Stop::Ask { code: 143 });
        let further = served.worker.wait(|message| match message {
            FromWorker::Exited { exit, .. } => Some(exit.attachments.is_empty()),
            other => left(other).map(|_| false),
        });
        assert!(further.0, "there is a second dump");
        let log = served.said();
        assert_eq!(log.matches("its core dump is kept").count(), 1, "{log}");
    }
}

#[test]
fn no_core_dump_when_none_is_wanted() {
    let served = Served::new();
    assert_eq!(served.get("/trap").status, 500);
    served.worker.stop(served.started.run, Stop::Ask { code: 143 });
    let (exited, _) = served.worker.wait(|message| match message {
        FromWorker::Exited { .. } => Some(true),
        FromWorker::Left { .. } => Some(false),
        _ => None,
    });
    assert!(exited, "a dump was left");
    assert!(!served.said().contains("core dump"));
}

#[test]
fn no_response_is_an_error() {
    let served = Served::new();
    let mut client = served.client();
    for path in ["/silent", "/exit", "/error"] {
        let response = client.get(path);
        assert_eq!(response.status, 500, "{path}: {}", response.text());
        assert!(response.text().contains("the handler gave no response"), "{path}: {}", response.text());
    }
    let log = served.end();
    assert_eq!(log.lines().filter(|line| line.starts_with("neargate: request")).count(), 3, "{log}");
    for why in ["returned without a response", "exited with code 1", "gave an error for a response"] {
        assert!(log.contains(why), "{log}");
    }
}

#[test]
fn a_body_that_is_not_whole_does_not_look_whole() {
    let served = Served::new();
    let mut client = served.client();
    client.write(b"GET /trap-in-body HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 200);
    let mut bytes = 0;
    let end = loop {
        match client.chunk() {
            Some(Some(part)) => bytes += part.len(),
            end => break end,
        }
    };
    assert_eq!(end, None, "the body ends as if it were whole, after {bytes} bytes");
    assert!(served.end().contains("in the body"));
}

#[test]
fn the_log_is_not_filled_with_traps() {
    let served = Served::new();
    let mut client = served.client();
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(client.get("/silent").status, 500);
    }
    let seconds = begun.elapsed().as_secs() + 2;
    let lines = served.end().lines().filter(|line| line.starts_with("neargate: request")).count();
    assert!(lines >= 1 && lines as u64 <= 10 * seconds, "{lines} lines in {seconds} s");
}

#[test]
fn out_of_memory_is_the_guests_failure() {
    let limits = RunLimits { memory_bytes: Some(64 << 20), ..RunLimits::default() };
    let served = Served::with(16, |setup| setup.plan.limits = limits);
    let mut client = served.client();
    assert_eq!(client.get("/grow").status, 500);
    assert_eq!(client.get("/hello").status, 200, "its memory was given back");
    assert!(served.usage().memory_peak_bytes <= 64 << 20);
    assert!(served.end().contains("its memory limit was reached"));
}

#[test]
fn no_room_is_told_as_such() {
    let served = Served::with(1, |_| {});
    let mut waiting = served.client();
    waiting.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    served.wait_for_instances();
    let response = served.get("/hello");
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")), "{}", response.text());
    waiting.close();
    served.wait_for_no_instance();
    assert_eq!(served.get("/hello").status, 200);
}

#[test]
fn a_guest_that_computes_does_not_hold_up_others() {
    let served = Served::new();
    let mut spinning = served.client();
    spinning.write(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n");
    served.wait_for_instances();
    let begun = std::time::Instant::now();
    let mut client = served.client();
    for _ in 0..10 {
        assert_eq!(client.get("/hello").status, 200);
    }
    assert!(begun.elapsed().as_secs() < 10, "10 answers took {:?}", begun.elapsed());
    spinning.close();
    served.wait_for_no_instance();
    served.worker.stop(served.started.run, Stop::Ask { code: 143 });
    assert_eq!(served.exit().code, 0);
}
