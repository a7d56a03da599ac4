//! Requests over HTTP/1.1 with a deadline for everything that is waited for, and redirects that take no credentials along.
//!
//! HTTP/1.1 because it is what every registry speaks, and because several connections for one large layer are worth more
//! than many streams on one.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    USER_AGENT, WWW_AUTHENTICATE,
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::error::RequestError;
use crate::reach::{Connector, PrivateNames, Reach};
use crate::target::Target;

/// How often one request may be led elsewhere.
const REDIRECTS_MAX: usize = 5;
/// Of an error's body more is not looked at.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Of what a registry says more is not shown.
const MESSAGE_CHARS_MAX: usize = 300;
/// Connections to one host that wait for the next request.
const IDLE_CONNECTIONS_MAX: usize = 8;
const IDLE_CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// How long a registry is waited for, and how often it is asked.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a name's look-up, and for each address of it.
    pub connect: Duration,
    /// From a request to the head of its answer, the handshake included.
    pub head: Duration,
    /// Without [`Patience::bytes`] of a body.
    pub body: Duration,
    /// What must come of a body within [`Patience::body`].
    pub bytes: u64,
    /// Attempts without getting further.
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one.
    pub pause: Duration,
    /// The longest pause, also where a registry asks for a longer one.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            bytes: 32 << 10,
            attempts: 5,
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// The pause before attempt `attempt + 1`, or what the registry asks for; with a random part, so that many who were
    /// refused together do not come back together.
    pub(crate) fn pause_after(&self, attempt: u32, error: &RequestError) -> Duration {
        let wanted = match error {
            RequestError::TooManyRequests { after: Some(after), .. } => *after,
            _ => self.pause.saturating_mul(1 << attempt.saturating_sub(1).min(10)),
        };
        let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        wanted.min(self.pause_max) + self.pause * random / 512
    }
}

type Plain = Client<Connector, Full<Bytes>>;
type Tls = Client<HttpsConnector<Connector>, Full<Bytes>>;

/// Clients for each reach, because connections are shared among those only.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) patience: Patience,
    pub(crate) private: PrivateNames,
    ca_files: Vec<PathBuf>,
    tls: OnceCell<Arc<rustls::ClientConfig>>,
    plain_clients: Mutex<HashMap<Reach, Plain>>,
    tls_clients: Mutex<HashMap<Reach, Tls>>,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: Target,
    /// How far inside it may be led.
    pub(crate) most: Reach,
    pub(crate) accept: Option<&'static str>,
    pub(crate) authorization: Option<String>,
    /// First and last byte.
    pub(crate) range: Option<(u64, u64)>,
    /// A form to be posted.
    pub(crate) form: Option<String>,
}

impl Call {
    pub(crate) fn new(method: Method, target: Target, most: Reach) -> Self {
        Self { method, target, most, accept: None, authorization: None, range: None, form: None }
    }
}

/// The head of an answer, and what is needed to read its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What was asked in the end.
    pub(crate) url: String,
    body: Incoming,
    patience: Patience,
    /// Time spent waiting, and bytes that came, since enough came.
    waited: Duration,
    came: u64,
}

impl Transport {
    pub(crate) fn new(patience: Patience, ca_files: Vec<PathBuf>) -> Self {
        let (private, tls, plain_clients, tls_clients) = Default::default();
        Self { patience, private, ca_files, tls, plain_clients, tls_clients }
    }

    /// Sends a request and follows where it leads. Statuses of errors are answers, too.
    pub(crate) async fn send(&self, mut call: Call) -> Result<Answer, RequestError> {
        for _ in 0..=REDIRECTS_MAX {
            let mut answer = self.send_once(&call).await?;
            let leads = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            // A form is not sent elsewhere: it holds a secret.
            if !leads || call.form.is_some() {
                return Ok(answer);
            }
            let url = call.target.to_string();
            let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| call.target.join(location));
            let Some(next) = next else {
                return Err(RequestError::Protocol { url, what: "it leads to no URL".to_owned() });
            };
            if call.target.origin.is_https && !next.origin.is_https {
                let why = "a redirect may not leave TLS";
                return Err(RequestError::Refused { url, place: next.to_string(), why });
            }
            if next.origin != call.target.origin {
                call.authorization = None;
            }
            call.target = next;
            answer.drain().await;
        }
        let what = format!("it leads elsewhere more than {REDIRECTS_MAX} times");
        Err(RequestError::Protocol { url: call.target.to_string(), what })
    }

    async fn send_once(&self, call: &Call) -> Result<Answer, RequestError> {
        let url = call.target.to_string();
        let request = request(call).map_err(|error| RequestError::Protocol {
            url: url.clone(),
            what: format!("it cannot be asked: {error}"),
        })?;
        let sent = match call.target.origin.is_https {
            true => timeout(self.patience.head, self.tls_client(call.most).await?.request(request)).await,
            false => timeout(self.patience.head, self.plain_client(call.most).request(request)).await,
        };
        let sent = sent.map_err(|_| RequestError::Timeout { url: url.clone(), what: "awaiting headers" })?;
        let answer =
            sent.map_err(|error| RequestError::Connection { url: url.clone(), source: error.into() })?;
        let (head, body) = answer.into_parts();
        let (status, headers, patience) = (head.status, head.headers, self.patience);
        Ok(Answer { status, headers, url, body, patience, waited: Duration::ZERO, came: 0 })
    }

    fn connector(&self, most: Reach) -> Connector {
        Connector { most, private: self.private.clone(), limit: self.patience.connect }
    }

    fn plain_client(&self, most: Reach) -> Plain {
        let mut clients = self.plain_clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.entry(most).or_insert_with(|| builder().build(self.connector(most))).clone()
    }

    async fn tls_client(&self, most: Reach) -> Result<Tls, RequestError> {
        let files = self.ca_files.clone();
        let load = || async move {
            let loaded = tokio::task::spawn_blocking(move || tls_config(&files)).await;
            loaded.map_err(io::Error::other).and_then(|loaded| loaded).map_err(RequestError::Certificates)
        };
        let config = self.tls.get_or_try_init(load).await?;
        let mut clients = self.tls_clients.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let https = HttpsConnectorBuilder::new().with_tls_config((**config).clone()).https_only();
            builder().build(https.enable_http1().wrap_connector(self.connector(most)))
        };
        Ok(clients.entry(most).or_insert_with(make).clone())
    }
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION_LIMIT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX);
    builder
}

/// The machine's certificates and those of `files`.
fn tls_config(files: &[PathBuf]) -> io::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    for file in files {
        let wrong = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
        let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
        for certificate in read {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }
    if let (true, Some(error)) = (roots.is_empty(), native.errors.first()) {
        return Err(io::Error::other(error.to_string()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

fn request(call: &Call) -> Result<Request<Full<Bytes>>, http::Error> {
    let uri = format!("{}{}", call.target.origin, call.target.path);
    let mut request = Request::builder().method(&call.method).uri(uri);
    request = request.header(USER_AGENT, concat!("neargate/", env!("CARGO_PKG_VERSION")));
    if let Some(accept) = call.accept {
        request = request.header(ACCEPT, accept);
    }
    if let Some((first, last)) = call.range {
        request = request.header(RANGE, format!("bytes={first}-{last}"));
    }
    if let Some(authorization) = &call.authorization {
        let mut value = HeaderValue::from_str(authorization)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let form = call.form.clone().unwrap_or_default();
    if call.form.is_some() {
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    }
    request.body(Full::new(form.into()))
}

impl Answer {
    /// A header, if it is text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The length that the answer claims.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(&http::header::CONTENT_LENGTH).and_then(|length| length.parse().ok())
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        loop {
            let left = self.patience.body.saturating_sub(self.waited);
            let begun = Instant::now();
            let late = |_| RequestError::Timeout { url: self.url.clone(), what: "reading the body" };
            let frame = timeout(left, self.body.frame()).await.map_err(late)?;
            // Only what the registry takes counts, not what our own disk does.
            self.waited += begun.elapsed();
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame
                .map_err(|error| RequestError::Connection { url: self.url.clone(), source: error.into() })?;
            let Ok(data) = frame.into_data() else { continue };
            self.came += data.len() as u64;
            if self.came >= self.patience.bytes {
                (self.came, self.waited) = (0, Duration::ZERO);
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, if it is not larger than `limit` bytes.
    pub(crate) async fn bytes(mut self, limit: u64) -> Result<Bytes, RequestError> {
        let large = |url: &str| RequestError::Protocol {
            url: url.to_owned(),
            what: format!("it is larger than {limit} bytes"),
        };
        if self.length().is_some_and(|length| length > limit) {
            return Err(large(&self.url));
        }
        let mut bytes = BytesMut::new();
        while let Some(data) = self.next().await? {
            if bytes.len() as u64 + data.len() as u64 > limit {
                return Err(large(&self.url));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    }

    /// What an answer of an error says.
    pub(crate) async fn problem(self, what: &str) -> RequestError {
        let (status, url) = (self.status, self.url.clone());
        let after = self.header(&RETRY_AFTER).and_then(retry_after);
        let challenge = self.header(&WWW_AUTHENTICATE).unwrap_or_default();
        // What a token server that gives tokens for everything leaves to the registry to say.
        let message = match challenge.contains("error=\"insufficient_scope\"") {
            true => "insufficient_scope: authorization failed".to_owned(),
            false => self.message().await,
        };
        match status.as_u16() {
            404 => RequestError::NotFound { what: what.to_owned() },
            401 | 403 => {
                let message = if message.is_empty() { status.to_string() } else { message };
                RequestError::Denied { message }
            }
            429 => RequestError::TooManyRequests { url, message, after },
            _ => RequestError::Status { url, status, message },
        }
    }

    /// Reads the rest of a short body that says nothing new, so that its connection serves the next request, too.
    pub(crate) async fn drain(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(Some(data)) = self.next().await {
            bytes.extend_from_slice(&data);
            if bytes.len() > MESSAGE_BYTES_MAX {
                break;
            }
        }
        bytes
    }

    /// The first error of a registry's body (distribution-spec §Error codes), or nothing.
    async fn message(mut self) -> String {
        let bytes = self.drain().await;
        let parsed: Option<Errors> = serde_json::from_slice(&bytes).ok();
        let first = parsed.and_then(|errors| errors.errors.into_iter().next());
        let text = match first {
            Some(Problem { code, message }) if message.is_empty() => code.to_lowercase(),
            Some(Problem { code, message }) => format!("{}: {message}", code.to_lowercase()),
            None => String::new(),
        };
        printable(&text)
    }
}

/// Text of somebody else's that is shown: without control characters, and not too long.
pub(crate) fn printable(text: &str) -> String {
    let show = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MESSAGE_CHARS_MAX).map(show).collect()
}

/// Seconds or a date (RFC 9110 §10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value.trim()).ok()?.duration_since(std::time::SystemTime::now()).ok()
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let patience = Patience::default();
        let error = RequestError::NotFound { what: String::new() };
        let pause = |attempt| patience.pause_after(attempt, &error);
        assert!(pause(1) >= patience.pause && pause(1) < patience.pause * 2);
        assert!(pause(3) >= patience.pause * 4);
        assert!(pause(60) <= patience.pause_max + patience.pause);
        let after = |seconds| RequestError::TooManyRequests {
            url: String::new(),
            message: String::new(),
            after: Some(Duration::from_secs(seconds)),
        };
        assert!(patience.pause_after(1, &after(3)) >= Duration::from_secs(3));
        assert!(patience.pause_after(1, &after(86_400)) <= patience.pause_max + patience.pause);
    }

    #[test]
    fn dates_and_seconds() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(retry_after("-1"), None);
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn messages_are_printable() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(printable(&"x".repeat(1000)).len(), MESSAGE_CHARS_MAX);
    }
}
