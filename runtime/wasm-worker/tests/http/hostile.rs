//! Clients that try to confuse, to fill or to hold up the server.

use std::io::Write;

use crate::client::Client;
use crate::served::Served;

/// Sends a head in parts for as long as the server takes it, and reads the response.
fn flood(client: &mut Client, parts: impl Iterator<Item = String> + Send + 'static) -> Option<u16> {
    let mut writer = client.writer();
    let writing = std::thread::spawn(move || {
        // The server may close before it has read all, and then the rest cannot be written.
        let _ = writer.write_all(b"GET /hello HTTP/1.1\r\nHost: a\r\n");
        for part in parts {
            if writer.write_all(part.as_bytes()).is_err() {
                return;
            }
        }
        let _ = writer.write_all(b"\r\n");
    });
    let status = client.response().map(|response| response.status);
    writing.join().unwrap();
    status
}

#[test]
fn a_million_header_fields() {
    let served = Served::new();
    let mut client = served.client();
    let fields = (0..1_000_000).map(|number| format!("x-{number}: y\r\n"));
    // A client that still writes may see the reset instead of the answer (RFC 9112, 9.6).
    assert!(matches!(flood(&mut client, fields), Some(431) | None));
    assert!(client.is_closed());
    assert_eq!(served.get("/hello").status, 200);
}

#[test]
fn fields_up_to_the_limit() {
    let served = Served::new();
    let with = |count: usize| {
        let mut client = served.client();
        let mut request = String::from("GET /hello HTTP/1.1\r\nHost: a\r\n");
        (1..count).for_each(|number| request.push_str(&format!("x-{number}: y\r\n")));
        client.write(format!("{request}\r\n").as_bytes());
        client.response().unwrap().status
    };
    assert_eq!((with(100), with(101)), (200, 431));
}

#[test]
fn a_large_header() {
    let served = Served::new();
    let with = |bytes: usize| {
        let mut client = served.client();
        client
            .write(format!("GET /hello HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(bytes)).as_bytes());
        client.response().unwrap().status
    };
    assert_eq!((with(60 << 10), with(65 << 10)), (200, 431));
    let mut client = served.client();
    assert!(matches!(flood(&mut client, (0..64).map(|_| "x".repeat(1 << 20))), Some(431) | None));
    assert_eq!(served.get("/hello").status, 200);
}

#[test]
fn a_guest_cannot_make_a_million_fields() {
    let served = Served::new();
    let mut client = served.client();
    // `header-error` of WASI 0.2 cannot say that there are too many, so wasmtime traps.
    assert_eq!(client.get("/fields?1000000").status, 500);
    assert_eq!(client.get("/fields?50").header("x-field-49"), Some("value"));
    assert!(served.end().contains("total size of fields"), "it ends where the limit is");
}

/// A request whose end two readers may see at different places: the one that answers must not take the rest
/// for a request.
#[track_caller]
fn smuggle(headers: &str, body: &str, status: u16) {
    let served = Served::new();
    let mut client = served.client();
    client.write(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}").as_bytes());
    let response = client.response().unwrap();
    assert_eq!(response.status, status, "{headers:?}: {}", response.text());
    assert!(!response.text().contains("smuggled"), "{headers:?}");
    assert!(client.is_closed(), "{headers:?}: the connection goes on");
    assert_eq!(served.usage().requests, u64::from(status == 200), "{headers:?}");
}

#[test]
fn requests_cannot_be_smuggled() {
    let hidden = "0\r\n\r\nGET /hello?smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    // RFC 9112, 6.3: the length is ignored and the connection closed.
    smuggle("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", hidden, 200);
    smuggle("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", hidden, 200);
    smuggle("Content-Length: 4\r\nContent-Length: 5\r\n", "01234", 400);
    smuggle("Content-Length: +4\r\n", "0123", 400);
    smuggle("Content-Length: 4, 4\r\n", "0123", 400);
    smuggle("Transfer-Encoding: chunked, identity\r\n", hidden, 400);
    smuggle("Transfer-Encoding : chunked\r\n", hidden, 400);
}

#[test]
fn clients_that_say_little_hold_up_nobody() {
    let served = Served::new();
    let slow: Vec<Client> = (0..200)
        .map(|number| {
            let mut client = served.client();
            client.write(&b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123"[..number % 54]);
            client
        })
        .collect();
    assert_eq!(served.get("/hello").status, 200);
    drop(slow);
    served.wait_for_no_instance();
}

#[test]
fn a_client_that_goes_takes_its_guest_along() {
    let served = Served::new();
    for request in [
        "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /spin HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /stream?100000 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
    ] {
        let mut client = served.client();
        client.write(request.as_bytes());
        served.wait_for_instances();
        client.close();
        served.wait_for_no_instance();
    }
    assert_eq!(served.get("/hello").status, 200);
}
