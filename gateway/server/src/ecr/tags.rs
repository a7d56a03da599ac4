//! Tags of repositories.

use neargate_model::{Arn, Tags};
use neargate_wire::ecr::{
    EcrError, ListTagsForResourceRequest, ListTagsForResourceResponse, Tag, TagResourceRequest,
    TagResourceResponse, UntagResourceRequest, UntagResourceResponse,
};

use super::error::invalid;
use super::{EcrApi, Place};
use crate::RequestContext;

/// Most tags of a resource (ECR User Guide, "Tagging a private repository").
const TAGS_MAX: usize = 50;

/// Tags as the model keeps them; keys that AWS reserves are refused.
pub(super) fn to_model(tags: Option<Vec<Tag>>) -> Result<Tags, EcrError> {
    let mut model = Tags::new();
    for Tag { key, value } in tags.unwrap_or_default() {
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 {
            let message = "A tag has a key of 1 to 128 and a value of at most 256 characters.".to_owned();
            return Err(EcrError::InvalidTagParameter { message });
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            let message = "Tag keys that begin with 'aws:' are reserved.".to_owned();
            return Err(EcrError::InvalidTagParameter { message });
        }
        model.insert(key, value);
    }
    if model.len() > TAGS_MAX { Err(too_many()) } else { Ok(model) }
}

fn too_many() -> EcrError {
    EcrError::TooManyTags { message: format!("A repository has at most {TAGS_MAX} tags.") }
}

fn place<'a>(cx: &'a RequestContext, text: &str) -> Result<Place<'a>, EcrError> {
    let invalid = || invalid(format!("Invalid parameter at 'resourceArn': {text:.128}"));
    let arn = Arn::parse(text).map_err(|_| invalid())?;
    let name = arn.resource.strip_prefix("repository/").ok_or_else(invalid)?;
    if arn.service != "ecr" || arn.scope != cx.scope {
        return Err(invalid());
    }
    Place::of(cx, None, name)
}

pub(super) async fn tag(
    api: &EcrApi,
    cx: &RequestContext,
    input: TagResourceRequest,
) -> Result<TagResourceResponse, EcrError> {
    let (place, tags) = (place(cx, &input.resource_arn)?, to_model(Some(input.tags))?);
    let has = api.repository(&place).await?.tags;
    if has.keys().chain(tags.keys()).collect::<std::collections::BTreeSet<_>>().len() > TAGS_MAX {
        return Err(too_many());
    }
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.tags.extend(tags.clone());
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(TagResourceResponse {})
}

pub(super) async fn untag(
    api: &EcrApi,
    cx: &RequestContext,
    input: UntagResourceRequest,
) -> Result<UntagResourceResponse, EcrError> {
    let place = place(cx, &input.resource_arn)?;
    let changed = api.control().change_repository(place.scope, &place.name, |repository| {
        repository.tags.retain(|key, _| !input.tag_keys.contains(key));
        Ok(())
    });
    changed.await.map_err(|error| place.change(error))?;
    Ok(UntagResourceResponse {})
}

pub(super) async fn list(
    api: &EcrApi,
    cx: &RequestContext,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, EcrError> {
    let found = api.repository(&place(cx, &input.resource_arn)?).await?;
    let tags = found.tags.into_iter().map(|(key, value)| Tag { key, value }).collect();
    Ok(ListTagsForResourceResponse { tags: Some(tags) })
}
