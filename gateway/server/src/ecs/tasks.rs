//! Stopping, describing and listing tasks.

use neargate_control::TaskFilter;
use neargate_model::{Arn, LaunchType, TaskId, TaskKey};
use neargate_wire::ecs::{
    self, DescribeTasksRequest, DescribeTasksResponse, EcsError, Failure, ListTasksRequest,
    ListTasksResponse, StopTaskRequest, StopTaskResponse,
};

use super::error::invalid_parameter;
use super::{EcsApi, error, names, page, render};
use crate::RequestContext;

/// DescribeTasks takes at most this many (API reference).
const DESCRIBE_MAX: usize = 100;

/// The reason shown when a client gives none.
const STOP_REASON_DEFAULT: &str = "Task stopped by user";

/// A reason is cut to this many characters (API reference, StopTask.reason is free text; ours is bounded).
const STOP_REASON_MAX: usize = 1024;

pub(super) async fn stop_task(
    api: &EcsApi,
    cx: &RequestContext,
    input: StopTaskRequest,
) -> Result<StopTaskResponse, EcsError> {
    let cluster = names::cluster(&cx.scope, input.cluster.as_deref())?;
    let id = names::task(&cx.scope, &cluster, &input.task)?;
    let key = TaskKey { scope: cx.scope.clone(), cluster, id };
    let reason = input.reason.filter(|reason| !reason.is_empty());
    let reason: String =
        reason.as_deref().unwrap_or(STOP_REASON_DEFAULT).chars().take(STOP_REASON_MAX).collect();
    let stopped = api.control.stop_task(&key, &reason).await.map_err(|error| error::task(&error))?;
    Ok(StopTaskResponse { task: Some(render::task(&stopped, true)) })
}

pub(super) async fn describe_tasks(
    api: &EcsApi,
    cx: &RequestContext,
    input: DescribeTasksRequest,
) -> Result<DescribeTasksResponse, EcsError> {
    let cluster = names::cluster(&cx.scope, input.cluster.as_deref())?;
    if !(1..=DESCRIBE_MAX).contains(&input.tasks.len()) {
        return Err(invalid_parameter("Tasks must have between 1 and 100 elements."));
    }
    let ids = input.tasks.iter().map(|text| names::task(&cx.scope, &cluster, text));
    let ids: Vec<TaskId> = ids.collect::<Result<_, _>>()?;
    let found = api.control.describe_tasks(&cx.scope, &cluster, &ids).await;
    let found = found.map_err(|error| error::task(&error))?;
    let with_tags = input.include.unwrap_or_default().contains(&ecs::TaskField::Tags);
    let missing = |id: &TaskId| Failure {
        arn: Some(Arn::task(&cx.scope, &cluster, id).to_string()),
        reason: Some("MISSING".to_owned()),
        detail: None,
    };
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for (id, described) in ids.iter().zip(&found) {
        match described {
            Some(described) => tasks.push(render::task(described, with_tags)),
            None => failures.push(missing(id)),
        }
    }
    Ok(DescribeTasksResponse { tasks: Some(tasks), failures: Some(failures) })
}

pub(super) async fn list_tasks(
    api: &EcsApi,
    cx: &RequestContext,
    input: ListTasksRequest,
) -> Result<ListTasksResponse, EcsError> {
    let cluster = names::cluster(&cx.scope, input.cluster.as_deref())?;
    let limit = page::limit(input.max_results)?;
    let after = page::after(input.next_token.as_deref())?.map(TaskId::new).transpose();
    let after = after.map_err(|_| invalid_parameter("Invalid token"))?;
    let launch_type = match &input.launch_type {
        None => None,
        Some(ecs::LaunchType::Fargate) => Some(LaunchType::Fargate),
        Some(ecs::LaunchType::Ec2) => Some(LaunchType::Ec2),
        Some(ecs::LaunchType::External | ecs::LaunchType::ManagedInstances) => return Ok(nothing()),
        Some(ecs::LaunchType::Unlisted(text)) => {
            return Err(invalid_parameter(format!("Invalid launchType: {text:.64}")));
        }
    };
    let filter = TaskFilter {
        family: input.family.map(|family| family.split(':').next().unwrap_or_default().to_owned()),
        started_by: input.started_by,
        group: input.service_name.map(|service| format!("service:{service}")),
        launch_type,
        stopped: input.desired_status == Some(ecs::DesiredStatus::Stopped),
    };
    // The cluster is checked before a filter that nothing can match, as ECS does.
    let page = api.control.list_tasks(&cx.scope, &cluster, &filter, after.as_ref(), limit).await;
    let page = page.map_err(|error| error::task(&error))?;
    let matches_nothing = input.container_instance.is_some()
        || input.daemon_name.is_some()
        || input.desired_status == Some(ecs::DesiredStatus::Pending);
    if matches_nothing {
        return Ok(nothing());
    }
    let arns = page.tasks.iter().map(|task| Arn::task(&cx.scope, &cluster, &task.id).to_string()).collect();
    Ok(ListTasksResponse { task_arns: Some(arns), next_token: page.next.map(|id| page::token(id.as_str())) })
}

fn nothing() -> ListTasksResponse {
    ListTasksResponse { task_arns: Some(Vec::new()), next_token: None }
}
