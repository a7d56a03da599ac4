//! Containers under `bridge`: each has a network namespace and an address of its own, and ports of the host lead to it.
//!
//! The first container of a sandbox has the sandbox's network, which was made ahead; the others get one each. They keep
//! it until the sandbox goes, also when they are started again.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::cells::Namespaces;
use super::report;
use super::router::{Network, Site, link_name, no_router, refused};
use super::sandbox::Sandbox;
use crate::bridge::Endpoint;
use crate::failure::{Failure, Step};
use crate::launchpad::{self, Launchpad};

/// A container's place at the router.
pub(super) struct Place {
    pub(super) endpoint: Endpoint,
    network: OwnedFd,
    /// The router's end of its link.
    index: u32,
}

impl Sandbox {
    /// Gives every container a network. What was made of it when one fails goes with the sandbox.
    pub(super) fn connect(
        &mut self,
        endpoints: Vec<Endpoint>,
        linked: bool,
        (network, launchpad): (&mut Network, &Launchpad),
    ) -> Result<(), Failure> {
        for (number, endpoint) in endpoints.into_iter().enumerate() {
            let of_sandbox = number == 0;
            let namespace = match of_sandbox {
                true => self.namespaces.network.try_clone().step("open network namespace")?,
                false => self.namespaces.make_another(launchpad)?,
            };
            let made = (namespace.as_fd(), linked && of_sandbox);
            let index = network.wire_bridged(&name_of(self.ids, number), &endpoint, made, launchpad)?;
            self.places.push(Place { endpoint, network: namespace, index });
        }
        Ok(())
    }

    /// Takes up again what an earlier supervisor has connected, by the first processes of containers that live; a
    /// container that has none gets another network.
    pub(super) fn connect_again(
        &mut self,
        endpoints: Vec<Endpoint>,
        processes: &HashMap<String, i32>,
        (network, launchpad): (&mut Network, &Launchpad),
    ) -> Result<(), Failure> {
        for (number, endpoint) in endpoints.into_iter().enumerate() {
            let of_process = processes.get(&endpoint.container).and_then(|pid| network_of(*pid));
            let of_pause =
                self.pause.as_ref().filter(|_| number == 0).and_then(|pause| network_of(pause.pid()));
            let found = of_process.or(of_pause);
            let is_found = found.is_some();
            let namespace = found.map_or_else(|| self.namespaces.make_another(launchpad), Ok)?;
            if number == 0 {
                self.namespaces.network = namespace.try_clone().step("open network namespace")?;
            }
            let name = name_of(self.ids, number);
            let index = match is_found {
                true => network.wire_bridged_again(&name, &endpoint, namespace.as_fd(), launchpad)?,
                false => network.wire_bridged(&name, &endpoint, (namespace.as_fd(), false), launchpad)?,
            };
            self.places.push(Place { endpoint, network: namespace, index });
        }
        Ok(())
    }

    /// The network of a container.
    pub(super) fn network_of(&self, container: &str) -> BorrowedFd<'_> {
        self.place_of(container).map_or(self.namespaces.network.as_fd(), |place| place.network.as_fd())
    }

    /// The address of a container, or of the task where its containers share one.
    pub(super) fn address_of(&self, container: &str) -> Option<Ipv4Addr> {
        let own = self.place_of(container).map(|place| place.endpoint.bridged.address);
        own.or_else(|| self.wiring.as_ref().map(|wiring| wiring.address()))
    }

    /// Whether a container has the network of the sandbox.
    pub(super) fn has_network_of_sandbox(&self, container: &str) -> bool {
        self.places.first().is_none_or(|place| place.endpoint.container == container)
    }

    fn place_of(&self, container: &str) -> Option<&Place> {
        self.places.iter().find(|place| place.endpoint.container == container)
    }
}

impl Namespaces {
    /// Another network of the same owner.
    fn make_another(&self, launchpad: &Launchpad) -> Result<OwnedFd, Failure> {
        match self.owns_network {
            true => launchpad::make_network_of(self.user.as_fd(), launchpad),
            false => launchpad::make_network(),
        }
    }
}

impl Network {
    /// Connects a container's network namespace under this name, and leads ports of the host to it. On an error nothing
    /// is left.
    fn wire_bridged(
        &mut self,
        name: &str,
        endpoint: &Endpoint,
        (namespace, linked): (BorrowedFd<'_>, bool),
        launchpad: &Launchpad,
    ) -> Result<u32, Failure> {
        self.make_router(launchpad)?;
        let Endpoint { interface, bridged, .. } = endpoint;
        self.check_unused(&interface.addresses())?;
        self.know_block(interface.vpc, launchpad)?;
        let router = self.router.as_mut().ok_or_else(no_router)?;
        router.forget_earlier(&interface.addresses())?;
        neargate_failpoint::reach("container::place::before");
        router.uplink.ports.hold(&bridged.ports)?;
        let site = Site { namespace, linked, inside: None };
        let linked = router.link(name, interface, site, launchpad);
        let (index, _) = linked.inspect_err(|_| router.uplink.ports.let_go(&bridged.ports))?;
        neargate_failpoint::reach("container::place::linked");
        self.picture.bridged.insert(bridged.address, bridged.clone());
        let entered = router.exchange(bridged.enter());
        neargate_failpoint::reach("container::place::entered");
        // What is not current is made anew with it, here and on the host.
        let published = entered.map_err(refused).and_then(|()| match router.is_current {
            true => router.uplink.publish(bridged, &self.picture, launchpad),
            false => Ok(()),
        });
        neargate_failpoint::reach("container::place::published");
        if let Err(failure) = published {
            self.unwire_bridged(endpoint, index);
            return Err(failure);
        }
        Ok(index)
    }

    /// Takes up again a container that an earlier supervisor has connected; its link is there if the router is the same.
    fn wire_bridged_again(
        &mut self,
        name: &str,
        endpoint: &Endpoint,
        namespace: BorrowedFd<'_>,
        launchpad: &Launchpad,
    ) -> Result<u32, Failure> {
        let found = self.router.as_ref().and_then(|router| router.route.index_of(name).ok());
        let (Some(index), Some(router)) = (found, &mut self.router) else {
            return self.wire_bridged(name, endpoint, (namespace, false), launchpad);
        };
        let bridged = &endpoint.bridged;
        // Packets find their way all the same; somebody else was quicker only to the socket.
        if let Err(failure) = router.uplink.ports.hold(&bridged.ports) {
            report("hold the ports of a container again", &failure.into_start());
        }
        self.picture.vpcs.insert(endpoint.interface.vpc);
        self.picture.bridged.insert(bridged.address, bridged.clone());
        Ok(index)
    }

    /// Disconnects a container, whose processes are gone.
    pub(super) fn unwire_place(&mut self, place: &Place) {
        self.unwire_bridged(&place.endpoint, place.index);
    }

    fn unwire_bridged(&mut self, endpoint: &Endpoint, index: u32) {
        let bridged = &endpoint.bridged;
        self.picture.bridged.remove(&bridged.address);
        let Some(router) = &mut self.router else { return };
        let withdrawn = router.uplink.withdraw(bridged, router.is_current);
        neargate_failpoint::reach("container::place::withdrawn");
        let left = router.exchange(bridged.leave());
        router.part(&endpoint.interface.addresses(), index);
        if let Err(error) = withdrawn.and(left) {
            report("take a container out of the packet filter", &refused(error).into_start());
            self.mistrust();
        }
    }
}

/// The name of the router's end of a container's link.
fn name_of(ids: u32, number: usize) -> String {
    let name = link_name(ids);
    if number == 0 { name } else { format!("{name}_{number}") }
}

/// The network of a process; `None` if it has ended.
fn network_of(pid: i32) -> Option<OwnedFd> {
    fs::File::open(format!("/proc/{pid}/ns/net")).ok().map(OwnedFd::from)
}
