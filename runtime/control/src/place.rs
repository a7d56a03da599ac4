//! Placement: whether a task fits, decided purely, and the ledger of what is placed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use neargate_model::{PortProtocol, TaskKey};

use crate::DiskRoom;

/// What the node can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Memory of the machine in MiB: no single task may ask for more.
    pub memory_mib: u64,
    /// Memory in MiB that may be promised to all tasks together; more than the machine has when the
    /// operator allows overcommitment.
    pub memory_promised_mib_max: u64,
    /// CPU units of the machine, 1024 a core: no single task may ask for more.
    pub cpu_units: u64,
    /// Tasks that may exist at once.
    pub tasks_max: usize,
}

/// Why a task does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It asks for more CPU than the machine has.
    Cpu,
    /// It asks for more memory than is left.
    Memory,
    /// There are too many tasks.
    Tasks,
    /// The disk is nearly full.
    Disk,
    /// Its subnets have no free address, or the network mode has none.
    Address,
    /// Another task has this port of the host.
    Port {
        /// The protocol.
        protocol: PortProtocol,
        /// The port.
        port: u16,
    },
    /// A program on the host has this port.
    PortInUse {
        /// The protocol.
        protocol: PortProtocol,
        /// The port.
        port: u16,
    },
    /// All ports that may be given are taken.
    NoPort,
}

/// What one task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) memory_mib: u32,
    pub(crate) cpu_units: u32,
}

/// Whether `demand` fits beside what is placed. CPU is shared, so it only has to exist; memory is promised.
pub(crate) fn place(
    capacity: &Capacity,
    placed_mib: u64,
    placed: usize,
    demand: Demand,
    disk: DiskRoom,
) -> Result<(), Refusal> {
    let memory_mib = u64::from(demand.memory_mib);
    if u64::from(demand.cpu_units) > capacity.cpu_units {
        return Err(Refusal::Cpu);
    }
    if memory_mib > capacity.memory_mib || placed_mib + memory_mib > capacity.memory_promised_mib_max {
        return Err(Refusal::Memory);
    }
    if disk != DiskRoom::Ample {
        return Err(Refusal::Disk);
    }
    if placed >= capacity.tasks_max { Err(Refusal::Tasks) } else { Ok(()) }
}

/// What is placed on the node. The store is the truth; this is rebuilt from it at every start.
pub(crate) struct Ledger {
    capacity: Capacity,
    placed: Mutex<Placed>,
}

#[derive(Default)]
struct Placed {
    memory_mib: u64,
    tasks: BTreeMap<TaskKey, u32>,
}

impl Ledger {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self { capacity, placed: Mutex::default() }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Placed) -> R) -> R {
        f(&mut self.placed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes room for a task, if there is, the disk standing as it does.
    pub(crate) fn take(&self, task: TaskKey, demand: Demand, disk: DiskRoom) -> Result<(), Refusal> {
        self.with(|placed| {
            place(&self.capacity, placed.memory_mib, placed.tasks.len(), demand, disk)?;
            placed.add(task, demand.memory_mib);
            Ok(())
        })
    }

    /// Notes a task that was accepted earlier, whether or not there is room.
    pub(crate) fn note(&self, task: TaskKey, memory_mib: u32) {
        self.with(|placed| placed.add(task, memory_mib));
    }

    /// Gives a task's room back; the second time it does nothing.
    pub(crate) fn give_back(&self, task: &TaskKey) {
        self.with(|placed| {
            if let Some(memory_mib) = placed.tasks.remove(task) {
                placed.memory_mib -= u64::from(memory_mib);
            }
        });
    }
}

impl Placed {
    fn add(&mut self, task: TaskKey, memory_mib: u32) {
        self.memory_mib += u64::from(memory_mib);
        if let Some(before) = self.tasks.insert(task, memory_mib) {
            self.memory_mib -= u64::from(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_or_says_why() {
        let capacity =
            Capacity { memory_mib: 1000, memory_promised_mib_max: 2000, cpu_units: 2048, tasks_max: 3 };
        let with = |disk, placed_mib, placed, memory_mib, cpu_units, expect| {
            assert_eq!(place(&capacity, placed_mib, placed, Demand { memory_mib, cpu_units }, disk), expect);
        };
        let check = |placed_mib, placed, memory_mib, cpu_units, expect| {
            with(DiskRoom::Ample, placed_mib, placed, memory_mib, cpu_units, expect);
        };
        check(0, 0, 1000, 2048, Ok(()));
        check(0, 0, 1001, 0, Err(Refusal::Memory));
        check(1500, 1, 500, 0, Ok(()));
        check(1500, 1, 501, 0, Err(Refusal::Memory));
        check(0, 0, 6, 2049, Err(Refusal::Cpu));
        check(0, 3, 6, 0, Err(Refusal::Tasks));
        with(DiskRoom::Low, 0, 0, 6, 0, Err(Refusal::Disk));
        with(DiskRoom::Full, 0, 0, 6, 0, Err(Refusal::Disk));
    }
}
