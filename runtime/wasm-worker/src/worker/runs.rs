//! The images and runs of a worker.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use neargate_wasm::protocol::{
    CodeInfo, FromWorker, HostReply, Preopen, RunPlan, StartFailure, Stop, ToWorker, WorkerSetup,
};
use tokio::sync::mpsc;
use wasmtime_wasi::FsPerms;

use super::control::ControlError;
use super::exit::KILLED_CODE;
use super::images::{Image, Loader};
use super::outgoing::Outgoing;
use super::run::Run;
use super::stop::{Stopper, stopping};
use super::thread::{self, Own};
use super::turns::Turns;
use crate::budget::{Account, Budget};
use crate::engine::Engines;
use crate::instance::{Directory, RunContext, RunParts, RunStdio};
use crate::testing;
use crate::upcall::{Open, Upcalls};

/// What the worker has.
pub(crate) struct Runs {
    loader: Loader,
    images: HashMap<u32, Arc<Image>>,
    images_max: usize,
    runs: Table,
    tasks: HashMap<String, Weak<Budget>>,
    outgoing: mpsc::Sender<Outgoing>,
    open: Arc<Open>,
    turns: Turns,
}

/// The runs that have not ended. A run takes itself out.
pub(crate) type Table = Arc<Mutex<HashMap<u64, Entry>>>;

/// A run as the server sees it.
pub(crate) struct Entry {
    context: Arc<RunContext>,
    stopper: Stopper,
}

impl Runs {
    pub(crate) fn new(setup: &WorkerSetup, engines: Engines, outgoing: mpsc::Sender<Outgoing>) -> Self {
        Self {
            loader: Loader::new(engines),
            images: HashMap::new(),
            images_max: setup.images_max as usize,
            runs: Table::default(),
            tasks: HashMap::new(),
            outgoing,
            open: Arc::default(),
            turns: Turns::new(),
        }
    }

    /// Who goes first among the guests of this thread.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Does what a message says.
    pub(crate) async fn take(&mut self, message: ToWorker, fds: Vec<OwnedFd>) -> Result<(), ControlError> {
        let expected = descriptors(&message);
        if fds.len() != expected {
            return Err(ControlError::Descriptors { found: fds.len(), expected });
        }
        match message {
            ToWorker::Load { image, code } => {
                let answer = self.load(image, code, fds);
                self.say(answer).await;
            }
            ToWorker::Unload { image } => drop(self.images.remove(&image)),
            ToWorker::Start { run, plan } => {
                if let Err(failure) = self.start(run, plan, fds) {
                    self.say(FromWorker::StartFailed { run, failure }).await;
                }
            }
            ToWorker::Stop { run, stop } => {
                if let Some(entry) = self.table().get(&run) {
                    entry.stopper.stop(stop);
                }
            }
            ToWorker::Stats { run } => {
                let usage = self.table().get(&run).map(|entry| entry.context.usage());
                if let Some(usage) = usage {
                    self.say(FromWorker::Usage { run, usage }).await;
                }
            }
            ToWorker::HostReply { call, reply } => self.open.answer(call, reply, fds.into_iter().next()),
        }
        Ok(())
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say(&self, message: FromWorker) {
        // An error means that the sending task has ended, and then the worker does too.
        let _ = self.outgoing.send(message.into()).await;
    }

    fn load(&mut self, image: u32, code: CodeInfo, fds: Vec<OwnedFd>) -> FromWorker {
        if self.images.len() >= self.images_max && !self.images.contains_key(&image) {
            let why = format!("{} images are loaded already", self.images.len());
            return FromWorker::LoadFailed { image, why };
        }
        let Some(file) = fds.into_iter().next() else {
            return FromWorker::LoadFailed { image, why: "no file came with it".into() };
        };
        match self.loader.load(code, file) {
            Ok(loaded) => {
                self.images.insert(image, Arc::new(loaded));
                FromWorker::Loaded { image }
            }
            Err(why) => FromWorker::LoadFailed { image, why },
        }
    }

    fn start(&mut self, run: u64, plan: RunPlan, fds: Vec<OwnedFd>) -> Result<(), StartFailure> {
        let ordered = Instant::now();
        if self.table().contains_key(&run) {
            return Err(StartFailure::NoEntry { why: "a run of this number runs already".into() });
        }
        let image = self.images.get(&plan.image).cloned();
        let image = image.ok_or_else(|| StartFailure::NoEntry { why: "the image is not loaded".into() })?;
        if self.table().len() >= self.loader.engines().runs_max() as usize {
            return Err(StartFailure::Full {});
        }
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| StartFailure::NoEntry { why: "it has no streams".into() });
        let stdio = [next()?, next()?, next()?];
        let listeners = fds.by_ref().take(plan.listeners as usize).collect();
        let cgroups = fds.collect();
        let own_thread = plan.own_thread;
        let turns = if own_thread { Turns::new() } else { self.turns.clone() };
        let system = |step: &str| {
            let step = step.to_owned();
            move |error: std::io::Error| StartFailure::System {
                step,
                errno: error.raw_os_error().unwrap_or(0),
            }
        };
        let account =
            Account { container: Arc::new(Budget::new(&plan.limits)), task: self.task_budget(&plan) };
        let stdio = RunStdio::new(stdio, &account).map_err(system("set up standard streams"))?;
        let (stopper, stop) = stopping();
        let directories = plan.preopens.iter().map(directory).collect();
        let context = Arc::new(RunContext::new(RunParts {
            run,
            image,
            account,
            stdio,
            upcalls: Upcalls::new(run, self.outgoing.clone(), Arc::clone(&self.open)),
            stop,
            ticker: Arc::clone(self.loader.engines().ticker()),
            turns: turns.clone(),
            directories,
            ordered,
            plan,
        }));
        let first = Run::new(Arc::clone(&context), listeners)?;
        self.table().insert(run, Entry { context, stopper });
        let (table, outgoing) = (Arc::clone(&self.runs), self.outgoing.clone());
        if own_thread {
            let own = Own { run, first, turns, cgroups, table, outgoing };
            thread::start(own).map_err(|error| {
                self.table().remove(&run);
                system("start a thread")(error)
            })?;
        } else {
            tokio::spawn(first.run_to_end(table, outgoing));
        }
        Ok(())
    }

    /// The budget that the runs of a task share; it lives as long as one of them.
    fn task_budget(&mut self, plan: &RunPlan) -> Arc<Budget> {
        self.tasks.retain(|_, budget| budget.strong_count() > 0);
        if let Some(budget) = self.tasks.get(&plan.task).and_then(Weak::upgrade) {
            return budget;
        }
        let budget = Arc::new(Budget::new(&plan.task_limits));
        self.tasks.insert(plan.task.clone(), Arc::downgrade(&budget));
        budget
    }
}

impl Drop for Runs {
    /// The worker ends. Runs of its main thread are dropped with its runtime; those on other threads are told.
    fn drop(&mut self) {
        for entry in self.table().values() {
            entry.stopper.stop(Stop::Kill { code: KILLED_CODE });
        }
    }
}

/// How many descriptors come with a message.
fn descriptors(message: &ToWorker) -> usize {
    match message {
        ToWorker::Load { .. } | ToWorker::HostReply { reply: HostReply::Socket {}, .. } => 1,
        ToWorker::Start { plan, .. } => {
            3_usize.saturating_add(plan.listeners as usize).saturating_add(plan.cgroups as usize)
        }
        ToWorker::Unload { .. }
        | ToWorker::Stop { .. }
        | ToWorker::Stats { .. }
        | ToWorker::HostReply { .. } => 0,
    }
}

fn directory(preopen: &Preopen) -> Directory {
    let perms = if preopen.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
    Directory { host: testing::below_root(&preopen.name), guest: preopen.guest.clone(), perms }
}
