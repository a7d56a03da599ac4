//! The life of a slot's worker, from its start to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use neargate_model::TaskId;
use tokio::sync::{Notify, watch};

use super::{At, Group, Life, PAUSE_MAX, PAUSE_MIN, Pool, STEADY, Slot};
use crate::calls::Calls;
use crate::worker::{Fences, Loss, Retire, SpawnFailure, Worker, own, spawn};

/// A worker that only one task uses and that nobody uses is looked at after this at the latest.
const OWN_IDLE: Duration = Duration::from_secs(5);

impl Pool {
    /// The life of a slot's worker, which is started unless there is one.
    pub(super) fn living(
        self: &Arc<Self>,
        group_id: u64,
        group: &mut Group,
        index: usize,
    ) -> watch::Receiver<Life> {
        let slot = &mut group.slots[index];
        if let Some(life) = &slot.life {
            return life.clone();
        }
        slot.generation += 1;
        slot.idle_since = Instant::now();
        let (sender, life) = watch::channel(Life::Starting);
        slot.life = Some(life.clone());
        let job = Job {
            pool: self.clone(),
            at: At { group: group_id, slot: index, generation: slot.generation },
            fences: group.fences.clone(),
            core: slot.core,
            is_own: group.owner.is_some(),
            idle: slot.idle.clone(),
            not_before: slot.not_before,
        };
        self.jobs.spawn(job.run(sender));
        life
    }

    /// Gives a seat back.
    pub(super) fn leave(&self, at: At, task: Option<TaskId>) {
        let mut state = self.lock();
        let Some(group) = state.groups.get_mut(&at.group) else { return };
        let slot = &mut group.slots[at.slot];
        if slot.generation != at.generation || slot.life.is_none() {
            // The worker is gone, and with it all its seats.
            return;
        }
        slot.seats = slot.seats.saturating_sub(1);
        if slot.seats == 0 {
            slot.idle_since = Instant::now();
            slot.idle.notify_one();
        }
        if let Some(task) = task
            && let Some(place) = group.tasks.get_mut(&task)
        {
            place.seats = place.seats.saturating_sub(1);
            if place.seats == 0 {
                group.tasks.remove(&task);
            }
        }
    }

    /// Empties a slot whose worker ended, so that the next run gets another.
    fn clear(&self, at: At, failed_after: Option<Duration>) {
        let mut state = self.lock();
        let Some(group) = state.groups.get_mut(&at.group) else { return };
        let slot = &mut group.slots[at.slot];
        if slot.generation != at.generation {
            return;
        }
        slot.life = None;
        slot.seats = 0;
        slot.idle_since = Instant::now();
        slot.note_end(failed_after);
        group.tasks.retain(|_, place| place.slot != at.slot);
        state.remove_if_empty(at.group);
    }

    /// Empties a slot whose worker nobody needs.
    fn retire(&self, at: At, idle_min: Duration) -> bool {
        let mut state = self.lock();
        let Some(group) = state.groups.get_mut(&at.group) else { return true };
        let slot = &mut group.slots[at.slot];
        let is_idle = slot.seats == 0 && slot.idle_since.elapsed() >= idle_min;
        if slot.generation == at.generation && is_idle {
            slot.life = None;
            state.remove_if_empty(at.group);
        }
        is_idle
    }
}

impl Slot {
    /// A worker that ends unexpectedly once is started again at the next need; one that keeps ending, ever later.
    fn note_end(&mut self, failed_after: Option<Duration>) {
        self.failures = match failed_after {
            None => 0,
            Some(lived) if lived >= STEADY => 1,
            Some(_) => self.failures.saturating_add(1),
        };
        self.not_before = pause(self.failures).map(|pause| Instant::now() + pause);
    }
}

/// The pause after so many failures in a row.
fn pause(failures: u32) -> Option<Duration> {
    let doublings = failures.checked_sub(2)?.min(16);
    Some((PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX))
}

/// What owns a worker from its start to its end.
struct Job {
    pool: Arc<Pool>,
    at: At,
    fences: Fences,
    core: Option<usize>,
    is_own: bool,
    idle: Arc<Notify>,
    not_before: Option<Instant>,
}

impl Job {
    async fn run(self, life: watch::Sender<Life>) {
        let born = Instant::now();
        let (worker, process) = match self.start().await {
            Ok(started) => started,
            Err(error) => {
                let is_cancelled = matches!(error, SpawnFailure::Ended);
                // Whoever comes next finds the slot empty; who waits hears why.
                self.pool.clear(self.at, (!is_cancelled).then(|| born.elapsed()));
                life.send_replace(Life::Failed(Arc::new(error)));
                return;
            }
        };
        life.send_replace(Life::Ready(worker.clone()));
        let mut end = End { job: &self, worker: worker.clone(), born, loss: None };
        let calls = Calls { shared: self.pool.calls.clone(), tenant: self.fences.tenant.clone() };
        end.loss = Some(own(&worker, &process, &Arc::new(calls), &self, &self.pool.jobs).await);
    }

    async fn start(&self) -> Result<(Arc<Worker>, Arc<dyn neargate_driver::Process>), SpawnFailure> {
        let pool = &self.pool;
        let starting = async {
            if let Some(time) = self.not_before {
                tokio::time::sleep_until(time.into()).await;
            }
            spawn(&pool.hosts, &pool.config, &self.fences, self.core, pool.config.runs_max.max(1)).await
        };
        tokio::select! {
            started = starting => started,
            () = pool.jobs.cancelled() => Err(SpawnFailure::Ended),
        }
    }

    fn idle_min(&self) -> Duration {
        if self.is_own { Duration::ZERO } else { self.pool.config.worker_idle }
    }
}

impl Retire for Job {
    fn retire(&self) -> bool {
        self.pool.retire(self.at, self.idle_min())
    }

    async fn idle(&self) {
        match self.is_own {
            true => {
                let _ = tokio::time::timeout(OWN_IDLE, self.idle.notified()).await;
            }
            false => tokio::time::sleep(self.pool.config.worker_idle).await,
        }
    }
}

/// Whatever becomes of the owner, the slot is emptied and the runs hear of the end, in this order.
struct End<'a> {
    job: &'a Job,
    worker: Arc<Worker>,
    born: Instant,
    loss: Option<Loss>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let loss = self.loss.take().unwrap_or_else(|| Loss::unexpected("the server stopped watching it"));
        let failed_after = (!loss.intended).then(|| self.born.elapsed());
        self.job.pool.clear(self.job.at, failed_after);
        self.worker.lose(loss);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let check = |failures: u32, expect_ms: Option<u64>| {
            assert_eq!(pause(failures), expect_ms.map(Duration::from_millis), "{failures}");
        };
        check(0, None);
        check(1, None);
        check(2, Some(100));
        check(3, Some(200));
        check(8, Some(6_400));
        check(9, Some(10_000));
        check(u32::MAX, Some(10_000));
    }
}
