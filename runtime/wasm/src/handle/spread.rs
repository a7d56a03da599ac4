//! An HTTP handler that runs once on each core.
//!
//! All parts accept at the same listening sockets. The container ends when it is told to, or when all its parts have
//! ended. A part that is lost with its worker is started again while another one goes on.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use neargate_model::chain;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::driver::{Shared, start_in};
use crate::pool::{At, Need};
use crate::protocol::{Stop, Usage};
use crate::worker::{Ended, Order, Run};

/// How often a part is tried to be started before its core goes without.
const TRIES: u32 = 5;
/// The pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// The parts of one container.
pub(crate) struct Spread {
    state: Mutex<State>,
    ended: watch::Sender<Option<Ended>>,
    first: At,
}

struct State {
    parts: Vec<Part>,
    /// How it is to end, once it is.
    stop: Option<Stop>,
}

#[derive(Default)]
struct Part {
    run: Option<Arc<Run>>,
    /// Whether it is about to run for the first time.
    is_coming: bool,
    /// What its earlier runs have used.
    past: Usage,
}

impl Spread {
    /// Adds parts to a first one that runs, without waiting for them.
    pub(crate) fn start(
        shared: Arc<Shared>,
        need: Need,
        order: Order,
        first: Arc<Run>,
        parts: u32,
    ) -> Arc<Self> {
        let coming = || Part { is_coming: true, ..Part::default() };
        let mut state = State { parts: (0..parts).map(|_| coming()).collect(), stop: None };
        state.parts[0] = Part { run: Some(first.clone()), ..Part::default() };
        let spread =
            Arc::new(Self { state: Mutex::new(state), ended: watch::Sender::new(None), first: first.at() });
        let keeper = Keeper { shared: shared.clone(), spread: spread.clone(), need, order };
        shared.jobs.spawn(keeper.run(first));
        spread
    }

    /// The parts that run.
    pub(crate) fn running(&self) -> Vec<Arc<Run>> {
        let state = self.lock();
        state.parts.iter().filter_map(|part| part.run.clone()).filter(|run| !run.has_ended()).collect()
    }

    pub(crate) async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(ended)) => ended,
            _ => Ended::unknown(),
        }
    }

    /// Tells all parts, and those that are being started.
    pub(crate) async fn stop(&self, stop: Stop) -> io::Result<()> {
        let runs: Vec<Arc<Run>> = {
            let mut state = self.lock();
            state.stop = Some(stop.clone());
            state.parts.iter().filter_map(|part| part.run.clone()).collect()
        };
        let mut stopping = JoinSet::new();
        for run in runs {
            let stop = stop.clone();
            stopping.spawn(async move { run.stop(stop).await });
        }
        let mut outcome = Ok(());
        while let Some(stopped) = stopping.join_next().await {
            outcome = outcome.and(stopped.unwrap_or_else(|error| Err(io::Error::other(error))));
        }
        outcome
    }

    /// What all parts have used together.
    pub(crate) async fn usage(&self, deadline: Duration) -> Usage {
        let (mut sum, runs) = {
            let state = self.lock();
            let past = state.parts.iter().fold(Usage::default(), |sum, part| add(sum, &part.past));
            let runs: Vec<_> = state.parts.iter().filter_map(|part| part.run.clone()).collect();
            (past, runs)
        };
        for run in runs {
            sum = add(sum, &run.usage(deadline).await);
        }
        sum
    }

    /// Notes that a part runs, and tells what to do if all should end.
    fn put(&self, part: usize, run: &Arc<Run>) -> Option<Stop> {
        let mut state = self.lock();
        let part = &mut state.parts[part];
        (part.run, part.is_coming) = (Some(run.clone()), false);
        state.stop.clone()
    }

    /// Notes that a part's core goes without.
    fn give_up(&self, part: usize) {
        self.lock().parts[part].is_coming = false;
    }

    /// Notes that a part's run ended, and tells whether it should be started again: where all others are lost too,
    /// the handler itself may be the reason.
    fn take_out(&self, part: usize, usage: &Usage, ended: &Ended) -> bool {
        let mut state = self.lock();
        let gone = &mut state.parts[part];
        gone.run = None;
        gone.past = add(std::mem::take(&mut gone.past), &Usage { memory_bytes: 0, ..usage.clone() });
        let others_go_on = state.parts.iter().any(|part| part.run.is_some() || part.is_coming);
        ended.is_loss && state.stop.is_none() && others_go_on
    }

    fn is_stopping(&self) -> bool {
        self.lock().stop.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to the parts until the last has ended.
struct Keeper {
    shared: Arc<Shared>,
    spread: Arc<Spread>,
    need: Need,
    /// It keeps the descriptors, for parts that have to be started again.
    order: Order,
}

impl Keeper {
    async fn run(self, first: Arc<Run>) {
        let spread = self.spread.clone();
        let keeper = Arc::new(self);
        let count = keeper.spread.lock().parts.len();
        let mut parts = JoinSet::new();
        let mut first = Some(first);
        for part in 0..count {
            parts.spawn(Self::keep(keeper.clone(), part, first.take()));
        }
        // The descriptors go with the last part, before the end is told: who reads the other ends waits for it.
        drop(keeper);
        let mut end: Option<Ended> = None;
        while let Some(ended) = parts.join_next().await {
            if let Ok(Some(ended)) = ended
                && end.as_ref().is_none_or(|end| end.is_loss)
            {
                end = Some(ended);
            }
        }
        spread.ended.send_replace(Some(end.unwrap_or_else(Ended::unknown)));
    }

    /// Keeps one part running; tells how it ended, or nothing if it never ran.
    async fn keep(keeper: Arc<Self>, part: usize, mut run: Option<Arc<Run>>) -> Option<Ended> {
        let mut end = None;
        loop {
            let running = match run.take() {
                Some(run) => run,
                None => match keeper.start(part).await {
                    Some(run) => run,
                    None => {
                        keeper.spread.give_up(part);
                        return end;
                    }
                },
            };
            let ended = running.wait().await;
            let usage = running.usage(Duration::ZERO).await;
            let again = keeper.spread.take_out(part, &usage, &ended);
            end = Some(ended);
            if !again {
                return end;
            }
        }
    }

    async fn start(&self, part: usize) -> Option<Arc<Run>> {
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            if self.spread.is_stopping() {
                return None;
            }
            match self.try_start(part).await {
                Ok(run) => {
                    if let Some(stop) = self.spread.put(part, &run) {
                        // An error means that its worker is ending, and it with it.
                        let _ = run.stop(stop).await;
                    }
                    return Some(run);
                }
                Err(why) => {
                    tracing::debug!(task = %self.need.task, part, attempt, why, "start a part of an HTTP handler");
                    if attempt == TRIES {
                        tracing::warn!(task = %self.need.task, part, why, "an HTTP handler goes without a core");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        None
    }

    async fn try_start(&self, part: usize) -> Result<Arc<Run>, String> {
        let pool = &self.shared.pool;
        let seat = pool.seat_part(&self.need, self.spread.first, part).map_err(|full| full.to_string())?;
        start_in(&self.order, seat).await.map_err(|error| chain(&error.into_start_error()))
    }
}

fn add(sum: Usage, part: &Usage) -> Usage {
    Usage {
        cpu_ns: sum.cpu_ns.saturating_add(part.cpu_ns),
        memory_bytes: sum.memory_bytes.saturating_add(part.memory_bytes),
        memory_peak_bytes: sum.memory_peak_bytes.saturating_add(part.memory_peak_bytes),
        instantiate_ns: sum.instantiate_ns.max(part.instantiate_ns),
        run_ns: sum.run_ns.max(part.run_ns),
        requests: sum.requests.saturating_add(part.requests),
    }
}
