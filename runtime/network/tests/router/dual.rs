//! IPv6: packets made by hand, by which somebody might get past rules that hold for others.

use std::net::{Ipv6Addr, UdpSocket};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrV6, SocketType, ipproto, recv, sendto, socket,
};

use super::*;

const BLOCK: &str = "fdaa:bbcc:ddee:ff00::/56";
/// Numbers of headers (IANA, "Protocol Numbers").
const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMP: u8 = 58;
const OPTIONS: u8 = 60;

const OPEN: u16 = 5432;
const CLOSED: u16 = 5433;

/// The address that goes with one of IPv4.
fn v6(address: Ipv4Addr) -> Ipv6Addr {
    let Ok(IpAddr::V6(first)) = BLOCK.parse::<Cidr>().map(|block| block.first()) else { panic!("a block") };
    Ipv6Addr::from_bits(first.to_bits() | u128::from(address.to_bits()))
}

/// Has a namespace whose links get no addresses of their own accord.
fn quiet(namespace: &Namespace) {
    namespace.within(|| {
        for (setting, value) in [("default/addr_gen_mode", "1"), ("all/forwarding", "1")] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{setting}"), value).expect("setting");
        }
    });
}

/// A router with two tasks that have both addresses, in one group that lets in what the rules say.
struct Lab {
    /// Its namespace goes with it.
    _router: Router,
    a: Namespace,
    b: Namespace,
    /// At the second task, one that is let through and one that is not.
    open: UdpSocket,
    closed: UdpSocket,
}

impl Lab {
    fn new(ingress: Vec<SecurityRule>) -> Self {
        let router = Router::new();
        quiet(&router.namespace);
        let (a, b) = (Self::link(&router, 1, A), Self::link(&router, 2, B));
        let group = group('a');
        let egress = vec![rule(Traffic::All, Peer::Block(Cidr::ANYWHERE_V6))];
        let rules = SecurityGroupRules { group: group.clone(), ingress, egress };
        let (policy, vpc) = (PolicyId::of(std::slice::from_ref(&group)), VPC.parse::<Cidr>().unwrap());
        let block = BLOCK.parse::<Cidr>().unwrap();
        let picture = Picture {
            groups: BTreeMap::from([(group.clone(), rules)]),
            policies: BTreeMap::from([(policy, Policy { groups: vec![group], vpc })]),
            vpcs: BTreeSet::from([vpc, block]),
            dual: BTreeMap::from([(vpc, block)]),
            ..Picture::default()
        };
        let addresses = [A.into(), IpAddr::from(v6(A)), B.into(), v6(B).into()];
        router.load(&picture.render(&addresses.into_iter().map(|address| (address, policy)).collect()));
        let listen = |port| {
            let socket = b.within(|| UdpSocket::bind((v6(B), port)).expect("socket"));
            socket.set_read_timeout(Some(DROPPED)).unwrap();
            socket
        };
        let (open, closed) = (listen(OPEN), listen(CLOSED));
        Self { _router: router, a, b, open, closed }
    }

    /// As [`Router::link`], and IPv6 with it.
    fn link(router: &Router, number: u8, address: Ipv4Addr) -> Namespace {
        let task = Namespace::new();
        quiet(&task);
        let task = router.link_to(task, number, address);
        let (mac, own) = (MacAddress::of(address), IpAddr::from(v6(address)));
        let inside = task.netlink(Subsystem::Route);
        let index = inside.index_of(TASK_INTERFACE).expect("interface");
        let mut batch = Batch::default();
        batch.add_address(index, own);
        batch.add_neighbour(index, TASK_GATEWAY_V6.into(), ROUTER_MAC);
        batch.add_route(Cidr::ANYWHERE_V6, index, Some(TASK_GATEWAY_V6.into()), Some(own));
        inside.exchange(batch).expect("inside");
        let index = router.route.index_of(&format!("ng{number}")).expect("index");
        let mut batch = Batch::default();
        batch.add_route(Cidr::containing(own, 128).unwrap(), index, None, None);
        batch.add_neighbour(index, own, mac);
        router.route.exchange(batch).expect("outside");
        task
    }

    /// Sends packets from the first task as they are.
    fn send(&self, packets: &[Vec<u8>]) {
        self.a.within(|| {
            let socket =
                socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::RAW)).expect("raw socket");
            for packet in packets {
                let to = SocketAddrV6::new(v6(B), 0, 0, 0);
                sendto(&socket, packet, SendFlags::empty(), &to).expect("send");
            }
        });
    }

    /// Whether a message of ICMPv6 comes to the second task.
    fn hears(&self, kind: u8, code: u8) -> bool {
        let icmp = || socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).expect("socket");
        let heard = self.b.within(icmp);
        set_socket_timeout(&heard, Timeout::Recv, Some(DROPPED)).unwrap();
        let mut message = [&[kind, code, 0, 0, 0, 9, 0, 1][..], &[0; 16]].concat();
        let sum = checksum(v6(A), ICMP, &message);
        message[2..4].copy_from_slice(&sum);
        self.send(&[packet(ICMP, &message)]);
        let mut buffer = [0; 256];
        loop {
            match recv(&heard, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) if length > 1 && buffer[..2] == [kind, code] => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether a datagram in these headers comes to the port that is let through, and never to the other one.
    fn passes(&self, wrap: impl Fn(Vec<u8>) -> Vec<Vec<u8>>) -> bool {
        self.send(&wrap(datagram(CLOSED)));
        assert!(self.closed.recv(&mut [0; 64]).is_err(), "it came to a port that is closed");
        self.send(&wrap(datagram(OPEN)));
        // Answered, so that the kernel takes it for a connection, which by itself lets nothing else through.
        self.open.recv_from(&mut [0; 64]).is_ok_and(|(_, from)| self.open.send_to(b"y", from).is_ok())
    }
}

/// The sum by which UDP and ICMPv6 are checked (RFC 8200 §8.1).
fn checksum(from: Ipv6Addr, kind: u8, payload: &[u8]) -> [u8; 2] {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let bytes = [&from.octets()[..], &v6(B).octets(), &length, &[0, 0, 0, kind], payload].concat();
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    sum.to_be_bytes()
}

/// A datagram of the first task to the second.
fn datagram(port: u16) -> Vec<u8> {
    datagram_from(v6(A), port)
}

fn datagram_from(from: Ipv6Addr, port: u16) -> Vec<u8> {
    let mut bytes = [4000_u16.to_be_bytes(), port.to_be_bytes(), 24_u16.to_be_bytes(), [0, 0]].concat();
    bytes.extend([b'x'; 16]);
    let sum = checksum(from, UDP, &bytes);
    bytes[6..8].copy_from_slice(&sum);
    bytes
}

/// An IPv6 packet of the first task to the second.
fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
    packet_from(v6(A), next, payload)
}

fn packet_from(from: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &from.octets(), &v6(B).octets(), payload].concat()
}

/// Options that say nothing, eight bytes (PadN).
fn padding(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// A part of a packet of this number, which begins at this byte.
fn fragment(number: u8, next: u8, at: u16, more: bool, part: &[u8]) -> Vec<u8> {
    let place = (at | u16::from(more)).to_be_bytes();
    let header = [next, 0, place[0], place[1], 0, 0, 0, number];
    packet(FRAGMENT, &[&header[..], part].concat())
}

fn udp_open() -> Vec<SecurityRule> {
    vec![rule(Traffic::Udp(OPEN, OPEN), Peer::Block(Cidr::ANYWHERE_V6))]
}

#[test]
fn row_81_headers_in_between_hide_no_port() {
    let lab = Lab::new(udp_open());
    assert!(lab.passes(|udp| vec![packet(UDP, &udp)]));
    let options = |udp: Vec<u8>| [&padding(UDP)[..], &udp].concat();
    assert!(lab.passes(|udp| vec![packet(OPTIONS, &options(udp))]));
    let in_parts = |at: usize, number: u8, next: u8, whole: &[u8]| {
        let second = fragment(number, next, u16::try_from(at).unwrap(), false, &whole[at..]);
        vec![fragment(number, next, 0, true, &whole[..at]), second]
    };
    assert!(lab.passes(|udp| in_parts(16, udp[3], UDP, &udp)));
    // The port would come with the second part alone (RFC 7112).
    assert!(!lab.passes(|udp| in_parts(8, 50 + udp[3], OPTIONS, &options(udp))));
    // Parts that overlap are no packet (RFC 5722).
    assert!(!lab.passes(|udp| {
        let number = 100 + udp[3];
        vec![fragment(number, UDP, 0, true, &udp[..16]), fragment(number, UDP, 8, false, &udp[8..])]
    }));
    // Of two first parts one counts, for the rules and for the receiver.
    let (open, closed) = (datagram(OPEN), datagram(CLOSED));
    for (number, heads) in [(150, [&open, &closed]), (151, [&closed, &open])] {
        let heads = heads.map(|udp| fragment(number, UDP, 0, true, &udp[..16]));
        lab.send(&[&heads[..], &[fragment(number, UDP, 16, false, &closed[16..])]].concat());
        assert!(lab.closed.recv(&mut [0; 64]).is_err());
    }
    lab.open.set_nonblocking(true).unwrap();
    while lab.open.recv(&mut [0; 64]).is_ok() {}
    lab.open.set_nonblocking(false).unwrap();
    // What asks those on the way to do something passes to no port.
    assert!(!lab.passes(|udp| vec![packet(HOP_BY_HOP, &[&padding(UDP)[..], &udp].concat())]));
    let by_way_of = |udp: Vec<u8>| [&[UDP, 2, 0, 1, 0, 0, 0, 0][..], &v6(A).octets(), &udp].concat();
    assert!(!lab.passes(|udp| vec![packet(ROUTING, &by_way_of(udp))]));
}

#[test]
fn row_81_nobody_speaks_by_another_address() {
    let lab = Lab::new(vec![rule(Traffic::All, Peer::Block(Cidr::ANYWHERE_V6))]);
    let comes = |from: Ipv6Addr| {
        lab.send(&[packet_from(from, UDP, &datagram_from(from, OPEN))]);
        lab.open.recv(&mut [0; 64]).is_ok()
    };
    assert!(comes(v6(A)));
    let others =
        ["fe80::1", "fe80::2", "::1", "::", "::ffff:172.31.0.5", "64:ff9b::172.31.0.5", "2001:db8::1"];
    let others = others.iter().map(|text| text.parse().unwrap()).chain([v6(C), v6(B)]);
    for from in others {
        assert!(!comes(from), "{from}");
    }
    assert!(comes(v6(A)), "the sender's own still does");
}

#[test]
fn row_81_messages_pass_by_their_type_and_those_of_one_link_never() {
    let of = |kind, code| vec![rule(Traffic::IcmpV6(kind, code), Peer::Block(Cidr::ANYWHERE_V6))];
    let lab = Lab::new(of(Some(128), Some(0)));
    assert!(lab.hears(128, 0));
    assert!(!lab.hears(128, 1) && !lab.hears(129, 0));
    let lab = Lab::new(of(None, None));
    assert!(lab.hears(128, 0) && lab.hears(128, 1));
    // Listeners, routers and neighbours.
    for kind in [130, 133, 134, 135, 136, 137, 143] {
        assert!(!lab.hears(kind, 0), "{kind}");
    }
}
