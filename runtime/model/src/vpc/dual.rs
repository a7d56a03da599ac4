//! IPv6 blocks of VPCs and subnets.
//!
//! A block of a VPC is a part of the private addresses of RFC 4193, which nobody else routes: `fd`, 40 random bits, which
//! the VPC has as a site of its own, and 8 more. A subnet has a 256th of it, and an interface the address there that
//! ends as its IPv4 address: it is as much its own as that is, and rests with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::groups::everything_out;
use super::{Direction, NetworkError, Networks, NewIds, SecurityGroup, resource};
use crate::{BlockAssociationId, Cidr, Peer, SecurityRule, SubnetId, Traffic, VpcId};

/// Bits of the prefix of a VPC's block, as Amazon has it.
const VPC_PREFIX: u8 = 56;
/// Bits of the prefix of a subnet's block.
const SUBNET_PREFIX: u8 = 64;
/// Random bits of a VPC's block: what is between the first eight and the prefix.
const RANDOM_BITS: u32 = 48;

/// An IPv6 block that a VPC or a subnet has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockAssociation {
    /// By which it is taken back.
    pub id: BlockAssociationId,
    /// The block.
    pub block: Cidr,
}

impl Networks {
    /// Gives a VPC a block of IPv6. Its default group lets everything out there as well, unless what it lets out was
    /// changed (Amazon VPC User Guide, "Default security groups for your VPCs").
    pub fn associate_vpc_block(
        &mut self,
        id: &VpcId,
        ids: NewIds<'_>,
    ) -> Result<BlockAssociation, NetworkError> {
        if self.vpc(id)?.block_v6.is_some() {
            return Err(NetworkError::BlockLimit { of: id.to_string() });
        }
        let block = random_block(ids());
        let has_it = |block_v6: &BlockAssociation| block_v6.block == block;
        if let Some(other) = self.vpcs.values().find(|other| other.block_v6.as_ref().is_some_and(has_it)) {
            return Err(NetworkError::VpcOverlap { block, other: block, vpc: other.id.clone() });
        }
        let association = BlockAssociation { id: association_id("vpc-cidr-assoc-", ids()), block };
        if let Some(vpc) = self.vpcs.get_mut(id) {
            vpc.block_v6 = Some(association.clone());
            let group = self.groups.get_mut(&vpc.default_group);
            group.into_iter().for_each(|group| let_out(group, ids));
        }
        Ok(association)
    }

    /// Takes the block of IPv6 from a VPC of which no subnet has a part of it.
    pub fn disassociate_vpc_block(
        &mut self,
        id: &BlockAssociationId,
    ) -> Result<(VpcId, BlockAssociation), NetworkError> {
        let of = |block_v6: &Option<BlockAssociation>| block_v6.as_ref().is_some_and(|known| known.id == *id);
        let missing = || NetworkError::BlockNotFound { id: id.clone() };
        let vpc = self.vpcs.values_mut().find(|vpc| of(&vpc.block_v6)).ok_or_else(missing)?;
        if self.subnets.values().any(|subnet| subnet.vpc == vpc.id && subnet.block_v6.is_some()) {
            return Err(NetworkError::BlockInUse { id: id.clone() });
        }
        let association = vpc.block_v6.take().ok_or_else(missing)?;
        Ok((vpc.id.clone(), association))
    }

    /// Gives a subnet a part of its VPC's block of IPv6.
    pub fn associate_subnet_block(
        &mut self,
        id: &SubnetId,
        block: Cidr,
        ids: NewIds<'_>,
    ) -> Result<BlockAssociation, NetworkError> {
        let subnet = self.subnet(id)?;
        if subnet.block_v6.is_some() {
            return Err(NetworkError::BlockLimit { of: id.to_string() });
        }
        let vpc = self.vpc(&subnet.vpc)?;
        let Some(within) = vpc.block_v6.as_ref().map(|known| known.block) else {
            return Err(NetworkError::NoBlock { vpc: vpc.id.clone() });
        };
        if block.prefix() != SUBNET_PREFIX || !within.contains(block.first()) {
            return Err(NetworkError::SubnetBlock { block, within });
        }
        let has_it = |known: &BlockAssociation| known.block == block;
        let other = self.subnets.values().find(|other| other.block_v6.as_ref().is_some_and(has_it));
        if let Some(other) = other {
            return Err(NetworkError::SubnetOverlap { block, other: other.id.clone() });
        }
        let association = BlockAssociation { id: association_id("subnet-cidr-assoc-", ids()), block };
        if let Some(subnet) = self.subnets.get_mut(id) {
            subnet.block_v6 = Some(association.clone());
        }
        Ok(association)
    }

    /// The subnet that has a block by this association.
    pub fn subnet_with_block(
        &self,
        id: &BlockAssociationId,
    ) -> Result<(SubnetId, BlockAssociation), NetworkError> {
        let mut known =
            self.subnets.values().filter_map(|subnet| Some((&subnet.id, subnet.block_v6.as_ref()?)));
        let found = known.find(|(_, association)| association.id == *id);
        let found = found.ok_or_else(|| NetworkError::BlockNotFound { id: id.clone() })?;
        Ok((found.0.clone(), found.1.clone()))
    }

    /// Takes the block of IPv6 from a subnet, of which the caller knows that no interface has an address of it.
    pub fn disassociate_subnet_block(
        &mut self,
        id: &BlockAssociationId,
    ) -> Result<(SubnetId, BlockAssociation), NetworkError> {
        let (subnet, association) = self.subnet_with_block(id)?;
        if let Some(subnet) = self.subnets.get_mut(&subnet) {
            subnet.block_v6 = None;
        }
        Ok((subnet, association))
    }
}

/// The address in a subnet's block of an interface that has this one of IPv4; `None` in a block of IPv4.
pub fn address_in(block: &Cidr, address: Ipv4Addr) -> Option<Ipv6Addr> {
    match block.first() {
        IpAddr::V4(_) => None,
        IpAddr::V6(first) => Some(Ipv6Addr::from_bits(first.to_bits() | u128::from(address.to_bits()))),
    }
}

/// The block of a subnet in which an address is.
pub fn subnet_block_of(address: Ipv6Addr) -> Cidr {
    Cidr::containing(address.into(), SUBNET_PREFIX).expect("64 bits of 128")
}

/// Lets everything out of a group that lets everything out to IPv4 and has no other rule about it.
fn let_out(group: &mut SecurityGroup, ids: NewIds<'_>) {
    let everything = |peer| SecurityRule { traffic: Traffic::All, peer: Peer::Block(peer) };
    let out: Vec<&SecurityRule> = group.rules_of(Direction::Egress).map(|known| &known.rule).collect();
    if out == [&everything(Cidr::ANYWHERE_V4)] {
        group.rules.push(everything_out(Cidr::ANYWHERE_V6, ids));
    }
}

fn random_block(random: u128) -> Cidr {
    let random = random & ((1 << RANDOM_BITS) - 1);
    let first = 0xfd << 120 | random << (128 - u32::from(VPC_PREFIX));
    Cidr::containing(Ipv6Addr::from_bits(first).into(), VPC_PREFIX).expect("56 bits of 128")
}

fn association_id(prefix: &str, random: u128) -> BlockAssociationId {
    BlockAssociationId::new(resource(prefix, random)).expect("17 digits")
}
