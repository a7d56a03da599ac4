//! What tasks ask at 169.254.170.2: what they are, their credentials, and AWS services.
//!
//! ```text
//! GET /v3/ID, /v4/ID                    the container          `ECS_CONTAINER_METADATA_URI`, `…_V4`
//! GET /v4/ID/task, /taskWithTags        the task
//! GET /v4/ID/stats, /task/stats         what containers use
//! GET /v2/credentials/ID                credentials of the task's role
//! GET, PUT /api/ID/task-protection/v1/state                    `ECS_AGENT_URI`
//! POST /                                AWS services           `AWS_ENDPOINT_URL`
//! ```
//!
//! Who asks is known by the address, which no other task can send from, and by an id that only the task was told. Of
//! everything that a task can use up here it has a share of its own (`visitors.rs`).
//!
//! Source: ECS Developer Guide, "Task metadata endpoint version 4", and the agent's own handlers (amazon-ecs-agent,
//! `ecs-agent/tmds`).

mod answer;
mod credentials;
mod endpoints;
mod protection;
mod serve;
mod stats;
mod task;
mod visitors;

use std::sync::Arc;

use async_trait::async_trait;
use neargate_control::Control;
use neargate_model::{ContainerId, TaskId};

use crate::Gateway;

pub use endpoints::TaskEndpoints;

use stats::Samples;
use visitors::Visitors;

/// Answers tasks.
pub struct Metadata {
    control: Control,
    gateway: Arc<Gateway>,
    endpoints: TaskEndpoints,
    usage: Arc<dyn TaskUsage>,
    samples: Samples,
    visitors: Arc<Visitors>,
}

/// Tells what tasks use.
#[async_trait]
pub trait TaskUsage: Send + Sync + 'static {
    /// What a container has used; `None` of one that does not run.
    async fn container(&self, container: &ContainerId) -> Option<ContainerUsage>;

    /// What has passed a task's interface.
    async fn interface(&self, task: &TaskId) -> Option<InterfaceUsage>;

    /// What a task has written, of those that may write so much and no more.
    fn storage(&self, task: &TaskId) -> Option<StorageUsage>;

    /// How well the machine's clock is known.
    fn clock(&self) -> Option<ClockError>;
}

/// What a task has written to its ephemeral storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageUsage {
    /// Bytes that it has written.
    pub used_bytes: u64,
    /// Bytes that it may write.
    pub limit_bytes: u64,
}

/// How far the machine's clock may be from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockError {
    /// The most that it is off, in microseconds.
    pub bound_us: u64,
    /// Whether something keeps it in step.
    pub is_synchronised: bool,
}

/// What a container has used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// Most memory that was in use, in bytes.
    pub memory_peak_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// CPU time in programs and in the kernel, in nanoseconds.
    pub cpu_split_ns: Option<(u64, u64)>,
    /// What a limit of CPU time did.
    pub throttling: Option<Throttling>,
    /// The numbers of the kernel's `memory.stat`, by their names.
    pub memory_stat: Vec<(String, u64)>,
    /// What passed between it and block devices.
    pub block: Vec<BlockUsage>,
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
pub struct BlockUsage {
    /// The device's major and minor numbers.
    pub device: (u32, u32),
    /// Bytes read and written.
    pub bytes: (u64, u64),
    /// Reads and writes.
    pub operations: (u64, u64),
}

/// What has passed an interface, as the task sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    /// What came in.
    pub received: InterfaceCounters,
    /// What went out.
    pub sent: InterfaceCounters,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

impl Metadata {
    /// Answers for control's tasks, and for a gateway.
    pub fn new(
        control: Control,
        gateway: Arc<Gateway>,
        endpoints: TaskEndpoints,
        usage: Arc<dyn TaskUsage>,
    ) -> Self {
        let (samples, visitors) = (Samples::default(), Arc::default());
        Self { control, gateway, endpoints, usage, samples, visitors }
    }
}
