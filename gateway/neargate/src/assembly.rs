//! Wiring: concrete drivers and backends meet the crates that know only contracts. Nobody else names them.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use neargate_container::ContainerDriver;
use neargate_control::{Capacity, Control, Disk, Host, SystemClock};
use neargate_dns::{Resolver, Servers};
use neargate_driver::{Driver, ProcessUser, SandboxHost};
use neargate_model::{Cidr, Policy, Region, TaskId, Timestamp};
use neargate_node::{
    Agent, Artifacts, Endpoints, Images, Parts, Removals, Sessions, Starts, StdioSource, StorageUsage,
    TaskFiles,
};
use neargate_server::{Artifact, ArtifactSource};
use neargate_store::Store;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::link::{COMMANDS_MAX, ChannelLink, ControlSink};
use crate::ports::HostPorts;
use crate::resolver::{self, TaskNames};

/// Tasks that one machine may hold at once: far above what its memory allows for any real task, and a
/// bound for what control keeps of them.
const TASKS_MAX: usize = 20_000;

/// What a machine is assembled from.
pub(crate) struct Ingredients {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) capacity: Capacity,
    pub(crate) containers: Option<ContainerDriver>,
    pub(crate) wasm: Arc<dyn Driver>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) stdio: Arc<dyn StdioSource>,
    pub(crate) scratch: PathBuf,
    pub(crate) volumes: PathBuf,
    pub(crate) starts: Arc<Starts>,
    pub(crate) files: Arc<dyn TaskFiles>,
    pub(crate) artifacts: Artifacts,
    pub(crate) files_of: ProcessUser,
    pub(crate) listen_on: IpAddr,
    pub(crate) policy: Policy,
    /// What tells tasks about themselves, where something does.
    pub(crate) endpoints: Option<Arc<dyn Endpoints>>,
    /// Whom tasks' resolver asks for names that are not ours.
    pub(crate) servers: Servers,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) region: Region,
    /// Blocks for default VPCs, the best first.
    pub(crate) default_vpcs: Vec<Cidr>,
    /// Blocks for tasks under `bridge`, the best first.
    pub(crate) bridge_blocks: Vec<Cidr>,
}

/// How long removals are waited for at the end. What is left the next start removes.
pub(crate) const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// Control and its node, running.
pub(crate) struct Machine {
    pub(crate) control: Control,
    /// Tells its tasks what names stand for.
    pub(crate) resolver: Arc<Resolver>,
    /// Commands in its containers.
    pub(crate) sessions: Sessions,
    /// What tasks have written, for those who tell of it.
    pub(crate) storage: StorageUsage,
    /// What the node removes of tasks that have ended.
    pub(crate) removals: Removals,
    /// The node's loops; they end with it.
    pub(crate) node: JoinSet<()>,
}

/// The time now.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Puts control and node together and starts the node.
pub(crate) fn assemble(ingredients: Ingredients) -> Machine {
    let Ingredients {
        store,
        capacity,
        containers,
        wasm,
        images,
        stdio,
        scratch,
        volumes,
        starts,
        files,
        artifacts,
        files_of,
        listen_on,
        policy,
        endpoints,
        servers,
        disk,
        region,
        default_vpcs,
        bridge_blocks,
    } = ingredients;
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (clock, ports) = (Arc::new(SystemClock), Arc::new(HostPorts));
    let host = Host { clock, disk, region, default_vpcs, bridge_blocks, ports };
    let control = Control::new(store, Arc::new(ChannelLink { commands }), host, capacity);
    let resolver = resolver::of(control.clone(), servers);
    let (sessions, storage) = (Sessions::default(), StorageUsage::default());
    let agent = Agent::new(Parts {
        wasm,
        containers: containers.clone().map(|driver| Arc::new(driver) as Arc<dyn Driver>),
        sandboxes: containers.map(|driver| Arc::new(driver) as Arc<dyn SandboxHost>),
        images,
        stdio,
        sink: Arc::new(ControlSink { control: control.clone() }),
        scratch,
        volumes,
        starts,
        files,
        sessions: sessions.clone(),
        storage: storage.clone(),
        artifacts,
        files_of,
        listen_on,
        policy,
        endpoints,
        names: Some(Arc::new(TaskNames(resolver.clone()))),
        now,
    });
    let (mut node, removals) = (JoinSet::new(), agent.removals());
    node.spawn(agent.run(inbox));
    Machine { control, resolver, sessions, storage, removals, node }
}

/// What this machine can hold, with its memory promised this many times over.
pub(crate) fn capacity(memory_overcommit: f64) -> Capacity {
    let memory_mib = rustix::system::sysinfo().totalram as u64 / (1 << 20);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64;
    Capacity {
        memory_mib,
        memory_promised_mib_max: (memory_mib as f64 * memory_overcommit) as u64,
        cpu_units: cores * 1024,
        tasks_max: TASKS_MAX,
    }
}

/// What tasks left on this machine, for the gateway.
pub(crate) struct NodeArtifacts(pub(crate) Artifacts);

impl ArtifactSource for NodeArtifacts {
    fn list(&self, task: &TaskId) -> Vec<Artifact> {
        let left = self.0.list(task).into_iter();
        left.map(|one| Artifact { container: one.container, name: one.name, bytes: one.bytes }).collect()
    }

    fn open(&self, task: &TaskId, container: &str, name: &str) -> io::Result<Option<File>> {
        self.0.open(task, container, name)
    }
}
