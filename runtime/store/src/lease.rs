//! Leases: keys that live as long as somebody says so, and the fence against whoever stopped saying so.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::error::{Fence, StoreError};

/// Names a lease; never used twice in one store. It is the fencing token of
/// [`Pre::LeaseAlive`](crate::Pre::LeaseAlive).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A backend's half of a [`Lease`].
#[async_trait]
pub trait LeaseKeeper: Send + Sync {
    /// Gives the lease its full time again; `Fenced` once it has ended.
    async fn keep_alive(&self, id: LeaseId) -> Result<(), StoreError>;

    /// Ends the lease now and deletes its keys.
    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError>;
}

/// A lease somebody holds. Dropping it does not end it: its time runs out, or [`revoke`](Self::revoke) ends it.
#[derive(Clone)]
pub struct Lease {
    id: LeaseId,
    ttl: Duration,
    keeper: Arc<dyn LeaseKeeper>,
}

impl Lease {
    /// A lease kept by a backend.
    pub fn new(id: LeaseId, ttl: Duration, keeper: Arc<dyn LeaseKeeper>) -> Self {
        Self { id, ttl, keeper }
    }

    /// The lease's name and fencing token.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// How long the lease lasts after each keep-alive.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Gives the lease its full time again; `Fenced` once it has ended.
    pub async fn keep_alive(&self) -> Result<(), StoreError> {
        self.keeper.keep_alive(self.id).await
    }

    /// Keeps the lease alive, three times per `ttl`, until it is lost; returns why. Drop the future to stop.
    ///
    /// A store that cannot answer does not end this: the lease may still be alive when it answers again.
    pub async fn hold(&self) -> StoreError {
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            match self.keep_alive().await {
                Ok(()) | Err(StoreError::Unavailable { .. } | StoreError::Full { .. }) => {}
                Err(lost) => return lost,
            }
        }
    }

    /// Ends the lease now and deletes its keys.
    pub async fn revoke(&self) -> Result<(), StoreError> {
        self.keeper.revoke(self.id).await
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// When each lease of a store ends. In memory only: deadlines are of this process's clock.
///
/// A lease past its deadline is dead at once, for keep-alives and preconditions alike; the backend deletes its keys
/// soon after and then [`forget`](Self::forget)s it.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Mutex<BTreeMap<LeaseId, Deadline>>);

#[derive(Debug)]
struct Deadline {
    ttl: Duration,
    at: Duration,
}

impl Deadlines {
    pub(crate) fn grant(&self, id: LeaseId, ttl: Duration, now: Duration) {
        self.lock().insert(id, Deadline { ttl, at: now + ttl });
    }

    pub(crate) fn keep_alive(&self, id: LeaseId, now: Duration) -> Result<(), StoreError> {
        match self.lock().get_mut(&id) {
            Some(deadline) if deadline.at > now => {
                deadline.at = now + deadline.ttl;
                Ok(())
            }
            _ => Err(StoreError::Fenced(Fence::Lease(id))),
        }
    }

    pub(crate) fn alive(&self, id: LeaseId, now: Duration) -> bool {
        self.lock().get(&id).is_some_and(|deadline| deadline.at > now)
    }

    /// The leases that have ended and whose keys are still to be deleted.
    pub(crate) fn ended(&self, now: Duration) -> Vec<LeaseId> {
        self.lock().iter().filter(|(_, deadline)| deadline.at <= now).map(|(id, _)| *id).collect()
    }

    /// Ends a lease before its time; it cannot be kept alive any more.
    pub(crate) fn end(&self, id: LeaseId) {
        if let Some(deadline) = self.lock().get_mut(&id) {
            deadline.at = Duration::ZERO;
        }
    }

    pub(crate) fn forget(&self, ids: &[LeaseId]) {
        let mut deadlines = self.lock();
        for id in ids {
            deadlines.remove(id);
        }
    }

    /// How long from `now` until the next lease ends, zero if one has.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        self.lock().values().map(|deadline| deadline.at.saturating_sub(now)).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Deadline>> {
        // No method panics while it holds the lock, so the map is whole whatever happened to another thread.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
