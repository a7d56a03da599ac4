//! The listener: connections, limits and the end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access::Origin;
use crate::body::Body;
use crate::native;
use crate::pipeline::{Gateway, Sender, too_large};
use crate::registry::Registry;

/// The largest body: PutLogEvents carries up to 1 MiB of messages, and JSON may double that.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Connections at once; each may hold one body and some buffers.
const CONNECTIONS_MAX: usize = 4096;

/// How long a client may take to send the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client may take to send the body of a request.
const BODY_DEADLINE: Duration = Duration::from_secs(60);

/// How long requests in flight are waited for at the end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long to wait when no connection can be accepted, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A silent connection is probed after this (tcp(7)), and given up when that often nothing answers.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEP_ALIVE_PROBES: u32 = 4;

/// Why the listener ended other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be used.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Serves connections until it is cancelled, then lets requests in flight finish within a bound.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, end: CancellationToken) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    loop {
        let permit = tokio::select! {
            permit = connections.clone().acquire_owned() => permit,
            () = end.cancelled() => break,
        };
        let Ok(permit) = permit else { break };
        let (stream, address) = tokio::select! {
            accepted = accept(&listener) => accepted,
            () = end.cancelled() => break,
        };
        let gateway = gateway.clone();
        let sender = Sender { address, origin: Origin::Host };
        let service = service_fn(move |request| answer(gateway.clone(), sender, request));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        // The task ends with its connection, which the graceful end watches.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "connection ended with an error");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still in flight at the end");
    }
}

pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it, small answers wait for the peer's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                // A client that vanished without a word is noticed, even where nothing is sent to it.
                if let Err(error) = keep_alive(&stream) {
                    tracing::debug!(%error, "connection is not probed for life");
                }
                return (stream, peer.ip().to_canonical());
            }
            Err(error) => {
                tracing::warn!(%error, "connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)
}

/// Bodies of the registry are read as they come.
async fn answer_registry(gateway: Arc<Gateway>, head: Parts, body: Incoming) -> Response<Body> {
    if matches!(head.method, Method::GET | Method::HEAD) {
        return gateway.registry.answer(&head, body).await;
    }
    // As with other requests that change something.
    let answered = tokio::spawn(async move { gateway.registry.answer(&head, body).await }).await;
    answered.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn answer(
    gateway: Arc<Gateway>,
    sender: Sender,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(sender);
    if Registry::is_meant(head.uri.path()) {
        return Ok(answer_registry(gateway, head, body).await);
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    let response = match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) if native::only_reads(&head.method, head.uri.path()) => {
            gateway.answer(&head, body.to_bytes()).await
        }
        Ok(Ok(body)) => {
            // Goes on when its client does not wait for the answer: what is half done would stay so.
            let answered = tokio::spawn(async move { gateway.answer(&head, body.to_bytes()).await }).await;
            answered.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => too_large(&head, BODY_BYTES_MAX).map(Body::from),
        Ok(Err(_)) | Err(_) => {
            let mut response = Response::new(Bytes::from_static(b"the request's body did not arrive"));
            *response.status_mut() = http::StatusCode::REQUEST_TIMEOUT;
            response.map(Body::from)
        }
    };
    Ok(response)
}
