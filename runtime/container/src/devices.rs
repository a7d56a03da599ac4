//! Devices that an operator lets containers have.
//!
//! A container gets a node of its own with the permissions that its definition asks for: owners on the host mean
//! nothing in it. What it may do with the device is also a rule of its cgroup.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use crate::cgroup::{DeviceRule, READ, WRITE};
use crate::failure::{Failure, Step};
use crate::launchpad::Launchpad;
use crate::protocol::{DevicePlan, StartPlan};
use crate::rootfs::{open_real, path_of};

/// A device ready to be put in place.
#[derive(Debug)]
pub(crate) struct Device {
    /// The detached mount of its node.
    pub(crate) node: OwnedFd,
    /// Absolute path in the container.
    pub(crate) target: Vec<u8>,
}

/// Makes the nodes of a plan's devices.
pub(crate) fn open(plan: &StartPlan, launchpad: &Launchpad) -> Result<Vec<Device>, Failure> {
    plan.devices.iter().map(|device| open_one(device, launchpad)).collect()
}

fn open_one(plan: &DevicePlan, launchpad: &Launchpad) -> Result<Device, Failure> {
    let (kind, device) = look_up(&plan.source)?;
    let mode = if plan.read { 0o444 } else { 0 } | if plan.write { 0o222 } else { 0 };
    Ok(Device { node: launchpad.device_node(kind, device, mode)?, target: plan.target.clone() })
}

/// What a container's cgroup lets it do with its devices.
pub(crate) fn rules(plan: &StartPlan) -> Result<Vec<DeviceRule>, Failure> {
    let rule = |plan: &DevicePlan| {
        let (kind, device) = look_up(&plan.source)?;
        let access = if plan.read { READ } else { 0 } | if plan.write { WRITE } else { 0 };
        Ok(DeviceRule::of(kind, device, access))
    };
    plan.devices.iter().map(rule).collect()
}

/// Which device a node of the host is.
fn look_up(source: &[u8]) -> Result<(FileType, rustix::fs::Dev), Failure> {
    let path = path_of(source);
    let stat =
        open_real(path).and_then(rustix::fs::fstat).step(&format!("look at device {}", path.display()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::CharacterDevice | FileType::BlockDevice => Ok((kind, stat.st_rdev)),
        _ => Err(Failure::Unsupported {
            what: format!("{} as a device", path.display()),
            why: "it is no device node".to_owned(),
        }),
    }
}
