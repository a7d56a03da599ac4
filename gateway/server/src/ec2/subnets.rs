//! Subnets.

use neargate_model::Scope;
use neargate_model::vpc::{BlockAssociation, Subnet, zones};
use neargate_wire::ec2::{
    CreateDefaultSubnetRequest, CreateDefaultSubnetResult, CreateSubnetRequest, CreateSubnetResult,
    DeleteSubnetRequest, DescribeSubnetsRequest, DescribeSubnetsResult, Ec2Error,
};

use super::error::{self, invalid, missing, refuse};
use super::filter::Filters;
use super::{Ec2Api, ids, page, permissions, render, tags};
use crate::RequestContext;

const FILTERS: &[&str] = &[
    "availability-zone",
    "availabilityZone",
    "availability-zone-id",
    "availabilityZoneId",
    "available-ip-address-count",
    "cidr",
    "cidrBlock",
    "cidr-block",
    "default-for-az",
    "defaultForAz",
    "enable-dns64",
    "ipv6-cidr-block-association.association-id",
    "ipv6-cidr-block-association.ipv6-cidr-block",
    "ipv6-cidr-block-association.state",
    "ipv6-native",
    "map-customer-owned-ip-on-launch",
    "map-public-ip-on-launch",
    "outpost-arn",
    "owner-id",
    "state",
    "subnet-arn",
    "subnet-id",
    "vpc-id",
];

fn field(api: &Ec2Api, scope: &Scope, subnet: &Subnet, name: &str) -> Vec<String> {
    let of_v6 = |part: fn(&BlockAssociation) -> String| subnet.block_v6.iter().map(part).collect();
    let value = match name {
        "ipv6-cidr-block-association.association-id" => return of_v6(|known| known.id.to_string()),
        "ipv6-cidr-block-association.ipv6-cidr-block" => return of_v6(|known| known.block.to_string()),
        "ipv6-cidr-block-association.state" => return of_v6(|_| "associated".to_owned()),
        "availability-zone" | "availabilityZone" => subnet.zone.clone(),
        "availability-zone-id" | "availabilityZoneId" => render::zone_id_of(&scope.region, &subnet.zone),
        "available-ip-address-count" => api.control.free_addresses(subnet).to_string(),
        "cidr" | "cidrBlock" | "cidr-block" => subnet.block.to_string(),
        "default-for-az" | "defaultForAz" => subnet.is_default.to_string(),
        "enable-dns64" | "ipv6-native" | "map-customer-owned-ip-on-launch" | "map-public-ip-on-launch" => {
            "false".to_owned()
        }
        "owner-id" => scope.account.to_string(),
        "state" => "available".to_owned(),
        "subnet-arn" => render::subnet_arn(scope, subnet).unwrap_or_default(),
        "subnet-id" => subnet.id.to_string(),
        "vpc-id" => subnet.vpc.to_string(),
        _ => return Vec::new(),
    };
    vec![value]
}

pub(super) async fn describe(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeSubnetsRequest,
) -> Result<DescribeSubnetsResult, Ec2Error> {
    let filters = Filters::read(input.filters, FILTERS)?;
    let wanted = ids::all(input.subnet_ids.as_ref(), ids::subnet)?;
    page::check_ids(wanted.len(), "subnetIds", input.max_results)?;
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    for id in &wanted {
        networks.subnet(id).map_err(|error| error::network(&error))?;
    }
    let is_wanted = |subnet: &&Subnet| {
        (wanted.is_empty() || wanted.contains(&subnet.id))
            && filters.matches(&subnet.tags, |name| field(api, &cx.scope, subnet, name))
    };
    let found: Vec<&Subnet> = networks.subnets.values().filter(is_wanted).collect();
    let (page, next_token) =
        page::cut(found, |subnet| subnet.id.to_string(), input.next_token.as_deref(), input.max_results)?;
    let shown = page.into_iter().map(|subnet| shown(api, &cx.scope, subnet));
    Ok(DescribeSubnetsResult { next_token, subnets: Some(shown.collect()) })
}

fn shown(api: &Ec2Api, scope: &Scope, subnet: &Subnet) -> neargate_wire::ec2::Subnet {
    render::subnet(scope, subnet, api.control.free_addresses(subnet))
}

/// The zone that a request names, by its name or by its id.
fn zone(cx: &RequestContext, name: Option<String>, id: Option<String>) -> Result<Option<String>, Ec2Error> {
    match (name, id) {
        (Some(_), Some(_)) => Err(refuse(
            "InvalidParameterCombination",
            "The parameters availabilityZone and availabilityZoneId may not be used together",
        )),
        (None, Some(id)) => {
            let region = &cx.scope.region;
            let found = zones(region).into_iter().find(|zone| render::zone_id_of(region, zone) == id);
            let message = format!("Value ({id:.64}) for parameter availabilityZoneId is invalid.");
            found.map(Some).ok_or_else(|| invalid(message))
        }
        (name, None) => Ok(name),
    }
}

pub(super) async fn create(
    api: &Ec2Api,
    cx: &RequestContext,
    input: CreateSubnetRequest,
) -> Result<CreateSubnetResult, Ec2Error> {
    let vpc = ids::vpc(&input.vpc_id)?;
    let block = input.cidr_block.ok_or_else(|| missing("cidrBlock"))?;
    let block = permissions::block(&block, true)?;
    let block_v6 = input.ipv6_cidr_block.map(|block| permissions::block(&block, false)).transpose()?;
    let zone = zone(cx, input.availability_zone, input.availability_zone_id)?;
    let tags = tags::specified(input.tag_specifications, "subnet")?;
    let region = &cx.scope.region;
    let created = api.control.change_networks(&cx.scope, |networks, ids| {
        let id = networks.create_subnet(&vpc, block, zone.as_deref(), region, tags.clone(), ids)?;
        block_v6.map(|block| networks.associate_subnet_block(&id, block, ids)).transpose()?;
        networks.subnet(&id).cloned()
    });
    let subnet = created.await.map_err(|error| error::change(&error))?;
    subnet.block_v6.iter().for_each(|association| api.control.open_block(association));
    Ok(CreateSubnetResult { subnet: Some(shown(api, &cx.scope, &subnet)) })
}

pub(super) async fn create_default(
    api: &Ec2Api,
    cx: &RequestContext,
    input: CreateDefaultSubnetRequest,
) -> Result<CreateDefaultSubnetResult, Ec2Error> {
    let zone = zone(cx, input.availability_zone, input.availability_zone_id)?;
    let zone = zone.ok_or_else(|| missing("availabilityZone"))?;
    let created = api.control.change_networks(&cx.scope, |networks, ids| {
        let id = networks.create_default_subnet(&zone, &cx.scope.region, ids)?;
        networks.subnet(&id).cloned()
    });
    let subnet = created.await.map_err(|error| error::change(&error))?;
    Ok(CreateDefaultSubnetResult { subnet: Some(shown(api, &cx.scope, &subnet)) })
}

pub(super) async fn delete(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DeleteSubnetRequest,
) -> Result<(), Ec2Error> {
    let id = ids::subnet(&input.subnet_id)?;
    api.control.delete_subnet(&cx.scope, &id).await.map_err(|error| error::change(&error))
}
