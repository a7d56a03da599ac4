//! Sockets in the networks of tasks, for programs that are elsewhere: those of Wasm containers, which are in the workers
//! of their tenant. The supervisor makes them, because it may enter the network, and keeps none. A socket is in the
//! network in which it was made for as long as it lives (network_namespaces(7)), whoever holds it.
//!
//! A network that has nothing but such sockets in it could not be found again by the next supervisor, so a
//! [pause process](super::pause) holds it.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socket_with};

use super::host::Host;
use crate::failure::{Failure, Step};
use crate::protocol::{Response, SocketPlan};

/// Connections that may wait to be accepted; the kernel takes less where `net.core.somaxconn` is less.
const BACKLOG: i32 = 4096;
const STEP: &str = "make a socket in the network of the task";

impl Host {
    /// Makes a socket for the server, which answers `request`.
    pub(super) fn lend_socket(&mut self, request: u64, task: &str, plan: &SocketPlan) -> Result<(), Failure> {
        // Of others the network may be the host's.
        if self.open_sandbox(task)?.wiring.is_none() {
            return Err(Failure::System { step: STEP.to_owned(), errno: libc::ENODEV });
        }
        self.ready_pause(task)?;
        let network = self.open_sandbox(task)?.namespaces.network.as_fd();
        let socket = self.launchpad.in_network(network, || open(plan))?;
        self.lendings.push((request, Response::Socket {}, vec![socket]));
        Ok(())
    }
}

/// Makes a socket in the network namespace that the caller is in.
fn open(plan: &SocketPlan) -> Result<OwnedFd, Failure> {
    let family = |is_v6| if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match *plan {
        SocketPlan::Stream { is_v6 } => {
            socket_with(family(is_v6), SocketType::STREAM, flags, None).step(STEP)
        }
        SocketPlan::Datagram { is_v6 } => {
            socket_with(family(is_v6), SocketType::DGRAM, flags, None).step(STEP)
        }
        SocketPlan::Listener { port } => {
            let refused = Failure::System { step: STEP.to_owned(), errno: libc::EINVAL };
            let port = u16::try_from(port).map_err(|_| refused)?;
            let step = format!("listen on port {port} of the task");
            // std sets `SO_REUSEADDR`, so that connections of an earlier life that linger do not keep the port. A socket of
            // IPv6 is one of both versions (ipv6(7)); a kernel may have none.
            let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                }
                bound => bound,
            };
            let listener = listener.step(&step)?;
            listener.set_nonblocking(true).step(&step)?;
            // std asks for a queue of 128, which a burst of clients overflows; asking again changes it (listen(2)).
            listen(&listener, BACKLOG).step(&step)?;
            Ok(listener.into())
        }
    }
}
