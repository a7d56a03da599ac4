//! Security groups.

use neargate_model::vpc::{Direction, GroupRule, Networks, SecurityGroup};
use neargate_model::{Peer, Scope, SecurityGroupId};
use neargate_wire::ec2::{
    CreateSecurityGroupRequest, CreateSecurityGroupResult, DeleteSecurityGroupRequest,
    DeleteSecurityGroupResult, DescribeSecurityGroupsRequest, DescribeSecurityGroupsResult, Ec2Error,
};

use super::error::{self, invalid, missing};
use super::filter::Filters;
use super::{Ec2Api, ids, page, permissions, render, tags};
use crate::RequestContext;

/// Characters of a group's description (API reference, CreateSecurityGroup).
const DESCRIPTION_MAX: usize = 255;

const FILTERS: &[&str] = &[
    "description",
    "egress.ip-permission.cidr",
    "egress.ip-permission.from-port",
    "egress.ip-permission.group-id",
    "egress.ip-permission.group-name",
    "egress.ip-permission.ipv6-cidr",
    "egress.ip-permission.prefix-list-id",
    "egress.ip-permission.protocol",
    "egress.ip-permission.to-port",
    "egress.ip-permission.user-id",
    "group-id",
    "group-name",
    "ip-permission.cidr",
    "ip-permission.from-port",
    "ip-permission.group-id",
    "ip-permission.group-name",
    "ip-permission.ipv6-cidr",
    "ip-permission.prefix-list-id",
    "ip-permission.protocol",
    "ip-permission.to-port",
    "ip-permission.user-id",
    "owner-id",
    "vpc-id",
];

fn field(networks: &Networks, scope: &Scope, group: &SecurityGroup, name: &str) -> Vec<String> {
    let of_rules = |direction, part: &str| {
        group.rules_of(direction).filter_map(|rule| rule_field(networks, scope, rule, part)).collect()
    };
    let value = match name {
        "description" => group.description.clone(),
        "group-id" => group.id.to_string(),
        "group-name" => group.name.clone(),
        "owner-id" => scope.account.to_string(),
        "vpc-id" => group.vpc.to_string(),
        other => {
            let egress = other.strip_prefix("egress.ip-permission.");
            let ingress = other.strip_prefix("ip-permission.");
            return match (egress, ingress) {
                (Some(part), _) => of_rules(Direction::Egress, part),
                (None, Some(part)) => of_rules(Direction::Ingress, part),
                (None, None) => Vec::new(),
            };
        }
    };
    vec![value]
}

fn rule_field(networks: &Networks, scope: &Scope, rule: &GroupRule, part: &str) -> Option<String> {
    let (protocol, from, to) = permissions::traffic_parts(rule.rule.traffic);
    match (part, &rule.rule.peer) {
        ("protocol", _) => Some(protocol),
        ("from-port", _) => from.map(|port| port.to_string()),
        ("to-port", _) => to.map(|port| port.to_string()),
        ("cidr", Peer::Block(block)) if block.is_v4() => Some(block.to_string()),
        ("ipv6-cidr", Peer::Block(block)) if !block.is_v4() => Some(block.to_string()),
        ("group-id", Peer::Group(id)) => Some(id.to_string()),
        ("group-name", Peer::Group(id)) => networks.groups.get(id).map(|group| group.name.clone()),
        ("user-id", Peer::Group(_)) => Some(scope.account.to_string()),
        _ => None,
    }
}

/// The group that a request means by id, or by name in the default VPC.
pub(super) fn meant(
    networks: &Networks,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<SecurityGroupId, Ec2Error> {
    let found = match (id, name) {
        (Some(id), _) => networks.group(&ids::group(id)?),
        (None, Some(name)) => networks.group_named(name),
        (None, None) => return Err(missing("groupName or groupId")),
    };
    found.map(|group| group.id.clone()).map_err(|error| error::network(&error))
}

pub(super) async fn describe(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeSecurityGroupsRequest,
) -> Result<DescribeSecurityGroupsResult, Ec2Error> {
    let filters = Filters::read(input.filters, FILTERS)?;
    let mut wanted = ids::all(input.group_ids.as_ref(), ids::group)?;
    let names = input.group_names.unwrap_or_default();
    page::check_ids(wanted.len() + names.len(), "groupIds", input.max_results)?;
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    for id in &wanted {
        networks.group(id).map_err(|error| error::network(&error))?;
    }
    for name in &names {
        wanted.insert(meant(&networks, None, Some(name))?);
    }
    let is_wanted = |group: &&SecurityGroup| {
        (wanted.is_empty() || wanted.contains(&group.id))
            && filters.matches(&group.tags, |name| field(&networks, &cx.scope, group, name))
    };
    let found: Vec<&SecurityGroup> = networks.groups.values().filter(is_wanted).collect();
    let (page, next_token) =
        page::cut(found, |group| group.id.to_string(), input.next_token.as_deref(), input.max_results)?;
    let groups = page.into_iter().map(|group| render::group(&cx.scope, group)).collect();
    Ok(DescribeSecurityGroupsResult { next_token, security_groups: Some(groups) })
}

pub(super) async fn create(
    api: &Ec2Api,
    cx: &RequestContext,
    input: CreateSecurityGroupRequest,
) -> Result<CreateSecurityGroupResult, Ec2Error> {
    let vpc = input.vpc_id.as_deref().map(ids::vpc).transpose()?;
    let description = input.description;
    if description.is_empty() || description.chars().count() > DESCRIPTION_MAX {
        return Err(invalid(
            "Invalid security group description. Valid descriptions have 1 to 255 characters.",
        ));
    }
    let tags = tags::specified(input.tag_specifications, "security-group")?;
    let created = api.control.change_networks(&cx.scope, |networks, ids| {
        networks.create_group(vpc.as_ref(), &input.group_name, &description, tags.clone(), ids)
    });
    let id = created.await.map_err(|error| error::change(&error))?;
    Ok(CreateSecurityGroupResult {
        security_group_arn: render::group_arn(&cx.scope, id.as_str()),
        group_id: Some(id.to_string()),
        tags: Some(tags::to_wire(&tags)),
    })
}

pub(super) async fn delete(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DeleteSecurityGroupRequest,
) -> Result<DeleteSecurityGroupResult, Ec2Error> {
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    let id = meant(&networks, input.group_id.as_deref(), input.group_name.as_deref())?;
    api.control.delete_group(&cx.scope, &id).await.map_err(|error| error::change(&error))?;
    Ok(DeleteSecurityGroupResult { r#return: Some(true), group_id: Some(id.to_string()) })
}
