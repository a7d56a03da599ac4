//! VPCs, subnets and their addresses.

use std::net::{IpAddr, Ipv4Addr};

use super::groups::default_rules;
use super::{
    DEFAULT_GROUP, NetworkError, Networks, NewIds, PREFIX_MAX, PREFIX_MIN, SUBNETS_MAX, SecurityGroup,
    Subnet, VPCS_MAX, Vpc, check_tags, resource, zones,
};
use crate::{Cidr, Region, SecurityGroupId, SubnetId, Tags, VpcId};

/// Bits of the prefix of a default subnet, as Amazon has it in a default VPC of 16.
const DEFAULT_SUBNET_PREFIX: u8 = 20;

/// Blocks of which a VPC may have a part: private (RFC 1918) and shared ones (RFC 6598). The host routes them to its
/// tasks, so that others would take the place of somebody's.
const PRIVATE: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];

impl Networks {
    /// Makes a VPC with its default group.
    pub fn create_vpc(&mut self, block: Cidr, tags: Tags, ids: NewIds<'_>) -> Result<VpcId, NetworkError> {
        self.add_vpc(block, false, tags, ids)
    }

    /// Makes the default VPC, with a subnet in each zone.
    pub fn create_default_vpc(
        &mut self,
        block: Cidr,
        region: &Region,
        ids: NewIds<'_>,
    ) -> Result<VpcId, NetworkError> {
        if let Some(vpc) = self.default_vpc() {
            return Err(NetworkError::DefaultVpcExists { id: vpc.id.clone() });
        }
        let id = self.add_vpc(block, true, Tags::new(), ids)?;
        for zone in zones(region) {
            self.create_default_subnet(&zone, region, ids)?;
        }
        Ok(id)
    }

    /// Removes a VPC, which has neither subnets nor groups but the default one.
    pub fn delete_vpc(&mut self, id: &VpcId) -> Result<(), NetworkError> {
        let default_group = self.vpc(id)?.default_group.clone();
        let has_subnets = self.subnets.values().any(|subnet| subnet.vpc == *id);
        let has_groups = self.groups.values().any(|group| group.vpc == *id && group.id != default_group);
        if has_subnets || has_groups {
            return Err(NetworkError::VpcInUse { id: id.clone() });
        }
        self.vpcs.remove(id);
        self.groups.remove(&default_group);
        Ok(())
    }

    /// Makes a subnet; in the first zone where none is named.
    pub fn create_subnet(
        &mut self,
        vpc: &VpcId,
        block: Cidr,
        zone: Option<&str>,
        region: &Region,
        tags: Tags,
        ids: NewIds<'_>,
    ) -> Result<SubnetId, NetworkError> {
        check_tags(&tags)?;
        let zone = known_zone(zone, region)?;
        let within = self.vpc(vpc)?.block;
        if !block.is_v4()
            || !is_size(block)
            || !within.contains(block.first())
            || block.prefix() < within.prefix()
        {
            return Err(NetworkError::SubnetBlock { block, within });
        }
        let mut siblings = self.subnets.values().filter(|subnet| subnet.vpc == *vpc);
        if let Some(other) = siblings.clone().find(|subnet| subnet.block.overlaps(&block)) {
            return Err(NetworkError::SubnetOverlap { block, other: other.id.clone() });
        }
        if siblings.by_ref().count() >= SUBNETS_MAX {
            return Err(NetworkError::SubnetLimit);
        }
        let id = SubnetId::new(resource("subnet-", ids())).expect("17 digits");
        let subnet =
            Subnet { id: id.clone(), vpc: vpc.clone(), block, block_v6: None, zone, is_default: false, tags };
        self.subnets.insert(id.clone(), subnet);
        Ok(id)
    }

    /// Makes the default subnet of a zone in the default VPC, in the first place where there is room.
    pub fn create_default_subnet(
        &mut self,
        zone: &str,
        region: &Region,
        ids: NewIds<'_>,
    ) -> Result<SubnetId, NetworkError> {
        let zone = known_zone(Some(zone), region)?;
        let vpc = self.default_vpc().ok_or(NetworkError::NoDefaultVpc)?;
        let (vpc, within) = (vpc.id.clone(), vpc.block);
        let siblings: Vec<&Subnet> = self.subnets.values().filter(|subnet| subnet.vpc == vpc).collect();
        if siblings.iter().any(|subnet| subnet.is_default && subnet.zone == zone) {
            return Err(NetworkError::DefaultSubnetExists { zone });
        }
        // A VPC that is smaller than usual is divided among its zones all the same.
        let prefix = DEFAULT_SUBNET_PREFIX.max(within.prefix() + 1);
        let is_free = |block: &Cidr| siblings.iter().all(|subnet| !subnet.block.overlaps(block));
        let free = parts(within, prefix).find(is_free).ok_or(NetworkError::NoRoom)?;
        let id = self.create_subnet(&vpc, free, Some(&zone), region, Tags::new(), ids)?;
        if let Some(subnet) = self.subnets.get_mut(&id) {
            subnet.is_default = true;
        }
        Ok(id)
    }

    /// Removes a subnet, of which the caller knows that no interface is in it.
    pub fn delete_subnet(&mut self, id: &SubnetId) -> Result<(), NetworkError> {
        self.subnet(id)?;
        self.subnets.remove(id);
        Ok(())
    }

    fn add_vpc(
        &mut self,
        block: Cidr,
        is_default: bool,
        tags: Tags,
        ids: NewIds<'_>,
    ) -> Result<VpcId, NetworkError> {
        check_tags(&tags)?;
        check_vpc_block(block)?;
        if let Some(other) = self.vpcs.values().find(|vpc| vpc.block.overlaps(&block)) {
            return Err(NetworkError::VpcOverlap { block, other: other.block, vpc: other.id.clone() });
        }
        if self.vpcs.len() >= VPCS_MAX {
            return Err(NetworkError::VpcLimit);
        }
        let id = VpcId::new(resource("vpc-", ids())).expect("17 digits");
        let group = SecurityGroupId::new(resource("sg-", ids())).expect("17 digits");
        let rules = default_rules(&group, ids);
        self.groups.insert(
            group.clone(),
            SecurityGroup {
                id: group.clone(),
                vpc: id.clone(),
                name: DEFAULT_GROUP.to_owned(),
                description: "default VPC security group".to_owned(),
                rules,
                tags: Tags::new(),
            },
        );
        let vpc = Vpc { id: id.clone(), block, block_v6: None, is_default, default_group: group, tags };
        self.vpcs.insert(id.clone(), vpc);
        Ok(id)
    }
}

fn known_zone(zone: Option<&str>, region: &Region) -> Result<String, NetworkError> {
    let zones = zones(region);
    match zone {
        None => Ok(zones[0].clone()),
        Some(zone) if zones.iter().any(|known| known == zone) => Ok(zone.to_owned()),
        Some(zone) => Err(NetworkError::ZoneNotFound { zone: zone.chars().take(64).collect() }),
    }
}

fn is_size(block: Cidr) -> bool {
    (PREFIX_MIN..=PREFIX_MAX).contains(&block.prefix())
}

fn check_vpc_block(block: Cidr) -> Result<(), NetworkError> {
    let bad = |rule| Err(NetworkError::VpcBlock { block, rule });
    if !block.is_v4() {
        return bad("it is of IPv6");
    }
    if !is_size(block) {
        return bad("the prefix has 16 to 28 bits");
    }
    let holds = |(first, prefix): (Ipv4Addr, u8)| {
        Cidr::containing(IpAddr::V4(first), prefix).is_some_and(|private| private.contains(block.first()))
    };
    if !PRIVATE.into_iter().any(holds) {
        return bad("it is a part of 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12 or 192.168.0.0/16");
    }
    Ok(())
}

/// The parts of an IPv4 block that have a prefix, in order.
fn parts(within: Cidr, prefix: u8) -> impl Iterator<Item = Cidr> {
    let first = match within.first() {
        IpAddr::V4(first) => u64::from(first.to_bits()),
        IpAddr::V6(_) => 0,
    };
    let count =
        if within.is_v4() && prefix >= within.prefix() { 1_u64 << (prefix - within.prefix()) } else { 0 };
    (0..count).filter_map(move |index| {
        let address = first + (index << (32 - u32::from(prefix)));
        Cidr::containing(IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(address).ok()?)), prefix)
    })
}
