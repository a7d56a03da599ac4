//! Network interfaces: those of tasks, which RunTask makes.

use std::collections::BTreeSet;

use neargate_model::NetworkInterfaceId;
use neargate_model::vpc::{NetworkError, NetworkInterface, Networks, private_dns_name};
use neargate_wire::ec2::{DescribeNetworkInterfacesRequest, DescribeNetworkInterfacesResult, Ec2Error};

use super::filter::Filters;
use super::{Ec2Api, error, ids, page, render};
use crate::RequestContext;

const FILTERS: &[&str] = &[
    "addresses.association.owner-id",
    "addresses.association.public-ip",
    "addresses.primary",
    "addresses.private-ip-address",
    "association.allocation-id",
    "association.association-id",
    "association.ip-owner-id",
    "association.public-dns-name",
    "association.public-ip",
    "attachment.attach-time",
    "attachment.attachment-id",
    "attachment.delete-on-termination",
    "attachment.device-index",
    "attachment.instance-id",
    "attachment.instance-owner-id",
    "attachment.nat-gateway-id",
    "attachment.status",
    "availability-zone",
    "description",
    "group-id",
    "group-name",
    "interface-type",
    "ipv6-addresses.ipv6-address",
    "mac-address",
    "network-interface-id",
    "owner-id",
    "private-dns-name",
    "private-ip-address",
    "requester-id",
    "requester-managed",
    "source-dest-check",
    "status",
    "subnet-id",
    "vpc-id",
];

fn field(networks: &Networks, interface: &NetworkInterface, name: &str) -> Vec<String> {
    let (scope, network) = (&interface.task.scope, &interface.network);
    let value = match name {
        "addresses.private-ip-address" | "private-ip-address" => network.address.to_string(),
        "addresses.primary" | "attachment.delete-on-termination" | "source-dest-check" => "true".to_owned(),
        "attachment.attachment-id" => render::attachment_id(interface),
        "attachment.device-index" => "0".to_owned(),
        "attachment.instance-owner-id" | "owner-id" => scope.account.to_string(),
        "attachment.status" => "attached".to_owned(),
        "availability-zone" => network.zone.clone(),
        "description" => render::interface_description(interface),
        "group-id" => return network.groups.iter().map(ToString::to_string).collect(),
        "group-name" => {
            let groups = network.groups.iter().filter_map(|id| networks.groups.get(id));
            return groups.map(|group| group.name.clone()).collect();
        }
        "interface-type" => "interface".to_owned(),
        "ipv6-addresses.ipv6-address" => {
            return network.address_v6.iter().map(ToString::to_string).collect();
        }
        "mac-address" => network.mac.to_string(),
        "network-interface-id" => network.interface.to_string(),
        "private-dns-name" => private_dns_name(&scope.region, network.address),
        "requester-managed" => "false".to_owned(),
        "status" => "in-use".to_owned(),
        "subnet-id" => network.subnet.to_string(),
        "vpc-id" => network.vpc.to_string(),
        _ => return Vec::new(),
    };
    vec![value]
}

pub(super) async fn describe(
    api: &Ec2Api,
    cx: &RequestContext,
    input: DescribeNetworkInterfacesRequest,
) -> Result<DescribeNetworkInterfacesResult, Ec2Error> {
    let filters = Filters::read(input.filters, FILTERS)?;
    let wanted = ids::all(input.network_interface_ids.as_ref(), ids::interface)?;
    page::check_ids(wanted.len(), "networkInterfaceIds", input.max_results)?;
    let networks = api.control.networks(&cx.scope).await.map_err(|error| error::store(&error))?;
    let all = api.control.network_interfaces(&cx.scope).await.map_err(|error| error::store(&error))?;
    let known: BTreeSet<&NetworkInterfaceId> = all.iter().map(|one| &one.network.interface).collect();
    if let Some(id) = wanted.iter().find(|id| !known.contains(id)) {
        return Err(error::network(&NetworkError::InterfaceNotFound { id: id.clone() }));
    }
    let is_wanted = |interface: &NetworkInterface| {
        (wanted.is_empty() || wanted.contains(&interface.network.interface))
            && filters.matches(&interface.tags, |name| field(&networks, interface, name))
    };
    let found: Vec<NetworkInterface> = all.into_iter().filter(is_wanted).collect();
    let name = |interface: &NetworkInterface| interface.network.interface.to_string();
    let (page, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    let interfaces = page.iter().map(|interface| render::interface(&networks, interface)).collect();
    Ok(DescribeNetworkInterfacesResult { network_interfaces: Some(interfaces), next_token })
}
