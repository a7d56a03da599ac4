//! Row 48: sockets by family, and what may be said over those that can be made.

use std::ffi::c_int;
use std::fs;
use std::io::{Read as _, Write as _};

use crate::kernel::{Outcome, attempt, call, owned, pointer};

const NETLINK_NETFILTER: c_int = 12;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE`, without the batch that only root of the network may begin.
const NFT_NEWTABLE: u16 = 10 << 8;
/// `IPSET_CMD_CREATE` of `NFNL_SUBSYS_IPSET`.
const IPSET_CREATE: u16 = 6 << 8 | 2;
const NLM_F_REQUEST_ACK: u16 = 5;
const NLMSG_ERROR: u16 = 2;

/// A socket of a family, type and protocol.
pub(crate) fn socket(family: c_int, kind: c_int, protocol: c_int) -> Outcome {
    call(libc::SYS_socket, &[family as usize, kind as usize, protocol as usize])
}

pub(crate) fn sockets() {
    for (name, family, kind, protocol) in [
        ("AF_ALG", libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        ("AF_VSOCK", libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        ("AF_PACKET raw", libc::AF_PACKET, libc::SOCK_RAW, 0x0300),
        ("AF_PACKET datagram", libc::AF_PACKET, libc::SOCK_DGRAM, 0x0300),
        ("AF_INET raw ICMP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ("AF_INET raw TCP", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_TCP),
        ("AF_INET6 raw ICMP", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
        ("AF_INET stream", libc::AF_INET, libc::SOCK_STREAM, 0),
        ("AF_INET datagram", libc::AF_INET, libc::SOCK_DGRAM, 0),
        ("AF_UNIX stream", libc::AF_UNIX, libc::SOCK_STREAM, 0),
    ] {
        attempt(name, || socket(family, kind, protocol));
    }
    attempt("route netlink: take lo down", || {
        // struct ifinfomsg: no family, index 1, no flags, but IFF_UP to be changed.
        netlink(libc::NETLINK_ROUTE, RTM_NEWLINK, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    });
    attempt("route netlink: add an address", || {
        // struct ifaddrmsg: AF_INET, 32 bits, index 1; IFA_LOCAL 169.254.170.2.
        netlink(libc::NETLINK_ROUTE, RTM_NEWADDR, &[2, 32, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 169, 254, 170, 2])
    });
    attempt("route netlink: add a route", || {
        // struct rtmsg: AF_INET, to everywhere, main table, by hand, to a link; RTA_OIF 1.
        netlink(
            libc::NETLINK_ROUTE,
            RTM_NEWROUTE,
            &[2, 0, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0, 8, 0, 4, 0, 1, 0, 0, 0],
        )
    });
    attempt("netfilter netlink: add a table", || netlink(NETLINK_NETFILTER, NFT_NEWTABLE, &[2, 0, 0, 0]));
    attempt("netfilter netlink: add a set", || netlink(NETLINK_NETFILTER, IPSET_CREATE, &[2, 0, 0, 0]));
    let with_stream = |act: fn(usize) -> Outcome| socket(libc::AF_INET, libc::SOCK_STREAM, 0).and_then(act);
    attempt("IP_TRANSPARENT", || with_stream(|fd| set(fd, libc::SOL_IP, libc::IP_TRANSPARENT)));
    attempt("SO_MARK", || with_stream(|fd| set(fd, libc::SOL_SOCKET, libc::SO_MARK)));
    attempt("SO_SNDBUFFORCE", || with_stream(|fd| set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE)));
    attempt("TCP_REPAIR", || with_stream(|fd| set(fd, libc::SOL_TCP, libc::TCP_REPAIR)));
    attempt("SIOCSIFFLAGS", || {
        // struct ifreq of lo, with no flags.
        let mut request = [0u8; 40];
        request[..2].copy_from_slice(b"lo");
        with_stream(Ok)
            .and_then(|fd| call(libc::SYS_ioctl, &[fd, libc::SIOCSIFFLAGS as usize, pointer(&request)]))
    });
    attempt("SO_KEEPALIVE", || with_stream(|fd| set(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE)));
}

fn set(fd: usize, level: c_int, option: c_int) -> Outcome {
    let one: c_int = 1;
    call(libc::SYS_setsockopt, &[fd, level as usize, option as usize, pointer(&one), size_of_val(&one)])
}

/// Sends a message with a body and returns what the kernel's acknowledgement says.
pub(crate) fn netlink(protocol: c_int, kind: u16, body: &[u8]) -> Outcome {
    let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    let length = 16 + body.len() as u32;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let mut socket = fs::File::from(owned(fd));
    let error_of = |error: std::io::Error| error.raw_os_error().unwrap_or(0);
    socket.write_all(&message).map_err(error_of)?;
    let mut answer = [0; 4096];
    let read = socket.read(&mut answer).map_err(error_of)?;
    if read < 20 || answer[4..6] != NLMSG_ERROR.to_ne_bytes() {
        return Err(libc::EBADMSG);
    }
    let [a, b, c, d] = [answer[16], answer[17], answer[18], answer[19]];
    match -i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(0),
        error => Err(error),
    }
}
