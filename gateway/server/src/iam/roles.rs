//! Roles, who may take them on, and policies of their own.

use neargate_control::{NewRole, RoleUpdate};
use neargate_model::iam::{IdentityPolicy, Role, SESSION_S_DEFAULT, TrustPolicy};
use neargate_wire::iam::{
    CreateRoleRequest, CreateRoleResponse, DeleteRolePolicyRequest, DeleteRoleRequest, GetRolePolicyRequest,
    GetRolePolicyResponse, GetRoleRequest, GetRoleResponse, IamError, ListRolePoliciesRequest,
    ListRolePoliciesResponse, ListRoleTagsRequest, ListRoleTagsResponse, ListRolesRequest, ListRolesResponse,
    PutRolePolicyRequest, Tag, TagRoleRequest, UntagRoleRequest, UpdateAssumeRolePolicyRequest,
};

use super::page::{Page, cut};
use super::{IamApi, error, read, render};
use crate::RequestContext;

pub(super) async fn create(
    api: &IamApi,
    cx: &RequestContext,
    input: CreateRoleRequest,
) -> Result<CreateRoleResponse, IamError> {
    if input.permissions_boundary.is_some() {
        return Err(error::validation("PermissionsBoundary is not supported by Neargate."));
    }
    let session_s_max = input.max_session_duration.and_then(|seconds| u32::try_from(seconds).ok());
    let new = NewRole {
        account: cx.scope.account.clone(),
        name: read::role_name(&input.role_name)?,
        path: read::path(input.path.as_deref())?,
        description: input.description,
        trust: trust(&input.assume_role_policy_document)?,
        session_s_max: session_s_max.unwrap_or(SESSION_S_DEFAULT),
        tags: read::tags(input.tags.as_ref())?,
    };
    let role = api.control.create_role(&new).await.map_err(|error| error::refused(&error))?;
    Ok(CreateRoleResponse { role: render::role(&role) })
}

pub(super) async fn get(
    api: &IamApi,
    cx: &RequestContext,
    input: GetRoleRequest,
) -> Result<GetRoleResponse, IamError> {
    Ok(GetRoleResponse { role: render::role(&find(api, cx, &input.role_name).await?) })
}

pub(super) async fn list(
    api: &IamApi,
    cx: &RequestContext,
    input: ListRolesRequest,
) -> Result<ListRolesResponse, IamError> {
    let mut roles = api.control.roles(&cx.scope.account).await.map_err(|error| error::refused(&error))?;
    let prefix = input.path_prefix.unwrap_or_default();
    roles.retain(|role| role.path.starts_with(&prefix));
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    let Page { items, marker } =
        cut(roles, |role| role.name.as_str(), input.marker.as_deref(), input.max_items);
    // Lists leave tags out (API reference, ListRoles).
    let shown = |role: &Role| neargate_wire::iam::Role { tags: None, ..render::role(role) };
    Ok(ListRolesResponse {
        roles: items.iter().map(shown).collect(),
        is_truncated: Some(marker.is_some()),
        marker,
    })
}

pub(super) async fn delete(
    api: &IamApi,
    cx: &RequestContext,
    input: DeleteRoleRequest,
) -> Result<(), IamError> {
    let name = read::role_name(&input.role_name)?;
    api.control.delete_role(&cx.scope.account, &name).await.map_err(|error| error::refused(&error))
}

pub(super) async fn update_trust(
    api: &IamApi,
    cx: &RequestContext,
    input: UpdateAssumeRolePolicyRequest,
) -> Result<(), IamError> {
    let trust = trust(&input.policy_document)?;
    update(api, cx, &input.role_name, RoleUpdate::Trust(trust)).await
}

pub(super) async fn tag(api: &IamApi, cx: &RequestContext, input: TagRoleRequest) -> Result<(), IamError> {
    let tags = read::tags(Some(&input.tags))?;
    update(api, cx, &input.role_name, RoleUpdate::Tag(tags)).await
}

pub(super) async fn untag(
    api: &IamApi,
    cx: &RequestContext,
    input: UntagRoleRequest,
) -> Result<(), IamError> {
    update(api, cx, &input.role_name, RoleUpdate::Untag(input.tag_keys)).await
}

pub(super) async fn list_tags(
    api: &IamApi,
    cx: &RequestContext,
    input: ListRoleTagsRequest,
) -> Result<ListRoleTagsResponse, IamError> {
    let tags = render::tags(&find(api, cx, &input.role_name).await?.tags);
    let Page { items, marker } = cut(tags, |tag: &Tag| &tag.key, input.marker.as_deref(), input.max_items);
    Ok(ListRoleTagsResponse { tags: items, is_truncated: Some(marker.is_some()), marker })
}

pub(super) async fn put_policy(
    api: &IamApi,
    cx: &RequestContext,
    input: PutRolePolicyRequest,
) -> Result<(), IamError> {
    let name = read::policy_name(&input.policy_name)?;
    let policy = IdentityPolicy::parse(&input.policy_document).map_err(|error| error::malformed(&error))?;
    update(api, cx, &input.role_name, RoleUpdate::PutInline(name, policy)).await
}

pub(super) async fn get_policy(
    api: &IamApi,
    cx: &RequestContext,
    input: GetRolePolicyRequest,
) -> Result<GetRolePolicyResponse, IamError> {
    let (role, name) = (find(api, cx, &input.role_name).await?, read::policy_name(&input.policy_name)?);
    let policy = role.inline.get(&name).ok_or_else(|| {
        error::refused(&neargate_control::IamError::InlineNotFound {
            role: role.name.clone(),
            policy: name.clone(),
        })
    })?;
    Ok(GetRolePolicyResponse {
        role_name: role.name.to_string(),
        policy_name: name.to_string(),
        policy_document: render::document(policy.text()),
    })
}

pub(super) async fn list_policies(
    api: &IamApi,
    cx: &RequestContext,
    input: ListRolePoliciesRequest,
) -> Result<ListRolePoliciesResponse, IamError> {
    let role = find(api, cx, &input.role_name).await?;
    let names: Vec<String> = role.inline.keys().map(ToString::to_string).collect();
    let Page { items, marker } = cut(names, String::as_str, input.marker.as_deref(), input.max_items);
    Ok(ListRolePoliciesResponse { policy_names: items, is_truncated: Some(marker.is_some()), marker })
}

pub(super) async fn delete_policy(
    api: &IamApi,
    cx: &RequestContext,
    input: DeleteRolePolicyRequest,
) -> Result<(), IamError> {
    let name = read::policy_name(&input.policy_name)?;
    update(api, cx, &input.role_name, RoleUpdate::DeleteInline(name)).await
}

pub(super) async fn find(api: &IamApi, cx: &RequestContext, name: &str) -> Result<Role, IamError> {
    let name = read::role_name(name)?;
    api.control.role(&cx.scope.account, &name).await.map_err(|error| error::refused(&error))
}

async fn update(api: &IamApi, cx: &RequestContext, name: &str, update: RoleUpdate) -> Result<(), IamError> {
    let name = read::role_name(name)?;
    let updated = api.control.update_role(&cx.scope.account, &name, &update).await;
    updated.map_err(|error| error::refused(&error))
}

fn trust(text: &str) -> Result<TrustPolicy, IamError> {
    TrustPolicy::parse(text).map_err(|error| error::malformed(&error))
}
