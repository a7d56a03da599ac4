//! The rules that a task definition must keep, as pure checks.
//!
//! Sources: Amazon ECS API Reference, `RegisterTaskDefinition`; Developer Guide, "Fargate task
//! definition parameters" and "Invalid CPU or memory value specified".

use crate::{Condition, ContainerName, IpcMode, NetworkMode, PidMode, TaskShape};

/// At most this many containers a task definition (ECS service quota).
pub const CONTAINERS_MAX: usize = 10;

/// Least memory limit of a container in MiB (API reference: "should not specify less than 6 MiB").
pub const CONTAINER_MEMORY_MIB_MIN: u32 = 6;

/// The longest stop timeout on Fargate, in seconds (API reference, ContainerDefinition.stopTimeout).
pub const FARGATE_STOP_TIMEOUT_S_MAX: u32 = 120;

/// Why a task shape is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// There is no container.
    #[error("a task definition needs at least one container")]
    NoContainers,
    /// There are more than [`CONTAINERS_MAX`].
    #[error("a task definition has at most {CONTAINERS_MAX} containers, not {count}")]
    TooManyContainers {
        /// How many there are.
        count: usize,
    },
    /// Two containers have one name.
    #[error("container name {name} is used twice")]
    DuplicateContainer {
        /// The name.
        name: ContainerName,
    },
    /// No container is essential.
    #[error("at least one container must be essential")]
    NoEssential,
    /// A container names no image.
    #[error("container {name} has no image")]
    NoImage {
        /// The container.
        name: ContainerName,
    },
    /// Neither the task nor the container limits memory.
    #[error("container {name} needs memory or memoryReservation, or the task needs memory")]
    NoMemory {
        /// The container.
        name: ContainerName,
    },
    /// A memory limit is below [`CONTAINER_MEMORY_MIB_MIN`].
    #[error("container {name} may not have less than {CONTAINER_MEMORY_MIB_MIN} MiB of memory")]
    TooLittleMemory {
        /// The container.
        name: ContainerName,
    },
    /// The soft limit is above the hard one.
    #[error("container {name}: memoryReservation is above memory")]
    ReservationAboveLimit {
        /// The container.
        name: ContainerName,
    },
    /// Swap is asked for without a memory limit that it would add to.
    #[error("container {name}: maxSwap needs memory, the limit that it adds to")]
    SwapWithoutMemory {
        /// The container.
        name: ContainerName,
    },
    /// The containers together ask for more than the task has.
    #[error("the containers' {what} of {sum} is above the task's {limit}")]
    AboveTask {
        /// `cpu` or `memory`.
        what: &'static str,
        /// What they ask for together.
        sum: u64,
        /// What the task has.
        limit: u32,
    },
    /// A container waits for one that does not exist.
    #[error("container {name} depends on {missing}, which does not exist")]
    UnknownDependency {
        /// The container.
        name: ContainerName,
        /// The missing one.
        missing: ContainerName,
    },
    /// A container waits for itself, directly or through others.
    #[error("container {name} depends on itself")]
    DependencyCycle {
        /// A container of the cycle.
        name: ContainerName,
    },
    /// A container waits for the end of an essential one, which would end the task.
    #[error("container {name} waits for the end of essential container {essential}")]
    WaitsForEssential {
        /// The container.
        name: ContainerName,
        /// The essential container.
        essential: ContainerName,
    },
    /// A container waits for the health of one that has no health check.
    #[error("container {name} waits for the health of {unchecked}, which has no health check")]
    NoHealthCheck {
        /// The container.
        name: ContainerName,
        /// The container without a check.
        unchecked: ContainerName,
    },
    /// A mount point names a volume that does not exist.
    #[error("container {name} mounts volume {volume}, which does not exist")]
    UnknownVolume {
        /// The container.
        name: ContainerName,
        /// The volume's name.
        volume: String,
    },
    /// Fargate needs the task's CPU or memory.
    #[error("Fargate needs {what} at the task level")]
    FargateNeeds {
        /// `cpu` or `memory`.
        what: &'static str,
    },
    /// Fargate knows no such pair of CPU and memory.
    #[error("Fargate offers no {cpu_units} CPU units with {memory_mib} MiB")]
    FargatePair {
        /// The task's CPU units.
        cpu_units: u32,
        /// The task's memory in MiB.
        memory_mib: u32,
    },
    /// Fargate knows no such CPU value.
    #[error("Fargate offers no {cpu_units} CPU units")]
    FargateCpu {
        /// The task's CPU units.
        cpu_units: u32,
    },
    /// Fargate waits at most [`FARGATE_STOP_TIMEOUT_S_MAX`] for a container to end.
    #[error(
        "container {name}: Fargate allows a stop timeout of at most {FARGATE_STOP_TIMEOUT_S_MAX} seconds"
    )]
    FargateStopTimeout {
        /// The container.
        name: ContainerName,
    },
    /// Fargate has no such setting.
    #[error("container {name}: {what} is not supported on Fargate")]
    FargateLacks {
        /// The container.
        name: ContainerName,
        /// The setting.
        what: &'static str,
    },
    /// Fargate knows no namespaces of a host.
    #[error("Fargate does not support {what}")]
    FargateNamespaces {
        /// The setting.
        what: &'static str,
    },
    /// Fargate needs the network mode awsvpc.
    #[error("Fargate needs network mode awsvpc")]
    FargateNetwork,
}

/// Checks the rules that hold on every launch type.
pub fn check_shape(shape: &TaskShape) -> Result<(), ShapeError> {
    let containers = &shape.containers;
    if containers.is_empty() {
        return Err(ShapeError::NoContainers);
    }
    if containers.len() > CONTAINERS_MAX {
        return Err(ShapeError::TooManyContainers { count: containers.len() });
    }
    for (i, container) in containers.iter().enumerate() {
        if containers[..i].iter().any(|earlier| earlier.name == container.name) {
            return Err(ShapeError::DuplicateContainer { name: container.name.clone() });
        }
        if container.image.is_empty() {
            return Err(ShapeError::NoImage { name: container.name.clone() });
        }
    }
    if !containers.iter().any(|container| container.essential) {
        return Err(ShapeError::NoEssential);
    }
    check_resources(shape)?;
    check_mounts(shape)?;
    check_dependencies(shape)
}

fn check_resources(shape: &TaskShape) -> Result<(), ShapeError> {
    for container in &shape.containers {
        let name = || container.name.clone();
        let limits = [container.memory_mib, container.memory_reservation_mib];
        if limits.iter().flatten().any(|&mib| mib < CONTAINER_MEMORY_MIB_MIN) {
            return Err(ShapeError::TooLittleMemory { name: name() });
        }
        if shape.memory_mib.is_none() && limits == [None, None] {
            return Err(ShapeError::NoMemory { name: name() });
        }
        if matches!(limits, [Some(hard), Some(soft)] if soft > hard) {
            return Err(ShapeError::ReservationAboveLimit { name: name() });
        }
        if container.swap_mib > Some(0) && container.memory_mib.is_none() {
            return Err(ShapeError::SwapWithoutMemory { name: name() });
        }
    }
    let above = |what, sum: u64, limit: Option<u32>| match limit {
        Some(limit) if sum > u64::from(limit) => Err(ShapeError::AboveTask { what, sum, limit }),
        _ => Ok(()),
    };
    above("cpu", shape.containers.iter().map(|c| u64::from(c.cpu_units)).sum(), shape.cpu_units)?;
    let reserved = |c: &crate::ContainerDefinition| c.memory_reservation_mib.or(c.memory_mib).unwrap_or(0);
    above("memory", shape.containers.iter().map(|c| u64::from(reserved(c))).sum(), shape.memory_mib)?;
    match shape.containers.iter().find(|c| c.memory_mib > shape.memory_mib.or(c.memory_mib)) {
        Some(container) => above("memory", container.memory_mib.unwrap_or(0).into(), shape.memory_mib),
        None => Ok(()),
    }
}

fn check_mounts(shape: &TaskShape) -> Result<(), ShapeError> {
    for container in &shape.containers {
        let unknown = container
            .mount_points
            .iter()
            .find(|mount| !shape.volumes.iter().any(|volume| volume.name == mount.volume));
        if let Some(mount) = unknown {
            return Err(ShapeError::UnknownVolume {
                name: container.name.clone(),
                volume: mount.volume.clone(),
            });
        }
    }
    Ok(())
}

fn check_dependencies(shape: &TaskShape) -> Result<(), ShapeError> {
    for container in &shape.containers {
        for dependency in &container.depends_on {
            let name = container.name.clone();
            let target = shape.containers.iter().find(|c| c.name == dependency.container);
            let Some(target) = target else {
                return Err(ShapeError::UnknownDependency { name, missing: dependency.container.clone() });
            };
            if target.name == name {
                return Err(ShapeError::DependencyCycle { name });
            }
            match dependency.condition {
                Condition::Complete | Condition::Success if target.essential => {
                    return Err(ShapeError::WaitsForEssential { name, essential: target.name.clone() });
                }
                Condition::Healthy if target.health_check.is_none() => {
                    return Err(ShapeError::NoHealthCheck { name, unchecked: target.name.clone() });
                }
                _ => {}
            }
        }
    }
    check_acyclic(shape)
}

/// Takes away containers that wait for nothing that is left, until none is left or none can be taken.
fn check_acyclic(shape: &TaskShape) -> Result<(), ShapeError> {
    let mut left: Vec<_> = shape.containers.iter().collect();
    loop {
        let names: Vec<_> = left.iter().map(|c| &c.name).collect();
        let waits = |c: &&crate::ContainerDefinition| {
            c.depends_on.iter().any(|dependency| names.contains(&&dependency.container))
        };
        let waiting: Vec<_> = left.iter().copied().filter(waits).collect();
        match waiting.first() {
            None => return Ok(()),
            Some(container) if waiting.len() == left.len() => {
                return Err(ShapeError::DependencyCycle { name: container.name.clone() });
            }
            Some(_) => left = waiting,
        }
    }
}

/// Checks the rules that Fargate adds.
pub fn check_fargate(shape: &TaskShape) -> Result<(), ShapeError> {
    if shape.network_mode != NetworkMode::Awsvpc {
        return Err(ShapeError::FargateNetwork);
    }
    if shape.pid_mode == PidMode::Host {
        return Err(ShapeError::FargateNamespaces { what: "pidMode 'host'" });
    }
    if shape.ipc_mode != IpcMode::Container {
        return Err(ShapeError::FargateNamespaces { what: "ipcMode" });
    }
    for container in &shape.containers {
        let lacks = |what| Err(ShapeError::FargateLacks { name: container.name.clone(), what });
        if container.privileged {
            return lacks("privileged");
        }
        if !container.devices.is_empty() {
            return lacks("linuxParameters.devices");
        }
        if container.capabilities_add.iter().any(|name| !name.eq_ignore_ascii_case("SYS_PTRACE")) {
            return lacks("linuxParameters.capabilities.add of others than SYS_PTRACE");
        }
    }
    let is_patient = |c: &&crate::ContainerDefinition| c.stop_timeout_s > Some(FARGATE_STOP_TIMEOUT_S_MAX);
    if let Some(container) = shape.containers.iter().find(is_patient) {
        return Err(ShapeError::FargateStopTimeout { name: container.name.clone() });
    }
    let cpu_units = shape.cpu_units.ok_or(ShapeError::FargateNeeds { what: "cpu" })?;
    let memory_mib = shape.memory_mib.ok_or(ShapeError::FargateNeeds { what: "memory" })?;
    let Some(offers) = fargate_memory_mib(cpu_units) else {
        return Err(ShapeError::FargateCpu { cpu_units });
    };
    if offers.contains(&memory_mib) { Ok(()) } else { Err(ShapeError::FargatePair { cpu_units, memory_mib }) }
}

/// The memory sizes in MiB that Fargate offers with this many CPU units, or `None` for no such size.
pub fn fargate_memory_mib(cpu_units: u32) -> Option<Vec<u32>> {
    let gib = |from: u32, to: u32, step: usize| (from..=to).step_by(step).map(|gib| gib * 1024).collect();
    match cpu_units {
        256 => Some(vec![512, 1024, 2048]),
        512 => Some(gib(1, 4, 1)),
        1024 => Some(gib(2, 8, 1)),
        2048 => Some(gib(4, 16, 1)),
        4096 => Some(gib(8, 30, 1)),
        8192 => Some(gib(16, 60, 4)),
        16384 => Some(gib(32, 120, 8)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::{container, depends, shape};

    fn check(containers: Vec<crate::ContainerDefinition>, expect: Result<(), &str>) {
        let result = check_shape(&shape(containers)).map_err(|error| error.to_string());
        assert_eq!(result, expect.map_err(str::to_owned));
    }

    #[test]
    fn shapes() {
        check(vec![], Err("a task definition needs at least one container"));
        check(vec![container("a")], Ok(()));
        check(vec![container("a"), container("a")], Err("container name a is used twice"));
        let many = |n: usize| (0..n).map(|i| container(&format!("c{i}"))).collect();
        check(many(10), Ok(()));
        check(many(11), Err("a task definition has at most 10 containers, not 11"));
        let optional = crate::ContainerDefinition { essential: false, ..container("a") };
        check(vec![optional], Err("at least one container must be essential"));
        let tiny = crate::ContainerDefinition { memory_mib: Some(5), ..container("a") };
        check(vec![tiny], Err("container a may not have less than 6 MiB of memory"));
        let swaps = crate::ContainerDefinition { swap_mib: Some(1), ..container("a") };
        check(vec![swaps.clone()], Err("container a: maxSwap needs memory, the limit that it adds to"));
        check(vec![crate::ContainerDefinition { memory_mib: Some(64), ..swaps }], Ok(()));
        let huge = crate::ContainerDefinition { memory_mib: Some(513), ..container("a") };
        check(vec![huge], Err("the containers' memory of 513 is above the task's 512"));
    }

    #[test]
    fn dependencies() {
        let on = |name: &str, target: &str, condition| depends(container(name), target, condition);
        check(vec![on("a", "b", Condition::Start), container("b")], Ok(()));
        check(vec![on("a", "x", Condition::Start)], Err("container a depends on x, which does not exist"));
        check(vec![on("a", "a", Condition::Start)], Err("container a depends on itself"));
        check(
            vec![
                on("a", "b", Condition::Start),
                on("b", "c", Condition::Start),
                on("c", "a", Condition::Start),
            ],
            Err("container a depends on itself"),
        );
        check(
            vec![on("a", "b", Condition::Complete), container("b")],
            Err("container a waits for the end of essential container b"),
        );
        check(
            vec![on("a", "b", Condition::Healthy), container("b")],
            Err("container a waits for the health of b, which has no health check"),
        );
    }

    #[test]
    fn fargate_sizes() {
        let check = |cpu_units, memory_mib, expect| {
            let sized = TaskShape { cpu_units, memory_mib, ..shape(vec![container("a")]) };
            assert_eq!(check_fargate(&sized).is_ok(), expect, "{cpu_units:?} {memory_mib:?}");
        };
        check(Some(256), Some(512), true);
        check(Some(256), Some(4096), false);
        check(Some(300), Some(512), false);
        check(Some(4096), Some(30720), true);
        check(Some(8192), Some(20480), true);
        check(Some(8192), Some(18432), false);
        check(Some(16384), Some(122_880), true);
        check(None, Some(512), false);
        check(Some(256), None, false);
        let lacks = |change: fn(&mut crate::ContainerDefinition)| {
            let mut changed = container("a");
            change(&mut changed);
            let sized = TaskShape { memory_mib: Some(512), ..shape(vec![changed]) };
            check_fargate(&sized).map_err(|error| error.to_string())
        };
        assert_eq!(lacks(|c| c.capabilities_add.push("SYS_PTRACE".to_owned())), Ok(()));
        assert!(lacks(|c| c.capabilities_add.push("CHOWN".to_owned())).unwrap_err().contains("SYS_PTRACE"));
        assert!(lacks(|c| c.privileged = true).unwrap_err().contains("privileged"));
        let slow = crate::ContainerDefinition { stop_timeout_s: Some(121), ..container("a") };
        let expect = ShapeError::FargateStopTimeout { name: slow.name.clone() };
        assert_eq!(check_fargate(&shape(vec![slow])), Err(expect));
    }
}
