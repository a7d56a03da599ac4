//! An HTTP handler that does what the path says.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam, Scheme,
};

wasip2::http::proxy::export!(Service);

struct Service;

/// Requests that this instance has seen: a fresh one sees one.
static SEEN: AtomicU32 = AtomicU32::new(0);

impl wasip2::exports::http::incoming_handler::Guest for Service {
    fn handle(request: IncomingRequest, answer: ResponseOutparam) {
        let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/count" => respond(answer, 200, &[], |to| write!(to, "{seen}\n")),
            "/request" => {
                let line = describe(&request);
                respond(answer, 200, &[], |to| to.write_all(line.as_bytes()));
            }
            "/status" => respond(answer, query.parse().expect("a status"), &[("x-kind", "test")], |_| Ok(())),
            "/echo" => echo(request, answer),
            "/bytes" => {
                let mut left: usize = query.parse().expect("a number of bytes");
                let buffer: Vec<u8> = (0..=u8::MAX).cycle().take(64 << 10).collect();
                respond(answer, 200, &[], |to| {
                    while left > 0 {
                        let length = left.min(buffer.len());
                        to.write_all(&buffer[..length])?;
                        left -= length;
                    }
                    Ok(())
                });
            }
            "/trap" => panic!("asked to"),
            "/spin" => loop {
                std::hint::black_box(());
            },
            "/silent" => {}
            "/log" => {
                println!("to standard output");
                eprintln!("to standard error");
                respond(answer, 200, &[], |_| Ok(()));
            }
            "/env" => {
                let value = std::env::var(query).unwrap_or_else(|_| "unset".into());
                respond(answer, 200, &[], |to| to.write_all(value.as_bytes()));
            }
            "/take" => {
                let mib: usize = query.parse().expect("a number of MiB");
                let kept: Vec<Vec<u8>> = (0..mib).map(|_| std::hint::black_box(vec![1; 1 << 20])).collect();
                respond(answer, 200, &[], |to| write!(to, "{}", kept.len()));
            }
            _ => respond(answer, 404, &[], |to| to.write_all(b"no such page\n")),
        }
    }
}

fn describe(request: &IncomingRequest) -> String {
    let method = match request.method() {
        Method::Get => "GET".to_owned(),
        Method::Post => "POST".to_owned(),
        Method::Put => "PUT".to_owned(),
        Method::Delete => "DELETE".to_owned(),
        Method::Other(other) => other,
        other => format!("{other:?}"),
    };
    let scheme = match request.scheme() {
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
        _ => "?",
    };
    let test = request.headers().get("x-test");
    let test: Vec<String> = test.iter().map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    let path = request.path_with_query().unwrap_or_default();
    let has_authority = request.authority().is_some_and(|authority| !authority.is_empty());
    format!("{method} {scheme} {path} {test:?} {has_authority}\n")
}

fn respond(
    answer: ResponseOutparam,
    status: u16,
    headers: &[(&str, &str)],
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).expect("a header");
    }
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("a status");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(answer, Ok(response));
    let mut stream = body.write().expect("the stream is taken once");
    // A client that has gone away is no fault of the guest.
    if write(&mut stream).and_then(|()| Write::flush(&mut stream)).is_err() {
        return;
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("a body of the right length");
}

fn echo(request: IncomingRequest, answer: ResponseOutparam) {
    let body = request.consume().expect("the body is taken once");
    let mut stream = body.stream().expect("the stream is taken once");
    respond(answer, 200, &[], |to| {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = Read::read(&mut stream, &mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..length])?;
        }
    });
}
