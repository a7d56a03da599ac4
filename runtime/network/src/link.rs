//! Links, addresses, routes and neighbours.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use neargate_model::{Cidr, MacAddress};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable as _};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Batch, Netlink, NetlinkError};

/// The interface inside a task.
pub const TASK_INTERFACE: &str = "eth0";
/// The next hop of every task, and of the host towards them. No interface has this address; a permanent neighbour entry leads to the router.
pub const TASK_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The hardware address of the router's end of every link.
pub const ROUTER_MAC: MacAddress = MacAddress([0x0a, 0x6e, 0x67, 0, 0, 1]);
/// The hardware address of the host's end of the uplink.
pub const HOST_MAC: MacAddress = MacAddress([0x0a, 0x6e, 0x67, 0, 0, 2]);
/// The next hop of the router; as with [`TASK_GATEWAY`].
pub const HOST_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
/// As [`TASK_GATEWAY`], of IPv6.
pub const TASK_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// As [`HOST_GATEWAY`], of IPv6.
pub const HOST_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// Largest packet that crosses a link, in bytes.
pub const MTU: u32 = 1500;

/// Types of the answers to questions about links, addresses and routes.
pub(crate) const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;

/// One end of a pair of links.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address; a random one where there is none.
    pub mac: Option<MacAddress>,
}

impl Batch {
    /// Makes a pair of links, `near` in the socket's namespace and `far` in another one, both down. With an address for
    /// IPv6 neither gets one of its own accord.
    pub fn add_pair(&mut self, near: End<'_>, far: End<'_>, far_namespace: BorrowedFd<'_>) {
        let mut peer = link(far);
        peer.attributes.push(LinkAttribute::NetNsFd(far_namespace.as_raw_fd()));
        let mut message = link(near);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.push("add link", NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewLink(message));
    }

    /// Sets a link up, with a hardware address if one is given.
    pub fn set_up(&mut self, index: u32, mac: Option<MacAddress>) {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        self.push("set link up", 0, RouteNetlinkMessage::SetLink(message));
    }

    /// Gives an interface an address, without a route to its neighbours.
    pub fn add_address(&mut self, index: u32, address: IpAddr) {
        let mut message = address_of(index, address);
        message.header.scope = AddressScope::Universe;
        if address.is_ipv6() {
            // Nobody else can have it.
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        }
        self.push("add address", NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewAddress(message));
    }

    /// Routes a block to an interface, by a next hop on it if one is given, with a source address if one is given.
    pub fn add_route(&mut self, block: Cidr, index: u32, hop: Option<IpAddr>, source: Option<IpAddr>) {
        let mut message = route_of(block, index);
        message.header.protocol = RouteProtocol::Boot;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if hop.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if let Some(hop) = hop {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(hop)));
        }
        message
            .attributes
            .extend(source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
        self.push("add route", NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewRoute(message));
    }

    /// Takes back the route of a block to an interface.
    pub fn remove_route(&mut self, block: Cidr, index: u32) {
        let mut message = route_of(block, index);
        message.header.scope = RouteScope::NoWhere;
        self.push("remove route", 0, RouteNetlinkMessage::DelRoute(message));
    }

    /// Takes back an address from an interface.
    pub fn remove_address(&mut self, index: u32, address: IpAddr) {
        self.push("remove address", 0, RouteNetlinkMessage::DelAddress(address_of(index, address)));
    }

    /// Forgets a neighbour that was known for good.
    pub fn remove_neighbour(&mut self, index: u32, address: IpAddr) {
        self.push("remove neighbour", 0, RouteNetlinkMessage::DelNeighbour(neighbour_of(index, address)));
    }

    /// Makes a neighbour known for good.
    pub fn add_neighbour(&mut self, index: u32, address: IpAddr, mac: MacAddress) {
        let mut message = neighbour_of(index, address);
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        self.push("add neighbour", NLM_F_CREATE | NLM_F_REPLACE, RouteNetlinkMessage::NewNeighbour(message));
    }
}

impl Netlink {
    /// Every block that is routed to an interface, and that interface's index.
    pub fn routes(&self) -> Result<Vec<(Cidr, u32)>, NetlinkError> {
        let message = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        self.list("list routes", message, NEW_ROUTE, read_route)
    }

    /// Every address of the socket's namespace. Without link-local ones of IPv6: every interface has one, and no task
    /// reaches any.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.list("list addresses", message, NEW_ADDRESS, read_address)
    }

    /// Index and name of every interface of the socket's namespace.
    pub fn links(&self) -> Result<Vec<(u32, String)>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.list("list interfaces", message, NEW_LINK, read_link)
    }

    /// Removes a link, and its other end with it. The kernel waits for all processors then (`rcu_barrier`), some 30 ms.
    pub fn remove_link(&self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mut batch = Batch::default();
        batch.push("remove link", 0, RouteNetlinkMessage::DelLink(message));
        self.exchange(batch)
    }

    /// The index of an interface of the socket's namespace.
    pub fn index_of(&self, name: &str) -> Result<u32, NetlinkError> {
        const STEP: &str = "find interface";
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut batch = Batch::default();
        batch.push(STEP, 0, RouteNetlinkMessage::GetLink(message));
        let mut index = None;
        self.ask(batch, |message_type, payload| {
            if message_type == NEW_LINK {
                // A link message begins with its family and type; the index is the second word.
                index =
                    payload.get(4..8).and_then(|bytes| bytes.first_chunk().copied()).map(u32::from_ne_bytes);
            }
        })?;
        let missing = || NetlinkError { step: STEP, source: io::Error::from(io::ErrorKind::NotFound) };
        index.ok_or_else(missing)
    }
}

/// A block of the main table, and the interface that it leads to.
fn read_route(payload: &[u8]) -> Option<(Cidr, u32)> {
    let message = RouteMessage::parse(payload).ok()?;
    let mut first: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut index = None;
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => first = destination.into(),
            RouteAttribute::Destination(RouteAddress::Inet6(destination)) => first = destination.into(),
            RouteAttribute::Oif(oif) => index = Some(oif),
            _ => {}
        }
    }
    let is_main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    let block = Cidr::containing(first, message.header.destination_prefix_length)?;
    index.filter(|_| is_main).map(|index| (block, index))
}

fn read_address(payload: &[u8]) -> Option<IpAddr> {
    let message = AddressMessage::parse(payload).ok()?;
    // Of IPv6 the kernel tells the local address only where there is another one at the other end (rtnetlink(7)).
    let (mut local, mut address) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(told) => local = Some(told),
            AddressAttribute::Address(told) => address = Some(told),
            _ => {}
        }
    }
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    local.or(address).filter(|address| !is_link_local(address))
}

/// An index and a name.
fn read_link(payload: &[u8]) -> Option<(u32, String)> {
    let message = LinkMessage::parse(payload).ok()?;
    let name = message.attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    Some((message.header.index, name?))
}

fn link(end: End<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(MTU));
    message.attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message
}

/// What names a route, whether it comes or goes.
fn route_of(block: Cidr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(block.first());
    message.header.destination_prefix_length = block.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    if block.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(block.first())));
    }
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

/// The same of an address.
fn address_of(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = bits(address);
    message.header.index = index;
    message.attributes.extend([AddressAttribute::Local(address), AddressAttribute::Address(address)]);
    message
}

/// The same of a neighbour.
fn neighbour_of(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
