//! The Wasm driver: worker processes, what is said between them and the server, and compiled code.
//!
//! ```text
//!  driver      the contract of neargate-driver: start, prepare; what a container becomes (plan, entry)
//!    │ uses
//!  code        digest → compiled code: one file each, made once by a child that compiles
//!  pool        which worker runs what: one worker per tenant and core, others for tasks with directories
//!  worker      one worker process: its socket, the images it has loaded, its runs
//!  handle      a started container: a run, or one run on each core for an HTTP handler
//!  calls       what guests ask of the server: names, key-value buckets
//!  protocol    the messages
//!  interfaces  what a guest may import, and what must be granted
//! ```
//!
//! wasmtime is not in this crate, and so not in the process that holds the API: guests run in the processes of
//! `neargate-wasm-worker`, one thread each, behind fences. What such a process says is believed about its own
//! runs and about nothing else; one that ends, or says what cannot be, loses its own runs and no others.
//!
//! What a spec says about Linux alone means nothing to Wasm and is not looked at: `user`, `working_dir`
//! (relative paths are resolved against the mounted directories), `ulimits`, `capabilities_*`,
//! `read_only_root` (there is no root file system), `init`, `shm_bytes`, `cpu_shares`, `memory_reservation_bytes`,
//! `swap_bytes`, `swappiness`, `pids_max`.

#![forbid(unsafe_code)]

mod calls;
mod code;
mod config;
mod driver;
mod entry;
mod handle;
pub mod interfaces;
mod jobs;
mod key_values;
mod plan;
mod pool;
pub mod protocol;
mod worker;

pub use code::ImageError;
pub use config::{CompileLimits, Config, Deadlines, Parts, SetupError};
pub use driver::{Inspected, WasmDriver};
pub use key_values::{KEYS_PER_PAGE, KeyPage, KeyValueError, KeyValues};
