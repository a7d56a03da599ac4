//! The inside of a task's network: the task's end of its link, and what is left there when the task is gone.

use std::fs;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use neargate_network::link::{ROUTER_MAC, TASK_INTERFACE};
use neargate_network::netlink::{Batch, Netlink, Subsystem};
use neargate_network::rules::Policy;

use super::dual::{Dual, gateway_for};
use super::router::refused;
use crate::failure::{Failure, Step};
use crate::interface::Interface;
use crate::launchpad::Launchpad;

/// What a network has of the tasks that had it before.
#[derive(Debug)]
pub(super) struct Legacy {
    /// What all of them had: tasks of one tenant, with the same groups in one VPC.
    pub(super) policy: Policy,
    pub(super) inside: Inside,
}

/// A socket in a task's network, by which its interface is set up.
#[derive(Debug)]
pub(super) struct Inside {
    route: Netlink,
    /// Of the interface.
    index: u32,
    /// Whether the link has IPv6.
    pub(super) dual: Dual,
}

impl Inside {
    /// Of a network that has an interface.
    pub(super) fn open(
        namespace: BorrowedFd<'_>,
        dual: Dual,
        launchpad: &Launchpad,
    ) -> Result<Self, Failure> {
        let open = || Netlink::open(Subsystem::Route).step("open netlink in the task's network");
        let route = launchpad.in_network(namespace, open)?;
        let index = route.index_of(TASK_INTERFACE).map_err(refused)?;
        Ok(Self { route, index, dual })
    }

    /// Sets up the interface.
    pub(super) fn set_up(&self, interface: &Interface) -> Result<(), Failure> {
        let mut batch = Batch::default();
        batch.set_up(self.index, Some(interface.mac));
        for address in interface.addresses() {
            let (hop, everywhere) = gateway_for(address);
            batch.add_address(self.index, address);
            batch.add_neighbour(self.index, hop, ROUTER_MAC);
            batch.add_route(everywhere, self.index, Some(hop), Some(address));
        }
        self.route.exchange(batch).map_err(refused)
    }

    /// Takes the addresses of a task from its interface, which has no route then.
    pub(super) fn clear(&self, addresses: &[IpAddr]) -> Result<(), Failure> {
        let mut batch = Batch::default();
        for address in addresses {
            // Of IPv4 the kernel takes back what leads out with its only address, of IPv6 it does not.
            if address.is_ipv6() {
                let (hop, everywhere) = gateway_for(*address);
                batch.remove_route(everywhere, self.index);
                batch.remove_neighbour(self.index, hop);
            }
            batch.remove_address(self.index, *address);
        }
        self.route.exchange(batch).map_err(refused)
    }

    /// Removes the interface.
    pub(super) fn remove(&self) {
        // An error means that it has gone by itself.
        let _ = self.route.remove_link(self.index);
    }
}

/// Whether nothing is left of a task in its network but its link: no socket, which somebody else might have been handed
/// or a connection might still need, and no connection that waits out its time. Settings of the network are the host's;
/// no task has changed them. `own` are sockets of the supervisor there.
pub(super) fn is_unused(namespace: BorrowedFd<'_>, own: u32, launchpad: &Launchpad) -> Result<bool, Failure> {
    let count =
        || fs::read_to_string("/proc/thread-self/net/sockstat").step("count the sockets of a network");
    Ok(holds_no_more_than(&launchpad.in_network(namespace, count)?, own))
}

/// Reads what proc(5) says of `/proc/net/sockstat`.
fn holds_no_more_than(sockstat: &str, sockets: u32) -> bool {
    let number = |of: &str, name: &str| {
        let mut words = sockstat.lines().find_map(|line| line.strip_prefix(of))?.split_whitespace();
        words.find(|word| *word == name).and_then(|_| words.next()?.parse::<u32>().ok())
    };
    number("sockets:", "used").is_some_and(|used| used <= sockets) && number("TCP:", "tw") == Some(0)
}

#[cfg(test)]
mod tests {
    use super::holds_no_more_than;

    #[test]
    fn counts_what_is_left() {
        let text = |used, tw| {
            format!(
                "sockets: used {used}\nTCP: inuse 0 orphan 3 tw {tw} alloc 6 mem 35\nUDP: inuse 0 mem 0\nRAW: inuse 0\n"
            )
        };
        assert!(holds_no_more_than(&text(0, 0), 0));
        assert!(holds_no_more_than(&text(1, 0), 1));
        assert!(!holds_no_more_than(&text(1, 0), 0));
        assert!(!holds_no_more_than(&text(1, 1), 1));
        // What cannot be read is not taken for empty.
        assert!(!holds_no_more_than("", 1));
        assert!(!holds_no_more_than("sockets: used many\nTCP: tw 0\n", 1));
    }
}
