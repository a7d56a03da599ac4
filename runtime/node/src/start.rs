//! One start of one container: from a task's specification to a driver's handle.
//!
//! What a container needs of this host, its [`Furnishing`], depends on no sandbox, and can be made while that is.

use std::path::PathBuf;
use std::sync::Arc;

use neargate_driver::{ContainerSpec, Driver, Handle, Rootfs, Sandbox, StartError, TaskSockets, WasmSpec};
use neargate_model::{
    ContainerDefinition, ContainerStatus, NetworkMode, PortMapping, TaskSpec, Volume, WasmOptions, chain,
};
use tokio::task::JoinSet;

use crate::logs::ContainerStdio;
use crate::scratch::Scratch;
use crate::sockets::Sockets;
use crate::wasm::{self, Listeners};
use crate::{Parts, TaskImage, plan, volumes};

/// The exit code that a shell would show when a step of ours failed.
const OURS: i32 = 125;

/// All that a start needs.
pub(crate) struct Start {
    pub(crate) parts: Arc<Parts>,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) furnish: Furnish,
    /// What was made already.
    pub(crate) furnishing: Option<Result<Furnishing, Failed>>,
    pub(crate) container: usize,
    pub(crate) image: TaskImage,
    pub(crate) sandbox: Sandbox,
    /// The network of its Wasm containers, where it has an interface.
    pub(crate) sockets: Option<Arc<Sockets>>,
    /// What is known of the container's life before this start.
    pub(crate) earlier: ContainerStatus,
}

/// How directories and streams of a container are made.
#[derive(Clone)]
pub(crate) struct Furnish {
    pub(crate) parts: Arc<Parts>,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) scratch: Scratch,
    pub(crate) container: usize,
    /// Whether it has a root of layers; else it is Wasm.
    pub(crate) has_root: bool,
}

/// Directories and streams of a container.
pub(crate) struct Furnishing {
    /// For what it writes; none for Wasm.
    dir: PathBuf,
    volumes: Vec<PathBuf>,
    streams: ContainerStdio,
}

/// A container that runs.
pub(crate) struct Started {
    pub(crate) handle: Arc<dyn Handle>,
    /// What takes its output.
    pub(crate) pumps: JoinSet<()>,
    /// The host's ports of its port mappings.
    pub(crate) host_ports: Vec<u16>,
    /// Whether it may leave something for the debugger.
    pub(crate) has_artifacts: bool,
}

/// Why a container was not started.
pub(crate) struct Failed {
    /// For people.
    pub(crate) reason: String,
    /// The exit code that a shell would show: 125, 126 or 127.
    pub(crate) shell_code: i32,
}

impl Failed {
    fn ours(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), shell_code: OURS }
    }

    fn of(error: &dyn std::error::Error) -> Self {
        Self::ours(chain(error))
    }
}

impl Start {
    /// Starts the container; on an error nothing of it is left.
    pub(crate) async fn run(mut self) -> Result<Started, Failed> {
        // Also of a container that is started again, perhaps under another policy than the first time.
        self.parts.policy.check(&self.spec.family, &self.spec.shape).map_err(|error| Failed::of(&error))?;
        let driver = self.driver()?;
        let (wasm, host_ports) = self.wasm().await?;
        let has_artifacts = wasm.as_ref().is_some_and(|wasm| wasm.artifacts.is_some());
        let (handle, pumps) = self.start(driver, wasm).await?;
        Ok(Started { handle, pumps, host_ports, has_artifacts })
    }

    fn driver(&self) -> Result<Arc<dyn Driver>, Failed> {
        match (&self.image.rootfs, &self.parts.containers) {
            (Rootfs::Wasm(_), _) => Ok(self.parts.wasm.clone()),
            (Rootfs::Layers(_), Some(driver)) => Ok(driver.clone()),
            (Rootfs::Layers(_), None) => Err(Failed::ours("containers cannot be run here")),
        }
    }

    /// What only a Wasm container has, and the host's ports of its listeners.
    async fn wasm(&self) -> Result<(Option<WasmSpec>, Vec<u16>), Failed> {
        let definition = &self.spec.shape.containers[self.container];
        if matches!(self.image.rootfs, Rootfs::Layers(_)) {
            return match definition.wasm == WasmOptions::default() {
                true => Ok((None, plan::host_ports(&self.spec, self.container))),
                false => Err(Failed::ours(
                    "the labels neargate.wasm.… say how a Wasm image is run, and this is none; take them away",
                )),
            };
        }
        let mut definition = definition.clone();
        // A container has the network of its task.
        definition.wasm.host_network |= self.spec.shape.network_mode == NetworkMode::Host;
        let definition = &definition;
        let own = self.sockets.as_ref().filter(|_| !definition.wasm.host_network);
        wasm::check(definition, self.parts.has_groups(), own.is_some()).map_err(Failed::ours)?;
        let Listeners { sockets: listeners, ports } = match own {
            Some(own) => {
                let sockets = own.listen(&definition.port_mappings).await;
                // The ports are its own, and none of the host's.
                Listeners { sockets: sockets.map_err(|error| Failed::of(&error))?, ports: Vec::new() }
            }
            None => self.listen_on_host(definition)?,
        };
        let own_port = |(mapping, port): (&PortMapping, &u16)| mapping.container_port == *port;
        let own_ports = definition.port_mappings.iter().zip(&ports).all(own_port);
        let options = &definition.wasm;
        let keeps = !options.no_core_dump || options.profile;
        let begin = || self.parts.artifacts.begin(&self.spec.id, &definition.name);
        let wasm = WasmSpec {
            options: options.clone(),
            tenant: wasm::tenant(&self.spec),
            files_of: wasm::files_of(definition, self.parts.files_of),
            listeners,
            own_ports,
            sockets: own.filter(|_| !options.no_network).map(|own| own.clone() as Arc<dyn TaskSockets>),
            attempt: self.earlier.restart_count + 1,
            deadline_ms: self.spec.deadline.and_then(|at| u64::try_from(at.as_millis()).ok()),
            artifacts: keeps.then(begin).transpose().map_err(|error| Failed::of(&error))?,
        };
        Ok((Some(wasm), ports))
    }

    /// Listens at the host's ports of a container, where it did before.
    fn listen_on_host(&self, definition: &ContainerDefinition) -> Result<Listeners, Failed> {
        let assigned = plan::host_ports(&self.spec, self.container);
        let earlier = Some(&self.earlier.host_ports).filter(|ports| !ports.is_empty()).unwrap_or(&assigned);
        wasm::listen(self.parts.listen_on, &definition.port_mappings, earlier)
            .map_err(|error| Failed::of(&error))
    }

    async fn start(
        &mut self,
        driver: Arc<dyn Driver>,
        wasm: Option<WasmSpec>,
    ) -> Result<(Arc<dyn Handle>, JoinSet<()>), Failed> {
        let furnishing = self.furnishing.take().unwrap_or_else(|| self.furnish.make())?;
        let Furnishing { dir, volumes, streams: ContainerStdio { stdio, pumps } } = furnishing;
        let (spec, image) = (&*self.spec, &self.image);
        let definition = &spec.shape.containers[self.container];
        let plan = ContainerSpec {
            id: spec.container_ids[self.container].clone(),
            task: spec.id.clone(),
            name: definition.name.clone(),
            rootfs: image.rootfs.clone(),
            argv: plan::argv(definition, image),
            env: plan::environment(definition, image, &self.told(wasm.as_ref())),
            working_dir: plan::working_dir(definition, image),
            user: definition.user.clone().or_else(|| image.user.clone()),
            limits: plan::limits(definition),
            ulimits: plan::ulimits(&definition.ulimits),
            read_only_root: definition.read_only_root,
            mounts: plan::mounts(spec, definition, &volumes),
            shm_bytes: definition.shared_memory_mib.map(|mib| u64::from(mib) << 20),
            capabilities_add: definition.capabilities_add.clone(),
            capabilities_drop: definition.capabilities_drop.clone(),
            privileges: plan::privileges(definition),
            init: definition.init,
            stdio,
            scratch: dir,
            names: plan::names(spec, definition),
            wasm,
        };
        if plan.argv.is_empty() {
            let reason = "no command is specified by the image or the definition".to_owned();
            return Err(Failed { reason, shell_code: 127 });
        }
        neargate_failpoint::reach("node::start::before");
        let handle = driver.start(plan, &self.sandbox).await;
        neargate_failpoint::reach("node::start::after");
        let failed = |error: StartError| Failed { reason: chain(&error), shell_code: shell_code(&error) };
        Ok((handle.map_err(failed)?, pumps))
    }
}

impl Start {
    /// What the container is told of its task. Only containers with an interface can ask there, and of Wasm those that
    /// may make sockets of it.
    fn told(&self, wasm: Option<&WasmSpec>) -> Vec<(String, String)> {
        let has_sockets = wasm.is_none_or(|wasm| wasm.sockets.is_some());
        let can_ask = self.spec.network.is_some() && has_sockets;
        let endpoints = self.parts.endpoints.as_ref().filter(|_| can_ask);
        endpoints.map(|endpoints| endpoints.variables(&self.spec, self.container)).unwrap_or_default()
    }
}

impl Furnish {
    /// Makes directories and streams; a few system calls each.
    pub(crate) fn make(&self) -> Result<Furnishing, Failed> {
        let (dir, volumes) = self.directories()?;
        neargate_failpoint::reach("node::scratch::after");
        let streams = match self.has_root {
            true => self.parts.stdio.open_lasting(&self.spec, self.container),
            false => self.parts.stdio.open(&self.spec, self.container),
        };
        Ok(Furnishing { dir, volumes, streams: streams.map_err(|error| Failed::of(&error))? })
    }

    fn directories(&self) -> Result<(PathBuf, Vec<PathBuf>), Failed> {
        let files = &*self.parts.files;
        let own = || self.scratch.container(self.container, files).map_err(|error| Failed::of(&error));
        let dir = if self.has_root { own()? } else { PathBuf::new() };
        let volume = |(index, volume): (usize, &Volume)| match (&volume.host_path, &volume.shared) {
            (Some(path), _) => Ok(PathBuf::from(path)),
            (None, Some(shared)) => {
                let (root, may_make) = (&self.parts.volumes, shared.autoprovision);
                volumes::shared(root, &self.spec, &volume.name, may_make, files)
                    .map_err(|error| Failed::of(&error))
            }
            (None, None) => self.scratch.volume(index, files).map_err(|error| Failed::of(&error)),
        };
        let volumes = self.spec.shape.volumes.iter().enumerate().map(volume).collect::<Result<_, _>>()?;
        Ok((dir, volumes))
    }
}

/// The exit code that a shell would show.
fn shell_code(error: &StartError) -> i32 {
    match error {
        StartError::NotFound { .. } => 127,
        StartError::NotExecutable { .. } => 126,
        StartError::UnknownUser { .. }
        | StartError::InvalidImage { .. }
        | StartError::Unsupported { .. }
        | StartError::Mount { .. }
        | StartError::System { .. }
        | StartError::Unavailable { .. } => OURS,
    }
}
