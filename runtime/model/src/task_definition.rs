//! Task definitions: what a task is made of. Revisions are immutable but for their status and tags.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::iam::RoleArn;
use crate::{ContainerName, Family, Link, PortProtocol, Timestamp};

/// Tags of a resource, by key.
pub type Tags = BTreeMap<String, String>;

/// One revision of a family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDefinition {
    /// The family.
    pub family: Family,
    /// Counts from 1; never reused.
    pub revision: u32,
    /// Whether new tasks may use it.
    pub status: DefinitionStatus,
    /// What its tasks are made of.
    pub shape: TaskShape,
    /// Launch types that it was checked against.
    pub compatibilities: Vec<LaunchType>,
    /// Tags.
    pub tags: Tags,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// Who registered it, an ARN.
    pub registered_by: String,
    /// When it was deregistered.
    pub deregistered_at: Option<Timestamp>,
    /// When its deletion was asked for.
    pub delete_requested_at: Option<Timestamp>,
    /// The definition as the API that accepted it writes it, opaque to everyone else. It keeps what is
    /// stored only, so that reading a definition returns what was registered.
    pub face: String,
}

/// Whether new tasks may use a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DefinitionStatus {
    /// It may be used.
    Active,
    /// It was deregistered; tasks that use it go on.
    Inactive,
    /// It goes away once no task uses it.
    DeleteInProgress,
}

/// What a task is made of, without who may run it where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskShape {
    /// The containers, 1 to 10.
    pub containers: Vec<ContainerDefinition>,
    /// Volumes that containers may mount.
    pub volumes: Vec<Volume>,
    /// How its containers see the network.
    pub network_mode: NetworkMode,
    /// CPU limit of the whole task in CPU units, 1024 a core.
    pub cpu_units: Option<u32>,
    /// Memory limit of the whole task in MiB.
    pub memory_mib: Option<u32>,
    /// Size of the task's scratch space in GiB.
    pub ephemeral_storage_gib: Option<u32>,
    /// Seconds after the start of its first container at which it is stopped.
    #[serde(default)]
    pub timeout_s: Option<u32>,
    /// Megabits that may leave its interface each second, and as many that may come in.
    #[serde(default)]
    pub network_mbps: Option<u32>,
    /// Which processes its containers see.
    #[serde(default)]
    pub pid_mode: PidMode,
    /// Whose System V objects, message queues and `/dev/shm` its containers have. Early records say only
    /// whether they are the host's.
    #[serde(default, alias = "host_ipc", deserialize_with = "ipc_mode")]
    pub ipc_mode: IpcMode,
    /// The role whose credentials its containers can have.
    #[serde(default)]
    pub task_role: Option<RoleArn>,
}

impl TaskShape {
    /// The longest timeout in seconds, a year: more is no limit.
    pub const TIMEOUT_S_MAX: u32 = 366 * 24 * 3600;
    /// The highest limit of an interface in megabits a second: more than any machine has.
    pub const NETWORK_MBPS_MAX: u32 = 100_000;
}

/// Where a task runs, as its client said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LaunchType {
    /// No host is named; Neargate chooses.
    Fargate,
    /// On a registered container instance; on one machine, that machine.
    Ec2,
}

/// How the containers of a task see the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// An own network namespace with an own address.
    Awsvpc,
    /// An own network namespace behind the host's address.
    Bridge,
    /// The host's network.
    Host,
    /// Loopback only.
    None,
}

/// Which processes the containers of a task see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// Each its own.
    #[default]
    Container,
    /// Those of all containers of the task.
    Task,
    /// Those of the host.
    Host,
}

/// Whose System V objects, message queues and `/dev/shm` the containers of a task have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// Each its own.
    #[default]
    Container,
    /// Each its own, without a `/dev/shm`.
    None,
    /// The task's.
    Task,
    /// The host's.
    Host,
}

/// Reads a mode, or what was written before there were several.
fn ipc_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpcMode, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Mode(IpcMode),
        HostIpc(bool),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::Mode(mode) => mode,
        Form::HostIpc(true) => IpcMode::Host,
        Form::HostIpc(false) => IpcMode::Container,
    })
}

/// One container of a task definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerDefinition {
    /// Its name, unique within the definition.
    pub name: ContainerName,
    /// The image as the client wrote it.
    pub image: String,
    /// Relative CPU weight in CPU units; 0 means the least.
    pub cpu_units: u32,
    /// Hard memory limit in MiB.
    pub memory_mib: Option<u32>,
    /// Soft memory limit in MiB.
    pub memory_reservation_mib: Option<u32>,
    /// Whether the task ends when this container ends.
    pub essential: bool,
    /// Replaces the image's entry point.
    pub entry_point: Option<Vec<String>>,
    /// Replaces the image's command.
    pub command: Option<Vec<String>>,
    /// Environment, in order; later names win.
    pub environment: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_directory: Option<String>,
    /// Replaces the image's user, `user[:group]`.
    pub user: Option<String>,
    /// What must have happened before it starts.
    pub depends_on: Vec<Dependency>,
    /// A command that tells whether it works.
    pub health_check: Option<HealthCheck>,
    /// Seconds after its start within which others may wait for it.
    pub start_timeout_s: Option<u32>,
    /// Seconds between SIGTERM and SIGKILL.
    pub stop_timeout_s: Option<u32>,
    /// Whether it is started again when it ends.
    pub restart_policy: Option<RestartPolicy>,
    /// `setrlimit(2)` values.
    pub ulimits: Vec<UlimitSetting>,
    /// Whether its root file system is read-only.
    pub read_only_root: bool,
    /// Volumes it sees.
    pub mount_points: Vec<MountPoint>,
    /// Where its output goes.
    pub log: Option<LogConfiguration>,
    /// Whether an init process reaps orphans.
    pub init: bool,
    /// Linux capabilities to add.
    pub capabilities_add: Vec<String>,
    /// Linux capabilities to drop.
    pub capabilities_drop: Vec<String>,
    /// Whether it has all power over what is its own.
    #[serde(default)]
    pub privileged: bool,
    /// Devices of the host that it has.
    #[serde(default)]
    pub devices: Vec<DeviceMapping>,
    /// Memory file systems.
    pub tmpfs: Vec<Tmpfs>,
    /// Size of `/dev/shm` in MiB.
    #[serde(default)]
    pub shared_memory_mib: Option<u32>,
    /// Swap space in MiB that it may use beside its memory; `None` is none.
    #[serde(default)]
    pub swap_mib: Option<u32>,
    /// How readily the kernel swaps its memory out, 0 to 100.
    #[serde(default)]
    pub swappiness: Option<u32>,
    /// Ports that are reachable from outside.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Other containers of the task that it reaches by name; under `bridge` only.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Its host name; one of the task's where it has none.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Names that its `/etc/hosts` has besides its own.
    #[serde(default)]
    pub extra_hosts: Vec<ExtraHost>,
    /// The name servers of its `/etc/resolv.conf`; those of every task where there are none.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// Domains in which its resolver looks for short names.
    #[serde(default)]
    pub dns_search_domains: Vec<String>,
    /// What only a Wasm image looks at.
    #[serde(default)]
    pub wasm: WasmOptions,
}

/// A device of the host in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// The device node on the host.
    pub host_path: PathBuf,
    /// Where it is in the container, absolute and below `/dev`.
    pub container_path: String,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written to.
    pub write: bool,
}

/// One entry of `extraHosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// The name.
    pub hostname: String,
    /// Its address.
    pub address: IpAddr,
}

/// One entry of `portMappings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// What is spoken there.
    #[serde(default)]
    pub protocol: PortProtocol,
    /// The port in the container, or the first of a range.
    pub container_port: u16,
    /// How many ports follow in its range; none where one port is mapped.
    #[serde(default)]
    pub more_ports: u16,
    /// The port of the host, or the first; `None` and 0 take any that are free.
    pub host_port: Option<u16>,
    /// Its name for other services.
    pub name: Option<String>,
}

impl PortMapping {
    /// Its ports in the container.
    pub fn container_ports(&self) -> RangeInclusive<u16> {
        self.container_port..=self.container_port.saturating_add(self.more_ports)
    }

    /// Its ports of the host, if it names them.
    pub fn host_ports(&self) -> Option<RangeInclusive<u16>> {
        self.host_port.map(|first| first..=first.saturating_add(self.more_ports))
    }
}

/// How a Wasm image is run. In a task definition these are Docker labels `neargate.wasm.…` of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WasmOptions {
    /// How far from others it runs.
    pub isolation: WasmIsolation,
    /// The exported function to call instead of the program, by its WIT name.
    pub export: Option<String>,
    /// How many requests one instance of an HTTP handler may answer; `None` is a fresh one for each.
    pub reuse: Option<u32>,
    /// Interfaces beyond the usual that it may use: `wasi:config`, `wasi:keyvalue`, `wasi:logging`, `wasi:p3`.
    pub grants: Vec<String>,
    /// What `wasi:config` tells, in order.
    pub config: Vec<(String, String)>,
    /// CPU time in milliseconds after which it is ended.
    pub cpu_budget_ms: Option<u64>,
    /// Whether sockets, name look-ups and outgoing HTTP use the host's network.
    pub host_network: bool,
    /// Whether it has no sockets, name look-ups and outgoing HTTP in the network of its task either.
    pub no_network: bool,
    /// Whether no core dump is kept when it traps.
    pub no_core_dump: bool,
    /// Whether a profile of it is kept.
    pub profile: bool,
}

impl WasmOptions {
    /// The interfaces that may be granted.
    pub const GRANTS: [&str; 4] = ["wasi:config", "wasi:keyvalue", "wasi:logging", "wasi:p3"];

    /// The most requests that one instance may be made to answer: memory that a guest never frees is
    /// given back only with its instance.
    pub const REUSE_MAX: u32 = 1_000_000;

    /// The largest CPU budget in milliseconds, a year: more is no limit.
    pub const CPU_BUDGET_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
}

/// How far from others a Wasm container runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WasmIsolation {
    /// A store of its own in a worker process of its tenant.
    #[default]
    Shared,
    /// A thread of its own there, in a cgroup of its own.
    Thread,
    /// A process of its own, with the fences of a container.
    Process,
}

/// One entry of `dependsOn`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The container waited for.
    pub container: ContainerName,
    /// What it must have reached.
    pub condition: Condition,
}

/// What a dependency must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Condition {
    /// It has started.
    Start,
    /// It has ended.
    Complete,
    /// It has ended with code 0.
    Success,
    /// Its health check passes.
    Healthy,
}

/// A command that tells whether a container works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The program and its arguments, ready to execute.
    pub argv: Vec<String>,
    /// Seconds between two checks, 5 to 300.
    pub interval_s: u32,
    /// Seconds that one check may take, 2 to 60.
    pub timeout_s: u32,
    /// Failures in a row that make it unhealthy, 1 to 10.
    pub retries: u32,
    /// Seconds after the start in which failures do not count, 0 to 300.
    pub start_period_s: u32,
}

/// When a container that ended is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// Exit codes after which it stays ended.
    pub ignored_exit_codes: Vec<i32>,
    /// Seconds that it must have run for, 60 to 1800.
    pub attempt_period_s: u32,
}

/// One `setrlimit(2)` value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UlimitSetting {
    /// The name in ECS's spelling, for example `nofile`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// A volume that containers may mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, unique within the definition.
    pub name: String,
    /// The host's directory; `None` is an empty directory that lives as long as the task, unless it is shared.
    pub host_path: Option<String>,
    /// Set for one that outlives the task and that all tasks of the cluster know by its name.
    #[serde(default)]
    pub shared: Option<SharedVolume>,
}

impl Volume {
    /// Whether it is made for a task and ends with it.
    pub fn is_of_task(&self) -> bool {
        self.host_path.is_none() && self.shared.is_none()
    }
}

/// A volume that outlives tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedVolume {
    /// Whether it is made when it does not exist.
    pub autoprovision: bool,
}

/// A volume in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// The volume's name.
    pub volume: String,
    /// Absolute path in the container.
    pub container_path: String,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// A memory file system in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path in the container.
    pub container_path: String,
    /// Size limit in MiB.
    pub size_mib: u32,
    /// Whether writing is refused.
    #[serde(default)]
    pub read_only: bool,
    /// How it is mounted.
    #[serde(default)]
    pub options: TmpfsOptions,
}

/// How a memory file system is mounted. Device nodes and set-user-ID bits never work in one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsOptions {
    /// Whether programs in it may be executed.
    pub exec: bool,
    /// Permission bits of its root; `None` is 1777.
    pub mode: Option<u32>,
    /// The user in the container who owns its root.
    pub uid: u32,
    /// The group in the container that owns its root.
    pub gid: u32,
    /// How many files and directories it may hold; `None` is the kernel's choice.
    pub inodes_max: Option<u64>,
}

/// Where a container's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfiguration {
    /// The log group, as CloudWatch Logs names it.
    pub group: String,
    /// The stream is `prefix/container/task-id`.
    pub stream_prefix: String,
    /// The region whose log group is meant; the task's own when absent.
    pub region: Option<String>,
    /// Whether the group is created when missing.
    pub create_group: bool,
    /// Whether a full buffer drops output instead of making the container wait.
    pub non_blocking: bool,
    /// Bytes buffered before that happens.
    pub buffer_bytes_max: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::{container, shape};

    #[test]
    fn early_records_are_read() {
        let mut early = serde_json::to_value(shape(vec![container("a")])).unwrap();
        let members = early.as_object_mut().unwrap();
        members.remove("pid_mode").unwrap();
        members.remove("ipc_mode").unwrap();
        let read = |value: &serde_json::Value| serde_json::from_value::<TaskShape>(value.clone()).unwrap();
        assert_eq!((read(&early).pid_mode, read(&early).ipc_mode), (PidMode::Container, IpcMode::Container));
        for (host_ipc, expect) in [(true, IpcMode::Host), (false, IpcMode::Container)] {
            early["host_ipc"] = host_ipc.into();
            assert_eq!(read(&early).ipc_mode, expect);
        }
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for pid_mode in [PidMode::Container, PidMode::Task, PidMode::Host] {
            for ipc_mode in [IpcMode::Container, IpcMode::None, IpcMode::Task, IpcMode::Host] {
                let shape = TaskShape { pid_mode, ipc_mode, ..shape(vec![container("a")]) };
                let text = serde_json::to_string(&shape).unwrap();
                assert_eq!(serde_json::from_str::<TaskShape>(&text).unwrap(), shape);
            }
        }
    }
}
