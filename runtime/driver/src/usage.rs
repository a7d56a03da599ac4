//! What a running container uses, in more detail than its end tells.

use neargate_ipc::wire_fields;

/// What a container uses, by kind. What the kernel does not tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageDetails {
    /// Where its CPU time went.
    pub cpu: Option<CpuSplit>,
    /// How often its limit of CPU time held it up.
    pub throttling: Option<Throttling>,
    /// The numbers of the kernel's `memory.stat`, by their names.
    pub memory: Vec<(String, u64)>,
    /// What passed between it and block devices. With cgroup v1 that leaves out what was written to the page cache, which
    /// the kernel writes back in nobody's name.
    pub block: Vec<BlockUse>,
}

/// CPU time by mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSplit {
    /// Nanoseconds in programs.
    pub user_ns: u64,
    /// Nanoseconds in the kernel.
    pub kernel_ns: u64,
}

/// What a limit of CPU time did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which the container ran.
    pub periods: u64,
    /// Of those, periods in which it came to its limit.
    pub throttled_periods: u64,
    /// Nanoseconds that it waited for the next one.
    pub throttled_ns: u64,
}

/// What passed between a container and one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockUse {
    /// The device's major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

wire_fields!(UsageDetails { cpu, throttling, memory, block });
wire_fields!(CpuSplit { user_ns, kernel_ns });
wire_fields!(Throttling { periods, throttled_periods, throttled_ns });
wire_fields!(BlockUse { major, minor, read_bytes, written_bytes, reads, writes });
