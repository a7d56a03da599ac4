//! Availability zones, regions and attributes of the account.

use neargate_model::Tags;
use neargate_model::vpc::{zone_id, zones};
use neargate_wire::ec2::{
    AccountAttribute, AccountAttributeName, AccountAttributeValue, AvailabilityZone,
    AvailabilityZoneOptInStatus, AvailabilityZoneState, DescribeAccountAttributesRequest,
    DescribeAccountAttributesResult, DescribeAvailabilityZonesRequest, DescribeAvailabilityZonesResult,
    DescribeRegionsRequest, DescribeRegionsResult, Ec2Error, Region,
};

use super::Ec2Api;
use super::error::{self, invalid};
use super::filter::Filters;
use crate::RequestContext;

const ZONE_FILTERS: &[&str] = &[
    "group-long-name",
    "group-name",
    "message",
    "opt-in-status",
    "parent-zone-id",
    "parent-zone-name",
    "region-name",
    "state",
    "zone-id",
    "zone-name",
    "zone-type",
];

const REGION_FILTERS: &[&str] = &["endpoint", "opt-in-status", "region-name"];

pub(super) async fn describe_zones(
    _api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeAvailabilityZonesRequest,
) -> Result<DescribeAvailabilityZonesResult, Ec2Error> {
    let filters = Filters::read(input.filters, ZONE_FILTERS)?;
    let region = &cx.scope.region;
    let all: Vec<(String, String)> =
        zones(region).into_iter().zip(1..).map(|(name, number)| (name, zone_id(region, number))).collect();
    let (names, ids) = (input.zone_names.unwrap_or_default(), input.zone_ids.unwrap_or_default());
    if let Some(unknown) = names.iter().find(|wanted| all.iter().all(|(name, _)| name != *wanted)) {
        return Err(invalid(format!("Invalid availability zone: [{unknown:.64}]")));
    }
    if let Some(unknown) = ids.iter().find(|wanted| all.iter().all(|(_, id)| id != *wanted)) {
        return Err(invalid(format!("Invalid availability zone-id: [{unknown:.64}]")));
    }
    let is_wanted = |(name, id): &&(String, String)| {
        let is_named = names.is_empty() && ids.is_empty() || names.contains(name) || ids.contains(id);
        is_named
            && filters.matches(&Tags::new(), |filter| {
                let value = match filter {
                    "group-name" => format!("{region}-zg-1"),
                    "opt-in-status" => "opt-in-not-required".to_owned(),
                    "region-name" => region.to_string(),
                    "state" => "available".to_owned(),
                    "zone-id" => id.clone(),
                    "zone-name" => name.clone(),
                    "zone-type" => "availability-zone".to_owned(),
                    _ => return Vec::new(),
                };
                vec![value]
            })
    };
    let shown = all.iter().filter(is_wanted).map(|(name, id)| AvailabilityZone {
        opt_in_status: Some(AvailabilityZoneOptInStatus::OptInNotRequired),
        region_name: Some(region.to_string()),
        zone_name: Some(name.clone()),
        zone_id: Some(id.clone()),
        group_name: Some(format!("{region}-zg-1")),
        network_border_group: Some(region.to_string()),
        zone_type: Some("availability-zone".to_owned()),
        state: Some(AvailabilityZoneState::Available),
    });
    Ok(DescribeAvailabilityZonesResult { availability_zones: Some(shown.collect()) })
}

/// Every region works here, and has what was made in it; the one that is asked is the one that is shown.
pub(super) async fn describe_regions(
    _api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeRegionsRequest,
) -> Result<DescribeRegionsResult, Ec2Error> {
    let filters = Filters::read(input.filters, REGION_FILTERS)?;
    let region = cx.scope.region.as_str();
    let names = input.region_names.unwrap_or_default();
    if let Some(unknown) = names.iter().find(|name| *name != region) {
        return Err(invalid(format!("Invalid region names provided: {unknown:.64}")));
    }
    let endpoint = format!("ec2.{region}.amazonaws.com");
    let is_wanted = filters.matches(&Tags::new(), |filter| {
        vec![match filter {
            "endpoint" => endpoint.clone(),
            "opt-in-status" => "opt-in-not-required".to_owned(),
            _ => region.to_owned(),
        }]
    });
    let shown = Region {
        opt_in_status: Some("opt-in-not-required".to_owned()),
        region_name: Some(region.to_owned()),
        endpoint: Some(endpoint.clone()),
    };
    Ok(DescribeRegionsResult { regions: Some(is_wanted.then_some(shown).into_iter().collect()) })
}

pub(super) async fn describe_account(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeAccountAttributesRequest,
) -> Result<DescribeAccountAttributesResult, Ec2Error> {
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    let default = networks.default_vpc().map_or("none".to_owned(), |vpc| vpc.id.to_string());
    let all = [
        (AccountAttributeName::SupportedPlatforms, "VPC".to_owned()),
        (AccountAttributeName::DefaultVpc, default),
    ];
    let names = input.attribute_names.unwrap_or_default();
    let wanted = all.into_iter().filter(|(name, _)| names.is_empty() || names.contains(name));
    let shown = wanted.map(|(name, value)| AccountAttribute {
        attribute_name: Some(name.as_str().to_owned()),
        attribute_values: Some(vec![AccountAttributeValue { attribute_value: Some(value) }]),
    });
    Ok(DescribeAccountAttributesResult { account_attributes: Some(shown.collect()) })
}
