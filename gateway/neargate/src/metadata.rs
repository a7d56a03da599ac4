//! What the gateway tells tasks about themselves: where the node's and the supervisor's knowledge meets it.

use async_trait::async_trait;
use neargate_container::ContainerDriver;
use neargate_driver::{SandboxHost, TrafficCounters};
use neargate_model::{ContainerId, TaskId, TaskSpec};
use neargate_node::{Endpoints, Sessions, UsageUnknown};
use neargate_server::{ContainerUsage, InterfaceCounters, InterfaceUsage, TaskEndpoints, TaskUsage};

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
}

#[async_trait]
impl TaskUsage for NodeUsage {
    async fn container(&self, container: &ContainerId) -> Option<ContainerUsage> {
        match self.sessions.stats(container).await {
            Ok(stats) => Some(ContainerUsage {
                cpu_ns: stats.cpu_ns,
                memory_bytes: stats.memory_bytes,
                memory_peak_bytes: stats.memory_peak_bytes,
                pids: stats.pids,
            }),
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
}

fn counters(counters: TrafficCounters) -> InterfaceCounters {
    let TrafficCounters { bytes, packets, errors, dropped } = counters;
    InterfaceCounters { bytes, packets, errors, dropped }
}
