//! The router: the network namespace into which the interfaces of tasks lead, and the rules in it.
//!
//! It is made when there is a VPC, ahead of the first task with an interface, and belongs to a process that does nothing
//! (`ng-router`), so that it outlives the supervisor: the next one finds it by a file in its directory. What is in the
//! kernel then still holds, and is made anew, in one step, when a server tells the groups again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use neargate_driver::{Traffic, TrafficCounters};
use neargate_model::{Cidr, SecurityGroupId, SecurityGroupRules};
use neargate_network::bandwidth::Bandwidth;
use neargate_network::elements::{self, Member};
use neargate_network::link::{End, ROUTER_MAC, TASK_INTERFACE};
use neargate_network::netlink::{Batch, Netlink, NetlinkError, Subsystem};
use neargate_network::rules::{LINK_PREFIX, METADATA, Picture, Policy, PolicyId, RESOLVER, TABLE};
use neargate_network::traffic::Counters;

use super::dual::Dual;
use super::filter::Filter;
use super::inside::{Inside, Legacy};
use super::report;
use super::router_holder::{FILE, end_holder, find_holder, fork_holder, note_holder};
use super::tunnels::Tunnels;
use super::uplink::Uplink;
use crate::failure::{Failure, Step, errno};
use crate::interface::Interface;
use crate::launchpad::Launchpad;
use crate::sys;

/// Index of the loopback interface in every namespace.
const LOOPBACK: u32 = 1;
/// How long after a failure the rules are tried to be made again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Policies that are kept though no task has them, so that the next one with the same groups finds its rules.
const POLICIES_MAX: usize = 1024;

/// Settings of the router's namespace: it routes, announces nothing, and knows IPv6 only on links that are to have it.
const SETTINGS: [(&str, &str); 12] = [
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/all/route_localnet", "0"),
    ("net/ipv4/conf/default/route_localnet", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/default/accept_source_route", "0"),
    ("net/ipv4/conf/all/proxy_arp", "0"),
    ("net/ipv4/conf/default/proxy_arp", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/ip_forward", "1"),
];

/// Who may talk to whom, and the router that sees to it once there is one.
pub(super) struct Network {
    pub(super) picture: Picture,
    members: BTreeMap<IpAddr, PolicyId>,
    pub(super) router: Option<Router>,
    directory: Option<PathBuf>,
    instance: String,
    /// Whether a server has told the groups.
    pub(super) is_told: bool,
    pub(super) retry_at: Option<Instant>,
}

pub(super) struct Router {
    pub(super) namespace: OwnedFd,
    /// The process that it belongs to.
    holder: OwnedFd,
    pub(super) route: Netlink,
    pub(super) filter: Filter,
    /// Whether the rules in the kernel are those of the picture.
    pub(super) is_current: bool,
    /// Groups that have a set in the kernel.
    pub(super) sets: BTreeSet<SecurityGroupId>,
    pub(super) uplink: Uplink,
    pub(super) tunnels: Tunnels,
    /// Whether the supervisor hears of changes.
    is_watched: bool,
    /// Addresses that tasks have had. Whoever has one next must not have its connections.
    used: BTreeSet<IpAddr>,
    /// Whether another supervisor has made it, so that it is not known which addresses tasks have had.
    is_inherited: bool,
}

/// The network in which a task is to have an interface.
pub(super) struct Site<'a> {
    pub(super) namespace: BorrowedFd<'a>,
    /// Whether its link may be there already.
    pub(super) linked: bool,
    /// What is at hand of it if a task has had it before.
    pub(super) inside: Option<Inside>,
}

/// A task's place at the router.
#[derive(Debug)]
pub(super) struct Wiring {
    address: Ipv4Addr,
    address_v6: Option<Ipv6Addr>,
    id: PolicyId,
    policy: Policy,
    /// The name of the router's end of its link.
    link: String,
    /// The router's end.
    index: u32,
    /// The other end.
    inside: Inside,
}

impl Network {
    /// Without a router; one that an earlier supervisor with this directory has left is found.
    pub(super) fn open(directory: Option<&Path>, instance: &str, launchpad: &Launchpad) -> Self {
        let router = directory.and_then(find_holder).and_then(|(holder, namespace)| {
            let found = Router::enter(namespace, holder, (instance, directory), launchpad);
            found.map_err(|failure| report("use the router that is there", &failure.into_start())).ok()
        });
        let directory = directory.map(Path::to_owned);
        let (picture, members, instance) = (Picture::default(), BTreeMap::new(), instance.to_owned());
        Self { picture, members, router, directory, instance, is_told: false, retry_at: None }
    }

    /// Connects a task's network namespace, and lets packets through as its groups say. On an error nothing is left.
    pub(super) fn wire(
        &mut self,
        ids: u32,
        interface: &Interface,
        site: Site<'_>,
        launchpad: &Launchpad,
    ) -> Result<Wiring, Failure> {
        self.make_router(launchpad)?;
        let addresses = interface.addresses();
        self.check_unused(&addresses)?;
        let id = self.admit(interface, launchpad)?;
        let router = self.router.as_mut().ok_or_else(no_router)?;
        router.forget_earlier(&addresses)?;
        neargate_failpoint::reach("container::link::before");
        let link = link_name(ids);
        let (index, inside) = router.link(&link, interface, site, launchpad)?;
        neargate_failpoint::reach("container::link::after");
        let wiring = Wiring::of(interface, id, (link, index), inside);
        if let Err(failure) = self.let_through(&wiring, interface.bandwidth, launchpad) {
            self.unlimit(&wiring.link, launchpad);
            self.router.iter().for_each(|router| router.unlink(index));
            return Err(failure);
        }
        self.members.extend(addresses.into_iter().map(|address| (address, id)));
        Ok(wiring)
    }

    /// Has the packet filter know a task: what its groups let through passes, as much as its limit allows.
    fn let_through(
        &mut self,
        wiring: &Wiring,
        bandwidth: Option<Bandwidth>,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        if let Some(bandwidth) = bandwidth {
            self.limit(wiring.link.clone(), bandwidth, launchpad)?;
        }
        let router = self.router.as_mut().ok_or_else(no_router)?;
        let named = router.named_of(wiring);
        let addresses = wiring.addresses();
        let entered = router.exchange(elements::enter(wiring.member(&addresses, &named)));
        neargate_failpoint::reach("container::element::after");
        entered.map_err(refused)
    }

    /// Takes up again a task that an earlier supervisor has connected; its link is there if the router is the same.
    pub(super) fn wire_again(
        &mut self,
        ids: u32,
        interface: &Interface,
        namespace: BorrowedFd<'_>,
        launchpad: &Launchpad,
    ) -> Result<Wiring, Failure> {
        let link = link_name(ids);
        let found = self.router.as_ref().and_then(|router| router.route.index_of(&link).ok());
        let Some(index) = found else {
            return self.wire(ids, interface, Site { namespace, linked: false, inside: None }, launchpad);
        };
        let inside = Inside::open(namespace, Dual::Unknown, launchpad)?;
        let id = PolicyId::of(&interface.groups);
        self.picture.vpcs.insert(interface.vpc);
        self.learn_v6(interface);
        self.picture.policies.insert(id, interface.policy());
        self.picture.limits.extend(interface.bandwidth.map(|bandwidth| (link.clone(), bandwidth)));
        self.members.extend(interface.addresses().into_iter().map(|address| (address, id)));
        Ok(Wiring::of(interface, id, (link, index), inside))
    }

    /// Disconnects a task, whose processes are gone. Tells what its network has for another task with its policy, if its
    /// link is still there.
    pub(super) fn unwire(&mut self, wiring: Wiring, launchpad: &Launchpad) -> Option<Legacy> {
        let addresses = wiring.addresses();
        self.members.retain(|address, _| !addresses.contains(address));
        self.unlimit(&wiring.link, launchpad);
        let router = self.router.as_mut()?;
        let named = router.named_of(&wiring);
        let left = router.exchange(elements::leave(wiring.member(&addresses, &named)));
        neargate_failpoint::reach("container::unlink::before");
        let is_there = router.part(&addresses, wiring.index) && wiring.inside.clear(&addresses).is_ok();
        if let Err(error) = left {
            report("take a task out of the packet filter", &refused(error).into_start());
            self.mistrust();
        }
        is_there.then(|| Legacy { policy: wiring.policy, inside: wiring.inside })
    }

    /// What has passed a task's interface.
    pub(super) fn traffic(&self, wiring: &Wiring) -> Result<Option<Traffic>, Failure> {
        let router = self.router.as_ref().ok_or_else(no_router)?;
        let seen = router.route.traffic_of(wiring.index).map_err(refused)?;
        // What this end of the link receives, the task has sent.
        Ok(seen.map(|seen| Traffic { received: counters(seen.sent), sent: counters(seen.received) }))
    }

    /// Enforces these groups from now on.
    pub(super) fn set_groups(
        &mut self,
        groups: BTreeMap<SecurityGroupId, SecurityGroupRules>,
        vpcs: BTreeSet<Cidr>,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        self.is_told = true;
        let before = std::mem::replace(&mut self.picture.groups, groups);
        self.picture.dual.retain(|_, block| vpcs.contains(block));
        let is_new_vpc = std::mem::replace(&mut self.picture.vpcs, vpcs) != self.picture.vpcs;
        if let Err(failure) = self.forget_strangers() {
            report("forget connections of tasks that are gone", &failure.into_start());
        }
        let changed = |group: &SecurityGroupId| before.get(group) != self.picture.groups.get(group);
        let policies: BTreeSet<PolicyId> = self
            .picture
            .policies
            .iter()
            .filter(|(_, policy)| policy.groups.iter().any(changed))
            .map(|(id, _)| *id)
            .collect();
        match &self.router {
            // Ahead of the first task that needs it.
            None if !self.picture.vpcs.is_empty() => self.make_router(launchpad),
            None => Ok(()),
            Some(router) if !router.is_current => self.render_all(None, launchpad),
            Some(_) => {
                if is_new_vpc {
                    self.connect_host(launchpad)?;
                    let text = self.picture.render_blocks();
                    self.load(&text, launchpad)?;
                }
                self.render_policies(&policies, launchpad)
            }
        }
    }

    /// A copy of the router's namespace, if there is one.
    pub(super) fn namespace(&self) -> Option<OwnedFd> {
        self.router.as_ref()?.namespace.try_clone().ok()
    }

    /// Removes the router, to which no task is connected any more.
    pub(super) fn close(&mut self, launchpad: &Launchpad) {
        if let Some(router) = self.router.take() {
            router.uplink.close(launchpad);
            end_holder(&router.holder);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_file(directory.join(FILE));
        }
    }

    /// Whether somebody has an address.
    fn is_used(&self, address: &IpAddr) -> bool {
        let is_others = |v4| self.picture.bridged.contains_key(v4) || self.picture.remote.contains_key(v4);
        self.members.contains_key(address) || matches!(address, IpAddr::V4(v4) if is_others(v4))
    }

    /// Refuses addresses that somebody has.
    pub(super) fn check_unused(&self, addresses: &[IpAddr]) -> Result<(), Failure> {
        if let Some(address) = addresses.iter().find(|address| self.is_used(address)) {
            let step = format!("give a task the address {address}, which another one still has");
            return Err(Failure::System { step, errno: libc::EADDRINUSE });
        }
        self.check_own(addresses)
    }

    /// Has a block led here, with the rules as they should be.
    pub(super) fn know_block(&mut self, block: Cidr, launchpad: &Launchpad) -> Result<(), Failure> {
        let is_new = self.picture.vpcs.insert(block);
        match &self.router {
            Some(router) if router.is_current && !is_new => Ok(()),
            _ => self.render_all(None, launchpad),
        }
    }

    pub(super) fn make_router(&mut self, launchpad: &Launchpad) -> Result<(), Failure> {
        if self.router.is_some() {
            return Ok(());
        }
        let is_lasting = self.directory.is_some();
        let (holder, pid) = fork_holder(is_lasting)?;
        let router = self.note_and_enter(&holder, pid, launchpad).inspect_err(|_| end_holder(&holder))?;
        self.router = Some(Router { is_inherited: false, ..router });
        let made = launchpad.in_network(self.router_namespace()?.as_fd(), furnish);
        let made = made.and_then(|()| self.render_all(None, launchpad));
        if made.is_err() {
            self.close(launchpad);
        }
        neargate_failpoint::reach("container::router::after");
        made
    }

    /// Has nothing left of the connections of tasks that are gone, of a router that another supervisor has made: which
    /// addresses they had nobody knows any more. Once all others are found again, so that theirs go on.
    fn forget_strangers(&mut self) -> Result<(), Failure> {
        let Some(router) = self.router.as_ref().filter(|router| router.is_inherited) else { return Ok(()) };
        let is_stranger = |address: IpAddr| {
            let is_ours = self.picture.vpcs.iter().any(|block| block.contains(address));
            is_ours && !self.is_used(&address)
        };
        router.filter.kernel().forget_connections_of(is_stranger).map_err(refused)?;
        let bridged = self.picture.bridged.keys().map(|address| IpAddr::V4(*address));
        let used: Vec<IpAddr> = self.members.keys().copied().chain(bridged).collect();
        if let Some(router) = &mut self.router {
            router.is_inherited = false;
            router.used.extend(used);
        }
        Ok(())
    }

    fn note_and_enter(&self, holder: &OwnedFd, pid: i32, launchpad: &Launchpad) -> Result<Router, Failure> {
        const STEP: &str = "note the router";
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).step(STEP)?;
        if let Some(directory) = &self.directory {
            note_holder(directory, pid, &namespace).step(STEP)?;
        }
        neargate_failpoint::reach("container::router::noted");
        let holder = holder.try_clone().step(STEP)?;
        Router::enter(namespace.into(), holder, (&self.instance, self.directory.as_deref()), launchpad)
    }

    /// Has the host lead here what is for tasks, and learns its addresses.
    fn connect_host(&mut self, launchpad: &Launchpad) -> Result<(), Failure> {
        let Some(router) = &mut self.router else { return Ok(()) };
        let connected = router.uplink.connect(router.namespace.as_fd(), &self.picture, launchpad);
        let hosts = connected.and_then(|()| router.uplink.host_addresses());
        match hosts {
            Ok(hosts) => self.picture.hosts = hosts,
            Err(failure) => {
                self.mistrust();
                return Err(failure);
            }
        }
        Ok(())
    }

    /// What tells of changes that others have made, the first time that it is asked for.
    pub(super) fn take_unwatched(&mut self) -> Vec<BorrowedFd<'_>> {
        let Some(router) = self.router.as_mut().filter(|router| !router.is_watched) else {
            return Vec::new();
        };
        router.is_watched = true;
        let router = &*router;
        [router.uplink.addresses.as_fd(), router.uplink.filter.as_fd(), router.filter.as_fd()].into()
    }

    /// Looks at what others have changed: rules that are gone come back, and new addresses of the host are kept from
    /// tasks.
    pub(super) fn repair(&mut self, launchpad: &Launchpad) -> Result<(), Failure> {
        let repaired = self.look_after(launchpad);
        self.retry_at = repaired.is_err().then(|| Instant::now() + RETRY_PAUSE);
        self.look_at_tunnels_again();
        repaired
    }

    fn look_after(&mut self, launchpad: &Launchpad) -> Result<(), Failure> {
        let awaits_groups = self.awaits_groups();
        let Some(router) = &mut self.router else { return Ok(()) };
        if awaits_groups {
            // Whatever has changed is made anew then.
            router.filter.take_change();
            router.uplink.overlook_changes();
            return Ok(());
        }
        let Router { uplink, namespace, .. } = router;
        let host = uplink.repair(namespace.as_fd(), &self.picture, launchpad);
        let hosts = uplink.host_addresses()?;
        if router.filter.take_change() && router.is_current {
            report(
                "look after the rules of security groups",
                &"somebody has changed them; they are put back",
            );
            router.is_current = false;
        }
        if !router.is_current {
            return host.and(self.render_all(None, launchpad));
        }
        if hosts != self.picture.hosts {
            self.picture.hosts = hosts;
            let text = self.picture.render_blocks();
            self.load(&text, launchpad)?;
        }
        host.and(self.ensure_tunnels())
    }

    fn router_namespace(&self) -> Result<&OwnedFd, Failure> {
        self.router.as_ref().map(|router| &router.namespace).ok_or_else(no_router)
    }

    /// Has rules for the groups of a task.
    fn admit(&mut self, interface: &Interface, launchpad: &Launchpad) -> Result<PolicyId, Failure> {
        let policy = PolicyId::of(&interface.groups);
        let wanted = interface.policy();
        let is_new_v6 = self.learn_v6(interface);
        match self.picture.policies.get(&policy) {
            Some(known)
                if *known == wanted
                    && !is_new_v6
                    && self.router.as_ref().is_some_and(|router| router.is_current) =>
            {
                return Ok(policy);
            }
            Some(known) if *known != wanted => {
                let why = "the packet filter takes its security groups for others; leave one of them away"
                    .to_owned();
                return Err(Failure::Unsupported { what: "this set of security groups".to_owned(), why });
            }
            _ => {}
        }
        let is_new_vpc = self.picture.vpcs.insert(interface.vpc) || is_new_v6;
        let is_new = self.picture.policies.insert(policy, wanted).is_none();
        let is_current = self.router.as_ref().is_some_and(|router| router.is_current);
        let rendered = if is_current && !is_new_vpc && self.picture.policies.len() <= POLICIES_MAX {
            self.render_policies(&BTreeSet::from([policy]), launchpad)
        } else {
            self.render_all(Some(policy), launchpad)
        };
        if rendered.is_err() && is_new {
            self.picture.policies.remove(&policy);
        }
        rendered.map(|()| policy)
    }

    /// Whether the rules are those of an earlier supervisor, which hold, here and on the host, until the groups are told:
    /// not all tasks may be found again yet, and what their groups allow is not known.
    fn awaits_groups(&self) -> bool {
        !self.is_told && self.router.as_ref().is_some_and(|router| router.is_inherited)
    }

    /// Makes the rules anew, without policies that no task has, `new` excepted.
    pub(super) fn render_all(&mut self, new: Option<PolicyId>, launchpad: &Launchpad) -> Result<(), Failure> {
        if self.awaits_groups() {
            return Ok(());
        }
        self.connect_host(launchpad)?;
        let used: BTreeSet<PolicyId> = self.members.values().copied().chain(new).collect();
        self.picture.policies.retain(|policy, _| used.contains(policy));
        let text = self.picture.render(&self.members);
        let loaded = self.load(&text, launchpad);
        let sets = self.picture.named_groups().into_iter().cloned().collect();
        if let Some(router) = &mut self.router {
            router.is_current = loaded.is_ok();
            router.sets = sets;
        }
        self.keep_tunnels();
        loaded
    }

    fn render_policies(
        &mut self,
        policies: &BTreeSet<PolicyId>,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        if policies.is_empty() {
            return Ok(());
        }
        let named: BTreeSet<SecurityGroupId> = self.picture.named_groups().into_iter().cloned().collect();
        let Some(router) = &self.router else { return Ok(()) };
        let new: BTreeSet<&SecurityGroupId> = named.difference(&router.sets).collect();
        let text = self.picture.render_change(policies, &new, &self.members);
        let loaded = self.load(&text, launchpad);
        if let Some(router) = &mut self.router {
            router.is_current = loaded.is_ok();
            router.sets.extend(named);
        }
        loaded
    }

    /// Has `nft` carry out a text, all of it or nothing.
    pub(super) fn load(&mut self, text: &str, launchpad: &Launchpad) -> Result<(), Failure> {
        neargate_failpoint::reach("container::rules::before");
        let Router { filter, namespace, .. } = self.router.as_mut().ok_or_else(no_router)?;
        let loaded = filter.load(text, namespace.as_fd(), launchpad);
        neargate_failpoint::reach("container::rules::after");
        if loaded.is_err() {
            self.mistrust();
        }
        loaded
    }

    /// Notes that the rules in the kernel may be others than they should be: they are made anew soon.
    pub(super) fn mistrust(&mut self) {
        if let Some(router) = &mut self.router {
            router.is_current = false;
        }
        self.retry_at = Some(Instant::now() + RETRY_PAUSE);
    }

    /// When something that has failed is to be tried again, or else what was seen during a change is to be repaired.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let filters = self.router.iter().flat_map(|router| [&router.filter, &router.uplink.filter]);
        self.retry_at.or_else(|| filters.filter_map(Filter::changed_at).min())
    }
}

impl Router {
    fn enter(
        namespace: OwnedFd,
        holder: OwnedFd,
        (instance, directory): (&str, Option<&Path>),
        launchpad: &Launchpad,
    ) -> Result<Self, Failure> {
        let open = |subsystem| move || Netlink::open(subsystem).step("open netlink");
        let route = launchpad.in_network(namespace.as_fd(), open(Subsystem::Route))?;
        let filter = launchpad.in_network(namespace.as_fd(), || Filter::open(TABLE))?;
        let (sets, uplink, tunnels) = (BTreeSet::new(), Uplink::new(instance, directory)?, Tunnels::new()?);
        Ok(Self {
            namespace,
            holder,
            route,
            filter,
            is_current: false,
            sets,
            uplink,
            tunnels,
            is_watched: false,
            used: BTreeSet::new(),
            is_inherited: true,
        })
    }

    /// Has nothing left of the connections of whoever had these addresses before.
    pub(super) fn forget_earlier(&mut self, addresses: &[IpAddr]) -> Result<(), Failure> {
        for address in addresses {
            if self.is_inherited || !self.used.insert(*address) {
                self.filter.kernel().forget_connections(*address).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Leads an interface here by a link of this name; returns the index of this end, and the other end.
    pub(super) fn link(
        &self,
        name: &str,
        interface: &Interface,
        site: Site<'_>,
        launchpad: &Launchpad,
    ) -> Result<(u32, Inside), Failure> {
        let Site { namespace, linked, inside } = site;
        let made_ahead = if linked { self.route.index_of(name).ok() } else { None };
        let inside = inside.filter(|_| made_ahead.is_some());
        if let (Some(index), Some(_)) = (made_ahead, &inside) {
            self.route.count_anew(index).map_err(refused)?;
        }
        let index = match made_ahead {
            Some(index) => index,
            None => {
                match add_pair(&self.route, name, namespace) {
                    Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {
                        self.remove_remains(name, namespace, launchpad)?;
                        add_pair(&self.route, name, namespace)
                    }
                    added => added,
                }
                .map_err(refused)?;
                self.route.index_of(name).map_err(refused)?
            }
        };
        let wanted = if interface.v6.is_some() { Dual::On } else { Dual::Off };
        let inside = inside.map_or_else(|| Inside::open(namespace, Dual::Off, launchpad), Ok);
        let linked = inside.and_then(|mut inside| {
            self.switch_v6(&mut inside, wanted, (name, namespace), launchpad)?;
            inside.set_up(interface)?;
            let mut batch = Batch::default();
            batch.set_up(index, None);
            for address in interface.addresses() {
                batch.add_route(single(address), index, None, None);
                batch.add_neighbour(index, address, interface.mac);
            }
            self.route.exchange(batch).map_err(refused).map(|()| inside)
        });
        if linked.is_err() {
            self.unlink(index);
        }
        linked.map(|inside| (index, inside))
    }

    /// Removes what is in the way of a new link: that of a task which is gone, whose namespace is not because of a
    /// connection that lingers, for example; or the task's own, which led to a router that has just gone.
    fn remove_remains(
        &self,
        name: &str,
        namespace: BorrowedFd<'_>,
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        if let Ok(index) = self.route.index_of(name) {
            self.unlink(index);
        }
        if let Ok(inside) = Inside::open(namespace, Dual::Unknown, launchpad) {
            inside.remove();
        }
        Ok(())
    }

    /// Leads nothing to addresses any more; tells whether its link is still there. A link that is not used again goes
    /// with its network namespace, which nobody has any more, because to remove it takes long; should that linger,
    /// because of a connection for example, packets from it have a source that is not routed to it.
    pub(super) fn part(&self, addresses: &[IpAddr], index: u32) -> bool {
        let mut batch = Batch::default();
        for address in addresses {
            batch.remove_route(single(*address), index);
            batch.remove_neighbour(index, *address);
        }
        match self.route.exchange(batch) {
            Ok(()) => true,
            Err(error) => {
                let is_gone =
                    matches!(error.source.raw_os_error(), Some(libc::ENODEV | libc::ESRCH | libc::ENOENT));
                if !is_gone {
                    report("take back the route to a task", &refused(error).into_start());
                }
                false
            }
        }
    }

    /// Changes what is in the packet filter, unless all of it is made anew, as the picture is, in any case.
    pub(super) fn exchange(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        if self.is_current { self.filter.exchange(batch) } else { Ok(()) }
    }

    /// The groups of a task that have a set.
    fn named_of(&self, wiring: &Wiring) -> Vec<SecurityGroupId> {
        wiring.policy.groups.iter().filter(|group| self.sets.contains(group)).cloned().collect()
    }

    fn unlink(&self, index: u32) {
        match self.route.remove_link(index) {
            // It went with the task's namespace.
            Err(error) if error.source.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => report("remove the link of a task", &refused(error).into_start()),
            Ok(()) => {}
        }
    }
}

impl Wiring {
    fn of(interface: &Interface, id: PolicyId, (link, index): (String, u32), inside: Inside) -> Self {
        let (address, address_v6) = (interface.address, interface.address_v6());
        Self { address, address_v6, id, policy: interface.policy(), link, index, inside }
    }

    /// The task's address.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// All of its addresses.
    fn addresses(&self) -> Vec<IpAddr> {
        std::iter::once(self.address.into()).chain(self.address_v6.map(IpAddr::from)).collect()
    }

    /// The task as the packet filter knows it, by its addresses and those of its groups that have a set.
    fn member<'a>(&self, addresses: &'a [IpAddr], named: &'a [SecurityGroupId]) -> Member<'a> {
        Member { addresses, policy: self.id, groups: named }
    }
}

/// Makes a link from a router to the network of a task that is still to come.
pub(super) fn add_link(
    router: BorrowedFd<'_>,
    ids: u32,
    namespace: BorrowedFd<'_>,
    launchpad: &Launchpad,
) -> Result<(), Failure> {
    let route = launchpad.in_network(router, || Netlink::open(Subsystem::Route).step("open netlink"))?;
    add_pair(&route, &link_name(ids), namespace).map_err(refused)
}

fn add_pair(route: &Netlink, name: &str, namespace: BorrowedFd<'_>) -> Result<(), NetlinkError> {
    let near = End { name, mac: Some(ROUTER_MAC) };
    let mut batch = Batch::default();
    batch.add_pair(near, End { name: TASK_INTERFACE, mac: None }, namespace);
    route.exchange(batch)
}

/// The name of the router's end of a task's link; its range of ids is the task's alone while it lives.
pub(super) fn link_name(ids: u32) -> String {
    format!("{LINK_PREFIX}{ids:x}")
}

fn counters(counters: Counters) -> TrafficCounters {
    let Counters { bytes, packets, errors, dropped } = counters;
    TrafficCounters { bytes, packets, errors, dropped }
}

fn single(address: IpAddr) -> Cidr {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    Cidr::containing(address, bits).expect("a block of one address")
}

/// Sets up the router's namespace, in which the caller is.
fn furnish() -> Result<(), Failure> {
    sys::bring_loopback_up().step("bring loopback up")?;
    for (setting, value) in SETTINGS {
        match fs::write(format!("/proc/sys/{setting}"), value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            written => written.step("set up the router")?,
        }
    }
    let mut batch = Batch::default();
    batch.add_address(LOOPBACK, METADATA.into());
    batch.add_address(LOOPBACK, RESOLVER.into());
    let route = Netlink::open(Subsystem::Route).step("open netlink")?;
    route.exchange(batch).map_err(refused)
}

pub(super) fn refused(error: NetlinkError) -> Failure {
    Failure::System { step: error.step.to_owned(), errno: errno(&error.source) }
}

pub(super) fn no_router() -> Failure {
    Failure::System { step: "find the router".to_owned(), errno: libc::ENODEV }
}
