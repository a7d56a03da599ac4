//! What Neargate has and no AWS service has: usage of tasks, and what they left for the debugger.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use http::header::{AUTHORIZATION, CONNECTION, HeaderName, HeaderValue, UPGRADE, USER_AGENT};
use http::{Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::Incoming;
use neargate_auth::sigv4::{Outgoing, PathStyle, Payload, SignError, Signer};
use serde_json::{Value, json};

use crate::arn::TaskArn;
use crate::client::Client;
use crate::error::{AnswerError, Error, ServiceError};
use crate::http::Failure;

/// The name that requests of the native API are signed for.
const SERVICE: &str = "neargate";

/// Documents of the native API are far below this size.
const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// The longest time for which the server is asked to wait; what is between may give up silent exchanges after a minute.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// One file that a container left for the debugger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The container.
    pub container: String,
    /// The file's name: `core` or `profile.json`.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A request of the native API.
pub(crate) struct Request<'a> {
    /// For errors.
    name: &'static str,
    method: Method,
    /// Below the endpoint, without a slash before it.
    path: String,
    query: String,
    region: &'a str,
    body: Bytes,
    /// The protocol that the connection is to be changed to.
    upgrade: Option<&'static str>,
}

impl Client {
    /// What ECS has no field for: limits, usage, ports and settings of each container, as
    /// `GET /v1/tasks/{id}` answers it.
    pub async fn details(&self, arn: &str) -> Result<Value, Error> {
        self.document(Request::of_task("describe task", arn, "")?).await
    }

    /// Has the server wait for the end of a task, for at most `limit` and often less. Says whether it did.
    pub(crate) async fn wait_at_server(&self, arn: &str, limit: Duration) -> bool {
        // An attempt that the server draws out must not look like one that failed.
        let seconds = limit.min(WAIT_MAX).min(self.config().attempt_timeout / 2).as_secs();
        if seconds == 0 {
            return false;
        }
        let Ok(mut request) = Request::of_task("wait for task", arn, "") else { return false };
        request.query.push_str(&format!("&timeout={seconds}&wait=stopped"));
        self.document(request).await.is_ok()
    }

    /// What the containers of a task left for the debugger.
    pub async fn artifacts(&self, arn: &str) -> Result<Vec<Artifact>, Error> {
        let document = self.document(Request::of_task("list artifacts", arn, "/artifacts")?).await?;
        let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
        let artifact = |value: &Value| {
            let bytes = value.get("bytes")?.as_u64()?;
            Some(Artifact { container: text(value, "container")?, name: text(value, "name")?, bytes })
        };
        let artifacts = document.get("artifacts").and_then(Value::as_array).into_iter().flatten();
        Ok(artifacts.filter_map(artifact).collect())
    }

    /// Reads one file that a container left, piece by piece.
    pub async fn artifact(
        &self,
        arn: &str,
        container: &str,
        name: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let rest = format!("/artifacts/{}/{}", escape(container), escape(name));
        let request = Request::of_task("read artifact", arn, &rest)?;
        let (operation, endpoint) = (request.name, self.config().endpoint());
        let body = self.exchange(&request).await?.into_body();
        let interrupted = move |source: hyper::Error| Error::Interrupted {
            operation,
            endpoint: endpoint.clone(),
            source: Box::new(source),
        };
        let frames = TryStreamExt::map_err(BodyStream::new(body), interrupted);
        Ok(frames.try_filter_map(async |frame| Ok(frame.into_data().ok())).boxed())
    }

    /// Tells the server that tasks of these images will come, so that it makes ready what it can.
    pub async fn prepare_images(&self, images: &[String]) -> Result<(), Error> {
        let request = Request {
            name: "prepare images",
            method: Method::POST,
            path: "v1/images:prepare".to_owned(),
            query: String::new(),
            region: &self.config().region,
            body: json!({ "images": images }).to_string().into(),
            upgrade: None,
        };
        self.exchange(&request).await.map(drop)
    }

    /// Puts an image of the server's image store into its registry; tells the name that it has there, and its digest.
    pub async fn push_image(&self, image: &str, to: &str) -> Result<(String, String), Error> {
        let request = Request {
            name: "push image",
            method: Method::POST,
            path: "v1/images:push".to_owned(),
            query: String::new(),
            region: &self.config().region,
            body: json!({ "image": image, "to": to }).to_string().into(),
            upgrade: None,
        };
        let document = self.document(request).await?;
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok((text("image"), text("digest")))
    }

    /// Makes an image of the server's own registry ready, and tells the name by which its image store knows it; `None`
    /// for a name of another registry.
    pub async fn own_image(&self, image: &str) -> Result<Option<String>, Error> {
        let request = Request {
            name: "find image",
            method: Method::POST,
            path: "v1/images:own".to_owned(),
            query: String::new(),
            region: &self.config().region,
            body: json!({ "image": image }).to_string().into(),
            upgrade: None,
        };
        let document = self.document(request).await?;
        Ok(document.get("image").and_then(Value::as_str).map(str::to_owned))
    }
}

impl<'a> Request<'a> {
    /// A `GET` of something of a task.
    pub(crate) fn of_task(name: &'static str, arn: &'a str, rest: &str) -> Result<Self, Error> {
        let TaskArn { region, cluster, id } = TaskArn::parse(arn)?;
        Ok(Self {
            name,
            method: Method::GET,
            path: format!("v1/tasks/{}{rest}", escape(id)),
            query: format!("cluster={}", escape(cluster)),
            region,
            body: Bytes::new(),
            upgrade: None,
        })
    }
}

impl Request<'_> {
    /// The same as a `POST` that asks for another protocol on its connection.
    pub(crate) fn upgrading(self, body: String, protocol: &'static str) -> Self {
        Self { method: Method::POST, body: body.into(), upgrade: Some(protocol), ..self }
    }
}

impl Client {
    async fn document(&self, request: Request<'_>) -> Result<Value, Error> {
        let answer = self.exchange(&request).await?;
        let body = self.collect(request.name, answer).await?;
        let absent = AnswerError::Absent { member: "JSON document" };
        serde_json::from_slice(&body).map_err(|_| self.bad_answer(request.name, 200, absent))
    }

    /// An answer that says that all went well.
    pub(crate) async fn exchange(&self, request: &Request<'_>) -> Result<Response<Incoming>, Error> {
        let sent = self.request(request).map_err(|source| Error::Sign { operation: request.name, source })?;
        let answer = self.shared.http.send(sent).await;
        let answer = answer.map_err(|failure| self.explain(request.name, failure))?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS && request.upgrade.is_some() {
            return Ok(answer);
        }
        let body = self.collect(request.name, answer).await?;
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let exit_code = problem.get("exit_code").and_then(Value::as_u64);
        if let Some(exit_code) = exit_code.and_then(|code| u8::try_from(code).ok()) {
            return Err(Error::NotRun { exit_code, message: text("detail") });
        }
        Err(Error::Service(Box::new(ServiceError {
            operation: request.name,
            code: format!("HTTP {}", status.as_u16()),
            message: text("detail"),
            request_id: None,
            status: status.as_u16(),
        })))
    }

    async fn collect(&self, name: &'static str, answer: Response<Incoming>) -> Result<Bytes, Error> {
        let body = Limited::new(answer.into_body(), DOCUMENT_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| self.explain(name, Failure::Interrupted(error)))?.to_bytes())
    }

    fn request(&self, request: &Request<'_>) -> Result<http::Request<Full<Bytes>>, SignError> {
        let config = self.config();
        let endpoint = &config.endpoint;
        let path = format!("{}{}", endpoint.path, request.path);
        let signer = Signer {
            access_key: &config.credentials.access_key,
            secret: &config.credentials.secret,
            session_token: config.credentials.session_token.as_ref(),
            region: request.region,
            service: SERVICE,
            path_style: PathStyle::Normalized,
        };
        let outgoing = Outgoing {
            method: request.method.as_str(),
            path: &path,
            query: &request.query,
            headers: &[("host", endpoint.authority.as_str().as_bytes())],
            payload: Payload::Bytes(&request.body),
        };
        let signed = signer.sign_header(&outgoing, SystemTime::now().into())?;
        let target = if request.query.is_empty() { path } else { format!("{path}?{}", request.query) };
        let uri = Uri::builder()
            .scheme(endpoint.scheme.clone())
            .authority(endpoint.authority.clone())
            .path_and_query(target)
            .build()
            .expect("escaped names make a URL");
        let mut sent = http::Request::new(Full::new(request.body.clone()));
        *sent.method_mut() = request.method.clone();
        *sent.uri_mut() = uri;
        for (name, value) in signed {
            // A value that HTTP cannot carry is left out, and the server says so.
            if let Ok(mut value) = HeaderValue::from_str(&value) {
                value.set_sensitive(name == AUTHORIZATION.as_str());
                sent.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        let agent = HeaderValue::from_static(concat!("neargate-sdk/", env!("CARGO_PKG_VERSION")));
        sent.headers_mut().insert(USER_AGENT, agent);
        if let Some(protocol) = request.upgrade {
            sent.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            sent.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
        }
        Ok(sent)
    }
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
fn escape(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let check = |text: &str, expect: &str| assert_eq!(escape(text), expect);
        check("profile.json", "profile.json");
        check("a/b c", "a%2Fb%20c");
        check("\u{e9}", "%C3%A9");
    }
}
