//! Policies of repositories: who else may do what with one.

use neargate_model::iam::ResourcePolicy;
use neargate_model::repository::{POLICY_LEN_MAX, RepositoryError};
use neargate_wire::ecr::{
    DeleteRepositoryPolicyRequest, DeleteRepositoryPolicyResponse, EcrError, GetRepositoryPolicyRequest,
    GetRepositoryPolicyResponse, SetRepositoryPolicyRequest, SetRepositoryPolicyResponse,
};

use super::error::invalid;
use super::{EcrApi, Place};
use crate::RequestContext;

pub(super) async fn set(
    api: &EcrApi,
    cx: &RequestContext,
    input: SetRepositoryPolicyRequest,
) -> Result<SetRepositoryPolicyResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    if input.policy_text.len() > POLICY_LEN_MAX {
        return Err(invalid(format!("A repository policy has at most {POLICY_LEN_MAX} characters.")));
    }
    let policy = ResourcePolicy::parse(&input.policy_text).map_err(|error| {
        invalid(format!(
            "Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided': {error}"
        ))
    })?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.policy = Some(policy.clone());
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(SetRepositoryPolicyResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        policy_text: Some(input.policy_text),
    })
}

pub(super) async fn get(
    api: &EcrApi,
    cx: &RequestContext,
    input: GetRepositoryPolicyRequest,
) -> Result<GetRepositoryPolicyResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let policy = api.repository(&place).await?.policy.ok_or_else(|| none(&place))?;
    Ok(GetRepositoryPolicyResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        policy_text: Some(policy.text().to_owned()),
    })
}

pub(super) async fn delete(
    api: &EcrApi,
    cx: &RequestContext,
    input: DeleteRepositoryPolicyRequest,
) -> Result<DeleteRepositoryPolicyResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let policy = api.repository(&place).await?.policy.ok_or_else(|| none(&place))?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.policy = None;
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(DeleteRepositoryPolicyResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        policy_text: Some(policy.text().to_owned()),
    })
}

fn none(place: &Place<'_>) -> EcrError {
    place.change(RepositoryError::NoPolicy { name: place.name.clone(), what: "policy" }.into())
}
