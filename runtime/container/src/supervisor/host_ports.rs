//! The ports of the host that lead to containers, kept from other programs.
//!
//! The packet filter leads what comes for such a port to a container, whether a program listens there or not. So each is
//! held by a socket that is bound and never listens: a port that somebody has is refused, and one that a container has
//! cannot be taken.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use neargate_model::{HostPort, PortProtocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::failure::{Failure, Step};

/// The ports that are held.
#[derive(Default)]
pub(super) struct HostPorts(BTreeMap<(PortProtocol, u16), OwnedFd>);

impl HostPorts {
    /// Holds ports of the host, in whose network the caller is: all of them or none.
    pub(super) fn hold(&mut self, ports: &[HostPort]) -> Result<(), Failure> {
        let mut held = BTreeMap::new();
        for port in ports {
            let key = (port.protocol, port.host_port);
            if self.0.contains_key(&key) || held.contains_key(&key) {
                return Err(in_use(key));
            }
            held.insert(key, hold(key)?);
        }
        self.0.extend(held);
        Ok(())
    }

    /// Gives ports back.
    pub(super) fn let_go(&mut self, ports: &[HostPort]) {
        for port in ports {
            self.0.remove(&(port.protocol, port.host_port));
        }
    }
}

fn hold((protocol, port): (PortProtocol, u16)) -> Result<OwnedFd, Failure> {
    let step = || format!("take port {port}/{protocol} of the host");
    match bound((protocol, port), false) {
        Ok(socket) => Ok(socket),
        // What lingers of connections of a program that has ended, of which only a listener is in the way.
        Err(Errno::ADDRINUSE) if protocol == PortProtocol::Tcp => match bound((protocol, port), true) {
            Err(Errno::ADDRINUSE) => Err(in_use((protocol, port))),
            bound => bound.step(&step()),
        },
        Err(Errno::ADDRINUSE) => Err(in_use((protocol, port))),
        Err(error) => Err(error).step(&step()),
    }
}

/// With `shares` other programs that say so may bind to it as well, until one listens (socket(7), `SO_REUSEADDR`).
fn bound((protocol, port): (PortProtocol, u16), shares: bool) -> rustix::io::Result<OwnedFd> {
    let kind = match protocol {
        PortProtocol::Tcp => SocketType::STREAM,
        PortProtocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, shares)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    Ok(socket)
}

fn in_use((protocol, port): (PortProtocol, u16)) -> Failure {
    Failure::Unsupported {
        what: format!("port {port}/{protocol} of the host"),
        why: "another program uses it; `ss -lntup` says which".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_once_and_from_everybody() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().port();
        let free = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let port = |host_port| HostPort { protocol: PortProtocol::Tcp, host_port, container_port: 80 };
        let mut ports = HostPorts::default();
        let refused = ports.hold(&[port(free), port(taken)]).unwrap_err();
        assert_eq!(refused, in_use((PortProtocol::Tcp, taken)));
        ports.hold(&[port(free)]).expect("nothing is left of what was refused");
        assert!(ports.hold(&[port(free)]).is_err());
        assert!(std::net::TcpListener::bind(("0.0.0.0", free)).is_err());
        ports.hold(&[HostPort { protocol: PortProtocol::Udp, ..port(free) }]).expect("another protocol");
        ports.let_go(&[port(free)]);
        assert!(std::net::TcpListener::bind(("0.0.0.0", free)).is_ok());
    }
}
