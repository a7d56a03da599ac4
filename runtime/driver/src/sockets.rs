//! Sockets in the network of a task, for a program that is not in it.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use async_trait::async_trait;

use crate::SandboxError;

/// A kind of socket. None of them blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP, neither bound nor connected.
    Stream(IpVersion),
    /// UDP, neither bound nor connected.
    Datagram(IpVersion),
    /// TCP, which listens at this port of all addresses of the task.
    Listener {
        /// The port.
        port: u16,
    },
}

/// The versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// 4.
    V4,
    /// 6.
    V6,
}

/// The network of one task with an interface, which need not be there before it is used.
#[async_trait]
pub trait TaskSockets: fmt::Debug + Send + Sync {
    /// Makes a socket in the network, which is made with the first one.
    async fn make(&self, kind: SocketKind) -> Result<OwnedFd, SandboxError>;

    /// The addresses of a name, as the resolver of the task's VPC tells them to this task. There is at least one.
    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError>;
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookUpError {
    /// There is no such name, or it has none that the task may be told.
    #[error("the name has no address")]
    Unknown,
    /// Nobody could be asked, or the task asks too much.
    #[error("the resolver gave no answer")]
    NoAnswer,
}
