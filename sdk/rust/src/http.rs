//! One HTTP exchange: send bytes, get bytes, within a time and a size.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::config::{Config, ConfigError};

/// No answer of the APIs is near this size: the largest pages have 1 MiB of log events, or 100 tasks.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 20;

/// How long making a connection may take; a server that is there accepts at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections are closed after this, before most proxies close theirs (60 s and more).
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

#[cfg(not(feature = "https"))]
type Connector = HttpConnector;
#[cfg(feature = "https")]
type Connector = hyper_rustls::HttpsConnector<HttpConnector>;

/// A pool of connections to the server.
pub(crate) struct Http {
    pool: legacy::Client<Connector, Full<Bytes>>,
    uri: Uri,
    limit: Duration,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server has seen nothing.
    Connect(io::Error),
    Interrupted(Box<dyn StdError + Send + Sync>),
    Timeout,
    TooLarge,
}

impl Http {
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(config.attempt_timeout)));
        let endpoint = &config.endpoint;
        let uri = Uri::builder()
            .scheme(endpoint.scheme.clone())
            .authority(endpoint.authority.clone())
            .path_and_query(endpoint.path.as_str())
            .build()
            .expect("the parts of a URL make a URL");
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(with_tls(connector)?);
        Ok(Self { pool, uri, limit: config.attempt_timeout })
    }

    /// Sends a request to a path of the server's own, and returns when the answer begins.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let exchange = async { self.pool.request(request).await.map_err(failure) };
        tokio::time::timeout(self.limit, exchange).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Posts a body.
    pub(crate) async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<Answer, Failure> {
        let mut request =
            Request::post(self.uri.clone()).body(Full::new(body)).expect("a URL makes a request");
        *request.headers_mut() = headers;
        let exchange = async {
            let response = self.pool.request(request).await.map_err(failure)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => Failure::TooLarge,
                false => Failure::Interrupted(error),
            })?;
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(self.limit, exchange).await.unwrap_or(Err(Failure::Timeout))
    }
}

#[cfg(not(feature = "https"))]
fn with_tls(connector: HttpConnector) -> Result<Connector, ConfigError> {
    Ok(connector)
}

#[cfg(feature = "https")]
fn with_tls(mut connector: HttpConnector) -> Result<Connector, ConfigError> {
    connector.enforce_http(false);
    let provider = rustls::crypto::ring::default_provider();
    let tls = hyper_rustls::HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
    let tls = tls.map_err(|source| ConfigError::Certificates { source })?;
    Ok(tls.https_or_http().enable_http1().wrap_connector(connector))
}

/// The legacy client wraps what the system said three times over; a person needs the innermost only.
fn failure(error: legacy::Error) -> Failure {
    if !error.is_connect() {
        return Failure::Interrupted(error.into());
    }
    let mut innermost: &(dyn StdError + 'static) = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let system = innermost.downcast_ref::<io::Error>();
    Failure::Connect(match system.map(|system| (system.raw_os_error(), system.kind())) {
        Some((Some(code), _)) => io::Error::from_raw_os_error(code),
        Some((None, kind)) => io::Error::new(kind, innermost.to_string()),
        None => io::Error::other(innermost.to_string()),
    })
}
