//! Tags of clusters, task definitions and tasks.

use neargate_control::Taggable;
use neargate_model::{Arn, Cluster, Scope, Tags};
use neargate_wire::ecs::{
    EcsError, ListTagsForResourceRequest, ListTagsForResourceResponse, Tag, TagResourceRequest,
    TagResourceResponse, UntagResourceRequest, UntagResourceResponse,
};

use super::error::invalid_parameter;
use super::{EcsApi, error, names};
use crate::RequestContext;

/// Tags as the model keeps them; keys that AWS reserves are refused (API reference, Tag).
pub(super) fn to_model(tags: Option<Vec<Tag>>) -> Result<Tags, EcsError> {
    let mut model = Tags::new();
    for tag in tags.unwrap_or_default() {
        let key = tag.key.filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| invalid_parameter("A tag key must have 1 to 128 characters."))?;
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid_parameter("Tag keys that begin with 'aws:' are reserved."));
        }
        let value = tag.value.as_deref().unwrap_or_default();
        if key == Cluster::ISOLATION_TAG && value != Cluster::OWN_WORKERS {
            let message = format!("The tag {key} has one value: {}.", Cluster::OWN_WORKERS);
            return Err(invalid_parameter(message));
        }
        if model.insert(key, tag.value.unwrap_or_default()).is_some() {
            return Err(invalid_parameter("A tag key occurs twice."));
        }
    }
    Ok(model)
}

/// Tags as ECS writes them.
pub(super) fn to_wire(tags: &Tags) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| Tag { key: Some(key.clone()), value: Some(value.clone()) };
    tags.iter().map(tag).collect()
}

/// The one ARN of what a text names; `None` for what can have no tags.
pub(crate) fn canonical(scope: &Scope, text: &str) -> Option<String> {
    let arn = match taggable(scope, text).ok()? {
        Taggable::Cluster(cluster) => Arn::cluster(scope, &cluster),
        Taggable::Definition(family, revision) => Arn::task_definition(scope, &family, revision),
        Taggable::Task(key) => Arn::task(scope, &key.cluster, &key.id),
    };
    Some(arn.to_string())
}

fn taggable(scope: &Scope, text: &str) -> Result<Taggable, EcsError> {
    let invalid = || invalid_parameter(format!("Invalid resource ARN: {text:.128}"));
    let arn = Arn::parse(text).map_err(|_| invalid())?;
    if arn.service != "ecs" || arn.scope != *scope {
        return Err(invalid());
    }
    let (kind, rest) = arn.resource.split_once('/').ok_or_else(invalid)?;
    match kind {
        "cluster" => Ok(Taggable::Cluster(names::cluster(scope, Some(rest))?)),
        "task-definition" => {
            let (family, revision) = names::revision(scope, rest)?;
            Ok(Taggable::Definition(family, revision))
        }
        "task" => Ok(Taggable::Task(names::task_key(scope, rest).ok_or_else(invalid)?)),
        _ => Err(invalid()),
    }
}

pub(super) async fn tag_resource(
    api: &EcsApi,
    cx: &RequestContext,
    input: TagResourceRequest,
) -> Result<TagResourceResponse, EcsError> {
    let (resource, tags) = (taggable(&cx.scope, &input.resource_arn)?, to_model(Some(input.tags))?);
    let changed = api.control.change_tags(&cx.scope, &resource, &tags, &[]).await;
    changed.map_err(|error| error::tags(&error))?;
    Ok(TagResourceResponse {})
}

pub(super) async fn untag_resource(
    api: &EcsApi,
    cx: &RequestContext,
    input: UntagResourceRequest,
) -> Result<UntagResourceResponse, EcsError> {
    let resource = taggable(&cx.scope, &input.resource_arn)?;
    let changed = api.control.change_tags(&cx.scope, &resource, &Tags::new(), &input.tag_keys).await;
    changed.map_err(|error| error::tags(&error))?;
    Ok(UntagResourceResponse {})
}

pub(super) async fn list_tags_for_resource(
    api: &EcsApi,
    cx: &RequestContext,
    input: ListTagsForResourceRequest,
) -> Result<ListTagsForResourceResponse, EcsError> {
    let resource = taggable(&cx.scope, &input.resource_arn)?;
    let tags = api.control.list_tags(&cx.scope, &resource).await.map_err(|error| error::tags(&error))?;
    Ok(ListTagsForResourceResponse { tags: Some(to_wire(&tags)) })
}
