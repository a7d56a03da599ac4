//! How many places the pools of an engine have.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use neargate_driver::ProcessRole;
use neargate_wasm::protocol::WorkerSetup;
use rustix::process::{Resource, getrlimit};
use wasmtime::{Enabled, PoolingAllocationConfig};

use super::MEMORY_BYTES_MAX;

/// Bytes of address space that a place takes: a memory's reservation, its guards, a stack and tables.
const PLACE_BYTES: u64 = MEMORY_BYTES_MAX as u64 + (64 << 20);
/// Address space that pools may take, in bytes: half of the 128 TiB that a process has on x86-64. There may be
/// two engines.
const ADDRESS_BYTES_MAX: u64 = 32 << 40;
/// Memory mappings that a live instance may need (its memory image, guards and accessible part, its stack).
const MAPS_PER_RUN: u64 = 4;
/// The kernel's default for `vm.max_map_count` (proc_sys_vm(5)). A worker has no `/proc` to read the value from.
const MAPS_MAX: u64 = 65_530;
/// Memory that an instance takes at least, in bytes; more of them than fit would only swap.
const RUN_BYTES_MIN: u64 = 32 << 10;
/// What of a memory is cleared between two instances rather than given back, in bytes. It doubles the rate of
/// small programs: no page faults, no madvise. Where the kernel tells which pages were written to, this many
/// bytes of those; elsewhere the first bytes.
const KEEP_RESIDENT_BYTES: usize = 128 << 10;
const KEEP_WRITTEN_BYTES: usize = 512 << 10;
/// The same for a table.
const TABLE_KEEP_RESIDENT_BYTES: usize = 16 << 10;
/// Instances with a garbage-collected heap at a time; each reserves as much address space as a memory.
const GC_HEAPS_MAX: u32 = 50;

/// The size of an engine's pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolSize {
    /// Instances at a time.
    pub(crate) runs: u32,
}

/// What a machine has for pools.
struct Machine {
    address_bytes: u64,
    maps: u64,
    memory_bytes: u64,
}

impl PoolSize {
    /// As many places as were asked for, and no more than the machine can hold.
    pub(crate) fn of_machine(setup: &WorkerSetup) -> Self {
        let address_bytes = getrlimit(Resource::As).current.unwrap_or(u64::MAX);
        let system = rustix::system::sysinfo();
        let machine = Machine {
            // Half of a limit is left to everything else.
            address_bytes: (address_bytes / 2).min(ADDRESS_BYTES_MAX),
            maps: MAPS_MAX,
            memory_bytes: (system.totalram as u64).saturating_mul(u64::from(system.mem_unit)),
        };
        Self::fitting(setup.runs_max, &machine)
    }

    fn fitting(runs: u32, machine: &Machine) -> Self {
        let places = (machine.address_bytes / PLACE_BYTES).saturating_mul(4) / 5;
        let fit = places.min(machine.maps / MAPS_PER_RUN).min(machine.memory_bytes / RUN_BYTES_MIN);
        let runs = u64::from(runs).min(fit).max(1);
        Self { runs: u32::try_from(runs).unwrap_or(u32::MAX) }
    }

    /// wasmtime's settings for it.
    pub(crate) fn allocation(&self) -> PoolingAllocationConfig {
        let runs = self.runs;
        let keep_resident = match PoolingAllocationConfig::is_pagemap_scan_available() {
            true => KEEP_WRITTEN_BYTES,
            false => KEEP_RESIDENT_BYTES,
        };
        let mut pool = PoolingAllocationConfig::new();
        // A component made from a preview 1 module consists of the program, an adapter and two shims; one run
        // may therefore take several core instances and tables but has, as a rule, one memory.
        pool.total_stacks(runs)
            .total_component_instances(runs)
            .total_core_instances(runs.saturating_mul(4))
            .total_memories(runs.saturating_add(runs / 4))
            .total_tables(runs.saturating_mul(4))
            .total_gc_heaps(GC_HEAPS_MAX.min(runs))
            .max_memory_size(MEMORY_BYTES_MAX)
            .max_memories_per_component(4)
            .max_memories_per_module(4)
            .max_tables_per_component(16)
            .max_tables_per_module(4)
            .pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(keep_resident)
            .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES);
        pool
    }
}

/// To be called in a new process that will have no `/proc`: opens what wasmtime finds written pages with, which shows
/// this process's memory and no other's. Returns the descriptors that must stay open; none where the kernel does
/// not offer it (before Linux 6.7).
pub fn prepare(role: ProcessRole) -> Vec<RawFd> {
    // The lowest free number is the next file's.
    let next = match (role, File::open("/proc/self/pagemap")) {
        (ProcessRole::WasmWorker, Ok(file)) => file.as_raw_fd(),
        _ => return Vec::new(),
    };
    // Opens it, and for good.
    if !PoolingAllocationConfig::is_pagemap_scan_available() {
        return Vec::new();
    }
    let opened = std::fs::read_link(format!("/proc/self/fd/{next}"));
    opened.is_ok_and(|path| path.ends_with("pagemap")).then_some(next).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Machine =
        Machine { address_bytes: ADDRESS_BYTES_MAX, maps: 1 << 20, memory_bytes: 64 << 30 };

    fn check(runs: u32, machine: &Machine, expect: u32) {
        assert_eq!(PoolSize::fitting(runs, machine).runs, expect);
    }

    #[test]
    fn pools_fit_the_machine() {
        check(1000, &LARGE, 1000);
        check(100_000, &LARGE, 6452);
        check(0, &LARGE, 1);
        check(10_000, &Machine { maps: MAPS_MAX, ..LARGE }, 6452);
        check(10_000, &Machine { maps: 4000, ..LARGE }, 1000);
        check(10_000, &Machine { memory_bytes: 64 << 20, ..LARGE }, 2048);
        check(10_000, &Machine { address_bytes: 1 << 40, ..LARGE }, 201);
        check(10_000, &Machine { address_bytes: 0, ..LARGE }, 1);
    }
}
