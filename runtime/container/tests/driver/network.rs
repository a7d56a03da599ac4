//! Interfaces in a VPC: what a task sees of its own, whom it reaches, and what is left when it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use neargate_driver::{ContainerSpec, LinkLocalError, NetworkTurn, SandboxHost, SandboxNetwork};
use neargate_model::{
    Cidr, MacAddress, NetworkInterfaceId, Peer, SecurityGroupId, SecurityGroupRules, SecurityRule, SubnetId,
    TaskNetwork, Traffic, VpcId,
};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use crate::cases;
use crate::fixture::{Fixture, eventually};

cases![
    interface_is_as_told,
    row_79_groups_hold,
    row_78_forged_addresses,
    row_77_host_and_link_local,
    link_local_sockets_are_the_servers,
    router_is_as_before,
    groups_without_rules_let_nothing_through,
    host_reaches_what_groups_let_in,
    tasks_leave_by_the_address_of_the_host,
    removed_rules_come_back,
    networks_are_used_again,
];

const VPC: &str = "10.77.0.0/16";
/// Changes of rules one right after the other.
const BURST: usize = 30;

/// An interface in groups, each named by a digit.
pub(crate) fn interface(address: [u8; 4], groups: &[char]) -> TaskNetwork {
    let address = Ipv4Addr::from(address);
    let hex = |prefix: &str| format!("{prefix}-0{:016x}", address.to_bits());
    TaskNetwork {
        interface: NetworkInterfaceId::new(hex("eni")).unwrap(),
        attachment: "00000000-0000-0000-0000-000000000000".to_owned(),
        vpc: VpcId::new("vpc-00000000000000001").unwrap(),
        vpc_block: VPC.parse().unwrap(),
        subnet: SubnetId::new("subnet-00000000000000001").unwrap(),
        zone: "us-east-1a".to_owned(),
        address,
        address_v6: None,
        vpc_block_v6: None,
        mac: MacAddress::of(address),
        groups: groups.iter().map(|digit| group(*digit)).collect(),
    }
}

pub(crate) fn vpc(address: [u8; 4], groups: &[char], managed: bool) -> SandboxNetwork {
    SandboxNetwork::Vpc { interface: Box::new(interface(address, groups)), mbps: None, managed }
}

pub(crate) fn group(digit: char) -> SecurityGroupId {
    SecurityGroupId::new(format!("sg-{}", digit.to_string().repeat(17))).unwrap()
}

/// The rules of a group: what it lets in, and out to everywhere.
pub(crate) fn rules(digit: char, ingress: Vec<SecurityRule>) -> SecurityGroupRules {
    let egress = vec![SecurityRule { traffic: Traffic::All, peer: Peer::Block(Cidr::ANYWHERE_V4) }];
    SecurityGroupRules { group: group(digit), ingress, egress }
}

pub(crate) fn from_group(traffic: Traffic, digit: char) -> SecurityRule {
    SecurityRule { traffic, peer: Peer::Group(group(digit)) }
}

pub(crate) fn from_anywhere(traffic: Traffic) -> SecurityRule {
    SecurityRule { traffic, peer: Peer::Block(Cidr::ANYWHERE_V4) }
}

pub(crate) fn vpcs() -> Vec<Cidr> {
    vec![VPC.parse().unwrap()]
}

/// Answers every connection with a word.
pub(crate) const SERVER: &str = "while :; do nc -l -p 5432 -e echo hello; done & while :; do nc -l -p 80 -e echo hello; done & \
    echo ready; wait";

/// Says whether a server answers. One that is between two connections refuses, and is asked again.
pub(crate) fn reach(address: &str, port: u16) -> String {
    let ask = format!("nc -w 1 {address} {port} < /dev/null | grep -q hello");
    format!("for i in 1 2 3; do {ask} && echo reached && exit; sleep 0.1; done; echo dropped")
}

async fn interface_is_as_told(fixture: &Fixture) {
    fixture.client.set_groups(&[rules('a', vec![])], &vpcs()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 4], &['a'], false)).await;
    let seen = task.sh("ip -o -4 addr show dev eth0; cat /sys/class/net/eth0/address; ip route; cat /sys/class/net/eth0/mtu").await.text();
    assert!(seen.contains("inet 10.77.0.4/32") && seen.contains("0a:6e:0a:4d:00:04"), "{seen}");
    assert!(seen.contains("default via 169.254.1.1 dev eth0") && seen.contains("src 10.77.0.4"), "{seen}");
    assert!(seen.ends_with("1500"), "{seen}");
    // Two containers of the task have one network.
    let (_handle, _streams) =
        task.start_ready("while :; do nc -l -p 99 -e echo hello; done & echo ready; wait", |_| {}).await;
    assert_eq!(task.sh(&reach("127.0.0.1", 99)).await.text(), "reached");
    assert_eq!(task.sh("ip link set eth0 down 2>/dev/null || echo refused").await.text(), "refused");
    task.release().await;
}

async fn row_79_groups_hold(fixture: &Fixture) {
    let only_group = |digit| rules('b', vec![from_group(Traffic::Tcp(5432, 5432), digit)]);
    fixture.client.set_groups(&[rules('a', vec![]), only_group('a')], &vpcs()).await.unwrap();
    let server = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 5], &['b'], false)).await;
    let (handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let friend = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 6], &['a'], false)).await;
    let stranger = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 7], &['b'], false)).await;
    assert_eq!(friend.sh(&reach("10.77.0.5", 5432)).await.text(), "reached");
    assert_eq!(friend.sh(&reach("10.77.0.5", 80)).await.text(), "dropped");
    assert_eq!(stranger.sh(&reach("10.77.0.5", 5432)).await.text(), "dropped");
    // One rule goes, others come.
    let now = rules('b', vec![from_group(Traffic::Tcp(80, 90), 'b')]);
    fixture.client.set_groups(&[rules('a', vec![]), now], &vpcs()).await.unwrap();
    assert_eq!(friend.sh(&reach("10.77.0.5", 5432)).await.text(), "dropped");
    assert_eq!(stranger.sh(&reach("10.77.0.5", 80)).await.text(), "reached");
    // Egress: nothing may leave the friend any more.
    let shut = SecurityGroupRules { egress: vec![], ..rules('a', vec![]) };
    let open = rules('b', vec![from_anywhere(Traffic::All)]);
    fixture.client.set_groups(&[shut, open], &vpcs()).await.unwrap();
    assert_eq!(friend.sh(&reach("10.77.0.5", 80)).await.text(), "dropped");
    assert_eq!(stranger.sh(&reach("10.77.0.5", 80)).await.text(), "reached");
    drop(handle);
    for task in [server, friend, stranger] {
        task.release().await;
    }
}

async fn row_78_forged_addresses(fixture: &Fixture) {
    let client = &fixture.allowing_client;
    client.set_groups(&[rules('b', vec![from_anywhere(Traffic::All)])], &vpcs()).await.unwrap();
    let server = fixture.task_on_network(client, vpc([10, 77, 0, 8], &['b'], false)).await;
    let (_handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    // It has every right over its own network, and uses an address that is not its own.
    let forger = fixture.task_on_network(client, vpc([10, 77, 0, 9], &['b'], true)).await;
    let source = |address: &str| {
        let route = format!("ip route replace default via 169.254.1.1 dev eth0 onlink src {address}");
        format!("ip addr add {address}/32 dev eth0 2>/dev/null; {route} && {}", reach("10.77.0.8", 80))
    };
    for (address, expect) in [("10.77.0.9", "reached"), ("10.77.0.10", "dropped"), ("10.77.0.9", "reached")] {
        let change = |spec: &mut ContainerSpec| spec.capabilities_add = vec!["NET_ADMIN".to_owned()];
        let output = forger.sh_with(&source(address), change).await;
        assert_eq!(output.text(), expect, "{address}: {}", output.errors());
    }
    for task in [server, forger] {
        task.release().await;
    }
}

async fn row_77_host_and_link_local(fixture: &Fixture) {
    fixture.client.set_groups(&[rules('a', vec![from_anywhere(Traffic::All)])], &vpcs()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 11], &['a'], false)).await;
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let addresses = Command::new("ip").args(["-o", "-4", "addr"]).output().unwrap().stdout;
    let own = String::from_utf8(addresses).unwrap();
    let own = own.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
    for address in own.chain(["127.0.0.1", "169.254.169.254", "169.254.1.1", "10.77.0.1"]) {
        let script = format!("nc -w 1 {address} {port} < /dev/null && echo connected || echo dropped");
        assert_eq!(task.sh(&script).await.text(), "dropped", "{address}");
    }
    task.release().await;
}

async fn groups_without_rules_let_nothing_through(fixture: &Fixture) {
    fixture.client.set_groups(&[], &vpcs()).await.unwrap();
    let server = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 12], &['c'], false)).await;
    let (_handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let other = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 13], &['c'], false)).await;
    assert_eq!(other.sh(&reach("10.77.0.12", 80)).await.text(), "dropped");
    for task in [server, other] {
        task.release().await;
    }
}

/// Whether a server answers somebody who is in the host's network.
pub(crate) async fn host_reaches(address: &'static str, port: u16) -> bool {
    let connect = move || {
        let to = (address.parse::<IpAddr>().unwrap(), port).into();
        (0..3).any(|_| {
            let mut said = String::new();
            let connected = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(700));
            let is_heard = connected.is_ok_and(|mut stream| stream.read_to_string(&mut said).is_ok());
            // One that is between two connections refuses.
            std::thread::sleep(Duration::from_millis(if is_heard { 0 } else { 100 }));
            said == "hello\n"
        })
    };
    tokio::task::spawn_blocking(connect).await.unwrap()
}

async fn host_reaches_what_groups_let_in(fixture: &Fixture) {
    let let_in = |peer: &str| {
        let peer = Peer::Block(peer.parse().unwrap());
        [rules('a', vec![SecurityRule { traffic: Traffic::Tcp(80, 80), peer }])]
    };
    // The host is the router of the VPC.
    fixture.client.set_groups(&let_in("10.77.0.1/32"), &vpcs()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 14], &['a'], false)).await;
    let (_handle, _streams) = task.start_ready(SERVER, |_| {}).await;
    assert!(host_reaches("10.77.0.14", 80).await);
    assert!(!host_reaches("10.77.0.14", 5432).await);
    fixture.client.set_groups(&let_in("10.77.0.0/32"), &vpcs()).await.unwrap();
    assert!(!host_reaches("10.77.0.14", 80).await);
    task.release().await;
}

/// A network beyond the host, and a server in it that says by which address it is reached.
pub(crate) struct Beyond(std::process::Child);

impl Beyond {
    pub(crate) const ADDRESS: &str = "198.51.100.2";
    pub(crate) const ADDRESS_V6: &str = "2001:db8:5::2";

    pub(crate) fn new() -> Self {
        let child = Command::new("unshare")
            .args(["-n", "busybox", "nc", "-ll", "-p", "80", "-e", "busybox", "echo", "hello"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let beyond = Self(child);
        // It has left this network once it has its own.
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        while namespace(beyond.0.id()) == namespace(std::process::id()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = beyond.0.id().to_string();
        beyond.ip(&format!("link add ngtest type veth peer name eth0 netns {pid}"), false);
        beyond.ip("addr add 198.51.100.1/30 dev ngtest", false);
        beyond.ip("link set ngtest up", false);
        beyond.ip("addr add 198.51.100.2/30 dev eth0", true);
        beyond.ip("link set eth0 up", true);
        beyond.ip("addr add 2001:db8:5::1/64 dev ngtest nodad", false);
        beyond.ip("addr add 2001:db8:5::2/64 dev eth0 nodad", true);
        beyond
    }

    /// What a server says to somebody who is there.
    pub(crate) fn asks(&self, address: &str, port: u16) -> String {
        let pid = self.0.id().to_string();
        let ask = ["busybox", "nc", "-w", "2", address, &port.to_string()].map(str::to_owned);
        let output = Command::new("nsenter").args(["-t", &pid, "-n"]).args(ask).stdin(Stdio::null()).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn ip(&self, arguments: &str, inside: bool) {
        let pid = self.0.id().to_string();
        let mut command = match inside {
            true => Command::new("nsenter"),
            false => Command::new("ip"),
        };
        if inside {
            command.args(["-t", &pid, "-n", "ip"]);
        }
        assert!(command.args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // Gone with the other end a moment later otherwise.
        let _ = Command::new("ip").args(["link", "del", "ngtest"]).stderr(Stdio::null()).status();
    }
}

async fn tasks_leave_by_the_address_of_the_host(fixture: &Fixture) {
    let beyond = Beyond::new();
    let only_web =
        SecurityGroupRules { egress: vec![from_anywhere(Traffic::Tcp(80, 80))], ..rules('a', vec![]) };
    fixture.client.set_groups(&[only_web], &vpcs()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 15], &['a'], false)).await;
    // What is beyond has no route to the VPC: answers come only to the host's address.
    assert_eq!(task.sh(&reach(Beyond::ADDRESS, 80)).await.text(), "reached");
    let shut =
        SecurityGroupRules { egress: vec![from_anywhere(Traffic::Tcp(443, 443))], ..rules('a', vec![]) };
    fixture.client.set_groups(&[shut], &vpcs()).await.unwrap();
    assert_eq!(task.sh(&reach(Beyond::ADDRESS, 80)).await.text(), "dropped");
    task.release().await;
    drop(beyond);
}

async fn removed_rules_come_back(fixture: &Fixture) {
    fixture.client.set_groups(&[rules('a', vec![])], &vpcs()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 0, 16], &['a'], false)).await;
    let router = routers().into_iter().find(|router| contents(*router).contains("10.77.0.16 ")).unwrap();
    let nft = |arguments: &[&str]| {
        let output = Command::new("nft").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = nft(&["list", "tables"]);
    // Others on this machine may have theirs.
    let is_ours =
        |line: &&str| fixture.digits().any(|digits| line.ends_with(&format!("inet neargate_{digits}")));
    let ours = ours.lines().filter(is_ours).collect::<Vec<_>>();
    assert!(!ours.is_empty());
    for table in &ours {
        let name = table.trim_start_matches("table ").split(' ').collect::<Vec<_>>();
        nft(&[&["delete", "table"], &name[..]].concat());
    }
    eventually("the host's rules come back", || {
        ours.iter().all(|table| nft(&["list", "tables"]).contains(table))
    })
    .await;
    let flush =
        Command::new("nsenter").args(["-t", &router.to_string(), "-n", "nft", "flush", "ruleset"]).status();
    assert!(flush.unwrap().success());
    let list = || {
        Command::new("nsenter")
            .args(["-t", &router.to_string(), "-n", "nft", "list", "tables"])
            .output()
            .unwrap()
    };
    eventually("the router's rules come back", || !list().stdout.is_empty()).await;
    assert!(contents(router).contains("10.77.0.16 : 0x"), "with who is there");
    // A part is noticed as well as the whole.
    let in_router = |words: &str| {
        let pid = router.to_string();
        let nft = Command::new("nsenter").args(["-t", &pid, "-n", "nft"]).args(words.split(' ')).status();
        assert!(nft.unwrap().success(), "nft {words}");
    };
    let parts = [
        ("flush map inet neargate policies", "10.77.0.16 : 0x"),
        ("flush chain inet neargate forward", "jump from_task"),
        ("flush set inet neargate vpcs", "elements = { 10.77.0.0/16"),
    ];
    for (part, lost) in parts {
        in_router(part);
        eventually(part, || contents(router).contains(lost)).await;
    }
    // So are changes during the repair of others.
    for (part, _) in parts.iter().cycle().take(BURST) {
        in_router(part);
    }
    for (part, lost) in parts {
        eventually(part, || contents(router).contains(lost)).await;
    }
    for table in &ours {
        let table = table.trim_start_matches("table inet ");
        let postrouting = || nft(&["list", "chain", "inet", table, "postrouting"]).contains("masquerade");
        if !postrouting() {
            continue;
        }
        nft(&["flush", "chain", "inet", table, "postrouting"]);
        eventually("the host's chain comes back", postrouting).await;
    }
    let uplinks = || {
        let output = Command::new("ip").args(["-o", "link"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        let names = names.map(|name| name.split('@').next().unwrap());
        let is_ours = |name: &&str| fixture.digits().any(|digits| *name == format!("ngu{digits}"));
        names.filter(is_ours).map(str::to_owned).collect::<Vec<_>>()
    };
    let routed = || {
        let output = Command::new("ip").args(["route"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().any(|line| line.starts_with(&format!("{VPC} via 169.254.1.1 dev ngu")))
    };
    assert!(routed());
    for uplink in uplinks() {
        assert!(Command::new("ip").args(["link", "del", &uplink]).status().unwrap().success());
        eventually("the link comes back", || uplinks().contains(&uplink)).await;
    }
    eventually("and the route", routed).await;
    assert!(Command::new("ip").args(["route", "del", VPC]).status().unwrap().success());
    eventually("the route comes back", routed).await;
    task.release().await;
}

async fn link_local_sockets_are_the_servers(fixture: &Fixture) {
    let client = &fixture.client;
    client.set_groups(&[rules('a', vec![])], &vpcs()).await.unwrap();
    let turn = client.network_after(NetworkTurn::default()).await;
    let sockets = client.link_local().await.unwrap();
    assert!(matches!(client.link_local().await, Err(LinkLocalError::InUse)));
    let metadata = TcpListener::from_std(sockets.metadata).unwrap();
    let answering = tokio::spawn(async move {
        let (mut connection, peer) = metadata.accept().await.unwrap();
        connection.write_all(b"hello\n").await.unwrap();
        (metadata, peer)
    });
    let udp = UdpSocket::from_std(sockets.resolver.udp).unwrap();
    let task = fixture.task_on_network(client, vpc([10, 77, 0, 21], &['a'], false)).await;
    assert_eq!(task.sh(&reach("169.254.170.2", 80)).await.text(), "reached");
    let (metadata, peer) = answering.await.unwrap();
    assert_eq!(peer.ip().to_string(), "10.77.0.21");
    task.sh("nslookup neargate.example 169.254.169.253 > /dev/null 2>&1 & sleep 0.5; kill $!").await;
    let mut question = [0; 512];
    let (_, asker) = timeout(Duration::from_secs(5), udp.recv_from(&mut question)).await.unwrap().unwrap();
    assert_eq!(asker.ip().to_string(), "10.77.0.21");
    // Who has ended holds nothing, and the supervisor neither.
    drop((metadata, udp, sockets.resolver.tcp));
    drop(client.link_local().await.unwrap());
    assert!(timeout(Duration::from_millis(50), client.network_after(turn)).await.is_err());
    task.release().await;
}

async fn router_is_as_before(fixture: &Fixture) {
    let open = [rules('a', vec![from_group(Traffic::All, 'a')])];
    fixture.client.set_groups(&open, &vpcs()).await.unwrap();
    let first = fixture.task_on_network(&fixture.client, vpc([10, 77, 1, 1], &['a'], false)).await;
    let has_first = |router: &i32| contents(*router).contains("10.77.1.1 ");
    let router = routers().into_iter().find(has_first).expect("a router");
    let before = contents(router);
    for number in 2..6 {
        let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 1, number], &['a'], false)).await;
        assert_eq!(task.sh("echo hello").await.text(), "hello");
        assert_ne!(contents(router), before);
        task.release().await;
        assert_eq!(contents(router), before);
    }
    // Again the first of the addresses.
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 1, 2], &['a'], false)).await;
    task.release().await;
    first.release().await;
    eventually("the last one goes", || !contents(router).contains("10.77.1.")).await;
    // Those that are left wait for tasks.
    assert!(links(router) <= 32, "{} links", links(router));
}

/// The processes that hold routers of supervisors of this process.
pub(crate) fn routers() -> Vec<i32> {
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok())
    };
    let own = std::process::id().cast_signed();
    let is_ours = |pid: &i32| name(*pid).trim() == "ng-router" && parent(*pid).and_then(parent) == Some(own);
    let mut routers: Vec<i32> = pids.filter(is_ours).collect();
    routers.sort_unstable();
    routers
}

/// Routes, neighbours and elements of a router.
/// Without what the kernel itself enters and forgets: whose questions and connections it has counted lately.
pub(crate) fn contents(router: i32) -> String {
    let table = run_in(router, &["nft", "list", "table", "inet", "neargate"]);
    let (mut in_counted, mut kept) = (false, Vec::new());
    for line in table.lines() {
        in_counted &= line != "\t}";
        if !in_counted {
            kept.push(line);
        }
        in_counted |= line.starts_with("\tset connections") || line.starts_with("\tset questions");
    }
    let ways = ["ip -4 route", "ip -6 route", "ip neigh"]
        .map(|command| run_in(router, &command.split(' ').collect::<Vec<_>>()));
    [ways.join("\n"), kept.join("\n")].join("\n")
}

/// How many links to tasks a router has.
fn links(router: i32) -> usize {
    run_in(router, &["ip", "-o", "link"]).lines().filter(|line| line.contains(": ng")).count()
}

pub(crate) fn run_in(router: i32, arguments: &[&str]) -> String {
    let pid = router.to_string();
    let output = Command::new("nsenter").args(["-t", &pid, "-n"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a script in a task with an interface, and gives the time that it takes to have its network used again.
async fn run_once(fixture: &Fixture, address: [u8; 4], group: char, script: &str) -> String {
    let task = fixture.task_on_network(&fixture.client, vpc(address, &[group], false)).await;
    let sent = async || fixture.client.traffic(&task.sandbox.task).await.unwrap().unwrap().sent.bytes;
    assert_eq!(sent().await, 0, "what an earlier task has sent is counted");
    // Nobody has that address.
    let send = "nc -w 9 10.77.200.1 9 </dev/null >/dev/null 2>&1 & sleep 0.05";
    let text = task.sh(&format!("{send}; {script}")).await.text();
    assert!((40..4_000).contains(&sent().await), "{}", sent().await);
    task.release().await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    text
}

async fn networks_are_used_again(fixture: &Fixture) {
    const LOOK: &str = "readlink /proc/self/ns/net; ip -o -4 addr show dev eth0; ip route; ip neigh";
    let groups = [rules('a', vec![]), rules('b', vec![])];
    fixture.client.set_groups(&groups, &vpcs()).await.unwrap();
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    for n in 0..24 {
        let text = run_once(fixture, [10, 77, 1, n + 1], ['a', 'b'][usize::from(n % 2)], LOOK).await;
        let own = format!("10.77.1.{}", n + 1);
        let (network, rest) = text.split_once('\n').unwrap();
        // The address and the route of this task, and nothing that another one has left.
        assert!(rest.contains(&format!("inet {own}/32")) && rest.contains(&format!("src {own}")), "{rest}");
        assert_eq!((rest.matches("inet ").count(), rest.matches(" via ").count()), (1, 1), "{rest}");
        seen[usize::from(n % 2)].insert(network.to_owned());
    }
    let [a, b] = seen;
    assert!(a.len() < 12 && b.len() < 12, "none was used again: {a:?} {b:?}");
    assert!(a.is_disjoint(&b), "tasks of other groups have had one: {a:?} {b:?}");
    // A connection that waits out its time is something of the task's.
    let linger = "nc -l -p 99 -e echo hello & sleep 0.2; nc -w 1 127.0.0.1 99 </dev/null >/dev/null; readlink /proc/self/ns/net";
    let lingering = run_once(fixture, [10, 77, 1, 100], 'a', linger).await;
    for n in 0..10 {
        let text = run_once(fixture, [10, 77, 1, 101 + n], 'a', LOOK).await;
        assert!(!text.starts_with(&lingering), "{lingering} was used again");
    }
}
