//! How the end of a guest is told.

use std::any::Any;

use neargate_wasm::protocol::Cause;
use wasmtime::Trap;
use wasmtime_wasi::I32Exit;

use super::trace;
use crate::instance::Ended;

/// Exit code of a trap: 128 + SIGABRT, as `wasmtime run` has it.
const TRAP_CODE: i32 = 134;
/// Exit code of a run that went over a limit: 128 + SIGKILL, as the kernel's OOM killer makes it.
pub(super) const KILLED_CODE: i32 = 137;
/// ECS's reason for such an end.
const OOM_REASON: &str = "OutOfMemoryError: Container killed due to memory usage";

/// How a run ended, without what it used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) code: i32,
    pub(super) cause: Cause,
    pub(super) reason: Option<String>,
}

impl End {
    /// It was asked to end.
    pub(super) fn stopped(code: i32) -> Self {
        Self { code, cause: Cause::Stopped {}, reason: None }
    }

    /// The worker's own code panicked on its behalf.
    pub(super) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let reason = format!("the worker panicked: {}", text.unwrap_or("without a message"));
        Self { code: TRAP_CODE, cause: Cause::Trap {}, reason: Some(reason) }
    }

    /// What a call came to; `Ok` holds its exit code.
    ///
    /// What counts as going over the memory limit: a limit does not end a guest, it makes `memory.grow` fail
    /// (returning -1), and what follows is the guest's choice. If the guest then traps, as an aborting
    /// allocator does, while its most recent attempt to grow was refused, the end is an OOM kill. A guest that
    /// exits with a code of its own, or that grew successfully later on, was not ended by the limit.
    pub(super) fn of_call(ended: &wasmtime::Result<i32>, growth_was_refused: bool) -> Self {
        let error = match ended {
            Ok(code) => return Self { code: *code, cause: Cause::Exit {}, reason: None },
            Err(error) => error,
        };
        if let Some(I32Exit(code)) = error.downcast_ref() {
            return Self { code: *code, cause: Cause::Exit {}, reason: None };
        }
        if let Some(ended) = error.downcast_ref::<Ended>() {
            let (code, cause) = match ended {
                Ended::CpuBudget { .. } => (KILLED_CODE, Cause::CpuBudget {}),
                Ended::Denied { .. } => (TRAP_CODE, Cause::Denied {}),
            };
            return Self { code, cause, reason: Some(ended.to_string()) };
        }
        if growth_was_refused {
            let reason = Some(OOM_REASON.to_owned());
            return Self { code: KILLED_CODE, cause: Cause::OutOfMemory {}, reason };
        }
        Self { code: TRAP_CODE, cause: Cause::Trap {}, reason: Some(reason(error)) }
    }
}

/// The trap's text and where it happened, innermost frame first.
pub(crate) fn reason(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    text.push_str(&trace::told(error.downcast_ref()));
    text
}
