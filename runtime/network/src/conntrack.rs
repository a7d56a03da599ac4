//! What the kernel remembers of connections: forgotten when an address gets another owner.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NlasIterator};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::family::Family;
use crate::netlink::{Batch, Netlink, NetlinkError};

/// The type of an answer that is a connection: `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_NEW`.
const CONNECTION: u16 = 1 << 8;
/// Bytes before the attributes (`struct nfgenmsg`).
const HEADER_BYTES: usize = 4;
/// Length and kind before an attribute's value.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// Attributes (`linux/netfilter/nfnetlink_conntrack.h`): both directions of a connection, the addresses in one of
/// them, and these.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

impl Netlink {
    /// Forgets every connection of an address in the socket's namespace, so that nobody who has the address next goes on
    /// with one that was let through for its last owner.
    pub fn forget_connections(&self, address: IpAddr) -> Result<(), NetlinkError> {
        let family = match Family::of(address) {
            Family::V4 => NetfilterProtoFamily::IPv4,
            Family::V6 => NetfilterProtoFamily::IPv6,
        };
        self.forget(family, |one| one == address)
    }

    /// The same of many addresses. The kernel tells all connections to whoever asks for some.
    pub fn forget_connections_of(&self, is_one: impl Fn(IpAddr) -> bool) -> Result<(), NetlinkError> {
        self.forget(NetfilterProtoFamily::Unspec, is_one)
    }

    fn forget(
        &self,
        family: NetfilterProtoFamily,
        is_one: impl Fn(IpAddr) -> bool,
    ) -> Result<(), NetlinkError> {
        let question = message(family, ConntrackMessage::Get(Vec::new()));
        let found =
            self.list("list connections", question, CONNECTION, |payload| original_of(payload, &is_one))?;
        for (family, original) in found {
            let original = DefaultNla::new(CTA_TUPLE_ORIG | NLA_F_NESTED, original);
            let delete = ConntrackMessage::Delete(vec![ConntrackAttribute::Other(original)]);
            let mut batch = Batch::default();
            batch.push("forget connection", 0, message(family, delete));
            match self.exchange(batch) {
                // It has ended meanwhile.
                Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => {}
                deleted => deleted?,
            }
        }
        Ok(())
    }
}

fn message(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), NetfilterMessageInner::Conntrack(message))
}

/// The family and the original direction of a connection in which one of these addresses takes part, as the kernel tells
/// it.
fn original_of(payload: &[u8], is_one: impl Fn(IpAddr) -> bool) -> Option<(NetfilterProtoFamily, Vec<u8>)> {
    let (header, told) = payload.split_at_checked(HEADER_BYTES)?;
    let tuples = attributes(told);
    let is_of = |tuple: &[u8]| {
        let addresses = attributes(tuple).into_iter().filter(|(kind, _)| *kind == CTA_TUPLE_IP);
        addresses
            .flat_map(|(_, addresses)| attributes(addresses))
            .any(|(kind, value)| address_of(kind, value).is_some_and(&is_one))
    };
    let takes_part = tuples
        .iter()
        .any(|(kind, tuple)| (*kind == CTA_TUPLE_ORIG || *kind == CTA_TUPLE_REPLY) && is_of(tuple));
    let original = tuples.iter().find(|(kind, _)| *kind == CTA_TUPLE_ORIG);
    original.filter(|_| takes_part).map(|(_, tuple)| (header[0].into(), tuple.to_vec()))
}

fn address_of(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        CTA_IP_V4_SRC | CTA_IP_V4_DST => {
            <[u8; 4]>::try_from(value).ok().map(|bytes| Ipv4Addr::from(bytes).into())
        }
        CTA_IP_V6_SRC | CTA_IP_V6_DST => {
            <[u8; 16]>::try_from(value).ok().map(|bytes| Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The kinds and values of attributes.
fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let valid = NlasIterator::new(bytes).map_while(Result::ok);
    let parts = valid.filter_map(|attribute| {
        let (kind, end) = (attribute.kind() & !NLA_F_NESTED, usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(ATTRIBUTE_HEADER_BYTES..end)?))
    });
    parts.collect()
}
