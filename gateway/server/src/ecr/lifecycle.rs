//! Lifecycle policies: which images expire.

use neargate_model::Timestamp;
use neargate_model::repository::{Expiry, LifecyclePolicy, RepositoryError, StoredImage};
use neargate_wire::ecr::{
    DeleteLifecyclePolicyRequest, DeleteLifecyclePolicyResponse, EcrError, GetLifecyclePolicyPreviewRequest,
    GetLifecyclePolicyPreviewResponse, GetLifecyclePolicyRequest, GetLifecyclePolicyResponse,
    ImageActionType, LifecyclePolicyPreviewResult, LifecyclePolicyPreviewStatus,
    LifecyclePolicyPreviewSummary, LifecyclePolicyRuleAction, PutLifecyclePolicyRequest,
    PutLifecyclePolicyResponse, StartLifecyclePolicyPreviewRequest, StartLifecyclePolicyPreviewResponse,
};

use super::error::{invalid, store};
use super::{EcrApi, Place, images, page, time};
use crate::RequestContext;

pub(super) async fn put(
    api: &EcrApi,
    cx: &RequestContext,
    input: PutLifecyclePolicyRequest,
) -> Result<PutLifecyclePolicyResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let policy = parse(&input.lifecycle_policy_text)?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.lifecycle = Some(policy.clone());
        repository.swept_at = None;
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    api.registry.sweep_soon();
    Ok(PutLifecyclePolicyResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        lifecycle_policy_text: Some(input.lifecycle_policy_text),
    })
}

pub(super) async fn get(
    api: &EcrApi,
    cx: &RequestContext,
    input: GetLifecyclePolicyRequest,
) -> Result<GetLifecyclePolicyResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let found = api.repository(&place).await?;
    let policy = found.lifecycle.ok_or_else(|| none(&place))?;
    Ok(GetLifecyclePolicyResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        lifecycle_policy_text: Some(policy.text().to_owned()),
        last_evaluated_at: found.swept_at.map(time),
    })
}

pub(super) async fn delete(
    api: &EcrApi,
    cx: &RequestContext,
    input: DeleteLifecyclePolicyRequest,
) -> Result<DeleteLifecyclePolicyResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let found = api.repository(&place).await?;
    let policy = found.lifecycle.ok_or_else(|| none(&place))?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.lifecycle = None;
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(DeleteLifecyclePolicyResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        lifecycle_policy_text: Some(policy.text().to_owned()),
        last_evaluated_at: found.swept_at.map(time),
    })
}

/// Keeps the policy whose effect is to be seen: the one of the request, or else the repository's own.
pub(super) async fn start_preview(
    api: &EcrApi,
    cx: &RequestContext,
    input: StartLifecyclePolicyPreviewRequest,
) -> Result<StartLifecyclePolicyPreviewResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let kept = api.repository(&place).await?.lifecycle;
    let text = match (input.lifecycle_policy_text, kept) {
        (None, None) => return Err(none(&place)),
        (None, Some(kept)) => kept.text().to_owned(),
        (Some(text), _) => parse(&text)?.text().to_owned(),
    };
    let previewed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.preview = LifecyclePolicy::parse(&text).ok();
        Ok(())
    });
    previewed.await.map_err(|error| place.change(error))?;
    Ok(StartLifecyclePolicyPreviewResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        lifecycle_policy_text: Some(text),
        status: Some(LifecyclePolicyPreviewStatus::Complete),
    })
}

pub(super) async fn get_preview(
    api: &EcrApi,
    cx: &RequestContext,
    input: GetLifecyclePolicyPreviewRequest,
) -> Result<GetLifecyclePolicyPreviewResponse, EcrError> {
    let place = Place::of(cx, input.registry_id.as_deref(), &input.repository_name)?;
    let policy =
        api.repository(&place).await?.preview.ok_or_else(|| EcrError::LifecyclePolicyPreviewNotFound {
            message: format!("There is no preview of a lifecycle policy for the repository '{}'", place.name),
        })?;
    let all = api.control().images(place.scope, &place.name).await.map_err(|error| store(&error))?;
    let now = Timestamp::from(std::time::SystemTime::now());
    let status = input.filter.as_ref().and_then(|filter| filter.tag_status.as_ref());
    let is_wanted = |image: &StoredImage| {
        images::has_status(image, status)
            && input.image_ids.as_ref().is_none_or(|ids| {
                ids.iter().any(|id| {
                    id.image_digest.as_ref().is_none_or(|digest| *digest == image.digest.to_string())
                        && id
                            .image_tag
                            .as_ref()
                            .is_none_or(|tag| image.tags.iter().any(|has| has.as_str() == tag))
                })
            })
    };
    let expiring: Vec<(Expiry, &StoredImage)> = policy
        .expired(&all, now)
        .into_iter()
        .filter_map(|expiry| Some((expiry, all.iter().find(|image| image.digest == expiry.digest)?)))
        .collect();
    let total = i32::try_from(expiring.len()).unwrap_or(i32::MAX);
    let wanted: Vec<_> = expiring.into_iter().filter(|(_, image)| is_wanted(image)).collect();
    let name = |(_, image): &(Expiry, &StoredImage)| image.digest.to_string();
    let (wanted, next_token) = page::cut(wanted, name, input.next_token.as_deref(), input.max_results)?;
    Ok(GetLifecyclePolicyPreviewResponse {
        registry_id: Some(place.account()),
        repository_name: Some(place.name.to_string()),
        lifecycle_policy_text: Some(policy.text().to_owned()),
        status: Some(LifecyclePolicyPreviewStatus::Complete),
        next_token,
        preview_results: Some(wanted.iter().map(result).collect()),
        summary: Some(LifecyclePolicyPreviewSummary {
            expiring_image_total_count: Some(total),
            ..LifecyclePolicyPreviewSummary::default()
        }),
    })
}

fn result((expiry, image): &(Expiry, &StoredImage)) -> LifecyclePolicyPreviewResult {
    LifecyclePolicyPreviewResult {
        image_tags: Some(image.tags.iter().map(ToString::to_string).collect()),
        image_digest: Some(image.digest.to_string()),
        image_pushed_at: Some(time(image.pushed_at)),
        action: Some(LifecyclePolicyRuleAction {
            r#type: Some(ImageActionType::Expire),
            ..LifecyclePolicyRuleAction::default()
        }),
        applied_rule_priority: i32::try_from(expiry.priority).ok(),
        ..LifecyclePolicyPreviewResult::default()
    }
}

fn parse(text: &str) -> Result<LifecyclePolicy, EcrError> {
    LifecyclePolicy::parse(text).map_err(|error| {
        invalid(format!("Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: '{error}'"))
    })
}

fn none(place: &Place<'_>) -> EcrError {
    place.change(RepositoryError::NoPolicy { name: place.name.clone(), what: "lifecycle policy" }.into())
}
