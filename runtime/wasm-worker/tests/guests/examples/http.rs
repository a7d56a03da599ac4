//! A handler that does by its path what a test wants.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse,
    RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;
use worker_test_guests::{answer, write};

/// Requests that this instance has seen.
static SEEN: AtomicU32 = AtomicU32::new(0);

struct Guest;

impl wasip2::exports::http::incoming_handler::Guest for Guest {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/hello" => answer(out, 200, b"hello\n"),
            "/seen" => answer(out, 200, seen.to_string().as_bytes()),
            "/echo" => echo(request, out),
            "/headers" => headers(&request, out),
            "/describe" => describe(&request, out),
            "/trap" => panic!("as asked"),
            "/trap-in-body" => trap_in_body(out),
            "/spin" => loop {
                std::hint::black_box(seen);
            },
            "/wait" => wait(out),
            "/exit" => std::process::exit(7),
            "/silent" => {}
            "/error" => ResponseOutparam::set(out, Err(ErrorCode::LoopDetected)),
            "/fields" => many_fields(out, query.parse().unwrap_or(0)),
            "/stream" => stream(out, query.parse().unwrap_or(0)),
            "/unread" => answer(out, 200, b"not read\n"),
            "/late" => late(out),
            "/grow" => grow(out),
            "/fetch" => fetch(out, query),
            _ => answer(out, 404, b"no such test\n"),
        }
    }
}

fn echo(request: IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("the body");
    let input = incoming.stream().expect("the stream");
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body");
    ResponseOutparam::set(out, Ok(response));
    let output = body.write().expect("the stream");
    loop {
        match input.blocking_read(64 << 10) {
            Ok(bytes) => {
                for part in bytes.chunks(4096) {
                    output.blocking_write_and_flush(part).expect("the client reads");
                }
            }
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(_)) => panic!("the client is gone"),
        }
    }
    drop((input, output));
    IncomingBody::finish(incoming);
    OutgoingBody::finish(body, None).expect("the whole body");
}

fn headers(request: &IncomingRequest, out: ResponseOutparam) {
    let mut text = String::new();
    for (name, value) in request.headers().entries() {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(&value)));
    }
    answer(out, 200, text.as_bytes());
}

fn describe(request: &IncomingRequest, out: ResponseOutparam) {
    let text = format!(
        "{:?} {:?} {:?} {:?}\n",
        request.method(),
        request.scheme(),
        request.authority(),
        request.path_with_query()
    );
    answer(out, 200, text.as_bytes());
}

fn trap_in_body(out: ResponseOutparam) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body");
    ResponseOutparam::set(out, Ok(response));
    write(&body, &[b'x'; 200 << 10]);
    panic!("in the body");
}

/// Never ends, and does nothing.
fn wait(out: ResponseOutparam) {
    wasip2::clocks::monotonic_clock::subscribe_duration(u64::MAX / 4).block();
    answer(out, 200, b"");
}

fn many_fields(out: ResponseOutparam, count: u32) {
    let fields = Fields::new();
    for number in 0..count {
        if fields.append(&format!("x-field-{number}"), b"value").is_err() {
            return answer(out, 500, format!("field {number} is one too many\n").as_bytes());
        }
    }
    let response = OutgoingResponse::new(fields);
    let body = response.body().expect("the body");
    ResponseOutparam::set(out, Ok(response));
    OutgoingBody::finish(body, None).expect("no body");
}

/// So many MiB. The client may go away.
fn stream(out: ResponseOutparam, mib: u32) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body");
    ResponseOutparam::set(out, Ok(response));
    let output = body.write().expect("the stream");
    let part = vec![b'x'; 64 << 10];
    for _ in 0..mib * 16 {
        let mut rest = &part[..];
        while !rest.is_empty() {
            output.subscribe().block();
            let room = output.check_write().expect("the client reads") as usize;
            let now = room.min(rest.len());
            output.write(&rest[..now]).expect("room for it");
            rest = &rest[now..];
        }
    }
    drop(output);
    OutgoingBody::finish(body, None).expect("the whole body");
}

/// Goes on after the response is out, and says so on standard error.
fn late(out: ResponseOutparam) {
    answer(out, 200, b"early\n");
    wasip2::clocks::monotonic_clock::subscribe_duration(50_000_000).block();
    eprintln!("late work is done");
}

/// Takes memory until there is no more, which traps.
fn grow(out: ResponseOutparam) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for _ in 0..4096 {
        kept.push(vec![1; 1 << 20]);
    }
    answer(out, 200, format!("{}\n", kept.len()).as_bytes());
}

/// `scheme,authority,path[,milliseconds]`
fn fetch(out: ResponseOutparam, query: &str) {
    let mut parts = query.split(',');
    let mut next = || parts.next().unwrap_or_default();
    let scheme = if next() == "https" { Scheme::Https } else { Scheme::Http };
    let (authority, path, wait) = (next(), next(), next());
    match get(&scheme, authority, path, wait.parse().ok()) {
        Ok(text) => answer(out, 200, text.as_bytes()),
        Err(code) => answer(out, 502, format!("{code:?}").as_bytes()),
    }
}

fn get(scheme: &Scheme, authority: &str, path: &str, wait_ms: Option<u64>) -> Result<String, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(&Method::Get).expect("a method");
    request.set_scheme(Some(scheme)).expect("a scheme");
    request.set_authority(Some(authority)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(path)).expect("a path");
    let options = RequestOptions::new();
    let wait = wait_ms.map(|ms| ms * 1_000_000);
    options.set_connect_timeout(wait).expect("an option");
    options.set_first_byte_timeout(wait).expect("an option");
    options.set_between_bytes_timeout(wait).expect("an option");
    let future = outgoing_handler::handle(request, Some(options))?;
    future.subscribe().block();
    let response = future.get().expect("it is ready").expect("the first time")?;
    let status = response.status();
    let incoming = response.consume().expect("the body");
    let stream = incoming.stream().expect("the stream");
    let mut length = 0;
    let mut start = Vec::new();
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => {
                length += bytes.len();
                start.extend(bytes.into_iter().take(64_usize.saturating_sub(start.len())));
            }
            Err(StreamError::Closed) => break,
            // wasmtime 48 cannot tell a guest of WASI 0.2 why: `http-error-code` knows codes, not its own errors.
            Err(StreamError::LastOperationFailed(_)) => return Err(ErrorCode::HttpResponseIncomplete),
        }
    }
    Ok(format!("{status} {length} {}", String::from_utf8_lossy(&start)))
}

wasip2::http::proxy::export!(Guest);
