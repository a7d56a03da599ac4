//! Virtual private clouds: what there is of networks in one account and region, and how it may change.
//!
//! [`Networks`] is all of it as a value. Each change is a function of that value, of new identifiers and of nothing else;
//! whoever keeps the value writes down what differs afterwards. The rules are those of Amazon VPC.

mod blocks;
mod dual;
mod groups;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    BlockAssociationId, Cidr, NetworkInterfaceId, Region, SecurityGroupId, SecurityGroupRuleId,
    SecurityGroupRules, SecurityRule, SubnetId, Tags, TaskKey, TaskNetwork, Timestamp, VpcId,
};

pub use dual::{BlockAssociation, address_in, subnet_block_of};
pub use groups::NewRule;

/// VPCs of one account and region. Amazon's default is 5, which asks for a ticket to raise it; 100 is the most it gives.
pub const VPCS_MAX: usize = 100;
/// Subnets of one VPC, Amazon's default.
pub const SUBNETS_MAX: usize = 200;
/// Security groups of one account and region, Amazon's default.
pub const GROUPS_MAX: usize = 2_500;
/// Rules of a security group for each direction, Amazon's default.
pub const RULES_MAX: usize = 60;
/// Security groups of one network interface, Amazon's default.
pub const INTERFACE_GROUPS_MAX: usize = 5;
/// Tags of one resource, as everywhere at Amazon.
pub const TAGS_MAX: usize = 50;
/// Bits of the prefix of the largest block that a VPC or a subnet may have.
pub const PREFIX_MIN: u8 = 16;
/// Bits of the prefix of the smallest block that a VPC or a subnet may have.
pub const PREFIX_MAX: u8 = 28;
/// First addresses of a subnet that no interface gets: the network's, the router's, the DNS server's and a spare.
pub const RESERVED_FIRST: u32 = 4;
/// Addresses of a subnet that no interface gets: the first four, and the last, which would be for broadcasts.
pub const RESERVED: u32 = RESERVED_FIRST + 1;
/// The name of the group that every VPC has.
pub const DEFAULT_GROUP: &str = "default";
/// What follows a region's name in those of its availability zones, which are names and nothing else.
pub const ZONES: [&str; 2] = ["a", "b"];

/// Gives random numbers for new identifiers.
pub type NewIds<'a> = &'a mut dyn FnMut() -> u128;

/// Everything of one account and region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Networks {
    /// The VPCs.
    pub vpcs: BTreeMap<VpcId, Vpc>,
    /// The subnets of all of them.
    pub subnets: BTreeMap<SubnetId, Subnet>,
    /// The security groups of all of them.
    pub groups: BTreeMap<SecurityGroupId, SecurityGroup>,
}

/// A VPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// The addresses of its subnets, IPv4.
    pub block: Cidr,
    /// The same of IPv6, if it has any.
    #[serde(default)]
    pub block_v6: Option<BlockAssociation>,
    /// Whether it is the one that is meant when none is named.
    pub is_default: bool,
    /// The group of interfaces for which none is named.
    pub default_group: SecurityGroupId,
    /// Tags.
    pub tags: Tags,
}

/// A part of a VPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// Its VPC.
    pub vpc: VpcId,
    /// Its addresses, IPv4.
    pub block: Cidr,
    /// The same of IPv6, if it has any.
    #[serde(default)]
    pub block_v6: Option<BlockAssociation>,
    /// Its availability zone.
    pub zone: String,
    /// Whether it is the one of its zone that is meant when none is named.
    pub is_default: bool,
    /// Tags.
    pub tags: Tags,
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// Its VPC.
    pub vpc: VpcId,
    /// Its name, one of its kind in the VPC.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its rules in the order in which they were made.
    pub rules: Vec<GroupRule>,
    /// Tags.
    pub tags: Tags,
}

/// A rule of a security group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRule {
    /// Its id.
    pub id: SecurityGroupRuleId,
    /// Which way it lets through.
    pub direction: Direction,
    /// What it lets through.
    pub rule: SecurityRule,
    /// What it is for.
    pub description: Option<String>,
    /// Tags.
    pub tags: Tags,
}

/// Which way packets go, seen from an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the interface.
    Ingress,
    /// From the interface.
    Egress,
}

/// The network interface of a task, there from its acceptance until it has stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkInterface {
    /// Whose it is.
    pub task: TaskKey,
    /// What it is.
    pub network: TaskNetwork,
    /// When it was made.
    pub created_at: Timestamp,
    /// Tags.
    pub tags: Tags,
}

/// What a change of networks runs into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum NetworkError {
    #[error("VPC {id} does not exist")]
    VpcNotFound { id: VpcId },
    #[error("subnet {id} does not exist")]
    SubnetNotFound { id: SubnetId },
    #[error("security group {id} does not exist")]
    GroupNotFound { id: SecurityGroupId },
    #[error("security group {name:?} does not exist in the default VPC")]
    GroupNameNotFound { name: String },
    #[error("security group rule {id} does not exist")]
    RuleNotFound { id: SecurityGroupRuleId },
    #[error("network interface {id} does not exist")]
    InterfaceNotFound { id: NetworkInterfaceId },
    #[error("there is no default VPC")]
    NoDefaultVpc,
    #[error("there is a default VPC already, {id}")]
    DefaultVpcExists { id: VpcId },
    #[error("there is a default subnet in {zone} already")]
    DefaultSubnetExists { zone: String },
    #[error("the default VPC has no room for another subnet")]
    NoRoom,
    #[error("availability zone {zone} does not exist")]
    ZoneNotFound { zone: String },
    #[error("an account has at most {VPCS_MAX} VPCs")]
    VpcLimit,
    #[error("a VPC has at most {SUBNETS_MAX} subnets")]
    SubnetLimit,
    #[error("an account has at most {GROUPS_MAX} security groups")]
    GroupLimit,
    #[error("a security group has at most {RULES_MAX} rules for each direction")]
    RuleLimit,
    #[error("a resource has at most {TAGS_MAX} tags")]
    TagLimit,
    #[error("block {block} cannot be a VPC's: {rule}")]
    VpcBlock { block: Cidr, rule: &'static str },
    #[error("block {block} overlaps {other} of {vpc}")]
    VpcOverlap { block: Cidr, other: Cidr, vpc: VpcId },
    #[error("block {block} cannot be a subnet's of {within}")]
    SubnetBlock { block: Cidr, within: Cidr },
    #[error("block {block} overlaps that of {other}")]
    SubnetOverlap { block: Cidr, other: SubnetId },
    #[error("{vpc} has no block of IPv6")]
    NoBlock { vpc: VpcId },
    #[error("{of} has a block of IPv6 already")]
    BlockLimit { of: String },
    #[error("block association {id} does not exist")]
    BlockNotFound { id: BlockAssociationId },
    #[error("subnets or network interfaces have addresses by {id}")]
    BlockInUse { id: BlockAssociationId },
    #[error("{id} still has subnets or security groups")]
    VpcInUse { id: VpcId },
    #[error("{id} has network interfaces")]
    SubnetInUse { id: SubnetId },
    #[error("{id} is used by an interface or named by another group")]
    GroupInUse { id: SecurityGroupId },
    #[error("{id} is the default group of its VPC")]
    GroupIsDefault { id: SecurityGroupId },
    #[error("{vpc} has a security group {name:?} already")]
    GroupExists { name: String, vpc: VpcId },
    #[error("security group {name:?} cannot be named so: {rule}")]
    GroupName { name: String, rule: &'static str },
    #[error("security group {id} is not in {vpc}")]
    GroupElsewhere { id: SecurityGroupId, vpc: VpcId },
    #[error("subnet {id} is not in {vpc}")]
    SubnetElsewhere { id: SubnetId, vpc: VpcId },
    #[error("the group has this rule already")]
    RuleExists { rule: SecurityRule },
    #[error("the request has a rule twice")]
    RuleTwice,
    #[error("the group has no such rule")]
    NoSuchRule,
}

impl Networks {
    /// The default VPC, if it was not deleted.
    pub fn default_vpc(&self) -> Option<&Vpc> {
        self.vpcs.values().find(|vpc| vpc.is_default)
    }

    /// A VPC.
    pub fn vpc(&self, id: &VpcId) -> Result<&Vpc, NetworkError> {
        self.vpcs.get(id).ok_or_else(|| NetworkError::VpcNotFound { id: id.clone() })
    }

    /// A subnet.
    pub fn subnet(&self, id: &SubnetId) -> Result<&Subnet, NetworkError> {
        self.subnets.get(id).ok_or_else(|| NetworkError::SubnetNotFound { id: id.clone() })
    }

    /// A security group.
    pub fn group(&self, id: &SecurityGroupId) -> Result<&SecurityGroup, NetworkError> {
        self.groups.get(id).ok_or_else(|| NetworkError::GroupNotFound { id: id.clone() })
    }
}

impl SecurityGroup {
    /// Its rules of one direction.
    pub fn rules_of(&self, direction: Direction) -> impl Iterator<Item = &GroupRule> {
        self.rules.iter().filter(move |rule| rule.direction == direction)
    }

    /// What of it is enforced.
    pub fn enforced(&self) -> SecurityGroupRules {
        let of = |direction| self.rules_of(direction).map(|rule| rule.rule.clone()).collect();
        SecurityGroupRules {
            group: self.id.clone(),
            ingress: of(Direction::Ingress),
            egress: of(Direction::Egress),
        }
    }
}

impl Vpc {
    /// Its blocks.
    pub fn blocks(&self) -> impl Iterator<Item = Cidr> {
        std::iter::once(self.block).chain(self.block_v6.iter().map(|known| known.block))
    }
}

impl Subnet {
    /// How many interfaces it has room for altogether.
    pub fn capacity(&self) -> u32 {
        let size = 1_u32.checked_shl(32 - u32::from(self.block.prefix().min(32))).unwrap_or(u32::MAX);
        size.saturating_sub(RESERVED)
    }
}

/// Sets and removes tags. A tag that is to be removed with a value is removed only if it has that value.
pub fn change_tags(
    tags: &mut Tags,
    set: &Tags,
    remove: &[(String, Option<String>)],
) -> Result<(), NetworkError> {
    for (key, value) in remove {
        if value.is_none() || tags.get(key) == value.as_ref() {
            tags.remove(key);
        }
    }
    tags.extend(set.clone());
    check_tags(tags)
}

fn check_tags(tags: &Tags) -> Result<(), NetworkError> {
    if tags.len() > TAGS_MAX { Err(NetworkError::TagLimit) } else { Ok(()) }
}

/// The availability zones of a region, in order.
pub fn zones(region: &Region) -> [String; 2] {
    ZONES.map(|letter| format!("{region}{letter}"))
}

/// The id of the availability zone of a number counted from 1, as Amazon forms it: `use1-az1` in `us-east-1`.
pub fn zone_id(region: &Region, number: usize) -> String {
    let mut parts = region.as_str().split('-');
    let area = parts.next().unwrap_or_default();
    let mut id = area.to_owned();
    for part in parts {
        match part {
            "northeast" => id.push_str("ne"),
            "northwest" => id.push_str("nw"),
            "southeast" => id.push_str("se"),
            "southwest" => id.push_str("sw"),
            other if other.bytes().all(|b| b.is_ascii_digit()) => id.push_str(other),
            other => id.extend(other.chars().next()),
        }
    }
    format!("{id}-az{number}")
}

/// The domain of the names of private addresses in Amazon's DNS.
pub fn private_dns_domain(region: &Region) -> String {
    match region.as_str() {
        "us-east-1" => "ec2.internal".to_owned(),
        region => format!("{region}.compute.internal"),
    }
}

/// The name that a private address has in Amazon's DNS.
pub fn private_dns_name(region: &Region, address: Ipv4Addr) -> String {
    format!("ip-{}.{}", address.to_string().replace('.', "-"), private_dns_domain(region))
}

/// The address of such a name, of which this is the part before the domain.
pub fn address_of_private_name(host: &str) -> Option<Ipv4Addr> {
    let digits = host.strip_prefix("ip-").filter(|digits| !digits.contains('.'))?;
    digits.replace('-', ".").parse().ok()
}

/// An identifier of EC2's form from a random number.
fn resource(prefix: &str, random: u128) -> String {
    const DIGITS_17: u128 = (1 << 68) - 1;
    format!("{prefix}{:017x}", random & DIGITS_17)
}

/// A network interface's id from a random number.
pub fn interface_id(random: u128) -> NetworkInterfaceId {
    NetworkInterfaceId::new(resource("eni-", random)).expect("17 digits")
}
