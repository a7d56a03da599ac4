//! Tasks: a small record that changes, and a specification that does not.

use serde::{Deserialize, Serialize};

use crate::{
    BridgeNetwork, Cidr, ClusterName, ContainerId, ContainerName, Family, LaunchType, Scope,
    SecurityGroupRules, Tags, TaskId, TaskNetwork, TaskShape, Timestamp,
};

/// A task as it stands: written by control alone, small, and rewritten on every transition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its account and region.
    pub scope: Scope,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The family of its definition.
    pub family: Family,
    /// The revision of its definition.
    pub revision: u32,
    /// Where it was asked to run.
    pub launch_type: LaunchType,
    /// The capacity provider that was asked for instead of a launch type.
    pub capacity_provider: Option<String>,
    /// The group, `family:NAME` unless its client said otherwise.
    pub group: String,
    /// Who or what started it, free text.
    pub started_by: Option<String>,
    /// CPU limit of the whole task in CPU units, after overrides.
    pub cpu_units: Option<u32>,
    /// Memory limit of the whole task in MiB, after overrides.
    pub memory_mib: Option<u32>,
    /// Memory that placement counts for it, in MiB.
    pub memory_reserved_mib: u32,
    /// Tags.
    pub tags: Tags,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// What should be: `true` once the task is to stop or has stopped.
    pub stop_requested: Option<Stop>,
    /// What is: the newest status that the node reported.
    pub status: TaskStatus,
}

impl Task {
    /// Whether the task should run: ECS's `desiredStatus` is `RUNNING`.
    pub fn is_wanted(&self) -> bool {
        self.stop_requested.is_none() && self.status.stop.is_none() && self.status.last != LastStatus::Stopped
    }
}

/// All that the node needs to run a task; written once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Its id.
    pub id: TaskId,
    /// Its account and region.
    pub scope: Scope,
    /// Its cluster.
    pub cluster: ClusterName,
    /// The family of its definition.
    pub family: Family,
    /// The revision of its definition.
    pub revision: u32,
    /// Containers, volumes, network mode and limits, with the overrides applied.
    pub shape: TaskShape,
    /// The containers' ids, in the order of the shape.
    pub container_ids: Vec<ContainerId>,
    /// Whether the definition asks for the Fargate platform, which knows no default memory limit.
    pub launch_type: LaunchType,
    /// Whether its Wasm containers share worker processes with those of its cluster only, instead of its
    /// account's.
    #[serde(default)]
    pub own_workers: bool,
    /// When whoever runs it will stop it.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// Its interface in a VPC; `None` of tasks that have none.
    #[serde(default)]
    pub network: Option<TaskNetwork>,
    /// Its network under `bridge`; `None` of tasks that have loopback only.
    #[serde(default)]
    pub bridge: Option<BridgeNetwork>,
    /// What the API that accepted the task wants to show again, opaque to everyone else.
    pub face: String,
}

/// Which task, and where its record is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    /// Account and region.
    pub scope: Scope,
    /// The cluster.
    pub cluster: ClusterName,
    /// The task.
    pub id: TaskId,
}

impl TaskSpec {
    /// The key of the task's record.
    pub fn key(&self) -> TaskKey {
        TaskKey { scope: self.scope.clone(), cluster: self.cluster.clone(), id: self.id.clone() }
    }
}

impl Task {
    /// The key of the task's record.
    pub fn key(&self) -> TaskKey {
        TaskKey { scope: self.scope.clone(), cluster: self.cluster.clone(), id: self.id.clone() }
    }
}

/// What is known of a task; owned by the task's loop on its node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Counts up with every change.
    pub version: u64,
    /// Where it is in its life.
    pub last: LastStatus,
    /// Its containers, in the order of the definition.
    pub containers: Vec<ContainerStatus>,
    /// Whether a container may have run: set before the first start is tried, and committed before it unless the node
    /// keeps a note of the start.
    pub start_intended: bool,
    /// Why it stops or stopped.
    pub stop: Option<Stop>,
    /// Health of the essential containers together.
    pub health: Health,
    /// When the first image began to be fetched.
    pub pull_started_at: Option<Timestamp>,
    /// When the last image was there.
    pub pull_stopped_at: Option<Timestamp>,
    /// When its network was there.
    pub connectivity_at: Option<Timestamp>,
    /// When it became RUNNING.
    pub started_at: Option<Timestamp>,
    /// When it began to stop.
    pub stopping_at: Option<Timestamp>,
    /// When its last container ended.
    pub execution_stopped_at: Option<Timestamp>,
    /// When all that it held was given back.
    pub stopped_at: Option<Timestamp>,
    /// Where the time until RUNNING went.
    pub phases: Phases,
}

/// Time spent on the way to RUNNING, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// From acceptance to the node's first action.
    pub queue_us: u64,
    /// Finding and unpacking images.
    pub image_us: u64,
    /// Making the sandbox: network namespace and cgroup.
    pub network_us: u64,
    /// Making the containers: root file system, namespaces, compiled code.
    pub create_us: u64,
    /// From the last container made to RUNNING.
    pub start_us: u64,
}

impl TaskStatus {
    /// The version of the status with which a task is accepted.
    pub const ACCEPTED_VERSION: u64 = 1;

    /// The status of a task that was just accepted.
    pub fn accepted(containers: &[ContainerName]) -> Self {
        Self {
            version: Self::ACCEPTED_VERSION,
            last: LastStatus::Provisioning,
            containers: containers.iter().cloned().map(ContainerStatus::pending).collect(),
            start_intended: false,
            stop: None,
            health: Health::Unknown,
            pull_started_at: None,
            pull_stopped_at: None,
            connectivity_at: None,
            started_at: None,
            stopping_at: None,
            execution_stopped_at: None,
            stopped_at: None,
            phases: Phases::default(),
        }
    }
}

/// Where a task is in its life, in the order in which it passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LastStatus {
    /// Its sandbox is being made.
    Provisioning,
    /// Its images are being fetched and its containers made.
    Pending,
    /// Every container has started.
    Running,
    /// Containers are being ended.
    Stopping,
    /// What it held is being given back.
    Deprovisioning,
    /// It holds nothing. Final.
    Stopped,
}

/// What is known of one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name.
    pub name: ContainerName,
    /// Where it is in its life.
    pub last: ContainerLast,
    /// The exit code; absent when it never ran or could not be learned.
    pub exit_code: Option<i32>,
    /// Why it failed, in ECS's words.
    pub reason: Option<String>,
    /// For one that could not be started: the exit code that a shell would show, 125, 126 or 127. ECS
    /// shows none.
    pub shell_code: Option<i32>,
    /// The image's manifest digest.
    pub image_digest: Option<String>,
    /// The id that the runtime gave it.
    pub runtime_id: Option<String>,
    /// Health by its own check.
    pub health: Health,
    /// How often it was started again.
    pub restart_count: u32,
    /// When it last started.
    pub started_at: Option<Timestamp>,
    /// When it last ended.
    pub finished_at: Option<Timestamp>,
    /// CPU time that it used, in nanoseconds, known when it has ended.
    pub cpu_ns: Option<u64>,
    /// Most memory that it used, in bytes, known when it has ended.
    pub memory_peak_bytes: Option<u64>,
    /// How long a Wasm container took to be ready, in nanoseconds, known when it has ended.
    #[serde(default)]
    pub instantiate_ns: Option<u64>,
    /// How long a Wasm container's program ran, in nanoseconds, known when it has ended.
    #[serde(default)]
    pub run_ns: Option<u64>,
    /// The host ports that its port mappings got, in their order.
    #[serde(default)]
    pub host_ports: Vec<u16>,
    /// What it left for the debugger: `core`, `profile.json`.
    #[serde(default)]
    pub artifacts: Vec<String>,
}

impl ContainerStatus {
    fn pending(name: ContainerName) -> Self {
        Self {
            name,
            last: ContainerLast::Pending,
            exit_code: None,
            reason: None,
            shell_code: None,
            image_digest: None,
            runtime_id: None,
            health: Health::Unknown,
            restart_count: 0,
            started_at: None,
            finished_at: None,
            cpu_ns: None,
            memory_peak_bytes: None,
            instantiate_ns: None,
            run_ns: None,
            host_ports: Vec::new(),
            artifacts: Vec::new(),
        }
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ContainerLast {
    /// It has not started.
    Pending,
    /// It runs.
    Running,
    /// It has ended or will never start.
    Stopped,
}

/// Health of a container or task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Health {
    /// No check has decided yet, or there is none.
    Unknown,
    /// The check passes.
    Healthy,
    /// The check failed too often.
    Unhealthy,
}

/// Why a task stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The kind of reason.
    pub code: StopCode,
    /// The reason in ECS's words.
    pub reason: String,
}

/// The kind of reason for which a task stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCode {
    /// It could not start.
    TaskFailedToStart,
    /// An essential container ended.
    EssentialContainerExited,
    /// Someone asked for it.
    UserInitiated,
    /// The machine or the runtime under it failed.
    InfrastructureHealth,
}

/// What control tells a node. On one machine this crosses a channel, on many an HTTP/2 stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NodeCommand {
    /// Run this task. A status with [`TaskStatus::start_intended`] means that it may run already, and so may any that is
    /// not fresh.
    Assign {
        /// What to run.
        spec: Box<TaskSpec>,
        /// What is known of it.
        status: Box<TaskStatus>,
        /// When it was accepted.
        created_at: Timestamp,
        /// Whether no node was ever told of it before.
        is_fresh: bool,
    },
    /// Tasks of these images will come; what can be made ready for them should be.
    Prepare {
        /// The images as definitions name them.
        images: Vec<String>,
    },
    /// The virtual networks as they are from now on, in the place of what was told before.
    Network {
        /// Every security group that a task of the node may be in, or that a rule of such a group names.
        groups: Vec<SecurityGroupRules>,
        /// The blocks of all VPCs.
        vpcs: Vec<Cidr>,
    },
    /// Stop this task.
    Stop {
        /// Which.
        task: TaskKey,
        /// Why.
        stop: Stop,
    },
}

/// What a node tells control: a whole status, so that the newest one says all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Which task.
    pub task: TaskKey,
    /// Its status; [`TaskStatus::version`] numbers the reports of a task.
    pub status: TaskStatus,
}
