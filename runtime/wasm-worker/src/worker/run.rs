//! One run, from its plan to its exit.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use neargate_wasm::protocol::{Attachment, Cause, Entry, FromWorker, RunExit, StartFailure};
use tokio::sync::mpsc;
use wasmtime::Store;

use super::exit::End;
use super::outgoing::Outgoing;
use super::remains::{self, Remains};
use super::runs::Table;
use crate::http::HttpRun;
use crate::instance::{Code, Ended, RunContext, State};

/// A run that has all that it needs.
pub(super) struct Run {
    context: Arc<RunContext>,
    what: What,
}

/// What is run of the image.
enum What {
    /// A call in this store.
    Call(Box<Store<State>>),
    /// Requests, each with a store of its own.
    Http(Vec<OwnedFd>, Option<u32>),
}

impl Run {
    /// Makes the store of what is called once; whatever cannot be given to the guest shows here.
    pub(super) fn new(context: Arc<RunContext>, listeners: Vec<OwnedFd>) -> Result<Self, StartFailure> {
        let (needed, granted) = (&context.image().grants, &context.plan().grants);
        if let Some(missing) = needed.iter().find(|grant| !granted.iter().any(|given| given == *grant)) {
            let why = Ended::Denied { what: format!("it imports `{missing}`, which") }.to_string();
            return Err(StartFailure::Import { why });
        }
        let what = match (&context.plan().entry, context.code()) {
            (Entry::Http { reuse }, Code::Component(_)) => What::Http(listeners, *reuse),
            (Entry::Http { .. } | Entry::Handler {}, Code::Module(_)) => {
                let why = "it is a core module, which has a program and functions of numbers".to_owned();
                return Err(StartFailure::NoEntry { why });
            }
            (Entry::Command {}, _) if let Err(why) = &context.image().program => {
                return Err(StartFailure::NoEntry { why: (*why).to_owned() });
            }
            _ => What::Call(Box::new(store(&context)?)),
        };
        Ok(Self { context, what })
    }

    /// Runs, and tells the server. By then everything that the run had has been given back.
    pub(super) async fn run_to_end(self, table: Table, outgoing: mpsc::Sender<Outgoing>) {
        let context = Arc::clone(&self.context);
        let run = context.run();
        // An error means that the worker ends, here and below.
        let _ = outgoing.send(FromWorker::Started { run }.into()).await;
        let mut panicked = false;
        let (end, remains) = AssertUnwindSafe(self.ended()).catch_unwind().await.unwrap_or_else(|panic| {
            panicked = true;
            (End::panicked(&*panic), Remains::new())
        });
        table.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
        let usage = context.usage();
        drop(context);
        let (attachments, fds) = remains.into_iter().unzip();
        let End { code, cause, reason } = end;
        let exit = RunExit { code, cause, reason, usage, attachments };
        let message = FromWorker::Exited { run, exit };
        let _ = outgoing.send(Outgoing { message, fds, then_end: panicked }).await;
    }

    /// Runs until it ends by itself or is stopped.
    async fn ended(self) -> (End, Remains) {
        let Self { context, what } = self;
        let patient = match context.plan().entry {
            Entry::Http { .. } => true,
            _ => context.image().knows_stop,
        };
        let end = tokio::select! {
            biased;
            code = context.stop().final_code(patient) => return (End::stopped(code), Remains::new()),
            end = end(&context, what) => end,
        };
        let drained = async {
            for output in &context.stdio().outputs {
                output.drain().await;
            }
        };
        // Whoever does not read the last words is not waited for after a kill.
        tokio::select! {
            () = drained => {}
            _ = context.stop().final_code(patient) => {}
        }
        end
    }
}

/// A store for a call; with a profiler when one is wanted.
fn store(context: &RunContext) -> Result<Store<State>, StartFailure> {
    let mut store = context.new_store()?;
    if context.plan().profile {
        let profiler = remains::profiler(context, crate::engine::TICK)
            .map_err(|_| StartFailure::System { step: "set up the profiler".into(), errno: 0 })?;
        store.data_mut().set_profiler(profiler);
    }
    Ok(store)
}

/// The end of what is run, when nobody stops it.
async fn end(context: &Arc<RunContext>, what: What) -> (End, Remains) {
    match what {
        What::Http(listeners, reuse) => {
            let http = HttpRun { context: Arc::clone(context), listeners, reuse };
            let end = tokio::select! {
                served = crate::http::serve(http) => match served {
                    Ok(()) => End::stopped(0),
                    Err(error) => End::of_call(&Err(error), false),
                },
                ended = context.cpu_is_used_up() => End::of_call(&Err(ended.into()), false),
            };
            (end, Remains::new())
        }
        What::Call(mut store) => {
            let meter = Arc::clone(store.data().meter());
            let ended = context.metered(&meter, call(&mut store, context)).await;
            let end = End::of_call(&ended, store.data().growth_was_refused());
            let remains = remains(context, &ended, &end, &mut store);
            (end, remains)
        }
    }
}

/// What the guest leaves. What cannot be kept is left out: the exit itself matters more.
fn remains(
    context: &RunContext,
    ended: &wasmtime::Result<i32>,
    end: &End,
    store: &mut Store<State>,
) -> Remains {
    let mut remains = Remains::new();
    let mut keep = |attachment, file: io::Result<Option<OwnedFd>>| match file {
        Ok(file) => remains.extend(file.map(|file| (attachment, file))),
        Err(error) => tracing::warn!(run = context.run(), %error, "keep what a run left"),
    };
    if let (Err(error), Cause::Trap {} | Cause::OutOfMemory {}, true) =
        (ended, &end.cause, context.plan().core_dump)
    {
        keep(Attachment::CoreDump {}, remains::core_dump(error, store, context));
    }
    if let Some(profiler) = store.data_mut().take_profiler() {
        keep(Attachment::Profile {}, remains::profile(*profiler).map(Some));
    }
    remains
}

/// Instantiates and calls what the plan says; `Ok` holds the exit code.
async fn call(store: &mut Store<State>, context: &RunContext) -> wasmtime::Result<i32> {
    match (&context.plan().entry, context.code()) {
        (Entry::Handler {}, Code::Component(pre)) => crate::invoke::handler(store, pre, context).await,
        (Entry::Export { name }, Code::Component(pre)) => {
            crate::invoke::export(store, pre, context, name).await
        }
        (Entry::Export { name }, Code::Module(pre)) => {
            crate::invoke::core_export(store, pre, context, name).await
        }
        _ => match &context.image().program {
            Ok(program) => program.run(store, || context.instance_is_ready(context.age())).await,
            Err(why) => Err(wasmtime::Error::msg(*why)),
        },
    }
}
