//! What ECS has no field for: how tasks were run, what they used, and what they left for the debugger.

use std::fs::File;
use std::io;

use neargate_control::{DescribedTask, TaskError};
use neargate_model::{
    ClusterName, ContainerDefinition, ContainerStatus, Scope, TaskId, TaskKey, WasmIsolation, WasmOptions,
};
use serde_json::{Value, json};

use super::{Native, Problem};

/// What ended containers left; read on the machine that ran them.
pub trait ArtifactSource: Send + Sync + 'static {
    /// All that the containers of a task left, in order.
    fn list(&self, task: &TaskId) -> Vec<Artifact>;

    /// Opens one file, if it is there.
    fn open(&self, task: &TaskId, container: &str, name: &str) -> io::Result<Option<File>>;
}

/// One file that a container left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The container.
    pub container: String,
    /// The file's name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The task that a path means: its id there, its cluster in the query, `default` as everywhere in ECS.
pub(super) fn key(scope: &Scope, id: &str, query: Option<&str>) -> Result<TaskKey, Problem> {
    let cluster = ClusterName::new(parameter(query, "cluster").unwrap_or("default"));
    let cluster = cluster.map_err(|error| Problem::bad_request(format!("read cluster: {error}")))?;
    let id = TaskId::new(id).map_err(|error| Problem::bad_request(format!("read task: {error}")))?;
    Ok(TaskKey { scope: scope.clone(), cluster, id })
}

/// The first parameter of this name in a query.
pub(super) fn parameter<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

impl Native {
    pub(super) async fn task(&self, key: &TaskKey) -> Result<DescribedTask, Problem> {
        self.control.describe_task(key).await.map_err(not_described)
    }

    /// `GET /v1/tasks/{id}/artifacts`.
    pub(super) async fn list_artifacts(&self, key: &TaskKey) -> Result<Value, Problem> {
        self.task(key).await?;
        let one = |artifact: &Artifact| json!({ "container": artifact.container, "name": artifact.name, "bytes": artifact.bytes });
        let artifacts = self.artifacts.list(&key.id);
        Ok(json!({ "artifacts": artifacts.iter().map(one).collect::<Vec<_>>() }))
    }

    /// `GET /v1/tasks/{id}/artifacts/{container}/{name}`.
    pub(super) async fn open_artifact(
        &self,
        key: &TaskKey,
        container: &str,
        name: &str,
    ) -> Result<File, Problem> {
        self.task(key).await?;
        match self.artifacts.open(&key.id, container, name) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => {
                Err(Problem::not_found(format!("container {container:.64} left no {name:.64} behind")))
            }
            Err(error) => {
                tracing::error!(%error, task = %key.id, "what a task left cannot be read");
                Err(Problem::ours("what the task left cannot be read; see the server's log"))
            }
        }
    }
}

/// Why a task cannot be told of.
pub(super) fn not_described(error: TaskError) -> Problem {
    match error {
        TaskError::ClusterNotFound { .. } | TaskError::NotFound { .. } => {
            Problem::not_found(error.to_string())
        }
        TaskError::Store(error) => {
            tracing::error!(error = neargate_model::chain(&error), "store failed");
            Problem::ours("the server could not reach its store; try again")
        }
    }
}

/// The answer to `GET /v1/tasks/{id}`.
pub(super) fn describe(DescribedTask { task, spec }: &DescribedTask) -> Value {
    let containers = spec.shape.containers.iter().zip(&task.status.containers);
    json!({
        "task": task.id.as_str(),
        "cluster": task.cluster.as_str(),
        "status": task.status.last,
        "stopped_reason": task.status.stop.as_ref().map(|stop| stop.reason.as_str()),
        "limits": { "cpu_units": task.cpu_units, "memory_mib": task.memory_mib },
        "containers": containers.map(|(definition, status)| container(definition, status)).collect::<Vec<_>>(),
    })
}

fn container(definition: &ContainerDefinition, status: &ContainerStatus) -> Value {
    let port = |(mapping, port): (&neargate_model::PortMapping, &u16)| json!({ "container_port": mapping.container_port, "host_port": port, "count": u32::from(mapping.more_ports) + 1 });
    // The image's kind is known of those that ran.
    let is_wasm = status.instantiate_ns.is_some() || definition.wasm != WasmOptions::default();
    json!({
        "name": definition.name.as_str(),
        "image": definition.image,
        "status": status.last,
        "exit_code": status.exit_code,
        "reason": status.reason,
        "restarts": status.restart_count,
        "limits": { "cpu_units": definition.cpu_units, "memory_mib": definition.memory_mib },
        "usage": {
            "cpu_ns": status.cpu_ns,
            "memory_peak_bytes": status.memory_peak_bytes,
            "instantiate_ns": status.instantiate_ns,
            "run_ns": status.run_ns,
        },
        "ports": definition.port_mappings.iter().zip(&status.host_ports).map(port).collect::<Vec<_>>(),
        "artifacts": status.artifacts,
        "wasm": is_wasm.then(|| options(&definition.wasm)),
    })
}

fn options(options: &WasmOptions) -> Value {
    json!({
        "isolation": match options.isolation {
            WasmIsolation::Shared => "shared",
            WasmIsolation::Thread => "thread",
            WasmIsolation::Process => "process",
        },
        "export": options.export,
        "reuse": options.reuse,
        "grants": options.grants,
        "cpu_budget_ms": options.cpu_budget_ms,
        // Where nothing is said, it has what its task has.
        "network": match (options.host_network, options.no_network) {
            (true, _) => Some("host"),
            (false, true) => Some("none"),
            (false, false) => None,
        },
        "core_dump": !options.no_core_dump,
        "profile": options.profile,
    })
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::scope;

    use super::*;

    #[test]
    fn a_task_is_named_by_path_and_query() {
        let id = "0123456789abcdef0123456789abcdef";
        let check = |id: &str, query: Option<&str>, expect: Option<&str>| {
            let key = key(&scope(), id, query).ok();
            assert_eq!(key.as_ref().map(|key| key.cluster.as_str()), expect, "{id} {query:?}");
        };
        check(id, None, Some("default"));
        check(id, Some("cluster=web"), Some("web"));
        check(id, Some("x=y&cluster=web"), Some("web"));
        check(id, Some("cluster=a%2Fb"), None);
        check(id, Some("cluster="), None);
        check("..", None, None);
        check("short", None, None);
    }
}
