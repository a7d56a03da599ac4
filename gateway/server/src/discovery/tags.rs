//! Tags of namespaces and services.

use neargate_control::DiscoveryResource;
use neargate_model::{Arn, Tags};
use neargate_wire::servicediscovery::{
    ListTagsForResourceRequest, ListTagsForResourceResponse, ServiceDiscoveryError, Tag, TagResourceRequest,
    TagResourceResponse, UntagResourceRequest, UntagResourceResponse,
};

use super::DiscoveryApi;
use super::error::{change, invalid};
use crate::RequestContext;

/// Tags as the model keeps them; keys that AWS reserves are refused.
pub(super) fn to_model(tags: Option<Vec<Tag>>) -> Result<Tags, ServiceDiscoveryError> {
    let mut model = Tags::new();
    for Tag { key, value } in tags.unwrap_or_default() {
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid("Tag keys that begin with 'aws:' are reserved."));
        }
        if model.insert(key, value).is_some() {
            return Err(invalid("A tag key occurs twice."));
        }
    }
    Ok(model)
}

fn resource(cx: &RequestContext, text: &str) -> Result<DiscoveryResource, ServiceDiscoveryError> {
    let invalid = || invalid(format!("Invalid resource ARN: {text:.128}"));
    let arn = Arn::parse(text).map_err(|_| invalid())?;
    if arn.service != "servicediscovery" || arn.scope != cx.scope {
        return Err(invalid());
    }
    match arn.resource.split_once('/').ok_or_else(invalid)? {
        ("namespace", id) => Ok(DiscoveryResource::Namespace(id.to_owned())),
        ("service", id) => Ok(DiscoveryResource::Registry(id.to_owned())),
        _ => Err(invalid()),
    }
}

pub(super) async fn tag(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: TagResourceRequest,
) -> Result<TagResourceResponse, ServiceDiscoveryError> {
    let (resource, tags) = (resource(cx, &input.resource_arn)?, to_model(Some(input.tags))?);
    let changed = api.control.change_discovery_tags(&cx.scope, &resource, &tags, &[]).await;
    changed.map_err(|error| change(&error))?;
    Ok(TagResourceResponse {})
}

pub(super) async fn untag(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: UntagResourceRequest,
) -> Result<UntagResourceResponse, ServiceDiscoveryError> {
    let resource = resource(cx, &input.resource_arn)?;
    let changed =
        api.control.change_discovery_tags(&cx.scope, &resource, &Tags::new(), &input.tag_keys).await;
    changed.map_err(|error| change(&error))?;
    Ok(UntagResourceResponse {})
}

pub(super) async fn list(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, ServiceDiscoveryError> {
    let resource = resource(cx, &input.resource_arn)?;
    let tags = api.control.discovery_tags(&cx.scope, &resource).await.map_err(|error| change(&error))?;
    let tags = tags.into_iter().map(|(key, value)| Tag { key, value }).collect();
    Ok(ListTagsForResourceResponse { tags: Some(tags) })
}
