//! A started container.

mod check;
mod spread;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{
    ExecError, ExecSpec, Exit, Handle, Session, SessionSpec, Signal, SignalError, Stats, StatsError,
    WasmTimes,
};

use crate::code::Code;
use crate::driver::Shared;
use crate::protocol::{RunPlan, Stop, Usage};
use crate::worker::Run;

pub(crate) use spread::Spread;

/// The exit code of what was killed.
const KILLED: i32 = 137;

/// A container that runs or has run.
pub(crate) struct Container {
    shared: Arc<Shared>,
    /// What it was started with, for checks.
    plan: RunPlan,
    code: Arc<Code>,
    runs: Runs,
}

enum Runs {
    One(Arc<Run>),
    /// An HTTP handler, once on each core.
    Spread(Arc<Spread>),
}

impl Container {
    pub(crate) fn one(shared: Arc<Shared>, plan: RunPlan, code: Arc<Code>, run: Arc<Run>) -> Self {
        Self { shared, plan, code, runs: Runs::One(run) }
    }

    pub(crate) fn spread(shared: Arc<Shared>, plan: RunPlan, code: Arc<Code>, spread: Arc<Spread>) -> Self {
        Self { shared, plan, code, runs: Runs::Spread(spread) }
    }

    /// A run beside which a check can be run.
    fn running(&self) -> Option<Arc<Run>> {
        match &self.runs {
            Runs::One(run) => Some(run.clone()).filter(|run| !run.has_ended()),
            Runs::Spread(spread) => spread.running().into_iter().next(),
        }
    }
}

#[async_trait]
impl Handle for Container {
    async fn wait(&self) -> Exit {
        match &self.runs {
            Runs::One(run) => run.wait().await.into_exit(),
            Runs::Spread(spread) => spread.wait().await.into_exit(),
        }
    }

    /// Wasm has no signals. A stop is told to a guest that can know of it, and ends any other at once with the
    /// exit code of its signal.
    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        let stop = match signal {
            Signal::Stop(number) => Stop::Ask { code: 128 + number },
            Signal::Kill => Stop::Kill { code: KILLED },
        };
        let stopped: io::Result<()> = match &self.runs {
            Runs::One(run) => run.stop(stop).await,
            Runs::Spread(spread) => spread.stop(stop).await,
        };
        stopped.map_err(|source| SignalError { source })
    }

    async fn stats(&self) -> Result<Stats, StatsError> {
        let deadline = self.shared.pool.config().deadlines.stats;
        let (usage, running) = match &self.runs {
            Runs::One(run) => (run.usage(deadline).await, u32::from(!run.has_ended())),
            Runs::Spread(spread) => (spread.usage(deadline).await, spread.running().len() as u32),
        };
        Ok(stats(&usage, running))
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Exit, ExecError> {
        let run = self.running().ok_or(ExecError::NotRunning)?;
        Box::pin(check::run(&self.shared, &self.plan, &self.code, &run, spec)).await
    }

    async fn open(&self, _spec: SessionSpec) -> Result<Box<dyn Session>, ExecError> {
        let why = "a Wasm container holds its program and nothing else that could be run".to_owned();
        Err(ExecError::Unsupported { why })
    }
}

fn stats(usage: &Usage, running: u32) -> Stats {
    Stats {
        cpu_ns: usage.cpu_ns,
        memory_bytes: if running == 0 { 0 } else { usage.memory_bytes },
        memory_peak_bytes: usage.memory_peak_bytes,
        pids: running,
        wasm: Some(WasmTimes { instantiate_ns: usage.instantiate_ns, run_ns: usage.run_ns }),
    }
}
