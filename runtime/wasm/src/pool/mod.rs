//! Which worker runs what.
//!
//! ```text
//!  group    workers with the same fences: a tenant's, one for each core; or a single one for the directories
//!    │      of a task, or for one container of the `process` class
//!  slot     [empty] → [starting] → [ready] → [empty], again and again
//!    │
//!  seat     a run's place in a slot; all seats of a task are in one slot, so that it has one budget
//! ```
//!
//! Workers are started when they are needed, one more is kept ready while all others are busy, and one that has been
//! idle for a while goes. One that keeps ending unexpectedly is started again ever more slowly.
//!
//! A container of a task that has runs with directories joins their worker if all its own directories are seen there.
//! Otherwise it gets another worker, and the task's budget then holds for each of them by itself.

mod choose;
mod life;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use neargate_driver::{Limits, ProcessMount, ProcessNetwork, ProcessUser, Sandbox};
use neargate_model::TaskId;
use tokio::sync::{Notify, watch};

use crate::calls;
use crate::config::Config;
use crate::jobs::Jobs;
use crate::worker::{Fences, Hosts, SpawnFailure, Worker};
use choose::{Candidate, Stage, choose};

/// Longest pause before a worker is started again that keeps ending.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The first pause; the first end costs none.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A worker that lived this long before it ended has not failed in a row.
const STEADY: Duration = Duration::from_secs(60);
/// Cores that a tenant's workers are spread over at most.
const SLOTS_MAX: usize = 256;

/// What a run needs of its worker.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) tenant: String,
    pub(crate) task: TaskId,
    pub(crate) mounts: Vec<ProcessMount>,
    pub(crate) user: ProcessUser,
    pub(crate) network: ProcessNetwork,
    /// The sandbox in which it is alone in its worker, with its limits there; `None` where others may join.
    pub(crate) alone: Option<(Sandbox, Limits)>,
    /// The image, which some workers have loaded already.
    pub(crate) digest: String,
}

/// Why there is no place for a run.
#[derive(Debug, thiserror::Error)]
#[error("all {0} places for Wasm containers are taken")]
pub(crate) struct Full(u32);

/// The workers.
pub(crate) struct Pool {
    config: Config,
    hosts: Hosts,
    calls: Arc<calls::Shared>,
    cores: Vec<usize>,
    state: Mutex<State>,
    jobs: Jobs,
}

#[derive(Default)]
struct State {
    next_group: u64,
    groups: HashMap<u64, Group>,
    /// The group of a tenant for each network that its tasks have. Who is handed sockets of networks of tasks must have
    /// none of the host's, which could be connected elsewhere, and so has other workers than the rest.
    tenants: HashMap<(String, ProcessNetwork), u64>,
    /// The groups that are a task's own.
    tasks: HashMap<TaskId, Vec<u64>>,
}

struct Group {
    fences: Fences,
    /// Whose own it is; `None` for a tenant's.
    owner: Option<TaskId>,
    /// Whether nothing else may join.
    alone: bool,
    slots: Vec<Slot>,
    /// Where the runs of each task are.
    tasks: HashMap<TaskId, TaskPlace>,
}

struct TaskPlace {
    slot: usize,
    seats: u32,
}

struct Slot {
    core: Option<usize>,
    /// Changes with each worker, so that what belonged to an earlier one is told apart.
    generation: u64,
    seats: u32,
    /// When its last seat was left, or its worker ended.
    idle_since: Instant,
    /// Tells the worker's owner that no seat is taken.
    idle: Arc<Notify>,
    life: Option<watch::Receiver<Life>>,
    failures: u32,
    not_before: Option<Instant>,
}

/// What is known of a slot's worker.
#[derive(Clone, Debug)]
enum Life {
    Starting,
    Ready(Arc<Worker>),
    Failed(Arc<SpawnFailure>),
}

/// A run's place; dropping it makes room.
pub(crate) struct Seat {
    pool: Arc<Pool>,
    at: At,
    /// The task that is held to the slot by it; `None` for further parts of a run.
    task: Option<TaskId>,
    life: watch::Receiver<Life>,
}

/// One worker in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    group: u64,
    slot: usize,
    generation: u64,
}

impl Pool {
    pub(crate) fn new(config: Config, hosts: Hosts, calls: Arc<calls::Shared>, jobs: Jobs) -> Arc<Self> {
        let cores = cores(config.workers);
        Arc::new(Self { config, hosts, calls, cores, state: Mutex::default(), jobs })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// How many workers a run of this need may be spread over.
    pub(crate) fn spread(&self, need: &Need) -> usize {
        if is_own(need) { 1 } else { self.cores.len() }
    }

    /// Takes the place for a run, starting a worker where that is needed.
    pub(crate) fn seat(self: &Arc<Self>, need: &Need) -> Result<Seat, Full> {
        let mut state = self.lock();
        let group_id = self.group(&mut state, need);
        let runs_max = self.config.runs_max.max(1);
        let group = state.groups.get_mut(&group_id).ok_or(Full(runs_max))?;
        let held = group.tasks.get(&need.task).map(|place| place.slot);
        let slot = match held {
            Some(slot) if group.slots[slot].seats < runs_max => Some(slot),
            Some(_) => None,
            None => choose(&group.candidates(&need.digest), runs_max),
        };
        let slot = slot.ok_or_else(|| Full(runs_max.saturating_mul(group.slots.len() as u32)))?;
        let place = group.tasks.entry(need.task.clone()).or_insert(TaskPlace { slot, seats: 0 });
        place.seats += 1;
        let seat = self.take(group_id, group, slot, Some(need.task.clone()));
        self.keep_a_spare(group_id, group);
        Ok(seat)
    }

    /// Takes a place for one more part of a run: the `part`-th of its group beside the run's first.
    pub(crate) fn seat_part(self: &Arc<Self>, need: &Need, first: At, part: usize) -> Result<Seat, Full> {
        let mut state = self.lock();
        let group_id = self.group(&mut state, need);
        let runs_max = self.config.runs_max.max(1);
        let group = state.groups.get_mut(&group_id).ok_or(Full(runs_max))?;
        let slot = (first.slot + part) % group.slots.len();
        if group.slots[slot].seats >= runs_max {
            return Err(Full(runs_max));
        }
        Ok(self.take(group_id, group, slot, None))
    }

    /// Takes a place in the very worker of another run; `None` when that is no more.
    pub(crate) fn seat_beside(self: &Arc<Self>, at: At) -> Option<Seat> {
        let mut state = self.lock();
        let group = state.groups.get_mut(&at.group)?;
        let slot = &group.slots[at.slot];
        let is_there = slot.generation == at.generation && slot.life.is_some();
        (is_there && slot.seats < self.config.runs_max).then(|| self.take(at.group, group, at.slot, None))
    }

    fn take(self: &Arc<Self>, group_id: u64, group: &mut Group, slot: usize, task: Option<TaskId>) -> Seat {
        let life = self.living(group_id, group, slot);
        let slot_state = &mut group.slots[slot];
        slot_state.seats += 1;
        let at = At { group: group_id, slot, generation: slot_state.generation };
        Seat { pool: self.clone(), at, task, life }
    }

    /// While all workers are busy, the next one is started before it is needed.
    fn keep_a_spare(self: &Arc<Self>, group_id: u64, group: &mut Group) {
        let is_spare = |slot: &Slot| slot.life.is_some() && slot.seats == 0;
        let now = Instant::now();
        let is_free = |slot: &Slot| slot.life.is_none() && slot.not_before.is_none_or(|time| time <= now);
        if !group.slots.iter().any(is_spare)
            && let Some(slot) = group.slots.iter().position(is_free)
        {
            self.living(group_id, group, slot);
        }
    }

    /// The group for a need, made when there is none.
    fn group(&self, state: &mut State, need: &Need) -> u64 {
        let found = match is_own(need) {
            false => {
                let key = (need.tenant.clone(), need.network);
                // A task that has a worker of its own stays there.
                state.own_group(need).or_else(|| state.tenants.get(&key).copied())
            }
            true => state.own_group(need),
        };
        found.unwrap_or_else(|| self.make_group(state, need))
    }

    fn make_group(&self, state: &mut State, need: &Need) -> u64 {
        state.remove_empty();
        state.next_group += 1;
        let id = state.next_group;
        let own = is_own(need);
        let fences = Fences {
            tenant: need.tenant.clone(),
            mounts: need.mounts.clone(),
            user: if need.mounts.is_empty() { ProcessUser::Nobody } else { need.user },
            network: need.network,
            sandbox: need.alone.clone(),
            memory_bytes: if own { None } else { self.config.worker_memory_bytes },
        };
        let slots = match own {
            // The kernel finds the best core for the only worker of a task or tenant.
            true => vec![Slot::new(None)],
            false if self.cores.len() == 1 => vec![Slot::new(None)],
            false => self.cores.iter().map(|core| Slot::new(Some(*core))).collect(),
        };
        let owner = own.then(|| need.task.clone());
        match &owner {
            Some(task) => state.tasks.entry(task.clone()).or_default().push(id),
            None => drop(state.tenants.insert((need.tenant.clone(), need.network), id)),
        }
        state
            .groups
            .insert(id, Group { fences, owner, alone: need.alone.is_some(), slots, tasks: HashMap::new() });
        id
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a need takes a worker that only one task uses.
fn is_own(need: &Need) -> bool {
    need.alone.is_some() || !need.mounts.is_empty()
}

impl State {
    /// A task's own group that a need may join.
    fn own_group(&self, need: &Need) -> Option<u64> {
        if need.alone.is_some() {
            return None;
        }
        let groups = self.tasks.get(&need.task)?;
        groups.iter().copied().find(|id| {
            self.groups.get(id).is_some_and(|group| {
                let fences = &group.fences;
                let sees = |mount: &ProcessMount| fences.mounts.contains(mount);
                !group.alone
                    && fences.network == need.network
                    && (need.mounts.is_empty() || fences.user == need.user)
                    && need.mounts.iter().all(sees)
            })
        })
    }

    /// Removes the groups that hold nothing and of which nothing needs to be remembered.
    fn remove_empty(&mut self) {
        let ids: Vec<u64> = self.groups.keys().copied().collect();
        for id in ids {
            self.remove_if_empty(id);
        }
    }

    fn remove_if_empty(&mut self, id: u64) {
        let Some(group) = self.groups.get(&id) else { return };
        // How often a tenant's worker has ended in a row is forgotten when that is long ago; a task's own
        // worker is started again when its containers are, which has pauses of its own.
        let is_remembered =
            |slot: &Slot| group.owner.is_none() && slot.failures > 0 && slot.idle_since.elapsed() < STEADY;
        let is_empty = |slot: &Slot| slot.life.is_none() && slot.seats == 0 && !is_remembered(slot);
        if !group.slots.iter().all(is_empty) {
            return;
        }
        let Some(group) = self.groups.remove(&id) else { return };
        match group.owner {
            None => drop(self.tenants.remove(&(group.fences.tenant, group.fences.network))),
            Some(task) => {
                if let Some(groups) = self.tasks.get_mut(&task) {
                    groups.retain(|other| *other != id);
                    if groups.is_empty() {
                        self.tasks.remove(&task);
                    }
                }
            }
        }
    }
}

impl Group {
    fn candidates(&self, digest: &str) -> Vec<Candidate> {
        self.slots.iter().map(|slot| slot.candidate(digest)).collect()
    }
}

impl Slot {
    fn new(core: Option<usize>) -> Self {
        Self {
            core,
            generation: 0,
            seats: 0,
            idle_since: Instant::now(),
            idle: Arc::default(),
            life: None,
            failures: 0,
            not_before: None,
        }
    }

    fn candidate(&self, digest: &str) -> Candidate {
        let life = self.life.as_ref().map(|life| life.borrow().clone());
        let (stage, has_image) = match life {
            Some(Life::Ready(worker)) => (Stage::Ready, worker.has_image(digest)),
            Some(Life::Starting) => (Stage::Starting, false),
            Some(Life::Failed(_)) | None => match self.not_before {
                Some(time) if time > Instant::now() => (Stage::Paused, false),
                _ => (Stage::Empty, false),
            },
        };
        Candidate { seats: self.seats, stage, has_image }
    }
}

impl Seat {
    /// Waits until the worker is ready.
    pub(crate) async fn worker(&mut self) -> Result<Arc<Worker>, Arc<SpawnFailure>> {
        let is_settled = |life: &Life| !matches!(life, Life::Starting);
        match self.life.wait_for(is_settled).await.map(|life| life.clone()) {
            Ok(Life::Ready(worker)) => Ok(worker),
            Ok(Life::Failed(error)) => Err(error),
            Ok(Life::Starting) | Err(_) => Err(Arc::new(SpawnFailure::Ended)),
        }
    }

    /// Which worker it is in.
    pub(crate) fn at(&self) -> At {
        self.at
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.leave(self.at, self.task.take());
    }
}

/// The cores that workers are pinned to: those that this process may use (sched_getaffinity(2)).
fn cores(workers: usize) -> Vec<usize> {
    let workers = workers.clamp(1, SLOTS_MAX);
    let usable: Vec<usize> = match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect(),
        Err(_) => Vec::new(),
    };
    match usable.is_empty() {
        true => (0..workers).collect(),
        false => usable.iter().copied().cycle().take(workers).collect(),
    }
}
