//! Bodies stream, and nobody's memory grows with them.

use std::io::{Read, Write};

use crate::served::Served;

/// The most memory that this process has had, in bytes. The worker is part of it.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_body_goes_through_a_guest_and_back() {
    let served = Served::new();
    let mut client = served.client();
    let sent: Vec<u8> =
        (0..8u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut writer, copy) = (client.writer(), sent.clone());
    let writing = std::thread::spawn(move || {
        write!(writer, "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", copy.len()).unwrap();
        writer.write_all(&copy).unwrap();
    });
    let response = client.response().unwrap();
    writing.join().unwrap();
    assert!(response.body == sent, "the body has changed");
}

#[test]
fn parts_arrive_when_they_are_written() {
    let served = Served::new();
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
}

#[test]
fn a_gibibyte_goes_by() {
    let served = Served::new();
    let mut client = served.client();
    let before = peak_bytes();
    client.write(b"GET /stream?1024 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 200);
    let mut bytes = 0;
    while let Some(part) = client.chunk().unwrap() {
        bytes += part.len();
    }
    assert_eq!(bytes, 1 << 30);
    let grown = peak_bytes() - before;
    assert!(grown < 128 << 20, "{grown} bytes were taken meanwhile");
}

#[test]
fn what_a_guest_does_not_read_stays_with_the_client() {
    let served = Served::new();
    let mut client = served.client();
    let mut writer = client.writer();
    let writing = std::thread::spawn(move || {
        write!(writer, "POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n").unwrap();
        writer.set_nonblocking(true).unwrap();
        let (part, mut bytes, mut full) = (vec![0; 64 << 10], 0, 0);
        // Full for a while, and not for a moment.
        while full < 200 {
            match writer.write(&part) {
                Ok(n) => (bytes, full) = (bytes + n, 0),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    full += 1;
                    std::thread::park_timeout(std::time::Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
        bytes
    });
    // The kernel's buffers for a connection are a few MiB (tcp_rmem, tcp_wmem).
    let taken = writing.join().unwrap();
    assert!(taken < 32 << 20, "{taken} bytes were taken of a body that nobody reads");
    client.stream.get_mut().set_nonblocking(true).unwrap();
    assert!(client.stream.read(&mut [0]).is_err(), "there is no response yet");
}

#[test]
fn an_answer_does_not_wait_for_a_body() {
    let served = Served::new();
    let mut client = served.client();
    client.write(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\nstart");
    assert_eq!(client.response().unwrap().text(), "not read\n");
    assert!(client.is_closed(), "what follows would be taken for a request");
}
