//! How serving ends.

use std::io::Read;
use std::net::TcpStream;

use neargate_wasm::protocol::{Cause, Stop};

use crate::served::Served;

#[test]
fn a_run_that_is_asked_to_end_finishes_its_requests() {
    let served = Served::new();
    let mut idle = served.client();
    assert_eq!(idle.get("/hello").status, 200);
    let mut client = served.client();
    client.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    assert_eq!(client.head().unwrap().status, 200);
    served.worker.stop(served.started.run, Stop::Ask { code: 143 });
    assert!(idle.is_closed(), "a connection without a request is closed");
    // Nobody listens any more once the idle connection is closed.
    assert!(TcpStream::connect(served.address).is_err());
    client.write(b"def");
    let mut text = Vec::new();
    while let Some(part) = client.chunk().unwrap() {
        text.extend(part);
    }
    assert_eq!(text, b"abcdef");
    assert!(client.is_closed());
    let exit = served.exit();
    assert_eq!((exit.code, exit.cause, exit.usage.requests), (0, Cause::Stopped {}, 2));
}

#[test]
fn a_run_that_is_killed_ends_now() {
    let served = Served::new();
    let mut client = served.client();
    client.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    served.wait_for_instances();
    served.worker.stop(served.started.run, Stop::Ask { code: 143 });
    let exit = served.worker.kill(served.started.run);
    assert_eq!((exit.code, exit.cause), (137, Cause::Stopped {}));
    assert!(client.is_closed());
}

#[test]
fn a_guest_may_go_on_after_its_response() {
    let served = Served::new();
    let mut client = served.client();
    assert_eq!(client.get("/late").text(), "early\n");
    assert_eq!(client.get("/hello").status, 200, "the connection is free");
    served.worker.stop(served.started.run, Stop::Ask { code: 143 });
    assert_eq!(served.exit().code, 0);
    let mut log = String::new();
    let Served { mut started, .. } = served;
    started.stderr.read_to_string(&mut log).unwrap();
    assert_eq!(log, "late work is done\n", "the end waits for it");
}
