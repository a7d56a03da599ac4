//! The driver contract for Wasm.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use neargate_driver::{
    ContainerSpec, Driver, ExecError, ExecSpec, Exit, Handle, Limits, Mount, MountSource, RecoverError,
    Rootfs, Sandbox, Signal, SignalError, StartError, Stats, StatsError, WasmModule,
};
use neargate_model::{ContainerId, TaskId};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wasmtime_wasi::FsPerms;

use crate::old::budget::{Account, Budget, Metered};
use crate::old::engine::{Config, ImageError, SetupError};
use crate::old::instance::{self, Code, Guest, GuestError, Preopen};
use crate::old::library::Library;

/// Runs Wasm containers in this process.
///
/// Guests run on threads of the driver's own, so one that computes without pause slows down other guests
/// and nobody else. Dropping the driver ends its guests; their exit code is then unknown.
pub struct WasmDriver {
    library: Arc<Library>,
    /// `None` only while the driver is dropped.
    runtime: Option<Runtime>,
    runs_max: u32,
    runs: Arc<Semaphore>,
    tasks: Mutex<HashMap<TaskId, Weak<Budget>>>,
}

impl WasmDriver {
    /// Sets up wasmtime and the threads that guests run on.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let library = Library::new(config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.workers.max(1))
            .thread_name("wasm")
            .enable_all()
            .build()
            .map_err(|source| SetupError::Thread { what: "the threads of the guests", source })?;
        Ok(Self {
            library: Arc::new(library),
            runtime: Some(runtime),
            runs_max: config.runs_max,
            runs: Arc::new(Semaphore::new(config.runs_max as usize)),
            tasks: Mutex::default(),
        })
    }

    /// Compiles and links an image unless that is done, so that no start has to wait for it; to be called
    /// when an image has been pulled or pushed.
    pub async fn prepare(&self, module: &WasmModule) -> Result<(), StartError> {
        self.code(module).await.map(drop)
    }

    async fn code(&self, module: &WasmModule) -> Result<Arc<Code>, StartError> {
        let runtime = self.runtime().handle();
        self.library.get(runtime, &module.path, &module.digest).await.map_err(|error| match error {
            ImageError::Read { source } => StartError::System { step: "read wasm binary".into(), source },
            error => StartError::InvalidImage { why: error.to_string() },
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is taken only by Drop")
    }

    fn take_slot(&self) -> Result<OwnedSemaphorePermit, StartError> {
        Arc::clone(&self.runs).try_acquire_owned().map_err(|_| StartError::System {
            step: "take a place for a Wasm container".into(),
            source: io::Error::new(io::ErrorKind::QuotaExceeded, format!("all {} are taken", self.runs_max)),
        })
    }

    /// The budget that the containers of a task share; it lives as long as one of them.
    fn task_budget(&self, sandbox: &Sandbox) -> Arc<Budget> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|_, budget| budget.strong_count() > 0);
        if let Some(budget) = tasks.get(&sandbox.task).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Budget::new(&sandbox.limits));
        tasks.insert(sandbox.task.clone(), Arc::downgrade(&budget));
        budget
    }

    /// Starts the guest on the driver's runtime.
    fn spawn(&self, code: Arc<Code>, guest: Guest, account: &Account, slot: OwnedSemaphorePermit) -> Run {
        let (ended, exit) = watch::channel(None);
        let (cancel, cancelled) = watch::channel(None);
        let library = Arc::clone(&self.library);
        let meter = Arc::clone(guest.meter());
        let run = async move {
            let exit = tokio::select! {
                biased;
                code = cancellation(cancelled) => Exit::code(code),
                exit = instance::run(library.engine().wasmtime(), &code, guest) => exit,
            };
            // The guest is gone here, and its descriptors and memory with it.
            drop((code, slot));
            ended.send_replace(Some(exit));
        };
        let ticker = Arc::clone(self.library.engine().ticker());
        self.runtime().spawn(Metered::new(run, meter, ticker));
        Run { exit, cancel, budget: Arc::clone(&account.container) }
    }
}

impl Drop for WasmDriver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for where it may be dropped: on another runtime's thread.
            runtime.shutdown_background();
        }
    }
}

/// Resolves to the exit code of a cancelled run; never, when nobody can cancel it any more.
async fn cancellation(mut cancelled: watch::Receiver<Option<i32>>) -> i32 {
    match cancelled.wait_for(Option::is_some).await.map(|code| *code) {
        Ok(Some(code)) => code,
        _ => std::future::pending().await,
    }
}

#[async_trait]
impl Driver for WasmDriver {
    async fn start(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Arc<dyn Handle>, StartError> {
        let Rootfs::Wasm(module) = &spec.rootfs else {
            return Err(StartError::Unsupported {
                what: "an image of Linux layers".into(),
                why: "the Wasm driver runs Wasm modules and components".into(),
            });
        };
        let preopens = preopens(&spec.mounts)?;
        let code = self.code(module).await?;
        let slot = self.take_slot()?;
        let account = Account { container: container_budget(&spec.limits), task: self.task_budget(sandbox) };
        let stdio = [spec.stdio.stdin, spec.stdio.stdout, spec.stdio.stderr];
        let env = last_of_each_name(spec.env);
        let guest =
            Guest::new(&spec.argv, &env, &preopens, stdio, account.clone()).map_err(|error| match error {
                GuestError::Stdio { source } => {
                    StartError::System { step: "set up standard streams".into(), source }
                }
                GuestError::Preopen { index, source } => StartError::Mount {
                    source_path: preopens[index].host.clone(),
                    target: preopens[index].guest.clone().into(),
                    source,
                },
            })?;
        Ok(Arc::new(self.spawn(code, guest, &account, slot)))
    }

    async fn recover(&self, _id: &ContainerId) -> Result<Option<Arc<dyn Handle>>, RecoverError> {
        Ok(None)
    }
}

fn container_budget(limits: &Limits) -> Arc<Budget> {
    Arc::new(Budget::new(limits))
}

/// WASI passes variables as a list; where a name occurs twice, only the later one is given.
fn last_of_each_name(env: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::with_capacity(env.len());
    let mut place: HashMap<String, usize> = HashMap::with_capacity(env.len());
    for (name, value) in env {
        match place.get(&name) {
            Some(index) => kept[*index].1 = value,
            None => {
                place.insert(name.clone(), kept.len());
                kept.push((name, value));
            }
        }
    }
    kept
}

/// The directories that a guest gets. Opening follows symbolic links of the host's path; inside, WASI
/// lets no path out.
fn preopens(mounts: &[Mount]) -> Result<Vec<Preopen>, StartError> {
    mounts.iter().map(preopen).collect()
}

fn preopen(mount: &Mount) -> Result<Preopen, StartError> {
    let unsupported = |what: &str, why: &str| StartError::Unsupported { what: what.into(), why: why.into() };
    let host = match &mount.source {
        MountSource::Host(path) => path.clone(),
        MountSource::Tmpfs { .. } => {
            return Err(unsupported(
                "a tmpfs in a Wasm container",
                "its size cannot be limited; use a volume",
            ));
        }
    };
    let guest = mount.target.to_str();
    let guest =
        guest.ok_or_else(|| unsupported("a mount target that is not UTF-8", "WASI paths are UTF-8"))?;
    if host.is_file() {
        return Err(unsupported("a single file as a mount of a Wasm container", "mount its directory"));
    }
    let perms = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
    Ok(Preopen { host, guest: guest.to_owned(), perms })
}

/// A started guest.
struct Run {
    exit: watch::Receiver<Option<Exit>>,
    cancel: watch::Sender<Option<i32>>,
    budget: Arc<Budget>,
}

impl Run {
    fn has_ended(&self) -> bool {
        self.exit.borrow().is_some() || self.exit.has_changed().is_err()
    }
}

#[async_trait]
impl Handle for Run {
    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await.map(|exit| exit.clone()) {
            Ok(Some(exit)) => exit,
            // The sender is gone without a word: the run panicked or the driver was dropped.
            _ => Exit { code: None, oom: false, reason: Some("the Wasm driver ended during the run".into()) },
        }
    }

    /// Wasm has no signals, so both kinds end the guest at once, between two of its instructions or in
    /// a host call. The first one decides the exit code.
    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        let code = match signal {
            Signal::Stop(number) => 128 + number,
            Signal::Kill => 137,
        };
        self.cancel.send_if_modified(|cancelled| {
            let first = cancelled.is_none();
            cancelled.get_or_insert(code);
            first
        });
        Ok(())
    }

    async fn stats(&self) -> Result<Stats, StatsError> {
        Ok(Stats {
            cpu_ns: self.budget.cpu_ns(),
            memory_bytes: self.budget.memory(),
            memory_peak_bytes: self.budget.memory_peak(),
            pids: u32::from(!self.has_ended()),
            wasm: None,
        })
    }

    async fn exec(&self, _spec: ExecSpec) -> Result<Exit, ExecError> {
        if self.has_ended() {
            return Err(ExecError::NotRunning);
        }
        Err(ExecError::Unsupported { why: "a Wasm container has one program and no shell".into() })
    }
}
