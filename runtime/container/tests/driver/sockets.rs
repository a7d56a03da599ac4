//! Sockets that the supervisor makes in the networks of tasks, and this process uses.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use neargate_driver::{IpVersion, SandboxError, SandboxHost, SandboxNetwork, SocketKind};
use neargate_model::{Peer, SecurityRule, TaskId, Traffic};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::cases;
use crate::fixture::{Fixture, Task, cgroup_roots, eventually};
use crate::network::{SERVER, from_anywhere, group, rules, vpc, vpcs};

cases![a_socket_is_in_the_network_of_its_task, a_socket_is_served, others_get_no_socket];

const STREAM: SocketKind = SocketKind::Stream(IpVersion::V4);
const DATAGRAM: SocketKind = SocketKind::Datagram(IpVersion::V4);
/// How long nothing must come before it counts as dropped.
const SILENCE: Duration = Duration::from_millis(700);

/// What a server answers whoever connects by a socket of a task. One that is between two connections is asked again.
async fn heard(task: &Task<'_>, to: &str) -> Option<String> {
    for _ in 0..3 {
        if let Some(said) = heard_at_once(task, to).await {
            return Some(said);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

async fn heard_at_once(task: &Task<'_>, to: &str) -> Option<String> {
    let socket = task.client.socket(&task.sandbox.task, STREAM).await.unwrap();
    let connect = TcpSocket::from_std_stream(socket.into()).connect(to.parse().unwrap());
    let mut stream = timeout(SILENCE, connect).await.ok()?.ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).await.ok()?;
    Some(said)
}

async fn a_socket_is_in_the_network_of_its_task(fixture: &Fixture) {
    let only_friends = SecurityRule { traffic: Traffic::Tcp(80, 80), peer: Peer::Group(group('a')) };
    let groups = [rules('a', vec![]), rules('b', vec![only_friends])];
    fixture.client.set_groups(&groups, &vpcs()).await.unwrap();
    let server = fixture.task_on_network(&fixture.client, vpc([10, 77, 3, 5], &['b'], false)).await;
    let (_handle, _streams) = server.start_ready(SERVER, |_| {}).await;
    let friend = fixture.task_on_network(&fixture.client, vpc([10, 77, 3, 6], &['a'], false)).await;
    let stranger = fixture.task_on_network(&fixture.client, vpc([10, 77, 3, 7], &['b'], false)).await;
    assert_eq!(heard(&friend, "10.77.3.5:80").await.as_deref(), Some("hello\n"));
    assert_eq!(heard(&stranger, "10.77.3.5:80").await, None);
    // This process is in the host's network, and its sockets are not.
    let host = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = host.local_addr().unwrap().port();
    for address in ["127.0.0.1", "10.77.0.1", "169.254.1.1"] {
        assert_eq!(heard(&friend, &format!("{address}:{port}")).await, None, "{address}");
    }
    for task in [server, friend, stranger] {
        task.release().await;
    }
}

async fn a_socket_is_served(fixture: &Fixture) {
    let open = vec![from_anywhere(Traffic::Tcp(80, 80)), from_anywhere(Traffic::Udp(53, 53))];
    fixture.client.set_groups(&[rules('a', open)], &vpcs()).await.unwrap();
    let task = fixture.task_on_network(&fixture.client, vpc([10, 77, 3, 8], &['a'], false)).await;
    let address = Ipv4Addr::new(10, 77, 3, 8);
    let make = async |kind| task.client.socket(&task.sandbox.task, kind).await;
    let listener = make(SocketKind::Listener { port: 80 }).await.unwrap();
    let listener = TcpListener::from_std(listener.into()).unwrap();
    let mut caller = timeout(SILENCE, TcpStream::connect((address, 80))).await.unwrap().unwrap();
    let (accepted, from) = listener.accept().await.unwrap();
    assert_eq!(from.ip().to_canonical(), Ipv4Addr::new(10, 77, 0, 1), "the host is the router of the VPC");
    drop(accepted);
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0);
    let Err(SandboxError::System { step, .. }) = make(SocketKind::Listener { port: 80 }).await else {
        panic!("two listen at one port");
    };
    assert_eq!(step, "listen on port 80 of the task");
    // Low ports are nobody's privilege there.
    let datagrams: OwnedFd = make(DATAGRAM).await.unwrap();
    let port = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
    rustix::net::bind(&datagrams, &port).unwrap();
    let datagrams = UdpSocket::from_std(datagrams.into()).unwrap();
    let sender = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    sender.send_to(b"hello", (address, 53)).await.unwrap();
    let mut buffer = [0; 8];
    assert_eq!(timeout(SILENCE, datagrams.recv(&mut buffer)).await.unwrap().unwrap(), 5);
    // A process holds the network, and nothing of it is left behind.
    let (id, group) = (task.sandbox.task.clone(), task.group.clone());
    drop((listener, datagrams));
    task.release().await;
    eventually("no group is left", || cgroup_roots().iter().all(|root| !root.join(&group).exists())).await;
    assert!(fixture.client.socket(&id, STREAM).await.is_err(), "it has been released");
}

async fn others_get_no_socket(fixture: &Fixture) {
    let nobody = TaskId::new("f".repeat(32)).unwrap();
    assert!(fixture.client.socket(&nobody, STREAM).await.is_err());
    let without = fixture.task().await;
    assert!(without.client.socket(&without.sandbox.task, STREAM).await.is_err());
    // It would be a socket of root's on the host.
    let on_the_host = fixture.allowed_task(SandboxNetwork::Host).await;
    assert!(fixture.allowing_client.socket(&on_the_host.sandbox.task, STREAM).await.is_err());
    for task in [without, on_the_host] {
        task.release().await;
    }
}
