//! The server's sockets in the router.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use neargate_driver::{LinkLocalError, LinkLocalSockets, NetworkTurn, ResolverSockets};

use super::{Attached, Connection, unexpected};
use crate::protocol::{Request, Response};

impl Connection {
    /// Waits for a network that may be another than at `turn`. Each supervisor counts as one: it makes another router
    /// where the one before is gone.
    pub(super) async fn network_after(&self, turn: NetworkTurn) -> NetworkTurn {
        let (mut routed, mut attached) =
            (self.shared.is_routed.subscribe(), self.shared.attached.subscribe());
        let is_next =
            |attached: &Attached| matches!(attached, Attached::Times(times) if NetworkTurn(times + 1) > turn);
        // The senders live as long as `self`, so waiting cannot fail.
        let _ = routed.wait_for(|is_routed| *is_routed).await;
        let next = attached.wait_for(is_next).await.map(|attached| *attached);
        match next {
            Ok(Attached::Times(times)) => NetworkTurn(times + 1),
            _ => std::future::pending().await,
        }
    }

    pub(super) async fn link_local(&self) -> Result<LinkLocalSockets, LinkLocalError> {
        let unavailable = |source| LinkLocalError::Unavailable { source };
        let (_, answer) = self.call_for_fds(&Request::LinkLocal {}).await.map_err(unavailable)?;
        match answer {
            (Response::LinkLocal {}, fds) => sockets(fds).ok_or_else(|| unavailable(unexpected())),
            (Response::Failed { failure }, _) => Err(failure.into_link_local()),
            _ => Err(unavailable(unexpected())),
        }
    }
}

fn sockets(fds: Vec<OwnedFd>) -> Option<LinkLocalSockets> {
    let [metadata, udp, tcp] = <[OwnedFd; 3]>::try_from(fds).ok()?;
    let resolver = ResolverSockets { udp: UdpSocket::from(udp), tcp: TcpListener::from(tcp) };
    Some(LinkLocalSockets { metadata: TcpListener::from(metadata), resolver })
}
