//! A handler of WASI 0.3 that does by its path what a test wants.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme};
use wasip3::wit_bindgen::{StreamResult, StreamWriter};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::http::service::export!(Guest);

/// Requests that this instance has seen.
static SEEN: AtomicU32 = AtomicU32::new(0);

struct Guest;

impl wasip3::exports::http::handler::Guest for Guest {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
        let path = request.get_path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        match path {
            "/hello" => Ok(text("hello\n".to_owned())),
            "/seen" => Ok(text(seen.to_string())),
            "/describe" => Ok(text(describe(&request))),
            "/headers" => Ok(text(headers(&request))),
            "/echo" => Ok(echo(request)),
            "/count" => Ok(text(count(request).await)),
            "/unread" => Ok(text("not read\n".to_owned())),
            "/empty" => Ok(respond(204, &[], None::<fn(_) -> std::future::Ready<()>>)),
            "/length" => Ok(length(query)),
            "/stream" => Ok(stream(query.parse().expect("MiB"))),
            "/trap" => panic!("as asked"),
            "/trap-in-body" => Ok(trap_in_body()),
            "/error" => Err(ErrorCode::LoopDetected),
            "/exit" => std::process::exit(7),
            "/spin" => loop {
                std::hint::black_box(seen);
            },
            "/wait" => {
                wait_for(u64::MAX / 4).await;
                Err(ErrorCode::ConnectionTimeout)
            }
            "/late" => {
                spawn_local(async {
                    wait_for(50_000_000).await;
                    eprintln!("late work is done");
                });
                Ok(text("early\n".to_owned()))
            }
            "/grow" => {
                let kept: Vec<Vec<u8>> = (0..4096).map(|_| std::hint::black_box(vec![1; 1 << 20])).collect();
                Ok(text(kept.len().to_string()))
            }
            "/fetch" => Ok(text(fetch(query).await.unwrap_or_else(|code| format!("{code:?}")))),
            _ => Ok(respond(404, &[], None::<fn(_) -> std::future::Ready<()>>)),
        }
    }
}

/// A response whose body `write` writes after the handler has returned it.
fn respond<F: Future<Output = ()> + 'static>(
    status: u16,
    headers: &[(&str, &str)],
    write: Option<impl FnOnce(StreamWriter<u8>) -> F + 'static>,
) -> Response {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).expect("a header");
    }
    // Dropped, it says that there are no trailers.
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    let contents = write.map(|write| {
        let (writer, contents) = wit_stream::new();
        spawn_local(async move {
            write(writer).await;
            drop(trailers);
        });
        contents
    });
    let (response, _sent) = Response::new(fields, contents, no_trailers);
    response.set_status_code(status).expect("a status");
    response
}

fn text(text: String) -> Response {
    let write = move |mut writer: StreamWriter<u8>| async move {
        // A client may be gone, or want no body.
        writer.write_all(text.into_bytes()).await;
    };
    respond(200, &[], Some(write))
}

fn describe(request: &Request) -> String {
    let (method, scheme) = (request.get_method(), request.get_scheme());
    format!("{method:?} {scheme:?} {:?} {:?}\n", request.get_authority(), request.get_path_with_query())
}

fn headers(request: &Request) -> String {
    let all = request.get_headers().copy_all();
    all.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value))).collect()
}

fn echo(request: Request) -> Response {
    let (handled, result) = wit_future::new(|| Ok(()));
    let (mut body, received) = Request::consume_body(request, result);
    let write = move |mut writer: StreamWriter<u8>| async move {
        loop {
            let (result, part) = body.read(Vec::with_capacity(64 << 10)).await;
            match result {
                StreamResult::Complete(_) => assert!(writer.write_all(part).await.is_empty(), "a reader"),
                StreamResult::Dropped | StreamResult::Cancelled => break,
            }
        }
        received.await.expect("the whole body");
        drop(handled);
    };
    respond(200, &[], Some(write))
}

/// Bytes of the body, trailers, and whether all of it came.
async fn count(request: Request) -> String {
    let (_handled, result) = wit_future::new(|| Ok(()));
    let (body, received) = Request::consume_body(request, result);
    let bytes = body.collect().await.len();
    match received.await {
        Ok(None) => format!("{bytes}"),
        Ok(Some(trailers)) => {
            let all: Vec<String> = trailers
                .copy_all()
                .iter()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
                .collect();
            format!("{bytes} {}", all.join(" "))
        }
        Err(code) => format!("{bytes} {code:?}"),
    }
}

/// `said,written`: so many bytes of body, of which it says that they are so many.
fn length(query: &str) -> Response {
    let (said, written) = query.split_once(',').expect("two numbers");
    let bytes = vec![b'x'; written.parse().expect("a number of bytes")];
    let write = move |mut writer: StreamWriter<u8>| async move {
        writer.write_all(bytes).await;
    };
    respond(200, &[("content-length", said)], Some(write))
}

fn stream(mib: u32) -> Response {
    let write = move |mut writer: StreamWriter<u8>| async move {
        for _ in 0..mib {
            if !writer.write_all(vec![b'x'; 1 << 20]).await.is_empty() {
                return;
            }
        }
    };
    respond(200, &[], Some(write))
}

fn trap_in_body() -> Response {
    let write = |mut writer: StreamWriter<u8>| async move {
        writer.write_all(vec![b'x'; 200 << 10]).await;
        panic!("in the body");
    };
    respond(200, &[], Some(write))
}

/// `scheme,authority,path[,milliseconds]`: status, bytes and beginning of what a peer answers.
async fn fetch(query: &str) -> Result<String, ErrorCode> {
    let parts: Vec<&str> = query.split(',').collect();
    let scheme = if parts[0] == "https" { Scheme::Https } else { Scheme::Http };
    let (_trailers, no_trailers) = wit_future::new(|| Ok(None));
    let options = RequestOptions::new();
    if let Some(ms) = parts.get(3) {
        let wait = Some(ms.parse::<u64>().expect("milliseconds") * 1_000_000);
        options.set_first_byte_timeout(wait).expect("an option");
    }
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers, Some(options));
    request.set_method(&Method::Get).expect("a method");
    request.set_scheme(Some(&scheme)).expect("a scheme");
    request.set_authority(Some(parts[1])).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(parts[2])).expect("a path");
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (_handled, result) = wit_future::new(|| Ok(()));
    let (body, received) = Response::consume_body(response, result);
    let bytes = body.collect().await;
    received.await?;
    let start = &bytes[..bytes.len().min(64)];
    Ok(format!("{status} {} {}", bytes.len(), String::from_utf8_lossy(start)))
}
