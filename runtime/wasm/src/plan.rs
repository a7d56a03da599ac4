//! What a container's spec becomes for a worker: purely, but for a look at the directories.

use std::net::SocketAddr;
use std::path::Path;

use neargate_driver::{
    ContainerSpec, Limits, Mount, MountSource, ProcessMount, ProcessNetwork, StartError, WasmSpec,
};

use neargate_model::WasmIsolation;

use crate::interfaces::GRANT_KEY_VALUE;
use crate::protocol::{Entry, Network, Preopen, RunLimits, RunPlan};
use crate::worker::{Permissions, Reach};

/// A container's directories: what its worker sees, and what the guest sees of that.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Directories {
    pub(crate) mounts: Vec<ProcessMount>,
    pub(crate) preopens: Vec<Preopen>,
}

/// Works out a container's directories. A directory's name in the worker follows from what it is, so that two
/// containers of a task with the same directory agree.
pub(crate) fn directories(mounts: &[Mount]) -> Result<Directories, StartError> {
    let mut directories = Directories::default();
    for mount in mounts {
        let source = source(mount)?;
        let guest = mount.target.to_str();
        let guest =
            guest.ok_or_else(|| unsupported("a mount target that is not UTF-8", "WASI paths are UTF-8"))?;
        let known = directories
            .mounts
            .iter()
            .find(|known| known.source == source && known.read_only == mount.read_only);
        let name = match known {
            Some(known) => known.name.clone(),
            None => {
                let name = name(source, mount.read_only);
                directories.mounts.push(ProcessMount {
                    source: source.to_owned(),
                    name: name.clone(),
                    read_only: mount.read_only,
                });
                name
            }
        };
        directories.preopens.push(Preopen { name, guest: guest.to_owned(), read_only: mount.read_only });
    }
    // The order in which a definition names them must not part two containers.
    directories.mounts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(directories)
}

fn source(mount: &Mount) -> Result<&Path, StartError> {
    match &mount.source {
        MountSource::Host(path) if path.is_file() => {
            Err(unsupported("a single file as a mount of a Wasm container", "mount its directory"))
        }
        MountSource::Host(path) => Ok(path),
        MountSource::Tmpfs { .. } => {
            Err(unsupported("a tmpfs in a Wasm container", "its size cannot be limited; use a volume"))
        }
    }
}

fn name(source: &Path, read_only: bool) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(source.as_os_str().as_encoded_bytes());
    let kind = if read_only { "ro" } else { "rw" };
    format!("{kind}-{}", hex::encode(&hash[..8]))
}

fn unsupported(what: &str, why: &str) -> StartError {
    StartError::Unsupported { what: what.to_owned(), why: why.to_owned() }
}

/// The plan of a container's run; the worker's number of the image is filled in when it is sent. `control` is where
/// the server listens, which a guest does not reach.
pub(crate) fn run(
    spec: &ContainerSpec,
    wasm: &WasmSpec,
    task_limits: &Limits,
    preopens: Vec<Preopen>,
    entry: Entry,
    control: &[SocketAddr],
) -> RunPlan {
    let options = &wasm.options;
    let cpu_budget_ns = options.cpu_budget_ms.map(|ms| ms.saturating_mul(1_000_000));
    RunPlan {
        image: 0,
        listeners: match entry {
            Entry::Http { .. } => u32::try_from(wasm.listeners.len()).unwrap_or(u32::MAX),
            _ => 0,
        },
        entry,
        task: spec.task.to_string(),
        attempt: wasm.attempt,
        deadline_ms: wasm.deadline_ms,
        argv: spec.argv.clone(),
        env: spec.env.clone(),
        preopens,
        limits: RunLimits { cpu_budget_ns, ..limits(&spec.limits) },
        task_limits: limits(task_limits),
        grants: options.grants.clone(),
        config: options.config.clone(),
        network: match network(wasm) {
            ProcessNetwork::Host => Network::Host { control: control.to_vec() },
            ProcessNetwork::Handed => Network::Own {},
            ProcessNetwork::None => Network::None {},
        },
        own_thread: options.isolation == WasmIsolation::Thread,
        cgroups: 0,
        core_dump: wasm.artifacts.is_some() && !options.no_core_dump,
        profile: wasm.artifacts.is_some() && options.profile,
    }
}

/// The network of a container: the host's where it asks for that, else its task's own where that has one.
pub(crate) fn network(wasm: &WasmSpec) -> ProcessNetwork {
    match (wasm.options.host_network, &wasm.sockets) {
        (true, _) => ProcessNetwork::Host,
        (false, Some(_)) => ProcessNetwork::Handed,
        (false, None) => ProcessNetwork::None,
    }
}

/// What a run may ask the server for.
pub(crate) fn permissions(wasm: &WasmSpec) -> Permissions {
    Permissions {
        reach: match (network(wasm), &wasm.sockets) {
            (ProcessNetwork::Host, _) => Reach::Host,
            (ProcessNetwork::Handed, Some(sockets)) => Reach::Own(sockets.clone()),
            (ProcessNetwork::Handed, None) | (ProcessNetwork::None, _) => Reach::Nothing,
        },
        key_values: wasm.options.grants.iter().any(|grant| grant == GRANT_KEY_VALUE),
    }
}

fn limits(limits: &Limits) -> RunLimits {
    RunLimits { cpu_millis: limits.cpu_millis, cpu_budget_ns: None, memory_bytes: limits.memory_bytes }
}

/// Least memory of a part of a run that is spread over cores, in bytes: room for a few requests.
const PART_MEMORY_MIN: u64 = 128 << 20;

/// Over how many of `cores` an HTTP handler is spread. A limit is divided among the parts, since each worker
/// enforces its own; what cannot be divided keeps it on one.
pub(crate) fn parts(plan: &RunPlan, cores: usize) -> u32 {
    if plan.own_thread {
        return 1;
    }
    let all = u32::try_from(cores).unwrap_or(u32::MAX);
    let of = |limits: &RunLimits| {
        let by_budget = if limits.cpu_budget_ns.is_some() { 1 } else { all };
        let by_cpu = limits.cpu_millis.map_or(all, |millis| millis.div_ceil(1000));
        let by_memory = limits
            .memory_bytes
            .map_or(all, |bytes| u32::try_from(bytes / PART_MEMORY_MIN).unwrap_or(u32::MAX));
        by_budget.min(by_cpu).min(by_memory)
    };
    all.min(of(&plan.limits)).min(of(&plan.task_limits)).max(1)
}

/// A part's share of the limits.
pub(crate) fn divide(plan: &mut RunPlan, parts: u32) {
    for limits in [&mut plan.limits, &mut plan.task_limits] {
        limits.cpu_millis = limits.cpu_millis.map(|millis| (millis / parts).max(1));
        limits.memory_bytes = limits.memory_bytes.map(|bytes| bytes / u64::from(parts));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(limits: RunLimits) -> RunPlan {
        RunPlan {
            image: 0,
            entry: Entry::Http { reuse: None },
            task: String::new(),
            attempt: 1,
            deadline_ms: None,
            argv: Vec::new(),
            env: Vec::new(),
            preopens: Vec::new(),
            limits: RunLimits::default(),
            task_limits: limits,
            grants: Vec::new(),
            config: Vec::new(),
            network: Network::None {},
            own_thread: false,
            listeners: 1,
            cgroups: 0,
            core_dump: false,
            profile: false,
        }
    }

    #[test]
    fn parts_by_limits() {
        let check = |cpu_millis: Option<u32>, memory_mib: Option<u64>, budget: Option<u64>, expect: u32| {
            let memory_bytes = memory_mib.map(|mib| mib * MIB);
            let mut plan = plan(RunLimits { cpu_millis, cpu_budget_ns: budget, memory_bytes });
            for _ in 0..2 {
                assert_eq!(parts(&plan, 8), expect, "{:?} {:?}", plan.limits, plan.task_limits);
                // It is the same whether the task or the container is limited.
                std::mem::swap(&mut plan.limits, &mut plan.task_limits);
            }
        };
        check(None, None, None, 8);
        check(Some(250), None, None, 1);
        check(Some(1000), None, None, 1);
        check(Some(1001), None, None, 2);
        check(Some(64_000), None, None, 8);
        check(None, Some(10), None, 1);
        check(None, Some(300), None, 2);
        check(Some(8000), Some(512), None, 4);
        check(None, None, Some(1), 1);
    }

    #[test]
    fn a_part_has_its_share() {
        let mut plan =
            plan(RunLimits { cpu_millis: Some(3000), cpu_budget_ns: None, memory_bytes: Some(900 * MIB) });
        divide(&mut plan, 3);
        assert_eq!(plan.task_limits.cpu_millis, Some(1000));
        assert_eq!(plan.task_limits.memory_bytes, Some(300 * MIB));
        assert_eq!(plan.limits, RunLimits::default());
    }

    #[test]
    fn one_directory_has_one_name() {
        let mount = |source: &str, target: &str, read_only| Mount {
            source: MountSource::Host(source.into()),
            target: target.into(),
            read_only,
        };
        let found = directories(&[
            mount("/nowhere/b", "/one", false),
            mount("/nowhere/a", "/two", true),
            mount("/nowhere/b", "/three", false),
            mount("/nowhere/b", "/four", true),
        ])
        .unwrap();
        let other = directories(&[
            mount("/nowhere/b", "/x", true),
            mount("/nowhere/a", "/y", true),
            mount("/nowhere/b", "/z", false),
        ])
        .unwrap();
        assert_eq!(found.mounts, other.mounts, "in whatever order they are named");
        assert_eq!(found.mounts.len(), 3);
        let names: Vec<&str> = found.preopens.iter().map(|preopen| preopen.name.as_str()).collect();
        assert_eq!(names[0], names[2]);
        assert!(names[0] != names[3] && names[0] != names[1]);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(names.iter().all(|name| name.chars().all(is_plain)), "{names:?}");
    }
}
