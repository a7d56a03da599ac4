//! Requests that guests send.
//!
//! wasmtime-wasi-http is built without its own sender, so this is the only way out: the run must have a
//! network, the name is looked up by the server, and every address is checked after the look-up, right before
//! it is connected to, by a socket in the network that the run has.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use neargate_wasm::protocol::SocketPlan;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::charged::charged_frame;
use super::tls;
use crate::budget::Account;
use crate::instance::RunContext;
use crate::net::{LookupError, Resolver, Sockets};

/// How long a connection may take, TLS included, when the guest does not say.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the response's head may take when the guest does not say.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// How long the next part of the response's body may take when the guest does not say.
const BETWEEN_BYTES: Duration = Duration::from_secs(60);
/// The longest of each that a guest gets.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// How long one address of several is tried.
const ADDRESS_MAX: Duration = Duration::from_secs(3);
/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 8;
/// Requests of one run that are under way at a time: each has a socket and buffers of the worker.
const REQUESTS_MAX: usize = 256;
/// The longest head of a response, and the most that is read ahead of a guest, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most bytes that a guest hands over at once of a body; it is what is buffered of it.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// What all stores of a run send with.
pub(crate) struct Sender {
    resolver: Resolver,
    sockets: Sockets,
    places: Arc<Semaphore>,
}

impl Sender {
    /// For a run.
    pub(crate) fn new(resolver: Resolver, sockets: Sockets) -> Arc<Self> {
        Arc::new(Self { resolver, sockets, places: Arc::new(Semaphore::new(REQUESTS_MAX)) })
    }

    /// What names are looked up with, and addresses are checked with.
    pub(crate) fn resolver(&self) -> &Resolver {
        &self.resolver
    }
}

/// What of `wasi:http` a store decides by itself.
pub(crate) struct Hooks {
    sender: Arc<Sender>,
    account: Account,
}

impl Hooks {
    /// For a new store of a run.
    pub(crate) fn new(run: &RunContext) -> Self {
        Self { sender: Arc::clone(run.sender()), account: run.account().clone() }
    }

    /// Looks up names for the guest.
    pub(crate) fn resolver(&self) -> &Resolver {
        self.sender.resolver()
    }

    /// Gets sockets for the guest.
    pub(crate) fn sockets(&self) -> &Sockets {
        &self.sender.sockets
    }
}

type Transmitted = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Transmitted), Error>;

impl WasiHttpHooks for Hooks {
    // The default makes an `Arc` of a closure for each header of each message.
    fn is_forbidden_header(&mut self, name: &http::HeaderName) -> bool {
        wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _transmitted: Transmitted,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        if !self.sender.resolver.policy().allows_network() {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        let (sender, account) = (Arc::clone(&self.sender), self.account.clone());
        Box::new(async move { sender.send(request, Waits::new(options), account).await })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }

    // What fails between a guest and the peer that it chose is between them: the guest is told, and our log
    // is not. The defaults log a warning.
    fn p2_error_from_hyper(
        &mut self,
        error: &hyper::Error,
    ) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
        match error.is_incomplete_message() {
            true => ErrorCode::ConnectionTerminated,
            false => ErrorCode::HttpProtocolError,
        }
    }

    fn p3_error_from_hyper(
        &mut self,
        error: &hyper::Error,
    ) -> wasmtime_wasi_http::p3::bindings::http::types::ErrorCode {
        use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
        match error.is_incomplete_message() {
            true => ErrorCode::ConnectionTerminated,
            false => ErrorCode::HttpProtocolError,
        }
    }
}

/// How long a request waits for what.
struct Waits {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Waits {
    fn new(options: Option<RequestOptions>) -> Self {
        let of = |asked: Option<Duration>, usual: Duration| asked.unwrap_or(usual).min(WAIT_MAX);
        let options = options.unwrap_or_default();
        Self {
            connect: of(options.connect_timeout, CONNECT),
            first_byte: of(options.first_byte_timeout, FIRST_BYTE),
            between_bytes: of(options.between_bytes_timeout, BETWEEN_BYTES),
        }
    }
}

impl Sender {
    async fn send(&self, mut request: Request<WasiBody>, waits: Waits, account: Account) -> Sent {
        let place =
            Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
        // A tunnel would leave the message that we frame.
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let target = Target::of(request.uri())?;
        let connected = timeout(waits.connect, self.connect(&target)).await;
        let stream = connected.map_err(|_| Error::ConnectionTimeout)??;
        *request.uri_mut() = origin_form(request.uri())?;
        exchange(stream, request, &waits, (place, account)).await
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, Error> {
        let addresses = self.resolver.resolve(&target.host).await.map_err(lookup_error)?;
        let policy = self.resolver.policy();
        let allowed = addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, target.port))
            .filter(|address| policy.allows_peer(*address));
        let mut failure = Error::DestinationIpProhibited;
        for address in allowed.take(ADDRESSES_MAX) {
            match timeout(ADDRESS_MAX, self.open(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(Error::Connect)?;
                    return match target.tls {
                        true => Ok(Box::new(tls::connect(&target.host, stream).await?)),
                        false => Ok(Box::new(stream)),
                    };
                }
                Ok(Err(error)) => failure = connect_error(error),
                Err(_) => failure = Error::ConnectionTimeout,
            }
        }
        Err(failure)
    }

    async fn open(&self, address: SocketAddr) -> io::Result<TcpStream> {
        match self.sockets.make(SocketPlan::Stream { is_v6: address.is_ipv6() }).await {
            Ok(None) => TcpStream::connect(address).await,
            // tokio's type for a socket that is not connected yet takes only std's for one that is, and looks no closer.
            Ok(Some(socket)) => TcpSocket::from_std_stream(socket.into()).connect(address).await,
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Sends the request and waits for the response's head. The connection goes on in the second part of what is
/// returned.
async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<WasiBody>,
    waits: &Waits,
    (place, account): (OwnedSemaphorePermit, Account),
) -> Sent {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, WasiBody>(TokioIo::new(stream))
        .await?;
    let mut connection = Box::pin(connection);
    let sending = sender.send_request(request);
    let head = timeout(waits.first_byte, async {
        tokio::pin!(sending);
        let mut open = true;
        std::future::poll_fn(|cx| {
            // The connection moves what the request's future waits for; it may end with the response sent.
            if open && connection.as_mut().poll(cx).is_ready() {
                open = false;
            }
            sending.as_mut().poll(cx)
        })
        .await
        .map(|response| (response, open))
    });
    let (response, open) = head.await.map_err(|_| Error::HttpResponseTimeout)??;
    let between = waits.between_bytes;
    let response =
        response.map(|incoming| Guarded { incoming, between, account, waiting: None }.boxed_unsync());
    let rest = async move {
        let _place = place;
        if open {
            connection.await?;
        }
        Ok(())
    };
    Ok((response, Box::new(rest)))
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        // Credentials in an authority are for browsers; sent on they would end up in a log.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(Error::HttpRequestUriInvalid);
        }
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // `host:` with a port that is none.
            None if authority.as_str().len() > authority.host().len() => {
                return Err(Error::HttpRequestUriInvalid);
            }
            None if tls => 443,
            None => 80,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

/// What a request line to the origin server has: path and query (RFC 9112, 3.2.1).
fn origin_form(uri: &Uri) -> Result<Uri, Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)
}

fn lookup_error(error: LookupError) -> Error {
    match error {
        LookupError::Denied => Error::DestinationIpProhibited,
        LookupError::Invalid => Error::HttpRequestUriInvalid,
        LookupError::Unknown { .. } => {
            Error::DnsError { rcode: Some("name not resolvable".to_owned()), info_code: None }
        }
        LookupError::NoAnswer => Error::DnsTimeout,
        LookupError::TooMany => Error::ConnectionLimitReached,
    }
}

fn connect_error(error: io::Error) -> Error {
    match error.kind() {
        // By seccomp, in a worker without a network.
        io::ErrorKind::PermissionDenied => Error::HttpRequestDenied,
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        _ => Error::Connect(error),
    }
}

/// What bytes travel on.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A response's body that fails when its next part takes too long.
struct Guarded {
    incoming: Incoming,
    between: Duration,
    /// What the guest has not read yet is on it.
    account: Account,
    /// Armed only while something is waited for: a body that is there costs no timer.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Body for Guarded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.waiting = None;
                let part = |frame| charged_frame(frame, &this.account);
                Poll::Ready(frame.map(|frame| frame.map(part).map_err(Error::from)))
            }
            Poll::Pending => {
                let between = this.between;
                let sleep = this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(between)));
                ready!(sleep.as_mut().poll(cx));
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target = |host: &str, port, tls| Target { host: host.to_owned(), port, tls };
        for (uri, expected) in [
            ("http://example.com/", target("example.com", 80, false)),
            ("https://example.com/", target("example.com", 443, true)),
            ("http://127.0.0.1:8080/", target("127.0.0.1", 8080, false)),
            ("https://[::1]:8443/", target("::1", 8443, true)),
            ("http://[::1]/", target("::1", 80, false)),
        ] {
            assert_eq!(Target::of(&uri.parse().unwrap()).unwrap(), expected, "{uri}");
        }
        for uri in ["/path", "http://user:secret@example.com/", "http://example.com:/"] {
            assert!(Target::of(&uri.parse().unwrap()).is_err(), "{uri}");
        }
    }

    #[test]
    fn a_request_line_has_no_authority() {
        for (uri, expected) in [
            ("http://a/b?c=d", "/b?c=d"),
            ("http://a", "/"),
            ("http://a?c", "/?c"),
            ("https://a/%20", "/%20"),
        ] {
            assert_eq!(origin_form(&uri.parse().unwrap()).unwrap(), expected, "{uri}");
        }
    }

    #[test]
    fn waits_have_defaults_and_ends() {
        let usual = Waits::new(None);
        assert_eq!((usual.connect, usual.first_byte), (CONNECT, FIRST_BYTE));
        let asked = RequestOptions {
            connect_timeout: Some(Duration::from_millis(5)),
            first_byte_timeout: Some(Duration::MAX),
            between_bytes_timeout: None,
        };
        let waits = Waits::new(Some(asked));
        let found = (waits.connect, waits.first_byte, waits.between_bytes);
        assert_eq!(found, (Duration::from_millis(5), WAIT_MAX, BETWEEN_BYTES));
    }
}
