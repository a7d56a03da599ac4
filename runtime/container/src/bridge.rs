//! Containers under `bridge`, as they cross the supervisor's socket.

use std::net::Ipv4Addr;

use neargate_driver::BridgedContainer;
use neargate_ipc::wire_struct;
use neargate_model::{Cidr, HostPort, MacAddress, PortProtocol};
use neargate_network::bridge::Bridged;

use crate::failure::Failure;
use crate::interface::{Interface, malformed};
use crate::protocol::NetworkPlan;

wire_struct! {
    /// What a container has of its sandbox's network; see [`BridgedContainer`].
    pub(crate) struct BridgedPlan {
        /// The container's id.
        container: String,
        /// Its address.
        address: u32,
        /// Number of the protocol, port of the host and port of the container.
        ports: Vec<(u32, (u32, u32))>,
        /// Addresses of containers that it may reach.
        links: Vec<u32>,
    }
}

/// A container of a sandbox under `bridge`, as the supervisor uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) container: String,
    pub(crate) interface: Interface,
    pub(crate) bridged: Bridged,
}

impl NetworkPlan {
    /// The containers of one that gives each a network of its own.
    pub(crate) fn endpoints(&self) -> Result<Vec<Endpoint>, Failure> {
        match self {
            Self::Bridge { containers, block, .. } => {
                let block = block.read()?;
                containers.iter().map(|container| container.read(block)).collect()
            }
            Self::Own {} | Self::Managed {} | Self::Host {} | Self::Vpc { .. } => Ok(Vec::new()),
        }
    }
}

impl BridgedPlan {
    /// What the supervisor is told of a container.
    pub(crate) fn of(container: &BridgedContainer) -> Self {
        let port = |port: &HostPort| {
            (port.protocol.number().into(), (port.host_port.into(), port.container_port.into()))
        };
        Self {
            container: container.id.to_string(),
            address: container.address.to_bits(),
            ports: container.ports.iter().map(port).collect(),
            links: container.links.iter().map(|address| address.to_bits()).collect(),
        }
    }

    /// The same, checked.
    fn read(&self, block: Cidr) -> Result<Endpoint, Failure> {
        let address = |bits: u32| {
            let address = Ipv4Addr::from_bits(bits);
            Some(address).filter(|address| block.contains((*address).into())).ok_or_else(malformed)
        };
        let port = |port: u32| u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(malformed);
        let host_port = |&(number, (host_port, container_port)): &(u32, (u32, u32))| {
            let mut known = [PortProtocol::Tcp, PortProtocol::Udp].into_iter();
            let protocol = known.find(|protocol| u32::from(protocol.number()) == number);
            let (host_port, container_port) = (port(host_port)?, port(container_port)?);
            Ok(HostPort { protocol: protocol.ok_or_else(malformed)?, host_port, container_port })
        };
        let ports = self.ports.iter().map(host_port).collect::<Result<_, Failure>>()?;
        let links = self.links.iter().map(|to| address(*to)).collect::<Result<_, _>>()?;
        let address = address(self.address)?;
        Ok(Endpoint {
            container: self.container.clone(),
            interface: Interface {
                address,
                v6: None,
                mac: MacAddress::of(address),
                groups: Vec::new(),
                vpc: block,
                bandwidth: None,
            },
            bridged: Bridged { address, ports, links },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::BlockPlan;

    #[test]
    fn what_no_server_sends_is_refused() {
        let plan = |address: [u8; 4], port: (u32, (u32, u32)), link: [u8; 4]| NetworkPlan::Bridge {
            containers: vec![BridgedPlan {
                container: "c".to_owned(),
                address: u32::from_be_bytes(address),
                ports: vec![port],
                links: vec![u32::from_be_bytes(link)],
            }],
            block: BlockPlan { first: vec![172, 30, 0, 0], prefix: 16 },
            managed: false,
        };
        let (own, other, port) = ([172, 30, 0, 16], [172, 30, 0, 17], (6, (8080, 80)));
        let read = plan(own, port, other).endpoints().unwrap();
        assert_eq!(read[0].bridged.address, Ipv4Addr::from(own));
        let expect = HostPort { protocol: PortProtocol::Tcp, host_port: 8080, container_port: 80 };
        assert_eq!(read[0].bridged.ports, [expect]);
        for (address, port, link) in [
            ([172, 31, 0, 16], port, other),
            (own, port, [10, 0, 0, 1]),
            (own, (1, (8080, 80)), other),
            (own, (6, (0, 80)), other),
            (own, (6, (8080, 65_536)), other),
        ] {
            assert!(plan(address, port, link).endpoints().is_err());
        }
    }
}
