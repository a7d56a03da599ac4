//! Two hosts, each a network namespace with a supervisor in it: whom tasks reach across, and what a host cannot forge.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use neargate_container::{Supervisor, SupervisorClient, SupervisorConfig};
use neargate_driver::SandboxHost;
use neargate_model::{
    Cidr, HostEnd, HostNumber, Hosts, OtherHost, Peer, RemoteTask, SecurityGroupRules, SecurityRule, Traffic,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cases;
use crate::fixture::{Fixture, Task, eventually};
use crate::network::{contents, from_anywhere, from_group, group, reach, routers, rules, run_in, vpc, vpcs};

cases![
    tasks_reach_each_other_across_hosts,
    hosts_speak_for_their_own_tasks_only,
    others_on_a_host_cannot_speak_for_it,
    links_to_hosts_come_back,
];

/// A host: a network namespace, and the supervisor in it.
pub(crate) struct Machine {
    pub(crate) client: SupervisorClient,
    network: Network,
}

impl Machine {
    /// To be made before there are threads.
    pub(crate) fn new(config: &SupervisorConfig) -> Self {
        let (own, network) = (File::open("/proc/self/ns/net").unwrap(), Network::new());
        network.enter();
        let client = Supervisor::spawn(config).expect("start supervisor of another host");
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        Self { client, network }
    }

    /// Tells it of groups and of other hosts.
    async fn tell(&self, own: u16, groups: &[SecurityGroupRules], others: &[Told<'_>]) {
        let other = |(number, tasks): &Told<'_>| OtherHost {
            end: end(*number),
            blocks: vec![share(*number)],
            tasks: tasks.iter().map(|(address, groups)| remote(*address, groups)).collect(),
        };
        let hosts = Hosts { own: end(own), others: others.iter().map(other).collect() };
        self.client.set_hosts(Some(&hosts)).await.unwrap();
        self.client.set_groups(groups, &vpcs()).await.unwrap();
    }

    async fn task<'a>(&'a self, fixture: &'a Fixture, address: [u8; 4], groups: &[char]) -> Task<'a> {
        fixture.task_on_network(&self.client, vpc(address, groups, false)).await
    }
}

/// A host by its number, and the tasks there by address and groups.
type Told<'a> = (u16, &'a [([u8; 4], &'a [char])]);

/// A network namespace.
struct Network(File);

impl Network {
    fn new() -> Self {
        let mut child = Command::new("unshare").args(["-n", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        while fs::read_link(&path).unwrap() == fs::read_link("/proc/self/ns/net").unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let network = Self(File::open(path).unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        network.run("ip link set lo up");
        network
    }

    /// Moves the calling thread there.
    fn enter(&self) {
        move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// To be run there, with further arguments.
    fn command(&self, command: &str) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.arg(format!("--net={}", self.path())).args(command.split(' '));
        nsenter
    }

    fn run(&self, command: &str) -> String {
        let output = self.command(command).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A socket there, with a time limit for what it waits for.
    fn socket(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        let bind = || {
            self.enter();
            UdpSocket::bind((address, port)).unwrap()
        };
        let socket = std::thread::scope(|scope| scope.spawn(bind).join().unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }
}

/// A cable between two networks, as long as it lives.
struct Cable<'a>(&'a Network, &'static str);

impl<'a> Cable<'a> {
    fn lay(
        (a, a_address): (&'a Network, &str),
        (b, b_address): (&Network, &str),
        name: &'static str,
    ) -> Self {
        a.run(&format!("ip link add {name} type veth peer name {name} netns {}", b.path()));
        for (network, address) in [(a, a_address), (b, b_address)] {
            network.run(&format!("ip addr add {address} dev {name}"));
            network.run(&format!("ip link set {name} up"));
        }
        Self(a, name)
    }
}

impl Drop for Cable<'_> {
    fn drop(&mut self) {
        // Gone already if a case has failed.
        let _ = self.0.command(&format!("ip link del {}", self.1)).status();
    }
}

/// Hosts 1 and 2 are the machines, 3 is whoever pretends to be one.
fn end(number: u16) -> HostEnd {
    let address = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2), ROGUE][usize::from(number) - 1];
    HostEnd { number: HostNumber::new(number).unwrap(), address }
}

const ROGUE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// 10.77.0.0/18, 10.77.64.0/18 and 10.77.128.0/18.
fn share(number: u16) -> Cidr {
    end(number).number.share_of(vpcs()[0], 2).unwrap()
}

fn remote(address: [u8; 4], groups: &[char]) -> RemoteTask {
    RemoteTask { address: address.into(), groups: groups.iter().map(|digit| group(*digit)).collect() }
}

fn machines(fixture: &Fixture) -> &[Machine; 2] {
    fixture.machines.first_chunk().unwrap()
}

fn lay_cable(fixture: &Fixture) -> Cable<'_> {
    let [one, two] = machines(fixture);
    Cable::lay((&one.network, "192.0.2.1/30"), (&two.network, "192.0.2.2/30"), "cable")
}

/// Answers on two ports with a word, and on one with how much has come.
const SERVER: &str = "for port in 80 5432; do while :; do nc -l -p $port -e echo hello; done & done; \
    while :; do nc -l -p 90 -e wc -c; done & echo ready; wait";

const ON_ONE: [u8; 4] = [10, 77, 3, 1];
const STRANGER: [u8; 4] = [10, 77, 3, 2];
const ON_TWO: [u8; 4] = [10, 77, 64, 5];

async fn tasks_reach_each_other_across_hosts(fixture: &Fixture) {
    let ([one, two], cable) = (machines(fixture), lay_cable(fixture));
    let groups =
        [rules('a', vec![]), rules('b', vec![from_group(Traffic::Tcp(80, 99), 'a')]), rules('c', vec![])];
    one.tell(1, &groups, &[(2, &[(ON_TWO, &['b'])])]).await;
    two.tell(2, &groups, &[(1, &[(ON_ONE, &['a']), (STRANGER, &['c'])])]).await;
    let server = two.task(fixture, ON_TWO, &['b']).await;
    let (_handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let friend = one.task(fixture, ON_ONE, &['a']).await;
    let stranger = one.task(fixture, STRANGER, &['c']).await;
    assert_eq!(friend.sh(&reach("10.77.64.5", 80)).await.text(), "reached");
    assert_eq!(friend.sh(&reach("10.77.64.5", 5432)).await.text(), "dropped");
    assert_eq!(stranger.sh(&reach("10.77.64.5", 80)).await.text(), "dropped");
    // As many bytes as no packet holds, which have to be cut so that they fit.
    let much =
        "for i in 1 2 3; do head -c 3000000 /dev/zero | nc 10.77.64.5 90 | grep . && exit; sleep 0.1; done";
    assert_eq!(friend.sh(much).await.text(), "3000000");
    // Who comes into a group there is let in here, and who leaves it is not.
    for (of_stranger, expect) in [(&['a', 'c'][..], "reached"), (&['c'][..], "dropped")] {
        two.tell(2, &groups, &[(1, &[(ON_ONE, &['a']), (STRANGER, of_stranger)])]).await;
        assert_eq!(stranger.sh(&reach("10.77.64.5", 80)).await.text(), expect);
    }
    // What may leave is said where it leaves, by who is where it goes.
    let to_b = SecurityRule { traffic: Traffic::All, peer: Peer::Group(group('b')) };
    let only_to_b = [SecurityGroupRules { egress: vec![to_b], ..rules('a', vec![]) }];
    for (of_server, expect) in [('b', "reached"), ('c', "dropped")] {
        one.tell(1, &only_to_b, &[(2, &[(ON_TWO, &[of_server])])]).await;
        assert_eq!(friend.sh(&reach("10.77.64.5", 80)).await.text(), expect);
    }
    for task in [server, friend, stranger] {
        task.release().await;
    }
    alone(one).await;
    alone(two).await;
    drop(cable);
}

/// Tells a machine that there are no others.
async fn alone(machine: &Machine) {
    machine.client.set_hosts(None).await.unwrap();
}

/// How many datagrams have come to a task for a port at which nobody listens.
async fn arrived(task: &Task<'_>) -> u64 {
    let text = task.sh("grep ^Udp: /proc/net/snmp | tail -n 1").await.text();
    // "Udp:", then "InDatagrams" and "NoPorts" (proc(5)).
    text.split(' ').nth(2).unwrap().parse().unwrap()
}

/// A datagram of a tunnel, with an empty one of UDP in it.
fn tunnelled(pair: (u32, u32), (from, to): ([u8; 4], [u8; 4])) -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[12..16].copy_from_slice(&from);
    ip[16..20].copy_from_slice(&to);
    let sum: u32 = ip.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    let identifier = (pair.0 << 12 | pair.1).to_be_bytes();
    let vxlan = [8, 0, 0, 0, identifier[1], identifier[2], identifier[3], 0];
    let hardware = |number| [0x0a, 0x6e, 0x67, 3, 0, number];
    let ethernet = [&hardware(2)[..], &hardware(3), &[8, 0]].concat();
    // From port 5000 to port 53, without a checksum.
    let udp = [0x13, 0x88, 0, 53, 0, 8, 0, 0];
    [&vxlan[..], &ethernet, &ip, &udp].concat()
}

async fn hosts_speak_for_their_own_tasks_only(fixture: &Fixture) {
    let [_, two] = machines(fixture);
    let rogue = Network::new();
    let cable = Cable::lay((&rogue, "198.51.100.1/30"), (&two.network, "198.51.100.2/30"), "rogue");
    rogue.run("ip addr add 203.0.113.1/32 dev lo");
    rogue.run("ip route add 192.0.2.2 via 198.51.100.2");
    two.network.run("ip addr add 192.0.2.2/32 dev lo");
    two.network.run("ip route add 203.0.113.1 via 198.51.100.1");
    two.tell(2, &[rules('b', vec![from_anywhere(Traffic::All)])], &[(1, &[]), (3, &[])]).await;
    let server = two.task(fixture, ON_TWO, &['b']).await;
    let (own, other) = (rogue.socket(ROGUE, 0), rogue.socket(Ipv4Addr::new(203, 0, 113, 1), 0));
    let send = |socket: &UdpSocket, pair, from| {
        socket.send_to(&tunnelled(pair, (from, ON_TWO)), ("192.0.2.2", 7879)).unwrap();
    };
    let honest = || send(&own, (2, 3), [10, 77, 128, 9]);
    for (socket, pair, from, who) in [
        (&own, (2, 3), ON_ONE, "a task of another host"),
        (&own, (1, 2), ON_ONE, "a task of another host, by that host's tunnel"),
        (&own, (2, 3), [10, 77, 64, 9], "a task of the receiver"),
        (&own, (2, 3), [10, 77, 200, 1], "nobody in the VPC"),
        (&own, (2, 3), [8, 8, 8, 8], "somebody beyond"),
        (&other, (2, 3), [10, 77, 128, 9], "itself, from an address that is not the host's"),
    ] {
        let before = arrived(&server).await;
        (0..3).for_each(|_| send(socket, pair, from));
        honest();
        // What was sent before has come by then, too.
        let mut now = before;
        for _ in 0..200 {
            now = arrived(&server).await;
            if now > before {
                break;
            }
        }
        assert_eq!(now, before + 1, "{who}");
    }
    server.release().await;
    alone(two).await;
    two.network.run("ip addr del 192.0.2.2/32 dev lo");
    drop(cable);
}

async fn others_on_a_host_cannot_speak_for_it(fixture: &Fixture) {
    let [_, two] = machines(fixture);
    let rogue = Network::new();
    let cable = Cable::lay((&rogue, "198.51.100.1/30"), (&two.network, "198.51.100.2/30"), "rogue");
    two.tell(2, &[rules('a', vec![])], &[(1, &[])]).await;
    let task = two.task(fixture, ON_TWO, &['a']).await;
    // What leaves has the host's address, and another host would take it for the host's.
    let tunnel = rogue.socket(ROGUE, 7879);
    let plain = rogue.socket(ROGUE, 7880);
    let send = |port, word| format!("timeout 1 busybox tftp -g -l /dev/null -r {word} 198.51.100.1 {port}");
    task.sh(&[send(7879, "task"), send(7880, "task")].join(";")).await;
    // The same of somebody else's program on the host.
    let mut stranger = two.network.command("setpriv --reuid=65534 --clear-groups sh -c");
    stranger.arg([send(7879, "stranger"), send(7880, "stranger"), "true".to_owned()].join(";"));
    stranger.stderr(Stdio::null());
    assert!(stranger.status().unwrap().success());
    let mut heard = String::new();
    let mut buffer = [0; 64];
    while let Ok((length, _)) = plain.recv_from(&mut buffer) {
        heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(heard.contains("task") && heard.contains("stranger"), "{heard}");
    assert!(tunnel.recv_from(&mut buffer).is_err());
    task.release().await;
    alone(two).await;
    drop(cable);
}

async fn links_to_hosts_come_back(fixture: &Fixture) {
    let ([one, two], cable) = (machines(fixture), lay_cable(fixture));
    let groups = [rules('a', vec![]), rules('b', vec![from_group(Traffic::All, 'a')])];
    one.tell(1, &groups, &[(2, &[(ON_TWO, &['b'])])]).await;
    two.tell(2, &groups, &[(1, &[(ON_ONE, &['a'])])]).await;
    let server = two.task(fixture, ON_TWO, &['b']).await;
    let (_handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let friend = one.task(fixture, ON_ONE, &['a']).await;
    let reached = async || friend.sh(&reach("10.77.64.5", 80)).await.text();
    assert_eq!(reached().await, "reached");
    let with = |part: &str| routers().into_iter().find(|router| contents(*router).contains(part)).unwrap();
    let (router, receiving) = (with("10.77.3.1 dev ng"), with("10.77.64.5 dev ng"));
    const ROUTE: &str = "10.77.64.0/18 via 169.254.1.3 dev host2";
    assert!(contents(router).contains(ROUTE));
    let device =
        || run_in(router, &["ip", "-o", "link", "show", "host2"]).split(':').next().map(str::to_owned);
    let mut devices = Vec::new();
    for lost in ["ip link del host2", "ip route del 10.77.64.0/18", "ip neigh flush dev host2 nud permanent"]
    {
        run_in(router, &lost.split(' ').collect::<Vec<_>>());
        eventually(lost, || {
            let now = contents(router);
            now.contains(ROUTE) && now.contains("169.254.1.3 dev host2 lladdr 0a:6e:67:03:00:02 PERMANENT")
        })
        .await;
        assert_eq!(reached().await, "reached", "{lost}");
        devices.push(device());
    }
    // What is as it should be is left as it is.
    assert_eq!((&devices[1], &devices[2]), (&devices[0], &devices[0]));
    two.network.run("nft flush ruleset");
    eventually("the host's rules come back", || {
        two.network.run("nft list ruleset").contains("@th,96,24 0x1002")
    })
    .await;
    run_in(receiving, &["nft", "flush", "ruleset"]);
    eventually("the router's rules come back", || {
        run_in(receiving, &["nft", "list", "ruleset"]).contains("10.77.3.1")
    })
    .await;
    assert_eq!(reached().await, "reached");
    alone(one).await;
    alone(two).await;
    for router in [router, receiving] {
        let left = contents(router);
        assert!(!left.contains(" dev host") && !left.contains("169.254.1.3"), "{left}");
    }
    assert!(!contents(receiving).contains("10.77.3.1") && !contents(router).contains("10.77.64.5"));
    for task in [server, friend] {
        task.release().await;
    }
    drop(cable);
}
