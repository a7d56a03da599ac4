//! Credentials of a task's role.
//!
//! They are worked out from the time, so that a task that asks again gets the same, and nothing is kept: every three
//! hours there are others, and those of the three hours before are good for three hours more.

use http::StatusCode;
use neargate_auth::{KeyPair, Timestamp};
use neargate_control::DescribedTask;
use neargate_model::SessionName;
use neargate_wire::Timestamp as WireTimestamp;
use serde_json::json;

use super::Metadata;
use super::answer::Told;
use crate::access::now;
use crate::sts::issue;

/// How long the same credentials are told, in seconds; they are good for at least as long when they are told. SDKs ask
/// again a quarter of an hour before the end.
const PERIOD_S: i64 = 3 * 3600;

impl Metadata {
    /// The credentials of a task, in ECS's words where there are none (amazon-ecs-agent,
    /// `tmds/handlers/v1/credentials_handler.go`).
    pub(super) async fn credentials(&self, task: &DescribedTask, id: &str) -> Option<Told> {
        if id.is_empty() {
            return no_id();
        }
        let role = task.spec.shape.task_role.as_ref();
        let Some(arn) = role.filter(|_| self.endpoints.is_credentials(&task.spec.id, id)) else {
            return refuse(StatusCode::BAD_REQUEST, "InvalidIdInRequest", "Credentials not found");
        };
        let uninitialised = || {
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "CredentialsUninitialized",
                "Credentials uninitialized for ID",
            )
        };
        let role = self.control.task_role(&task.spec.scope, arn).await.inspect_err(|error| {
            tracing::error!(error = neargate_model::chain(error), "role of a task cannot be read");
        });
        let Ok(Some(role)) = role else { return uninitialised() };
        // A task's id is a session's name by its form.
        let Ok(session) = SessionName::new(task.spec.id.as_str()) else { return uninitialised() };
        let period = now().unix_s() / PERIOD_S;
        let expires_at = Timestamp::from_unix_s((period + 2) * PERIOD_S);
        let of = format!("{}/{}/{period}", task.spec.id, role.id);
        let made = issue(self.endpoints.seal(), &role, &session, expires_at, &self.key_material(&of));
        let told = json!({
            "RoleArn": arn.to_string(),
            "AccessKeyId": made.pair.access_key.as_str(),
            "SecretAccessKey": made.pair.secret.expose(),
            "Token": made.token.expose(),
            "Expiration": WireTimestamp::from_millis(made.expires_at.unix_s() * 1000).to_string(),
        });
        Some((StatusCode::OK, told))
    }

    /// What a key is made of: the same for the same task, role and period.
    fn key_material(&self, of: &str) -> [u8; KeyPair::RANDOM_LEN] {
        let mut bytes = [0; KeyPair::RANDOM_LEN];
        for (index, chunk) in bytes.chunks_mut(16).enumerate() {
            let name = self.endpoints.seal().name(&format!("task key {index}"), of);
            chunk.copy_from_slice(&name[..chunk.len()]);
        }
        bytes
    }
}

pub(super) fn no_id() -> Option<Told> {
    refuse(StatusCode::BAD_REQUEST, "NoIdInRequest", "No ID in the request")
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Option<Told> {
    let message = format!("CredentialsV2Request: {message}");
    Some((status, json!({ "code": code, "message": message, "HTTPErrorCode": status.as_u16() })))
}
