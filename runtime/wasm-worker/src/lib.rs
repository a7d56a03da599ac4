//! The Wasm driver: one container of a task as one wasmtime instance.
//!
//! ```text
//!  driver    the contract of neargate-driver: start, wait, signal, stats
//!    │ uses
//!  library   digest → linked code, compiled once, kept in memory
//!    │ uses
//!  engine    wasmtime set-up, compiler, compiled-code cache, epoch ticker
//!  instance  one run: linked code + what the spec gives it → Exit
//!  budget    CPU and memory of a run and of its task
//!  stdio     the three descriptors of a run as WASI streams
//! ```
//!
//! Accepted are components that export `wasi:cli/run` (WASI 0.2) and core modules that export `_start`
//! (WASI preview 1). Precompiled code, text and everything else is refused: precompiled code is native
//! code, and wasmtime cannot check it.
//!
//! A guest gets its arguments, its environment, three streams and the directories that its spec mounts;
//! it has no network, no host environment, no threads and no other files. What a spec says about Linux
//! alone means nothing to Wasm and is not looked at: `user`, `working_dir` (relative paths are resolved
//! against the mounted directories), `ulimits`, `capabilities_*`, `read_only_root` (there is no root file
//! system), `init`, `cpu_shares`, `memory_reservation_bytes`, `pids_max`.
//!
//! This form runs guests in the process that owns the [`WasmDriver`], on a runtime of the driver's own, so
//! they end with it and [`Driver::recover`](neargate_driver::Driver::recover) finds nothing.

// `engine::cache` maps compiled code, the one thing that wasmtime cannot check; see there.
#![deny(unsafe_code)]

mod budget;
mod driver;
mod engine;
mod instance;
mod library;
mod stdio;

pub use driver::WasmDriver;
pub use engine::{Config, ImageError, SetupError, WasmKind};
