//! What runs Wasm: the roles of processes that hold nothing worth taking.
//!
//! ```text
//!  worker    the worker role: its loop, images, runs, how they end
//!    │ uses
//!  invoke    what of an image is called, other than its program
//!  http      `wasi:http`, served and sent        net   sockets and names, guarded
//!  host      `neargate:task`, `wasi:config`, `wasi:keyvalue`, `wasi:logging`
//!  instance  one store: what a guest is given, its limits, linked code
//!  engine    wasmtime's settings, compiled code, the epoch
//!  budget    CPU and memory of a run and of its task
//!  stdio     the three descriptors of a run as WASI streams
//!  upcall    what the worker asks of the server
//!  compile   the compiler role
//! ```
//!
//! A worker never compiles: it is handed compiled code, which only the compiler role has written. A guest
//! gets its arguments, its environment, three streams and the directories of its plan; it has no network
//! unless the plan says so, no host environment, no threads and no other files.

// `engine::code` maps compiled code, the one thing that wasmtime cannot check, and `net::handed` handles a signal; see
// there.
#![deny(unsafe_code)]

mod budget;
mod compile;
mod engine;
mod host;
mod http;
mod instance;
mod invoke;
mod net;
mod stdio;
pub mod testing;
mod upcall;
mod worker;

pub use compile::{compiler_id, compiler_main};
pub use engine::prepare;
pub use worker::worker_main;
