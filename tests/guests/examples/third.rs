//! A program of WASI 0.3 that tries the ways to the network, and prints what came of each: `tcp=ADDR:PORT`,
//! `udp=ADDR:PORT`, `listen=ADDR:PORT`, `name=NAME`, `fetch=AUTHORITY`, and `ask=PATH` below the URL of its metadata.

#![cfg(target_env = "p2")]

use std::net::{SocketAddr, SocketAddrV4};

use wasip3::http::client;
use wasip3::http::types::{ErrorCode as HttpError, Fields, Request, Response, Scheme};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::{wit_future, wit_stream};

wasip3::cli::command::export!(Program);

struct Program;

impl wasip3::exports::cli::run::Guest for Program {
    async fn run() -> Result<(), ()> {
        let arguments = wasip3::cli::environment::get_arguments();
        let (mut output, bytes) = wit_stream::new();
        let print = async {
            for argument in &arguments[1..] {
                let line = format!("{argument} {}\n", attempt(argument).await);
                assert!(output.write_all(line.into_bytes()).await.is_empty());
            }
            drop(output);
        };
        let (written, ()) =
            futures::join!(async { wasip3::cli::stdout::write_via_stream(bytes).await }, print);
        written.map_err(drop)
    }
}

async fn attempt(argument: &str) -> String {
    let (way, to) = argument.split_once('=').expect("a way and where to");
    let address = || to.parse().expect("an address");
    let said = match way {
        "tcp" => tcp(address()).await,
        "udp" => udp(address()).await,
        "listen" => listen(address()),
        "name" => return name(to).await,
        "fetch" => return fetch(to, "/").await.unwrap_or_else(|error| format!("{error:?}")),
        "ask" => return ask(to).await,
        _ => panic!("no such way: {way}"),
    };
    said.unwrap_or_else(|error| format!("{error:?}"))
}

fn family(address: SocketAddr) -> IpAddressFamily {
    if address.is_ipv4() { IpAddressFamily::Ipv4 } else { IpAddressFamily::Ipv6 }
}

fn wasi(address: SocketAddr) -> IpSocketAddress {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) => {
            let [a, b, c, d] = v4.ip().octets();
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) })
        }
        SocketAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.ip().segments();
            let address = (a, b, c, d, e, f, g, h);
            IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info: 0, address, scope_id: 0 })
        }
    }
}

/// What the other side says until it closes.
async fn tcp(to: SocketAddr) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(family(to))?;
    socket.connect(wasi(to)).await?;
    let (bytes, received) = socket.receive();
    let bytes = bytes.collect().await;
    received.await?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

async fn udp(to: SocketAddr) -> Result<String, ErrorCode> {
    let socket = UdpSocket::create(family(to))?;
    socket.send(b"datagram\n".to_vec(), Some(wasi(to))).await?;
    Ok("sent".to_owned())
}

fn listen(at: SocketAddr) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(family(at))?;
    socket.bind(wasi(at))?;
    let _connections = socket.listen()?;
    Ok("listens".to_owned())
}

async fn name(name: &str) -> String {
    let v4 = |address: &wasip3::sockets::types::IpAddress| match *address {
        wasip3::sockets::types::IpAddress::Ipv4((a, b, c, d)) => Some(SocketAddrV4::new([a, b, c, d].into(), 0)),
        wasip3::sockets::types::IpAddress::Ipv6(_) => None,
    };
    match resolve_addresses(name.to_owned()).await {
        Ok(found) => {
            let found: Vec<String> = found.iter().filter_map(v4).map(|found| found.ip().to_string()).collect();
            found.join(",")
        }
        Err(error) => format!("{error:?}"),
    }
}

/// What a task is told of itself.
async fn ask(path: &str) -> String {
    let variables = wasip3::cli::environment::get_environment();
    let url = variables.into_iter().find(|(name, _)| name == "ECS_CONTAINER_METADATA_URI_V4");
    let Some((authority, base)) =
        url.as_ref().and_then(|(_, url)| url.strip_prefix("http://")?.split_once('/'))
    else {
        return "is told nothing".to_owned();
    };
    fetch(authority, &format!("/{base}{path}")).await.unwrap_or_else(|error| format!("{error:?}"))
}

/// Status and body of what is at an address.
async fn fetch(authority: &str, path: &str) -> Result<String, HttpError> {
    let (_trailers, no_trailers) = wit_future::new(|| Ok(None));
    let (request, _sent) = Request::new(Fields::new(), None, no_trailers, None);
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).map_err(|()| HttpError::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(path)).expect("a path");
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (_handled, result) = wit_future::new(|| Ok(()));
    let (body, received) = Response::consume_body(response, result);
    let bytes = body.collect().await;
    received.await?;
    Ok(format!("{status} {}", String::from_utf8_lossy(&bytes).trim_end()))
}
