//! Requests that guests send.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use neargate_wasm::protocol::{FromWorker, HostReply, HostRequest, Network, ToWorker};

use crate::served::Served;

fn network() -> Served {
    without(&[])
}

/// With the host's network but for these addresses.
fn without(control: &[SocketAddr]) -> Served {
    Served::with(16, |setup| setup.plan.network = Network::Host { control: control.to_vec() })
}

/// A server for one connection after another, which gets the request's head and the stream.
pub(crate) fn peer(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|read| read > 0) {}
            answer(&head, stream.get_mut());
        }
    });
    address
}

fn hello() -> SocketAddr {
    peer(|head, stream| {
        let line = head.lines().next().unwrap_or_default();
        let host = head.lines().find(|line| line.starts_with("host: ")).unwrap_or_default();
        let text = format!("{line}|{host}");
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    })
}

/// The answer of a guest that fetches from there.
#[track_caller]
fn check(served: &Served, query: &str, expected: &str) {
    let response = served.get(&format!("/fetch?{query}"));
    assert!(response.text().contains(expected), "{query}: {} instead of {expected}", response.text());
}

#[test]
fn without_a_network_nothing_is_sent() {
    let served = Served::new();
    let address = hello();
    for query in [format!("http,{address},/"), format!("https,{address},/"), "http,localhost,/".to_owned()] {
        check(&served, &query, "HttpRequestDenied");
    }
}

#[test]
fn a_request_is_sent_and_answered() {
    let served = network();
    let address = hello();
    let expected = format!("GET /a?b HTTP/1.1|host: {address}");
    check(&served, &format!("http,{address},/a?b"), &expected);
    check(&served, &format!("http,{address},/"), "200 ");
}

#[test]
fn addresses_are_checked_after_the_look_up() {
    let served = network();
    let address = hello();
    for literal in ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]", "0.0.0.0", "[fd00:ec2::254]"]
    {
        check(&served, &format!("http,{literal}:{},/", address.port()), "DestinationIpProhibited");
    }
    for (answer, expected) in [
        (HostReply::Addresses { addresses: vec!["169.254.169.254".into()] }, "DestinationIpProhibited"),
        (HostReply::Addresses { addresses: vec!["169.254.169.254".into(), "127.0.0.1".into()] }, "200"),
        (HostReply::Addresses { addresses: Vec::new() }, "DnsError"),
        (HostReply::Failed { why: "no such name".into() }, "DnsError"),
    ] {
        let mut client = served.client();
        let query = format!("GET /fetch?http,metadata.test:{},/ HTTP/1.1\r\nHost: a\r\n\r\n", address.port());
        client.write(query.as_bytes());
        answer_lookup(&served, "metadata.test", answer.clone());
        let text = client.response().unwrap().text().to_owned();
        assert!(text.contains(expected), "{answer:?}: {text}");
    }
}

#[test]
fn the_server_is_not_asked() {
    let (server, other) = (hello(), hello());
    let served = without(&[server]);
    check(&served, &format!("http,{server},/"), "DestinationIpProhibited");
    check(&served, &format!("http,[::ffff:127.0.0.1]:{},/", server.port()), "DestinationIpProhibited");
    check(&served, &format!("http,{other},/"), "200 ");
    let mut client = served.client();
    client.write(
        format!("GET /fetch?http,alias.test:{},/ HTTP/1.1\r\nHost: a\r\n\r\n", server.port()).as_bytes(),
    );
    answer_lookup(&served, "alias.test", HostReply::Addresses { addresses: vec!["127.0.0.1".into()] });
    let text = client.response().unwrap().text().to_owned();
    assert!(text.contains("DestinationIpProhibited"), "by a name: {text}");
}

/// Does what the server does for a guest that asks for a name.
#[track_caller]
pub(crate) fn answer_lookup(served: &Served, wanted: &str, reply: HostReply) {
    let asked = |message: &FromWorker| match message {
        FromWorker::HostCall { call, request: HostRequest::Resolve { name }, .. } => {
            Some((*call, name.clone()))
        }
        _ => None,
    };
    let ((call, name), _) = served.worker.wait(asked);
    assert_eq!(name, wanted);
    served.worker.send(&ToWorker::HostReply { call, reply }, &[]);
}

#[test]
fn peers_that_fail_are_told_apart() {
    let served = network();
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(&served, &format!("http,{refused},/"), "ConnectionRefused");
    let silent = peer(|_, stream| {
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(stream, &mut rest);
    });
    check(&served, &format!("http,{silent},/,100"), "HttpResponseTimeout");
    let stalled = peer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(stream, &mut rest);
    });
    check(&served, &format!("http,{stalled},/,100"), "HttpResponseIncomplete");
    let cut = peer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    });
    check(&served, &format!("http,{cut},/"), "HttpResponseIncomplete");
    let other = peer(|_, stream| drop(stream.write_all(b"SSH-2.0-OpenSSH\r\n")));
    check(&served, &format!("http,{other},/"), "HttpProtocolError");
    check(&served, &format!("https,{other},/,2000"), "Tls");
    let large = peer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..1024 {
            let _ = stream.write_all(format!("x: {}\r\n", "y".repeat(1024)).as_bytes());
        }
        let _ = stream.write_all(b"\r\n");
    });
    check(&served, &format!("http,{large},/"), "HttpProtocolError");
    check(&served, "http,user:password@localhost,/", "HttpRequestUriInvalid");
}

#[test]
fn a_large_response_streams() {
    let served = network();
    let address = peer(|_, stream| {
        let part = vec![b'x'; 1 << 20];
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n");
        for _ in 0..64 {
            let _ = stream.write_all(&part);
        }
    });
    check(&served, &format!("http,{address},/"), "200 67108864 xxxx");
    assert!(served.usage().memory_peak_bytes < 16 << 20, "the guest got it in parts");
}
