//! One call of an operation: encode, sign, send, try again, decode.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use neargate_auth::sigv4::{Outgoing, PathStyle, Payload, SignError, Signer};
use neargate_wire::shape::Shape;
use neargate_wire::{Protocol, Service, json};

use crate::client::Client;
use crate::error::{AnswerError, Error, ServiceError};
use crate::http::{Answer, BODY_BYTES_MAX, Failure};
use crate::{backoff, query};

/// The first pause before another attempt, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// An operation of an AWS service, and what may be done when its answer is lost.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) service: &'static Service,
    pub(crate) name: &'static str,
    pub(crate) repeat: Repeat,
}

/// When a call may be made again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Always: doing it twice is doing it once.
    Safe,
    /// Only when the server has surely not acted on it.
    IfUnseen,
}

impl Operation {
    fn protocol(&self) -> Protocol {
        self.service.json_protocol().unwrap_or(Protocol::Query)
    }
}

/// A request as it will be signed: the same bytes in each attempt.
struct Encoded {
    content_type: &'static str,
    target: Option<String>,
    body: Bytes,
}

impl Client {
    /// Calls an operation. `region` is the one to sign for, if not the client's own.
    pub(crate) async fn call<I: Shape, O: Shape>(
        &self,
        operation: Operation,
        input: &I,
        region: Option<&str>,
    ) -> Result<O, Error> {
        let answer = self.call_for_nothing(operation, input, region).await?;
        // Absent required members take their defaults, so that an older server's answers can be read.
        let output = match operation.protocol() {
            Protocol::Query => query::decode(operation.name, &answer.body),
            _ => json::decode(&answer.body).map(|(output, _)| output).map_err(AnswerError::from),
        };
        output.map_err(|source| self.bad_answer(operation.name, answer.status, source))
    }

    /// Calls an operation whose answer says nothing beyond its success.
    pub(crate) async fn call_for_nothing<I: Shape>(
        &self,
        operation: Operation,
        input: &I,
        region: Option<&str>,
    ) -> Result<Answer, Error> {
        let encoded = encode(operation, input);
        let region = region.unwrap_or(&self.shared.config.region);
        let mut pauses = backoff::Backoff::new(PAUSE.0, PAUSE.1);
        let mut attempt = 1;
        loop {
            let error = match self.attempt(operation, &encoded, region).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if attempt >= self.shared.config.attempts_max || !may_repeat(&error, operation.repeat) {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(pauses.next_jittered()).await;
        }
    }

    async fn attempt(&self, operation: Operation, encoded: &Encoded, region: &str) -> Result<Answer, Error> {
        let sign = |source| Error::Sign { operation: operation.name, source };
        let headers = self.sign(operation, encoded, region).map_err(sign)?;
        let answer = self.shared.http.post(headers, encoded.body.clone()).await;
        let answer = answer.map_err(|failure| self.explain(operation.name, failure))?;
        match answer.status {
            200..=299 => Ok(answer),
            _ => Err(Error::Service(Box::new(service_error(operation, &answer)))),
        }
    }

    fn sign(&self, operation: Operation, encoded: &Encoded, region: &str) -> Result<HeaderMap, SignError> {
        let config = &self.shared.config;
        let host = config.endpoint.authority.as_str();
        let mut plain = vec![("host", host.as_bytes()), ("content-type", encoded.content_type.as_bytes())];
        if let Some(target) = &encoded.target {
            plain.push(("x-amz-target", target.as_bytes()));
        }
        let signer = Signer {
            access_key: &config.credentials.access_key,
            secret: &config.credentials.secret,
            session_token: config.credentials.session_token.as_ref(),
            region,
            service: operation.service.scope,
            path_style: PathStyle::Normalized,
        };
        let outgoing = Outgoing {
            method: "POST",
            path: &config.endpoint.path,
            query: "",
            headers: &plain,
            payload: Payload::Bytes(&encoded.body),
        };
        let signed = signer.sign_header(&outgoing, SystemTime::now().into())?;
        let mut headers = HeaderMap::new();
        let signed = signed.iter().map(|(name, value)| (*name, value.as_bytes()));
        for (name, value) in plain.into_iter().chain(signed) {
            // A value that HTTP cannot carry (a line feed in a session token) is left out, and the server says so.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        if let Some(authorization) = headers.get_mut(AUTHORIZATION) {
            authorization.set_sensitive(true);
        }
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("neargate-sdk/", env!("CARGO_PKG_VERSION"))),
        );
        debug_assert!(headers.contains_key(HOST) && headers.contains_key(CONTENT_TYPE));
        Ok(headers)
    }

    pub(crate) fn explain(&self, operation: &'static str, failure: Failure) -> Error {
        let endpoint = self.shared.config.endpoint();
        match failure {
            Failure::Connect(source) => Error::Connect { endpoint, source },
            Failure::Interrupted(source) => Error::Interrupted { operation, endpoint, source },
            Failure::Timeout => {
                Error::Timeout { operation, endpoint, limit: self.shared.config.attempt_timeout }
            }
            Failure::TooLarge => {
                self.bad_answer(operation, 200, AnswerError::TooLarge { limit_bytes: BODY_BYTES_MAX })
            }
        }
    }

    pub(crate) fn bad_answer(&self, operation: &'static str, status: u16, source: AnswerError) -> Error {
        Error::Answer { operation, endpoint: self.shared.config.endpoint(), status, source }
    }
}

fn encode<I: Shape>(operation: Operation, input: &I) -> Encoded {
    let Operation { service, name, .. } = operation;
    match operation.protocol() {
        Protocol::Query => Encoded {
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            target: None,
            body: query::encode(name, service.api_version, input).into(),
        },
        protocol => Encoded {
            content_type: protocol.content_type(),
            target: service.target_prefix.map(|prefix| format!("{prefix}.{name}")),
            body: json::encode(input).into(),
        },
    }
}

fn may_repeat(error: &Error, repeat: Repeat) -> bool {
    match error {
        Error::Connect { .. } => true,
        Error::Service(error) if error.is_throttling() => true,
        Error::Service(error) => error.status >= 500 && repeat == Repeat::Safe,
        Error::Interrupted { .. } | Error::Timeout { .. } => repeat == Repeat::Safe,
        _ => false,
    }
}

/// Reads an error in either protocol; a proxy's page becomes an error named after its status.
fn service_error(operation: Operation, answer: &Answer) -> ServiceError {
    let parts = match operation.protocol() {
        Protocol::Query => query::error_parts(&answer.body),
        _ => json_error_parts(answer),
    };
    let (code, message) = parts.unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&answer.body);
        (format!("HTTP {}", answer.status), text.trim().chars().take(200).collect())
    });
    ServiceError {
        operation: operation.name,
        code,
        message,
        request_id: answer.header("x-amzn-requestid").map(str::to_owned),
        status: answer.status,
    }
}

/// The name may come with a namespace before `#` and a URL behind `:` (Smithy, AWS JSON 1.1, "Operation error
/// serialization").
fn json_error_parts(answer: &Answer) -> Option<(String, String)> {
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| document.get(name).and_then(|value| value.as_str());
    let code = text("__type").or_else(|| text("code")).or_else(|| answer.header("x-amzn-errortype"))?;
    let code = code.rsplit('#').next().unwrap_or(code).split(':').next().unwrap_or(code);
    let message = text("message").or_else(|| text("Message")).unwrap_or_default();
    Some((code.to_owned(), message.to_owned()))
}
