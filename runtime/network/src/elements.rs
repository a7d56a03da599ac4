//! Elements of sets and maps of the packet filter: what a task adds, while rules stay as they are.

use std::net::IpAddr;

use neargate_model::SecurityGroupId;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::family::{Family, bytes};
use crate::netlink::Batch;
use crate::rules::{self, PolicyId, TABLE};

/// The packet filter's number among the subsystems of netfilter (`NFNL_SUBSYS_NFTABLES`).
const SUBSYSTEM: u16 = 10;

/// A task in the filter: which policy its addresses have, and the groups that others let in by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its addresses, one of each version of the protocol that it has.
    pub addresses: &'a [IpAddr],
    /// Its policy.
    pub policy: PolicyId,
    /// Those of its groups that some policy's rules name.
    pub groups: &'a [SecurityGroupId],
}

/// The batch by which a task becomes known to the filter, all of it or nothing.
pub fn enter(member: Member<'_>) -> Batch {
    batch(Table(TABLE), "add task to packet filter", Verb::Add, member.elements())
}

/// The batch by which it becomes unknown. Refused if it was not known as it is said to be.
pub fn leave(member: Member<'_>) -> Batch {
    batch(Table(TABLE), "remove task from packet filter", Verb::Delete, member.elements())
}

impl Member<'_> {
    fn elements(self) -> impl Iterator<Item = Element> {
        self.addresses.iter().flat_map(move |address| {
            let family = Family::of(*address);
            // As the mark of a packet: in the machine's order.
            let mark = self.policy.mark().to_ne_bytes().to_vec();
            let policy =
                Element { set: family.set(rules::POLICIES), key: bytes(*address), value: Some(mark) };
            let of_group =
                move |group| Element { set: rules::set_of(group, family), key: bytes(*address), value: None };
            std::iter::once(policy).chain(self.groups.iter().map(of_group))
        })
    }
}

/// The name of a table of the family `inet`.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a>(pub(crate) &'a str);

/// What is done with elements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Delete,
}

/// An element of a set, or of a map if it has a value.
pub(crate) struct Element {
    pub(crate) set: String,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Elements of one set that go into one message, so that a thousand ports are a few messages: the kernel answers each,
/// and its answers must fit into the socket. An element is at most some 60 bytes, and a list 64 KiB (`nla_len`).
const ELEMENTS_MAX: usize = 500;

impl Element {
    fn attributes(self, verb: Verb) -> ListAttribute<SetElementAttribute> {
        let mut attributes = vec![SetElementAttribute::Key(DataAttribute::Value(self.key))];
        // A key is enough to delete by.
        let value = self.value.filter(|_| verb == Verb::Add);
        attributes.extend(value.map(|value| SetElementAttribute::Data(DataAttribute::Value(value))));
        ListAttribute::Element(attributes)
    }
}

/// A batch that adds or deletes all of these elements, or none.
pub(crate) fn batch(
    table: Table<'_>,
    step: &'static str,
    verb: Verb,
    elements: impl Iterator<Item = Element>,
) -> Batch {
    let mut batch = Batch::default();
    batch.push_silent(step, control(ControlMessage::BatchBegin));
    let mut elements = elements.peekable();
    while let Some(first) = elements.next() {
        let set = first.set.clone();
        let mut of_set = vec![first.attributes(verb)];
        while of_set.len() < ELEMENTS_MAX
            && let Some(next) = elements.next_if(|next| next.set == set)
        {
            of_set.push(next.attributes(verb));
        }
        let of_set = SetElementList::Elements(of_set);
        let named = vec![SetElementList::Table(table.0.to_owned()), SetElementList::Set(set), of_set];
        let message = SetElementMessage { attributes: named };
        match verb {
            Verb::Add => batch.push(step, NLM_F_CREATE, inet(NfTablesMessage::NewSetElement(message))),
            Verb::Delete => batch.push(step, 0, inet(NfTablesMessage::DeleteSetElement(message))),
        }
    }
    batch.push_silent(step, control(ControlMessage::BatchEnd));
    batch
}

fn inet(message: NfTablesMessage) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    NetfilterMessage::new(header, NetfilterMessageInner::NfTables(message))
}

fn control(message: ControlMessage) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    NetfilterMessage::new(header, NetfilterMessageInner::None(message))
}
