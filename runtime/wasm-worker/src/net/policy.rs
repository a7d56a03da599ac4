//! Which addresses a guest may speak to.
//!
//! The one place that decides, for sockets, name look-ups and outgoing HTTP. A name proves nothing: what it
//! resolves to is checked, each time that it is used, so a name that changes its address between two look-ups
//! (DNS rebinding) gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use neargate_wasm::protocol::{Network, RunPlan};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;

/// What a run may do on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Nothing at all: no sockets, no names, no requests.
    None,
    /// The network of the host, but for addresses that reach the host's own standing: link-local ones, where
    /// clouds and ECS keep credentials, and those of [`Policy::Host::control`].
    Host {
        /// Where the server that runs the worker listens. An unspecified address stands for its port on every
        /// address, as it cannot be known which ones are the host's.
        control: Vec<SocketAddr>,
    },
    /// The network of the task, whose security groups decide outside of this process, but for the same addresses; only
    /// [`TASK_ENDPOINT`] is the task's own. Its sockets are handed over.
    Own,
}

/// Where a task is told of itself and of nothing else, as on ECS.
const TASK_ENDPOINT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 170, 2), 80);
/// Metadata services outside the link-local ranges: addresses that a cloud gives every machine and that
/// hand out the machine's credentials.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba Cloud
    Ipv4Addr::new(168, 63, 129, 16),   // Azure
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle Cloud
];
/// The same for IPv6.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // EC2
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // Google Cloud
];

impl Policy {
    /// What a run's plan says.
    pub(crate) fn of_plan(plan: &RunPlan) -> Self {
        match &plan.network {
            Network::None {} => Self::None,
            Network::Host { control } => Self::Host { control: control.clone() },
            Network::Own {} => Self::Own,
        }
    }

    /// Whether there is any network.
    pub(crate) fn allows_network(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether sockets are made elsewhere and handed over.
    pub(crate) fn takes_sockets(&self) -> bool {
        matches!(self, Self::Own)
    }

    /// Whether something may be sent to or taken from this address.
    pub(crate) fn allows_peer(&self, peer: SocketAddr) -> bool {
        match self {
            Self::None => false,
            Self::Own => peer == TASK_ENDPOINT.into() || allows_ip(peer.ip()),
            Self::Host { control } => {
                allows_ip(peer.ip()) && !control.iter().any(|control| is_control(*control, peer))
            }
        }
    }

    /// Whether the guest may name this address itself; for which port is another question.
    pub(crate) fn allows_literal(&self, address: IpAddr) -> bool {
        let is_own = matches!(self, Self::Own) && address == *TASK_ENDPOINT.ip();
        is_own || self.allows_answer(address)
    }

    /// Whether a name may stand for this address.
    pub(crate) fn allows_answer(&self, address: IpAddr) -> bool {
        self.allows_network() && allows_ip(address)
    }

    /// Whether a socket may use the address in this way.
    fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::UdpBind => {
                self.allows_network() && (address.ip().is_unspecified() || allows_ip(address.ip()))
            }
            SocketAddrUse::TcpAccept
            | SocketAddrUse::TcpConnect
            | SocketAddrUse::UdpSend
            | SocketAddrUse::UdpReceive => self.allows_peer(address),
        }
    }

    /// Lets the sockets of a new store obey. Without a network not even a socket is made, and the guest is told
    /// `access-denied`. wasmtime's own name look-up stays denied: `super::lookup` takes its place.
    pub(crate) fn configure(self: &Arc<Self>, builder: &mut WasiCtxBuilder) {
        if self.allows_network() {
            let policy = Arc::clone(self);
            builder.allow_tcp(true).allow_udp(true).socket_addr_check(move |address, usage| {
                let allowed = policy.allows(address, usage);
                Box::pin(async move { allowed })
            });
        }
    }
}

fn allows_ip(ip: IpAddr) -> bool {
    let outer = match ip {
        IpAddr::V4(ip) => allows_v4(ip),
        IpAddr::V6(ip) => allows_v6(ip),
    };
    outer && embedded(ip).is_none_or(allows_v4)
}

fn allows_v4(ip: Ipv4Addr) -> bool {
    // 0.0.0.0/8 is "this host on this network" (RFC 1122): Linux connects it to the loopback.
    let this_network = ip.octets()[0] == 0;
    !(ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || this_network
        || METADATA_V4.contains(&ip))
}

fn allows_v6(ip: Ipv6Addr) -> bool {
    !(ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified() || METADATA_V6.contains(&ip))
}

/// The IPv4 address that an IPv6 address stands for, if it is one of those that do: mapped and compatible ones
/// (RFC 4291), those of a NAT64 with the well-known prefix (RFC 6052) and of 6to4 (RFC 3056).
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => of(high, low),
        [0x2002, high, low, ..] => of(high, low),
        _ => None,
    }
}

fn is_control(control: SocketAddr, peer: SocketAddr) -> bool {
    let canonical = |ip: IpAddr| embedded(ip).map_or(ip, IpAddr::V4);
    control.port() == peer.port()
        && (control.ip().is_unspecified() || canonical(control.ip()) == canonical(peer.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Policy {
        Policy::Host { control: vec!["127.0.0.1:7878".parse().unwrap()] }
    }

    #[track_caller]
    fn check(policy: &Policy, peers: &[&str], allowed: bool) {
        for peer in peers {
            assert_eq!(policy.allows_peer(peer.parse().unwrap()), allowed, "{peer} with {policy:?}");
        }
    }

    #[test]
    fn what_the_host_policy_allows() {
        let allowed = [
            "93.184.216.34:443",
            "127.0.0.1:80",
            "10.0.0.1:5432",
            "[::1]:80",
            "[2001:db8::1]:80",
            "[fd00::1]:80",
        ];
        check(&host(), &allowed, true);
        check(&Policy::None, &allowed, false);
    }

    #[test]
    fn credentials_and_groups_are_out_of_reach() {
        let denied = [
            "169.254.169.254:80",
            "169.254.170.2:80",
            "169.254.0.1:1",
            "[::ffff:169.254.169.254]:80",
            "[::169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[fe80::1]:80",
            "[febf::1]:80",
            "[fd00:ec2::254]:80",
            "[fd20:ce::254]:80",
            "100.100.100.200:80",
            "168.63.129.16:80",
            "192.0.0.192:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
        ];
        check(&host(), &denied, false);
        check(&Policy::None, &denied, false);
    }

    #[test]
    fn a_task_asks_of_itself_in_its_own_network_alone() {
        check(&Policy::Own, &["169.254.170.2:80", "10.0.0.1:5432"], true);
        let denied =
            ["169.254.170.2:443", "169.254.170.3:80", "169.254.169.254:80", "[::ffff:169.254.170.2]:80"];
        check(&Policy::Own, &denied, false);
        let endpoint = "169.254.170.2".parse().unwrap();
        assert!(Policy::Own.allows_literal(endpoint) && !host().allows_literal(endpoint));
        assert!(!Policy::Own.allows_answer(endpoint), "no name stands for it");
        assert!(!Policy::Own.allows_literal("169.254.169.254".parse().unwrap()));
    }

    #[test]
    fn the_server_is_out_of_reach() {
        check(&host(), &["127.0.0.1:7878", "[::ffff:127.0.0.1]:7878"], false);
        check(&host(), &["127.0.0.1:7879", "10.0.0.1:7878"], true);
        let everywhere = Policy::Host { control: vec!["0.0.0.0:7878".parse().unwrap()] };
        check(&everywhere, &["127.0.0.1:7878", "10.0.0.1:7878", "[::1]:7878"], false);
        check(&everywhere, &["127.0.0.1:80"], true);
    }

    #[test]
    fn binding_takes_the_wildcard_and_own_addresses() {
        use SocketAddrUse::{TcpBind, TcpListen, UdpBind};
        for usage in [TcpBind, TcpListen, UdpBind] {
            for (address, allowed) in
                [("0.0.0.0:0", true), ("[::]:0", true), ("127.0.0.1:0", true), ("169.254.1.1:0", false)]
            {
                let address = address.parse().unwrap();
                assert_eq!(host().allows(address, usage), allowed, "{address} for {usage:?}");
                assert!(!Policy::None.allows(address, usage));
            }
        }
    }

    #[test]
    fn names_do_not_stand_for_credentials() {
        assert!(host().allows_answer("93.184.216.34".parse().unwrap()));
        assert!(!host().allows_answer("169.254.169.254".parse().unwrap()));
        assert!(!host().allows_answer("::ffff:169.254.169.254".parse().unwrap()));
        assert!(!Policy::None.allows_answer("93.184.216.34".parse().unwrap()));
    }
}
