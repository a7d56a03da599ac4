//! How much each task may ask, so that none takes the resolver from the others.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use neargate_model::Throttle;

/// Messages a second that a task is answered, the number that Amazon has for an interface (VPC User Guide, "DNS
/// quotas"); as many may come at once.
const MESSAGES_PER_S: f64 = 1024.0;
/// Questions of a task that others are asked at a time.
const QUESTIONS_MAX: u32 = 64;
/// Questions of all tasks that others are asked at a time: each has a socket.
const ALL_QUESTIONS_MAX: u32 = 512;
/// Connections of a task.
const CONNECTIONS_MAX: u32 = 8;
/// Connections of all tasks.
const ALL_CONNECTIONS_MAX: u32 = 256;
/// Tasks of which something is remembered; of more, those that are silent are forgotten.
const TASKS_MAX: usize = 4096;

/// What is counted of all tasks; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Meters(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    tasks: HashMap<Ipv4Addr, Meter>,
    all: [u32; 2],
}

struct Meter {
    messages: Throttle,
    /// How many of each [`Thing`] it has.
    held: [u32; 2],
}

/// What a task has for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Thing {
    /// Others are asked something for it.
    Question = 0,
    /// It has a connection.
    Connection = 1,
}

impl Thing {
    /// How many a task may have, and how many all may.
    fn limits(self) -> (u32, u32) {
        match self {
            Self::Question => (QUESTIONS_MAX, ALL_QUESTIONS_MAX),
            Self::Connection => (CONNECTIONS_MAX, ALL_CONNECTIONS_MAX),
        }
    }
}

/// One thing that a task has, until this is dropped.
pub(crate) struct Held {
    meters: Meters,
    task: Ipv4Addr,
    thing: Thing,
}

impl Meters {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message of a task; `false` of one too many, which is not looked at.
    pub(crate) fn admit(&self, task: Ipv4Addr, now: Instant) -> bool {
        self.lock().meter(task, now).messages.admit(now)
    }

    /// Gives a task one thing more; `None` if it has enough, which is less the less is left: a few that take all they get
    /// must not take what others would begin with.
    pub(crate) fn hold(&self, task: Ipv4Addr, thing: Thing, now: Instant) -> Option<Held> {
        let mut state = self.lock();
        let (most, most_of_all) = thing.limits();
        let index = thing as usize;
        let share = most_of_all.saturating_sub(state.all[index]) / 2;
        if state.meter(task, now).held[index] >= most.min(share) {
            return None;
        }
        state.meter(task, now).held[index] += 1;
        state.all[index] += 1;
        Some(Held { meters: self.clone(), task, thing })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.meters.lock();
        let index = self.thing as usize;
        state.all[index] -= 1;
        if let Some(meter) = state.tasks.get_mut(&self.task) {
            meter.held[index] -= 1;
        }
    }
}

impl State {
    fn meter(&mut self, task: Ipv4Addr, now: Instant) -> &mut Meter {
        if self.tasks.len() >= TASKS_MAX && !self.tasks.contains_key(&task) {
            let is_busy = |meter: &Meter| meter.held != [0, 0] || !meter.messages.is_rested(now);
            self.tasks.retain(|_, meter| is_busy(meter));
        }
        let messages = Throttle::new(MESSAGES_PER_S, MESSAGES_PER_S, now);
        self.tasks.entry(task).or_insert(Meter { messages, held: [0, 0] })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TASK: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn messages_are_counted_for_each_task() {
        let (meters, start) = (Meters::default(), Instant::now());
        let sent = |task, at, count: u32| (0..count).filter(|_| meters.admit(task, at)).count();
        assert_eq!(sent(TASK, start, 2000), 1024);
        assert_eq!(sent(OTHER, start, 10), 10);
        assert_eq!(sent(TASK, start + Duration::from_millis(500), 2000), 512);
        assert_eq!(sent(TASK, start + Duration::from_secs(60), 2000), 1024);
    }

    #[test]
    fn things_are_given_back() {
        let (meters, now) = (Meters::default(), Instant::now());
        let hold = |task| meters.hold(task, Thing::Connection, now);
        let held: Vec<Held> = std::iter::from_fn(|| hold(TASK)).collect();
        assert_eq!(held.len(), 8);
        assert!(hold(OTHER).is_some());
        assert!(meters.hold(TASK, Thing::Question, now).is_some());
        drop(held);
        assert!(hold(TASK).is_some());
    }

    #[test]
    fn greedy_tasks_leave_something() {
        let (meters, now) = (Meters::default(), Instant::now());
        let hold = |task: u32, thing| meters.hold(Ipv4Addr::from_bits(task), thing, now);
        for (thing, greedy, most) in [(Thing::Question, 12, 512), (Thing::Connection, 33, 256)] {
            let all: Vec<Held> =
                (0..greedy).flat_map(|task| std::iter::from_fn(move || hold(task, thing))).collect();
            let newcomer = hold(1000, thing);
            assert!(newcomer.is_some(), "{thing:?}: {greedy} tasks have {}", all.len());
            let more: Vec<Held> = (0..500).filter_map(|task| hold(task, thing)).collect();
            assert!(all.len() + more.len() < most, "{thing:?}");
        }
    }

    #[test]
    fn silent_tasks_are_forgotten() {
        let (meters, start) = (Meters::default(), Instant::now());
        let held = meters.hold(TASK, Thing::Question, start);
        for number in 1..TASKS_MAX as u32 {
            assert!(meters.admit(Ipv4Addr::from_bits(number), start));
        }
        let later = start + Duration::from_secs(2);
        assert!(meters.admit(OTHER, later));
        assert_eq!(meters.lock().tasks.len(), 2);
        drop(held);
        assert_eq!(meters.lock().all, [0, 0]);
    }
}
