//! The agent's way to task protection, which asks ECS in the name of the task's role.

use http::StatusCode;
use neargate_control::DescribedTask;
use neargate_model::{Arn, SessionName};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Metadata;
use super::answer::Told;
use crate::ecs::protection::NOT_OF_A_SERVICE;
use crate::rights::Rights;

/// What a task sends (ECS Developer Guide, "Task scale-in protection endpoint").
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wanted {
    #[serde(rename = "ProtectionEnabled")]
    _is_enabled: bool,
    expires_in_minutes: Option<u32>,
}

/// Longest protection, in minutes.
const EXPIRES_MAX: u32 = 2880;

pub(super) async fn get(metadata: &Metadata, task: &DescribedTask) -> Told {
    answer(metadata, task, "ecs:GetTaskProtection").await
}

pub(super) async fn put(metadata: &Metadata, task: &DescribedTask, body: &[u8]) -> Told {
    let wanted = serde_json::from_slice::<Wanted>(body).ok();
    let is_sound = |wanted: &Wanted| wanted.expires_in_minutes.is_none_or(|m| (1..=EXPIRES_MAX).contains(&m));
    if !wanted.as_ref().is_some_and(is_sound) {
        return error(task, StatusCode::BAD_REQUEST, "InvalidParameterException", "Invalid request body");
    }
    answer(metadata, task, "ecs:UpdateTaskProtection").await
}

/// What ECS answers of a task that no service has started, to a role that may ask.
async fn answer(metadata: &Metadata, task: &DescribedTask, action: &str) -> Told {
    let Some(rights) = rights_of(metadata, task).await else {
        let message = "Invalid Request: no task IAM role credentials available for task";
        return error(task, StatusCode::FORBIDDEN, "AccessDeniedException", message);
    };
    if let Err(denied) = rights.check(action, &arn(task), |context| context) {
        return error(task, StatusCode::BAD_REQUEST, "AccessDeniedException", &denied.to_string());
    }
    let failure = json!({ "Arn": arn(task), "Reason": NOT_OF_A_SERVICE, "Detail": Value::Null });
    (StatusCode::OK, json!({ "requestID": Uuid::new_v4().to_string(), "failure": failure }))
}

async fn rights_of(metadata: &Metadata, task: &DescribedTask) -> Option<Rights> {
    let spec = &task.spec;
    let role =
        metadata.control.task_role(&spec.scope, spec.shape.task_role.as_ref()?).await.ok().flatten()?;
    let session = SessionName::new(spec.id.as_str()).ok()?;
    let from = spec.network.as_ref().map(|network| network.address.into());
    let of = (&role.name, role.id.as_str());
    Rights::of_session(&metadata.control, &spec.scope, of, &session, from).await.ok().flatten()
}

fn arn(task: &DescribedTask) -> String {
    Arn::task(&task.spec.scope, &task.spec.cluster, &task.spec.id).to_string()
}

fn error(task: &DescribedTask, status: StatusCode, code: &str, message: &str) -> Told {
    let error = json!({ "Arn": arn(task), "Code": code, "Message": message });
    (status, json!({ "requestID": Uuid::new_v4().to_string(), "error": error }))
}
