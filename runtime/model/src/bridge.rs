//! The network mode `bridge`: containers with an address each, behind ports of the host.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{Cidr, ContainerName};

/// The network of one task under `bridge`, decided when the task is accepted and the same until it has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeNetwork {
    /// The addresses of all such tasks.
    pub block: Cidr,
    /// What each container has, in the order of the definition.
    pub containers: Vec<BridgeEndpoint>,
}

/// What one container has of its task's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeEndpoint {
    /// Its address, in a network namespace of its own.
    pub address: Ipv4Addr,
    /// The ports of the host that lead to it, in the order of its port mappings.
    pub ports: Vec<PortBinding>,
}

/// What a port mapping was given: one port of the host, or as many in a row as its range has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The first port.
    #[serde(flatten)]
    pub first: HostPort,
    /// How many follow it.
    #[serde(default)]
    pub more_ports: u16,
}

impl PortBinding {
    /// Each port of the host, and the container's that it leads to.
    pub fn each(self) -> impl Iterator<Item = HostPort> {
        let HostPort { protocol, host_port, container_port } = self.first;
        let last = |first: u16| first.saturating_add(self.more_ports);
        let pairs = (host_port..=last(host_port)).zip(container_port..=last(container_port));
        pairs.map(move |(host_port, container_port)| HostPort { protocol, host_port, container_port })
    }
}

/// A port of the host that leads to one of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// What is spoken there.
    pub protocol: PortProtocol,
    /// The host's port.
    pub host_port: u16,
    /// The container's.
    pub container_port: u16,
}

/// The protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl PortProtocol {
    /// Its number (IANA, "Protocol Numbers").
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One entry of `links`: another container of the task that may be reached, and by which name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The other container.
    pub container: ContainerName,
    /// Its name besides its own.
    pub alias: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_a_port_or_a_row_of_them() {
        let stored = r#"{"protocol":"udp","host_port":61000,"container_port":53}"#;
        let mut binding: PortBinding = serde_json::from_str(stored).unwrap();
        let pairs = |binding: PortBinding| -> Vec<_> {
            binding.each().map(|port| (port.host_port, port.container_port)).collect()
        };
        assert_eq!(pairs(binding), [(61_000, 53)]);
        binding.more_ports = 2;
        assert_eq!(pairs(binding), [(61_000, 53), (61_001, 54), (61_002, 55)]);
        let again = serde_json::from_str::<PortBinding>(&serde_json::to_string(&binding).unwrap()).unwrap();
        assert_eq!(again, binding);
    }
}
