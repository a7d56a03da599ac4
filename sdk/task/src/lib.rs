//! Write tasks in Rust: a function from input to output becomes a program.
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Order {
//!     item: String,
//!     count: u32,
//! }
//!
//! #[derive(Serialize)]
//! struct Receipt {
//!     text: String,
//! }
//!
//! #[neargate_task::task]
//! fn main(order: Order) -> Result<Receipt, neargate_task::Error> {
//!     if order.count == 0 {
//!         return Err(neargate_task::Error::new("nothing was ordered").code("EmptyOrder"));
//!     }
//!     Ok(Receipt { text: format!("{} x {}", order.count, order.item) })
//! }
//! ```
//!
//! Built for `wasm32-wasip1` or `wasm32-wasip2` it is a plain WASI program that Neargate, and any other
//! WASI host, can run; built natively it is a program to try out in a shell:
//!
//! ```text
//! $ echo '{"item": "tea", "count": 2}' | cargo run --quiet
//! {"text":"2 x tea"}
//! ```
//!
//! # What goes in and out
//!
//! * The input is the whole of standard input as one JSON value; an empty standard input is `null`. A
//!   function without a parameter leaves standard input alone.
//! * The output is one line of JSON on standard output, and the exit code is 0.
//! * An error is one line `{"error":{"message":"…","code":"…","retryable":true}}` on standard error, and the
//!   exit code is 1; there is a `code` only where one was given, and `retryable` only where it is true. Any
//!   error type that implements `Display` will do. An input that does not fit has the code `InvalidInput`.
//! * A panic ends the program as everywhere in Rust: exit code 101 natively, a trap (134) in Wasm.
//!
//! # As a function
//!
//! For `wasm32-wasip2` the same component also exports `neargate:task/handler`, a function from bytes to bytes or
//! an error. Neargate may call that instead of running the program, which saves setting up streams; input,
//! output and errors are the same. Other hosts see a program with one export more.
//!
//! The attribute refers to this crate as `neargate_task`, so it must not be renamed in `Cargo.toml`.

// `handler` is generated and crosses into WebAssembly.
#![deny(unsafe_code)]

mod error;
#[cfg(all(target_os = "wasi", target_env = "p2"))]
#[doc(hidden)]
#[allow(missing_docs)]
pub mod handler;
#[doc(hidden)]
pub mod run_time;

pub use error::Error;
pub use neargate_task_macros::task;

/// Whether the task has been asked to end: by `StopTask`, or because it was scaled away.
///
/// A task that calls this is given the time of its stop timeout to finish what it does; one that does not is
/// ended at once. On `wasm32-wasip2` it makes the component import `neargate:task/context`, which other hosts
/// do not have; for other targets it is always `false`.
pub fn stop_requested() -> bool {
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    return handler::stop_requested();
    #[cfg(not(all(target_os = "wasi", target_env = "p2")))]
    false
}

/// Exports a function from input to output as `neargate:task/handler`.
#[cfg(all(target_os = "wasi", target_env = "p2"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_handler {
    ($handle:expr) => {
        const _: () = {
            struct Handler;

            impl $crate::handler::Guest for Handler {
                fn handle(
                    _ctx: $crate::handler::Ctx,
                    input: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<::std::vec::Vec<u8>, $crate::handler::TaskError> {
                    ::std::result::Result::map_err($handle(input), ::std::convert::Into::into)
                }
            }

    $crate::handler::__export_neargate_task!(Handler with_types_in $crate::handler);
        };
    };
}

/// Other targets have no components.
#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_handler {
    ($handle:expr) => {};
}
