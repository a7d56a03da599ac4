//! The sockets: one for datagrams, one for connections, both in the network in which tasks ask.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::meter::{Held, Thing};
use crate::resolver::{Resolver, Step};

/// Bytes of a question. One has a name of 255 at most, and a few options.
const QUESTION_BYTES_MAX: usize = 4096;
/// How long a connection may be silent between two questions.
const IDLE: Duration = Duration::from_secs(10);
/// How long the rest of a question may take, and how long the client may take to accept an answer.
const STALL: Duration = Duration::from_secs(5);
/// How long a connection may last; whoever has more to ask comes again, behind those that wait.
const LIFETIME: Duration = Duration::from_secs(60);
/// How long a socket that fails is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers tasks until it is cancelled.
pub async fn serve(udp: UdpSocket, tcp: TcpListener, resolver: Arc<Resolver>, end: CancellationToken) {
    let serving = async { tokio::join!(serve_datagrams(udp, &resolver), serve_connections(tcp, &resolver)) };
    tokio::select! {
        () = end.cancelled() => {}
        _ = serving => {}
    }
}

async fn serve_datagrams(socket: UdpSocket, resolver: &Arc<Resolver>) {
    let socket = Arc::new(socket);
    // As many at most as the meters give out questions.
    let mut asking = JoinSet::new();
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) => {
                    let Some(client) = v4(from) else { continue };
                    match resolver.begin(client, &buffer[..length], Instant::now()) {
                        Step::Silence => {}
                        // A full socket drops it, and the client asks again.
                        Step::Answer(reply) => drop(socket.try_send_to(&reply.datagram(), from)),
                        Step::Ask(question) => {
                            let (resolver, socket) = (resolver.clone(), socket.clone());
                            asking.spawn(async move {
                                let reply = resolver.ask(question).await;
                                let _ = socket.send_to(&reply.datagram(), from).await;
                            });
                        }
                    }
                }
                // That a client is gone is told here, and is nothing to wait for.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::debug!(%error, "questions cannot be received");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = asking.join_next() => {}
        }
    }
}

async fn serve_connections(listener: TcpListener, resolver: &Arc<Resolver>) {
    // As many at most as the meters give out connections.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let client = v4(from).filter(|client| resolver.knows(*client));
                    let held = client.and_then(|client| {
                        Some((client, resolver.meters.hold(client, Thing::Connection, Instant::now())?))
                    });
                    // One too many is closed at once.
                    let Some((client, held)) = held else { continue };
                    connections.spawn(serve_connection(stream, client, held, resolver.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "connections cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one question after the other until the client has no more, or takes too long.
async fn serve_connection(mut stream: TcpStream, client: Ipv4Addr, _held: Held, resolver: Arc<Resolver>) {
    let begun = Instant::now();
    while let Ok(Some(message)) = read_question(&mut stream).await {
        let reply = match resolver.begin(client, &message, Instant::now()) {
            Step::Silence => return,
            Step::Answer(reply) => reply,
            Step::Ask(question) => resolver.ask(question).await,
        };
        let message = reply.segment();
        let Ok(length) = u16::try_from(message.len()) else { return };
        let segment = [&length.to_be_bytes()[..], &message].concat();
        match timeout(STALL, stream.write_all(&segment)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
        if begun.elapsed() > LIFETIME {
            return;
        }
    }
}

/// A message behind its length (RFC 7766 §8); `None` if nothing comes, or what is no question.
async fn read_question(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let Ok(length) = timeout(IDLE, stream.read_u16()).await else { return Ok(None) };
    let length = usize::from(length?);
    if length > QUESTION_BYTES_MAX {
        return Ok(None);
    }
    let mut message = vec![0; length];
    match timeout(STALL, stream.read_exact(&mut message)).await {
        Ok(read) => read.map(|_| Some(message)),
        Err(_) => Ok(None),
    }
}

/// Who asks; tasks have addresses of IPv4.
fn v4(from: SocketAddr) -> Option<Ipv4Addr> {
    match from.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}
