//! Interfaces in VPCs and security groups, as they cross the supervisor's socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use neargate_ipc::channel::MESSAGE_MAX;
use neargate_model::vpc::RULES_MAX;
use neargate_model::{
    Cidr, MacAddress, Peer, SecurityGroupId, SecurityGroupRules, SecurityRule, TaskNetwork, Traffic,
};
use neargate_network::bandwidth::Bandwidth;
use neargate_network::rules::Policy;

use crate::failure::Failure;
use crate::protocol::{
    BlockPlan, GroupPlan, InterfacePlan, NetworkPlan, PeerPlan, Request, RulePlan, TrafficPlan,
};

/// An interface as the supervisor uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) address: Ipv4Addr,
    /// What it has of IPv6, if anything.
    pub(crate) v6: Option<InterfaceV6>,
    pub(crate) mac: MacAddress,
    pub(crate) groups: Vec<SecurityGroupId>,
    pub(crate) vpc: Cidr,
    /// How much passes it.
    pub(crate) bandwidth: Option<Bandwidth>,
}

/// The IPv6 address of an interface, and the block of its VPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InterfaceV6 {
    pub(crate) address: Ipv6Addr,
    pub(crate) vpc: Cidr,
}

impl Interface {
    /// Its addresses, one of each version of the protocol that it has.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.address.into()).chain(self.address_v6().map(IpAddr::from)).collect()
    }

    /// Its address of IPv6.
    pub(crate) fn address_v6(&self) -> Option<Ipv6Addr> {
        self.v6.map(|v6| v6.address)
    }

    /// What decides about its packets.
    pub(crate) fn policy(&self) -> Policy {
        Policy { groups: self.groups.clone(), vpc: self.vpc }
    }
}

impl NetworkPlan {
    /// Whether the task's user namespace owns it.
    pub(crate) fn is_managed(&self) -> bool {
        matches!(
            self,
            Self::Managed {} | Self::Vpc { managed: true, .. } | Self::Bridge { managed: true, .. }
        )
    }

    /// Whether it is like that of most tasks, one that can be made before it is known for which.
    pub(crate) fn is_usual(&self) -> bool {
        matches!(self, Self::Own {} | Self::Vpc { managed: false, .. } | Self::Bridge { managed: false, .. })
    }

    /// Whether it leads to the router.
    pub(crate) fn is_linked(&self) -> bool {
        matches!(self, Self::Vpc { .. } | Self::Bridge { .. })
    }

    /// The interface of one that has one for all containers.
    pub(crate) fn interface(&self) -> Result<Option<Interface>, Failure> {
        match self {
            Self::Vpc { interface, .. } => interface.read().map(Some),
            Self::Own {} | Self::Managed {} | Self::Host {} | Self::Bridge { .. } => Ok(None),
        }
    }
}

impl InterfacePlan {
    /// What the supervisor is told of a task's interface.
    pub(crate) fn of(network: &TaskNetwork, mbps: Option<u32>) -> Self {
        let mac = network.mac.0.iter().fold(0, |mac, byte| mac << 8 | u64::from(*byte));
        let groups = network.groups.iter().map(ToString::to_string).collect();
        let v6 = network.address_v6.zip(network.vpc_block_v6);
        Self {
            address: network.address.to_bits(),
            address_v6: v6.map(|(address, _)| address.to_bits()),
            mac,
            groups,
            vpc: BlockPlan::of(&network.vpc_block),
            vpc_v6: v6.map(|(_, vpc)| BlockPlan::of(&vpc)),
            mbps,
        }
    }

    /// The same, checked.
    pub(crate) fn read(&self) -> Result<Interface, Failure> {
        let [_, _, mac @ ..] = self.mac.to_be_bytes();
        let groups = self.groups.iter().map(|group| group_id(group)).collect::<Result<_, _>>()?;
        let address = Ipv4Addr::from_bits(self.address);
        let vpc = self.vpc.read()?;
        let is_sound = vpc.contains(address.into()) && mac[0] & 1 == 0;
        let bandwidth = self.mbps.map(Bandwidth::from_mbps);
        let v6 = self.read_v6()?;
        let interface = Interface { address, v6, mac: MacAddress(mac), groups, vpc, bandwidth };
        if is_sound { Ok(interface) } else { Err(malformed()) }
    }

    fn read_v6(&self) -> Result<Option<InterfaceV6>, Failure> {
        match (self.address_v6, &self.vpc_v6) {
            (None, None) => Ok(None),
            (Some(address), Some(vpc)) => {
                let (address, vpc) = (Ipv6Addr::from_bits(address), vpc.read()?);
                let v6 = InterfaceV6 { address, vpc };
                vpc.contains(address.into()).then_some(Some(v6)).ok_or_else(malformed)
            }
            (Some(_), None) | (None, Some(_)) => Err(malformed()),
        }
    }
}

impl BlockPlan {
    pub(crate) fn of(block: &Cidr) -> Self {
        let first = match block.first() {
            IpAddr::V4(first) => first.octets().to_vec(),
            IpAddr::V6(first) => first.octets().to_vec(),
        };
        Self { first, prefix: block.prefix().into() }
    }

    pub(crate) fn read(&self) -> Result<Cidr, Failure> {
        let v4 =
            |bytes: &Vec<u8>| <[u8; 4]>::try_from(bytes.as_slice()).map(|v4| IpAddr::V4(Ipv4Addr::from(v4)));
        let v6 =
            |bytes: &Vec<u8>| <[u8; 16]>::try_from(bytes.as_slice()).map(|v6| IpAddr::V6(Ipv6Addr::from(v6)));
        let first = v4(&self.first).or_else(|_| v6(&self.first)).map_err(|_| malformed())?;
        let block = u8::try_from(self.prefix).ok().and_then(|prefix| Cidr::containing(first, prefix));
        block.filter(|block| block.first() == first).ok_or_else(malformed)
    }
}

/// Security groups in one message: a rule takes less than 50 bytes, and a group has [`RULES_MAX`] of them each way, so
/// that a message takes as many whatever is in them.
const GROUPS_MAX: usize = MESSAGE_MAX / (2 * RULES_MAX + 2) / 50;

/// What the supervisor is told of all groups and blocks, in as many messages as it takes.
pub(crate) fn groups_requests(groups: &[SecurityGroupRules], vpcs: &[Cidr]) -> Vec<Request> {
    let count = groups.len().div_ceil(GROUPS_MAX).max(1);
    let part = |number: usize| {
        let groups = groups.chunks(GROUPS_MAX).nth(number).unwrap_or_default();
        let more = number + 1 < count;
        let vpcs = if more { &[] } else { vpcs };
        Request::Groups {
            part: u32::try_from(number).unwrap_or(u32::MAX),
            groups: groups.iter().map(GroupPlan::of).collect(),
            vpcs: vpcs.iter().map(BlockPlan::of).collect(),
            more,
        }
    };
    (0..count).map(part).collect()
}

impl GroupPlan {
    pub(crate) fn of(rules: &SecurityGroupRules) -> Self {
        let plans = |rules: &[SecurityRule]| rules.iter().map(RulePlan::of).collect();
        Self { group: rules.group.to_string(), ingress: plans(&rules.ingress), egress: plans(&rules.egress) }
    }

    pub(crate) fn read(&self) -> Result<SecurityGroupRules, Failure> {
        let read = |plans: &[RulePlan]| plans.iter().map(RulePlan::read).collect::<Result<_, _>>();
        let (ingress, egress) = (read(&self.ingress)?, read(&self.egress)?);
        Ok(SecurityGroupRules { group: group_id(&self.group)?, ingress, egress })
    }
}

impl RulePlan {
    fn of(rule: &SecurityRule) -> Self {
        let traffic = match rule.traffic {
            Traffic::All => TrafficPlan::All {},
            Traffic::Tcp(first, last) => TrafficPlan::Tcp { first: first.into(), last: last.into() },
            Traffic::Udp(first, last) => TrafficPlan::Udp { first: first.into(), last: last.into() },
            Traffic::Icmp(kind, code) => {
                TrafficPlan::Icmp { kind: kind.map(u32::from), code: code.map(u32::from) }
            }
            Traffic::IcmpV6(kind, code) => {
                TrafficPlan::IcmpV6 { kind: kind.map(u32::from), code: code.map(u32::from) }
            }
            Traffic::Protocol(number) => TrafficPlan::Protocol { number: number.into() },
        };
        let peer = match &rule.peer {
            Peer::Block(block) => PeerPlan::Block { block: BlockPlan::of(block) },
            Peer::Group(group) => PeerPlan::Group { group: group.to_string() },
        };
        Self { traffic, peer }
    }

    fn read(&self) -> Result<SecurityRule, Failure> {
        let port = |port: u32| u16::try_from(port).map_err(|_| malformed());
        let byte = |byte: u32| u8::try_from(byte).map_err(|_| malformed());
        let part = |part: Option<u32>| part.map(byte).transpose();
        let traffic = match self.traffic {
            TrafficPlan::All {} => Traffic::All,
            TrafficPlan::Tcp { first, last } => Traffic::Tcp(port(first)?, port(last)?),
            TrafficPlan::Udp { first, last } => Traffic::Udp(port(first)?, port(last)?),
            TrafficPlan::Icmp { kind, code } => Traffic::Icmp(part(kind)?, part(code)?),
            TrafficPlan::IcmpV6 { kind, code } => Traffic::IcmpV6(part(kind)?, part(code)?),
            TrafficPlan::Protocol { number } => Traffic::Protocol(byte(number)?),
        };
        if let Traffic::Tcp(first, last) | Traffic::Udp(first, last) = traffic
            && first > last
        {
            return Err(malformed());
        }
        let peer = match &self.peer {
            PeerPlan::Block { block } => Peer::Block(block.read()?),
            PeerPlan::Group { group } => Peer::Group(group_id(group)?),
        };
        Ok(SecurityRule { traffic, peer })
    }
}

pub(crate) fn group_id(text: &str) -> Result<SecurityGroupId, Failure> {
    SecurityGroupId::new(text).map_err(|_| malformed())
}

pub(crate) fn malformed() -> Failure {
    Failure::System { step: "read the network of a task".to_owned(), errno: libc::EBADMSG }
}

#[cfg(test)]
mod tests {
    use neargate_ipc::wire::encode;

    use super::*;

    #[test]
    fn groups_come_back_as_they_went() {
        let group =
            |digit: char| SecurityGroupId::new(format!("sg-{}", digit.to_string().repeat(17))).unwrap();
        let rule = |traffic, peer: Peer| SecurityRule { traffic, peer };
        let (v4, v6) = (Peer::Block("10.0.0.0/8".parse().unwrap()), Peer::Block(Cidr::ANYWHERE_V6));
        let ingress = vec![
            rule(Traffic::All, v4.clone()),
            rule(Traffic::Tcp(0, 65_535), Peer::Group(group('b'))),
            rule(Traffic::Icmp(Some(8), None), v4),
        ];
        let egress = vec![
            rule(Traffic::IcmpV6(Some(255), Some(0)), v6.clone()),
            rule(Traffic::Udp(53, 53), v6.clone()),
            rule(Traffic::Protocol(132), v6),
        ];
        let rules = SecurityGroupRules { group: group('a'), ingress, egress };
        assert_eq!(GroupPlan::of(&rules).read().unwrap(), rules);
    }

    #[test]
    fn however_many_groups_there_are_every_message_can_be_sent() {
        let block = |number: usize| {
            Peer::Block(Cidr::containing(Ipv6Addr::from(number as u128).into(), 128).unwrap())
        };
        let rule =
            |number| SecurityRule { traffic: Traffic::Icmp(Some(255), Some(255)), peer: block(number) };
        let rules: Vec<SecurityRule> = (0..RULES_MAX).map(rule).collect();
        let group = |number: usize| SecurityGroupRules {
            group: SecurityGroupId::new(format!("sg-{number:017x}")).unwrap(),
            ingress: rules.clone(),
            egress: rules.clone(),
        };
        let groups: Vec<SecurityGroupRules> = (0..2 * GROUPS_MAX + 1).map(group).collect();
        let requests = groups_requests(&groups, &[Cidr::ANYWHERE_V4]);
        let mut told = 0;
        for (number, request) in requests.iter().enumerate() {
            assert!(encode(request).len() <= MESSAGE_MAX, "part {number}");
            let Request::Groups { groups, vpcs, more, .. } = request else { panic!("another request") };
            assert_eq!((*more, vpcs.len()), if number < 2 { (true, 0) } else { (false, 1) });
            told += groups.len();
        }
        assert_eq!((requests.len(), told), (3, groups.len()));
        assert_eq!(groups_requests(&[], &[]).len(), 1, "that there are none is told as well");
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        let vpc = || BlockPlan { first: vec![172, 31, 0, 0], prefix: 16 };
        let plan = |address: [u8; 4], mac, group: &str, vpc| InterfacePlan {
            address: u32::from_be_bytes(address),
            address_v6: None,
            mac,
            groups: vec![group.to_owned()],
            vpc,
            vpc_v6: None,
            mbps: None,
        };
        let group = "sg-0123456789abcdef0";
        assert!(plan([172, 31, 0, 5], 0x0a6e_ac1f_0005, group, vpc()).read().is_ok());
        assert!(plan([172, 32, 0, 5], 0x0a6e_ac1f_0005, group, vpc()).read().is_err());
        assert!(plan([172, 31, 0, 5], 0x0b6e_ac1f_0005, group, vpc()).read().is_err());
        assert!(plan([172, 31, 0, 5], 0x0a6e_ac1f_0005, "sg-1; drop", vpc()).read().is_err());
        for (first, prefix) in
            [(vec![172, 31, 0, 1], 16), (vec![1, 2, 3], 8), (vec![0; 4], 33), (vec![0; 4], 300)]
        {
            assert!(
                plan([172, 31, 0, 5], 0x0a6e_ac1f_0005, group, BlockPlan { first, prefix }).read().is_err()
            );
        }
        let v6 = |address_v6: u128, first: [u8; 4]| {
            let vpc_v6 = BlockPlan { first: [&first[..], &[0; 12]].concat(), prefix: 32 };
            let plan = plan([172, 31, 0, 5], 0x0a6e_ac1f_0005, group, vpc());
            InterfacePlan { address_v6: Some(address_v6), vpc_v6: Some(vpc_v6), ..plan }
        };
        assert!(v6(0xfd00_0001 << 96 | 5, [0xfd, 0, 0, 1]).read().is_ok());
        assert!(v6(0xfd00_0002 << 96 | 5, [0xfd, 0, 0, 1]).read().is_err());
        let halves = v6(5, [0; 4]);
        assert!(InterfacePlan { vpc_v6: None, ..halves.clone() }.read().is_err());
        assert!(InterfacePlan { address_v6: None, ..halves }.read().is_err());
        let rule = RulePlan {
            traffic: TrafficPlan::Tcp { first: 2, last: 1 },
            peer: PeerPlan::Block { block: vpc() },
        };
        assert!(rule.read().is_err());
    }
}
