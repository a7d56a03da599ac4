//! `wasi:http` components, served on an address: every request gets an instance of its own unless it is told
//! otherwise.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::cli::{Cli, Service};
use neargate_tests::fixtures::{example, guest, language_example};
use neargate_tests::process;

use crate::suite::{Case, Needs};
use crate::{FIRST_START_LIMIT, text};

pub(crate) const CASES: &[Case] = &[
    ("http/examples", Needs::Wasm, the_examples),
    ("http/request_and_answer", Needs::Wasm, request_and_answer),
    ("http/instances_are_fresh", Needs::Wasm, instances_are_fresh),
    ("http/instances_can_be_reused", Needs::Wasm, instances_can_be_reused),
    ("http/bodies_stream", Needs::Wasm, bodies_stream),
    ("http/a_trap_costs_one_answer", Needs::Wasm, a_trap_costs_one_answer),
    ("http/many_at_once", Needs::Wasm, many_at_once),
    ("http/a_busy_one_starves_nobody", Needs::Wasm, a_busy_one_starves_nobody),
    ("http/environment_and_logs", Needs::Wasm, environment_and_logs),
    ("http/memory_is_limited", Needs::Wasm, memory_is_limited),
    ("http/endless_headers_are_refused", Needs::Wasm, endless_headers_are_refused),
    ("http/ends_when_asked", Needs::Wasm, ends_when_asked),
    ("http/not_a_handler", Needs::Wasm, not_a_handler),
];

const WAIT: Duration = Duration::from_secs(30);

fn serve(cli: &Cli, arguments: &[&str]) -> Result<Service> {
    let image = text(&guest("service", "wasm32-wasip2")?);
    cli.serve(&[arguments, &[image.as_str()]].concat())
}

/// Status and body of a GET on a connection of its own.
fn get(service: &Service, path: &str) -> Result<(u16, String)> {
    let answer = service.client().get(path)?;
    Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
}

fn body(service: &Service, path: &str) -> Result<String> {
    let (status, body) = get(service, path)?;
    anyhow::ensure!(status == 200, "{path} gave {status}: {body}");
    Ok(body)
}

/// The same handler in two languages.
fn the_examples() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in [example("web")?, language_example("javascript/web")?] {
        let image = text(&image);
        // A JavaScript engine is 12 MB of code, which is compiled at its first start.
        let mut compile = cli.command(&["image", "inspect", "--data", &cli.data(), &image]);
        let finished = process::run(&mut compile, b"", FIRST_START_LIMIT)?;
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        let mut service = cli.serve(&[&image])?;
        assert_eq!(body(&service, "/world")?, "hello, world\n", "{image}");
        let host = [("host".to_owned(), "example".to_owned())];
        let answer = service.client().send("POST", "/echo", &host, b"anything")?;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"anything".as_slice()), "{image}");
        service.stop()?;
    }
    Ok(())
}

fn request_and_answer() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &[])?;
    let mut client = service.client();
    let headers: Vec<(String, String)> = [("host", "example"), ("x-test", "one"), ("X-Test", "two")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    for method in ["GET", "POST", "PUT", "DELETE", "BREW"] {
        let answer = client.send(method, "/request?a=1&b=%2F", &headers, b"")?;
        let expect = format!("{method} http /request?a=1&b=%2F [\"one\", \"two\"] true\n");
        assert_eq!(String::from_utf8_lossy(&answer.body), expect);
    }
    let answer = client.get("/status?418")?;
    assert_eq!((answer.status, answer.header("x-kind"), answer.body.len()), (418, Some("test"), 0));
    assert_eq!(get(&service, "/none")?, (404, "no such page\n".to_owned()));
    Ok(())
}

fn instances_are_fresh() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &[])?;
    let mut client = service.client();
    for _ in 0..20 {
        assert_eq!(client.get("/count")?.body, b"1\n", "an instance was used twice");
    }
    Ok(())
}

/// An instance answers as many requests as is allowed and no more; how they are spread is not promised.
fn instances_can_be_reused() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &["--reuse", "3"])?;
    let mut client = service.client();
    let mut highest = 0;
    for _ in 0..30 {
        let count = String::from_utf8(client.get("/count")?.body)?.trim().parse()?;
        assert!((1..=3).contains(&count), "an instance answered request {count}");
        highest = highest.max(count);
    }
    assert_eq!(highest, 3, "no instance was used as often as it may be");
    Ok(())
}

/// 10 MB out with a slow reader; 8 MB in and out at once, which no buffer may hold.
fn bodies_stream() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &["--memory", "64"])?;
    let answer = service.client().get(&format!("/bytes?{}", 10 << 20))?;
    assert!(answer.body.iter().enumerate().all(|(i, byte)| *byte == (i % 256) as u8));
    assert_eq!(answer.body.len(), 10 << 20);
    let length = 64 << 20;
    let mut stream = TcpStream::connect(service.address())?;
    stream.set_read_timeout(Some(WAIT))?;
    let head =
        format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut to = stream.try_clone()?;
    let writer = thread::spawn(move || {
        let chunk: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        (0..length / chunk.len()).try_for_each(|_| to.write_all(&chunk))
    });
    let mut seen = 0;
    let mut chunk = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            break;
        }
        seen += length;
    }
    writer.join().unwrap().context("send the body")?;
    assert!(seen > length, "{seen} bytes of {length} came back");
    Ok(())
}

fn a_trap_costs_one_answer() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let mut service = serve(&cli, &[])?;
    for path in ["/trap", "/silent"] {
        let (status, body) = get(&service, path)?;
        assert_eq!(status, 500, "{path}: {body}");
        assert!(!body.contains("service.rs"), "the client is told of the inside: {body}");
        assert_eq!(get(&service, "/count")?, (200, "1\n".to_owned()));
    }
    service.wait_for("asked to")?;
    Ok(())
}

fn many_at_once() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &[])?;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..32)
            .map(|_| {
                let mut client = service.client();
                scope.spawn(move || -> Result<()> {
                    for _ in 0..50 {
                        let answer = client.get("/count")?;
                        assert_eq!((answer.status, answer.body.as_slice()), (200, b"1\n".as_slice()));
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().unwrap())
    })
}

/// Requests that compute for ever hold nobody else up.
fn a_busy_one_starves_nobody() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &[])?;
    let mut spinning = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(service.address())?;
        stream.write_all(b"GET /spin HTTP/1.1\r\nhost: x\r\n\r\n")?;
        spinning.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(get(&service, "/count")?, (200, "1\n".to_owned()));
    }
    Ok(())
}

fn environment_and_logs() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let mut service = serve(&cli, &["--env", "COLOUR=blue"])?;
    assert_eq!(body(&service, "/env?COLOUR")?, "blue");
    assert_eq!(body(&service, "/env?PATH")?, "unset");
    assert_eq!(get(&service, "/log")?.0, 200);
    // They are two streams, so that either line may come first.
    assert_eq!(service.wait_for("to standard")?.replace("output", "error"), "to standard error");
    assert_eq!(service.wait_for("to standard")?.replace("output", "error"), "to standard error");
    Ok(())
}

fn memory_is_limited() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &["--memory", "64"])?;
    assert_eq!(body(&service, "/take?16")?, "16");
    assert_eq!(get(&service, "/take?128")?.0, 500);
    // What a request had taken is given back.
    for _ in 0..8 {
        assert_eq!(body(&service, "/take?32")?, "32");
    }
    Ok(())
}

fn endless_headers_are_refused() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let service = serve(&cli, &[])?;
    let mut stream = TcpStream::connect(service.address())?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(b"GET /count HTTP/1.1\r\nhost: x\r\n")?;
    let fields: String = (0..1_000).map(|i| format!("x-{i}: y\r\n")).collect();
    // The server may close before it has read them all.
    let is_refused = (0..1_000).any(|_| stream.write_all(fields.as_bytes()).is_err());
    let mut status = [0; 12];
    if !is_refused && stream.read_exact(&mut status).is_ok() {
        assert!(status.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&status));
    }
    for broken in [&b"\0\0\0\0\r\n\r\n"[..], b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"\x16\x03\x01"]
    {
        let mut stream = TcpStream::connect(service.address())?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(broken)?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        if stream.read_to_end(&mut answer).is_ok() && !answer.is_empty() {
            assert!(answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
        }
    }
    assert_eq!(get(&service, "/count")?, (200, "1\n".to_owned()));
    Ok(())
}

/// The request at work is finished, then it ends.
fn ends_when_asked() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    let mut service = serve(&cli, &[])?;
    let mut stream = TcpStream::connect(service.address())?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhe")?;
    // Its head is there when the handler works on the request.
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    assert_eq!(&head, b"HTTP/1.1 200");
    process::signal(service.child(), rustix::process::Signal::INT)?;
    let address = service.address().to_owned();
    let is_closed = neargate_tests::eventually(WAIT, || TcpStream::connect(&address).is_err().then_some(()));
    assert!(is_closed.is_some(), "it still takes new connections");
    stream.write_all(b"llo")?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.contains("llo"), "the request at work was cut off: {rest:?}");
    let status = process::wait(service.child(), WAIT)?.context("it did not end")?;
    assert!([0, 130, 143].contains(&process::code(status)), "{status}");
    Ok(())
}

fn not_a_handler() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in crate::guests()? {
        let finished = cli.run(&["--http", "127.0.0.1:0", &image])?;
        assert_eq!(finished.code, 125, "{}", finished.stderr);
        assert!(finished.stderr.contains("wasi:http/incoming-handler"), "{:?}", finished.stderr);
    }
    Ok(())
}
