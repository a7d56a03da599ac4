//! Which devices the processes of a group may open.
//!
//! A container has no other node than those in its `/dev`, may make none, and sees its mounts with `nodev`. This is the
//! fence behind that: a node that it reaches all the same, in a volume for example whose mount it may change because
//! the operator lets it have SYS_ADMIN, cannot be opened.
//!
//! The rules that all containers share are set once and inherited, so that a start costs nothing: with v1 they are
//! those of one group that all containers join, with v2 a program on the instance's directory. A container with
//! devices of its own gets a group, or a program, of its own.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FileType;

use super::{bpf, make_dir};

/// May be read.
pub(crate) const READ: u8 = 1;
/// May be written to.
pub(crate) const WRITE: u8 = 2;

/// Character or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DeviceKind {
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// What may be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DeviceRule {
    /// Its kind.
    pub(crate) kind: DeviceKind,
    /// Its driver's number.
    pub(crate) major: u32,
    /// Its number there; `None` is all.
    pub(crate) minor: Option<u32>,
    /// [`READ`] and [`WRITE`].
    pub(crate) access: u8,
}

impl DeviceRule {
    /// A rule for the device of a node.
    pub(crate) fn of(kind: FileType, device: rustix::fs::Dev, access: u8) -> Self {
        let kind = if kind == FileType::BlockDevice { DeviceKind::Block } else { DeviceKind::Char };
        Self { kind, major: rustix::fs::major(device), minor: Some(rustix::fs::minor(device)), access }
    }

    /// As the files of v1 take it. A node may be made of what may be opened; without MKNOD of the host nobody can.
    fn line(&self) -> String {
        let kind = if self.kind == DeviceKind::Block { 'b' } else { 'c' };
        let minor = self.minor.map_or("*".to_owned(), |minor| minor.to_string());
        let part = |access, letter| if self.access & access != 0 { letter } else { "" };
        format!("{kind} {}:{minor} {}{}m", self.major, part(READ, "r"), part(WRITE, "w"))
    }
}

/// null, zero, full, random, urandom, tty, console, ptmx, and all terminals of devpts (devices.txt of the kernel).
const ALWAYS: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// What every container may open, and further devices.
fn with_always(more: &[DeviceRule]) -> Vec<DeviceRule> {
    let always = |(major, minor)| DeviceRule { kind: DeviceKind::Char, major, minor, access: READ | WRITE };
    ALWAYS.into_iter().map(always).chain(more.iter().copied()).collect()
}

/// The group of containers without devices of their own, below an instance's; no task has such an id.
pub(super) const CONFINED: &str = "confined";

/// How devices are to be fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fencing {
    /// Not at all: what runs here has no file system.
    None,
    /// By what the machine has, v1 first.
    Any,
    /// By programs of v2.
    Programs,
}

/// How devices are fenced here.
#[derive(Debug)]
pub(super) enum Fence {
    /// By the v1 controller: the group that containers join.
    Group(PathBuf),
    /// By programs on v2 groups, each kept with its rules.
    Programs(Mutex<HashMap<Vec<DeviceRule>, OwnedFd>>),
    /// Not at all.
    None,
}

impl Fence {
    /// Sets the rules that all containers share. `v1` is the instance's directory of the devices controller, `unified`
    /// that of the v2 hierarchy.
    pub(super) fn build(v1: Option<&Path>, unified: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        if let Some(instance) = v1 {
            let dir = instance.join(CONFINED);
            make_dir(&dir)?;
            // Of an earlier supervisor's life there may be processes in it, which must not lose their devices.
            if has_every_device(&dir) {
                write_rules(&dir, &[])?;
            }
            return Ok(Self::Group(dir));
        }
        let Some(unified) = unified else { return Ok(Self::None) };
        let program = bpf::load(&with_always(&[]))?;
        bpf::attach(unified, program.as_fd())?;
        Ok(Self::Programs(Mutex::default()))
    }

    /// Fences a container's v2 group for devices of its own.
    pub(super) fn fence_unified(&self, group: BorrowedFd<'_>, devices: &[DeviceRule]) -> io::Result<()> {
        let Self::Programs(programs) = self else { return Ok(()) };
        if devices.is_empty() {
            return Ok(());
        }
        let mut programs = programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = programs.get(devices) {
            return bpf::attach(group, program.as_fd());
        }
        let program = bpf::load(&with_always(devices))?;
        bpf::attach(group, program.as_fd())?;
        programs.insert(devices.to_vec(), program);
        Ok(())
    }
}

/// Whether a group has no rules, as a new one below the root.
fn has_every_device(dir: &Path) -> bool {
    fs::read_to_string(dir.join("devices.list")).is_ok_and(|list| list.starts_with('a'))
}

/// Denies a v1 group without children everything but what all may, and some devices.
pub(super) fn write_rules(dir: &Path, devices: &[DeviceRule]) -> io::Result<()> {
    fs::write(dir.join("devices.deny"), "a")?;
    with_always(devices).iter().try_for_each(|rule| fs::write(dir.join("devices.allow"), rule.line()))
}

/// How devices of containers are fenced on this machine; an error says why they are not. For root alone.
pub(super) fn look(has_v1: bool, has_unified: bool) -> io::Result<&'static str> {
    match (has_v1, has_unified) {
        (true, _) => Ok("devices controller of cgroup v1"),
        (false, true) => bpf::load(&with_always(&[])).map(|_| "programs of cgroup v2"),
        (false, false) => Err(io::ErrorKind::NotFound.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_as_v1_takes_them() {
        let rule = |kind, major, minor, access| DeviceRule { kind, major, minor, access }.line();
        assert_eq!(rule(DeviceKind::Char, 1, Some(3), READ | WRITE), "c 1:3 rwm");
        assert_eq!(rule(DeviceKind::Block, 7, None, READ), "b 7:* rm");
        assert_eq!(rule(DeviceKind::Char, 10, Some(229), WRITE), "c 10:229 wm");
        assert_eq!(with_always(&[]).len(), ALWAYS.len());
    }
}
