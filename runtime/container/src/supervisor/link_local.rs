//! Sockets of the router's link-local addresses, which are the server's: the supervisor makes them, because it may enter
//! the router, and keeps none.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use neargate_network::rules::{METADATA, RESOLVER};

use super::host::Host;
use super::router::no_router;
use crate::failure::{Failure, Step};
use crate::protocol::Response;

/// The port of the metadata, which the router's rules let tasks reach.
const HTTP: u16 = 80;
/// The port of the resolver, as that one.
const DNS: u16 = 53;

impl Host {
    /// Makes the sockets for the server, which answers `request`.
    pub(super) fn lend_link_local(&mut self, request: u64) -> Result<(), Failure> {
        let namespace = self.network.namespace().ok_or_else(no_router)?;
        let sockets = self.launchpad.in_network(namespace.as_fd(), open)?;
        self.lendings.push((request, Response::LinkLocal {}, sockets));
        Ok(())
    }
}

/// Makes the sockets in the network namespace that the caller is in.
fn open() -> Result<Vec<OwnedFd>, Failure> {
    const STEP: &str = "listen on the link-local addresses of tasks";
    let metadata = TcpListener::bind((METADATA, HTTP)).step(STEP)?;
    let (udp, tcp) =
        (UdpSocket::bind((RESOLVER, DNS)).step(STEP)?, TcpListener::bind((RESOLVER, DNS)).step(STEP)?);
    metadata.set_nonblocking(true).step(STEP)?;
    udp.set_nonblocking(true).step(STEP)?;
    tcp.set_nonblocking(true).step(STEP)?;
    Ok(vec![metadata.into(), udp.into(), tcp.into()])
}
