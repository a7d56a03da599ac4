//! `neargate:task`: the function without standard streams and exit codes, on `wasm32-wasip2`.
//!
//! The interface is that of `runtime/wasm-worker/wit/task.wit`, but for what Rust programs have no use of.

// The generated code crosses into WebAssembly, which Rust cannot check.
#![allow(unsafe_code)]

wit_bindgen::generate!({
    inline: "
        package neargate:task@0.1.0;

        interface types {
          record ctx {
            task-id: string,
            attempt: u32,
            deadline-ms: option<u64>,
          }
          record task-error {
            code: string,
            message: string,
            retryable: bool,
          }
        }

        interface handler {
          use types.{ctx, task-error};
          handle: func(ctx: ctx, input: list<u8>) -> result<list<u8>, task-error>;
        }

        interface context {
          stop-requested: func() -> bool;
        }

        world task {
          import context;
          export handler;
        }
    ",
    world: "task",
    pub_export_macro: true,
    export_macro_name: "__export_neargate_task",
    default_bindings_module: "::neargate_task::handler",
});

pub use exports::neargate::task::handler::{Ctx, Guest, TaskError};
pub use neargate::task::context::stop_requested;

use crate::Error;

impl From<Error> for TaskError {
    fn from(error: Error) -> Self {
        let (code, message, retryable) = error.into_parts();
        Self { code: code.unwrap_or_default(), message, retryable }
    }
}
