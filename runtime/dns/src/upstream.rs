//! Asking others: the resolvers that the host itself asks.
//!
//! Each question goes out of a socket of its own, whose port the kernel draws, with a number and with letters in upper
//! and lower case that are drawn, too: whoever does not see it has to guess some forty bits to answer in another's
//! place. The socket hears nobody but whom it has asked.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use uuid::Uuid;

use crate::message::{Answer, Code, Question, Reply};
use crate::servers::Servers;

/// How long a question may take altogether. Clients ask again after five seconds (resolv.conf(5)).
const PATIENCE: Duration = Duration::from_millis(4_500);
/// How long one server has, so that another one can be asked.
const TURN: Duration = Duration::from_millis(1_400);
/// Servers that are asked for one question, one after the other; of fewer, the first ones again.
const TURNS: usize = 3;
/// Messages that are read while one is waited for. Others have made up the rest.
const STRANGE_MAX: usize = 32;
/// Bytes of an answer over UDP; one that is longer than we have asked for is taken, too.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// Why nobody has answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// There is nobody to ask.
    #[error("find a resolver to ask")]
    NoServers,
    /// None of them has answered in time, or with anything of use.
    #[error("ask the resolvers of the host")]
    NoAnswer,
}

#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("exchange messages")]
    Io(#[from] io::Error),
    #[error("read an answer")]
    Unreadable(#[from] crate::message::Malformed),
    #[error("find the answer among {STRANGE_MAX} others")]
    Strange,
}

/// Whether a message says that its sender speaks EDNS, which some do not understand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edns {
    Said,
    Unsaid,
}

/// Asks one after the other until one knows.
pub(crate) async fn ask(servers: &Servers, question: &Question) -> Result<Answer, AskError> {
    let servers = servers.list();
    if servers.is_empty() {
        return Err(AskError::NoServers);
    }
    let turns = async {
        for server in servers.iter().cycle().take(TURNS) {
            match timeout(TURN, ask_one(*server, question)).await {
                // What one does not know or does not want to say another one may.
                Ok(Ok(answer)) if [Code::OK, Code::NO_NAME].contains(&answer.code) => return Ok(answer),
                Ok(Ok(answer)) => tracing::debug!(%server, code = answer.code.0, "a resolver refuses"),
                Ok(Err(error)) => tracing::debug!(%server, ?error, "a resolver cannot be asked"),
                Err(_) => tracing::debug!(%server, "a resolver is silent"),
            }
        }
        Err(AskError::NoAnswer)
    };
    timeout(PATIENCE, turns).await.unwrap_or(Err(AskError::NoAnswer))
}

async fn ask_one(server: SocketAddr, question: &Question) -> Result<Answer, ExchangeError> {
    let mut reply = over_udp(server, question, Edns::Said).await?;
    if reply.answer.code == Code::MALFORMED || reply.answer.code == Code::NOT_IMPLEMENTED {
        reply = over_udp(server, question, Edns::Unsaid).await?;
    }
    // A server that does not repeat the letters is asked in a way in which nobody else can answer.
    if reply.is_cut || !reply.is_exact {
        reply = over_tcp(server, question).await?;
    }
    Ok(reply.answer)
}

async fn over_udp(server: SocketAddr, question: &Question, edns: Edns) -> Result<Reply, ExchangeError> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (id, asked) = draw(question);
    socket.send(&asked.ask(id, edns == Edns::Said)).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    for _ in 0..STRANGE_MAX {
        let length = socket.recv(&mut buffer).await?;
        // One that cannot be read may be another's; the true one may still come.
        if let Ok(Some(reply)) = Reply::read(&buffer[..length], id, &asked) {
            return Ok(reply);
        }
    }
    Err(ExchangeError::Strange)
}

async fn over_tcp(server: SocketAddr, question: &Question) -> Result<Reply, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, asked) = draw(question);
    let message = asked.ask(id, true);
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    let reply = Reply::read(&answer, id, &asked)?.filter(|reply| !reply.is_cut);
    reply.ok_or(ExchangeError::Strange)
}

/// A number for a question, and the question with its letters drawn.
fn draw(question: &Question) -> (u16, Question) {
    // Of a random UUID the first 48 bits and the last 62 are random.
    let random = Uuid::new_v4().as_u128();
    let asked = Question { name: question.name.with_case(random), kind: question.kind };
    ((random >> 112) as u16, asked)
}
