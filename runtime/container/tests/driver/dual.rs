//! IPv6 of interfaces: the same rules as those of IPv4, and nothing of it where a task has no such address.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use neargate_driver::{SandboxHost, SandboxNetwork};
use neargate_model::{Cidr, Peer, SecurityGroupRules, SecurityRule, TaskNetwork, Traffic};

use crate::cases;
use crate::fixture::{Fixture, eventually};
use crate::network::{Beyond, group, host_reaches, interface, reach, rules, vpcs};

cases![
    both_addresses_are_as_told,
    row_81_groups_hold_for_both,
    networks_change_between_one_and_both,
    row_81_host_and_link_local,
    host_and_tasks_reach_each_other_by_groups,
    tasks_leave_by_the_ipv6_address_of_the_host,
    removed_routes_of_ipv6_come_back,
];

const BLOCK: &str = "fdaa:bbcc:ddee:ff00::/56";

/// An interface with both addresses, which end alike.
pub(crate) fn both(address: [u8; 4], groups: &[char]) -> SandboxNetwork {
    let v4 = interface(address, groups);
    let address_v6 = Some(address_v6(address));
    let interface = TaskNetwork { address_v6, vpc_block_v6: Some(BLOCK.parse().unwrap()), ..v4 };
    SandboxNetwork::Vpc { interface: Box::new(interface), mbps: None, managed: false }
}

fn only_v4(address: [u8; 4], groups: &[char]) -> SandboxNetwork {
    SandboxNetwork::Vpc { interface: Box::new(interface(address, groups)), mbps: None, managed: false }
}

fn address_v6(address: [u8; 4]) -> Ipv6Addr {
    let block: Cidr = BLOCK.parse().unwrap();
    let std::net::IpAddr::V6(first) = block.first() else { panic!("another block") };
    Ipv6Addr::from_bits(first.to_bits() | u128::from(Ipv4Addr::from(address).to_bits()))
}

pub(crate) fn blocks() -> Vec<Cidr> {
    vpcs().into_iter().chain([BLOCK.parse().unwrap()]).collect()
}

/// The rules of a group that lets everything out.
pub(crate) fn open_out(digit: char, ingress: Vec<SecurityRule>) -> SecurityGroupRules {
    let rules = rules(digit, ingress);
    let everywhere = SecurityRule { traffic: Traffic::All, peer: Peer::Block(Cidr::ANYWHERE_V6) };
    SecurityGroupRules { egress: rules.egress.iter().cloned().chain([everywhere]).collect(), ..rules }
}

pub(crate) fn from(traffic: Traffic, peer: &str) -> SecurityRule {
    SecurityRule { traffic, peer: Peer::Block(peer.parse().unwrap()) }
}

/// Answers every connection, of both versions.
const SERVER: &str =
    "for port in 80 5432; do while :; do nc -l -p $port -e echo hello; done & done; echo ready; wait";

async fn both_addresses_are_as_told(fixture: &Fixture) {
    fixture.client.set_groups(&[open_out('a', vec![])], &blocks()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, both([10, 77, 2, 4], &['a'])).await;
    let seen =
        task.sh("ip -o addr show dev eth0; ip -6 route; ip -6 neigh; cat /proc/net/if_inet6").await.text();
    assert!(seen.contains("inet 10.77.2.4/32"), "{seen}");
    assert!(seen.contains("inet6 fdaa:bbcc:ddee:ff00::a4d:204/128 scope global"), "{seen}");
    assert!(seen.contains("default via fe80::1 dev eth0") && seen.contains("src fdaa:"), "{seen}");
    assert!(
        !seen.contains("tentative") && seen.contains("fe80::1 dev eth0 lladdr 0a:6e:67:00:00:01"),
        "{seen}"
    );
    assert!(!seen.contains("fe800000"), "an address of its own accord: {seen}");
    task.release().await;
    // Without one there is nothing of IPv6 but loopback.
    let task = fixture.task_on_network(&fixture.client, only_v4([10, 77, 2, 5], &['a'])).await;
    let seen = task.sh("cat /proc/net/if_inet6; ip -6 route").await.text();
    assert_eq!(seen.lines().count(), 1, "{seen}");
    assert_eq!(task.sh("nc -l -p 99 -e echo hello & sleep 0.1; nc ::1 99 </dev/null").await.text(), "hello");
    task.release().await;
}

async fn row_81_groups_hold_for_both(fixture: &Fixture) {
    let by_group = SecurityRule { traffic: Traffic::Tcp(5432, 5432), peer: Peer::Group(group('a')) };
    let set = async |ingress: Vec<SecurityRule>| {
        let groups = [open_out('a', vec![]), open_out('b', ingress)];
        fixture.client.set_groups(&groups, &blocks()).await.unwrap();
    };
    set(vec![by_group]).await;
    let server = fixture.task_on_network(&fixture.client, both([10, 77, 2, 6], &['b'])).await;
    let (handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let friend = fixture.task_on_network(&fixture.client, both([10, 77, 2, 7], &['a'])).await;
    let stranger = fixture.task_on_network(&fixture.client, both([10, 77, 2, 8], &['b'])).await;
    let own = "fdaa:bbcc:ddee:ff00::a4d:206";
    for address in [own, "10.77.2.6"] {
        assert_eq!(friend.sh(&reach(address, 5432)).await.text(), "reached", "{address}");
        assert_eq!(friend.sh(&reach(address, 80)).await.text(), "dropped", "{address}");
        assert_eq!(stranger.sh(&reach(address, 5432)).await.text(), "dropped", "{address}");
    }
    // Blocks of one version say nothing of the other.
    set(vec![from(Traffic::Tcp(80, 80), "::/0")]).await;
    assert_eq!(stranger.sh(&reach(own, 80)).await.text(), "reached");
    assert_eq!(stranger.sh(&reach("10.77.2.6", 80)).await.text(), "dropped");
    set(vec![from(Traffic::Tcp(80, 80), "0.0.0.0/0")]).await;
    assert_eq!(stranger.sh(&reach(own, 80)).await.text(), "dropped");
    assert_eq!(stranger.sh(&reach("10.77.2.6", 80)).await.text(), "reached");
    set(vec![from(Traffic::All, "fdaa:bbcc:ddee:ff00::a4d:207/128")]).await;
    assert_eq!(friend.sh(&reach(own, 80)).await.text(), "reached");
    assert_eq!(stranger.sh(&reach(own, 80)).await.text(), "dropped");
    drop(handle);
    for task in [server, friend, stranger] {
        task.release().await;
    }
}

async fn networks_change_between_one_and_both(fixture: &Fixture) {
    const LOOK: &str = "cat /proc/net/if_inet6; ip -6 route | grep -c default; echo $(ip -6 neigh)";
    fixture.client.set_groups(&[open_out('a', vec![])], &blocks()).await.unwrap();
    for n in 0..24_u8 {
        let address = [10, 77, 2, 100 + n];
        let is_both = n % 3 != 0;
        let network = if is_both { both(address, &['a']) } else { only_v4(address, &['a']) };
        let task = fixture.task_on_network(&fixture.client, network).await;
        let seen = task.sh(LOOK).await.text();
        let own = format!("{:032x}", address_v6(address).to_bits());
        // Loopback, and this task's address or none.
        let lines = seen.lines().filter(|line| line.contains("eth0") && !line.contains("fe80::1")).count();
        assert_eq!((seen.contains(&own), lines), (is_both, usize::from(is_both)), "{n}: {seen}");
        assert_eq!(seen.matches("fe80::1").count(), usize::from(is_both), "{n}: {seen}");
        task.release().await;
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
}

/// What a program of the host says.
fn said(command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn row_81_host_and_link_local(fixture: &Fixture) {
    fixture.client.set_groups(&[open_out('a', vec![])], &blocks()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, both([10, 77, 2, 9], &['a'])).await;
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = said("ip -o -6 addr show scope global");
    let own = text.lines().filter_map(|line| line.split_whitespace().nth(3)?.split('/').next());
    let others = ["fe80::1", "fe80::2%eth0", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd00:ec2::254"];
    let vpc = "fdaa:bbcc:ddee:ff00::1";
    assert!(text.contains(vpc), "the host is the router of the VPC: {text}");
    for address in own.chain(others) {
        let script = format!("nc -w 1 {address} {port} < /dev/null && echo connected || echo dropped");
        assert_eq!(task.sh(&script).await.text(), "dropped", "{address}");
    }
    task.release().await;
}

async fn host_and_tasks_reach_each_other_by_groups(fixture: &Fixture) {
    let own = "fdaa:bbcc:ddee:ff00::1/128";
    fixture
        .client
        .set_groups(&[open_out('a', vec![from(Traffic::Tcp(80, 80), own)])], &blocks())
        .await
        .unwrap();
    let task = fixture.task_on_network(&fixture.client, both([10, 77, 2, 10], &['a'])).await;
    let (_handle, _streams) = task.start_ready(SERVER, |_| {}).await;
    assert!(host_reaches("fdaa:bbcc:ddee:ff00::a4d:20a", 80).await);
    assert!(!host_reaches("fdaa:bbcc:ddee:ff00::a4d:20a", 5432).await);
    task.release().await;
}

async fn tasks_leave_by_the_ipv6_address_of_the_host(fixture: &Fixture) {
    let beyond = Beyond::new();
    fixture.client.set_groups(&[open_out('a', vec![])], &blocks()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, both([10, 77, 2, 11], &['a'])).await;
    // What is beyond has no route to the VPC: answers come only to the host's address.
    assert_eq!(task.sh(&reach(Beyond::ADDRESS_V6, 80)).await.text(), "reached");
    // Where the host knows no way it says so, and nobody has to wait.
    assert!(
        Command::new("ip").args(["route", "add", "unreachable", "3fff:1::/48"]).status().unwrap().success()
    );
    let refused = task.sh("nc -w 20 3fff:1::1 80 </dev/null 2>&1").await.text();
    assert!(
        Command::new("ip").args(["route", "del", "unreachable", "3fff:1::/48"]).status().unwrap().success()
    );
    assert!(refused.contains("unreachable") || refused.contains("No route"), "{refused}");
    let shut = rules('a', vec![]);
    fixture.client.set_groups(&[shut], &blocks()).await.unwrap();
    assert_eq!(task.sh(&reach(Beyond::ADDRESS_V6, 80)).await.text(), "dropped");
    task.release().await;
    drop(beyond);
}

async fn removed_routes_of_ipv6_come_back(fixture: &Fixture) {
    let by_group = SecurityRule { traffic: Traffic::Tcp(80, 80), peer: Peer::Group(group('a')) };
    fixture.client.set_groups(&[open_out('a', vec![by_group])], &blocks()).await.unwrap();
    let server = fixture.task_on_network(&fixture.client, both([10, 77, 2, 12], &['a'])).await;
    let (_handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let client = fixture.task_on_network(&fixture.client, both([10, 77, 2, 13], &['a'])).await;
    let routed = || said("ip -6 route").contains(&format!("{BLOCK} via fe80::1 dev ngu"));
    assert!(routed());
    assert!(Command::new("ip").args(["-6", "route", "del", BLOCK]).status().unwrap().success());
    eventually("the route comes back", routed).await;
    assert!(
        Command::new("ip")
            .args(["-6", "addr", "flush", "scope", "global", "to", BLOCK])
            .status()
            .unwrap()
            .success()
    );
    eventually("with the address", || said("ip -6 addr").contains("fdaa:bbcc:ddee:ff00::1/128")).await;
    for router in crate::network::routers() {
        let pid = router.to_string();
        let flush = ["-t", &pid, "-n", "nft", "flush", "ruleset"];
        assert!(Command::new("nsenter").args(flush).status().unwrap().success());
    }
    let own = "fdaa:bbcc:ddee:ff00::a4d:20c";
    let mut reached = String::new();
    for _ in 0..10 {
        reached = client.sh(&reach(own, 80)).await.text();
        if reached == "reached" {
            break;
        }
    }
    assert_eq!(reached, "reached");
    for task in [server, client] {
        task.release().await;
    }
}
