//! One run, from its plan to its exit.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use neargate_wasm::protocol::{Cause, Entry, FromWorker, RunExit, StartFailure};
use tokio::sync::mpsc;
use wasmtime::{Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::outgoing::Outgoing;
use super::runs::Table;
use crate::http::HttpRun;
use crate::instance::{Code, Ended, RunContext, State};

/// Frames of a trap's backtrace that are told.
const FRAMES_TOLD_MAX: usize = 8;
/// Exit code of a trap: 128 + SIGABRT, as `wasmtime run` has it.
const TRAP_CODE: i32 = 134;
/// Exit code of a run that went over a limit: 128 + SIGKILL, as the kernel's OOM killer makes it.
const KILLED_CODE: i32 = 137;
/// ECS's reason for such an end.
const OOM_REASON: &str = "OutOfMemoryError: Container killed due to memory usage";

/// A run that has all that it needs.
pub(crate) struct Run {
    context: Arc<RunContext>,
    program: Program,
}

/// What is run of the image.
enum Program {
    /// A call of this instance-to-be.
    Call(Store<State>),
    /// Requests, each with a store of its own.
    Http(Vec<OwnedFd>, Option<u32>),
}

/// An end without its usage.
struct End {
    code: i32,
    cause: Cause,
    reason: Option<String>,
}

impl End {
    fn exit(code: i32) -> Self {
        Self { code, cause: Cause::Exit {}, reason: None }
    }
}

impl Run {
    /// Makes the store of what is called once; whatever cannot be given to the guest shows here.
    pub(crate) fn new(
        context: Arc<RunContext>,
        listeners: Vec<OwnedFd>,
        cgroups: Vec<OwnedFd>,
    ) -> Result<Self, StartFailure> {
        drop(cgroups);
        let program = match (&context.plan().entry, context.code()) {
            (Entry::Http { reuse }, Code::Component(_)) => Program::Http(listeners, *reuse),
            (Entry::Http { .. } | Entry::Handler {}, Code::Module(_)) => {
                let why = "it is a core module, which has a program and functions of numbers".to_owned();
                return Err(StartFailure::NoEntry { why });
            }
            _ => Program::Call(context.new_store()?),
        };
        Ok(Self { context, program })
    }

    /// Runs, and tells the server. By then everything that the run had has been given back.
    pub(crate) async fn to_its_end(self, table: Table, outgoing: mpsc::Sender<Outgoing>) {
        let context = Arc::clone(&self.context);
        let run = context.run();
        let _ = outgoing.send(FromWorker::Started { run }.into()).await;
        let end = match AssertUnwindSafe(self.ended()).catch_unwind().await {
            Ok(end) => end,
            Err(panic) => End {
                code: TRAP_CODE,
                cause: Cause::Trap {},
                reason: Some(format!("the worker panicked: {}", panic_text(&*panic))),
            },
        };
        table.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
        let End { code, cause, reason } = end;
        let exit = RunExit { code, cause, reason, usage: context.usage(), attachments: Vec::new() };
        drop(context);
        let _ = outgoing.send(FromWorker::Exited { run, exit }.into()).await;
    }

    /// Runs until it ends by itself or is stopped.
    async fn ended(self) -> End {
        let Self { context, program } = self;
        let patient = match context.plan().entry {
            Entry::Http { .. } => true,
            _ => context.image().knows_stop,
        };
        let end = tokio::select! {
            biased;
            code = context.stop().final_code(patient) => {
                return End { code, cause: Cause::Stopped {}, reason: None };
            }
            end = run(&context, program) => end,
        };
        for output in &context.stdio().outputs {
            output.drain().await;
        }
        end
    }
}

async fn run(context: &Arc<RunContext>, program: Program) -> End {
    match program {
        Program::Http(listeners, reuse) => {
            let context = Arc::clone(context);
            match crate::http::serve(HttpRun { context, listeners, reuse }).await {
                Ok(()) => End { code: 0, cause: Cause::Stopped {}, reason: None },
                Err(error) => describe(Err(error), false),
            }
        }
        Program::Call(mut store) => {
            let meter = Arc::clone(store.data().meter());
            let ended = context.metered(&meter, call(&mut store, context)).await;
            describe(ended, store.data().growth_was_refused())
        }
    }
}

/// Instantiates and calls what the plan says; `Ok` holds the exit code.
async fn call(store: &mut Store<State>, context: &RunContext) -> wasmtime::Result<i32> {
    let pre = match context.code() {
        Code::Module(pre) => {
            if let Entry::Export { name } = &context.plan().entry {
                return crate::invoke::core_export(store, pre, context, name).await;
            }
            let instance = pre.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            context.instance_is_ready(context.age());
            start.call_async(store, ()).await?;
            return Ok(0);
        }
        Code::Component(pre) => pre,
    };
    match &context.plan().entry {
        Entry::Handler {} => crate::invoke::handler(store, pre, context).await,
        Entry::Export { name } => crate::invoke::export(store, pre, context, name).await,
        Entry::Command {} | Entry::Http { .. } => {
            let command = CommandPre::new(pre.clone())?.instantiate_async(&mut *store).await?;
            context.instance_is_ready(context.age());
            let ended = command.wasi_cli_run().call_run(store).await?;
            Ok(i32::from(ended.is_err()))
        }
    }
}

/// What counts as going over the memory limit: a limit does not end a guest, it makes `memory.grow` fail
/// (returning -1), and what follows is the guest's choice. If the guest then traps, as an aborting
/// allocator does, while its most recent attempt to grow was refused, the end is an OOM kill. A guest that
/// exits with a code of its own, or that grew successfully later on, was not ended by the limit.
fn describe(ended: wasmtime::Result<i32>, growth_was_refused: bool) -> End {
    let error = match ended {
        Ok(code) => return End::exit(code),
        Err(error) => error,
    };
    if let Some(I32Exit(code)) = error.downcast_ref() {
        return End::exit(*code);
    }
    if let Some(ended) = error.downcast_ref::<Ended>() {
        let (code, cause) = match ended {
            Ended::CpuBudget { .. } => (KILLED_CODE, Cause::CpuBudget {}),
            Ended::Denied { .. } => (TRAP_CODE, Cause::Denied {}),
        };
        return End { code, cause, reason: Some(ended.to_string()) };
    }
    if growth_was_refused {
        return End { code: KILLED_CODE, cause: Cause::OutOfMemory {}, reason: Some(OOM_REASON.to_owned()) };
    }
    End { code: TRAP_CODE, cause: Cause::Trap {}, reason: Some(reason(&error)) }
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

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
