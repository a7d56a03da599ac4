//! Which path is what.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use neargate_control::DescribedTask;
use serde_json::{Value, json};

use super::Metadata;
use super::protection;
use super::serve::text;
use crate::body::Body;

/// An answer: a status and what is told.
pub(super) type Told = (StatusCode, Value);

impl Metadata {
    /// The answer to a request of a task about itself.
    pub(super) async fn tell(&self, from: Ipv4Addr, head: &Parts, body: &[u8]) -> Response<Body> {
        let path: Vec<&str> = head.uri.path().trim_start_matches('/').split('/').collect();
        let is_protection = matches!(path[..], ["api", _, "task-protection", "v1", "state"]);
        let is_allowed = head.method == Method::GET || (is_protection && head.method == Method::PUT);
        if !is_allowed {
            return text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed");
        }
        // Who has no address of ours is no task, or has just stopped.
        let Some(task) = self.task_at(from).await else {
            return text(StatusCode::NOT_FOUND, "404 page not found");
        };
        let told = match path[..] {
            ["v2", "credentials", id] => self.credentials(&task, id).await,
            ["v2", "credentials"] => super::credentials::no_id(),
            ["v3" | "v4", id, ref rest @ ..] => match self.container_of(&task, id) {
                Some(index) => self.metadata(&task, index, rest).await,
                None => Some(unknown_id(path[0])),
            },
            ["api", id, "task-protection", "v1", "state"] => match self.container_of(&task, id) {
                Some(_) if head.method == Method::PUT => Some(protection::put(self, &task, body).await),
                Some(_) => Some(protection::get(self, &task).await),
                None => Some(unknown_id("task protection")),
            },
            _ => None,
        };
        match told {
            Some((status, value)) => json_answer(status, &value),
            None => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    async fn metadata(&self, task: &DescribedTask, container: usize, path: &[&str]) -> Option<Told> {
        let found = match path {
            [] | [""] => self.describe_container(task, container).await,
            ["task"] => self.describe_task(task, false).await,
            ["taskWithTags"] => self.describe_task(task, true).await,
            ["stats"] => self.container_stats(task, container).await,
            ["task", "stats"] => self.task_stats(task).await,
            _ => return None,
        };
        Some((StatusCode::OK, found))
    }

    async fn task_at(&self, address: Ipv4Addr) -> Option<DescribedTask> {
        let key = self.control.task_at(address)?;
        let described = self.control.describe_task(&key).await;
        described
            .inspect_err(|error| tracing::debug!(%error, task = %key.id, "metadata of a task not found"))
            .ok()
    }

    fn container_of(&self, task: &DescribedTask, id: &str) -> Option<usize> {
        task.spec.container_ids.iter().position(|container| self.endpoints.is_container(container, id))
    }
}

/// What ECS says of an id that is none of the task's: a text in JSON.
fn unknown_id(of: &str) -> Told {
    let message =
        format!("{of}: unable to get container ID from request: unable to find the ID of the endpoint");
    (StatusCode::NOT_FOUND, json!(message))
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
