//! The network mode `bridge`: which address each container gets, and which ports of the host lead to it.
//!
//! The store is the truth, as for [addresses](super::addresses) of interfaces: what tasks hold is in their
//! specifications, and this is rebuilt from them at every start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use neargate_model::{
    BridgeEndpoint, BridgeNetwork, Cidr, HostPort, NetworkMode, PortBinding, PortMapping, PortProtocol,
    TaskKey, TaskShape, TaskSpec, Timestamp,
};
use neargate_store::{StoreError, Txn};

use super::addresses::{REST_MS, SHORT_REST_MS, usable};
use crate::Control;
use crate::place::Refusal;
use crate::tables::{BRIDGE, BridgeRecord, NOW, VPCS, WRITE_ATTEMPTS, commit, scan_all, too_contended};

/// Ports that are given where none is named: above those from which the kernel takes the ports of outgoing connections
/// unless told otherwise (ip(7), `ip_local_port_range`), which ECS's own range overlaps.
const DYNAMIC_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// What tasks hold of the network mode `bridge`, and the ports that tasks with the host's network hold.
#[derive(Default)]
pub(crate) struct Bridge(Mutex<State>);

#[derive(Default)]
struct State {
    held: BTreeMap<TaskKey, Held>,
    /// Addresses that are held or rest.
    busy: BTreeSet<u32>,
    /// Addresses that rest, and since when; the first one is ready first.
    resting: VecDeque<(Timestamp, u32)>,
    ports: BTreeSet<(PortProtocol, u16)>,
    /// Behind the last address and the last port that were given, so that what was free longest comes first.
    next_address: u32,
    next_port: u16,
}

#[derive(Default)]
struct Held {
    addresses: Vec<u32>,
    ports: Vec<(PortProtocol, u16)>,
}

/// Whether a port of the host is free of other programs.
type IsFree<'a> = &'a dyn Fn(PortProtocol, u16) -> bool;

impl Control {
    /// The block of all tasks under `bridge`, chosen when it is asked for the first time; `None` where tasks have
    /// loopback only.
    pub(crate) async fn bridge_block(&self, shape: &TaskShape) -> Result<Option<Cidr>, StoreError> {
        let candidates = &self.shared.host.bridge_blocks;
        if shape.network_mode != NetworkMode::Bridge || candidates.is_empty() {
            return Ok(None);
        }
        for _ in 0..WRITE_ATTEMPTS {
            let known = match self.shared.networks.bridge_block.get() {
                Some(block) => Some(*block),
                None => self.known_bridge_block().await?,
            };
            if let Some(block) = known {
                let _ = self.shared.networks.bridge_block.set(block);
                return Ok(Some(block));
            }
            // Held until the block is written, so that no VPC takes it meanwhile.
            let _turn = self.shared.networks.blocks.lock().await;
            let taken = scan_all(self.store(), &VPCS, &VPCS.prefix(&[])).await?;
            let is_free = |block: &&Cidr| !taken.iter().any(|(_, vpc)| vpc.value.block.overlaps(block));
            // Where all are taken, the host says that it routes the block elsewhere.
            let block = candidates.iter().find(is_free).unwrap_or(&candidates[0]);
            let key = BRIDGE.key(&[]);
            let txn = BRIDGE.put(Txn::fresh().absent(&key), &key, &BridgeRecord { block: *block })?;
            if commit(self.store(), txn).await? {
                self.tell_network().await;
            }
        }
        Err(too_contended())
    }

    /// The block, if it has been chosen.
    pub(crate) async fn known_bridge_block(&self) -> Result<Option<Cidr>, StoreError> {
        let found = BRIDGE.get(self.store(), &BRIDGE.key(&[]), NOW).await?;
        Ok(found.map(|found| found.value.block))
    }

    /// Gives a task its addresses and ports of the host.
    pub(crate) fn assign_bridge(
        &self,
        task: &TaskKey,
        shape: &TaskShape,
        block: Option<Cidr>,
    ) -> Result<Option<BridgeNetwork>, Refusal> {
        let ports = &self.shared.host.ports;
        let is_free = |protocol, port| ports.is_free(protocol, port);
        self.shared.networks.bridge.take(task, shape, block, &is_free, self.now())
    }
}

impl Bridge {
    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what a task needs; all of it or nothing.
    fn take(
        &self,
        task: &TaskKey,
        shape: &TaskShape,
        block: Option<Cidr>,
        is_free: IsFree<'_>,
        now: Timestamp,
    ) -> Result<Option<BridgeNetwork>, Refusal> {
        self.with(|state| {
            let mut held = Held::default();
            let taken = state.take(shape, block, is_free, now, &mut held);
            match &taken {
                Ok(_) => drop(state.held.insert(task.clone(), held)),
                Err(_) => state.release(held),
            }
            taken
        })
    }

    /// Whether an address is a container's, or was until just now: nobody else sends from it.
    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.with(|state| state.busy.contains(&address.to_bits()))
    }

    /// Notes what a task was given earlier.
    pub(crate) fn note(&self, task: TaskKey, spec: &TaskSpec) {
        let endpoints = spec.bridge.iter().flat_map(|bridge| &bridge.containers);
        let addresses = endpoints.clone().map(|endpoint| endpoint.address.to_bits()).collect();
        let ports = endpoints.flat_map(|endpoint| &endpoint.ports).flat_map(|binding| binding.each());
        let ports = ports.map(|port| (port.protocol, port.host_port)).chain(of_host(&spec.shape)).collect();
        self.with(|state| {
            let held = Held { addresses, ports };
            state.busy.extend(&held.addresses);
            state.ports.extend(&held.ports);
            state.held.insert(task, held);
        });
    }

    /// Gives back what a task held: its ports at once, its addresses after a while. The second time it does nothing.
    pub(crate) fn give_back(&self, task: &TaskKey, now: Timestamp) {
        self.with(|state| {
            let Some(Held { addresses, ports }) = state.held.remove(task) else { return };
            state.resting.extend(addresses.into_iter().map(|address| (now, address)));
            state.release(Held { addresses: Vec::new(), ports });
        });
    }

    /// Gives back what a task was to hold that never came to be.
    pub(crate) fn forget(&self, task: &TaskKey) {
        self.with(|state| {
            if let Some(held) = state.held.remove(task) {
                state.release(held);
            }
        });
    }
}

impl State {
    fn take(
        &mut self,
        shape: &TaskShape,
        block: Option<Cidr>,
        is_free: IsFree<'_>,
        now: Timestamp,
        held: &mut Held,
    ) -> Result<Option<BridgeNetwork>, Refusal> {
        for (protocol, port) in of_host(shape) {
            self.take_port(protocol, port, held)?;
        }
        let Some(block) = block else { return Ok(None) };
        // Ports that are named come first, so that none of them is given to somebody who takes any.
        let mappings = || shape.containers.iter().flat_map(|container| &container.port_mappings);
        for mapping in mappings() {
            for port in mapping.host_ports().into_iter().flatten() {
                self.take_port(mapping.protocol, port, held)?;
                if !is_free(mapping.protocol, port) {
                    return Err(Refusal::PortInUse { protocol: mapping.protocol, port });
                }
            }
        }
        let mut containers = Vec::with_capacity(shape.containers.len());
        for container in &shape.containers {
            let address = self.take_address(block, now).ok_or(Refusal::Address)?;
            held.addresses.push(address);
            let mut ports = Vec::with_capacity(container.port_mappings.len());
            for mapping in &container.port_mappings {
                ports.push(self.bind(mapping, is_free, held)?);
            }
            containers.push(BridgeEndpoint { address: Ipv4Addr::from_bits(address), ports });
        }
        Ok(Some(BridgeNetwork { block, containers }))
    }

    /// Gives a mapping its ports of the host; those that it names are taken already.
    fn bind(
        &mut self,
        mapping: &PortMapping,
        is_free: IsFree<'_>,
        held: &mut Held,
    ) -> Result<PortBinding, Refusal> {
        let PortMapping { protocol, container_port, more_ports, host_port, .. } = *mapping;
        let host_port = match host_port {
            Some(port) => port,
            None => {
                let first = self.find_ports(protocol, more_ports, is_free).ok_or(Refusal::NoPort)?;
                let last = first + more_ports;
                for port in first..=last {
                    self.take_port(protocol, port, held)?;
                }
                // Beyond the end it begins anew.
                self.next_port = last.wrapping_add(1);
                first
            }
        };
        Ok(PortBinding { first: HostPort { protocol, host_port, container_port }, more_ports })
    }

    /// The first of as many free ports in a row: behind those that were given last, or else anywhere.
    fn find_ports(&self, protocol: PortProtocol, more_ports: u16, is_free: IsFree<'_>) -> Option<u16> {
        let find = |range: RangeInclusive<u16>| {
            let mut first = *range.start();
            range.into_iter().find_map(|port| {
                if self.ports.contains(&(protocol, port)) || !is_free(protocol, port) {
                    first = port.wrapping_add(1);
                    return None;
                }
                (port - first == more_ports).then_some(first)
            })
        };
        let (low, high) = DYNAMIC_PORTS.into_inner();
        find(self.next_port.max(low)..=high).or_else(|| find(low..=high))
    }

    fn take_port(&mut self, protocol: PortProtocol, port: u16, held: &mut Held) -> Result<(), Refusal> {
        if !self.ports.insert((protocol, port)) {
            return Err(Refusal::Port { protocol, port });
        }
        held.ports.push((protocol, port));
        Ok(())
    }

    fn take_address(&mut self, block: Cidr, now: Timestamp) -> Option<u32> {
        let range = usable(block);
        while self.resting.front().is_some_and(|(since, _)| now.millis_since(*since) >= REST_MS) {
            self.wake_one();
        }
        let next = self.next_address.clamp(*range.start(), *range.end());
        let mut candidates = (next..=*range.end()).chain(*range.start()..next);
        let free = candidates.find(|address| !self.busy.contains(address));
        let hurried = || self.resting.front().filter(|(since, _)| now.millis_since(*since) >= SHORT_REST_MS);
        let address = free.or_else(|| hurried().map(|(_, address)| *address))?;
        if free.is_none() {
            self.wake_one();
        }
        self.busy.insert(address);
        self.next_address = if address == *range.end() { *range.start() } else { address + 1 };
        Some(address)
    }

    /// Ends the rest of the address that has rested longest.
    fn wake_one(&mut self) {
        if let Some((_, address)) = self.resting.pop_front() {
            self.busy.remove(&address);
        }
    }

    fn release(&mut self, held: Held) {
        for address in &held.addresses {
            self.busy.remove(address);
        }
        for port in &held.ports {
            self.ports.remove(port);
        }
    }
}

/// The ports of a task that has the host's network, on which its own programs listen.
fn of_host(shape: &TaskShape) -> impl Iterator<Item = (PortProtocol, u16)> {
    let containers = shape.containers.iter().filter(|_| shape.network_mode == NetworkMode::Host);
    let mappings = containers.flat_map(|container| &container.port_mappings);
    let ports = |mapping: &PortMapping| {
        let protocol = mapping.protocol;
        mapping.host_ports().into_iter().flatten().map(move |port| (protocol, port))
    };
    mappings.flat_map(ports)
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::{container, scope, shape, spec};
    use neargate_model::{ClusterName, ContainerDefinition, TaskId};

    use super::*;

    const FREE: IsFree<'static> = &|_, _| true;

    fn task(number: u32) -> TaskKey {
        let id = TaskId::new(format!("{number:032x}")).unwrap();
        TaskKey { scope: scope(), cluster: ClusterName::new("c").unwrap(), id }
    }

    fn block() -> Option<Cidr> {
        Some("10.0.0.16/28".parse().unwrap())
    }

    fn mapping(protocol: PortProtocol, host_port: Option<u16>) -> PortMapping {
        PortMapping { protocol, container_port: 80, more_ports: 0, host_port, name: None }
    }

    /// A task whose containers map these ports.
    fn mapped(mode: NetworkMode, ports: &[&[PortMapping]]) -> TaskShape {
        let with = |(number, ports): (usize, &&[PortMapping])| ContainerDefinition {
            port_mappings: ports.to_vec(),
            ..container(&format!("c{number}"))
        };
        TaskShape { network_mode: mode, ..shape(ports.iter().enumerate().map(with).collect()) }
    }

    #[test]
    fn every_container_has_an_address_and_every_mapping_a_port() {
        use PortProtocol::{Tcp, Udp};
        let bridge = Bridge::default();
        let wanted = mapped(
            NetworkMode::Bridge,
            &[&[mapping(Tcp, None), mapping(Udp, None)], &[mapping(Tcp, Some(61_000))]],
        );
        let given = bridge.take(&task(1), &wanted, block(), FREE, Timestamp(0)).unwrap().unwrap();
        let addresses: Vec<_> = given.containers.iter().map(|one| one.address.octets()[3]).collect();
        assert_eq!(addresses, [20, 21]);
        let has = |last| bridge.has(Ipv4Addr::new(10, 0, 0, last));
        assert!(has(20) && has(21) && !has(22));
        let ports: Vec<_> =
            given.containers.iter().flat_map(|one| &one.ports).map(|port| port.first.host_port).collect();
        assert_eq!(ports, [61_001, 61_002, 61_000], "one that is named is not given to another");
        assert_eq!(bridge.take(&task(2), &wanted, None, FREE, Timestamp(0)), Ok(None), "loopback only");
    }

    #[test]
    fn a_port_is_had_once_and_comes_back() {
        let bridge = Bridge::default();
        let take = |number, mode, protocol, is_free: IsFree<'_>| {
            let wanted = mapped(mode, &[&[mapping(protocol, Some(80))]]);
            let block = block().filter(|_| mode == NetworkMode::Bridge);
            bridge.take(&task(number), &wanted, block, is_free, Timestamp(0)).map(|_| ())
        };
        use PortProtocol::{Tcp, Udp};
        let (mode, taken) = (NetworkMode::Bridge, Err(Refusal::Port { protocol: Tcp, port: 80 }));
        let in_use = Err(Refusal::PortInUse { protocol: Tcp, port: 80 });
        assert_eq!(take(1, mode, Tcp, &|_, _| false), in_use);
        assert_eq!(take(1, mode, Tcp, FREE), Ok(()), "nothing is left of what was refused");
        assert_eq!(take(2, mode, Tcp, FREE), taken);
        assert_eq!(take(2, NetworkMode::Host, Tcp, FREE), taken, "the host's programs have the same ports");
        assert_eq!(take(2, NetworkMode::Awsvpc, Tcp, FREE), Ok(()), "those of an interface are its own");
        assert_eq!(take(3, mode, Udp, FREE), Ok(()));
        bridge.give_back(&task(1), Timestamp(1));
        bridge.give_back(&task(1), Timestamp(1));
        assert_eq!(take(4, NetworkMode::Host, Tcp, FREE), Ok(()));
        assert_eq!(take(5, mode, Tcp, FREE), taken);
        bridge.forget(&task(4));
        assert_eq!(take(5, mode, Tcp, FREE), Ok(()));
    }

    #[test]
    fn addresses_rest_and_run_out() {
        let bridge = Bridge::default();
        let wanted = mapped(NetworkMode::Bridge, &[&[], &[]]);
        let take = |number, at| {
            let taken = bridge.take(&task(number), &wanted, block(), FREE, Timestamp(at));
            taken.map(|network| network.unwrap().containers[0].address.octets()[3])
        };
        for number in 0..5 {
            assert_eq!(take(number, 0), Ok(20 + 2 * number as u8));
        }
        assert_eq!(take(5, 0), Err(Refusal::Address), "one is left and two are wanted");
        bridge.give_back(&task(1), Timestamp(1_000));
        assert_eq!(take(5, 1_500), Err(Refusal::Address), "they have just begun to rest");
        assert_eq!(take(5, 2_000), Ok(30), "the one that was never had, and one that has rested a little");
        assert_eq!(take(6, 90_000), Err(Refusal::Address));
    }

    #[test]
    fn ports_run_out() {
        let bridge = Bridge::default();
        let wanted = mapped(NetworkMode::Bridge, &[&[mapping(PortProtocol::Tcp, None)]]);
        let only_last: IsFree<'_> = &|_, port| port == 65_535;
        let take = |number| {
            let taken = bridge.take(&task(number), &wanted, block(), only_last, Timestamp(0));
            taken.map(|network| network.unwrap().containers[0].ports[0].first.host_port)
        };
        assert_eq!((take(1), take(2)), (Ok(65_535), Err(Refusal::NoPort)));
        bridge.forget(&task(1));
        assert_eq!(take(3), Ok(65_535));
    }

    #[test]
    fn ranges_are_as_long_on_the_host() {
        let bridge = Bridge::default();
        let wanted = |more_ports| {
            let range = PortMapping { more_ports, ..mapping(PortProtocol::Tcp, None) };
            mapped(NetworkMode::Bridge, &[&[range]])
        };
        let take = |number, more_ports, is_free: IsFree<'_>| {
            let taken = bridge.take(&task(number), &wanted(more_ports), block(), is_free, Timestamp(0));
            taken.map(|network| network.unwrap().containers[0].ports[0].first.host_port)
        };
        assert_eq!(take(1, 9, FREE), Ok(61_000));
        assert_eq!(take(2, 9, &|_, port| port % 100 != 15), Ok(61_016), "none of a row is somebody else's");
        assert_eq!(take(3, 4_500, FREE), Ok(61_026));
        assert_eq!(take(4, 9, FREE), Err(Refusal::NoPort), "fifteen are left, and no ten in a row");
        assert_eq!(take(4, 5, FREE), Ok(65_527));
        bridge.forget(&task(3));
        assert_eq!(take(5, 4_500, FREE), Ok(61_026), "all of a row comes back");
    }

    #[test]
    fn what_was_given_is_known_again() {
        let (first, second) = (Bridge::default(), Bridge::default());
        let wanted = mapped(NetworkMode::Bridge, &[&[mapping(PortProtocol::Tcp, Some(80))]]);
        let network = first.take(&task(1), &wanted, block(), FREE, Timestamp(0)).unwrap();
        let noted =
            TaskSpec { shape: wanted.clone(), bridge: network.clone(), ..spec(vec![container("c0")]) };
        second.note(task(1), &noted);
        let taken = Err(Refusal::Port { protocol: PortProtocol::Tcp, port: 80 });
        assert_eq!(second.take(&task(2), &wanted, block(), FREE, Timestamp(0)), taken);
        let other = mapped(NetworkMode::Bridge, &[&[]]);
        let other = second.take(&task(2), &other, block(), FREE, Timestamp(0)).unwrap();
        assert_ne!(other.unwrap().containers[0].address, network.unwrap().containers[0].address);
    }
}
