//! Managed policies, those of AWS among them, and to which roles they are attached.

use neargate_control::NewPolicy;
use neargate_model::iam::{IdentityPolicy, PolicyArn, PolicyOwner, aws_managed, aws_managed_by_name};
use neargate_wire::iam::{
    AttachRolePolicyRequest, CreatePolicyRequest, CreatePolicyResponse, DeletePolicyRequest,
    DetachRolePolicyRequest, GetPolicyRequest, GetPolicyResponse, GetPolicyVersionRequest,
    GetPolicyVersionResponse, IamError, ListAttachedRolePoliciesRequest, ListAttachedRolePoliciesResponse,
    ListPoliciesRequest, ListPoliciesResponse, Policy, PolicyScopeType, PolicyUsageType, PolicyVersion,
};

use super::page::{Page, cut};
use super::{IamApi, error, read, render, roles};
use crate::RequestContext;

pub(super) async fn attach(
    api: &IamApi,
    cx: &RequestContext,
    input: AttachRolePolicyRequest,
) -> Result<(), IamError> {
    let (name, arn) = (read::role_name(&input.role_name)?, read::policy_arn(&input.policy_arn)?);
    let attached = api.control.attach_policy(&cx.scope.account, &name, &arn).await;
    attached.map_err(|error| error::refused(&error))
}

pub(super) async fn detach(
    api: &IamApi,
    cx: &RequestContext,
    input: DetachRolePolicyRequest,
) -> Result<(), IamError> {
    let (name, arn) = (read::role_name(&input.role_name)?, read::policy_arn(&input.policy_arn)?);
    let detached = api.control.detach_policy(&cx.scope.account, &name, &arn).await;
    detached.map_err(|error| error::refused(&error))
}

pub(super) async fn list_attached(
    api: &IamApi,
    cx: &RequestContext,
    input: ListAttachedRolePoliciesRequest,
) -> Result<ListAttachedRolePoliciesResponse, IamError> {
    let role = roles::find(api, cx, &input.role_name).await?;
    let prefix = input.path_prefix.unwrap_or_default();
    let mut arns: Vec<(String, PolicyArn)> = role
        .attached
        .into_iter()
        .filter(|arn| arn.path.starts_with(&prefix))
        .map(|arn| (arn.to_string(), arn))
        .collect();
    arns.sort();
    let Page { items, marker } =
        cut(arns, |(text, _)| text.as_str(), input.marker.as_deref(), input.max_items);
    Ok(ListAttachedRolePoliciesResponse {
        attached_policies: Some(items.iter().map(|(_, arn)| render::attached(arn)).collect()),
        is_truncated: Some(marker.is_some()),
        marker,
    })
}

pub(super) async fn create(
    api: &IamApi,
    cx: &RequestContext,
    input: CreatePolicyRequest,
) -> Result<CreatePolicyResponse, IamError> {
    let document = IdentityPolicy::parse(&input.policy_document).map_err(|error| error::malformed(&error))?;
    let new = NewPolicy {
        account: cx.scope.account.clone(),
        name: read::policy_name(&input.policy_name)?,
        path: read::path(input.path.as_deref())?,
        description: input.description,
        document,
        tags: read::tags(input.tags.as_ref())?,
    };
    let policy = api.control.create_policy(&new).await.map_err(|error| error::refused(&error))?;
    Ok(CreatePolicyResponse { policy: Some(render::policy(&policy)) })
}

pub(super) async fn get(
    api: &IamApi,
    cx: &RequestContext,
    input: GetPolicyRequest,
) -> Result<GetPolicyResponse, IamError> {
    let (policy, _) = find(api, cx, &read::policy_arn(&input.policy_arn)?).await?;
    Ok(GetPolicyResponse { policy: Some(policy) })
}

pub(super) async fn get_version(
    api: &IamApi,
    cx: &RequestContext,
    input: GetPolicyVersionRequest,
) -> Result<GetPolicyVersionResponse, IamError> {
    let arn = read::policy_arn(&input.policy_arn)?;
    let (policy, text) = find(api, cx, &arn).await?;
    if policy.default_version_id.as_deref() != Some(input.version_id.as_str()) {
        let message = format!("Policy {arn} version {:.64} does not exist.", input.version_id);
        return Err(error::not_found(message));
    }
    let version = PolicyVersion {
        document: Some(render::document(&text)),
        version_id: policy.default_version_id,
        is_default_version: Some(true),
        create_date: policy.create_date,
    };
    Ok(GetPolicyVersionResponse { policy_version: Some(version) })
}

pub(super) async fn list(
    api: &IamApi,
    cx: &RequestContext,
    input: ListPoliciesRequest,
) -> Result<ListPoliciesResponse, IamError> {
    if input.policy_usage_filter == Some(PolicyUsageType::PermissionsBoundary) {
        return Ok(ListPoliciesResponse { is_truncated: Some(false), ..ListPoliciesResponse::default() });
    }
    let mut policies: Vec<Policy> = Vec::new();
    if input.scope != Some(PolicyScopeType::Aws) {
        let own = api.control.policies(&cx.scope.account).await.map_err(|error| error::refused(&error))?;
        policies.extend(own.iter().map(render::policy));
    }
    if input.scope != Some(PolicyScopeType::Local) {
        policies.extend(aws_policies(api, cx).await?);
    }
    let prefix = input.path_prefix.unwrap_or_default();
    let is_wanted = |policy: &Policy| {
        let is_attached = policy.attachment_count.is_some_and(|roles| roles > 0);
        policy.path.as_ref().is_some_and(|path| path.starts_with(&prefix))
            && (is_attached || input.only_attached != Some(true))
    };
    policies.retain(is_wanted);
    policies.sort_by(|a, b| a.arn.cmp(&b.arn));
    let Page { items, marker } = cut(
        policies,
        |policy| policy.arn.as_deref().unwrap_or_default(),
        input.marker.as_deref(),
        input.max_items,
    );
    Ok(ListPoliciesResponse { policies: Some(items), is_truncated: Some(marker.is_some()), marker })
}

pub(super) async fn delete(
    api: &IamApi,
    cx: &RequestContext,
    input: DeletePolicyRequest,
) -> Result<(), IamError> {
    let arn = read::policy_arn(&input.policy_arn)?;
    api.control.delete_policy(&cx.scope.account, &arn).await.map_err(|error| error::refused(&error))
}

/// A policy as it is shown, and its document.
async fn find(api: &IamApi, cx: &RequestContext, arn: &PolicyArn) -> Result<(Policy, String), IamError> {
    if arn.owner == PolicyOwner::Aws {
        let Some(managed) = aws_managed_by_name(arn) else {
            let not_found = neargate_control::IamError::PolicyNotFound { arn: arn.clone() };
            return Err(error::refused(&not_found));
        };
        let shown = aws_policies(api, cx).await?;
        let arn = Some(arn.to_string());
        let policy = shown.into_iter().find(|policy| policy.arn == arn).unwrap_or_default();
        return Ok((policy, managed.document.text().to_owned()));
    }
    let policy = api.control.policy(&cx.scope.account, arn).await.map_err(|error| error::refused(&error))?;
    Ok((render::policy(&policy), policy.document.text().to_owned()))
}

/// Those of AWS, with how many roles of the account have them.
async fn aws_policies(api: &IamApi, cx: &RequestContext) -> Result<Vec<Policy>, IamError> {
    let roles = api.control.roles(&cx.scope.account).await.map_err(|error| error::refused(&error))?;
    let count = |arn: &PolicyArn| roles.iter().filter(|role| role.attached.contains(arn)).count();
    let shown = aws_managed().iter().map(|managed| Policy {
        attachment_count: Some(i32::try_from(count(&managed.arn)).unwrap_or(i32::MAX)),
        ..render::managed(managed)
    });
    Ok(shown.collect())
}
