//! A router and two tasks in network namespaces of the test's own: what the rules let through, and what not.
//!
//! Needs root and `nft`.

// What helps the tests outside of them fails as they do.
#![allow(clippy::unwrap_used)]

mod dual;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use neargate_model::{
    Cidr, HostPort, MacAddress, Peer, PortProtocol, SecurityGroupId, SecurityGroupRules, SecurityRule,
    Traffic,
};
use neargate_network::bridge::Bridged;
use neargate_network::elements::{self, Member};
use neargate_network::link::{End, ROUTER_MAC, TASK_GATEWAY, TASK_GATEWAY_V6, TASK_INTERFACE};
use neargate_network::netlink::{Batch, Netlink, Subsystem};
use neargate_network::rules::{Picture, Policy, PolicyId};
use nix::sched::{CloneFlags, setns, unshare};

/// How long a connection that is dropped is tried: longer than one that is let through takes.
const DROPPED: Duration = Duration::from_millis(300);

struct Namespace(OwnedFd);

impl Namespace {
    fn new() -> Self {
        thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespace");
            Self(File::open("/proc/thread-self/ns/net").expect("open namespace").into())
        })
        .join()
        .expect("thread")
    }

    fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = || {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter namespace");
                act()
            };
            scope.spawn(entered).join().expect("thread")
        })
    }

    fn netlink(&self, subsystem: Subsystem) -> Netlink {
        self.within(|| Netlink::open(subsystem).expect("netlink"))
    }
}

struct Router {
    namespace: Namespace,
    route: Netlink,
    filter: Netlink,
}

impl Router {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.within(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward");
        });
        let (route, filter) = (namespace.netlink(Subsystem::Route), namespace.netlink(Subsystem::Netfilter));
        Self { namespace, route, filter }
    }

    /// Links a namespace with this address, as a task is linked.
    fn link(&self, number: u8, address: Ipv4Addr) -> Namespace {
        self.link_to(Namespace::new(), number, address)
    }

    fn link_to(&self, task: Namespace, number: u8, address: Ipv4Addr) -> Namespace {
        let name = format!("ng{number}");
        let near = End { name: &name, mac: Some(ROUTER_MAC) };
        let far = End { name: TASK_INTERFACE, mac: None };
        let mut batch = Batch::default();
        batch.add_pair(near, far, task.0.as_fd());
        self.route.exchange(batch).expect("pair");
        let (mac, inside) = (MacAddress::of(address), task.netlink(Subsystem::Route));
        let own = inside.index_of(TASK_INTERFACE).expect("interface");
        let mut batch = Batch::default();
        batch.set_up(own, Some(mac));
        batch.add_address(own, address.into());
        batch.add_neighbour(own, TASK_GATEWAY.into(), ROUTER_MAC);
        batch.add_route(Cidr::ANYWHERE_V4, own, Some(TASK_GATEWAY.into()), Some(address.into()));
        inside.exchange(batch).expect("inside");
        let index = self.route.index_of(&name).expect("index");
        let mut batch = Batch::default();
        batch.set_up(index, None);
        batch.add_route(Cidr::containing(address.into(), 32).unwrap(), index, None, None);
        batch.add_neighbour(index, address.into(), mac);
        self.route.exchange(batch).expect("outside");
        task
    }

    fn load(&self, text: &str) {
        self.namespace.within(|| {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
            nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(nft.wait().unwrap().success(), "nft refused:\n{text}");
        });
    }

    fn enter(&self, member: Member<'_>) {
        self.filter.exchange(elements::enter(member)).expect("enter");
    }

    fn leave(&self, member: Member<'_>) {
        self.filter.exchange(elements::leave(member)).expect("leave");
    }
}

fn group(digit: char) -> SecurityGroupId {
    SecurityGroupId::new(format!("sg-{}", digit.to_string().repeat(17))).unwrap()
}

fn rule(traffic: Traffic, peer: Peer) -> SecurityRule {
    SecurityRule { traffic, peer }
}

/// Connects from one namespace to a listener in another; tells whether it came about.
fn connects(from: &Namespace, to: &Namespace, address: Ipv4Addr, port: u16) -> bool {
    let listener = to.within(|| TcpListener::bind((address, port)).expect("listen"));
    let connected = from.within(|| TcpStream::connect_timeout(&(address, port).into(), DROPPED));
    drop(listener);
    match connected {
        Ok(_) => true,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable), "{error}");
            false
        }
    }
}

const VPC: &str = "172.31.0.0/16";
const A: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 5);
const C: Ipv4Addr = Ipv4Addr::new(172, 31, 16, 10);
const B: Ipv4Addr = Ipv4Addr::new(172, 31, 16, 9);

#[test]
fn groups_hold() {
    let anywhere = || Peer::Block(Cidr::ANYWHERE_V4);
    let (clients, servers) = (group('a'), group('b'));
    let rules = |group: &SecurityGroupId, ingress, egress| {
        (group.clone(), SecurityGroupRules { group: group.clone(), ingress, egress })
    };
    let policy = |group: &SecurityGroupId| {
        (
            PolicyId::of(std::slice::from_ref(group)),
            Policy { groups: vec![group.clone()], vpc: VPC.parse().unwrap() },
        )
    };
    let mut picture = Picture {
        groups: BTreeMap::from([
            rules(&clients, vec![], vec![rule(Traffic::All, anywhere())]),
            rules(&servers, vec![rule(Traffic::Tcp(5432, 5433), Peer::Group(clients.clone()))], vec![]),
        ]),
        policies: BTreeMap::from([policy(&clients), policy(&servers)]),
        vpcs: BTreeSet::from([VPC.parse().unwrap()]),
        hosts: BTreeSet::from([Ipv4Addr::new(10, 9, 8, 7).into()]),
        ..Picture::default()
    };
    let (of_clients, of_servers) =
        (PolicyId::of(std::slice::from_ref(&clients)), PolicyId::of(std::slice::from_ref(&servers)));
    let router = Router::new();
    let (a, b) = (router.link(1, A), router.link(2, B));
    router.load(&picture.render(&BTreeMap::new()));
    assert!(!connects(&a, &b, B, 5432), "who is in no map reaches nobody");

    let named = [clients.clone()];
    let member_a = Member { addresses: &[A.into()], policy: of_clients, groups: &named };
    let member_b = Member { addresses: &[B.into()], policy: of_servers, groups: &[] };
    router.enter(member_a);
    assert!(!connects(&a, &b, B, 5432), "nor is who is in no map reached");
    router.enter(member_b);
    assert!(connects(&a, &b, B, 5432) && connects(&a, &b, B, 5433));
    assert!(!connects(&a, &b, B, 5434) && !connects(&b, &a, A, 5432));

    // A third one that speaks as the first.
    let c = router.link(3, C);
    router.enter(Member { addresses: &[C.into()], policy: of_servers, groups: &[] });
    let server = b.within(|| UdpSocket::bind((B, 5432)).unwrap());
    server.set_read_timeout(Some(DROPPED)).unwrap();
    picture.groups.get_mut(&servers).unwrap().ingress = vec![
        rule(Traffic::Udp(5432, 5432), Peer::Group(clients.clone())),
        rule(Traffic::Tcp(5433, 5433), anywhere()),
    ];
    router.load(&picture.render_change(&BTreeSet::from([of_servers]), &BTreeSet::new(), &BTreeMap::new()));
    let forged = c.within(|| {
        let (route, mut batch) = (Netlink::open(Subsystem::Route).unwrap(), Batch::default());
        batch.add_address(route.index_of(TASK_INTERFACE).unwrap(), IpAddr::from(A));
        route.exchange(batch).unwrap();
        UdpSocket::bind((A, 0)).unwrap()
    });
    forged.send_to(b"forged", (B, 5432)).unwrap();
    assert!(server.recv(&mut [0; 8]).is_err());
    a.within(|| UdpSocket::bind((A, 0)).unwrap()).send_to(b"true", (B, 5432)).unwrap();
    assert_eq!(server.recv(&mut [0; 8]).unwrap(), 4);

    // A rule that is taken away, and one that names addresses.
    let connection = {
        let listener = b.within(|| TcpListener::bind((B, 5433)).unwrap());
        let ours = a.within(|| connect_from(A, (B, 5433).into()));
        (ours, listener.accept().unwrap().0)
    };
    picture.groups.get_mut(&servers).unwrap().ingress =
        vec![rule(Traffic::Tcp(80, 80), Peer::Block("172.31.0.0/28".parse().unwrap()))];
    router.load(&picture.render_change(&BTreeSet::from([of_servers]), &BTreeSet::new(), &BTreeMap::new()));
    assert!(!connects(&a, &b, B, 5432) && connects(&a, &b, B, 80));
    let (mut ours, mut theirs) = connection;
    ours.write_all(b"still").unwrap();
    let mut said = [0; 5];
    theirs.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"still", "what was let through goes on");

    // The whole anew, with those who are there; then one of them leaves.
    router.load(&picture.render(&BTreeMap::from([(A.into(), of_clients), (B.into(), of_servers)])));
    assert!(connects(&a, &b, B, 80));
    router.leave(Member { groups: &[], ..member_b });
    assert!(!connects(&a, &b, B, 80));
    let gone = router.filter.exchange(elements::leave(Member { groups: &[], ..member_b })).unwrap_err();
    assert_eq!(gone.source.kind(), ErrorKind::NotFound, "{gone}");
}

#[test]
fn connections_end_with_their_owner() {
    let group = group('a');
    let udp = rule(Traffic::Udp(5432, 5432), Peer::Block(Cidr::ANYWHERE_V4));
    let of = |ingress| SecurityGroupRules {
        group: group.clone(),
        ingress,
        egress: vec![rule(Traffic::All, udp.peer.clone())],
    };
    let policy = PolicyId::of(std::slice::from_ref(&group));
    let mut picture = Picture {
        groups: BTreeMap::from([(group.clone(), of(vec![udp.clone()]))]),
        policies: BTreeMap::from([(
            policy,
            Policy { groups: vec![group.clone()], vpc: VPC.parse().unwrap() },
        )]),
        ..Picture::default()
    };
    let member_a = Member { addresses: &[A.into()], policy, groups: &[] };
    let router = Router::new();
    let (a, b) = (router.link(1, A), router.link(2, B));
    router.load(&picture.render(&BTreeMap::from([(A.into(), policy), (B.into(), policy)])));
    let server = b.within(|| UdpSocket::bind((B, 5432)).unwrap());
    server.set_read_timeout(Some(DROPPED)).unwrap();
    let is_heard = |from: &Namespace| {
        from.within(|| UdpSocket::bind((A, 4000)).unwrap()).send_to(b"x", (B, 5432)).unwrap();
        // Answered, so that the kernel takes it for a connection.
        server.recv_from(&mut [0; 8]).is_ok_and(|(_, from)| server.send_to(b"y", from).is_ok())
    };
    assert!(is_heard(&a));
    picture.groups.insert(group.clone(), of(vec![]));
    router.load(&picture.render_change(&BTreeSet::from([policy]), &BTreeSet::new(), &BTreeMap::new()));
    assert!(is_heard(&a), "what was let through goes on");
    // Another task has the address, and the same port.
    router.leave(member_a);
    router.route.remove_link(router.route.index_of("ng1").unwrap()).unwrap();
    router.filter.forget_connections(A.into()).unwrap();
    let next = router.link(3, A);
    router.enter(member_a);
    assert!(!is_heard(&next));
}

/// Containers under `bridge`: they reach whom they are linked to and the ports of the host that lead to others.
#[test]
fn bridged_containers_are_apart_but_for_links_and_ports() {
    let host = Ipv4Addr::new(10, 9, 8, 7);
    let port = HostPort { protocol: PortProtocol::Tcp, host_port: 8080, container_port: 80 };
    let with = |address, ports: &[HostPort], links: &[Ipv4Addr]| Bridged {
        address,
        ports: ports.to_vec(),
        links: links.to_vec(),
    };
    let (a_is, b_is, c_is) = (with(A, &[], &[B]), with(B, &[], &[]), with(C, &[port], &[]));
    let mut picture = Picture {
        vpcs: BTreeSet::from([VPC.parse().unwrap()]),
        hosts: BTreeSet::from([host.into()]),
        ..Picture::default()
    };
    let router = Router::new();
    let (a, b, c) = (router.link(1, A), router.link(2, B), router.link(3, C));
    router.load(&picture.render(&BTreeMap::new()));
    let all = [&a_is, &b_is, &c_is];
    all.iter().for_each(|bridged| router.filter.exchange(bridged.enter()).expect("enter"));
    // By elements one by one, and then by the text that brings all of them back.
    for _ in 0..2 {
        assert!(connects(&a, &b, B, 5000), "a link leads to every port");
        assert!(!connects(&b, &a, A, 5000), "and not back");
        assert!(!connects(&a, &c, C, 80), "the port is open to the host alone");
        let server = c.within(|| TcpListener::bind((C, 80)).unwrap());
        let by_host_port = |from: &Namespace, port| {
            from.within(|| TcpStream::connect_timeout(&(host, port).into(), DROPPED)).is_ok()
        };
        assert!(by_host_port(&a, 8080) && by_host_port(&b, 8080), "it leads to the container");
        assert!(!by_host_port(&a, 80));
        drop(server);
        picture.bridged = all.iter().map(|bridged| (bridged.address, (*bridged).clone())).collect();
        router.load(&picture.render(&BTreeMap::new()));
    }
    router.filter.exchange(c_is.leave()).expect("leave");
    let again = router.filter.exchange(c_is.leave()).unwrap_err();
    assert_eq!(again.source.kind(), ErrorKind::NotFound, "{again}");
    let _server = c.within(|| TcpListener::bind((C, 80)).unwrap());
    assert!(a.within(|| TcpStream::connect_timeout(&(host, 8080).into(), DROPPED)).is_err());
}

/// Connects from an address, where there are several.
fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let made = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&made, &SocketAddr::from((from, 0))).unwrap();
    connect(&made, &to).unwrap();
    made.into()
}
