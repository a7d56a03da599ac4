//! Links to other hosts: devices in the router whose sockets are the host's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Instant;

use neargate_model::{Cidr, Hosts};
use neargate_network::netlink::{Batch, Netlink, Subsystem};
use neargate_network::tunnel::{Remote, TUNNEL_PREFIX, Tunnel};

use super::report;
use super::router::{Network, RETRY_PAUSE, refused};
use crate::failure::{Failure, Step};
use crate::launchpad::Launchpad;

/// The router's links to other hosts.
pub(super) struct Tunnels {
    /// Of the host.
    host: Netlink,
    /// Those that were put in order last; `None` of a router that was found.
    ordered: Option<Vec<Tunnel>>,
}

impl Tunnels {
    /// Of the host whose network namespace the caller is in. Nothing is made by this.
    pub(super) fn new() -> Result<Self, Failure> {
        let host = Netlink::open(Subsystem::Route).step("open netlink")?;
        Ok(Self { host, ordered: None })
    }

    /// Has these links be there, with what leads to them, and no others.
    pub(super) fn ensure(
        &mut self,
        tunnels: &[Tunnel],
        (router, namespace): (&Netlink, BorrowedFd<'_>),
    ) -> Result<(), Failure> {
        if self.ordered.as_deref() != Some(tunnels) {
            self.ordered = None;
            remove_others(tunnels, router)?;
        }
        self.ordered = Some(tunnels.to_vec());
        // One that cannot be there leaves the others alone.
        let ensured = tunnels.iter().map(|tunnel| self.ensure_one(tunnel, (router, namespace)));
        ensured.fold(Ok(()), Result::and)
    }

    fn ensure_one(
        &self,
        tunnel: &Tunnel,
        (router, namespace): (&Netlink, BorrowedFd<'_>),
    ) -> Result<(), Failure> {
        let index = match router.tunnel(tunnel).map_err(refused)? {
            Some(index) => index,
            None => self.make(tunnel, (router, namespace))?,
        };
        let mut batch = Batch::default();
        batch.lead_into_tunnel(tunnel, index);
        router.exchange(batch).map_err(refused)
    }

    fn make(&self, tunnel: &Tunnel, (router, namespace): (&Netlink, BorrowedFd<'_>)) -> Result<u32, Failure> {
        if let Ok(other) = router.index_of(&tunnel.name()) {
            router.remove_link(other).map_err(refused)?;
        }
        let mut batch = Batch::default();
        batch.add_tunnel(tunnel, namespace);
        self.host.exchange(batch).map_err(refused)?;
        router.index_of(&tunnel.name()).map_err(refused)
    }
}

/// Removes links to hosts that are not among these, and routes to those of blocks that are no longer theirs.
fn remove_others(tunnels: &[Tunnel], router: &Netlink) -> Result<(), Failure> {
    let routes = router.routes().map_err(refused)?;
    for (index, name) in router.links().map_err(refused)? {
        match tunnels.iter().find(|tunnel| tunnel.name() == name) {
            None if name.starts_with(TUNNEL_PREFIX) => router.remove_link(index).map_err(refused)?,
            None => {}
            Some(tunnel) => {
                let is_gone = |(block, to): &&(Cidr, u32)| {
                    *to == index && block.is_v4() && !tunnel.blocks.contains(block)
                };
                for (block, _) in routes.iter().filter(is_gone) {
                    let mut batch = Batch::default();
                    batch.remove_route(*block, index);
                    router.exchange(batch).map_err(refused)?;
                }
            }
        }
    }
    Ok(())
}

impl Network {
    /// Leads to the tasks of these hosts from now on, and lets their tasks in by their groups. Before groups are told it
    /// is only noted.
    pub(super) fn set_hosts(&mut self, hosts: Option<Hosts>, launchpad: &Launchpad) -> Result<(), Failure> {
        let (tunnels, remote) = hosts.map(take_apart).unwrap_or_default();
        let is_same = self.picture.tunnels == tunnels;
        self.picture.tunnels = tunnels;
        let before = std::mem::replace(&mut self.picture.remote, remote);
        if !self.is_told {
            return Ok(());
        }
        let Some(router) = &self.router else { return Ok(()) };
        if !is_same || !router.is_current {
            self.render_all(None, launchpad)?;
        } else {
            let text = self.picture.render_moves(&before, &router.sets);
            if !text.is_empty() {
                self.load(&text, launchpad)?;
            }
        }
        self.look_at_tunnels_again();
        self.forget_remote(&before)?;
        self.ensure_tunnels()
    }

    /// Refuses addresses that are for another host to give.
    pub(super) fn check_own(&self, addresses: &[IpAddr]) -> Result<(), Failure> {
        for tunnel in &self.picture.tunnels {
            let is_theirs = |address: &&IpAddr| tunnel.blocks.iter().any(|block| block.contains(**address));
            if let Some(address) = addresses.iter().find(is_theirs) {
                let step =
                    format!("give a task the address {address}, which is for host {}", tunnel.far.number);
                return Err(Failure::System { step, errno: libc::EADDRINUSE });
            }
        }
        Ok(())
    }

    /// As [`Self::ensure_tunnels`]; what fails, on which nothing of this host depends, is told and tried again.
    pub(super) fn keep_tunnels(&mut self) {
        if let Err(failure) = self.ensure_tunnels() {
            report("lead to other hosts", &failure.into_start());
        }
        self.look_at_tunnels_again();
    }

    /// Has links to other hosts be as they should be.
    pub(super) fn ensure_tunnels(&mut self) -> Result<(), Failure> {
        let Some(router) = &mut self.router else { return Ok(()) };
        router.tunnels.ensure(&self.picture.tunnels, (&router.route, router.namespace.as_fd()))
    }

    /// Nothing tells of what happens to them in the router, where links of tasks come and go all the time; so they are
    /// looked at.
    pub(super) fn look_at_tunnels_again(&mut self) {
        if !self.picture.tunnels.is_empty() {
            self.retry_at = Some(Instant::now() + RETRY_PAUSE);
        }
    }

    /// Has nothing left of connections of remote tasks that are gone, so that whoever has their addresses next does not
    /// go on with them.
    fn forget_remote(&self, before: &Remote) -> Result<(), Failure> {
        let gone = before.keys().filter(|one| !self.picture.remote.contains_key(*one));
        let gone: BTreeSet<IpAddr> = gone.map(|one| IpAddr::V4(*one)).collect();
        let Some(router) = self.router.as_ref().filter(|_| !gone.is_empty()) else { return Ok(()) };
        router.filter.kernel().forget_connections_of(|one| gone.contains(&one)).map_err(refused)
    }
}

/// What leads to the others, and who is there.
fn take_apart(hosts: Hosts) -> (Vec<Tunnel>, Remote) {
    let near = hosts.own;
    let mut remote = Remote::new();
    let tunnels = hosts.others.into_iter().map(|other| {
        remote.extend(other.tasks.into_iter().map(|task| (task.address, task.groups)));
        Tunnel { near, far: other.end, blocks: other.blocks }
    });
    (tunnels.collect(), remote)
}
