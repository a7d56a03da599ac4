//! Links to other hosts, by which tasks of one VPC reach each other wherever they run: VXLAN (RFC 7348).
//!
//! ```text
//!  task ─▶ router: let out? ─▶ host7 ═ UDP, host to host ═▶ host3 ─▶ router: its address? let in? ─▶ task
//!                                                         │
//!                                        host: from that host's address? then it is stamped
//! ```
//!
//! A device is in the router's namespace and its socket in the host's, where it was made: so what it sends goes the ways
//! of the host, and a `flush` of the host's rules finds none of the router's. There is a device for each other host, with
//! a network identifier of the pair, and no learning: routes say which addresses are behind it, and the same question
//! that keeps tasks from forging addresses (`fib saddr . iif`) keeps a host from using those of another one.
//!
//! Whom a packet came from is known in the host's namespace alone, where the kernel has it with its outer address. The
//! host's table gives what has the address that belongs to its identifier a priority, the only mark of a packet which
//! the kernel leaves to it on its way into another namespace (`skb_scrub_packet`); the router drops what has none.
//! Without the host's table therefore nothing comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use neargate_model::{Cidr, HostEnd, MacAddress, SecurityGroupId};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage};

use crate::family::Family;
use crate::link::{MTU, NEW_LINK};
use crate::netlink::{Batch, Netlink, NetlinkError};
use crate::rules::{LINK_PREFIX, Picture, TABLE, UPLINK, set_of};

/// The UDP port of tunnels: not VXLAN's own, which others on the machine may use.
pub const PORT: u16 = 7879;
/// What the names of tunnels begin with, before the other host's number.
pub const TUNNEL_PREFIX: &str = "host";
/// The next hop of every tunnel. No interface has this address; a permanent neighbour entry leads to the other host's.
const HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 3);
/// Bytes before a packet in a tunnel: IP, UDP and VXLAN headers, and its own Ethernet header (RFC 7348).
const HEADERS_BYTES: u32 = 20 + 8 + 8 + 14;
/// The priority of what has come from the host that it should have come from. Others than the administrator of a
/// machine cannot give their packets any above 6 (socket(7), `SO_PRIORITY`).
const STAMP: &str = "6e67:1";

/// The security groups of tasks on other hosts, by their addresses.
pub type Remote = BTreeMap<Ipv4Addr, Vec<SecurityGroupId>>;

/// The link to another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// This host.
    pub near: HostEnd,
    /// The other one.
    pub far: HostEnd,
    /// The blocks that lead there.
    pub blocks: Vec<Cidr>,
}

impl Tunnel {
    /// The name of its device.
    pub fn name(&self) -> String {
        format!("{TUNNEL_PREFIX}{}", self.far.number)
    }

    /// What tells its packets from others: the same at both ends, and no other pair's.
    fn identifier(&self) -> u32 {
        let (near, far) = (u32::from(self.near.number.get()), u32::from(self.far.number.get()));
        near.min(far) << 12 | near.max(far)
    }

    /// What its device is made by; the kernel tells the same of one that is there.
    fn settings(&self) -> [InfoVxlan; 5] {
        [
            InfoVxlan::Id(self.identifier()),
            InfoVxlan::Group(self.far.address),
            InfoVxlan::Local(self.near.address),
            InfoVxlan::Port(PORT),
            InfoVxlan::Learning(false),
        ]
    }
}

impl Batch {
    /// Makes the device of a tunnel in the router's namespace; to be sent in the host's.
    pub fn add_tunnel(&mut self, tunnel: &Tunnel, router: BorrowedFd<'_>) {
        let mut message = LinkMessage::default();
        message.attributes.extend([
            LinkAttribute::IfName(tunnel.name()),
            LinkAttribute::Mtu(MTU - HEADERS_BYTES),
            LinkAttribute::Address(mac_of(tunnel.near).0.to_vec()),
            LinkAttribute::NetNsFd(router.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(tunnel.settings().to_vec())),
            ]),
        ]);
        self.push(
            "add link to another host",
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewLink(message),
        );
    }

    /// Has a tunnel's device carry what is for the other host's tasks, whatever of that it does already.
    pub fn lead_into_tunnel(&mut self, tunnel: &Tunnel, index: u32) {
        self.set_up(index, None);
        self.add_neighbour(index, HOP.into(), mac_of(tunnel.far));
        for block in &tunnel.blocks {
            self.add_route(*block, index, Some(HOP.into()), None);
        }
    }
}

impl Netlink {
    /// The index of a tunnel's device, if it is there and made as it should be.
    pub fn tunnel(&self, tunnel: &Tunnel) -> Result<Option<u32>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(tunnel.name()));
        let mut batch = Batch::default();
        batch.push("find link to another host", 0, RouteNetlinkMessage::GetLink(message));
        let mut found = None;
        let asked = self.ask(batch, |message_type, payload| {
            let link = LinkMessage::parse(payload).ok().filter(|_| message_type == NEW_LINK);
            found = link.filter(|link| is_made_by(link, &tunnel.settings())).map(|link| link.header.index);
        });
        match asked {
            Err(error) if error.source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                Ok(None)
            }
            asked => asked.map(|()| found),
        }
    }
}

fn is_made_by(link: &LinkMessage, settings: &[InfoVxlan]) -> bool {
    let data = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        }),
        _ => None,
    });
    data.is_some_and(|data| settings.iter().all(|setting| data.contains(setting)))
}

/// The hardware address of a host's end of its tunnels. The kernel takes a packet from its own for a loop, so that the
/// two ends of one differ.
fn mac_of(end: HostEnd) -> MacAddress {
    let [high, low] = end.number.get().to_be_bytes();
    MacAddress([0x0a, 0x6e, 0x67, 3, high, low])
}

/// The parts of the router's table that are about tunnels. Segments of TCP are made to fit into one from the first; of
/// the rest the sender is told that it is too large. A task that sent to the port of tunnels beyond the host would do so
/// by the host's own address, which others take for the host.
pub(crate) fn chains() -> String {
    format!(
        r#"    chain from_hosts {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{TUNNEL_PREFIX}*" meta priority != {STAMP} drop
        iifname "{TUNNEL_PREFIX}*" fib saddr . iif oif missing drop
    }}
    chain to_hosts {{
        type filter hook forward priority mangle; policy accept;
        iifname "{LINK_PREFIX}*" oifname "{UPLINK}" udp dport {PORT} drop
        oifname "{TUNNEL_PREFIX}*" tcp flags syn tcp option maxseg size set rt mtu
    }}
"#
    )
}

/// The parts of the host's table that are about tunnels. The identifier is the fifth to seventh byte of the datagram.
/// What the kernel itself sends has no user, other than what a program sends; only root's may pass for the host.
pub(crate) fn host_chains(tunnels: &[Tunnel]) -> String {
    if tunnels.is_empty() {
        return String::new();
    }
    let mut text =
        String::from("    chain tunnels {\n        type filter hook input priority raw; policy accept;\n");
    for tunnel in tunnels {
        let (from, identifier) = (tunnel.far.address, tunnel.identifier());
        let _ = writeln!(
            text,
            "        udp dport {PORT} ip saddr {from} @th,96,24 {identifier:#x} meta priority set {STAMP}"
        );
    }
    let _ = write!(
        text,
        r#"    }}
    chain tunnels_out {{
        type filter hook output priority filter; policy accept;
        udp dport {PORT} meta skuid != 0 drop
    }}
"#
    );
    text
}

impl Picture {
    /// What has come and gone since `before` of tasks on other hosts, for those groups that have a set.
    pub fn render_moves(&self, before: &Remote, sets: &BTreeSet<SecurityGroupId>) -> String {
        let mut text = String::new();
        for (verb, these, others) in [("delete", before, &self.remote), ("add", &self.remote, before)] {
            for (address, groups) in these {
                let is_there = |group: &&SecurityGroupId| {
                    others.get(address).is_some_and(|groups| groups.contains(group))
                };
                for group in groups.iter().filter(|group| sets.contains(group) && !is_there(group)) {
                    let set = set_of(group, Family::V4);
                    let _ = writeln!(text, "{verb} element inet {TABLE} {set} {{ {address} }}");
                }
            }
        }
        text
    }
}
