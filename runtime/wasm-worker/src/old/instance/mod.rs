//! One run: linked code and what the guest is given, to an [`Exit`].
//!
//! Knows nothing of the driver contract's handles, nor of files and digests.

mod link;
mod state;

use neargate_driver::Exit;
use wasmtime::{Store, Trap, UpdateDeadline, WasmBacktrace};
use wasmtime_wasi::I32Exit;

pub(crate) use link::{Code, Linkers};
pub(crate) use state::{Guest, GuestError, Preopen, State};

/// Epochs between two looks at the clock: a guest is interrupted, and others get their turn, every 10 ms.
const SLICE_EPOCHS: u64 = (10 / crate::old::engine::TICK.as_millis()) as u64;
/// The most that a guest may hand to the host in one call, in bytes; wasmtime's default is 128 MiB.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// The most component handles of a run; wasmtime's default is a million.
const HANDLES_MAX: usize = 10_000;
/// Frames of a trap's backtrace that are told.
const FRAMES_TOLD_MAX: usize = 8;
/// Exit code of a trap: 128 + SIGABRT, as `wasmtime run` has it.
const TRAP_CODE: i32 = 134;
/// Exit code of a run that went over its memory limit: 128 + SIGKILL, as the kernel's OOM killer makes it.
const OOM_CODE: i32 = 137;
/// ECS's reason for such an end.
const OOM_REASON: &str = "OutOfMemoryError: Container killed due to memory usage";

/// Runs a guest to its end. Dropping the future ends the guest where it is.
///
/// What counts as going over the memory limit: a limit does not end a guest, it makes `memory.grow` fail
/// (returning -1), and what follows is the guest's choice. If the guest then traps, as an aborting
/// allocator does, while its most recent attempt to grow was refused, the end is an OOM kill. A guest that
/// exits with a code of its own, or that grew successfully later on, was not ended by the limit.
pub(crate) async fn run(engine: &wasmtime::Engine, code: &Code, guest: Guest) -> Exit {
    let outputs = guest.outputs();
    let mut store = Store::new(engine, State::new(guest));
    store.limiter(|state| state.memory());
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    store.set_epoch_deadline(SLICE_EPOCHS);
    store.epoch_deadline_callback(|cx| {
        let sleep = cx.data().meter().lap();
        // Yielding also lets the select around this future see a cancellation.
        Ok(match sleep.is_zero() {
            true => UpdateDeadline::YieldCustom(SLICE_EPOCHS, Box::pin(tokio::task::yield_now())),
            false => UpdateDeadline::YieldCustom(SLICE_EPOCHS, Box::pin(tokio::time::sleep(sleep))),
        })
    });
    let ended = call(&mut store, code).await;
    let exit = describe(ended, store.data().growth_was_refused());
    drop(store);
    for output in outputs {
        output.drain().await;
    }
    exit
}

/// Instantiates and calls the program; `Ok` holds its exit code.
async fn call(store: &mut Store<State>, code: &Code) -> wasmtime::Result<i32> {
    match code {
        Code::Module(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(store, ()).await?;
            Ok(0)
        }
        Code::Component(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            let ended = command.wasi_cli_run().call_run(store).await?;
            Ok(i32::from(ended.is_err()))
        }
    }
}

fn describe(ended: wasmtime::Result<i32>, growth_was_refused: bool) -> Exit {
    let error = match ended {
        Ok(code) => return Exit::code(code),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return Exit::code(*code);
    }
    if growth_was_refused {
        return Exit { code: Some(OOM_CODE), oom: true, reason: Some(OOM_REASON.to_owned()) };
    }
    Exit { code: Some(TRAP_CODE), oom: false, reason: Some(reason(&error)) }
}

/// The trap's text and where it happened, innermost frame first.
fn reason(error: &wasmtime::Error) -> String {
    let mut text = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    for frame in frames.iter().take(FRAMES_TOLD_MAX) {
        let symbol = frame.symbols().first();
        let name = symbol.and_then(|symbol| symbol.name()).or_else(|| frame.func_name());
        text.push_str("\n  at ");
        match name {
            Some(name) => text.push_str(name),
            None => text.push_str(&format!("function {}", frame.func_index())),
        }
        if let Some((file, line)) = symbol.and_then(|symbol| Some((symbol.file()?, symbol.line()?))) {
            text.push_str(&format!(" ({file}:{line})"));
        }
    }
    if frames.len() > FRAMES_TOLD_MAX {
        text.push_str(&format!("\n  and {} more", frames.len() - FRAMES_TOLD_MAX));
    }
    text
}
