//! A server that answers from a script, after it has verified who asks.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use neargate_auth::Secret;
use neargate_auth::sigv4::{Presented, Rules, SignedRequest, SigningKey};
use neargate_sdk::{Client, Config, Credentials};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) const REGION: &str = "eu-west-1";
pub(crate) const ACCOUNT_ARN: &str = "arn:aws:ecs:eu-west-1:123456789012";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A call as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The operation; of the native API, method and path.
    pub operation: String,
    /// The input: JSON, or the form as a string.
    pub input: Value,
    /// The region that it was signed for.
    pub region: String,
    /// Which connection it came over, counted from zero.
    pub connection: usize,
}

/// What the script says to a call.
pub(crate) enum Reply {
    /// JSON with this status.
    Json(u16, Value),
    /// Any body, with this status and these headers.
    Raw(u16, &'static [(&'static str, &'static str)], &'static str),
    /// No answer: the connection is closed.
    Hangup,
    /// No answer, and the connection stays open.
    Silence,
}

type Script = dyn FnMut(&Call) -> Reply + Send;

struct Shared {
    script: Mutex<Box<Script>>,
    calls: Mutex<Vec<Call>>,
}

/// The server; dropping it ends it.
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(script: impl FnMut(&Call) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { script: Mutex::new(Box::new(script)), calls: Mutex::default() });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&shared)));
        Self { url, shared, _accepting: accepting }
    }

    pub(crate) fn config(&self) -> Config {
        let session_token = Some(Secret::new("the/session token=="));
        let credentials =
            Credentials { access_key: "AKIDEXAMPLE".into(), secret: Secret::new(SECRET), session_token };
        Config::new(&self.url, REGION, credentials).unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.config()).unwrap()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub(crate) fn operations(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.operation).collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| answer(&shared, connection, request));
            // A hang-up of either side is part of the tests.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: &Shared,
    connection: usize,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let reply = match verify(&head, &body) {
        Ok(region) => {
            let call = Call { operation: operation(&head, &body), input: input(&body), region, connection };
            shared.calls.lock().unwrap().push(call.clone());
            (shared.script.lock().unwrap())(&call)
        }
        Err(message) => Reply::Json(403, json!({"__type": "InvalidSignatureException", "message": message})),
    };
    let response = |status: u16| Response::builder().status(status).header("x-amzn-requestid", "request-1");
    Ok(match reply {
        Reply::Json(status, body) => response(status).body(Full::from(body.to_string())).unwrap(),
        Reply::Raw(status, headers, body) => {
            let add = |builder: http::response::Builder, (name, value): &(&str, &str)| {
                builder.header(*name, *value)
            };
            headers.iter().fold(response(status), add).body(Full::from(body)).unwrap()
        }
        Reply::Hangup => return Err(io::ErrorKind::ConnectionReset.into()),
        Reply::Silence => match std::future::pending::<Infallible>().await {},
    })
}

/// The region that the request is signed for; everything else is checked, as the real server does.
fn verify(head: &http::request::Parts, body: &[u8]) -> Result<String, String> {
    let headers: Vec<_> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = SignedRequest {
        method: head.method.as_str(),
        path: head.uri.path(),
        query: head.uri.query().unwrap_or_default(),
        headers: &headers,
        now: SystemTime::now().into(),
    };
    let presented = Presented::parse(&request, Rules::SERVICE).map_err(|error| error.to_string())?;
    let scope = presented.scope();
    let service = match head.headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        Some(target) if target.starts_with("AmazonEC2ContainerServiceV20141113.") => "ecs",
        Some(target) if target.starts_with("Logs_20140328.") => "logs",
        None if head.uri.path().starts_with("/v1/") => "neargate",
        None => "sts",
        Some(other) => return Err(format!("unknown target {other}")),
    };
    presented.check_scope(scope.region, service).map_err(|error| error.to_string())?;
    let key = SigningKey::derive(&Secret::new(SECRET), &scope);
    let verified = presented.verify(&key, body).map_err(|error| error.to_string())?;
    let token = Secret::new("the/session token==");
    verified.check_session_token(Some(&token)).map_err(|error| error.to_string())?;
    Ok(scope.region.to_owned())
}

fn operation(head: &http::request::Parts, body: &[u8]) -> String {
    match head.headers.get("x-amz-target").and_then(|target| target.to_str().ok()) {
        Some(target) => target.rsplit('.').next().unwrap().to_owned(),
        None if head.uri.path().starts_with("/v1/") => {
            format!("{} {}", head.method, head.uri.path_and_query().unwrap())
        }
        None => neargate_wire::Form::parse(body).unwrap().get("Action").unwrap().to_owned(),
    }
}

fn input(body: &[u8]) -> Value {
    let text = std::str::from_utf8(body).unwrap();
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}
