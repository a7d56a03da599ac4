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
//! * An error is one line `{"error":{"message":"…","code":"…"}}` on standard error, and the exit code is 1;
//!   there is a `code` only where one was given. Any error type that implements `Display` will do. An input
//!   that does not fit has the code `InvalidInput`.
//! * A panic ends the program as everywhere in Rust: exit code 101 natively, a trap (134) in Wasm.
//!
//! The attribute refers to this crate as `neargate_task`, so it must not be renamed in `Cargo.toml`.

#![forbid(unsafe_code)]

mod error;
#[doc(hidden)]
pub mod run_time;

pub use error::Error;
pub use neargate_task_macros::task;
