//! Tags of networks, by the ids of what has them.

use neargate_model::vpc::{NetworkError, Networks, change_tags};
use neargate_model::{NetworkInterfaceId, SecurityGroupId, SecurityGroupRuleId, SubnetId, Tags, VpcId};
use neargate_wire::ec2::{
    CreateTagsRequest, DeleteTagsRequest, DescribeTagsRequest, DescribeTagsResult, Ec2Error, Tag,
    TagDescription, TagSpecification,
};

use super::error::{self, invalid, missing, refuse};
use super::filter::Filters;
use super::{Ec2Api, ids, page};
use crate::RequestContext;

/// Characters of a key and of a value (EC2 User Guide, "Tag restrictions").
const KEY_MAX: usize = 128;
const VALUE_MAX: usize = 256;

/// Resources of one call. EC2 takes 1,000; here all are one transaction, which holds 100 records.
const RESOURCES_MAX: usize = 90;

const FILTERS: &[&str] = &["key", "resource-id", "resource-type", "value"];

/// Something that can have tags.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Resource {
    Vpc(VpcId),
    Subnet(SubnetId),
    Group(SecurityGroupId),
    Rule(SecurityGroupRuleId),
    Interface(NetworkInterfaceId),
}

pub(super) fn to_wire(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// Tags that are to be set.
fn from_wire(tags: Vec<Tag>) -> Result<Tags, Ec2Error> {
    let mut read = Tags::new();
    for Tag { key, value } in tags {
        let key = key.filter(|key| !key.is_empty()).ok_or_else(|| missing("tagKey"))?;
        let value = value.unwrap_or_default();
        if key.chars().count() > KEY_MAX || value.chars().count() > VALUE_MAX {
            return Err(invalid("Tag keys have at most 128 characters, and tag values at most 256."));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid("Tag keys starting with 'aws:' are reserved for internal use"));
        }
        if read.insert(key.clone(), value).is_some() {
            return Err(invalid(format!("Duplicate tag key '{key}' specified.")));
        }
    }
    Ok(read)
}

/// The tags with which a resource of this kind is to be made.
pub(super) fn specified(specifications: Option<Vec<TagSpecification>>, kind: &str) -> Result<Tags, Ec2Error> {
    let mut tags = Vec::new();
    for specification in specifications.unwrap_or_default() {
        let resource_type = specification.resource_type.unwrap_or_default();
        if resource_type != kind {
            let message =
                format!("'{resource_type:.64}' is not a valid taggable resource type for this operation.");
            return Err(invalid(message));
        }
        tags.extend(specification.tags.unwrap_or_default());
    }
    from_wire(tags)
}

fn resource(text: &str) -> Result<Resource, Ec2Error> {
    match text.split('-').next().unwrap_or_default() {
        "vpc" => ids::vpc(text).map(Resource::Vpc),
        "subnet" => ids::subnet(text).map(Resource::Subnet),
        "sg" => ids::group(text).map(Resource::Group),
        "sgr" => ids::rule(text).map(Resource::Rule),
        "eni" => ids::interface(text).map(Resource::Interface),
        _ => Err(refuse("InvalidID", format!("The ID '{text:.64}' is not valid"))),
    }
}

/// Where the tags of a resource are; interfaces are kept elsewhere.
fn tags_of<'a>(
    networks: &'a mut Networks,
    resource: &Resource,
) -> Result<Option<&'a mut Tags>, NetworkError> {
    let tags = match resource {
        Resource::Vpc(id) => networks.vpcs.get_mut(id).map(|vpc| &mut vpc.tags),
        Resource::Subnet(id) => networks.subnets.get_mut(id).map(|subnet| &mut subnet.tags),
        Resource::Group(id) => networks.groups.get_mut(id).map(|group| &mut group.tags),
        Resource::Rule(id) => {
            let mut rules = networks.groups.values_mut().flat_map(|group| &mut group.rules);
            rules.find(|rule| rule.id == *id).map(|rule| &mut rule.tags)
        }
        Resource::Interface(_) => return Ok(None),
    };
    tags.map_or_else(|| Err(not_found(resource)), |tags| Ok(Some(tags)))
}

fn not_found(resource: &Resource) -> NetworkError {
    match resource.clone() {
        Resource::Vpc(id) => NetworkError::VpcNotFound { id },
        Resource::Subnet(id) => NetworkError::SubnetNotFound { id },
        Resource::Group(id) => NetworkError::GroupNotFound { id },
        Resource::Rule(id) => NetworkError::RuleNotFound { id },
        Resource::Interface(id) => NetworkError::InterfaceNotFound { id },
    }
}

async fn change(
    api: &Ec2Api,
    cx: &RequestContext,
    resources: &[String],
    set: &Tags,
    remove: &[(String, Option<String>)],
) -> Result<(), Ec2Error> {
    if resources.is_empty() {
        return Err(missing("resourceIdSet"));
    }
    if resources.len() > RESOURCES_MAX {
        return Err(invalid(format!("At most {RESOURCES_MAX} resources can be tagged in one call.")));
    }
    let resources: Vec<Resource> = resources.iter().map(|text| resource(text)).collect::<Result<_, _>>()?;
    let changed = api.control.change_networks(&cx.scope, |networks, _| {
        for resource in &resources {
            if let Some(tags) = tags_of(networks, resource)? {
                change_tags(tags, set, remove)?;
            }
        }
        Ok(())
    });
    changed.await.map_err(|error| error::change(&error))?;
    for resource in &resources {
        let Resource::Interface(id) = resource else { continue };
        let found = api.control.tag_interface(&cx.scope, id, set, remove).await;
        if !found.map_err(|error| error::change(&error))? {
            return Err(error::network(&not_found(resource)));
        }
    }
    Ok(())
}

pub(super) async fn create(
    api: &Ec2Api,
    cx: &RequestContext,
    input: CreateTagsRequest,
) -> Result<(), Ec2Error> {
    let tags = from_wire(input.tags)?;
    if tags.is_empty() {
        return Err(missing("tagSet"));
    }
    change(api, cx, &input.resources, &tags, &[]).await
}

pub(super) async fn delete(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DeleteTagsRequest,
) -> Result<(), Ec2Error> {
    let Some(tags) = input.tags.filter(|tags| !tags.is_empty()) else {
        // Without tags, all of a resource go (API reference, DeleteTags).
        return clear(api, cx, &input.resources).await;
    };
    let one = |tag: Tag| Ok((tag.key.ok_or_else(|| missing("tagKey"))?, tag.value));
    let remove: Vec<(String, Option<String>)> = tags.into_iter().map(one).collect::<Result<_, Ec2Error>>()?;
    change(api, cx, &input.resources, &Tags::new(), &remove).await
}

async fn clear(api: &Ec2Api, cx: &RequestContext, resources: &[String]) -> Result<(), Ec2Error> {
    let all = all(api, cx).await?;
    let of = |one: &TagDescription| one.resource_id.as_ref().is_some_and(|id| resources.contains(id));
    let keys = all.into_iter().filter(of).filter_map(|one| Some((one.key?, None)));
    change(api, cx, resources, &Tags::new(), &keys.collect::<Vec<_>>()).await
}

/// Every tag of everything, in the order of the resources' ids and the keys.
async fn all(api: &Ec2Api, cx: &RequestContext) -> Result<Vec<TagDescription>, Ec2Error> {
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    let interfaces = api.control.network_interfaces(&cx.scope).await.map_err(|error| error::store(&error))?;
    let mut all = Vec::new();
    let mut add = |id: &str, kind: &str, tags: &Tags| {
        all.extend(tags.iter().map(|(key, value)| TagDescription {
            key: Some(key.clone()),
            resource_id: Some(id.to_owned()),
            resource_type: Some(kind.to_owned()),
            value: Some(value.clone()),
        }));
    };
    networks.vpcs.values().for_each(|vpc| add(vpc.id.as_str(), "vpc", &vpc.tags));
    networks.subnets.values().for_each(|subnet| add(subnet.id.as_str(), "subnet", &subnet.tags));
    for group in networks.groups.values() {
        add(group.id.as_str(), "security-group", &group.tags);
        group.rules.iter().for_each(|rule| add(rule.id.as_str(), "security-group-rule", &rule.tags));
    }
    for interface in &interfaces {
        add(interface.network.interface.as_str(), "network-interface", &interface.tags);
    }
    all.sort_by(|a, b| (&a.resource_id, &a.key).cmp(&(&b.resource_id, &b.key)));
    Ok(all)
}

pub(super) async fn describe(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeTagsRequest,
) -> Result<DescribeTagsResult, Ec2Error> {
    let filters = Filters::read(input.filters, FILTERS)?;
    let is_wanted = |one: &TagDescription| {
        let (key, value) = (one.key.clone().unwrap_or_default(), one.value.clone().unwrap_or_default());
        let tags = Tags::from([(key, value)]);
        filters.matches(&tags, |name| {
            let field = match name {
                "key" => &one.key,
                "resource-id" => &one.resource_id,
                "resource-type" => &one.resource_type,
                _ => &one.value,
            };
            field.iter().cloned().collect()
        })
    };
    let found: Vec<TagDescription> = all(api, cx).await?.into_iter().filter(is_wanted).collect();
    // No id has a space, so that this sorts as the pairs do.
    let name = |one: &TagDescription| {
        format!(
            "{} {}",
            one.resource_id.as_deref().unwrap_or_default(),
            one.key.as_deref().unwrap_or_default()
        )
    };
    let (tags, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    Ok(DescribeTagsResult { next_token, tags: Some(tags) })
}
