//! The rules of the router, as text for `nft` (nft(8)).
//!
//! ```text
//!  task ─▶ prerouting ─▶ forward ─▶ from_task ─▶ out_<policy> ─▶ to_task ─▶ in_<policy> ─▶ task
//!          own address?   new?      which policy?  let out?                   let in?
//! ```
//!
//! What differs between tasks is in maps and sets alone: an address has a *policy*, the set of groups that a task is
//! in, and rules exist once for each policy. So a task is two elements or a few more ([`elements`](crate::elements)),
//! and a changed rule is one chain, however many tasks there are. An address without a policy and a policy without
//! rules let nothing through.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use neargate_model::{Cidr, Peer, SecurityGroupId, SecurityGroupRules, SecurityRule, Traffic};

use crate::bandwidth::{self, Bandwidth};
use crate::bridge::{self, Bridged};
use crate::family::Family;
use crate::tunnel::{self, Remote, Tunnel};

/// The name of the table, in the family `inet`.
pub const TABLE: &str = "neargate";
/// The map from addresses to policies.
pub(crate) const POLICIES: &str = "policies";
/// Where tasks find out about themselves, and their credentials.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 170, 2);
/// Where tasks ask for names.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
/// What no task reaches: loopback, link-local, multicast and broadcast addresses, and those by which other clouds tell
/// machines their secrets.
const UNREACHABLE: &str =
    "127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 255.255.255.255, 168.63.129.16, 100.100.100.200";
/// The same of IPv6, with what stands for an address of IPv4 (`::/8`, which has mapped ones and those of NAT64, and 6to4):
/// who is forbidden one way must not be reached another way. Amazon and Google tell machines their secrets at the last
/// two.
const UNREACHABLE_V6: &str = "::/8, 2002::/16, fe80::/10, fec0::/10, ff00::/8, fd00:ec2::/32, fd20:ce::254";
/// Messages by which those on one link find and lead each other (RFC 4861) and tell their groups (RFC 2710, RFC 3810).
const OF_ONE_LINK: &str = "130-137, 143";
/// Connections that a task may have opened at a time by each version of the protocol, so that none uses up what the kernel remembers of all.
const CONNECTIONS_MAX: u32 = 8192;
/// Questions for names that a task may send, the number that Amazon has for an interface (VPC User Guide, "DNS quotas").
/// What is more does not reach the socket of the resolver, which is one for all.
const QUESTIONS_PER_S: u32 = 1024;
/// What the names of the router's links to tasks begin with; the uplink's does not.
pub const LINK_PREFIX: &str = "ng";
/// What the names of the host's ends of uplinks begin with.
pub const UPLINK_PREFIX: &str = "ngu";
/// The router's end of the uplink.
pub const UPLINK: &str = "up0";

/// A set of groups, as the packet filter knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId(u32);

impl PolicyId {
    /// The policy of sorted groups: the same wherever and whenever it is worked out (FNV-1a). Two sets may share one,
    /// with a likelihood of one in four billion, which whoever enters them has to find out.
    pub fn of(groups: &[SecurityGroupId]) -> Self {
        let bytes = groups.iter().flat_map(|group| group.as_str().bytes().chain([b',']));
        let hash =
            bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        // A packet of no task has no mark.
        Self(hash.max(1))
    }

    /// What packets are marked with.
    pub(crate) fn mark(self) -> u32 {
        self.0
    }
}

/// What a policy is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The groups, sorted.
    pub groups: Vec<SecurityGroupId>,
    /// The IPv4 block of the VPC that they are in: the rest of what is routed here is another's.
    pub vpc: Cidr,
}

/// All that the rules depend on.
#[derive(Debug, Default)]
pub struct Picture {
    /// The rules of groups. One that is not here lets nothing through.
    pub groups: BTreeMap<SecurityGroupId, SecurityGroupRules>,
    /// The policies in use.
    pub policies: BTreeMap<PolicyId, Policy>,
    /// The blocks of all VPCs.
    pub vpcs: BTreeSet<Cidr>,
    /// The IPv6 blocks of VPCs in which a task has such an address, by their IPv4 blocks.
    pub dual: BTreeMap<Cidr, Cidr>,
    /// The addresses of the host, which no task reaches.
    pub hosts: BTreeSet<IpAddr>,
    /// Containers under `bridge`, by their addresses.
    pub bridged: BTreeMap<Ipv4Addr, Bridged>,
    /// How much passes links to tasks, by their names, where not all that can.
    pub limits: BTreeMap<String, Bandwidth>,
    /// The links to other hosts.
    pub tunnels: Vec<Tunnel>,
    /// The tasks there.
    pub remote: Remote,
}

impl Picture {
    /// The groups that rules of the policies name as the other side, each of which has a set of addresses.
    pub fn named_groups(&self) -> BTreeSet<&SecurityGroupId> {
        let groups = self.policies.values().flat_map(|policy| &policy.groups);
        let rules = groups
            .filter_map(|group| self.groups.get(group))
            .flat_map(|one| one.ingress.iter().chain(&one.egress));
        rules
            .filter_map(|rule| if let Peer::Group(group) = &rule.peer { Some(group) } else { None })
            .collect()
    }

    /// The whole table, in the place of what there is, with these tasks' addresses.
    pub fn render(&self, members: &BTreeMap<IpAddr, PolicyId>) -> String {
        let mut text = String::new();
        // Deleted only after it was made, so that it need not be there.
        let _ = writeln!(text, "add table inet {TABLE}\ndelete table inet {TABLE}");
        self.skeleton(&mut text);
        self.add_sets(&mut text, &self.named_groups(), members);
        for id in self.policies.keys() {
            self.add_policy(&mut text, *id);
        }
        for (address, policy) in members {
            let map = Family::of(*address).set(POLICIES);
            let _ = writeln!(text, "add element inet {TABLE} {map} {{ {address} : {:#x} }}", policy.0);
        }
        self.bridged.values().for_each(|bridged| bridged.render(&mut text));
        self.limits.iter().for_each(|(link, bandwidth)| text.push_str(&bandwidth.render(link)));
        text
    }

    /// New rules of some policies, and the sets that these have come to name.
    pub fn render_change(
        &self,
        policies: &BTreeSet<PolicyId>,
        new_sets: &BTreeSet<&SecurityGroupId>,
        members: &BTreeMap<IpAddr, PolicyId>,
    ) -> String {
        let mut text = String::new();
        self.add_sets(&mut text, new_sets, members);
        for id in policies {
            self.add_policy(&mut text, *id);
        }
        text
    }

    /// New blocks of VPCs and addresses of the host.
    pub fn render_blocks(&self) -> String {
        let sets = Family::ALL.into_iter().flat_map(|family| [family.set("vpcs"), family.set("hosts")]);
        let mut text: String = sets.map(|set| format!("flush set inet {TABLE} {set}\n")).collect();
        self.add_blocks(&mut text);
        text
    }

    fn skeleton(&self, text: &mut String) {
        let (bridge, (from_bridged, to_bridged)) = (bridge::chains(), bridge::jumps());
        let (bandwidth, tunnels) = (bandwidth::chain(), tunnel::chains());
        let sets = Family::ALL.map(sets_of_skeleton).concat();
        let _ = write!(
            text,
            r#"table inet {TABLE} {{
{sets}    map egress {{ type mark : verdict; }}
    map ingress {{ type mark : verdict; }}
    set questions {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}
{bridge}
{bandwidth}
{tunnels}
    chain prerouting {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{LINK_PREFIX}*" fib saddr . iif oif missing drop
        iifname "{UPLINK}" fib saddr . iif oif missing drop
        iifname "{LINK_PREFIX}*" meta nfproto ipv6 jump from_task_v6
    }}
    chain from_task_v6 {{
        exthdr hbh exists drop
        exthdr rt exists drop
        icmpv6 type {{ {OF_ONE_LINK} }} drop
    }}
    chain from_task {{
        ip daddr {{ {UNREACHABLE} }} drop
        ip6 daddr {{ {UNREACHABLE_V6} }} drop
        ct state new add @connections {{ ip saddr ct count over {CONNECTIONS_MAX} }} drop
        ct state new add @connections6 {{ ip6 saddr ct count over {CONNECTIONS_MAX} }} drop
        ip daddr @hosts drop
        ip6 daddr @hosts6 drop
        {from_bridged}
        meta mark set ip saddr map @{POLICIES}
        meta mark set ip6 saddr map @{POLICIES}6
        meta mark vmap @egress
        drop
    }}
    chain to_task {{
        {to_bridged}
        meta mark set 0
        meta mark set ip daddr map @{POLICIES}
        meta mark set ip6 daddr map @{POLICIES}6
        meta mark vmap @ingress
        drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        ct state vmap {{ established : accept, related : accept, invalid : drop }}
        iifname "{LINK_PREFIX}*" jump from_task
        oifname "{LINK_PREFIX}*" jump to_task
        iifname "{LINK_PREFIX}*" accept
        oifname "{LINK_PREFIX}*" accept
    }}
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        iifname "{LINK_PREFIX}*" udp dport 53 update @questions {{ ip saddr limit rate over {QUESTIONS_PER_S}/second burst {QUESTIONS_PER_S} packets }} drop
        ct state vmap {{ established : accept, related : accept, invalid : drop }}
        iifname "{LINK_PREFIX}*" ct state new add @connections {{ ip saddr ct count over {CONNECTIONS_MAX} }} drop
        iifname "{LINK_PREFIX}*" ip daddr {METADATA} tcp dport 80 accept
        iifname "{LINK_PREFIX}*" ip daddr {RESOLVER} meta l4proto {{ tcp, udp }} th dport 53 accept
    }}
}}
"#
        );
        self.add_blocks(text);
    }

    fn add_blocks(&self, text: &mut String) {
        for vpc in &self.vpcs {
            let set = Family::of_block(vpc).set("vpcs");
            let _ = writeln!(text, "add element inet {TABLE} {set} {{ {vpc} }}");
        }
        for host in &self.hosts {
            let set = Family::of(*host).set("hosts");
            let _ = writeln!(text, "add element inet {TABLE} {set} {{ {host} }}");
        }
    }

    /// Those of which a task has an address.
    fn families(&self) -> &'static [Family] {
        if self.dual.is_empty() { &[Family::V4] } else { &Family::ALL }
    }

    /// The block of a policy's VPC.
    fn own_block(&self, policy: &Policy, family: Family) -> Option<Cidr> {
        match family {
            Family::V4 => Some(policy.vpc),
            Family::V6 => self.dual.get(&policy.vpc).copied(),
        }
    }

    fn add_sets(
        &self,
        text: &mut String,
        groups: &BTreeSet<&SecurityGroupId>,
        members: &BTreeMap<IpAddr, PolicyId>,
    ) {
        for (group, family) in
            groups.iter().flat_map(|group| self.families().iter().map(move |family| (group, *family)))
        {
            let (set, of) = (set_of(group, family), family.address_type());
            let _ = writeln!(text, "add set inet {TABLE} {set} {{ type {of}; }}");
        }
        // They may be many, and most changes come to name nobody new.
        if groups.is_empty() {
            return;
        }
        for (address, policy) in members {
            let of_member = self.policies.get(policy).into_iter().flat_map(|policy| &policy.groups);
            for group in of_member.filter(|group| groups.contains(group)) {
                let set = set_of(group, Family::of(*address));
                let _ = writeln!(text, "add element inet {TABLE} {set} {{ {address} }}");
            }
        }
        for (address, of_member) in &self.remote {
            for group in of_member.iter().filter(|group| groups.contains(group)) {
                let set = set_of(group, Family::V4);
                let _ = writeln!(text, "add element inet {TABLE} {set} {{ {address} }}");
            }
        }
    }

    fn add_policy(&self, text: &mut String, id: PolicyId) {
        let Some(policy) = self.policies.get(&id) else { return };
        let rules = policy.groups.iter().filter_map(|group| self.groups.get(group));
        let (ingress, egress): (BTreeSet<&SecurityRule>, BTreeSet<&SecurityRule>) =
            rules.fold((BTreeSet::new(), BTreeSet::new()), |(mut ingress, mut egress), rules| {
                ingress.extend(&rules.ingress);
                egress.extend(&rules.egress);
                (ingress, egress)
            });
        for (direction, side, rules) in [("in", "saddr", ingress), ("out", "daddr", egress)] {
            let chain = format!("{direction}_{:08x}", id.0);
            let _ = writeln!(text, "add chain inet {TABLE} {chain}\nflush chain inet {TABLE} {chain}");
            for family in self.families() {
                let (header, vpcs) = (family.header(), family.set("vpcs"));
                let own = self.own_block(policy, *family);
                let elsewhere = own.map(|own| format!("{header} {side} != {own} ")).unwrap_or_default();
                let _ =
                    writeln!(text, "add rule inet {TABLE} {chain} {elsewhere}{header} {side} @{vpcs} drop");
            }
            let of_families =
                |rule| self.families().iter().filter_map(move |family| matching(rule, side, *family));
            for rule in rules.into_iter().flat_map(of_families) {
                let _ = writeln!(text, "add rule inet {TABLE} {chain} {rule} return");
            }
            let _ = writeln!(text, "add rule inet {TABLE} {chain} drop");
            let map = if direction == "in" { "ingress" } else { "egress" };
            let _ = writeln!(text, "add element inet {TABLE} {map} {{ {:#x} : goto {chain} }}", id.0);
        }
    }
}

/// The table of the host, in the place of what there is under its name: tasks leave by the host's addresses, and reach
/// nothing of the host's own and no other server's tasks; what comes from other hosts is stamped. `uplink` and `table`
/// are names of ours.
///
/// Of the versions of the protocol in `alone` nobody but Neargate wants the host to forward packets, and it forwards no
/// others.
pub fn render_host(
    (table, uplink): (&str, &str),
    vpcs: &BTreeSet<Cidr>,
    picture: &Picture,
    alone: &BTreeSet<Family>,
) -> String {
    let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
    let others: String =
        alone.iter().map(|family| format!("        {} drop\n", family.every_packet())).collect();
    let sets = Family::ALL.map(set_of_blocks).concat();
    let (ports, tunnels) = (bridge::host_chains(UPLINK_PREFIX), tunnel::host_chains(&picture.tunnels));
    let _ = write!(
        text,
        r#"table inet {table} {{
{sets}{ports}
{tunnels}    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{uplink}" ct state vmap {{ established : accept, related : accept }}
        iifname "{uplink}" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{uplink}" ip saddr != @vpcs drop
        iifname "{uplink}" ip6 saddr != @vpcs6 drop
        iifname "{UPLINK_PREFIX}*" oifname "{UPLINK_PREFIX}*" drop
        iifname "{UPLINK_PREFIX}*" accept
        oifname "{UPLINK_PREFIX}*" ct state vmap {{ established : accept, related : accept }}
        oifname "{UPLINK_PREFIX}*" ct status dnat accept
        oifname "{UPLINK_PREFIX}*" drop
{others}    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @vpcs oifname != "{UPLINK_PREFIX}*" masquerade
        ip6 saddr @vpcs6 oifname != "{UPLINK_PREFIX}*" masquerade
    }}
}}
"#
    );
    for vpc in vpcs {
        let set = Family::of_block(vpc).set("vpcs");
        let _ = writeln!(text, "add element inet {table} {set} {{ {vpc} }}");
    }
    picture.bridged.values().for_each(|bridged| bridged.render_host(&mut text, table));
    text
}

/// The sets and maps of the router's table that hold addresses of tasks and others.
fn sets_of_skeleton(family: Family) -> String {
    let (of, hosts, connections) = (family.address_type(), family.set("hosts"), family.set("connections"));
    let policies = family.set(POLICIES);
    let vpcs = set_of_blocks(family);
    format!(
        r#"    map {policies} {{ type {of} : mark; }}
{vpcs}    set {hosts} {{ type {of}; }}
    set {connections} {{ type {of}; size 65535; flags dynamic; }}
"#
    )
}

/// The set of the blocks of VPCs.
fn set_of_blocks(family: Family) -> String {
    let (of, vpcs) = (family.address_type(), family.set("vpcs"));
    format!("    set {vpcs} {{ type {of}; flags interval; auto-merge; }}\n")
}

/// The name of the set of a group's addresses.
pub(crate) fn set_of(group: &SecurityGroupId, family: Family) -> String {
    format!("{}_{}", family.set("m"), group.as_str().trim_start_matches("sg-"))
}

/// The expressions that match what a rule lets through of one version of the protocol; `None` where that is nothing.
fn matching(rule: &SecurityRule, side: &str, family: Family) -> Option<String> {
    let header = family.header();
    let peer = match &rule.peer {
        Peer::Block(block) if Family::of_block(block) != family => return None,
        Peer::Block(block) if block.prefix() == 0 => family.every_packet().to_owned(),
        Peer::Block(block) => format!("{header} {side} {block}"),
        Peer::Group(group) => format!("{header} {side} @{}", set_of(group, family)),
    };
    let icmp = |name: &str, kind: Option<u8>, code: Option<u8>| match (kind, code) {
        (None, _) => format!("meta l4proto {name}"),
        (Some(kind), None) => format!("{name} type {kind}"),
        (Some(kind), Some(code)) => format!("{name} type {kind} {name} code {code}"),
    };
    let traffic = match (rule.traffic, family) {
        (Traffic::All, _) => String::new(),
        (Traffic::Tcp(first, last), _) => format!("tcp dport {first}-{last}"),
        (Traffic::Udp(first, last), _) => format!("udp dport {first}-{last}"),
        (Traffic::Icmp(kind, code), Family::V4) => icmp("icmp", kind, code),
        (Traffic::IcmpV6(kind, code), Family::V6) => icmp("icmpv6", kind, code),
        (Traffic::Icmp(..), Family::V6) | (Traffic::IcmpV6(..), Family::V4) => return None,
        (Traffic::Protocol(number), _) => format!("meta l4proto {number}"),
    };
    Some(format!("{peer} {traffic}"))
}
