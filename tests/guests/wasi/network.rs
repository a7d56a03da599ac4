//! `wasi:sockets` and outgoing `wasi:http`: what came back, or the error.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Instant;

/// Sends a line and returns what the other side answers until it closes.
pub(crate) fn connect(to: &str) -> String {
    let talk = || {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(b"hello from the guest\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer.trim_end().to_owned())
    };
    talk().unwrap_or_else(|error| error.to_string())
}

/// Listens, and connects to itself.
pub(crate) fn listen(at: &str) -> String {
    let listener = TcpListener::bind(at).and_then(|listener| listener.local_addr());
    listener.map_or_else(|error| error.to_string(), |_| "listens".to_owned())
}

/// How long the first sockets of a task take, in microseconds.
pub(crate) fn times(at: &str) -> String {
    let time = |_| {
        let begun = Instant::now();
        TcpListener::bind(at).map(|_| begun.elapsed().as_micros().to_string())
    };
    let times: std::io::Result<Vec<String>> = (0..4).map(time).collect();
    times.map_or_else(|error| error.to_string(), |times| times.join(" "))
}

/// Listens, and answers each line with itself until it is ended.
pub(crate) fn serve(at: &str) -> String {
    let answer = |mut stream: TcpStream| {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        stream.write_all(format!("you said {line}").as_bytes())
    };
    let serve = || {
        let listener = TcpListener::bind(at)?;
        println!("serves");
        listener.incoming().try_for_each(|stream| answer(stream?))
    };
    serve().map_or_else(|error: std::io::Error| error.to_string(), |()| "no more".to_owned())
}

/// Sends one datagram.
pub(crate) fn send(to: &str) -> String {
    let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"datagram", to));
    sent.map_or_else(|error| error.to_string(), |length| format!("sent {length}"))
}

/// Prints the datagrams that come, until it is ended.
pub(crate) fn hear(at: &str) -> String {
    let hear = || -> std::io::Result<std::convert::Infallible> {
        let socket = UdpSocket::bind(at)?;
        let mut datagram = [0; 64];
        loop {
            let length = socket.recv(&mut datagram)?;
            println!("heard {}", String::from_utf8_lossy(&datagram[..length]).trim_end());
        }
    };
    hear().map_or_else(|error: std::io::Error| error.to_string(), |never: std::convert::Infallible| match never {})
}

/// Looks up a name.
pub(crate) fn resolve(name: &str) -> String {
    let addresses = (name, 80).to_socket_addrs();
    addresses.map_or_else(
        |_| "not found".to_owned(),
        |found| found.map(|address| address.ip().to_string()).collect::<Vec<_>>().join(" "),
    )
}

/// A GET by `wasi:http/outgoing-handler`: status and body.
#[cfg(target_env = "p2")]
pub(crate) fn fetch(authority: &str, path: &str) -> String {
    get(authority, path).unwrap_or_else(|error| format!("{error:?}"))
}

/// What is below the URL that a variable has, or the path at the address where tasks ask.
pub(crate) fn ask(variable: &str, path: &str) -> String {
    let mut url = std::env::var(variable).unwrap_or_default();
    if url.starts_with('/') {
        url.insert_str(0, "http://169.254.170.2");
    }
    let Some((authority, base)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else {
        return format!("{variable} is {url:?}");
    };
    fetch(authority, &format!("/{base}{path}"))
}

#[cfg(target_env = "p2")]
fn get(authority: &str, path: &str) -> Result<String, wasip2::http::types::ErrorCode> {
    use wasip2::http::outgoing_handler::handle;
    use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some(path)).expect("a path");
    let response = handle(request, None)?;
    response.subscribe().block();
    let response = response.get().expect("it is ready").expect("it is taken once")?;
    let body = response.consume().expect("the body is taken once");
    let mut text = String::new();
    body.stream().expect("the stream is taken once").read_to_string(&mut text).expect("a body of text");
    Ok(format!("{} {text}", response.status()))
}

/// Preview 1 knows no HTTP.
#[cfg(not(target_env = "p2"))]
pub(crate) fn fetch(_: &str, _: &str) -> String {
    std::process::exit(64);
}
