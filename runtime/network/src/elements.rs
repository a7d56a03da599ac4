//! Elements of sets and maps of the packet filter: what a task adds, while rules stay as they are.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use neargate_model::SecurityGroupId;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::netlink::{Batch, Netlink, NetlinkError};
use crate::rules::{self, PolicyId, TABLE};

/// The packet filter's number among the subsystems of netfilter (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;

/// A task in the filter: which policy its address has, and the groups that others let in by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its policy.
    pub policy: PolicyId,
    /// Those of its groups that some policy's rules name.
    pub groups: &'a [SecurityGroupId],
}

/// The batch by which a task becomes known to the filter, all of it or nothing.
pub fn enter(member: Member<'_>) -> Batch {
    change(member, "add task to packet filter", |set, key, value| {
        let message = SetElementMessage { attributes: element(set, key, value) };
        (NLM_F_CREATE, NfTablesMessage::NewSetElement(message))
    })
}

impl Netlink {
    /// Whether the packet filter of the socket's namespace has a table, in the family `inet`.
    pub fn has_table(&self, name: &str) -> Result<bool, NetlinkError> {
        let attributes = vec![TableAttribute::Name(name.to_owned())];
        let mut batch = Batch::default();
        batch.push("find table", 0, inet(NfTablesMessage::GetTable(TableMessage { attributes })));
        match self.exchange(batch) {
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(false),
            asked => asked.map(|()| true),
        }
    }
}

/// The batch by which it becomes unknown. Refused if it was not known as it is said to be.
pub fn leave(member: Member<'_>) -> Batch {
    change(member, "remove task from packet filter", |set, key, _| {
        let message = SetElementMessage { attributes: element(set, key, None) };
        (0, NfTablesMessage::DeleteSetElement(message))
    })
}

fn change(
    member: Member<'_>,
    step: &'static str,
    message: impl Fn(String, Vec<u8>, Option<Vec<u8>>) -> (u16, NfTablesMessage),
) -> Batch {
    let key = || member.address.octets().to_vec();
    // As the mark of a packet: in the machine's order.
    let mark = member.policy.mark().to_ne_bytes().to_vec();
    let policy = (rules::POLICIES.to_owned(), Some(mark));
    let groups = member.groups.iter().map(|group| (rules::set_of(group), None));
    let mut batch = Batch::default();
    batch.push_silent(step, control(ControlMessage::BatchBegin));
    for (set, value) in std::iter::once(policy).chain(groups) {
        let (flags, message) = message(set, key(), value);
        batch.push(step, flags, inet(message));
    }
    batch.push_silent(step, control(ControlMessage::BatchEnd));
    batch
}

fn element(set: String, key: Vec<u8>, value: Option<Vec<u8>>) -> Vec<SetElementList> {
    let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(key))];
    attributes.extend(value.map(|value| SetElementAttribute::Data(DataAttribute::Value(value))));
    let elements = SetElementList::Elements(vec![ListAttribute::Element(attributes)]);
    vec![SetElementList::Table(TABLE.to_owned()), SetElementList::Set(set), elements]
}

fn inet(message: NfTablesMessage) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message))
}

fn control(message: ControlMessage) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    NetfilterMessage::new(header, NetfilterMessageInner::None(message))
}
