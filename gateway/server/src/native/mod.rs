//! Neargate's own HTTP API: what is no AWS service's.
//!
//! ```text
//! GET  /healthz                                     anyone
//! GET  /v1/fidelity                                 anyone
//! GET  /v1/tasks/{id}?cluster=NAME                  signed for the service `neargate`, as all below
//! GET  /v1/tasks/{id}?cluster=NAME&wait=stopped       once it has stopped, or is `running`; see `wait.rs`
//! GET  /v1/tasks/{id}/artifacts?cluster=NAME
//! GET  /v1/tasks/{id}/artifacts/{container}/{name}?cluster=NAME
//! POST /v1/tasks/{id}/exec?cluster=NAME               see `exec.rs`
//! POST /v1/images:prepare                           {"images": ["NAME", …]}
//! POST /v1/images:push                              {"image": "NAME", "to": "REPOSITORY[:TAG]"}
//! POST /v1/images:own                               {"image": "NAME"}, of the registry of this server
//! ```

mod exec;
mod session;
mod tasks;
mod wait;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use neargate_control::Control;
use neargate_model::Scope;
use neargate_model::image::{DEFAULT_REGISTRY, ImageReference, InvalidReference};
use neargate_wire::fidelity;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::registry::{OwnImageError, Registry};

pub use exec::{CommandError, CommandOutput, Commands, RunningCommand};
pub use tasks::{Artifact, ArtifactSource};
use wait::Wait;

/// The name that requests of this API are signed for.
pub(crate) const SERVICE: &str = "neargate";

/// At most this many images are made ready by one request.
const IMAGES_MAX: usize = 100;

/// The native API.
pub struct Native {
    control: Control,
    artifacts: Arc<dyn ArtifactSource>,
    commands: Arc<dyn Commands>,
    registry: Arc<Registry>,
    /// Nobody waits for anything after this.
    end: CancellationToken,
}

/// A request that could not be answered as it asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
    /// What a command that was to be run would have ended with.
    pub(crate) exit_code: Option<u8>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), exit_code: None }
    }

    fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    fn ours(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// RFC 9457 problem details.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(exit_code) = self.exit_code {
            body["exit_code"] = json!(exit_code);
        }
        let mut response = reply(self.status, "application/problem+json", &body);
        if self.status == StatusCode::UPGRADE_REQUIRED {
            // RFC 9110, 15.5.22.
            let protocol = HeaderValue::from_static(neargate_wire::session::PROTOCOL);
            response.headers_mut().insert(http::header::UPGRADE, protocol);
        }
        response
    }
}

/// The answer to a request that anyone may make; `None` when it is not one of those.
pub(crate) fn open(method: &Method, path: &str) -> Option<Response<Body>> {
    match (method, path) {
        (&Method::GET, "/healthz") => Some(ok(&json!({ "status": "ok" }))),
        (&Method::GET, "/v1/fidelity") => Some(ok(&ledger())),
        _ => None,
    }
}

/// Whether there is something at this path for callers who are known.
pub(crate) fn is_served(path: &str) -> bool {
    path.starts_with("/v1/tasks/")
        || path == "/v1/images:prepare"
        || path == "/v1/images:own"
        || path == "/v1/images:push"
}

/// Whether a request changes nothing, so that it need not be carried out when its client has left.
pub(crate) fn only_reads(method: &Method, path: &str) -> bool {
    method == Method::GET && is_served(path)
}

/// The answer to a path at which nothing is served.
pub(crate) fn nothing(path: &str) -> Response<Body> {
    let path: String = path.chars().take(128).collect();
    Problem::not_found(format!(
        "nothing is served at {path}; AWS requests are POSTed to / with X-Amz-Target or Action, see GET /v1/fidelity"
    ))
    .response()
}

impl Native {
    /// The native API over control, what tasks left, and the containers that run. Who waits for a task is answered when
    /// `end` is cancelled.
    pub fn new(
        control: Control,
        artifacts: Arc<dyn ArtifactSource>,
        commands: Arc<dyn Commands>,
        registry: Arc<Registry>,
        end: CancellationToken,
    ) -> Self {
        Self { control, artifacts, commands, registry, end }
    }

    /// The answer to a request of a caller in this scope.
    pub(crate) async fn answer(&self, scope: &Scope, head: &Parts, body: &[u8]) -> Response<Body> {
        let (method, path, query) = (&head.method, head.uri.path(), head.uri.query());
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let answer = match (method, segments.as_slice()) {
            (&Method::GET, ["v1", "tasks", id]) => self.get(scope, id, query, Part::Task).await,
            (&Method::GET, ["v1", "tasks", id, "artifacts"]) => {
                self.get(scope, id, query, Part::Artifacts).await
            }
            (&Method::GET, ["v1", "tasks", id, "artifacts", container, name]) => {
                self.get(scope, id, query, Part::Artifact(container, name)).await
            }
            (&Method::POST, ["v1", "tasks", id, "exec"]) => match tasks::key(scope, id, query) {
                Ok(key) => self.exec(&key, head, body).await,
                Err(problem) => Err(problem),
            },
            (&Method::POST, ["v1", "images:prepare"]) => self.prepare(body).await,
            (&Method::POST, ["v1", "images:own"]) => self.own(body).await,
            (&Method::POST, ["v1", "images:push"]) => self.push(body).await,
            _ => return nothing(path),
        };
        answer.unwrap_or_else(|problem| problem.response())
    }

    async fn get(
        &self,
        scope: &Scope,
        id: &str,
        query: Option<&str>,
        part: Part<'_>,
    ) -> Result<Response<Body>, Problem> {
        let key = tasks::key(scope, id, query)?;
        match part {
            Part::Task => {
                let wait = Wait::read(query)?;
                Ok(ok(&tasks::describe(&self.task_after(&key, wait).await?)))
            }
            Part::Artifacts => Ok(ok(&self.list_artifacts(&key).await?)),
            Part::Artifact(container, name) => {
                let file = self.open_artifact(&key, container, name).await?;
                let body = Body::file(file).map_err(|error| {
                    tracing::error!(%error, task = %key.id, "what a task left cannot be read");
                    Problem::ours("what the task left cannot be read; see the server's log")
                })?;
                let mut response = Response::new(body);
                let media_type = HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
                Ok(response)
            }
        }
    }

    /// Lets the node make images ready, for example ones that were imported just now.
    async fn prepare(&self, body: &[u8]) -> Result<Response<Body>, Problem> {
        let invalid = || Problem::bad_request("say {\"images\": [\"NAME\", …]}, at most 100 names");
        let request: Value = serde_json::from_slice(body).map_err(|_| invalid())?;
        let names = request.get("images").and_then(Value::as_array).ok_or_else(invalid)?;
        let images: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
        let images = images.filter(|images| images.len() <= IMAGES_MAX).ok_or_else(invalid)?;
        self.control.prepare(images.into_iter()).await;
        Ok(reply(StatusCode::ACCEPTED, "application/json", &json!({})))
    }
}

impl Native {
    /// Makes an image of the registry ready, for whoever uses the same image store.
    async fn own(&self, body: &[u8]) -> Result<Response<Body>, Problem> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let name = request.get("image").and_then(Value::as_str).and_then(|name| name.parse().ok());
        let name: ImageReference = name.ok_or_else(|| Problem::bad_request("say {\"image\": \"NAME\"}"))?;
        let known_as = self.registry.own(&name).await.transpose().map_err(image_problem)?;
        Ok(ok(&json!({ "image": known_as.map(|name| name.canonical()) })))
    }

    /// Puts an image of the image store into the registry.
    async fn push(&self, body: &[u8]) -> Result<Response<Body>, Problem> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| request.get(name).and_then(Value::as_str);
        let invalid = || Problem::bad_request("say {\"image\": \"NAME\", \"to\": \"REPOSITORY[:TAG]\"}");
        let (image, to) = text("image").zip(text("to")).ok_or_else(invalid)?;
        let image: ImageReference =
            image.parse().map_err(|error: InvalidReference| Problem::bad_request(error.to_string()))?;
        // Without a registry it is this one.
        let says_docker = to.starts_with("docker.io/") || to.starts_with("index.docker.io/");
        let named = to.parse::<ImageReference>();
        let named = named.ok().filter(|to| to.registry() != DEFAULT_REGISTRY || says_docker);
        let to = named.map_or_else(|| self.registry.by_address(to), Ok);
        let to = to.map_err(|error| Problem::bad_request(error.to_string()))?;
        let digest = self.registry.push(&image, &to).await.map_err(image_problem)?;
        Ok(ok(&json!({ "image": to.canonical(), "digest": digest.to_string() })))
    }
}

fn image_problem(error: OwnImageError) -> Problem {
    match error {
        OwnImageError::NotFound { reason } => Problem::not_found(reason),
        OwnImageError::Unusable(_) => Problem::bad_request(neargate_model::chain(&error)),
    }
}

/// What of a task is asked for.
enum Part<'a> {
    Task,
    Artifacts,
    Artifact(&'a str, &'a str),
}

/// The fidelity ledger: what each operation of each AWS service really does.
fn ledger() -> Value {
    let row = |row: neargate_wire::Fidelity| {
        let mark = row.mark.to_string();
        json!({ "service": row.service, "operation": row.operation, "mark": mark, "note": row.note })
    };
    json!({ "operations": fidelity().map(row).collect::<Vec<_>>() })
}

fn ok(body: &Value) -> Response<Body> {
    reply(StatusCode::OK, "application/json", body)
}

fn reply(status: StatusCode, media_type: &'static str, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
