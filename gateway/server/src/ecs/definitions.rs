//! Task definitions: registering, describing, listing, deregistering and deleting them.

use neargate_control::{DefinitionStatusFilter, NewDefinition, RevisionWanted};
use neargate_model::{Arn, DefinitionStatus, Family};
use neargate_wire::ecs::{
    DeleteTaskDefinitionsRequest, DeleteTaskDefinitionsResponse, DeregisterTaskDefinitionRequest,
    DeregisterTaskDefinitionResponse, DescribeTaskDefinitionRequest, DescribeTaskDefinitionResponse,
    EcsError, Failure, ListTaskDefinitionFamiliesRequest, ListTaskDefinitionFamiliesResponse,
    ListTaskDefinitionsRequest, ListTaskDefinitionsResponse, RegisterTaskDefinitionRequest,
    RegisterTaskDefinitionResponse, SortOrder, TaskDefinitionFamilyStatus, TaskDefinitionField,
    TaskDefinitionStatus,
};

use super::error::{client, invalid_parameter};
use super::{EcsApi, error, names, page, register, render, roles, tags};
use crate::RequestContext;
use crate::face;

/// DeleteTaskDefinitions takes at most this many (API reference).
const DELETE_MAX: usize = 10;

pub(super) async fn register_task_definition(
    api: &EcsApi,
    cx: &RequestContext,
    input: RegisterTaskDefinitionRequest,
) -> Result<RegisterTaskDefinitionResponse, EcsError> {
    let family = Family::new(input.family.clone())
        .map_err(|error| client(format!("Invalid 'family' setting: {error}.")))?;
    let new_tags = tags::to_model(input.tags.clone())?;
    roles::check_pass(cx, &[input.task_role_arn.as_ref(), input.execution_role_arn.as_ref()])?;
    let (shape, requires) = register::shape(&cx.scope.account, &input, &family, &api.policy)?;
    let new = NewDefinition {
        family,
        shape,
        requires,
        tags: new_tags,
        face: face::write(&register::face(input)),
        registered_by: cx.principal.clone(),
    };
    let definition = api.control.register_definition(&cx.scope, new).await;
    let definition = definition.map_err(|error| error::definition(&error))?;
    Ok(RegisterTaskDefinitionResponse {
        task_definition: Some(render::definition(&cx.scope, &definition)),
        tags: Some(tags::to_wire(&definition.tags)),
    })
}

pub(super) async fn describe_task_definition(
    api: &EcsApi,
    cx: &RequestContext,
    input: DescribeTaskDefinitionRequest,
) -> Result<DescribeTaskDefinitionResponse, EcsError> {
    let (family, revision) = names::definition(&cx.scope, &input.task_definition)?;
    let definition = api.control.find_definition(&cx.scope, &family, revision).await;
    let definition = definition.map_err(|error| error::definition(&error))?;
    let with_tags = input.include.unwrap_or_default().contains(&TaskDefinitionField::Tags);
    Ok(DescribeTaskDefinitionResponse {
        task_definition: Some(render::definition(&cx.scope, &definition)),
        tags: Some(if with_tags { tags::to_wire(&definition.tags) } else { Vec::new() }),
    })
}

fn status_filter(status: Option<&TaskDefinitionStatus>) -> Result<DefinitionStatusFilter, EcsError> {
    let status = match status {
        None | Some(TaskDefinitionStatus::Active) => DefinitionStatus::Active,
        Some(TaskDefinitionStatus::Inactive) => DefinitionStatus::Inactive,
        Some(TaskDefinitionStatus::DeleteInProgress) => DefinitionStatus::DeleteInProgress,
        Some(TaskDefinitionStatus::Unlisted(text)) => {
            return Err(invalid_parameter(format!("Invalid status: {text:.64}")));
        }
    };
    Ok(DefinitionStatusFilter::Only(status))
}

pub(super) async fn list_task_definitions(
    api: &EcsApi,
    cx: &RequestContext,
    input: ListTaskDefinitionsRequest,
) -> Result<ListTaskDefinitionsResponse, EcsError> {
    let filter = status_filter(input.status.as_ref())?;
    let family = input.family_prefix.map(Family::new).transpose();
    let family = family.map_err(|error| invalid_parameter(format!("Invalid familyPrefix: {error}")))?;
    let listed = api.control.list_definitions(&cx.scope, family.as_ref(), filter).await;
    let mut listed = listed.map_err(|error| error::definition(&error))?;
    if input.sort == Some(SortOrder::Desc) {
        listed.reverse();
    }
    let name = |(family, revision): &(Family, u32)| format!("{family}:{revision}");
    let (page, next_token) = page::cut(listed, name, input.next_token.as_deref(), input.max_results)?;
    let arn =
        |(family, revision): &(Family, u32)| Arn::task_definition(&cx.scope, family, *revision).to_string();
    Ok(ListTaskDefinitionsResponse { task_definition_arns: Some(page.iter().map(arn).collect()), next_token })
}

pub(super) async fn list_task_definition_families(
    api: &EcsApi,
    cx: &RequestContext,
    input: ListTaskDefinitionFamiliesRequest,
) -> Result<ListTaskDefinitionFamiliesResponse, EcsError> {
    let filter = match input.status {
        None | Some(TaskDefinitionFamilyStatus::All) => DefinitionStatusFilter::All,
        Some(TaskDefinitionFamilyStatus::Active) => DefinitionStatusFilter::Only(DefinitionStatus::Active),
        Some(TaskDefinitionFamilyStatus::Inactive) => {
            DefinitionStatusFilter::Only(DefinitionStatus::Inactive)
        }
        Some(TaskDefinitionFamilyStatus::Unlisted(text)) => {
            return Err(invalid_parameter(format!("Invalid status: {text:.64}")));
        }
    };
    let prefix = input.family_prefix.unwrap_or_default();
    let families = api.control.list_families(&cx.scope, &prefix, filter).await;
    let families = families.map_err(|error| error::definition(&error))?;
    let (page, next_token) =
        page::cut(families, ToString::to_string, input.next_token.as_deref(), input.max_results)?;
    let families = page.iter().map(ToString::to_string).collect();
    Ok(ListTaskDefinitionFamiliesResponse { families: Some(families), next_token })
}

pub(super) async fn deregister_task_definition(
    api: &EcsApi,
    cx: &RequestContext,
    input: DeregisterTaskDefinitionRequest,
) -> Result<DeregisterTaskDefinitionResponse, EcsError> {
    let (family, revision) = names::revision(&cx.scope, &input.task_definition)?;
    let definition = api.control.deregister_definition(&cx.scope, &family, revision).await;
    let definition = definition.map_err(|error| match error {
        neargate_control::DefinitionError::NotFound { .. } => {
            client("The specified task definition does not exist.")
        }
        other => error::definition(&other),
    })?;
    let rendered = render::definition(&cx.scope, &definition);
    Ok(DeregisterTaskDefinitionResponse { task_definition: Some(rendered) })
}

pub(super) async fn delete_task_definitions(
    api: &EcsApi,
    cx: &RequestContext,
    input: DeleteTaskDefinitionsRequest,
) -> Result<DeleteTaskDefinitionsResponse, EcsError> {
    if !(1..=DELETE_MAX).contains(&input.task_definitions.len()) {
        return Err(invalid_parameter("Task definitions must have between 1 and 10 elements."));
    }
    let (mut deleted, mut failures) = (Vec::new(), Vec::new());
    for text in &input.task_definitions {
        let (family, revision) = names::revision(&cx.scope, text)?;
        match api.control.delete_definition(&cx.scope, &family, revision).await {
            Ok(definition) => deleted.push(render::definition(&cx.scope, &definition)),
            Err(problem) => failures.push(delete_failure(text, &problem)?),
        }
    }
    Ok(DeleteTaskDefinitionsResponse { task_definitions: Some(deleted), failures: Some(failures) })
}

fn delete_failure(text: &str, problem: &neargate_control::DefinitionError) -> Result<Failure, EcsError> {
    use neargate_control::DefinitionError;
    let reason = match problem {
        DefinitionError::NotFound { .. } => {
            "The specified task definition does not exist. Specify a valid account, family, revision and try again."
        }
        DefinitionError::StillActive { .. } => {
            "The specified task definition is still in ACTIVE status. Please deregister the target and try again."
        }
        DefinitionError::Shape(_) | DefinitionError::Tags(_) | DefinitionError::Store(_) => {
            return Err(error::definition(problem));
        }
    };
    Ok(Failure { arn: Some(text.to_owned()), reason: Some(reason.to_owned()), detail: None })
}

/// The revision that `text` names, for callers that accept the latest too.
pub(super) fn wanted(cx: &RequestContext, text: &str) -> Result<(Family, RevisionWanted), EcsError> {
    names::definition(&cx.scope, text)
}
