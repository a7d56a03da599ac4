//! What all stores of a run have in common.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use neargate_wasm::protocol::{RunPlan, StartFailure, Usage};
use tokio::sync::Notify;
use wasmtime::{Store, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

use super::state::Memory;
use super::{Code, Ended, State};
use crate::budget::{Account, Meter, Metered};
use crate::engine::Ticker;
use crate::host::Host;
use crate::http::{Hooks, Sender};
use crate::net::{Policy, Resolver, Sockets};
use crate::stdio::{Input, Output};
use crate::upcall::Upcalls;
use crate::worker::{Image, Stopping, Turns};

/// Epochs between two looks at the clock: a guest is interrupted, and others get their turn, every millisecond.
const SLICE_EPOCHS: u64 = 1;
/// The most that a guest may hand to the host in one call, in bytes; wasmtime's default is 128 MiB.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// The most component handles of an instance; wasmtime's default is a million.
const HANDLES_MAX: usize = 10_000;
/// The most WASI resources (open files, streams, pollables) of an instance; wasmtime's default is a million.
const RESOURCES_MAX: usize = 10_000;
/// The most random bytes that a guest gets from one call; wasmtime's default is 64 MiB.
const RANDOM_BYTES_MAX: u64 = 1 << 20;
/// The most bytes of a set of HTTP headers; wasmtime's default is 128 KiB.
const FIELDS_BYTES_MAX: usize = 64 << 10;

/// The standard streams of a run. Its instances share them.
pub(crate) struct RunStdio {
    pub(crate) input: Input,
    pub(crate) outputs: [Output; 2],
}

/// What a run is made of.
pub(crate) struct RunParts {
    pub(crate) run: u64,
    pub(crate) plan: RunPlan,
    pub(crate) image: Arc<Image>,
    pub(crate) account: Account,
    pub(crate) stdio: RunStdio,
    pub(crate) upcalls: Upcalls,
    pub(crate) stop: Stopping,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) turns: Turns,
    pub(crate) directories: Vec<Directory>,
    /// When the order to start it arrived.
    pub(crate) ordered: Instant,
}

/// A directory that the guest sees.
pub(crate) struct Directory {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) perms: FsPerms,
}

/// What all stores of a run have in common. Shared by the tasks that serve the run.
pub(crate) struct RunContext {
    parts: RunParts,
    /// The environment with each name once.
    env: Vec<(String, String)>,
    /// Sends requests and looks up names, by the policy of the run.
    sender: Arc<Sender>,
    instantiate_ns: AtomicU64,
    requests: AtomicU64,
    /// Told when a CPU budget has been found used up.
    exhausted: Arc<Notify>,
}

impl RunContext {
    pub(crate) fn new(parts: RunParts) -> Self {
        let env = last_of_each_name(&parts.plan.env);
        let policy = Arc::new(Policy::of_plan(&parts.plan));
        let sockets = Sockets::new(policy.clone(), parts.upcalls.clone());
        let sender = Sender::new(Resolver::new(policy, parts.upcalls.clone()), sockets);
        Self {
            parts,
            env,
            sender,
            instantiate_ns: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            exhausted: Arc::default(),
        }
    }

    /// The number that the server gave the run.
    pub(crate) fn run(&self) -> u64 {
        self.parts.run
    }

    /// What the run is given.
    pub(crate) fn plan(&self) -> &RunPlan {
        &self.parts.plan
    }

    /// What is run.
    pub(crate) fn image(&self) -> &Image {
        &self.parts.image
    }

    /// Its linked code.
    pub(crate) fn code(&self) -> &Code {
        &self.parts.image.code
    }

    /// Its standard streams: for messages of the host's own, and for input and output of a call.
    pub(crate) fn stdio(&self) -> &RunStdio {
        &self.parts.stdio
    }

    /// Adds a text of the host's own to the run's standard error.
    pub(crate) fn log(&self, text: &str) {
        self.parts.stdio.outputs[1].note(text);
    }

    /// Asks the server on the run's behalf.
    pub(crate) fn upcalls(&self) -> &Upcalls {
        &self.parts.upcalls
    }

    /// Sends requests and looks up names, by the policy of the run.
    pub(crate) fn sender(&self) -> &Arc<Sender> {
        &self.sender
    }

    /// How the run learns that it is to end.
    pub(crate) fn stop(&self) -> &Stopping {
        &self.parts.stop
    }

    /// What the run may use. Host buffers that grow with a guest's behaviour are taken from it, and given back.
    pub(crate) fn account(&self) -> &Account {
        &self.parts.account
    }

    /// Waits until an instance of the run was ended because a CPU budget has been used up, and tells which.
    pub(crate) async fn cpu_is_used_up(&self) -> Ended {
        loop {
            self.exhausted.notified().await;
            if let Some((whose, budget)) = self.parts.account.exhausted() {
                return Ended::CpuBudget { whose, budget };
            }
        }
    }

    /// Counts a request that was answered.
    pub(crate) fn request_was_answered(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how long it took to make an instance ready.
    pub(crate) fn instance_is_ready(&self, took: Duration) {
        self.instantiate_ns.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Nanoseconds since the order to start arrived.
    pub(crate) fn age(&self) -> Duration {
        self.parts.ordered.elapsed()
    }

    /// What the run has used so far.
    pub(crate) fn usage(&self) -> Usage {
        let container = &self.parts.account.container;
        let instantiate_ns = self.instantiate_ns.load(Ordering::Relaxed);
        let age_ns = u64::try_from(self.age().as_nanos()).unwrap_or(u64::MAX);
        Usage {
            cpu_ns: container.cpu_ns(),
            memory_bytes: container.memory(),
            memory_peak_bytes: container.memory_peak(),
            instantiate_ns,
            run_ns: age_ns.saturating_sub(instantiate_ns),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }

    /// A fresh store, with limits set. Cheap enough for one per request; directories are opened anew for each.
    pub(crate) fn new_store(&self) -> Result<Store<State>, StartFailure> {
        let parts = &self.parts;
        let mut builder = WasiCtxBuilder::new();
        builder.args(&parts.plan.argv).envs(&self.env).max_random_size(RANDOM_BYTES_MAX);
        builder.stdin(parts.stdio.input.clone());
        builder.stdout(parts.stdio.outputs[0].clone()).stderr(parts.stdio.outputs[1].clone());
        for directory in &parts.directories {
            builder.preopened_dir(&directory.host, &directory.guest, directory.perms).map_err(|error| {
                StartFailure::Preopen { name: directory.guest.clone(), errno: errno(&error) }
            })?;
        }
        self.sender.resolver().policy().configure(&mut builder);
        let mut wasi = builder.build_p1();
        wasmtime_wasi::WasiView::ctx(&mut wasi).table.set_max_capacity(RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let state = State {
            wasi,
            http,
            hooks: Hooks::new(self),
            host: Host::new(self),
            memory: Memory::new(parts.account.clone()),
            meter: Meter::new(parts.account.clone()),
            profiler: None,
        };
        Ok(self.limited(Store::new(&parts.image.engine, state)))
    }

    fn limited(&self, mut store: Store<State>) -> Store<State> {
        store.limiter(State::limiter);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        store.set_epoch_deadline(SLICE_EPOCHS);
        let (account, turns) = (self.parts.account.clone(), self.parts.turns.clone());
        let exhausted = Arc::clone(&self.exhausted);
        store.epoch_deadline_callback(move |mut cx| {
            let lap = cx.data().meter().lap();
            if let Some(mut profiler) = cx.data_mut().take_profiler() {
                profiler.sample(&cx, lap.used);
                cx.data_mut().profiler = Some(profiler);
            }
            if let Some((whose, budget)) = account.exhausted() {
                exhausted.notify_one();
                return Err(Ended::CpuBudget { whose, budget }.into());
            }
            // Yielding also lets the select around the call see that it is to end.
            let turns = turns.clone();
            let pause = async move {
                if !lap.sleep.is_zero() {
                    tokio::time::sleep(lap.sleep).await;
                }
                match lap.heavy {
                    true => turns.wait().await,
                    false => tokio::task::yield_now().await,
                }
            };
            Ok(UpdateDeadline::YieldCustom(SLICE_EPOCHS, Box::pin(pause)))
        });
        store
    }

    /// Has heavy guests interrupted when something arrives at this socket: a connection or a request. Nothing has to
    /// be undone; closing the descriptor ends it.
    pub(crate) fn watch(&self, socket: BorrowedFd<'_>) {
        self.parts.ticker.watch(&socket);
    }

    /// What polls a guest in a store of the run goes through this, which charges its CPU time to the run, keeps
    /// the epoch going meanwhile and lets light guests come before heavy ones.
    pub(crate) fn metered<F: Future>(&self, store: &Arc<Meter>, future: F) -> Metered<F> {
        Metered::new(future, Arc::clone(store), Arc::clone(&self.parts.ticker), self.parts.turns.clone())
    }
}

/// The error number of a directory that could not be opened.
fn errno(error: &wasmtime::Error) -> i32 {
    error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error).unwrap_or(0)
}

/// WASI passes variables as a list; where a name occurs twice, only the later one is given.
fn last_of_each_name(env: &[(String, String)]) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::with_capacity(env.len());
    let mut place: HashMap<&str, usize> = HashMap::with_capacity(env.len());
    for (name, value) in env {
        match place.get(name.as_str()) {
            Some(index) => kept[*index].1.clone_from(value),
            None => {
                place.insert(name, kept.len());
                kept.push((name.clone(), value.clone()));
            }
        }
    }
    kept
}

impl RunStdio {
    /// The streams of these descriptors: input, output, errors. What waits in them is on the account.
    pub(crate) fn new(stdio: [OwnedFd; 3], account: &Account) -> io::Result<Self> {
        let [input, output, errors] = stdio;
        let outputs = [Output::new(output, account.clone())?, Output::new(errors, account.clone())?];
        Ok(Self { input: Input::new(input)?, outputs })
    }
}
