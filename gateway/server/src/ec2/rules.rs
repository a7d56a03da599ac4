//! Rules of security groups. Both directions have operations of their own, which differ in name alone.

use std::collections::BTreeSet;

use neargate_model::vpc::{Direction, GroupRule, NetworkError, Networks, NewRule, SecurityGroup};
use neargate_model::{SecurityGroupId, SecurityGroupRuleId, SecurityRule};
use neargate_wire::ec2::{
    AuthorizeSecurityGroupEgressRequest, AuthorizeSecurityGroupEgressResult,
    AuthorizeSecurityGroupIngressRequest, AuthorizeSecurityGroupIngressResult,
    DescribeSecurityGroupRulesRequest, DescribeSecurityGroupRulesResult, Ec2Error, IpPermission,
    ModifySecurityGroupRulesRequest, ModifySecurityGroupRulesResult, RevokeSecurityGroupEgressRequest,
    RevokeSecurityGroupEgressResult, RevokeSecurityGroupIngressRequest, RevokeSecurityGroupIngressResult,
    SecurityGroupRuleDescription, TagSpecification, UpdateSecurityGroupRuleDescriptionsEgressRequest,
    UpdateSecurityGroupRuleDescriptionsEgressResult, UpdateSecurityGroupRuleDescriptionsIngressRequest,
    UpdateSecurityGroupRuleDescriptionsIngressResult,
};

use super::error::{self, missing, refuse};
use super::filter::Filters;
use super::permissions::Plain;
use super::{Ec2Api, groups, ids, page, permissions, render, tags};
use crate::RequestContext;

const FILTERS: &[&str] = &["group-id", "security-group-rule-id"];

/// The one rule that a request may spell out in members of its own. Four generated types have the same.
macro_rules! plain {
    ($input:ident) => {
        Plain {
            protocol: $input.ip_protocol,
            from_port: $input.from_port,
            to_port: $input.to_port,
            cidr: $input.cidr_ip,
            group_name: $input.source_security_group_name,
            group_owner: $input.source_security_group_owner_id,
        }
    };
}

/// The group that a request changes, in the networks as they are.
async fn group(
    api: &Ec2Api,
    cx: &RequestContext,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<(Networks, SecurityGroupId), Ec2Error> {
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    let group = groups::meant(&networks, id, name)?;
    Ok((networks, group))
}

pub(super) async fn authorize_ingress(
    api: &Ec2Api,
    cx: &RequestContext,
    input: AuthorizeSecurityGroupIngressRequest,
) -> Result<AuthorizeSecurityGroupIngressResult, Ec2Error> {
    let (networks, group) = group(api, cx, input.group_id.as_deref(), input.group_name.as_deref()).await?;
    let new = permissions::rules(&networks, &cx.scope.account, input.ip_permissions, plain!(input))?;
    let rules = authorize(api, cx, &group, Direction::Ingress, new, input.tag_specifications).await?;
    Ok(AuthorizeSecurityGroupIngressResult { r#return: Some(true), security_group_rules: Some(rules) })
}

pub(super) async fn authorize_egress(
    api: &Ec2Api,
    cx: &RequestContext,
    input: AuthorizeSecurityGroupEgressRequest,
) -> Result<AuthorizeSecurityGroupEgressResult, Ec2Error> {
    let (networks, group) = group(api, cx, Some(&input.group_id), None).await?;
    let new = permissions::rules(&networks, &cx.scope.account, input.ip_permissions, plain!(input))?;
    let rules = authorize(api, cx, &group, Direction::Egress, new, input.tag_specifications).await?;
    Ok(AuthorizeSecurityGroupEgressResult { r#return: Some(true), security_group_rules: Some(rules) })
}

async fn authorize(
    api: &Ec2Api,
    cx: &RequestContext,
    group: &SecurityGroupId,
    direction: Direction,
    new: Vec<NewRule>,
    tag_specifications: Option<Vec<TagSpecification>>,
) -> Result<Vec<neargate_wire::ec2::SecurityGroupRule>, Ec2Error> {
    if new.is_empty() {
        return Err(missing("ipPermissions"));
    }
    let tags = tags::specified(tag_specifications, "security-group-rule")?;
    let added = api.control.change_networks(&cx.scope, |networks, ids| {
        let added = networks.authorize(group, direction, &new, &tags, ids)?;
        Ok((networks.group(group)?.clone(), added))
    });
    let (group, added) = added.await.map_err(|error| error::change(&error))?;
    Ok(added.iter().map(|rule| render::rule(&cx.scope, &group, rule)).collect())
}

/// What became of a request to revoke rules.
struct Revoked {
    rules: Vec<neargate_wire::ec2::RevokedSecurityGroupRule>,
    unknown: Vec<IpPermission>,
}

pub(super) async fn revoke_ingress(
    api: &Ec2Api,
    cx: &RequestContext,
    input: RevokeSecurityGroupIngressRequest,
) -> Result<RevokeSecurityGroupIngressResult, Ec2Error> {
    let (networks, group) = group(api, cx, input.group_id.as_deref(), input.group_name.as_deref()).await?;
    let rules = permissions::rules(&networks, &cx.scope.account, input.ip_permissions, plain!(input))?;
    let by_id = Vec::from_iter(ids::all(input.security_group_rule_ids.as_ref(), ids::rule)?);
    let Revoked { rules, unknown } = revoke(api, cx, &group, Direction::Ingress, rules, by_id).await?;
    Ok(RevokeSecurityGroupIngressResult {
        r#return: Some(true),
        unknown_ip_permissions: Some(unknown),
        revoked_security_group_rules: Some(rules),
    })
}

pub(super) async fn revoke_egress(
    api: &Ec2Api,
    cx: &RequestContext,
    input: RevokeSecurityGroupEgressRequest,
) -> Result<RevokeSecurityGroupEgressResult, Ec2Error> {
    let (networks, group) = group(api, cx, Some(&input.group_id), None).await?;
    let rules = permissions::rules(&networks, &cx.scope.account, input.ip_permissions, plain!(input))?;
    let by_id = Vec::from_iter(ids::all(input.security_group_rule_ids.as_ref(), ids::rule)?);
    let Revoked { rules, unknown } = revoke(api, cx, &group, Direction::Egress, rules, by_id).await?;
    Ok(RevokeSecurityGroupEgressResult {
        r#return: Some(true),
        unknown_ip_permissions: Some(unknown),
        revoked_security_group_rules: Some(rules),
    })
}

async fn revoke(
    api: &Ec2Api,
    cx: &RequestContext,
    group: &SecurityGroupId,
    direction: Direction,
    rules: Vec<NewRule>,
    by_id: Vec<SecurityGroupRuleId>,
) -> Result<Revoked, Ec2Error> {
    if rules.is_empty() == by_id.is_empty() {
        let message = "Specify either the permissions or the security group rule IDs to revoke";
        return Err(if rules.is_empty() {
            missing("ipPermissions or securityGroupRuleIds")
        } else {
            refuse("InvalidParameterCombination", message)
        });
    }
    let rules: Vec<SecurityRule> = rules.into_iter().map(|new| new.rule).collect();
    let revoked = api.control.change_networks(&cx.scope, |networks, _| {
        let known = networks.group(group)?.clone();
        let (removed, unknown) = match by_id.is_empty() {
            true => networks.revoke(group, direction, &rules)?,
            false => (networks.revoke_by_id(group, direction, &by_id)?, Vec::new()),
        };
        Ok((known, removed, unknown))
    });
    let (group, removed, unknown) = revoked.await.map_err(|error| error::change(&error))?;
    let unknown = unknown.iter().map(|rule| (rule, None));
    Ok(Revoked {
        rules: removed.iter().map(|rule| render::revoked(&group, rule)).collect(),
        unknown: permissions::to_permissions(&cx.scope.account, unknown),
    })
}

pub(super) async fn describe(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeSecurityGroupRulesRequest,
) -> Result<DescribeSecurityGroupRulesResult, Ec2Error> {
    let filters = Filters::read(input.filters, FILTERS)?;
    let wanted = ids::all(input.security_group_rule_ids.as_ref(), ids::rule)?;
    page::check_ids(wanted.len(), "securityGroupRuleIds", input.max_results)?;
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    let mut all: Vec<(&SecurityGroup, &GroupRule)> = networks
        .groups
        .values()
        .flat_map(|group| group.rules.iter().map(move |rule| (group, rule)))
        .collect();
    all.sort_by(|(_, a), (_, b)| a.id.cmp(&b.id));
    let known: BTreeSet<&SecurityGroupRuleId> = all.iter().map(|(_, rule)| &rule.id).collect();
    if let Some(id) = wanted.iter().find(|id| !known.contains(id)) {
        return Err(error::network(&NetworkError::RuleNotFound { id: id.clone() }));
    }
    let is_wanted = |(group, rule): &(&SecurityGroup, &GroupRule)| {
        (wanted.is_empty() || wanted.contains(&rule.id))
            && filters.matches(&rule.tags, |name| match name {
                "group-id" => vec![group.id.to_string()],
                _ => vec![rule.id.to_string()],
            })
    };
    let found: Vec<_> = all.into_iter().filter(is_wanted).collect();
    let (page, next_token) =
        page::cut(found, |(_, rule)| rule.id.to_string(), input.next_token.as_deref(), input.max_results)?;
    let rules = page.into_iter().map(|(group, rule)| render::rule(&cx.scope, group, rule)).collect();
    Ok(DescribeSecurityGroupRulesResult { security_group_rules: Some(rules), next_token })
}

pub(super) async fn modify(
    api: &Ec2Api,
    cx: &RequestContext,
    input: ModifySecurityGroupRulesRequest,
) -> Result<ModifySecurityGroupRulesResult, Ec2Error> {
    let (networks, group) = group(api, cx, Some(&input.group_id), None).await?;
    if input.security_group_rules.is_empty() {
        return Err(missing("SecurityGroupRule"));
    }
    let mut updates = Vec::new();
    for update in input.security_group_rules {
        let id = ids::rule(&update.security_group_rule_id)?;
        let rule = update.security_group_rule.ok_or_else(|| missing("SecurityGroupRule"))?;
        updates.push((id, permissions::update(&networks, rule)?));
    }
    let changed =
        api.control.change_networks(&cx.scope, |networks, _| networks.modify_rules(&group, &updates));
    changed.await.map_err(|error| error::change(&error))?;
    Ok(ModifySecurityGroupRulesResult { r#return: Some(true) })
}

pub(super) async fn update_ingress(
    api: &Ec2Api,
    cx: &RequestContext,
    input: UpdateSecurityGroupRuleDescriptionsIngressRequest,
) -> Result<UpdateSecurityGroupRuleDescriptionsIngressResult, Ec2Error> {
    let (networks, group) = group(api, cx, input.group_id.as_deref(), input.group_name.as_deref()).await?;
    let rules = permissions::rules(&networks, &cx.scope.account, input.ip_permissions, Plain::default())?;
    let by_id = input.security_group_rule_descriptions;
    describe_rules(api, cx, &group, Direction::Ingress, rules, by_id).await?;
    Ok(UpdateSecurityGroupRuleDescriptionsIngressResult { r#return: Some(true) })
}

pub(super) async fn update_egress(
    api: &Ec2Api,
    cx: &RequestContext,
    input: UpdateSecurityGroupRuleDescriptionsEgressRequest,
) -> Result<UpdateSecurityGroupRuleDescriptionsEgressResult, Ec2Error> {
    let (networks, group) = group(api, cx, input.group_id.as_deref(), input.group_name.as_deref()).await?;
    let rules = permissions::rules(&networks, &cx.scope.account, input.ip_permissions, Plain::default())?;
    let by_id = input.security_group_rule_descriptions;
    describe_rules(api, cx, &group, Direction::Egress, rules, by_id).await?;
    Ok(UpdateSecurityGroupRuleDescriptionsEgressResult { r#return: Some(true) })
}

async fn describe_rules(
    api: &Ec2Api,
    cx: &RequestContext,
    group: &SecurityGroupId,
    direction: Direction,
    rules: Vec<NewRule>,
    by_id: Option<Vec<SecurityGroupRuleDescription>>,
) -> Result<(), Ec2Error> {
    let mut described = Vec::new();
    for one in by_id.unwrap_or_default() {
        let id = one.security_group_rule_id.ok_or_else(|| missing("SecurityGroupRuleId"))?;
        described.push((ids::rule(&id)?, permissions::checked_description(one.description)?));
    }
    if rules.is_empty() && described.is_empty() {
        return Err(missing("ipPermissions or securityGroupRuleDescriptions"));
    }
    let changed = api.control.change_networks(&cx.scope, |networks, _| {
        networks.describe_rules(group, direction, &rules)?;
        networks.describe_rules_by_id(group, direction, &described)
    });
    changed.await.map_err(|error| error::change(&error))
}
