//! How the driver is set up, and what it is given.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{ProcessHost, SandboxProcessHost};

use crate::key_values::KeyValues;

/// How the driver is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of compiled code; made with mode 0700 when missing.
    pub code_dir: PathBuf,
    /// Whom that directory belongs to; code of anybody else is not used. The user of this process unless changed.
    pub code_owner: u32,
    /// How much compiled code is kept in that directory, in bytes. 4 GiB unless changed.
    pub code_bytes_max: u64,
    /// What compiles and what runs: `neargate_wasm_worker::compiler_id`. Code of another is not used.
    pub compiler_id: String,
    /// Worker processes that a tenant has at most, each pinned to a core unless there is one only; as many as
    /// there are cores unless changed.
    pub workers: usize,
    /// How many runs a worker may have at a time; each reserves 4 GiB of address space, so about 30,000 fit
    /// into a process. 1,000 unless changed.
    pub runs_max: u32,
    /// How many images a worker keeps loaded. 128 unless changed.
    pub images_max: u32,
    /// How long a worker without runs is kept. A minute unless changed.
    pub worker_idle: Duration,
    /// The most memory, in bytes, that a worker of a tenant may use, whatever its tasks may. None unless changed.
    pub worker_memory_bytes: Option<u64>,
    /// Where the server listens that runs the driver. A guest with the host's network reaches anything but these
    /// addresses; an unspecified one stands for its port on every address. None unless changed.
    pub control: Vec<SocketAddr>,
    /// What a compiler child may use.
    pub compile: CompileLimits,
    /// How long is waited.
    pub deadlines: Deadlines,
}

impl Config {
    /// The usual settings.
    pub fn new(code_dir: impl Into<PathBuf>, compiler_id: impl Into<String>) -> Self {
        Self {
            code_dir: code_dir.into(),
            code_owner: rustix::process::geteuid().as_raw(),
            code_bytes_max: 4 << 30,
            compiler_id: compiler_id.into(),
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            runs_max: 1000,
            images_max: 128,
            worker_idle: Duration::from_secs(60),
            worker_memory_bytes: None,
            control: Vec::new(),
            compile: CompileLimits::default(),
            deadlines: Deadlines::default(),
        }
    }
}

/// What a compiler child may use: a binary can be made to take as much as there is.
#[derive(Clone, Debug)]
pub struct CompileLimits {
    /// Children at a time.
    pub at_a_time: usize,
    /// How long one may take.
    pub wall: Duration,
    /// CPU time in seconds, over all its threads.
    pub cpu_seconds: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Largest binary, in bytes. Language runtimes compiled to Wasm reach 50 MB.
    pub wasm_bytes_max: u64,
    /// Largest code of one binary, in bytes.
    pub code_bytes_max: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            at_a_time: 1,
            wall: Duration::from_secs(60),
            cpu_seconds: 240,
            memory_bytes: 2 << 30,
            wasm_bytes_max: 64 << 20,
            code_bytes_max: 1 << 30,
        }
    }
}

/// How long is waited for a worker before it is given up.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// For the process, and as long again for its first message. 10 s.
    pub spawn: Duration,
    /// For code to be mapped and linked. 30 s.
    pub load: Duration,
    /// For a run's program to run. 30 s.
    pub start: Duration,
    /// For room in the worker's socket. 5 s.
    pub send: Duration,
    /// For usage; the last known is told after it. 1 s.
    pub stats: Duration,
    /// For a run to end when it was killed; the worker is killed after it. 10 s.
    pub kill: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            spawn: Duration::from_secs(10),
            load: Duration::from_secs(30),
            start: Duration::from_secs(30),
            send: Duration::from_secs(5),
            stats: Duration::from_secs(1),
            kill: Duration::from_secs(10),
        }
    }
}

/// What the driver is given by whoever assembles the program.
#[derive(Clone)]
pub struct Parts {
    /// Starts workers and compilers.
    pub processes: Arc<dyn ProcessHost>,
    /// Starts workers in the sandboxes of their tasks; `None` where there are none, as without root. Then there is
    /// no isolation class `process`, and threads of the class `thread` have no cgroup.
    pub sandbox_processes: Option<Arc<dyn SandboxProcessHost>>,
    /// Holds what guests keep with `wasi:keyvalue`.
    pub key_values: Arc<dyn KeyValues>,
}

/// Why the driver could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The directory of compiled code cannot be used.
    #[error("use {} for compiled code", dir.display())]
    CodeDir {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
}
