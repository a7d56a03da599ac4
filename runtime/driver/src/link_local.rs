//! Sockets on the link-local addresses by which tasks reach the server.

use std::io;
use std::net::{TcpListener, UdpSocket};

/// Which of the networks that there have been is meant; the default is none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkTurn(pub u64);

/// Sockets of the network of tasks. Nobody but who holds them answers there, and they do not block.
#[derive(Debug)]
pub struct LinkLocalSockets {
    /// 169.254.170.2:80, where tasks find out about themselves, and their credentials.
    pub metadata: TcpListener,
    /// 169.254.169.253:53, where they ask for names.
    pub resolver: ResolverSockets,
}

/// The two sockets of a resolver.
#[derive(Debug)]
pub struct ResolverSockets {
    /// For most questions.
    pub udp: UdpSocket,
    /// For long answers.
    pub tcp: TcpListener,
}

/// Why no sockets were made.
#[derive(Debug, thiserror::Error)]
pub enum LinkLocalError {
    /// Somebody holds them: the caller, or a server that is about to end.
    #[error("the link-local addresses of tasks are in use")]
    InUse,
    /// A step failed in the kernel.
    #[error("{step}")]
    System {
        /// The step.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The supervisor is gone, or there is no network.
    #[error("reach the network of tasks")]
    Unavailable {
        /// The cause.
        #[source]
        source: io::Error,
    },
}
