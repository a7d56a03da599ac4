//! What the first process of a container is told when it is known what will run in it.
//!
//! One message and descriptors, in as many frames as these need: an image may have more layers than a frame brings
//! descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use neargate_ipc::channel::{self, FDS_MAX};
use neargate_ipc::wire::{decode, encode};
use neargate_ipc::wire_struct;

use super::ResourceLimit;
use crate::devices::Device;
use crate::failure::{Failure, Step};
use crate::protocol::StartPlan;
use crate::rootfs::{Root, Volume};

wire_struct! {
    /// The message.
    pub(crate) struct Orders {
        /// What runs.
        plan: StartPlan,
        /// The task's host name.
        hostname: String,
        /// Content of `/etc/hosts`.
        hosts: Vec<u8>,
        /// Content of `/etc/resolv.conf`.
        resolv_conf: Vec<u8>,
        /// `RLIMIT_*` number, soft and hard limit.
        ulimits: Vec<(u32, (u64, u64))>,
        /// See [`Root::has_network_files`].
        has_network_files: bool,
        /// Of each volume of the plan, whether its mount is beside it, and whether it is a directory.
        volumes: Vec<(bool, bool)>,
    }
}

/// What comes beside the message.
pub(crate) struct Parts {
    /// The standard streams.
    pub(crate) stdio: [OwnedFd; 3],
    /// The root file system.
    pub(crate) root: Root,
    /// Volumes, in order.
    pub(crate) volumes: Vec<Volume>,
    /// Devices, in order.
    pub(crate) devices: Vec<Device>,
}

impl Orders {
    /// The resource limits.
    pub(super) fn limits(&self) -> impl Iterator<Item = ResourceLimit> {
        self.ulimits.iter().map(|&(resource, (soft, hard))| ResourceLimit { resource, soft, hard })
    }
}

impl Parts {
    /// The descriptors, in the order in which [`receive`] expects them.
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let volumes = self.volumes.iter().filter_map(|volume| volume.mount.as_ref());
        let devices = self.devices.iter().map(|device| &device.node);
        let owned = self.stdio.iter().chain([&self.root.overlay]).chain(volumes).chain(devices);
        owned.chain(&self.root.layers).map(AsFd::as_fd).collect()
    }
}

/// Tells a process what to become; never waits. It has room for all the frames that an image of most layers needs.
pub(crate) fn give(sync: &OwnedFd, orders: &Orders, parts: &Parts) -> io::Result<()> {
    let (message, fds) = (encode(orders), parts.fds());
    let count = fds.len() as u64;
    let mut frames = fds.chunks(FDS_MAX);
    channel::send(sync.as_fd(), count, &message, frames.next().unwrap_or_default(), false)?;
    frames.try_for_each(|fds| channel::send(sync.as_fd(), count, &[], fds, false))
}

/// Waits until it is told; `None` when the supervisor is gone.
pub(super) fn receive(sync: &OwnedFd) -> Result<Option<(Orders, Parts)>, Failure> {
    const STEP: &str = "receive orders";
    let malformed = || Failure::System { step: STEP.to_owned(), errno: libc::EBADMSG };
    let mut buffer = Vec::new();
    let Some(first) = channel::receive(sync.as_fd(), &mut buffer, true).step(STEP)? else { return Ok(None) };
    let mut fds = first.fds;
    while (fds.len() as u64) < first.id {
        let Some(next) = channel::receive(sync.as_fd(), &mut buffer, true).step(STEP)? else {
            return Ok(None);
        };
        fds.extend(next.fds);
    }
    let orders: Orders = decode(&first.message).map_err(|_| malformed())?;
    let parts = sort(&orders, fds).ok_or_else(malformed)?;
    Ok(Some((orders, parts)))
}

fn sort(orders: &Orders, fds: Vec<OwnedFd>) -> Option<Parts> {
    let mut fds = fds.into_iter();
    let stdio = [fds.next()?, fds.next()?, fds.next()?];
    let overlay = fds.next()?;
    let mut volumes = Vec::with_capacity(orders.volumes.len());
    for (plan, &(has_mount, is_dir)) in orders.plan.mounts.iter().zip(&orders.volumes) {
        let mount = if has_mount { Some(fds.next()?) } else { None };
        volumes.push(Volume { mount, is_dir, plan: plan.clone() });
    }
    let device = |device: &crate::protocol::DevicePlan| {
        Some(Device { node: fds.next()?, target: device.target.clone() })
    };
    let devices = orders.plan.devices.iter().map(device).collect::<Option<_>>()?;
    let root = Root { overlay, layers: fds.collect(), has_network_files: orders.has_network_files };
    Some(Parts { stdio, root, volumes, devices })
}
