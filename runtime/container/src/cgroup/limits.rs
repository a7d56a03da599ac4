//! Writes the limits of a group.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::error::Error;
use cgroups_rs::fs::hierarchies::V2;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, Hierarchy, MaxValue};
use neargate_driver::Limits;

use super::{Controller, Group, Layout, reserve};
use crate::failure::{Failure, Step};

/// CFS period in microseconds, the kernel's own default.
const PERIOD_US: u64 = 100_000;
/// The kernel refuses a quota below one millisecond.
const QUOTA_MIN_US: i64 = 1_000;

/// What connections of a group may hold in the kernel: one part in so many of its memory limit. The kernel allows all
/// connections of a machine a tenth of its memory (`tcp_mem`, tcp(7)). It is no hard bound: where it is reached, each
/// connection may still have what one write puts into an empty queue (`sk_stream_moderate_sndbuf`).
const CONNECTIONS_PART: u64 = 4;
/// And at least this, in bytes, so that small tasks can talk: a hundred connections with full buffers.
const CONNECTIONS_BYTES_MIN: u64 = 16 << 20;
/// The file of v1 that bounds it. In spite of its name it counts all sockets; those of a group's processes only once it
/// was written to in that very group, and then in all groups above.
const CONNECTIONS: &str = "memory.kmem.tcp.limit_in_bytes";

/// Sets `limits` on `group`. A container's v2 group is also killed as one when it runs out of memory.
pub(super) fn apply(
    layout: &Layout,
    group: &Group,
    is_container: bool,
    limits: &Limits,
) -> Result<(), Failure> {
    const STEP: &str = "set cgroup limits";
    if is_container && layout.unified_controls {
        write_v2(group, "memory.oom.group", "1").step(STEP)?;
    }
    if !layout.unified_controls {
        bound_connections(group, limits).step("limit the memory of connections")?;
    }
    if *limits == Limits::default() {
        return Ok(());
    }
    let hierarchy: Box<dyn Hierarchy> = match &layout.v1_hierarchy {
        Some(v1) => Box::new(v1.clone()),
        None => Box::new(V2::new()),
    };
    let wanted =
        [Controller::Cpu, Controller::Memory, Controller::Pids].map(|c| c.name().to_owned()).to_vec();
    let cgroup = Cgroup::load_with_specified_controllers(hierarchy, &group.path, wanted);
    apply_cpu(layout, &cgroup, limits).step(STEP)?;
    apply_memory(&cgroup, limits).step(STEP)?;
    if let (Some(_), true, Some((dir, _))) =
        (limits.memory_reservation_bytes, layout.unified_controls, &group.unified)
    {
        reserve::add(dir, group.depth()).step(STEP)?;
    }
    apply_swap(layout, group, limits)?;
    apply_pids(&cgroup, limits).step(STEP)
}

/// Refuses limits that only a cgroup enforces; how many processes there may be, a resource limit bounds as well.
pub(super) fn refuse(limits: &Limits) -> Result<(), Failure> {
    let Limits { cpu_millis, cpu_shares, memory_bytes, memory_reservation_bytes, .. } = limits;
    let asked = [
        ("cpu", cpu_millis.is_some() || cpu_shares.is_some()),
        ("memory", memory_bytes.is_some() || memory_reservation_bytes.is_some()),
    ];
    let asked: Vec<&str> =
        asked.into_iter().filter(|(_, is_asked)| *is_asked).map(|(name, _)| name).collect();
    if asked.is_empty() {
        return Ok(());
    }
    Err(Failure::Unsupported {
        what: format!("a limit of {}", asked.join(" and ")),
        why: "it takes a cgroup, which neargate may not make without root; start it as root, or let it run tasks without \
              their limits (--without-limits)"
            .to_owned(),
    })
}

fn apply_pids(cgroup: &Cgroup, limits: &Limits) -> io::Result<()> {
    let Some(pids_max) = limits.pids_max else { return Ok(()) };
    let pids: &PidController = cgroup.controller_of().ok_or_else(|| missing("pids"))?;
    pids.set_pid_max(MaxValue::Value(pids_max.into())).map_err(cause)
}

fn apply_cpu(layout: &Layout, cgroup: &Cgroup, limits: &Limits) -> io::Result<()> {
    if limits.cpu_millis.is_none() && limits.cpu_shares.is_none() {
        return Ok(());
    }
    let cpu: &CpuController = cgroup.controller_of().ok_or_else(|| missing("cpu"))?;
    if let Some(shares) = limits.cpu_shares {
        let value = if layout.unified_controls { weight(shares) } else { shares.clamp(2, 262_144).into() };
        cpu.set_shares(value).map_err(cause)?;
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = (i64::from(millis) * PERIOD_US as i64 / 1000).max(QUOTA_MIN_US);
        cpu.set_cfs_quota_and_period(Some(quota), Some(PERIOD_US)).map_err(cause)?;
    }
    Ok(())
}

fn apply_memory(cgroup: &Cgroup, limits: &Limits) -> io::Result<()> {
    if limits.memory_bytes.is_none() && limits.memory_reservation_bytes.is_none() {
        return Ok(());
    }
    let memory: &MemController = cgroup.controller_of().ok_or_else(|| missing("memory"))?;
    let clamp = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    if let Some(bytes) = limits.memory_bytes {
        memory.set_limit(clamp(bytes)).map_err(cause)?;
    }
    if let Some(bytes) = limits.memory_reservation_bytes {
        memory.set_soft_limit(clamp(bytes)).map_err(cause)?;
    }
    Ok(())
}

/// Bounds what sockets hold in the kernel, which v2 counts as memory of the group and v1 does not: a task could use up
/// what all connections of the machine share.
fn bound_connections(group: &Group, limits: &Limits) -> io::Result<()> {
    let Some(dir) = group.dir(Controller::Memory) else { return Ok(()) };
    match limits.memory_bytes {
        Some(memory) => write_connections(dir, (memory / CONNECTIONS_PART).max(CONNECTIONS_BYTES_MIN)),
        None => count_connections(dir),
    }
}

/// Has sockets of a group counted, for a limit above it.
pub(super) fn count_connections(dir: &Path) -> io::Result<()> {
    write_connections(dir, i64::MAX as u64)
}

fn write_connections(dir: &Path, bytes: u64) -> io::Result<()> {
    match fs::write(dir.join(CONNECTIONS), bytes.to_string()) {
        // A kernel without it. kernfs refuses to create a file that does not exist with EACCES or EPERM.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::EPERM)) => {
            Ok(())
        }
        other => other,
    }
}

/// Bounds the swap of a group with a memory limit, which it would otherwise use to get around that limit. A
/// kernel without swap accounting lacks the files: then there is nothing to forbid swap with, and nothing to
/// grant some by.
fn apply_swap(layout: &Layout, group: &Group, limits: &Limits) -> Result<(), Failure> {
    const STEP: &str = "limit swap";
    let Some(memory) = limits.memory_bytes else { return Ok(()) };
    let swap = limits.swap_bytes.unwrap_or(0);
    let written = if layout.unified_controls {
        write_v2(group, "memory.swap.max", &swap.to_string())
    } else {
        // Of memory and swap together.
        write_v1(group, "memory.memsw.limit_in_bytes", memory.saturating_add(swap))
    };
    match written {
        // kernfs refuses to create a file that does not exist with EACCES or EPERM.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EACCES | libc::EPERM)) => {
            if swap > 0 {
                let why =
                    "this kernel does not count swap; start it with swapaccount=1, or leave maxSwap away";
                return Err(Failure::Unsupported { what: "swap".to_owned(), why: why.to_owned() });
            }
        }
        other => other.step(STEP)?,
    }
    match limits.swappiness {
        Some(swappiness) if !layout.unified_controls => {
            write_v1(group, "memory.swappiness", swappiness.into()).step(STEP)
        }
        Some(_) | None => Ok(()),
    }
}

fn write_v1(group: &Group, file: &str, value: u64) -> io::Result<()> {
    let dir = group.dir(Controller::Memory).ok_or_else(|| missing("memory"))?;
    fs::write(dir.join(file), value.to_string())
}

fn write_v2(group: &Group, file: &str, value: &str) -> io::Result<()> {
    let (dir, _) = group.unified.as_ref().ok_or_else(|| missing("unified hierarchy"))?;
    fs::write(dir.join(file), value)
}

/// v2 weight for v1 shares: 2..=262144 onto 1..=10000, as runc and systemd do.
fn weight(shares: u32) -> u64 {
    1 + (u64::from(shares.clamp(2, 262_144)) - 2) * 9_999 / 262_142
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the {what} controller is not available"))
}

/// The system error inside one of cgroups-rs.
fn cause(error: Error) -> io::Error {
    let number = error.source().and_then(|e| e.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    number.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expect) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u32::MAX, 10_000)] {
            assert_eq!(weight(shares), expect, "{shares} shares");
        }
    }
}
