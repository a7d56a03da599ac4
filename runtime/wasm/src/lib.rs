//! The Wasm driver: worker processes, what is said between them and the server, and compiled code.
//!
//! wasmtime is not in this crate, and so not in the process that holds the API: guests run in the processes of
//! `neargate-wasm-worker`, one thread each, behind fences.

#![forbid(unsafe_code)]

pub mod interfaces;
pub mod protocol;
