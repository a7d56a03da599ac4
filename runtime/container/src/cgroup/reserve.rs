//! Reserved memory in a v2 hierarchy: the groups above a container hold the sum of what is reserved below them.
//!
//! `memory.low` protects a group no further than each group above it is protected (the kernel's
//! `admin-guide/cgroup-v2.rst`). Below groups without protection a reservation would hold against the container's
//! neighbours in its own task, when that task is at its limit, and not when the machine is short of memory.
//!
//! The sum and nothing more: of what a group protects beyond it, containers that have reserved nothing would get a
//! part, where the hierarchy is mounted with `memory_recursiveprot`, as systemd mounts it.
//!
//! The files are the only place where the sums are kept, so that they are right after a restart. Those of an instance
//! and its tasks have one writer, its supervisor; `neargate`, which all share, is locked for the moment.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Adds what the group at `dir` reserves to the `above` groups above it.
pub(super) fn add(dir: &Path, above: usize) -> io::Result<()> {
    match reserved(dir) {
        0 => Ok(()),
        own => change(dir, above, |sum| sum.saturating_add(own)),
    }
}

/// Takes it back before the group is removed. What it says can be said again: the group reserves nothing then.
pub(super) fn take_back(dir: &Path, above: usize) {
    let own = reserved(dir);
    if own > 0 && fs::write(file(dir), "0").is_ok() {
        // A group above that is gone has no sum, and sums that are too high for the moment harm nobody.
        let _ = change(dir, above, |sum| sum.saturating_sub(own));
    }
}

fn change(dir: &Path, above: usize, apply: impl Fn(u64) -> u64) -> io::Result<()> {
    let groups: Vec<&Path> = dir.ancestors().skip(1).take(above).collect();
    let Some((top, own)) = groups.split_last() else { return Ok(()) };
    for group in own {
        fs::write(file(group), apply(reserved(group)).to_string())?;
    }
    let lock = File::open(top)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    fs::write(file(top), apply(reserved(top)).to_string())
}

fn file(dir: &Path) -> PathBuf {
    dir.join("memory.low")
}

/// What a group reserves, in bytes; nothing where there is no such file.
fn reserved(dir: &Path) -> u64 {
    super::read_number(&file(dir)).unwrap_or(0)
}
