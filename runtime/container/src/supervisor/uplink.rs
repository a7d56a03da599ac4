//! The link from the router to the host, by which tasks are reached from the host and reach what is beyond it.
//!
//! The host keeps one interface, a route for each VPC and one table of rules. Whoever flushes those rules stops what
//! leaves the host, and lets nobody into it: the router itself sends nothing to the host's own addresses. The table is
//! put back as soon as the kernel tells that it is gone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use neargate_model::{Cidr, PortProtocol};
use neargate_network::bridge::Bridged;
use neargate_network::family::Family;
use neargate_network::link::{
    End, HOST_GATEWAY, HOST_GATEWAY_V6, HOST_MAC, ROUTER_MAC, TASK_GATEWAY, TASK_GATEWAY_V6,
};
use neargate_network::netlink::{Batch, Netlink, NetlinkError, News, Subsystem};
use neargate_network::rules::{Picture, UPLINK, UPLINK_PREFIX, render_host};

use super::dual::{self, Dual, gateway_for, switch};
use super::filter::Filter;
use super::forwarding::Forwarding;
use super::host_ports::HostPorts;
use super::nft::load;
use super::report;
use super::router::refused;
use crate::failure::{Failure, Step};
use crate::launchpad::Launchpad;

/// Digits of the instance's name in that of the uplink, which has room for no more.
const DIGITS: usize = 10;

/// The host's side of a router.
pub(super) struct Uplink {
    /// The host's end of the link.
    name: String,
    route: Netlink,
    /// The host's table.
    pub(super) filter: Filter,
    /// News of the host's addresses, links and routes.
    pub(super) addresses: Netlink,
    /// Whether this supervisor has seen to it that the link is there.
    is_made: bool,
    /// VPCs that lead to the router.
    vpcs: BTreeSet<Cidr>,
    /// Ports that lead to containers.
    pub(super) ports: HostPorts,
    /// Whether the host forwards packets.
    forwarding: Forwarding,
    /// Whether the host's rules may be others than they should be.
    is_doubtful: bool,
}

impl Uplink {
    /// Of the host whose network namespace the caller is in. Nothing is made by this.
    pub(super) fn new(instance: &str, directory: Option<&Path>) -> Result<Self, Failure> {
        const STEP: &str = "open netlink";
        let digits: String = instance.chars().filter(char::is_ascii_hexdigit).take(DIGITS).collect();
        Ok(Self {
            name: format!("{UPLINK_PREFIX}{digits}"),
            route: Netlink::open(Subsystem::Route).step(STEP)?,
            filter: Filter::open(&format!("neargate_{digits}"))?,
            addresses: Netlink::listen(News::Ways).step(STEP)?,
            is_made: false,
            vpcs: BTreeSet::new(),
            ports: HostPorts::default(),
            forwarding: Forwarding::new(directory),
            is_doubtful: false,
        })
    }

    /// Has the link be there, and what leads to it and away from it.
    pub(super) fn connect(
        &mut self,
        router: BorrowedFd<'_>,
        picture: &Picture,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        let inside = launchpad.in_network(router, || Netlink::open(Subsystem::Route).step("open netlink"))?;
        if self.route.index_of(&self.name).is_ok() && inside.index_of(UPLINK).is_err() {
            // It leads to a router that has just gone.
            self.remove_link();
        }
        if self.route.index_of(&self.name).is_err() {
            let mut batch = Batch::default();
            let (near, far) =
                (End { name: &self.name, mac: Some(HOST_MAC) }, End { name: UPLINK, mac: Some(ROUTER_MAC) });
            batch.add_pair(near, far, router);
            self.route.exchange(batch).map_err(refused)?;
            self.vpcs.clear();
        }
        let index = inside.index_of(UPLINK).map_err(refused)?;
        let mut batch = Batch::default();
        batch.set_up(index, None);
        batch.add_neighbour(index, HOST_GATEWAY.into(), HOST_MAC);
        batch.add_route(Cidr::ANYWHERE_V4, index, Some(HOST_GATEWAY.into()), None);
        let families = families(&picture.vpcs);
        let is_dual = families.contains(&Family::V6);
        if is_dual {
            launchpad.in_network(router, || switch(UPLINK, Dual::On))?;
            batch.add_neighbour(index, HOST_GATEWAY_V6.into(), HOST_MAC);
            batch.add_route(Cidr::ANYWHERE_V6, index, Some(HOST_GATEWAY_V6.into()), None);
        }
        inside.exchange(batch).map_err(refused)?;
        let index = self.route.index_of(&self.name).map_err(refused)?;
        let mut batch = Batch::default();
        batch.set_up(index, None);
        self.route.exchange(batch).map_err(refused)?;
        if is_dual {
            switch(&self.name, Dual::On)?;
        }
        self.route_vpcs(index, &picture.vpcs);
        // Last, because the kernel forgets every neighbour of an interface that loses its only address
        // (`fib_disable_ip`), also those that were to be known for good.
        let mut batch = Batch::default();
        batch.add_neighbour(index, TASK_GATEWAY.into(), ROUTER_MAC);
        if is_dual {
            batch.add_neighbour(index, TASK_GATEWAY_V6.into(), ROUTER_MAC);
        }
        self.route.exchange(batch).map_err(refused)?;
        self.is_made = true;
        // Its rules say what it forwards before it begins.
        let missing = self.forwarding.missing(families)?;
        self.load_rules(picture, launchpad)?;
        missing.into_iter().try_for_each(|family| self.forwarding.begin(family))
    }

    /// Whether the link, its addresses and the routes to it are there that were made.
    fn is_whole(&self) -> Result<bool, Failure> {
        if !self.is_made {
            return Ok(true);
        }
        let Ok(index) = self.route.index_of(&self.name) else { return Ok(false) };
        let routes = self.route.routes().map_err(refused)?;
        let addresses = self.route.addresses().map_err(refused)?;
        let is_there =
            |vpc: &Cidr| routes.contains(&(*vpc, index)) && addresses.contains(&router_address(vpc));
        Ok(self.vpcs.iter().all(is_there))
    }

    fn remove_link(&self) {
        if let Ok(index) = self.route.index_of(&self.name) {
            // An error means that it went with its router.
            let _ = self.route.remove_link(index);
        }
    }

    /// Leads VPCs to the router. One that leads elsewhere already is left as it is: its tasks are not reached from the
    /// host then, and reach nothing beyond it.
    fn route_vpcs(&mut self, index: u32, vpcs: &BTreeSet<Cidr>) {
        let routes = self.route.routes().unwrap_or_default();
        for gone in self.vpcs.difference(vpcs) {
            let mut batch = Batch::default();
            batch.remove_route(*gone, index);
            batch.remove_address(index, router_address(gone));
            // An error means that somebody else has removed it.
            let _ = self.route.exchange(batch);
        }
        let mut routed: BTreeSet<Cidr> = self.vpcs.intersection(vpcs).copied().collect();
        for vpc in vpcs.difference(&self.vpcs) {
            let is_elsewhere =
                |(block, to): &(Cidr, u32)| *to != index && block.prefix() > 0 && block.overlaps(vpc);
            if routes.iter().any(is_elsewhere) {
                let why = "the host has a network there; give the VPC another block";
                report(&format!("route {vpc} to its tasks"), &why);
                continue;
            }
            let mut batch = Batch::default();
            let own = router_address(vpc);
            let (hop, _) = gateway_for(own);
            batch.add_address(index, own);
            batch.add_route(*vpc, index, Some(hop), Some(own));
            match self.route.exchange(batch) {
                Ok(()) => drop(routed.insert(*vpc)),
                Err(error) => report(&format!("route {vpc} to its tasks"), &refused(error).into_start()),
            }
        }
        self.vpcs = routed;
    }

    /// Makes the host's rules anew.
    fn load_rules(&mut self, picture: &Picture, launchpad: &Launchpad) -> Result<(), Failure> {
        self.is_doubtful = true;
        let names = (self.filter.table(), self.name.as_str());
        let text = render_host(names, &self.vpcs, picture, &self.forwarding.alone());
        let host = launchpad.host_network()?;
        self.filter.load(&text, host.as_fd(), launchpad)?;
        self.is_doubtful = false;
        Ok(())
    }

    /// Puts back what others have taken from the host; to be called when there is news.
    pub(super) fn repair(
        &mut self,
        router: BorrowedFd<'_>,
        picture: &Picture,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        // Before anything is looked at: of what changes from here on there is other news.
        self.addresses.drain();
        if !self.is_whole()? {
            report("look after the link to the host", &"somebody has removed a part of it; it is made anew");
            self.vpcs.clear();
            return self.connect(router, picture, launchpad);
        }
        match (self.filter.take_change(), self.is_doubtful) {
            (false, false) => return Ok(()),
            (true, false) => {
                report("look after the rules of the host", &"somebody has changed them; they are put back");
            }
            (_, true) => {}
        }
        self.load_rules(picture, launchpad)
    }

    /// Lets go of news of changes: all is made anew soon.
    pub(super) fn overlook_changes(&mut self) {
        self.filter.take_change();
        self.addresses.drain();
    }

    /// Leads ports of the host to a container, which is in the picture.
    pub(super) fn publish(
        &mut self,
        bridged: &Bridged,
        picture: &Picture,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        if bridged.ports.is_empty() {
            return Ok(());
        }
        // Refused if somebody has just removed the table.
        let publish = bridged.publish(self.filter.table());
        self.filter.exchange(publish).or_else(|_| self.load_rules(picture, launchpad))
    }

    /// Takes that back, unless the rules are made anew anyway, and lets go of the ports.
    pub(super) fn withdraw(&mut self, bridged: &Bridged, is_current: bool) -> Result<(), NetlinkError> {
        if bridged.ports.is_empty() {
            return Ok(());
        }
        let withdrawn = match is_current {
            true => self.filter.exchange(bridged.withdraw(self.filter.table())),
            false => Ok(()),
        };
        self.is_doubtful |= withdrawn.is_err();
        self.ports.let_go(&bridged.ports);
        // Datagrams that go on coming keep their connection alive, and would never reach the next one that has the port.
        let has_datagrams = bridged.ports.iter().any(|port| port.protocol == PortProtocol::Udp);
        let forgotten = if has_datagrams {
            self.filter.kernel().forget_connections(bridged.address.into())
        } else {
            Ok(())
        };
        withdrawn.and(forgotten)
    }

    /// The host's own addresses.
    pub(super) fn host_addresses(&self) -> Result<BTreeSet<IpAddr>, Failure> {
        Ok(self.route.addresses().map_err(refused)?.into_iter().collect())
    }

    /// Removes what is left on the host when the router is gone.
    pub(super) fn close(&self, launchpad: &Launchpad) {
        self.remove_link();
        let links = self.route.links().unwrap_or_default();
        let is_last = !links.iter().any(|(_, name)| name.starts_with(UPLINK_PREFIX));
        // Before the rules go that let nothing else through.
        self.forwarding.end(is_last);
        let table = self.filter.table();
        let text = format!("add table inet {table}\ndelete table inet {table}\n");
        let removed = launchpad.host_network().and_then(|host| load(&text, host.as_fd(), launchpad));
        if let Err(failure) = removed {
            report("remove the rules of the host", &failure.into_start());
        }
    }
}

/// The versions of the protocol that VPCs have, as far as the kernel knows them.
fn families(vpcs: &BTreeSet<Cidr>) -> &'static [Family] {
    let is_dual = vpcs.iter().any(|vpc| !vpc.is_v4()) && dual::is_supported();
    if is_dual { &Family::ALL } else { &[Family::V4] }
}

/// The address of a VPC that is its router's, here the host's: the second, as in Amazon VPC.
fn router_address(vpc: &Cidr) -> IpAddr {
    match vpc.first() {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + 1).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + 1).into(),
    }
}
