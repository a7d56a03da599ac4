//! The link from the router to the host, by which tasks are reached from the host and reach what is beyond it.
//!
//! The host keeps one interface, a route for each VPC and one table of rules. Whoever flushes those rules stops what
//! leaves the host, and lets nobody into it: the router itself sends nothing to the host's own addresses. The table is
//! put back as soon as the kernel tells that it is gone.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use neargate_model::{Cidr, PortProtocol};
use neargate_network::bridge::Bridged;
use neargate_network::link::{End, HOST_GATEWAY, HOST_MAC, ROUTER_MAC, TASK_GATEWAY};
use neargate_network::netlink::{Batch, Netlink, NetlinkError, News, Subsystem};
use neargate_network::rules::{Picture, UPLINK, UPLINK_PREFIX, render_host};

use super::filter::Filter;
use super::host_ports::HostPorts;
use super::report;
use super::router::{load, refused};
use crate::failure::{Failure, Step};
use crate::launchpad::Launchpad;

/// Whether the host forwards packets between its interfaces.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Name of the file that tells the next supervisor that the host forwards packets of tasks only.
const ALONE: &str = "forwarding";
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
    /// A file that is there if nobody but Neargate wanted the host to forward packets.
    alone: Option<PathBuf>,
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
            alone: directory.map(|directory| directory.join(ALONE)),
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
        batch.add_route(Cidr::ANYWHERE_V4, index, Some(HOST_GATEWAY), None);
        inside.exchange(batch).map_err(refused)?;
        let index = self.route.index_of(&self.name).map_err(refused)?;
        let mut batch = Batch::default();
        batch.set_up(index, None);
        self.route.exchange(batch).map_err(refused)?;
        self.route_vpcs(index, &picture.vpcs);
        // Last, because the kernel forgets every neighbour of an interface that loses its only address
        // (`fib_disable_ip`), also those that were to be known for good.
        let mut batch = Batch::default();
        batch.add_neighbour(index, TASK_GATEWAY.into(), ROUTER_MAC);
        self.route.exchange(batch).map_err(refused)?;
        self.is_made = true;
        self.forward(picture, launchpad)
    }

    /// Whether the link and the routes to it are there that were made.
    fn is_whole(&self) -> Result<bool, Failure> {
        if !self.is_made {
            return Ok(true);
        }
        let Ok(index) = self.route.index_of(&self.name) else { return Ok(false) };
        let routes = self.route.routes().map_err(refused)?;
        Ok(self.vpcs.iter().all(|vpc| routes.contains(&(*vpc, index))))
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
            let Some(own) = router_address(gone) else { continue };
            let mut batch = Batch::default();
            batch.remove_route(*gone, index);
            batch.remove_address(index, own.into());
            // An error means that somebody else has removed it.
            let _ = self.route.exchange(batch);
        }
        let mut routed: BTreeSet<Cidr> = self.vpcs.intersection(vpcs).copied().collect();
        for vpc in vpcs.difference(&self.vpcs) {
            let Some(own) = router_address(vpc) else { continue };
            let is_elsewhere =
                |(block, to): &(Cidr, u32)| *to != index && block.prefix() > 0 && block.overlaps(vpc);
            if routes.iter().any(is_elsewhere) {
                let why = "the host has a network there; give the VPC another block";
                report(&format!("route {vpc} to its tasks"), &why);
                continue;
            }
            let mut batch = Batch::default();
            batch.add_address(index, own.into());
            batch.add_route(*vpc, index, Some(TASK_GATEWAY), Some(own.into()));
            match self.route.exchange(batch) {
                Ok(()) => drop(routed.insert(*vpc)),
                Err(error) => report(&format!("route {vpc} to its tasks"), &refused(error).into_start()),
            }
        }
        self.vpcs = routed;
    }

    /// Has the host forward packets of tasks. Where it has forwarded none, it forwards no others: its rules say so
    /// before it begins.
    fn forward(&mut self, picture: &Picture, launchpad: &Launchpad) -> Result<(), Failure> {
        const STEP: &str = "let the host forward packets of tasks";
        let is_off = fs::read_to_string(FORWARDING).step(STEP)?.trim() == "0";
        if is_off && let Some(alone) = &self.alone {
            fs::write(alone, "").step(STEP)?;
        }
        self.load_rules(picture, launchpad)?;
        if is_off {
            fs::write(FORWARDING, "1").step(STEP)?;
        }
        Ok(())
    }

    fn is_alone(&self) -> bool {
        self.alone.as_ref().is_some_and(|alone| alone.exists())
    }

    /// Makes the host's rules anew.
    fn load_rules(&mut self, picture: &Picture, launchpad: &Launchpad) -> Result<(), Failure> {
        self.is_doubtful = true;
        let names = (self.filter.table(), self.name.as_str());
        let text = render_host(names, &self.vpcs, picture.bridged.values(), self.is_alone());
        let host = launchpad.host_network()?;
        self.filter.change(|_| load(&text, host.as_fd(), launchpad))?;
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

    /// Takes that back, and lets go of the ports.
    pub(super) fn withdraw(&mut self, bridged: &Bridged) -> Result<(), NetlinkError> {
        if bridged.ports.is_empty() {
            return Ok(());
        }
        let withdraw = bridged.withdraw(self.filter.table());
        let withdrawn = self.filter.exchange(withdraw);
        self.is_doubtful |= withdrawn.is_err();
        self.ports.let_go(&bridged.ports);
        // Datagrams that go on coming keep their connection alive, and would never reach the next one that has the port.
        let has_datagrams = bridged.ports.iter().any(|port| port.protocol == PortProtocol::Udp);
        let forgotten =
            if has_datagrams { self.filter.kernel().forget_connections(bridged.address) } else { Ok(()) };
        withdrawn.and(forgotten)
    }

    /// The host's own addresses.
    pub(super) fn host_addresses(&self) -> Result<BTreeSet<Ipv4Addr>, Failure> {
        self.addresses.drain();
        Ok(self.route.addresses().map_err(refused)?.into_iter().collect())
    }

    /// Removes what is left on the host when the router is gone.
    pub(super) fn close(&self, launchpad: &Launchpad) {
        self.remove_link();
        let links = self.route.links().unwrap_or_default();
        let is_last = !links.iter().any(|(_, name)| name.starts_with(UPLINK_PREFIX));
        if self.is_alone() && is_last {
            // Before the rules go that let nothing else through.
            let _ = fs::write(FORWARDING, "0");
        }
        let _ = self.alone.as_ref().map(fs::remove_file);
        let table = self.filter.table();
        let text = format!("add table inet {table}\ndelete table inet {table}\n");
        let removed = launchpad.host_network().and_then(|host| load(&text, host.as_fd(), launchpad));
        if let Err(failure) = removed {
            report("remove the rules of the host", &failure.into_start());
        }
    }
}

/// The address of a VPC that is its router's, here the host's: the second, as in Amazon VPC.
fn router_address(vpc: &Cidr) -> Option<Ipv4Addr> {
    match vpc.first() {
        std::net::IpAddr::V4(first) => Some(Ipv4Addr::from_bits(first.to_bits() + 1)),
        std::net::IpAddr::V6(_) => None,
    }
}
