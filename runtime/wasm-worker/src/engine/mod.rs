//! wasmtime as we use it: its settings, compiled code, and the epoch.
//!
//! There are two engines, as support for concurrency (WASI 0.3) makes calls between components slow: one
//! without it for modules and for components of WASI 0.2, and one with it. Code is compiled for one of them.

mod code;
mod kind;
mod pool;
mod ticker;

pub use pool::prepare;

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use neargate_wasm::protocol::{EngineKind, WorkerSetup};
use wasmtime::{InstanceAllocationStrategy, WasmBacktraceDetails};

pub(crate) use code::{Binary, load};
pub(crate) use kind::detect;
pub(crate) use pool::PoolSize;
pub(crate) use ticker::{TICK, Ticker};

/// The largest linear memory, in bytes: all that a 32-bit memory can address. Reserved, not used.
pub(crate) const MEMORY_BYTES_MAX: usize = 4 << 30;
/// Frames that a trap's backtrace holds.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not 0");

/// Why the engines could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// wasmtime did not accept its settings, or its pools did not fit into the address space.
    #[error("set up wasmtime: {why}")]
    Engine {
        /// wasmtime's words.
        why: String,
    },
    /// A thread could not be started.
    #[error("start the thread of the epoch")]
    Thread {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The engines of a worker, which run compiled code and compile none.
pub(crate) struct Engines {
    sync: wasmtime::Engine,
    /// Made when the first image needs it: its pool costs milliseconds and address space.
    concurrent: OnceLock<wasmtime::Engine>,
    pool: PoolSize,
    ticker: Arc<Ticker>,
}

impl Engines {
    /// Sets up the first engine and starts the thread of the epoch.
    pub(crate) fn new(setup: &WorkerSetup) -> Result<Self, SetupError> {
        let pool = PoolSize::of_machine(setup);
        let sync = engine(&EngineKind::Sync {}, &pool)?;
        let ticker = Ticker::start(&sync).map_err(|source| SetupError::Thread { source })?;
        Ok(Self { sync, concurrent: OnceLock::new(), pool, ticker: Arc::new(ticker) })
    }

    /// The engine of a kind.
    pub(crate) fn get(&self, kind: &EngineKind) -> Result<&wasmtime::Engine, SetupError> {
        match kind {
            EngineKind::Sync {} => Ok(&self.sync),
            EngineKind::Concurrent {} => match self.concurrent.get() {
                Some(engine) => Ok(engine),
                None => {
                    let engine = engine(kind, &self.pool)?;
                    self.ticker.add(&engine);
                    Ok(self.concurrent.get_or_init(|| engine))
                }
            },
        }
    }

    /// What advances the epoch.
    pub(crate) fn ticker(&self) -> &Arc<Ticker> {
        &self.ticker
    }

    /// How many instances may exist at a time.
    pub(crate) fn runs_max(&self) -> u32 {
        self.pool.runs
    }
}

fn engine(kind: &EngineKind, pool: &PoolSize) -> Result<wasmtime::Engine, SetupError> {
    let mut settings = settings(kind);
    settings
        .enable_compiler(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool.allocation()))
        .coredump_on_trap(true)
        .with_custom_code_memory(Some(Arc::new(code::CodeProtection)));
    wasmtime::Engine::new(&settings).map_err(|error| SetupError::Engine { why: format!("{error:#}") })
}

/// The settings that the compiler role and the worker must have in common. What is not set here is at its
/// default, which is what upstream fuzzes.
///
/// So is `memory_init_cow`, which is on. Without it hello of WASI 0.2 runs 18,200 and 20,100 times a second where it
/// runs 18,800 and 11,300 times with it (two runs in turn, on a machine busy with other work), and an instance that waits
/// takes 80 KiB either way: no difference that shows. But a language runtime that was initialised
/// ahead has tens of megabytes in its image, which would be copied for each instance.
pub(crate) fn settings(kind: &EngineKind) -> wasmtime::Config {
    let mut settings = wasmtime::Config::new();
    settings
        .memory_reservation(MEMORY_BYTES_MAX as u64)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .concurrency_support(matches!(kind, EngineKind::Concurrent {}));
    settings
}
