//! The driver's background work: owners of workers, the making of code, the parts of HTTP handlers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What runs on behalf of a driver. Clones share it.
#[derive(Clone)]
pub(crate) struct Jobs {
    shared: Arc<Shared>,
}

struct Shared {
    /// Ended ones are taken out when another is added, so it holds no more than ran at a time.
    set: Mutex<JoinSet<()>>,
    cancelled: watch::Sender<bool>,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        let shared = Shared { set: Mutex::default(), cancelled: watch::Sender::new(false) };
        Self { shared: Arc::new(shared) }
    }

    /// Runs a job on the caller's runtime.
    pub(crate) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.set();
        while set.try_join_next().is_some() {}
        set.spawn_on(job, &Handle::current());
    }

    /// Asks all jobs to end.
    pub(crate) fn cancel(&self) {
        self.shared.cancelled.send_replace(true);
    }

    /// Resolves once the jobs are to end.
    pub(crate) async fn cancelled(&self) {
        let mut cancelled = self.shared.cancelled.subscribe();
        // The sender is in `self`.
        let _ = cancelled.wait_for(|cancelled| *cancelled).await;
    }

    /// Waits until all jobs have ended, those too that are added meanwhile.
    pub(crate) async fn wait(&self) {
        loop {
            let mut set = std::mem::take(&mut *self.set());
            if set.is_empty() {
                return;
            }
            while set.join_next().await.is_some() {}
        }
    }

    fn set(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.shared.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
