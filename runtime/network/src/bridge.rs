//! Containers under `bridge`: what each may reach, and the ports of the host that lead to them.
//!
//! ```text
//!  elsewhere ─▶ host: port 8080 ─▶ 10.1.0.16 port 80 ─▶ router: is that port open? ─▶ container
//!  container ─▶ router: the host's port 8080 ─▶ 10.1.0.16 port 80 ─▶ container
//! ```
//!
//! Rules are the same however many containers there are; each is a few elements. The host's own table leads what comes
//! for one of its ports to a container; what another container sends there turns round in the router.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use neargate_model::{HostPort, PortProtocol};

use crate::elements::{Element, Table, Verb, batch};
use crate::netlink::Batch;
use crate::rules::TABLE;

/// The sets and the map of the router's table.
const BRIDGED: &str = "bridged";
const OPEN: &str = "open_ports";
const LINKS: &str = "links";
/// The map from ports of the host to containers, in the router's table and in the host's.
const PORTS: &str = "host_ports";

/// A container under `bridge`, as the packet filter knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// Its address.
    pub address: Ipv4Addr,
    /// The ports of the host that lead to it.
    pub ports: Vec<HostPort>,
    /// The addresses of containers that it may reach.
    pub links: Vec<Ipv4Addr>,
}

impl Bridged {
    /// The batch by which the router comes to know it, all of it or nothing.
    pub fn enter(&self) -> Batch {
        batch(Table(TABLE), "add container to packet filter", Verb::Add, self.elements())
    }

    /// The batch by which the router forgets it.
    pub fn leave(&self) -> Batch {
        batch(Table(TABLE), "remove container from packet filter", Verb::Delete, self.elements())
    }

    /// The batch by which the host leads its ports to it; `table` is the host's.
    pub fn publish(&self, table: &str) -> Batch {
        batch(Table(table), "lead ports of the host to a container", Verb::Add, self.host_ports())
    }

    /// The batch that takes that back.
    pub fn withdraw(&self, table: &str) -> Batch {
        batch(Table(table), "take ports of the host back", Verb::Delete, self.host_ports())
    }

    fn elements(&self) -> impl Iterator<Item = Element> {
        let own = Element { set: BRIDGED.to_owned(), key: self.address.octets().to_vec(), value: None };
        let open = self.open_ports().into_iter().map(|(protocol, port)| Element {
            set: OPEN.to_owned(),
            key: [&self.address.octets()[..], &protocol_bytes(protocol), &port_bytes(port)].concat(),
            value: None,
        });
        let links = self.links.iter().map(|to| Element {
            set: LINKS.to_owned(),
            key: [self.address.octets(), to.octets()].concat(),
            value: None,
        });
        std::iter::once(own).chain(open).chain(links).chain(self.host_ports())
    }

    fn host_ports(&self) -> impl Iterator<Item = Element> {
        self.ports.iter().map(|port| Element {
            set: PORTS.to_owned(),
            key: [protocol_bytes(port.protocol), port_bytes(port.host_port)].concat(),
            value: Some([self.address.octets(), port_bytes(port.container_port)].concat()),
        })
    }

    /// Its ports to which one of the host leads, each once.
    fn open_ports(&self) -> std::collections::BTreeSet<(PortProtocol, u16)> {
        self.ports.iter().map(|port| (port.protocol, port.container_port)).collect()
    }

    /// As [`Self::enter`], as text for `nft`.
    pub(crate) fn render(&self, text: &mut String) {
        let address = self.address;
        let mut add = |set: &str, element: String| {
            let _ = writeln!(text, "add element inet {TABLE} {set} {{ {element} }}");
        };
        add(BRIDGED, address.to_string());
        for (protocol, port) in self.open_ports() {
            add(OPEN, format!("{address} . {protocol} . {port}"));
        }
        self.links.iter().for_each(|to| add(LINKS, format!("{address} . {to}")));
        self.render_host(text, TABLE);
    }

    /// As [`Self::publish`], as text for `nft`.
    pub(crate) fn render_host(&self, text: &mut String, table: &str) {
        for HostPort { protocol, host_port, container_port } in &self.ports {
            let (key, to) =
                (format!("{protocol} . {host_port}"), format!("{} . {container_port}", self.address));
            let _ = writeln!(text, "add element inet {table} {PORTS} {{ {key} : {to} }}");
        }
    }
}

/// The parts of the router's table that are about containers under `bridge`. `from_bridged` comes before the rules of
/// groups, and `to_bridged` in their place.
pub(crate) fn chains() -> String {
    format!(
        r#"    set {BRIDGED} {{ type ipv4_addr; }}
    set {OPEN} {{ type ipv4_addr . inet_proto . inet_service; }}
    set {LINKS} {{ type ipv4_addr . ipv4_addr; }}
    {ports}

    chain to_host_ports {{
        type nat hook prerouting priority dstnat; policy accept;
        ip saddr @{BRIDGED} ip daddr @hosts {LEAD}
    }}
    chain from_bridged {{
        ct status dnat accept
        ip saddr . ip daddr @{LINKS} accept
        ip daddr @vpcs drop
    }}
    chain to_bridged {{
        ip daddr . meta l4proto . th dport @{OPEN} return
        drop
    }}
"#,
        ports = ports_map(),
    )
}

/// The jumps into the chains, from the chain of packets that come from a task and that of packets to one.
pub(crate) fn jumps() -> (String, String) {
    let from = format!("ip saddr @{BRIDGED} goto from_bridged");
    (from, format!("ip daddr @{BRIDGED} goto to_bridged"))
}

/// The parts of the host's table that lead ports to containers. Loopback addresses are left out: an answer to one would
/// have to come in from outside (`route_localnet`), and then anybody's packet could (CVE-2020-8558).
pub(crate) fn host_chains(uplinks: &str) -> String {
    format!(
        r#"    {ports}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname != "{uplinks}*" fib daddr type local {LEAD}
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local {LEAD}
    }}
"#,
        ports = ports_map(),
    )
}

/// Leads a packet to the container whose port it is for, if it is one's.
const LEAD: &str = "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @host_ports";

fn ports_map() -> String {
    format!("map {PORTS} {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}")
}

/// Parts of a concatenation are padded to four bytes each.
fn protocol_bytes(protocol: PortProtocol) -> [u8; 4] {
    [protocol.number(), 0, 0, 0]
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
