//! VPCs.

use neargate_model::Scope;
use neargate_model::vpc::{BlockAssociation, Vpc};
use neargate_wire::ec2::{
    AttributeBooleanValue, CreateDefaultVpcRequest, CreateDefaultVpcResult, CreateVpcRequest,
    CreateVpcResult, DeleteVpcRequest, DescribeVpcAttributeRequest, DescribeVpcAttributeResult,
    DescribeVpcsRequest, DescribeVpcsResult, Ec2Error, Tenancy, VpcAttributeName,
};

use super::error::{self, invalid, missing};
use super::filter::Filters;
use super::{Ec2Api, ids, page, permissions, render, tags};
use crate::RequestContext;

const FILTERS: &[&str] = &[
    "cidr",
    "cidrBlock",
    "cidr-block-association.association-id",
    "cidr-block-association.cidr-block",
    "cidr-block-association.state",
    "dhcp-options-id",
    "ipv6-cidr-block-association.association-id",
    "ipv6-cidr-block-association.ipv6-cidr-block",
    "ipv6-cidr-block-association.ipv6-pool",
    "ipv6-cidr-block-association.state",
    "is-default",
    "isDefault",
    "owner-id",
    "state",
    "vpc-id",
];

fn field(scope: &Scope, vpc: &Vpc, name: &str) -> Vec<String> {
    let of_v6 = |part: fn(&BlockAssociation) -> String| vpc.block_v6.iter().map(part).collect();
    let value = match name {
        "cidr" | "cidrBlock" | "cidr-block-association.cidr-block" => vpc.block.to_string(),
        "cidr-block-association.association-id" => render::association_id(vpc),
        "cidr-block-association.state" => "associated".to_owned(),
        "dhcp-options-id" => "default".to_owned(),
        "ipv6-cidr-block-association.association-id" => return of_v6(|known| known.id.to_string()),
        "ipv6-cidr-block-association.ipv6-cidr-block" => return of_v6(|known| known.block.to_string()),
        "ipv6-cidr-block-association.ipv6-pool" => return of_v6(|_| render::POOL.to_owned()),
        "ipv6-cidr-block-association.state" => return of_v6(|_| "associated".to_owned()),
        "is-default" | "isDefault" => vpc.is_default.to_string(),
        "owner-id" => scope.account.to_string(),
        "state" => "available".to_owned(),
        "vpc-id" => vpc.id.to_string(),
        _ => return Vec::new(),
    };
    vec![value]
}

pub(super) async fn describe(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeVpcsRequest,
) -> Result<DescribeVpcsResult, Ec2Error> {
    let filters = Filters::read(input.filters, FILTERS)?;
    let wanted = ids::all(input.vpc_ids.as_ref(), ids::vpc)?;
    page::check_ids(wanted.len(), "vpcIds", input.max_results)?;
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    for id in &wanted {
        networks.vpc(id).map_err(|error| error::network(&error))?;
    }
    let is_wanted = |vpc: &&Vpc| {
        (wanted.is_empty() || wanted.contains(&vpc.id))
            && filters.matches(&vpc.tags, |name| field(&cx.scope, vpc, name))
    };
    let found: Vec<&Vpc> = networks.vpcs.values().filter(is_wanted).collect();
    let (page, next_token) =
        page::cut(found, |vpc| vpc.id.to_string(), input.next_token.as_deref(), input.max_results)?;
    let vpcs = page.into_iter().map(|vpc| render::vpc(&cx.scope, vpc)).collect();
    Ok(DescribeVpcsResult { next_token, vpcs: Some(vpcs) })
}

pub(super) async fn create(
    api: &Ec2Api,
    cx: &RequestContext,
    input: CreateVpcRequest,
) -> Result<CreateVpcResult, Ec2Error> {
    if input.instance_tenancy.as_ref().is_some_and(|tenancy| *tenancy != Tenancy::Default) {
        return Err(invalid("The tenancy of a VPC is always default in Neargate."));
    }
    let block = input.cidr_block.ok_or_else(|| missing("cidrBlock"))?;
    let block = permissions::block(&block, true)?;
    let tags = tags::specified(input.tag_specifications, "vpc")?;
    let created = api.control.change_networks(&cx.scope, |networks, ids| {
        let id = networks.create_vpc(block, tags.clone(), ids)?;
        if input.amazon_provided_ipv6_cidr_block == Some(true) {
            networks.associate_vpc_block(&id, ids)?;
        }
        networks.vpc(&id).cloned()
    });
    let vpc = created.await.map_err(|error| error::change(&error))?;
    Ok(CreateVpcResult { vpc: Some(render::vpc(&cx.scope, &vpc)) })
}

pub(super) async fn create_default(
    api: &Ec2Api,
    cx: &RequestContext,
    _input: CreateDefaultVpcRequest,
) -> Result<CreateDefaultVpcResult, Ec2Error> {
    let block = api.control.default_vpc_block(&cx.scope).await.map_err(|error| error::store(&error))?;
    let created = api.control.change_networks(&cx.scope, |networks, ids| {
        let id = networks.create_default_vpc(block, &cx.scope.region, ids)?;
        networks.vpc(&id).cloned()
    });
    let vpc = created.await.map_err(|error| error::change(&error))?;
    Ok(CreateDefaultVpcResult { vpc: Some(render::vpc(&cx.scope, &vpc)) })
}

pub(super) async fn delete(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DeleteVpcRequest,
) -> Result<(), Ec2Error> {
    let id = ids::vpc(&input.vpc_id)?;
    let deleted = api.control.change_networks(&cx.scope, |networks, _| networks.delete_vpc(&id));
    deleted.await.map_err(|error| error::change(&error))
}

pub(super) async fn describe_attribute(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeVpcAttributeRequest,
) -> Result<DescribeVpcAttributeResult, Ec2Error> {
    let id = ids::vpc(&input.vpc_id)?;
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    networks.vpc(&id).map_err(|error| error::network(&error))?;
    let value = |value| Some(AttributeBooleanValue { value: Some(value) });
    let answer = DescribeVpcAttributeResult { vpc_id: Some(id.to_string()), ..Default::default() };
    Ok(match input.attribute {
        VpcAttributeName::EnableDnsSupport => {
            DescribeVpcAttributeResult { enable_dns_support: value(true), ..answer }
        }
        // It is about public names, of which tasks have none.
        VpcAttributeName::EnableDnsHostnames => {
            DescribeVpcAttributeResult { enable_dns_hostnames: value(false), ..answer }
        }
        VpcAttributeName::EnableNetworkAddressUsageMetrics => {
            DescribeVpcAttributeResult { enable_network_address_usage_metrics: value(false), ..answer }
        }
        VpcAttributeName::Unlisted(other) => {
            return Err(invalid(format!("Value ({other:.64}) for parameter attribute is invalid.")));
        }
    })
}
