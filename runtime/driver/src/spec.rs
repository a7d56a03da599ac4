//! What a driver is told, and what it tells.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use neargate_ipc::wire_fields;
use neargate_model::{
    Cidr, ContainerId, ContainerName, HostPort, IpcMode, PidMode, TaskId, TaskNetwork, TmpfsOptions,
    WasmOptions,
};

use crate::{ContainerNames, ProcessUser, TaskSockets};

/// All that a driver needs to run one container. A container gets nothing that is not named here.
#[derive(Debug)]
pub struct ContainerSpec {
    /// The container's own id, unique for ever; a restarted container keeps it.
    pub id: ContainerId,
    /// The task that it belongs to.
    pub task: TaskId,
    /// Its name within the task.
    pub name: ContainerName,
    /// What it runs from.
    pub rootfs: Rootfs,
    /// Program and arguments; the program is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// The whole environment, in order; later names win.
    pub env: Vec<(String, String)>,
    /// Working directory inside the container; created when missing.
    pub working_dir: PathBuf,
    /// `user[:group]` by name or number, resolved against the container's own `/etc/passwd` and
    /// `/etc/group`; `None` runs as root inside the container.
    pub user: Option<String>,
    /// The container's own limits; the sandbox adds the task's.
    pub limits: Limits,
    /// `setrlimit(2)` values.
    pub ulimits: Vec<Ulimit>,
    /// Whether the root file system is mounted read-only.
    pub read_only_root: bool,
    /// Directories of the host that the container sees.
    pub mounts: Vec<Mount>,
    /// Size in bytes of a `/dev/shm` of its own; `None` is 64 MiB, as with Docker.
    pub shm_bytes: Option<u64>,
    /// Linux capabilities to add to the default set, without the `CAP_` prefix. Whether they may be is for others to
    /// decide.
    pub capabilities_add: Vec<String>,
    /// Linux capabilities to take from the default set; `ALL` empties it.
    pub capabilities_drop: Vec<String>,
    /// What an operator has allowed it beyond what all containers have.
    pub privileges: Privileges,
    /// Whether a small init process reaps orphans and forwards signals as PID 1.
    pub init: bool,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// An empty directory of the container's own on the host, for what it writes to its root file
    /// system. The node makes and removes it.
    pub scratch: PathBuf,
    /// Its own name, and those of others.
    pub names: ContainerNames,
    /// What only a Wasm container has; `None` for others.
    pub wasm: Option<WasmSpec>,
}

/// What a Linux container has only where an operator allows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// All capabilities in the container's own user namespace, and nothing of proc and sysfs hidden or protected.
    pub privileged: bool,
    /// Devices of the host.
    pub devices: Vec<Device>,
}

/// A device of the host in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The device node on the host.
    pub source: PathBuf,
    /// Absolute path inside the container, below `/dev`.
    pub target: PathBuf,
    /// Whether it may be read.
    pub read: bool,
    /// Whether it may be written to.
    pub write: bool,
}

/// What only a Wasm container has.
#[derive(Debug)]
pub struct WasmSpec {
    /// How it is run.
    pub options: WasmOptions,
    /// Whose worker processes it runs in; no two tenants share a process.
    pub tenant: String,
    /// Whose files the directories of its mounts are.
    pub files_of: ProcessUser,
    /// Listening TCP sockets, for an HTTP handler.
    pub listeners: Vec<OwnedFd>,
    /// Whether each of them has the port that the container calls it by. A program that is no HTTP handler and
    /// has a network can then listen there itself; the sockets are closed before it starts.
    pub own_ports: bool,
    /// The network of its task, in which its sockets are made; `None` where it has none of its own.
    pub sockets: Option<Arc<dyn TaskSockets>>,
    /// Which attempt at the task this is, from 1.
    pub attempt: u32,
    /// When the task will be stopped, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
    /// A directory, made when there is something for it, where a trap leaves `core` and a profiled run
    /// `profile.json`; `None` keeps neither.
    pub artifacts: Option<PathBuf>,
}

/// What a container runs from.
#[derive(Clone, Debug)]
pub enum Rootfs {
    /// Unpacked image layers, lowest first, each a directory that is never written to.
    Layers(Vec<PathBuf>),
    /// A Wasm module or component.
    Wasm(WasmModule),
}

/// A Wasm binary in the content store.
#[derive(Clone, Debug)]
pub struct WasmModule {
    /// The file; validated by its `\0asm` magic when it was stored.
    pub path: PathBuf,
    /// `sha256:` and 64 hexadecimal digits; the key of its compiled code.
    pub digest: String,
}

/// Limits that the driver enforces. `None` means no limit of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hard CPU limit in thousandths of a core, as CFS quota over a 100 ms period.
    pub cpu_millis: Option<u32>,
    /// Relative CPU weight in ECS CPU units (1024 a core); at least 2.
    pub cpu_shares: Option<u32>,
    /// Hard memory limit in bytes; going over it is an OOM kill.
    pub memory_bytes: Option<u64>,
    /// Soft memory limit in bytes: under pressure the kernel takes what is above it first.
    pub memory_reservation_bytes: Option<u64>,
    /// Swap space in bytes that may be used beside `memory_bytes`; `None` is none. Means nothing without
    /// that limit.
    pub swap_bytes: Option<u64>,
    /// How readily the kernel swaps out, 0 to 100. Only cgroup v1 has a value for a group of its own; v2 uses
    /// the host's.
    pub swappiness: Option<u32>,
    /// How many processes and threads may exist.
    pub pids_max: Option<u32>,
}

/// One resource limit of `setrlimit(2)`, by ECS's name (`nofile`, `nproc`, `core`, …).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// The name in lower case, without `RLIMIT_`.
    pub name: String,
    /// The soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// The hard limit; `u64::MAX` is unlimited.
    pub hard: u64,
}

/// A directory that the container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// The host user and group id that stand for a container's root on the disk of a volume; its user n is
/// this id + n. Above what people and systemd use, below 2^31, from where on some programs misread ids.
pub const VOLUME_ID_BASE: u32 = 1_000_000_000;

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// A directory or file of the host.
    Host(PathBuf),
    /// An empty `tmpfs` of at most this many bytes.
    Tmpfs {
        /// Size limit in bytes.
        size_bytes: u64,
        /// How it is mounted.
        options: TmpfsOptions,
    },
}

/// The three standard streams, owned by the container once it has started.
#[derive(Debug)]
pub struct Stdio {
    /// File descriptor 0.
    pub stdin: OwnedFd,
    /// File descriptor 1.
    pub stdout: OwnedFd,
    /// File descriptor 2.
    pub stderr: OwnedFd,
    /// The reading ends of standard output and error, which a driver whose containers outlive this process keeps for
    /// the next one. Who opens the other ends for such a container opens them for reading, too (`O_RDWR`), so that it
    /// does not lose its output while nobody is there.
    pub readers: Option<[OwnedFd; 2]>,
}

/// What the containers of a task share.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The task.
    pub task: TaskId,
    /// Host name inside the sandbox.
    pub hostname: String,
    /// Limits over all containers of the task together.
    pub limits: Limits,
    /// Whether Linux namespaces are wanted; a task of Wasm containers alone needs none.
    pub linux: bool,
    /// Which network its containers have.
    pub network: SandboxNetwork,
    /// What else its containers have in common.
    pub sharing: Sharing,
}

/// Which namespaces the containers of a sandbox share with each other or with the host, besides the network's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// Which processes they see. Whether that may be the host's is for others to decide.
    pub pids: PidMode,
    /// Whose System V objects, message queues and `/dev/shm` they have. Whether that may be the host's is for others
    /// to decide.
    pub ipc: IpcMode,
    /// Size in bytes of the task's `/dev/shm`, with [`IpcMode::Task`]; `None` is 64 MiB.
    pub shm_bytes: Option<u64>,
}

/// Which network the containers of a sandbox have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SandboxNetwork {
    /// One of its own, over which the containers have no power.
    #[default]
    Own,
    /// One of its own, over which containers with NET_ADMIN or NET_RAW have the power that these give.
    Managed,
    /// The host's.
    Host,
    /// One of its own with an interface in a VPC, whose security groups are enforced outside of it; `managed` as
    /// [`Managed`](Self::Managed).
    Vpc {
        /// The interface.
        interface: Box<TaskNetwork>,
        /// Megabits that may leave it each second, and as many that may come in; `None` is no limit.
        mbps: Option<u32>,
        /// Whether containers have power over it.
        managed: bool,
    },
    /// One for each container, with an interface; ports of the host lead to it. Those that are not named here have none.
    Bridge {
        /// The addresses of all such sandboxes.
        block: Cidr,
        /// The containers.
        containers: Vec<BridgedContainer>,
        /// Whether containers have power over their networks.
        managed: bool,
    },
}

/// What a container has in [`SandboxNetwork::Bridge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgedContainer {
    /// The container.
    pub id: ContainerId,
    /// Its address.
    pub address: Ipv4Addr,
    /// The ports of the host that lead to it.
    pub ports: Vec<HostPort>,
    /// Addresses of containers that it may reach.
    pub links: Vec<Ipv4Addr>,
}

/// A prepared sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The task that owns it.
    pub task: TaskId,
    /// Limits over all containers of the task together, for drivers that enforce them themselves.
    pub limits: Limits,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exit {
    /// The exit code, 128 + n after signal n. `None` when it could not be learned.
    pub code: Option<i32>,
    /// Whether the kernel, or a Wasm memory limit, ended it for going over its memory limit.
    pub oom: bool,
    /// More about an abnormal end (a Wasm trap, for example), for people.
    pub reason: Option<String>,
}

/// How long the steps of a Wasm container took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WasmTimes {
    /// Nanoseconds from the worker's order to the instance's being ready.
    pub instantiate_ns: u64,
    /// Nanoseconds that the program ran.
    pub run_ns: u64,
}

impl Exit {
    /// A plain exit with a code.
    pub fn code(code: i32) -> Self {
        Self { code: Some(code), oom: false, reason: None }
    }
}

/// The signals that the node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A request to end: SIGTERM or what the image names as its stop signal. For Wasm, which has no
    /// signals, a request to be cancelled at once.
    Stop(i32),
    /// SIGKILL for every process of the container.
    Kill,
}

/// What a container has used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// Highest memory use seen, in bytes; 0 where the kernel does not tell.
    pub memory_peak_bytes: u64,
    /// Processes and threads alive.
    pub pids: u32,
    /// Of a Wasm container; `None` for others.
    pub wasm: Option<WasmTimes>,
}

/// What has passed the interface of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What the task has received.
    pub received: TrafficCounters,
    /// What it has sent.
    pub sent: TrafficCounters,
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCounters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

/// A command to run inside a running container.
#[derive(Debug)]
pub struct ExecSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables added to the container's environment.
    pub env: Vec<(String, String)>,
    /// How long it may take; it is killed after that, and [`Exit::code`] is `None`.
    pub timeout: Duration,
    /// Its standard streams; `None` connects them to `/dev/null`.
    pub stdio: Option<Stdio>,
}

wire_fields!(Limits {
    cpu_millis,
    cpu_shares,
    memory_bytes,
    memory_reservation_bytes,
    swap_bytes,
    swappiness,
    pids_max
});
wire_fields!(Stats { cpu_ns, memory_bytes, memory_peak_bytes, pids, wasm });
wire_fields!(Traffic { received, sent });
wire_fields!(TrafficCounters { bytes, packets, errors, dropped });
wire_fields!(WasmTimes { instantiate_ns, run_ns });
