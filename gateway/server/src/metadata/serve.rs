//! Connections of tasks: limits, deadlines, and the way of a request.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Metadata;
use super::endpoints::ADDRESS;
use super::visitors::Visit;
use crate::access::Origin;
use crate::body::Body;
use crate::http::accept;
use crate::pipeline::{Sender, too_large};

/// Connections of all tasks at a time.
const CONNECTIONS_MAX: usize = 8192;
/// How long a task may take to send the head of a request, and how long a connection may be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(20);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most bytes of the body of a request to an AWS service, as at the server's own address.
const CALL_BYTES_MAX: usize = 4 << 20;
/// Most bytes of the body of a request that is about the task.
const BODY_BYTES_MAX: usize = 4 << 10;
/// What ECS says to a task that asks too often (tollbooth's words).
const TOO_OFTEN: &str = "You have reached maximum request limit.";

impl Metadata {
    /// Serves the listeners that come, each in the place of the one before, until it is cancelled.
    pub async fn serve(
        self: Arc<Self>,
        mut listeners: mpsc::Receiver<std::net::TcpListener>,
        end: CancellationToken,
    ) {
        let mut connections = JoinSet::new();
        let Some(mut listener) = next(&mut listeners, &end).await else { return };
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                // Once nobody supplies them any more, the last one stays.
                Some(other) = listeners.recv() => match TcpListener::from_std(other) {
                    Ok(other) => listener = other,
                    Err(error) => tracing::error!(%error, "socket for the metadata of tasks cannot be used"),
                },
                (stream, address) = accept(&listener) => self.take(stream, address, &mut connections),
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, address: IpAddr, connections: &mut JoinSet<()>) {
        // The router lets nothing else here.
        let IpAddr::V4(address) = address else { return };
        if connections.len() >= CONNECTIONS_MAX {
            return;
        }
        // Whoever has too many is left without a word: to write one would be one more to wait for.
        let Some(visit) = self.visitors.enter(address, Instant::now()) else { return };
        connections.spawn(connection(self.clone(), stream, visit));
    }

    async fn answer(&self, visit: &Arc<Visit>, request: Request<Incoming>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        if let Some(refusal) = check_head(&head) {
            return refusal;
        }
        if head.uri.path() == "/" {
            head.extensions.insert(Sender { address: visit.address.into(), origin: Origin::Task });
            return self.call(visit, head, body).await;
        }
        if !visit.may_ask(Instant::now()) {
            return text(StatusCode::TOO_MANY_REQUESTS, TOO_OFTEN);
        }
        match read(body, BODY_BYTES_MAX).await {
            Ok(body) => self.tell(visit.address, &head, &body).await,
            Err(Unread::TooLong) => text(StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too long"),
            Err(Unread::TooSlow) => text(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive"),
        }
    }

    /// A request to an AWS service.
    async fn call(&self, visit: &Arc<Visit>, head: Parts, body: Incoming) -> Response<Body> {
        let Some(call) = visit.begin_call().await else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many tasks ask at once; ask again in a moment",
            );
        };
        let body = match read(body, CALL_BYTES_MAX).await {
            Ok(body) => body,
            Err(Unread::TooLong) => return too_large(&head, CALL_BYTES_MAX).map(Body::from),
            Err(Unread::TooSlow) => {
                return text(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive");
            }
        };
        // Goes on when its task does not wait for the answer: what is half done would stay so. It is one of the task's
        // calls, and of its connections, as long.
        let (gateway, visit) = (self.gateway.clone(), visit.clone());
        let answering = async move {
            let answered = gateway.answer_service(&head, &body).await;
            drop((call, visit));
            answered
        };
        let answered = tokio::spawn(answering).await;
        let answered = answered.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        answered.unwrap_or_else(|| text(StatusCode::NOT_FOUND, "404 page not found"))
    }
}

async fn next(
    listeners: &mut mpsc::Receiver<std::net::TcpListener>,
    end: &CancellationToken,
) -> Option<TcpListener> {
    loop {
        let listener = tokio::select! {
            () = end.cancelled() => return None,
            listener = listeners.recv() => listener?,
        };
        match TcpListener::from_std(listener) {
            Ok(listener) => return Some(listener),
            Err(error) => tracing::error!(%error, "socket for the metadata of tasks cannot be used"),
        }
    }
}

async fn connection(metadata: Arc<Metadata>, stream: TcpStream, visit: Visit) {
    let visit = Arc::new(visit);
    let service = service_fn(move |request| {
        let (metadata, visit) = (metadata.clone(), visit.clone());
        async move { Ok::<_, Infallible>(metadata.answer(&visit, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(HEAD_BYTES_MAX);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = %error, "connection of a task ended with an error");
    }
}

/// Refuses what a browser or a proxy may have been led to send: a request that does not know where it goes, and one that
/// comes from somebody else.
fn check_head(head: &Parts) -> Option<Response<Body>> {
    let refuse = |message| Some(text(StatusCode::FORBIDDEN, message));
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_none_or(|host| host.strip_suffix(":80").unwrap_or(host) != ADDRESS) {
        return refuse("the Host of a request here is 169.254.170.2");
    }
    if head.headers.contains_key("x-forwarded-for") {
        return refuse("requests that somebody has forwarded are not answered");
    }
    None
}

/// Why there is no body.
enum Unread {
    TooLong,
    TooSlow,
}

async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, Unread> {
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Unread::TooLong),
        Ok(Err(_)) | Err(_) => Err(Unread::TooSlow),
    }
}

/// An answer for people. The connection ends with it: what is left of a body is not read.
pub(super) fn text(status: StatusCode, message: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(message.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_means_this_address_is_answered() {
        let check = |headers: &[(&str, &str)], is_allowed: bool| {
            let request = headers.iter().fold(Request::builder().uri("/v4/x"), |request, (name, value)| {
                request.header(*name, *value)
            });
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(check_head(&head).is_none(), is_allowed, "{headers:?}");
        };
        check(&[("host", "169.254.170.2")], true);
        check(&[("host", "169.254.170.2:80")], true);
        check(&[("host", "169.254.170.2:8080")], false);
        check(&[("host", "evil.example")], false);
        check(&[("host", "169.254.170.2.evil.example")], false);
        check(&[], false);
        check(&[("host", "169.254.170.2"), ("X-Forwarded-For", "10.0.0.1")], false);
    }
}
