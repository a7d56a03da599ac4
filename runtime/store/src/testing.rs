//! Faults by seed and a clock by hand, for the tests of every crate that uses a store.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Clock;
use crate::error::StoreError;
use crate::key::Key;
use crate::lease::Lease;
use crate::store::{Consistency, Entry, Page, Rev, Store, StoreId, Watch};
use crate::txn::{Commit, Txn};

/// A clock that stands still until it is told to go on.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Duration>);

impl ManualClock {
    /// Moves the clock forward. Leases that come due end with the next call to their store.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often what goes wrong, each in percent of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Commits that answer `Unknown`: a third applied, a third not, a third applied later unless the outcome is asked
    /// before.
    pub unknown: u8,
    /// Calls that answer `Unavailable` and do nothing.
    pub unavailable: u8,
    /// Calls that give way to other tasks up to seven times first.
    pub delayed: u8,
}

impl Default for Rates {
    fn default() -> Self {
        Self { unknown: 10, unavailable: 5, delayed: 20 }
    }
}

/// A store that misbehaves in every way the contract allows, the same way for the same seed and order of calls.
///
/// Watches and keep-alives pass through untouched.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    rates: Rates,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: u64,
    /// Transactions that were answered `Unknown` and are still on their way.
    late: Vec<Txn>,
}

/// What happens to one commit.
enum Fault {
    None,
    Applied,
    NotApplied,
    Late,
}

impl<S: Store> Faulty<S> {
    /// Wraps a store with the default rates. Wrap an `Arc` to keep an undisturbed view of the same store.
    pub fn new(inner: S, seed: u64) -> Self {
        Self::with_rates(inner, seed, Rates::default())
    }

    /// Wraps a store.
    pub fn with_rates(inner: S, seed: u64, rates: Rates) -> Self {
        Self { inner, rates, state: Mutex::new(State { random: seed, late: Vec::new() }) }
    }

    /// What every call suffers: delay, a late transaction arriving first, unavailability.
    async fn disturb(&self) -> Result<(), StoreError> {
        if self.happens(self.rates.delayed) {
            for _ in 0..self.random() % 8 {
                tokio::task::yield_now().await;
            }
        }
        if self.happens(25) {
            self.deliver_late().await;
        }
        if self.happens(self.rates.unavailable) {
            return Err(StoreError::unavailable(Duration::ZERO, Injected));
        }
        Ok(())
    }

    async fn deliver_late(&self) {
        let late = self.state(|state| state.late.pop());
        if let Some(txn) = late {
            // Nobody waits for this answer: that is what made it unknown.
            let _answer = self.inner.commit(txn).await;
        }
    }

    fn fault(&self) -> Fault {
        if !self.happens(self.rates.unknown) {
            return Fault::None;
        }
        match self.random() % 3 {
            0 => Fault::Applied,
            1 => Fault::NotApplied,
            _ => Fault::Late,
        }
    }

    fn happens(&self, percent: u8) -> bool {
        self.random() % 100 < u64::from(percent)
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    fn random(&self) -> u64 {
        self.state(|state| {
            state.random = state.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state.random;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    fn state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    fn id(&self) -> StoreId {
        self.inner.id()
    }

    async fn get(&self, keys: &[Key], c: Consistency) -> Result<Vec<Option<Entry>>, StoreError> {
        self.disturb().await?;
        self.inner.get(keys, c).await
    }

    async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: u32,
        c: Consistency,
    ) -> Result<Page, StoreError> {
        self.disturb().await?;
        self.inner.scan(prefix, after, limit, c).await
    }

    async fn commit(&self, txn: Txn) -> Result<Commit, StoreError> {
        self.disturb().await?;
        match self.fault() {
            Fault::None => return self.inner.commit(txn).await,
            // Errors are definite, so they are passed on.
            Fault::Applied => drop(self.inner.commit(txn).await?),
            Fault::NotApplied => {}
            Fault::Late => self.state(|state| state.late.push(txn)),
        }
        Ok(Commit::Unknown)
    }

    async fn outcome(&self, txn: Uuid) -> Result<Option<Rev>, StoreError> {
        self.disturb().await?;
        self.inner.outcome(txn).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> Watch {
        self.inner.watch(prefix, after)
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.disturb().await?;
        self.inner.lease(ttl).await
    }
}

#[derive(Debug, thiserror::Error)]
#[error("injected by the test")]
struct Injected;
