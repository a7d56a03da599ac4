//! Versions of the Internet Protocol, as the packet filter has them: a set has keys of one type, so that whatever holds
//! addresses is there twice.

use std::net::IpAddr;

use neargate_model::Cidr;

/// A version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// The one of 32 bits.
    V4,
    /// The one of 128 bits.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// That of a block.
    pub(crate) fn of_block(block: &Cidr) -> Self {
        Self::of(block.first())
    }

    /// Its header, as rules name it.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// What matches every packet of it, and no other.
    pub(crate) fn every_packet(self) -> &'static str {
        match self {
            Self::V4 => "meta nfproto ipv4",
            Self::V6 => "meta nfproto ipv6",
        }
    }

    /// Its set, of those that have this name for IPv4.
    pub(crate) fn set(self, name: &str) -> String {
        match self {
            Self::V4 => name.to_owned(),
            Self::V6 => format!("{name}6"),
        }
    }

    /// The type of its addresses.
    pub(crate) fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }
}

/// The bytes of an address, as they are in a packet.
pub(crate) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
