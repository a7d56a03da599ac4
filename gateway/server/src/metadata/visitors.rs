//! What each task may use up here, by its address: connections, requests a second, and bodies on their way.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use neargate_model::Throttle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections of a task at a time: a pool of an SDK has ten.
const CONNECTIONS_MAX: usize = 32;
/// Requests of a task to AWS services whose bodies are on their way or that are being answered.
const CALLS_MAX: usize = 4;
/// The same of all tasks: of what is not checked yet, and so anybody's, half a gigabyte at most is held. A task that has
/// half as many as are left gets no more, so that a few do not take what others would begin with.
const CALLS_OF_ALL_MAX: usize = 128;
/// Requests about itself that a task may make a second, and at once (ECS Agent, `ECS_TASK_METADATA_RPS_LIMIT`).
const STEADY: f64 = 40.0;
const BURST: f64 = 60.0;
/// Addresses that are remembered before those that nobody uses are forgotten.
const QUIET_MAX: usize = 1024;

/// The tasks that have asked lately.
#[derive(Debug)]
pub(super) struct Visitors {
    known: Mutex<HashMap<Ipv4Addr, Visitor>>,
    calls: Arc<Semaphore>,
}

impl Default for Visitors {
    fn default() -> Self {
        Self { known: Mutex::default(), calls: Arc::new(Semaphore::new(CALLS_OF_ALL_MAX)) }
    }
}

/// A call to an AWS service on its way.
#[derive(Debug)]
pub(super) struct Call {
    _of_task: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Visitor {
    connections: usize,
    questions: Throttle,
    calls: Arc<Semaphore>,
}

/// A connection of a task.
#[derive(Debug)]
pub(super) struct Visit {
    visitors: Arc<Visitors>,
    pub(super) address: Ipv4Addr,
}

impl Visitors {
    fn known(&self) -> MutexGuard<'_, HashMap<Ipv4Addr, Visitor>> {
        // Every critical section leaves the map whole, so a panic elsewhere spoils nothing.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in; `None` if the task has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, address: Ipv4Addr, now: Instant) -> Option<Visit> {
        let mut known = self.known();
        if known.len() >= QUIET_MAX && !known.contains_key(&address) {
            known.retain(|_, visitor| visitor.connections > 0 || !visitor.questions.is_rested(now));
        }
        let visitor = known.entry(address).or_insert_with(|| Visitor::new(now));
        if visitor.connections >= CONNECTIONS_MAX {
            return None;
        }
        visitor.connections += 1;
        Some(Visit { visitors: self.clone(), address })
    }
}

impl Visit {
    /// Whether the task may ask once more about itself.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        self.visitors.known().get_mut(&self.address).is_some_and(|visitor| visitor.questions.admit(now))
    }

    /// Begins a call to an AWS service, behind those of the task that are on their way; `None` if all tasks together have
    /// too many.
    pub(super) async fn begin_call(&self) -> Option<Call> {
        let calls = self.visitors.known().get(&self.address).map(|visitor| visitor.calls.clone())?;
        // Never closed.
        let of_task = calls.clone().acquire_owned().await.ok()?;
        let others = CALLS_MAX - calls.available_permits() - 1;
        let all = &self.visitors.calls;
        if others >= all.available_permits().div_ceil(2) {
            return None;
        }
        Some(Call { _of_task: of_task, _of_all: all.clone().try_acquire_owned().ok()? })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(visitor) = self.visitors.known().get_mut(&self.address) {
            visitor.connections = visitor.connections.saturating_sub(1);
        }
    }
}

impl Visitor {
    fn new(now: Instant) -> Self {
        let (questions, calls) = (Throttle::new(STEADY, BURST, now), Arc::new(Semaphore::new(CALLS_MAX)));
        Self { connections: 0, questions, calls }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn one_task_takes_nothing_from_another() {
        let (visitors, now) = (Arc::new(Visitors::default()), Instant::now());
        let visits: Vec<Visit> = (0..CONNECTIONS_MAX).filter_map(|_| visitors.enter(ONE, now)).collect();
        assert_eq!(visits.len(), CONNECTIONS_MAX);
        assert!(visitors.enter(ONE, now).is_none());
        let other = visitors.enter(OTHER, now).unwrap();
        assert_eq!((0..100).filter(|_| visits[0].may_ask(now)).count(), 60);
        assert!(!visits[1].may_ask(now), "all connections of a task share its requests");
        assert!(other.may_ask(now));
        let later = now + Duration::from_millis(100);
        assert_eq!((0..100).filter(|_| visits[0].may_ask(later)).count(), 4);
        drop(visits);
        assert!(visitors.enter(ONE, now).is_some());
    }

    #[tokio::test]
    async fn calls_of_all_are_bounded_and_shared() {
        let (visitors, now) = (Arc::new(Visitors::default()), Instant::now());
        let mut calls = Vec::new();
        let task = |n: u32| visitors.enter(Ipv4Addr::from_bits(0x0b00_0000 + n), now).unwrap();
        let visits: Vec<Visit> = (0..100).map(task).collect();
        for visit in &visits {
            for _ in 0..CALLS_MAX {
                calls.extend(visit.begin_call().await);
            }
        }
        assert!(calls.len() <= CALLS_OF_ALL_MAX && calls.len() > CALLS_OF_ALL_MAX / 2, "{}", calls.len());
        drop(calls);
        let first = visits[0].begin_call().await;
        assert!(first.is_some(), "what has ended is given back");
        let mut rest = Vec::new();
        for _ in 1..CALLS_MAX {
            rest.extend(visits[0].begin_call().await);
        }
        assert_eq!(rest.len(), CALLS_MAX - 1);
        let one_more = tokio::time::timeout(Duration::from_millis(20), visits[0].begin_call()).await;
        assert!(one_more.is_err(), "a task waits behind its own");
    }

    #[test]
    fn who_rests_is_forgotten() {
        let (visitors, now) = (Arc::new(Visitors::default()), Instant::now());
        let stays = visitors.enter(ONE, now).unwrap();
        for n in 0..u32::try_from(QUIET_MAX).unwrap() * 2 {
            visitors.enter(Ipv4Addr::from_bits(0x0b00_0000 + n), now);
        }
        assert!(visitors.known().len() <= QUIET_MAX + 1);
        assert!(stays.may_ask(now));
    }
}
