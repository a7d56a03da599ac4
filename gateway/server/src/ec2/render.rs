//! From the model to EC2's shapes.

use neargate_model::vpc::{
    BlockAssociation, Direction, GroupRule, NetworkInterface, Networks, SecurityGroup, Subnet, Vpc,
    private_dns_name, zone_id, zones,
};
use neargate_model::{Arn, Peer, Region, Scope};
use neargate_wire::Timestamp as WireTimestamp;
use neargate_wire::ec2;

use super::{permissions, tags};

/// Where the IPv6 blocks of VPCs come from, as EC2 names it where they are not a customer's own.
pub(super) const POOL: &str = "Amazon";

fn arn(scope: &Scope, kind: &str, id: &str) -> Option<String> {
    let resource = format!("{kind}/{id}");
    Some(Arn { service: "ec2".to_owned(), scope: scope.clone(), resource }.to_string())
}

/// The digits of an id, for the ids of what belongs to it alone.
fn digits(id: &str) -> &str {
    id.rsplit('-').next().unwrap_or_default()
}

/// The id of the association of a VPC with its block.
pub(super) fn association_id(vpc: &Vpc) -> String {
    format!("vpc-cidr-assoc-{}", digits(vpc.id.as_str()))
}

/// A VPC's block of IPv6.
pub(super) fn vpc_block(
    scope: &Scope,
    association: &BlockAssociation,
    state: ec2::VpcCidrBlockStateCode,
) -> ec2::VpcIpv6CidrBlockAssociation {
    ec2::VpcIpv6CidrBlockAssociation {
        association_id: Some(association.id.to_string()),
        ipv6_cidr_block: Some(association.block.to_string()),
        ipv6_cidr_block_state: Some(ec2::VpcCidrBlockState { state: Some(state) }),
        network_border_group: Some(scope.region.to_string()),
        ipv6_pool: Some(POOL.to_owned()),
    }
}

/// A subnet's block of IPv6.
pub(super) fn subnet_block(
    association: &BlockAssociation,
    state: ec2::SubnetCidrBlockStateCode,
) -> ec2::SubnetIpv6CidrBlockAssociation {
    ec2::SubnetIpv6CidrBlockAssociation {
        association_id: Some(association.id.to_string()),
        ipv6_cidr_block: Some(association.block.to_string()),
        ipv6_cidr_block_state: Some(ec2::SubnetCidrBlockState { state: Some(state) }),
    }
}

pub(super) fn vpc(scope: &Scope, vpc: &Vpc) -> ec2::Vpc {
    let association = ec2::VpcCidrBlockAssociation {
        association_id: Some(association_id(vpc)),
        cidr_block: Some(vpc.block.to_string()),
        cidr_block_state: Some(ec2::VpcCidrBlockState {
            state: Some(ec2::VpcCidrBlockStateCode::Associated),
        }),
    };
    ec2::Vpc {
        owner_id: Some(scope.account.to_string()),
        instance_tenancy: Some(ec2::Tenancy::Default),
        ipv6_cidr_block_association_set: Some(
            vpc.block_v6
                .iter()
                .map(|known| vpc_block(scope, known, ec2::VpcCidrBlockStateCode::Associated))
                .collect(),
        ),
        cidr_block_association_set: Some(vec![association]),
        is_default: Some(vpc.is_default),
        tags: Some(tags::to_wire(&vpc.tags)),
        vpc_id: Some(vpc.id.to_string()),
        state: Some(ec2::VpcState::Available),
        cidr_block: Some(vpc.block.to_string()),
        dhcp_options_id: Some("default".to_owned()),
    }
}

/// The id of the availability zone of a name.
pub(super) fn zone_id_of(region: &Region, zone: &str) -> String {
    let index = zones(region).iter().position(|known| known == zone);
    zone_id(region, index.map_or(0, |index| index + 1))
}

pub(super) fn subnet_arn(scope: &Scope, subnet: &Subnet) -> Option<String> {
    arn(scope, "subnet", subnet.id.as_str())
}

pub(super) fn subnet(scope: &Scope, subnet: &Subnet, free: u32) -> ec2::Subnet {
    ec2::Subnet {
        availability_zone_id: Some(zone_id_of(&scope.region, &subnet.zone)),
        map_customer_owned_ip_on_launch: Some(false),
        owner_id: Some(scope.account.to_string()),
        assign_ipv6_address_on_creation: Some(false),
        ipv6_cidr_block_association_set: Some(
            subnet
                .block_v6
                .iter()
                .map(|known| subnet_block(known, ec2::SubnetCidrBlockStateCode::Associated))
                .collect(),
        ),
        tags: Some(tags::to_wire(&subnet.tags)),
        subnet_arn: subnet_arn(scope, subnet),
        enable_dns64: Some(false),
        ipv6_native: Some(false),
        subnet_id: Some(subnet.id.to_string()),
        state: Some(ec2::SubnetState::Available),
        vpc_id: Some(subnet.vpc.to_string()),
        cidr_block: Some(subnet.block.to_string()),
        available_ip_address_count: Some(i32::try_from(free).unwrap_or(i32::MAX)),
        availability_zone: Some(subnet.zone.clone()),
        default_for_az: Some(subnet.is_default),
        // No task has a public address of its own.
        map_public_ip_on_launch: Some(false),
    }
}

pub(super) fn group_arn(scope: &Scope, id: &str) -> Option<String> {
    arn(scope, "security-group", id)
}

pub(super) fn group(scope: &Scope, group: &SecurityGroup) -> ec2::SecurityGroup {
    let of = |direction| permissions::of_direction(&scope.account, &group.rules, direction);
    ec2::SecurityGroup {
        group_id: Some(group.id.to_string()),
        ip_permissions_egress: Some(of(Direction::Egress)),
        tags: Some(tags::to_wire(&group.tags)),
        vpc_id: Some(group.vpc.to_string()),
        security_group_arn: group_arn(scope, group.id.as_str()),
        owner_id: Some(scope.account.to_string()),
        group_name: Some(group.name.clone()),
        description: Some(group.description.clone()),
        ip_permissions: Some(of(Direction::Ingress)),
    }
}

pub(super) fn rule(scope: &Scope, group: &SecurityGroup, rule: &GroupRule) -> ec2::SecurityGroupRule {
    // Unlike in permissions, a rule for everything shows ports.
    let (protocol, from, to) = permissions::traffic_parts(rule.rule.traffic);
    let (cidr_ipv4, cidr_ipv6, referenced) = peer(&rule.rule.peer);
    ec2::SecurityGroupRule {
        security_group_rule_id: Some(rule.id.to_string()),
        group_id: Some(group.id.to_string()),
        group_owner_id: Some(scope.account.to_string()),
        is_egress: Some(rule.direction == Direction::Egress),
        ip_protocol: Some(protocol),
        from_port: from.or(Some(-1)),
        to_port: to.or(Some(-1)),
        cidr_ipv4,
        cidr_ipv6,
        referenced_group_info: referenced.map(|id| ec2::ReferencedSecurityGroup {
            group_id: Some(id),
            user_id: Some(scope.account.to_string()),
            vpc_id: Some(group.vpc.to_string()),
        }),
        description: rule.description.clone(),
        tags: Some(tags::to_wire(&rule.tags)),
        security_group_rule_arn: arn(scope, "security-group-rule", rule.id.as_str()),
    }
}

pub(super) fn revoked(group: &SecurityGroup, rule: &GroupRule) -> ec2::RevokedSecurityGroupRule {
    let (protocol, from, to) = permissions::traffic_parts(rule.rule.traffic);
    let (cidr_ipv4, cidr_ipv6, referenced_group_id) = peer(&rule.rule.peer);
    ec2::RevokedSecurityGroupRule {
        security_group_rule_id: Some(rule.id.to_string()),
        group_id: Some(group.id.to_string()),
        is_egress: Some(rule.direction == Direction::Egress),
        ip_protocol: Some(protocol),
        from_port: from.or(Some(-1)),
        to_port: to.or(Some(-1)),
        cidr_ipv4,
        cidr_ipv6,
        referenced_group_id,
        description: rule.description.clone(),
    }
}

/// The three ways to name a peer, of which one is there.
fn peer(peer: &Peer) -> (Option<String>, Option<String>, Option<String>) {
    match peer {
        Peer::Block(block) if block.is_v4() => (Some(block.to_string()), None, None),
        Peer::Block(block) => (None, Some(block.to_string()), None),
        Peer::Group(group) => (None, None, Some(group.to_string())),
    }
}

/// The id of an interface's attachment, which is not the one that ECS has for it.
pub(super) fn attachment_id(interface: &NetworkInterface) -> String {
    format!("eni-attach-{}", digits(interface.network.interface.as_str()))
}

/// What ECS writes about an interface that it made.
pub(super) fn interface_description(interface: &NetworkInterface) -> String {
    let resource = format!("attachment/{}", interface.network.attachment);
    Arn { service: "ecs".to_owned(), scope: interface.task.scope.clone(), resource }.to_string()
}

pub(super) fn interface(networks: &Networks, interface: &NetworkInterface) -> ec2::NetworkInterface {
    let (scope, network) = (&interface.task.scope, &interface.network);
    let dns_name = private_dns_name(&scope.region, network.address);
    let group = |id: &neargate_model::SecurityGroupId| ec2::GroupIdentifier {
        group_id: Some(id.to_string()),
        group_name: networks.groups.get(id).map(|group| group.name.clone()),
    };
    ec2::NetworkInterface {
        attachment: Some(ec2::NetworkInterfaceAttachment {
            attach_time: Some(WireTimestamp::from_millis(interface.created_at.as_millis())),
            attachment_id: Some(attachment_id(interface)),
            delete_on_termination: Some(true),
            device_index: Some(0),
            network_card_index: Some(0),
            instance_owner_id: Some(scope.account.to_string()),
            status: Some(ec2::AttachmentStatus::Attached),
        }),
        availability_zone: Some(network.zone.clone()),
        description: Some(interface_description(interface)),
        groups: Some(network.groups.iter().map(group).collect()),
        interface_type: Some("interface".to_owned()),
        ipv6_addresses: Some(
            network
                .address_v6
                .iter()
                .map(|address| ec2::NetworkInterfaceIpv6Address { ipv6_address: Some(address.to_string()) })
                .collect(),
        ),
        mac_address: Some(network.mac.to_string()),
        network_interface_id: Some(network.interface.to_string()),
        owner_id: Some(scope.account.to_string()),
        private_dns_name: Some(dns_name.clone()),
        private_ip_address: Some(network.address.to_string()),
        private_ip_addresses: Some(vec![ec2::NetworkInterfacePrivateIpAddress {
            primary: Some(true),
            private_dns_name: Some(dns_name),
            private_ip_address: Some(network.address.to_string()),
        }]),
        requester_managed: Some(false),
        source_dest_check: Some(true),
        status: Some(ec2::NetworkInterfaceStatus::InUse),
        subnet_id: Some(network.subnet.to_string()),
        tag_set: Some(tags::to_wire(&interface.tags)),
        vpc_id: Some(network.vpc.to_string()),
    }
}
