//! Virtual networks: who has which address, and who may talk to whom.
//!
//! The words are those of Amazon VPC. What is here decides and describes; the packets are `neargate-network`'s.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{InvalidId, NetworkInterfaceId, SecurityGroupId, SubnetId, VpcId};

/// The network of one task under `awsvpc`, decided when the task is accepted and the same until it has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskNetwork {
    /// The network interface.
    pub interface: NetworkInterfaceId,
    /// The id under which ECS shows that it is attached, a UUID.
    pub attachment: String,
    /// The VPC.
    pub vpc: VpcId,
    /// The addresses of the VPC.
    pub vpc_block: Cidr,
    /// The subnet in it.
    pub subnet: SubnetId,
    /// The availability zone of the subnet, for example `us-east-1a`.
    pub zone: String,
    /// The address, the task's alone.
    pub address: Ipv4Addr,
    /// The IPv6 address, where the subnet has a block of them.
    pub address_v6: Option<Ipv6Addr>,
    /// The IPv6 addresses of the VPC, where the task has one of them.
    #[serde(default)]
    pub vpc_block_v6: Option<Cidr>,
    /// The hardware address of the interface.
    pub mac: MacAddress,
    /// The security groups, 1 to 5, sorted and each once.
    pub groups: Vec<SecurityGroupId>,
}

/// A hardware address (IEEE 802, EUI-48).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The hardware address that an IPv4 address has in every VPC: locally administered, and beginning as those of
    /// EC2 do.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x0a, 0x6e, a, b, c, d])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId {
            kind: "hardware address",
            value: text.chars().take(64).collect(),
            rule: "a hardware address is six bytes in hexadecimal with colons between them",
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(bytes)) }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

/// A block of addresses, whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Every IPv4 address.
    pub const ANYWHERE_V4: Self = Self { first: IpAddr::V4(Ipv4Addr::UNSPECIFIED), prefix: 0 };
    /// Every IPv6 address.
    pub const ANYWHERE_V6: Self = Self { first: IpAddr::V6(Ipv6Addr::UNSPECIFIED), prefix: 0 };

    /// The block of this size that an address is in; `None` where the prefix is longer than the address.
    pub fn containing(address: IpAddr, prefix: u8) -> Option<Self> {
        let first = match address {
            IpAddr::V4(v4) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
            _ => return None,
        };
        Some(Self { first, prefix })
    }

    /// Its first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Its last address.
    pub fn last(&self) -> IpAddr {
        match self.first {
            IpAddr::V4(v4) => {
                let hosts = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | hosts))
            }
            IpAddr::V6(v6) => {
                let hosts = u128::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | hosts))
            }
        }
    }

    /// The bits that all its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv4.
    pub fn is_v4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::containing(address, self.prefix).is_some_and(|block| block == *self)
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Cidr {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |rule| InvalidId { kind: "CIDR block", value: text.chars().take(64).collect(), rule };
        const FORM: &str = "a CIDR block is an address, a slash and a prefix length";
        let (address, prefix) = text.split_once('/').ok_or_else(|| invalid(FORM))?;
        let address: IpAddr = address.parse().map_err(|_| invalid(FORM))?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid(FORM));
        }
        let prefix = prefix.parse().map_err(|_| invalid(FORM))?;
        let block = Self::containing(address, prefix).ok_or_else(|| invalid(FORM))?;
        if block.first == address { Ok(block) } else { Err(invalid("the bits after the prefix are zero")) }
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

/// What is let through by a rule of a security group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// Everything.
    All,
    /// TCP to ports from the first to the last.
    Tcp(u16, u16),
    /// UDP to ports from the first to the last.
    Udp(u16, u16),
    /// ICMP for IPv4 of a type and a code; `None` is every one.
    Icmp(Option<u8>, Option<u8>),
    /// ICMP for IPv6 of a type and a code; `None` is every one.
    IcmpV6(Option<u8>, Option<u8>),
    /// Another protocol, by its number.
    Protocol(u8),
}

/// The other side that a rule of a security group names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Addresses.
    Block(Cidr),
    /// Whoever is in a group.
    Group(SecurityGroupId),
}

/// A rule of a security group: what it lets through, and from or to whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SecurityRule {
    /// What.
    pub traffic: Traffic,
    /// From whom, of ingress, or to whom, of egress.
    pub peer: Peer,
}

/// The rules of one security group. What no rule lets through is dropped; answers to what was let through pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRules {
    /// The group.
    pub group: SecurityGroupId,
    /// What may come in.
    pub ingress: Vec<SecurityRule>,
    /// What may go out.
    pub egress: Vec<SecurityRule>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_and_write_and_contain() {
        let cidr = |text: &str| text.parse::<Cidr>();
        for text in
            ["0.0.0.0/0", "10.0.0.0/8", "172.31.16.0/20", "1.2.3.4/32", "::/0", "fd00:1::/64", "::1/128"]
        {
            assert_eq!(cidr(text).unwrap().to_string(), text);
        }
        for text in
            ["", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "::/129", "a/1", "1.2.3.4/+8"]
        {
            assert!(cidr(text).is_err(), "{text}");
        }
        let block = cidr("172.31.16.0/20").unwrap();
        let (first, last) = ("172.31.16.0".parse().unwrap(), "172.31.31.255".parse().unwrap());
        assert_eq!((block.first(), block.last()), (first, last));
        assert!(block.contains(first) && block.contains(last));
        assert!(!block.contains("172.31.32.0".parse().unwrap()) && !block.contains("::1".parse().unwrap()));
        assert!(
            block.overlaps(&cidr("172.31.0.0/16").unwrap())
                && !block.overlaps(&cidr("172.31.0.0/20").unwrap())
        );
        assert_eq!(Cidr::ANYWHERE_V4.last(), IpAddr::V4(Ipv4Addr::BROADCAST));
        assert_eq!(Cidr::ANYWHERE_V6, cidr("::/0").unwrap());
    }

    #[test]
    fn hardware_addresses_read_and_write() {
        let mac = MacAddress::of(Ipv4Addr::new(172, 31, 0, 255));
        assert_eq!(mac.to_string(), "0a:6e:ac:1f:00:ff");
        assert_eq!(mac.to_string().parse::<MacAddress>().unwrap(), mac);
        for text in ["", "0a:6e:ac:1f:00", "0a:6e:ac:1f:00:ff:00", "0a:6e:ac:1f:00:fg", "a:6e:ac:1f:00:fff"] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
