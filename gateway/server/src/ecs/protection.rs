//! Task protection: only tasks of services can be protected, and there are none.

use neargate_model::{Arn, Scope};
use neargate_wire::ecs::{
    EcsError, Failure, GetTaskProtectionRequest, GetTaskProtectionResponse, UpdateTaskProtectionRequest,
    UpdateTaskProtectionResponse,
};

use super::error::{self, invalid_parameter};
use super::{EcsApi, names};
use crate::RequestContext;

/// At most this many tasks a call (API reference, UpdateTaskProtection).
const TASKS_MAX: usize = 10;
/// At most this long, in minutes, two days (API reference, UpdateTaskProtection.expiresInMinutes).
const EXPIRES_MAX: i32 = 2880;
/// The reason for a task that is no service's (API failure reasons).
pub(crate) const NOT_OF_A_SERVICE: &str = "TASK_NOT_VALID";

pub(super) async fn update_task_protection(
    api: &EcsApi,
    cx: &RequestContext,
    input: UpdateTaskProtectionRequest,
) -> Result<UpdateTaskProtectionResponse, EcsError> {
    if input.expires_in_minutes.is_some_and(|minutes| !(1..=EXPIRES_MAX).contains(&minutes)) {
        return Err(invalid_parameter("expiresInMinutes must be between 1 and 2880."));
    }
    let failures = failures(api, &cx.scope, &input.cluster, &input.tasks).await?;
    Ok(UpdateTaskProtectionResponse { protected_tasks: Some(Vec::new()), failures: Some(failures) })
}

pub(super) async fn get_task_protection(
    api: &EcsApi,
    cx: &RequestContext,
    input: GetTaskProtectionRequest,
) -> Result<GetTaskProtectionResponse, EcsError> {
    let tasks = input.tasks.unwrap_or_default();
    let failures = failures(api, &cx.scope, &input.cluster, &tasks).await?;
    Ok(GetTaskProtectionResponse { protected_tasks: Some(Vec::new()), failures: Some(failures) })
}

async fn failures(
    api: &EcsApi,
    scope: &Scope,
    cluster: &str,
    tasks: &[String],
) -> Result<Vec<Failure>, EcsError> {
    if !(1..=TASKS_MAX).contains(&tasks.len()) {
        return Err(invalid_parameter("tasks must have 1 to 10 items."));
    }
    let cluster = names::cluster(scope, Some(cluster))?;
    let ids = tasks.iter().map(|text| names::task(scope, &cluster, text)).collect::<Result<Vec<_>, _>>()?;
    let described = api.control.describe_tasks(scope, &cluster, &ids).await;
    let described = described.map_err(|error| error::task(&error))?;
    let failure = |(id, found): (_, &Option<_>)| Failure {
        arn: Some(Arn::task(scope, &cluster, id).to_string()),
        reason: Some(if found.is_some() { NOT_OF_A_SERVICE } else { "MISSING" }.to_owned()),
        detail: None,
    };
    Ok(ids.iter().zip(&described).map(failure).collect())
}
