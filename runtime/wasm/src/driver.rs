//! The driver contract for Wasm.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{
    ContainerSpec, Driver, Handle, Limits, ProcessError, ProcessNetwork, ProcessUser, RecoverError,
    Recovered, Rootfs, Sandbox, SandboxProcessHost, StartError, ThreadSlot, WasmModule, WasmSpec,
};
use neargate_model::{ContainerId, TaskId, WasmIsolation, chain};
use tokio::time::timeout;

use crate::calls;
use crate::code::{Code, ImageError, Library};
use crate::config::{Config, Parts, SetupError};
use crate::entry::{self, Listening};
use crate::handle::{Container, Spread};
use crate::jobs::Jobs;
use crate::plan::{self, Directories};
use crate::pool::{Need, Pool, Seat};
use crate::protocol::{Entry, EntryKind, FDS_MAX, Inspection, RunPlan};
use crate::worker::{Hosts, Order, Run, RunError};

/// Standard input, output and error.
const STREAMS: usize = 3;
/// How long the end of the workers is waited for at a shutdown.
const SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs Wasm containers in worker processes.
///
/// Workers end with the driver, so that [`Driver::recover`] finds nothing. Its methods are to be called on a tokio
/// runtime with I/O and time, which must live as long as the containers.
pub struct WasmDriver {
    shared: Arc<Shared>,
}

/// What is known of a binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// What the compiler saw of it.
    pub inspection: Inspection,
    /// Why it is never run, for people; `None` if it can be.
    pub refusal: Option<String>,
}

impl Inspected {
    /// What is run of it when no function is named.
    pub fn runs_as(&self) -> Option<&EntryKind> {
        entry::preferred(&self.inspection)
    }
}

/// What a driver and its containers have in common.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    library: Library,
    sandboxed: Option<Arc<dyn SandboxProcessHost>>,
    pub(crate) jobs: Jobs,
}

impl WasmDriver {
    /// A driver that runs nothing yet. No process is started before it is needed.
    pub fn new(config: Config, parts: Parts) -> Result<Self, SetupError> {
        let Parts { processes, sandbox_processes, key_values } = parts;
        let library = Library::open(&config, processes.clone())?;
        let jobs = Jobs::new();
        let hosts = Hosts { processes, sandboxed: sandbox_processes.clone() };
        let calls = Arc::new(calls::Shared::new(key_values));
        let pool = Pool::new(config, hosts, calls, jobs.clone());
        Ok(Self { shared: Arc::new(Shared { pool, library, jobs, sandboxed: sandbox_processes }) })
    }

    /// Starts a worker of a tenant that has none, for a task without directories and without a network that is about to
    /// come. What fails is told to that task, and a worker that nobody uses ends as any other.
    pub fn warm_up(&self, tenant: &str) {
        let Ok(task) = TaskId::new("0".repeat(32)) else { return };
        let need = Need {
            tenant: tenant.to_owned(),
            task,
            mounts: Vec::new(),
            user: ProcessUser::Nobody,
            network: ProcessNetwork::None,
            alone: None,
            digest: String::new(),
        };
        // The seat is free again at once; the worker comes all the same.
        drop(self.shared.pool.seat(&need));
    }

    /// What a binary is and how it can be run, whether or not it would be. It is compiled for that if it never was.
    ///
    /// Fails where nothing can be said of it: it is no Wasm, it is malformed, or it could not be looked at.
    pub async fn inspect(&self, module: &WasmModule) -> Result<Inspected, Arc<ImageError>> {
        let error = match self.shared.library.get(&self.shared.jobs, module).await {
            Ok(code) => return Ok(Inspected { inspection: code.inspection.clone(), refusal: None }),
            Err(error) => error,
        };
        match &*error {
            ImageError::Import { why, seen } | ImageError::NoEntry { why, seen } => {
                Ok(Inspected { inspection: (**seen).clone(), refusal: Some(why.clone()) })
            }
            _ => Err(error),
        }
    }

    /// Ends all workers, and with them what runs, and waits for that.
    pub async fn shut_down(&self) {
        self.shared.jobs.cancel();
        if timeout(SHUTDOWN, self.shared.jobs.wait()).await.is_err() {
            tracing::warn!("Wasm workers did not end in time");
        }
    }
}

impl Drop for WasmDriver {
    fn drop(&mut self) {
        self.shared.jobs.cancel();
    }
}

#[async_trait]
impl Driver for WasmDriver {
    async fn start(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Arc<dyn Handle>, StartError> {
        // What is needed of the futures below is large, and starts are rare beside what they start.
        Box::pin(self.shared.start(spec, sandbox)).await
    }

    async fn prepare(&self, rootfs: &Rootfs) -> Result<(), StartError> {
        match rootfs {
            Rootfs::Wasm(module) => self.shared.code(module).await.map(drop),
            Rootfs::Layers(_) => Ok(()),
        }
    }

    async fn recover(&self, _id: &ContainerId) -> Result<Option<Recovered>, RecoverError> {
        Ok(None)
    }
}

impl Shared {
    async fn code(&self, module: &WasmModule) -> Result<Arc<Code>, StartError> {
        self.library.get(&self.jobs, module).await.map_err(|error| error.to_start_error())
    }

    async fn start(
        self: &Arc<Self>,
        mut spec: ContainerSpec,
        sandbox: &Sandbox,
    ) -> Result<Arc<dyn Handle>, StartError> {
        let Rootfs::Wasm(module) = spec.rootfs.clone() else {
            return Err(unsupported(
                "an image of Linux layers",
                "the Wasm driver runs modules and components",
            ));
        };
        let Some(mut wasm) = spec.wasm.take() else {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "they are missing");
            return Err(StartError::System {
                step: "read the Wasm settings of the container".into(),
                source,
            });
        };
        let directories = directories(&mut spec).await?;
        let alone = self.alone(&spec, &wasm, sandbox)?;
        let need = need(&spec, &wasm, &directories, &module, alone);
        // A worker that has to be started is started while the code is being made.
        let seat = self.seat(&need)?;
        let code = self.code(&module).await?;
        entry::check_grants(&code.inspection, &wasm.options).map_err(invalid)?;
        let entry = entry::choose(&code.inspection, &wasm.options, listening(&wasm)).map_err(invalid)?;
        let control = &self.pool.config().control;
        let mut plan = plan::run(&spec, &wasm, &sandbox.limits, directories.preopens, entry, control);
        let slot = match plan.own_thread {
            true => self.thread_slot(sandbox, &spec.limits).await?,
            false => None,
        };
        plan.cgroups = slot.as_ref().map_or(0, |slot| slot.tasks.len() as u32);
        let listeners = std::mem::take(&mut wasm.listeners);
        let fds = descriptors(&plan, spec.stdio, listeners)?;
        let parts = match plan.entry {
            Entry::Http { .. } => plan::parts(&plan, self.pool.spread(&need)),
            _ => 1,
        };
        plan::divide(&mut plan, parts);
        let may = plan::permissions(&wasm);
        let order = Order { plan, fds, slot, code, artifacts: wasm.artifacts, may };
        let run = self.start_run(&order, &need, seat).await?;
        let (plan, code) = (order.plan.clone(), order.code.clone());
        let container = match parts {
            1 => Container::one(self.clone(), plan, code, run),
            _ => {
                let spread = Spread::start(self.clone(), need, order, run, parts);
                Container::spread(self.clone(), plan, code, spread)
            }
        };
        Ok(Arc::new(container))
    }

    /// The sandbox in which a container of the class `process` is alone in its worker.
    fn alone(
        &self,
        spec: &ContainerSpec,
        wasm: &WasmSpec,
        sandbox: &Sandbox,
    ) -> Result<Option<(Sandbox, Limits)>, StartError> {
        match wasm.options.isolation {
            WasmIsolation::Shared | WasmIsolation::Thread => Ok(None),
            WasmIsolation::Process if self.sandboxed.is_some() => {
                Ok(Some((sandbox.clone(), spec.limits.clone())))
            }
            WasmIsolation::Process => Err(unsupported(
                "the isolation class `process`",
                "it needs sandboxes, and these need root; use `thread` or `shared`",
            )),
        }
    }

    /// A place in the task's cgroup for a thread, where there are cgroups.
    async fn thread_slot(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
    ) -> Result<Option<Arc<ThreadSlot>>, StartError> {
        let Some(host) = &self.sandboxed else { return Ok(None) };
        let deadline = self.pool.config().deadlines.spawn;
        let error = match timeout(deadline, host.thread_slot(sandbox, limits)).await {
            Ok(Ok(slot)) => return Ok(Some(Arc::new(slot))),
            Ok(Err(ProcessError::Unsupported { what, why })) => {
                return Err(StartError::Unsupported { what, why });
            }
            Ok(Err(error)) => error,
            Err(_) => ProcessError::Unavailable { source: io::ErrorKind::TimedOut.into() },
        };
        let source = io::Error::other(chain(&error));
        Err(StartError::System { step: "make a place for the container's thread".into(), source })
    }

    fn seat(&self, need: &Need) -> Result<Seat, StartError> {
        self.pool.seat(need).map_err(|full| StartError::System {
            step: "take a place for a Wasm container".into(),
            source: io::Error::new(io::ErrorKind::QuotaExceeded, full.to_string()),
        })
    }

    /// Starts a run, in another worker if the first one ends before it has seen it.
    async fn start_run(&self, order: &Order, need: &Need, seat: Seat) -> Result<Arc<Run>, StartError> {
        match start_in(order, seat).await {
            Err(RunError::Lost(_)) => {}
            Err(RunError::Start(error)) => return Err(error),
            Ok(run) => return Ok(run),
        }
        match start_in(order, self.seat(need)?).await {
            Ok(run) => Ok(run),
            Err(error) => Err(error.into_start_error()),
        }
    }
}

/// Starts a run in the worker of its seat.
pub(crate) async fn start_in(order: &Order, mut seat: Seat) -> Result<Arc<Run>, RunError> {
    let worker = match seat.worker().await {
        Ok(worker) => worker,
        Err(error) => {
            let source = io::Error::other(chain(&*error));
            let step = "run a Wasm container".to_owned();
            return Err(RunError::Start(StartError::System { step, source }));
        }
    };
    worker.start(order, seat).await
}

/// Where a container can be reached, and whether it could listen there by itself.
fn listening(wasm: &WasmSpec) -> Listening {
    let has_network = plan::network(wasm) != ProcessNetwork::None;
    match (wasm.listeners.is_empty(), has_network, wasm.own_ports) {
        (true, _, _) => Listening::Nowhere,
        (false, false, _) => Listening::ForHandlers,
        (false, true, true) => Listening::OwnPorts,
        (false, true, false) => Listening::OtherPorts,
    }
}

async fn directories(spec: &mut ContainerSpec) -> Result<Directories, StartError> {
    if spec.mounts.is_empty() {
        return Ok(Directories::default());
    }
    let mounts = std::mem::take(&mut spec.mounts);
    // A directory may be on a file system that does not answer at once.
    match tokio::task::spawn_blocking(move || plan::directories(&mounts)).await {
        Ok(directories) => directories,
        Err(error) => {
            let source = io::Error::other(error);
            Err(StartError::System { step: "look at the container's directories".into(), source })
        }
    }
}

fn need(
    spec: &ContainerSpec,
    wasm: &WasmSpec,
    directories: &Directories,
    module: &WasmModule,
    alone: Option<(Sandbox, Limits)>,
) -> Need {
    Need {
        tenant: wasm.tenant.clone(),
        task: spec.task.clone(),
        mounts: directories.mounts.clone(),
        user: wasm.files_of,
        network: plan::network(wasm),
        alone,
        digest: module.digest.clone(),
    }
}

/// The descriptors of a run in the order of [`crate::protocol::ToWorker::Start`].
fn descriptors(
    plan: &RunPlan,
    stdio: neargate_driver::Stdio,
    listeners: Vec<OwnedFd>,
) -> Result<Vec<OwnedFd>, StartError> {
    let mut fds = vec![stdio.stdin, stdio.stdout, stdio.stderr];
    let room = FDS_MAX - STREAMS - plan.cgroups as usize;
    if plan.listeners as usize > room {
        let why = format!("at most {room} ports can be given");
        return Err(unsupported("so many port mappings of a Wasm container", &why));
    }
    if plan.listeners > 0 {
        fds.extend(listeners);
    }
    Ok(fds)
}

fn invalid(error: entry::EntryError) -> StartError {
    StartError::InvalidImage { why: error.to_string() }
}

fn unsupported(what: &str, why: &str) -> StartError {
    StartError::Unsupported { what: what.to_owned(), why: why.to_owned() }
}
