//! Hosts that share VPCs: which addresses each gives to its tasks, and what one has to know of the others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{Cidr, SecurityGroupId};

/// The number of a host among those that share VPCs: from 1 to [`HostNumber::MAX`], each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct HostNumber(u16);

impl HostNumber {
    /// The highest one: two of them fit into the 24 bits by which VXLAN tells networks apart.
    pub const MAX: u16 = 0xfff;

    /// A host's number; `None` of what is none.
    pub fn new(number: u16) -> Option<Self> {
        (1..=Self::MAX).contains(&number).then_some(Self(number))
    }

    /// The number itself.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The part of a subnet's block from which this host gives addresses, where there are at most 2 to the power of
    /// `bits` hosts: equal parts, one after the other. So no two hosts ever give the same address, without asking each
    /// other, and a host is one route for each subnet, however many tasks it has. `None` where there is no such part.
    pub fn share_of(self, subnet: Cidr, bits: u8) -> Option<Cidr> {
        let prefix = subnet.prefix().checked_add(bits)?;
        let IpAddr::V4(first) = subnet.first() else { return None };
        let size = 1_u32.checked_shl(32_u32.checked_sub(prefix.into())?)?;
        let index = u32::from(self.0 - 1);
        let is_there = u32::from(bits) >= u32::BITS - index.leading_zeros();
        let start = first.to_bits() + index.checked_mul(size).filter(|_| is_there)?;
        Cidr::containing(Ipv4Addr::from_bits(start).into(), prefix)
    }
}

impl TryFrom<u16> for HostNumber {
    type Error = &'static str;
    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Self::new(number).ok_or("the number of a host is from 1 to 4095")
    }
}

impl From<HostNumber> for u16 {
    fn from(number: HostNumber) -> u16 {
        number.0
    }
}

impl fmt::Display for HostNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host, as others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HostEnd {
    /// Its number.
    pub number: HostNumber,
    /// Its address on the network between hosts.
    pub address: Ipv4Addr,
}

/// A host that shares VPCs with this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherHost {
    /// How it is reached.
    pub end: HostEnd,
    /// The blocks of which its tasks have their addresses, those of no other host.
    pub blocks: Vec<Cidr>,
    /// Its tasks, in whose groups others may let them in.
    pub tasks: Vec<RemoteTask>,
}

/// A task on another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteTask {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its security groups.
    pub groups: Vec<SecurityGroupId>,
}

/// The hosts that share VPCs, as one of them sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// This host.
    pub own: HostEnd,
    /// The others, at most [`Hosts::OTHERS_MAX`].
    pub others: Vec<OtherHost>,
}

impl Hosts {
    /// Most other hosts: each is a device and a rule that every packet between hosts passes.
    pub const OTHERS_MAX: usize = 64;
    /// Most blocks of all of them together; a VPC has a few subnets.
    pub const BLOCKS_MAX: usize = 4096;
    /// Most tasks on all of them together, so that what a host is told fits into one message.
    pub const TASKS_MAX: usize = 32_768;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_parts_of_a_subnet_that_do_not_overlap() {
        let check = |number: u16, subnet: &str, bits, expect: Option<&str>| {
            let share = HostNumber::new(number).unwrap().share_of(subnet.parse().unwrap(), bits);
            assert_eq!(share, expect.map(|block| block.parse().unwrap()), "{number} of {subnet}, {bits}");
        };
        check(1, "172.31.16.0/20", 0, Some("172.31.16.0/20"));
        check(2, "172.31.16.0/20", 0, None);
        check(1, "172.31.16.0/20", 4, Some("172.31.16.0/24"));
        check(2, "172.31.16.0/20", 4, Some("172.31.17.0/24"));
        check(16, "172.31.16.0/20", 4, Some("172.31.31.0/24"));
        check(17, "172.31.16.0/20", 4, None);
        check(4095, "10.0.0.0/16", 12, Some("10.0.255.224/28"));
        check(16, "10.0.0.240/28", 4, Some("10.0.0.255/32"));
        check(1, "10.0.0.240/28", 5, None);
        check(1, "0.0.0.0/0", 0, None);
        check(1, "fd00::/64", 4, None);
        let shares: Vec<Cidr> = (1..=16)
            .map(|n| HostNumber::new(n).unwrap().share_of("10.9.0.0/20".parse().unwrap(), 4).unwrap())
            .collect();
        for (at, share) in shares.iter().enumerate() {
            assert!(shares[..at].iter().all(|other| !other.overlaps(share)), "{share}");
        }
    }

    #[test]
    fn numbers_fit_into_half_a_network_identifier() {
        assert!(HostNumber::new(0).is_none() && HostNumber::new(4096).is_none());
        assert_eq!(HostNumber::new(4095).map(HostNumber::get), Some(4095));
    }
}
