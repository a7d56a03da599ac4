//! What the gateway tells tasks about themselves: where the node's and the supervisor's knowledge meets it.

use async_trait::async_trait;
use neargate_container::{ClockState, ContainerDriver};
use neargate_driver::{self as driver, BlockUse, SandboxHost, Stats, TrafficCounters, UsageDetails};
use neargate_model::{ContainerId, TaskId, TaskSpec};
use neargate_node::{self as node, Endpoints, Sessions, UsageUnknown};
use neargate_server::{
    BlockUsage, ClockError, ContainerUsage, InterfaceCounters, InterfaceUsage, StorageUsage, TaskEndpoints,
    TaskUsage, Throttling,
};

/// The node's end: what containers are told.
pub(crate) struct NodeEndpoints(pub(crate) TaskEndpoints);

impl Endpoints for NodeEndpoints {
    fn variables(&self, spec: &TaskSpec, container: usize) -> Vec<(String, String)> {
        self.0.variables(spec, container)
    }
}

/// The gateway's end: what containers use.
pub(crate) struct NodeUsage {
    pub(crate) sessions: Sessions,
    pub(crate) containers: ContainerDriver,
    pub(crate) storage: node::StorageUsage,
}

#[async_trait]
impl TaskUsage for NodeUsage {
    async fn container(&self, container: &ContainerId) -> Option<ContainerUsage> {
        let told = async {
            Ok((self.sessions.stats(container).await?, self.sessions.usage_details(container).await?))
        };
        match told.await {
            Ok((stats, details)) => Some(usage(stats, details)),
            Err(UsageUnknown::NotRunning) => None,
            Err(error @ UsageUnknown::Stats(_)) => {
                tracing::debug!(error = neargate_model::chain(&error), %container, "usage of a container is not known");
                None
            }
        }
    }

    async fn interface(&self, task: &TaskId) -> Option<InterfaceUsage> {
        let traffic = self.containers.traffic(task).await.inspect_err(|error| {
            tracing::debug!(error = neargate_model::chain(error), %task, "traffic of a task is not known");
        });
        let traffic = traffic.ok().flatten()?;
        Some(InterfaceUsage { received: counters(traffic.received), sent: counters(traffic.sent) })
    }

    fn storage(&self, task: &TaskId) -> Option<StorageUsage> {
        let node::StorageUse { used_bytes, limit_bytes } = self.storage.of(task)?;
        Some(StorageUsage { used_bytes, limit_bytes })
    }

    fn clock(&self) -> Option<ClockError> {
        let state = neargate_container::clock_state().inspect_err(|error| {
            tracing::debug!(%error, "the error of the clock is not known");
        });
        let ClockState { error_us, is_synchronised } = state.ok()?;
        Some(ClockError { bound_us: error_us, is_synchronised })
    }
}

fn usage(stats: Stats, details: UsageDetails) -> ContainerUsage {
    let throttling = |of: driver::Throttling| {
        let driver::Throttling { periods, throttled_periods, throttled_ns } = of;
        Throttling { periods, throttled_periods, throttled_ns }
    };
    let block = |of: &BlockUse| BlockUsage {
        device: (of.major, of.minor),
        bytes: (of.read_bytes, of.written_bytes),
        operations: (of.reads, of.writes),
    };
    ContainerUsage {
        cpu_ns: stats.cpu_ns,
        memory_bytes: stats.memory_bytes,
        memory_peak_bytes: stats.memory_peak_bytes,
        pids: stats.pids,
        cpu_split_ns: details.cpu.map(|split| (split.user_ns, split.kernel_ns)),
        throttling: details.throttling.map(throttling),
        memory_stat: details.memory,
        block: details.block.iter().map(block).collect(),
    }
}

fn counters(counters: TrafficCounters) -> InterfaceCounters {
    let TrafficCounters { bytes, packets, errors, dropped } = counters;
    InterfaceCounters { bytes, packets, errors, dropped }
}
