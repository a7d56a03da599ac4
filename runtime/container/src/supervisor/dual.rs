//! IPv6 of tasks: off on every link until a task has such an address, and then without anything that goes by itself.
//!
//! Nobody asks for neighbours or listens for routers: next hops are permanent neighbours, as with IPv4, and no interface
//! has an address but those that are given here. A link that a task has left keeps what it is, because the next task on
//! it is likely to be of the same kind.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use neargate_model::Cidr;
use neargate_network::link::{TASK_GATEWAY, TASK_GATEWAY_V6, TASK_INTERFACE};

use super::inside::Inside;
use super::router::{Network, Router};
use crate::failure::{Failure, Step};
use crate::interface::Interface;
use crate::launchpad::Launchpad;

/// Settings of the interfaces of a namespace.
pub(super) const SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// That an interface gives itself no address (`IN6_ADDR_GEN_MODE_NONE`).
const NO_ADDRESS: &str = "1";

/// Whether both ends of a link have IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dual {
    Off,
    On,
    /// Somebody else has set it up, and may not have come to the end.
    Unknown,
}

impl Network {
    /// Learns which IPv6 addresses the VPC of an interface has; tells whether that is new.
    pub(super) fn learn_v6(&mut self, interface: &Interface) -> bool {
        let Some(v6) = interface.v6 else { return false };
        let is_new_block = self.picture.vpcs.insert(v6.vpc);
        self.picture.dual.insert(interface.vpc, v6.vpc) != Some(v6.vpc) || is_new_block
    }
}

impl Router {
    /// Has both ends of a link know IPv6, or neither, as its task needs.
    pub(super) fn switch_v6(
        &self,
        inside: &mut Inside,
        wanted: Dual,
        (near, namespace): (&str, BorrowedFd<'_>),
        launchpad: &Launchpad,
    ) -> Result<(), Failure> {
        if inside.dual == wanted {
            return Ok(());
        }
        // Where only one end is done it is not known which; it is the last that makes it one or the other.
        inside.dual = Dual::Unknown;
        for (namespace, link) in [(namespace, TASK_INTERFACE), (self.namespace.as_fd(), near)] {
            launchpad.in_network(namespace, || switch(link, wanted))?;
        }
        inside.dual = wanted;
        Ok(())
    }
}

/// Sets up a link of the namespace that the caller is in.
pub(super) fn switch(link: &str, wanted: Dual) -> Result<(), Failure> {
    let settings: &[(&str, &str)] = match wanted {
        Dual::On => &[("accept_ra", "0"), ("addr_gen_mode", NO_ADDRESS), ("disable_ipv6", "0")],
        // It loses whatever it had of IPv6 by that.
        Dual::Off | Dual::Unknown => &[("disable_ipv6", "1")],
    };
    for (setting, value) in settings {
        match fs::write(format!("{SETTINGS}/{link}/{setting}"), value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_supported() => match wanted {
                Dual::On => {
                    let why =
                        "the kernel has no IPv6; it may have been started with ipv6.disable=1".to_owned();
                    return Err(Failure::Unsupported { what: "a task with an IPv6 address".to_owned(), why });
                }
                Dual::Off | Dual::Unknown => {}
            },
            written => written.step("set up IPv6 of a link")?,
        }
    }
    Ok(())
}

/// Whether the kernel has IPv6.
pub(super) fn is_supported() -> bool {
    Path::new(SETTINGS).exists()
}

/// The next hop of tasks for an address of theirs, and what leads there.
pub(super) fn gateway_for(address: IpAddr) -> (IpAddr, Cidr) {
    match address {
        IpAddr::V4(_) => (TASK_GATEWAY.into(), Cidr::ANYWHERE_V4),
        IpAddr::V6(_) => (TASK_GATEWAY_V6.into(), Cidr::ANYWHERE_V6),
    }
}
