//! Rows 81 and 86: what a task says to its neighbours by IPv6, and connections that nobody ends.

use std::ffi::c_int;
use std::io::{Read as _, Write as _};
use std::mem::size_of_val;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::kernel::{Outcome, attempt, call, end_on_sigterm, pointer, say};
use crate::sockets::socket;

/// Everybody on a link, and every router.
const ALL_NODES: &str = "ff02::1";
const ALL_ROUTERS: &str = "ff02::2";
/// The prefix that a forged advertisement has, which the suite looks for.
const PREFIX: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0x0b, 0xad, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Of whom nothing is heard within this time, nobody answers.
const PATIENCE: Duration = Duration::from_millis(500);
/// Connections to a peer that goes away.
const CONNECTIONS: usize = 4;
/// `IPV6_HDRINCL`: what is sent begins with the header of IP (linux/in6.h).
const IPV6_HDRINCL: c_int = 36;

/// Speaks to the link and beyond it as somebody who may make packets of every kind.
pub(crate) fn neighbours() {
    for address in ["169.254.169.254", "127.0.0.1"] {
        attempt(&format!("connect to {address} by its mapped address"), || {
            connect(&format!("[::ffff:{address}]:80"))
        });
    }
    for (name, address) in [
        ("the router's link", "fe80::1"),
        ("the metadata of Amazon's machines", "fd00:ec2::254"),
        ("the world", "2001:db8::1"),
    ] {
        attempt(&format!("connect to {name}"), || connect_v6(address));
    }
    attempt("router advertisement", || icmp(ALL_NODES, &advertisement()));
    attempt("router solicitation", || icmp(ALL_ROUTERS, &[133, 0, 0, 0, 0, 0, 0, 0]));
    attempt("neighbour advertisement", || {
        // For the router's address, with the flags of a router, solicited and override.
        let mut message = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
        message.extend("fe80::1".parse::<Ipv6Addr>().expect("an address").octets());
        message.extend([2, 1, 2, 0, 0, 0, 0, 0x66]);
        icmp(ALL_NODES, &message)
    });
    for (name, extension, next) in [
        ("hop-by-hop options", 0, [58, 0, 1, 4, 0, 0, 0, 0]),
        ("destination options", 60, [58, 0, 1, 4, 0, 0, 0, 0]),
        ("a fragment", 44, [58, 0, 0, 1, 0, 0, 0, 7]),
        ("an overlapping fragment", 44, [58, 0, 0, 0, 0, 0, 0, 7]),
    ] {
        attempt(&format!("echo behind {name}"), || {
            raw(ALL_NODES, extension, &next, &[128, 0, 0, 0, 0, 1, 0, 1])
        });
    }
    println!("sent");
}

/// Connects to a peer that reads nothing until nothing more fits, and holds it.
pub(crate) fn hold_peer(arguments: &[&str]) {
    end_on_sigterm();
    let address: SocketAddr = arguments.first().and_then(|address| address.parse().ok()).expect("an address");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect("a connection");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time limit");
        while stream.write(&[0; 1 << 16]).is_ok() {}
        held.push(stream);
    }
    say("connections", held.len());
    println!("held");
    loop {
        std::thread::park();
    }
}

/// Accepts connections, reads a byte of each, and no more.
pub(crate) fn deaf_peer() {
    end_on_sigterm();
    let listener = TcpListener::bind("0.0.0.0:80").expect("a listener");
    println!("ready");
    let mut held = Vec::new();
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let _ = stream.read(&mut [0; 1]);
        held.push(stream);
    }
}

fn connect(address: &str) -> Outcome {
    let address: SocketAddr = address.parse().map_err(|_| libc::EINVAL)?;
    reach(address)
}

fn connect_v6(address: &str) -> Outcome {
    let address: Ipv6Addr = address.parse().map_err(|_| libc::EINVAL)?;
    reach(std::net::SocketAddrV6::new(address, 80, 0, interface()).into())
}

fn reach(address: SocketAddr) -> Outcome {
    let error_of = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::ETIMEDOUT);
    TcpStream::connect_timeout(&address, PATIENCE).map(|_| 0).map_err(error_of)
}

/// The number of `eth0`; 0 where there is none.
fn interface() -> u32 {
    let number = std::fs::read_to_string("/sys/class/net/eth0/ifindex").unwrap_or_default();
    number.trim().parse().unwrap_or(0)
}

fn advertisement() -> Vec<u8> {
    // 64 hops, no flags, a lifetime of half an hour.
    let mut message = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    // Prefix information: of 64 bits, on the link and for own addresses, valid and preferred for an hour.
    message.extend([3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0]);
    message.extend(PREFIX);
    message
}

/// Sends a message of ICMPv6 with the hop limit that such messages must have (RFC 4861 §6.1).
fn icmp(to: &str, message: &[u8]) -> Outcome {
    let fd = socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?;
    let hops: c_int = 255;
    for option in [libc::IPV6_MULTICAST_HOPS, libc::IPV6_UNICAST_HOPS] {
        set(fd, option, hops)?;
    }
    send(fd, to, message)
}

/// Sends a packet of which everything is made here.
fn raw(to: &str, next_header: u8, extension: &[u8], payload: &[u8]) -> Outcome {
    let fd = socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    set(fd, IPV6_HDRINCL, 1)?;
    let length = u16::try_from(extension.len() + payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next_header, 255]);
    packet.extend("fe80::bad".parse::<Ipv6Addr>().expect("an address").octets());
    packet.extend(to.parse::<Ipv6Addr>().expect("an address").octets());
    packet.extend(extension);
    packet.extend(payload);
    send(fd, to, &packet)
}

fn set(fd: usize, option: c_int, value: c_int) -> Outcome {
    let arguments = [fd, libc::IPPROTO_IPV6 as usize, option as usize, pointer(&value), size_of_val(&value)];
    call(libc::SYS_setsockopt, &arguments)
}

fn send(fd: usize, to: &str, message: &[u8]) -> Outcome {
    let mut address: libc::sockaddr_in6 = {
        // SAFETY: made of integers alone, for all of which zero is a value.
        unsafe { std::mem::zeroed() }
    };
    address.sin6_family = libc::AF_INET6 as u16;
    address.sin6_addr.s6_addr = to.parse::<Ipv6Addr>().expect("an address").octets();
    address.sin6_scope_id = interface();
    let arguments =
        [fd, message.as_ptr() as usize, message.len(), 0, pointer(&address), size_of_val(&address)];
    call(libc::SYS_sendto, &arguments)?;
    Ok(0)
}
