//! wasmtime as we use it: its settings, the compiler, the compiled-code cache and the epoch.
//!
//! Knows nothing of containers. A process that only runs compiled code needs this module without
//! [`Engine::compile`].

mod cache;
mod kind;
mod ticker;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::Component;
use wasmtime::{InstanceAllocationStrategy, Module, PoolingAllocationConfig, WasmBacktraceDetails};

use cache::Cache;
pub use kind::WasmKind;
pub(crate) use ticker::{TICK, Ticker};

/// The largest Wasm binary that is compiled, in bytes. Language runtimes compiled to Wasm reach 50 MB.
const IMAGE_BYTES_MAX: u64 = 64 << 20;
/// The largest linear memory, in bytes: all that a 32-bit memory can address. Reserved, not used.
pub(crate) const MEMORY_BYTES_MAX: usize = 4 << 30;
/// Frames that a trap's backtrace holds.
const BACKTRACE_FRAMES_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not 0");
/// Instances with a garbage-collected heap at a time; each reserves as much address space as a memory.
const GC_HEAPS_MAX: u32 = 50;

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of compiled code; made with mode 0700 when missing.
    pub cache_dir: PathBuf,
    /// How much compiled code is kept in that directory, in bytes. 4 GiB unless changed.
    pub cache_bytes_max: u64,
    /// How many containers may run at a time; each reserves 4 GiB of address space, so about 30,000
    /// fit into a process. 1,000 unless changed.
    pub runs_max: u32,
    /// Threads that run guests; as many as there are cores unless changed.
    pub workers: usize,
    /// How many images are kept ready in memory. 128 unless changed.
    pub images_max: usize,
}

impl Config {
    /// The usual settings, with compiled code in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        let workers = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            cache_dir: cache_dir.into(),
            cache_bytes_max: 4 << 30,
            runs_max: 1000,
            workers,
            images_max: 128,
        }
    }
}

/// Why the driver could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The directory of compiled code cannot be used.
    #[error("use {} for compiled code", dir.display())]
    CacheDir {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// wasmtime did not accept its settings, or its pools did not fit into the address space.
    #[error("set up wasmtime: {why}")]
    Engine {
        /// wasmtime's words.
        why: String,
    },
    /// A thread could not be started.
    #[error("start {what}")]
    Thread {
        /// What for.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why an image cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It is no Wasm binary.
    #[error("the file is {what}")]
    NotWasm {
        /// What it is.
        what: String,
    },
    /// It is too large to be compiled.
    #[error("the file has {bytes} bytes, more than the {IMAGE_BYTES_MAX} that are compiled")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// It is not what its digest says.
    #[error("the file does not have the digest {digest}")]
    DigestMismatch {
        /// What it should have.
        digest: String,
    },
    /// It could not be read.
    #[error("read wasm binary")]
    Read {
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not valid, or uses what this engine does not have.
    #[error("compile: {why}")]
    Compile {
        /// wasmtime's words.
        why: String,
    },
    /// It imports what the host does not give.
    #[error("link: {why}")]
    Import {
        /// wasmtime's words, which name the import.
        why: String,
    },
    /// It is no program.
    #[error("{why}")]
    NoEntry {
        /// What is missing.
        why: &'static str,
    },
}

/// Compiled code that is not linked yet.
pub(crate) enum Binary {
    Module(Module),
    Component(Component),
}

/// The shared engine.
pub(crate) struct Engine {
    wasmtime: wasmtime::Engine,
    cache: Cache,
    ticker: Arc<Ticker>,
}

impl Engine {
    pub(crate) fn new(config: &Config) -> Result<Self, SetupError> {
        let wasmtime = wasmtime::Engine::new(&settings(config))
            .map_err(|error| SetupError::Engine { why: format!("{error:#}") })?;
        let cache = Cache::open(&config.cache_dir, config.cache_bytes_max, &wasmtime)?;
        let ticker = Ticker::start(&wasmtime)
            .map_err(|source| SetupError::Thread { what: "the thread of the epoch", source })?;
        Ok(Self { wasmtime, cache, ticker: Arc::new(ticker) })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    pub(crate) fn ticker(&self) -> &Arc<Ticker> {
        &self.ticker
    }

    /// The code of an image, from the cache or from the compiler. Blocks for as long as that takes.
    pub(crate) fn load(&self, path: &std::path::Path, digest: &str) -> Result<Binary, ImageError> {
        let read = |source| ImageError::Read { source };
        let mut file = std::fs::File::open(path).map_err(read)?;
        let bytes = file.metadata().map_err(read)?.len();
        if bytes > IMAGE_BYTES_MAX {
            return Err(ImageError::TooLarge { bytes });
        }
        // A text is told from its first line, so a little more than the preamble is read.
        let mut head = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(&mut file, 4096), &mut head).map_err(read)?;
        let kind = WasmKind::detect(&head)?;
        let mismatch = || ImageError::DigestMismatch { digest: digest.to_owned() };
        let image = parse_digest(digest).ok_or_else(mismatch)?;
        if let Some(binary) = self.cache.load(&self.wasmtime, &image, kind) {
            return Ok(binary);
        }
        io::Read::read_to_end(&mut io::Read::take(&mut file, IMAGE_BYTES_MAX), &mut head).map_err(read)?;
        if Sha256::digest(&head)[..] != image {
            return Err(mismatch());
        }
        self.compile(&head, kind, &image)
    }

    /// Compiles, keeps the result for the next time, and prefers what was kept: it is mapped from the
    /// file and its pages are shared.
    fn compile(&self, wasm: &[u8], kind: WasmKind, image: &[u8; 32]) -> Result<Binary, ImageError> {
        let fail = |error: wasmtime::Error| ImageError::Compile { why: format!("{error:#}") };
        let (binary, code) = match kind {
            WasmKind::Module => {
                let module = Module::from_binary(&self.wasmtime, wasm).map_err(fail)?;
                let code = module.serialize().map_err(fail)?;
                (Binary::Module(module), code)
            }
            WasmKind::Component => {
                let component = Component::from_binary(&self.wasmtime, wasm).map_err(fail)?;
                let code = component.serialize().map_err(fail)?;
                (Binary::Component(component), code)
            }
        };
        if let Err(error) = self.cache.store(image, &code) {
            tracing::warn!(%error, "keep compiled code");
            return Ok(binary);
        }
        Ok(self.cache.load(&self.wasmtime, image, kind).unwrap_or(binary))
    }
}

/// wasmtime's settings. What is not set here is at its default, which is what upstream fuzzes.
fn settings(config: &Config) -> wasmtime::Config {
    let runs = config.runs_max;
    let mut pool = PoolingAllocationConfig::new();
    // A component made from a preview 1 module consists of the program, an adapter and two shims; one run
    // may therefore take several core instances and tables but has, as a rule, one memory.
    pool.total_stacks(runs)
        .total_component_instances(runs)
        .total_core_instances(runs.saturating_mul(4))
        .total_memories(runs.saturating_add(runs / 4))
        .total_tables(runs.saturating_mul(4))
        .total_gc_heaps(GC_HEAPS_MAX.min(runs))
        .max_memory_size(MEMORY_BYTES_MAX)
        .max_memories_per_component(4)
        .max_memories_per_module(4)
        .max_tables_per_component(16)
        .max_tables_per_module(4)
        // 128 KiB kept resident doubles the rate of small programs (no page faults, no madvise).
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10);
    let mut settings = wasmtime::Config::new();
    settings
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_reservation(MEMORY_BYTES_MAX as u64)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES_MAX))
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        // Only WASI 0.3 needs it, and it makes calls between components slow.
        .concurrency_support(false);
    settings
}

/// The bytes of `sha256:` and 64 hexadecimal digits.
fn parse_digest(digest: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digest.strip_prefix("sha256:")?, &mut bytes).ok()?;
    Some(bytes)
}
