//! Containers under `bridge`: who reaches whom, and the ports of the host that lead to them.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use neargate_driver::{
    BridgedContainer, ContainerNames, ContainerSpec, Limits, SandboxHost, SandboxNetwork, SandboxSpec,
    Sharing,
};
use neargate_model::{Cidr, ContainerId, HostPort, PortProtocol, TaskId};

use crate::cases;
use crate::fixture::{Fixture, Task, eventually};
use crate::network::{Beyond, reach};

cases![
    row_85_ports_that_others_have,
    bridged_containers_are_apart,
    ports_of_the_host_lead_to_containers,
    host_ports_come_back_with_the_rules,
    containers_know_the_names_they_are_told,
    nothing_is_left_of_bridged_containers,
];

const BLOCK: &str = "10.78.0.0/16";
/// The host's address in the block.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// A container by its number, which is also the last byte of its address.
pub(crate) fn bridged(number: u8, ports: &[HostPort], links: &[u8]) -> BridgedContainer {
    let address = |number| Ipv4Addr::new(10, 78, 0, number);
    BridgedContainer {
        id: ContainerId::new(format!("00000000-0000-0000-0078-{number:012x}")).unwrap(),
        address: address(number),
        ports: ports.to_vec(),
        links: links.iter().map(|number| address(*number)).collect(),
    }
}

pub(crate) fn bridge(containers: Vec<BridgedContainer>) -> SandboxNetwork {
    SandboxNetwork::Bridge { block: block(), containers, managed: false }
}

fn block() -> Cidr {
    BLOCK.parse().unwrap()
}

pub(crate) fn tcp(host_port: u16) -> HostPort {
    HostPort { protocol: PortProtocol::Tcp, host_port, container_port: 80 }
}

/// A port that nobody has now.
fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

/// Answers every connection to a port with a word.
pub(crate) const SERVER: &str = "busybox nc -ll -p 80 -e echo hello & echo ready; wait";

/// Makes a container the one with this number.
fn as_number(number: u8) -> impl FnOnce(&mut ContainerSpec) {
    move |spec| spec.id = bridged(number, &[], &[]).id
}

async fn says(task: &Task<'_>, number: u8, script: &str) -> String {
    task.sh_with(script, as_number(number)).await.text()
}

/// Whether a server answers somebody who is in the host's network; one that has just been started may not listen yet.
pub(crate) async fn answers(address: Ipv4Addr, port: u16) -> bool {
    let to = SocketAddr::from((address, port));
    let connect = move || {
        (0..5).any(|_| {
            let mut said = String::new();
            let connected = TcpStream::connect_timeout(&to, Duration::from_millis(700));
            let is_heard = connected.is_ok_and(|mut stream| stream.read_to_string(&mut said).is_ok());
            std::thread::sleep(Duration::from_millis(if is_heard { 0 } else { 50 }));
            said == "hello\n"
        })
    };
    tokio::task::spawn_blocking(connect).await.unwrap()
}

async fn bridged_containers_are_apart(fixture: &Fixture) {
    fixture.client.set_groups(&[], &[block()]).await.unwrap();
    let both = vec![bridged(20, &[], &[21]), bridged(21, &[], &[])];
    let task = fixture.task_on_network(&fixture.client, bridge(both)).await;
    let other = fixture.task_on_network(&fixture.client, bridge(vec![bridged(22, &[], &[])])).await;
    let seen = says(&task, 20, "ip -o -4 addr show dev eth0; ip route").await;
    assert!(seen.contains("inet 10.78.0.20/32") && seen.contains("default via 169.254.1.1"), "{seen}");
    // Each has its own port 80.
    let (first, _streams) = task.start_ready(SERVER, as_number(20)).await;
    let (_second, _streams) = task.start_ready(SERVER, as_number(21)).await;
    assert_eq!(says(&other, 22, &reach("10.78.0.20", 80)).await, "dropped");
    assert_eq!(says(&other, 22, &reach("10.78.0.21", 80)).await, "dropped");
    first.signal(neargate_driver::Signal::Kill).await.unwrap();
    first.wait().await;
    // It is started again, with the same network.
    assert_eq!(says(&task, 20, &reach("127.0.0.1", 80)).await, "dropped", "the other's is not its own");
    assert_eq!(says(&task, 20, &reach("10.78.0.21", 80)).await, "reached", "a link");
    let beyond = Beyond::new();
    assert_eq!(says(&task, 20, &reach(Beyond::ADDRESS, 80)).await, "reached", "by the host's address");
    drop(beyond);
    for address in ["10.78.0.1", "169.254.169.254", "127.0.0.1"] {
        assert_eq!(says(&other, 22, &reach(address, 80)).await, "dropped", "{address}");
    }
    task.release().await;
    other.release().await;
}

async fn ports_of_the_host_lead_to_containers(fixture: &Fixture) {
    fixture.client.set_groups(&[], &[block()]).await.unwrap();
    let (port, datagrams) = (free_port(), free_port());
    let udp = HostPort { protocol: PortProtocol::Udp, host_port: datagrams, container_port: 53 };
    let mapped = bridged(24, &[tcp(port), udp], &[]);
    let task = fixture.task_on_network(&fixture.client, bridge(vec![mapped])).await;
    let (_handle, _streams) = task.start_ready(SERVER, as_number(24)).await;
    assert!(answers(HOST, port).await, "from the host itself");
    assert!(!answers(HOST, 80).await && !answers(Ipv4Addr::LOCALHOST, port).await);
    // Nobody listens for datagrams in the container, which says so; the socket that holds the port would say nothing.
    let refused = tokio::task::spawn_blocking(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect((HOST, datagrams)).unwrap();
        socket.send(b"hello").unwrap();
        socket.recv(&mut [0; 8]).unwrap_err().kind()
    });
    assert_eq!(refused.await.unwrap(), ErrorKind::ConnectionRefused);
    let beyond = Beyond::new();
    assert_eq!(beyond.asks("198.51.100.1", port), "hello\n", "from elsewhere");
    // A container of another task, by an address of the host.
    let other = fixture.task_on_network(&fixture.client, bridge(vec![bridged(25, &[], &[])])).await;
    assert_eq!(says(&other, 25, &reach("198.51.100.1", port)).await, "reached");
    assert_eq!(says(&other, 25, &reach("198.51.100.1", 80)).await, "dropped");
    assert!(TcpListener::bind(("0.0.0.0", port)).is_err(), "it is the container's");
    task.release().await;
    assert!(!answers(HOST, port).await);
    assert!(TcpListener::bind(("0.0.0.0", port)).is_ok(), "and everybody's again");
    other.release().await;
}

async fn row_85_ports_that_others_have(fixture: &Fixture) {
    fixture.client.set_groups(&[], &[block()]).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let spec = |number: u8, container| SandboxSpec {
        task: TaskId::new(format!("85{number:030x}")).unwrap(),
        hostname: "test".to_owned(),
        limits: Limits::default(),
        linux: true,
        network: bridge(vec![container]),
        sharing: Sharing::default(),
    };
    let refused = fixture.client.prepare(&spec(1, bridged(26, &[tcp(port)], &[]))).await.unwrap_err();
    let why = neargate_model::chain(&refused);
    assert!(why.contains(&format!("port {port}/tcp of the host: another program uses it")), "{why}");
    drop(listener);
    // Nothing is left of what was refused, and what a container has another one cannot.
    let first = spec(2, bridged(26, &[tcp(port)], &[]));
    fixture.client.prepare(&first).await.unwrap();
    assert!(fixture.client.prepare(&spec(3, bridged(27, &[tcp(port)], &[]))).await.is_err());
    let both = [tcp(port), HostPort { protocol: PortProtocol::Udp, ..tcp(port) }];
    fixture.client.release(&first.task).await.unwrap();
    let low = free_low_port();
    let last = spec(4, bridged(28, &[both[0], both[1], tcp(low)], &[]));
    fixture.client.prepare(&last).await.unwrap();
    fixture.client.release(&last.task).await.unwrap();
}

/// A port below 1024 that nobody has now.
fn free_low_port() -> u16 {
    (600..1024).find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap()
}

async fn host_ports_come_back_with_the_rules(fixture: &Fixture) {
    fixture.client.set_groups(&[], &[block()]).await.unwrap();
    let port = free_port();
    let task = fixture.task_on_network(&fixture.client, bridge(vec![bridged(29, &[tcp(port)], &[])])).await;
    let (_handle, _streams) = task.start_ready(SERVER, as_number(29)).await;
    assert!(answers(HOST, port).await);
    let nft = |arguments: &[&str]| {
        let output = Command::new("nft").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let lists = || nft(&["list", "ruleset"]).contains(&format!("tcp . {port} : 10.78.0.29 . 80"));
    assert!(lists());
    let tables = nft(&["list", "tables"]);
    for table in tables.lines().filter_map(|line| line.strip_prefix("table inet neargate_")) {
        nft(&["delete", "table", "inet", &format!("neargate_{table}")]);
    }
    eventually("the host's ports come back", lists).await;
    assert!(answers(HOST, port).await);
    task.release().await;
    assert!(!lists());
}

async fn containers_know_the_names_they_are_told(fixture: &Fixture) {
    fixture.client.set_groups(&[], &[block()]).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, bridge(vec![bridged(30, &[], &[])])).await;
    let names = ContainerNames {
        hostname: Some("web".to_owned()),
        hosts: vec![("10.78.0.31".parse().unwrap(), "db postgres".to_owned())],
        dns_servers: vec!["192.0.2.1".parse().unwrap()],
        dns_search_domains: vec!["a.test".to_owned(), "b.test".to_owned()],
    };
    let script = "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf";
    let change = move |spec: &mut ContainerSpec| {
        as_number(30)(spec);
        spec.names = names;
    };
    let said = task.sh_with(script, change).await.text();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["web", "web"], "{said}");
    assert!(lines.contains(&"10.78.0.30\tweb") && lines.contains(&"10.78.0.31\tdb postgres"), "{said}");
    assert_eq!(lines[lines.len() - 2..], ["nameserver 192.0.2.1", "search a.test b.test"], "{said}");
    task.release().await;
}

async fn nothing_is_left_of_bridged_containers(fixture: &Fixture) {
    fixture.client.set_groups(&[], &[block()]).await.unwrap();
    let port = free_port();
    let kept = fixture.task_on_network(&fixture.client, bridge(vec![bridged(31, &[], &[])])).await;
    let listed = || {
        let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains("10.78.0.")).count()
    };
    let before = listed();
    for round in 0..20 {
        let both = vec![bridged(32, &[tcp(port)], &[33]), bridged(33, &[], &[])];
        let task = fixture.task_on_network(&fixture.client, bridge(both)).await;
        assert_eq!(listed(), before + 1, "round {round}");
        assert_eq!(says(&task, 33, "echo hello").await, "hello");
        task.release().await;
    }
    assert_eq!(listed(), before);
    assert!(TcpListener::bind(("0.0.0.0", port)).is_ok());
    kept.release().await;
}
