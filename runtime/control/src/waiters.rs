//! Who waits for a change of a task.
//!
//! The store tells its watches of every commit, whatever it changes; with a thousand of them each commit would wake a
//! thousand tasks. Here a change wakes those who wait for that very task.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use neargate_model::TaskKey;
use tokio::sync::watch;

/// The tasks that somebody waits for.
#[derive(Clone, Default)]
pub(crate) struct Waiters(Arc<Mutex<HashMap<TaskKey, watch::Sender<()>>>>);

/// Hears of the changes of one task.
pub(crate) struct Listener {
    waiters: Waiters,
    key: TaskKey,
    changes: watch::Receiver<()>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskKey, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of what [`tell`](Self::tell) tells from now on.
    pub(crate) fn listen(&self, key: &TaskKey) -> Listener {
        let changes = match self.lock().entry(key.clone()) {
            Entry::Occupied(sender) => sender.get().subscribe(),
            Entry::Vacant(place) => place.insert(watch::Sender::new(())).subscribe(),
        };
        Listener { waiters: self.clone(), key: key.clone(), changes }
    }

    /// Tells that a task has changed.
    pub(crate) fn tell(&self, key: &TaskKey) {
        if let Some(sender) = self.lock().get(key) {
            sender.send_replace(());
        }
    }
}

impl Listener {
    /// Returns once the task has changed since the last call or, at the first, since it was begun to listen.
    pub(crate) async fn next(&mut self) {
        // The sender stays as long as somebody listens.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut tasks = self.waiters.lock();
        if let Entry::Occupied(sender) = tasks.entry(self.key.clone())
            && sender.get().receiver_count() == 1
        {
            sender.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use neargate_model::lifecycle::testing::scope;
    use neargate_model::{ClusterName, TaskId};

    use super::*;

    fn key(id: char) -> TaskKey {
        let id = TaskId::new(id.to_string().repeat(32)).unwrap();
        TaskKey { scope: scope(), cluster: ClusterName::new("c").unwrap(), id }
    }

    async fn has_heard(listener: &mut Listener) -> bool {
        tokio::time::timeout(Duration::ZERO, listener.next()).await.is_ok()
    }

    #[tokio::test]
    async fn those_who_wait_for_a_task_hear_of_it_and_nobody_else() {
        let waiters = Waiters::default();
        let (mut one, mut same, mut other) =
            (waiters.listen(&key('a')), waiters.listen(&key('a')), waiters.listen(&key('b')));
        assert!(!has_heard(&mut one).await);
        waiters.tell(&key('a'));
        assert!(has_heard(&mut one).await && has_heard(&mut same).await);
        assert!(!has_heard(&mut one).await && !has_heard(&mut other).await);
    }

    #[test]
    fn nothing_is_kept_of_those_who_have_gone() {
        let waiters = Waiters::default();
        let (one, same) = (waiters.listen(&key('a')), waiters.listen(&key('a')));
        drop(one);
        assert_eq!(waiters.lock().len(), 1);
        drop(same);
        assert!(waiters.lock().is_empty());
    }
}
