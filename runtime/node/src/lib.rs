//! The node: it makes assigned tasks so.
//!
//! The [`Agent`] takes commands and gives each task to one loop of its own (`task.rs`), which feeds events
//! into [`neargate_model::lifecycle::next`], performs the actions, and publishes every status through a
//! [`StatusSink`]. Nothing else touches the task. What the loops need of the outside (images, streams, a
//! sink for statuses) they ask for through small traits, so that the whole node runs in tests without
//! root, kernel or clock.

#![forbid(unsafe_code)]

mod agent;
mod artifacts;
mod files;
mod image;
mod logs;
mod plan;
mod publish;
mod scratch;
mod sessions;
mod sockets;
mod start;
mod starts;
mod task;
#[cfg(test)]
mod tests;
mod usage;
mod volumes;
mod wasm;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{Driver, ProcessUser, SandboxHost};
use neargate_model::{NodeReport, Policy, TaskSpec, Timestamp};

pub use agent::Agent;
pub use artifacts::{Artifact, Artifacts};
pub use files::{OwnTaskFiles, TaskFiles};
pub use image::{ImageProblem, Images, LocalImages, PullBehavior, Registries, TaskImage};
pub use logs::{ContainerStdio, LogStdio, StdioError, StdioSource, default_group, log_group, log_stream};
pub use scratch::Removals;
pub use sessions::{AttendedCommand, Output, SESSIONS_MAX, SessionError, Sessions, UsageUnknown};
pub use starts::Starts;
pub use usage::{StorageUsage, StorageUse, UsageError};

/// Takes statuses; the in-process end of the way to control.
#[async_trait]
pub trait StatusSink: Send + Sync + 'static {
    /// Returns once the status, or a newer one of the task, is durable. An error is answered by saying it
    /// again later.
    async fn publish(&self, report: NodeReport) -> Result<(), PublishError>;
}

/// Tells containers how they reach what tells them about themselves.
pub trait Endpoints: Send + Sync + 'static {
    /// The variables of a container of a task that has an interface.
    fn variables(&self, spec: &TaskSpec, container: usize) -> Vec<(String, String)>;
}

/// Tells tasks the addresses of names.
#[async_trait]
pub trait Names: Send + Sync + 'static {
    /// What the task with this address is told: nothing if the name has no address, and `None` if nobody could say.
    async fn addresses(&self, client: Ipv4Addr, name: &str) -> Option<Vec<IpAddr>>;
}

/// A status was not made durable.
#[derive(Debug, thiserror::Error)]
#[error("publish status of task")]
pub struct PublishError {
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What the node works with.
pub struct Parts {
    /// Runs Wasm images.
    pub wasm: Arc<dyn Driver>,
    /// Runs OCI images; absent where this process may not make namespaces.
    pub containers: Option<Arc<dyn Driver>>,
    /// Makes sandboxes for containers.
    pub sandboxes: Option<Arc<dyn SandboxHost>>,
    /// Finds images.
    pub images: Arc<dyn Images>,
    /// Opens the standard streams of containers.
    pub stdio: Arc<dyn StdioSource>,
    /// Where statuses go.
    pub sink: Arc<dyn StatusSink>,
    /// A directory for what containers write; made and emptied by the node.
    pub scratch: PathBuf,
    /// A directory for volumes that outlive tasks; the node makes them and never removes one.
    pub volumes: PathBuf,
    /// Which tasks may have been started.
    pub starts: Arc<Starts>,
    /// What looks after files of containers in both.
    pub files: Arc<dyn TaskFiles>,
    /// Is told which containers run, for those who run commands in them.
    pub sessions: Sessions,
    /// Is told what tasks have written.
    pub storage: StorageUsage,
    /// What ended containers leave for the debugger.
    pub artifacts: Artifacts,
    /// Whose files the directories are that Wasm containers mount.
    pub files_of: ProcessUser,
    /// The address that port mappings listen on.
    pub listen_on: IpAddr,
    /// What the operator allows tasks.
    pub policy: Policy,
    /// What tells tasks about themselves; absent where nothing does.
    pub endpoints: Option<Arc<dyn Endpoints>>,
    /// What tells Wasm tasks with an interface the addresses of names; absent where nothing does.
    pub names: Option<Arc<dyn Names>>,
    /// The time now.
    pub now: fn() -> Timestamp,
}

impl Parts {
    /// Whether Wasm containers can have a cgroup of their own, in a sandbox.
    fn has_groups(&self) -> bool {
        self.sandboxes.as_ref().is_some_and(|host| host.has_groups())
    }
}
