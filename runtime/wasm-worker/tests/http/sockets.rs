//! Sockets and names, refused and allowed.

use std::collections::HashMap;
use std::net::{TcpListener, UdpSocket};

use neargate_wasm::protocol::{FromWorker, HostReply, HostRequest, Network, ToWorker};

use crate::harness::{Outcome, Setup};
use crate::served::{guest, worker};

/// What the guest says of each argument, with a server that knows some names.
fn ask(network: Network, arguments: &[String], names: &[(&str, &[&str])]) -> HashMap<String, String> {
    let worker = worker(16);
    let mut setup = Setup::default();
    setup.plan.network = network;
    let argv: Vec<&str> = std::iter::once("sockets").chain(arguments.iter().map(String::as_str)).collect();
    setup.argv = &argv;
    let started = worker.start(&guest("sockets"), &setup).unwrap();
    for (name, addresses) in names {
        let asked = |message: &FromWorker| match message {
            FromWorker::HostCall { call, request: HostRequest::Resolve { name }, .. } => {
                Some((*call, name.clone()))
            }
            _ => None,
        };
        let ((call, found), _) = worker.wait(asked);
        assert_eq!(found, *name);
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        worker.send(&ToWorker::HostReply { call, reply: HostReply::Addresses { addresses } }, &[]);
    }
    let outcome: Outcome = worker.finish(started, &[]);
    assert_eq!(outcome.exit.code, 0, "{}", outcome.stderr());
    let lines = outcome.stdout().lines();
    lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(what, said)| (what.to_owned(), said.to_owned()))
        .collect()
}

#[test]
fn without_a_network_all_is_denied() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let arguments = [
        format!("tcp={address}"),
        format!("udp={address}"),
        "bind=127.0.0.1:0".to_owned(),
        "bind=0.0.0.0:0".to_owned(),
        "tcp=[::1]:80".to_owned(),
        "name=localhost".to_owned(),
        "name=127.0.0.1".to_owned(),
    ];
    let said = ask(Network::None {}, &arguments, &[]);
    for argument in &arguments {
        let said = &said[argument];
        assert!(said.contains("AccessDenied") || said.contains("access-denied"), "{argument}: {said}");
    }
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody has come");
}

#[test]
fn with_a_network_others_are_reached_and_credentials_are_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let fine = [
        format!("tcp={}", listener.local_addr().unwrap()),
        format!("udp={}", receiver.local_addr().unwrap()),
        "bind=127.0.0.1:0".to_owned(),
        "bind=0.0.0.0:0".to_owned(),
    ];
    let denied = [
        "tcp=169.254.169.254:80",
        "udp=169.254.169.254:53",
        "tcp=[fe80::1]:80",
        "udp=[fe80::1]:80",
        "tcp=[fd00:ec2::254]:80",
        "udp=224.0.0.1:5353",
        "udp=255.255.255.255:9",
        "bind=169.254.1.1:0",
    ];
    let arguments: Vec<String> =
        fine.iter().cloned().chain(denied.iter().map(|text| (*text).to_owned())).collect();
    let said = ask(Network::Host { control: Vec::new() }, &arguments, &[]);
    for argument in &fine {
        assert_eq!(said[argument], "ok", "{argument}");
    }
    for argument in denied {
        let said = &said[argument];
        // wasmtime itself says that groups are no peers.
        assert!(
            said.contains("Denied") || said.contains("denied") || said.contains("nvalid"),
            "{argument}: {said}"
        );
    }
    let mut datagram = [0; 16];
    assert_eq!(receiver.recv(&mut datagram).unwrap(), 5);
    assert_eq!(&datagram[..5], b"hello");
}

#[test]
fn the_server_is_out_of_reach() {
    let server = TcpListener::bind("0.0.0.0:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let control = server.local_addr().unwrap();
    let fine = format!("tcp={}", other.local_addr().unwrap());
    let denied = [
        format!("tcp=127.0.0.1:{}", control.port()),
        format!("tcp=127.0.0.2:{}", control.port()),
        format!("tcp=[::1]:{}", control.port()),
        format!("udp=127.0.0.1:{}", control.port()),
    ];
    let arguments: Vec<String> = denied.iter().chain([&fine]).cloned().collect();
    let said = ask(Network::Host { control: vec![control] }, &arguments, &[]);
    assert_eq!(said[&fine], "ok");
    for argument in &denied {
        let said = &said[argument];
        assert!(said.contains("Denied") || said.contains("denied"), "{argument}: {said}");
    }
    server.set_nonblocking(true).unwrap();
    assert!(server.accept().is_err(), "somebody has come");
}

#[test]
fn names_are_looked_up_by_the_server() {
    let arguments = ["name=a.test", "name=mixed.test", "name=metadata.test", "name=10.1.2.3", "name=a/b"];
    let names: [(&str, &[&str]); 3] = [
        ("a.test", &["10.0.0.1", "::ffff:10.0.0.2", "2001:db8::1", "no address"]),
        ("mixed.test", &["169.254.169.254", "10.0.0.3"]),
        ("metadata.test", &["169.254.169.254"]),
    ];
    let said = ask(Network::Host { control: Vec::new() }, &arguments.map(str::to_owned), &names);
    assert_eq!(said["name=a.test"], "10.0.0.1,10.0.0.2,2001:db8::1");
    assert_eq!(said["name=mixed.test"], "10.0.0.3");
    assert!(said["name=metadata.test"].contains("enied"), "{said:?}");
    assert_eq!(said["name=10.1.2.3"], "10.1.2.3");
    assert!(said["name=a/b"].contains("nvalid"), "{said:?}");
}
