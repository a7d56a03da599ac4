//! Whether ports of this host are free, for control.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use neargate_control::Ports;
use neargate_model::PortProtocol;

/// Finds out by taking a port for a moment. What this process may not take it takes for free: who leads it to a container
/// may, and says so if it is not.
pub(crate) struct HostPorts;

impl Ports for HostPorts {
    fn is_free(&self, protocol: PortProtocol, port: u16) -> bool {
        let at = (Ipv4Addr::UNSPECIFIED, port);
        let taken = match protocol {
            PortProtocol::Tcp => TcpListener::bind(at).map(drop),
            PortProtocol::Udp => UdpSocket::bind(at).map(drop),
        };
        !matches!(taken, Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_listens_on_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!HostPorts.is_free(PortProtocol::Tcp, port));
        drop(listener);
        assert!(HostPorts.is_free(PortProtocol::Tcp, port));
    }
}
