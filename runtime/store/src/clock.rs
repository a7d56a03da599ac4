//! The only time the store knows: a monotonic one, behind a trait so that tests can turn it by hand.

use std::time::Duration;

/// A clock that never goes back. Wall-clock jumps must not expire a lease (`CLOCK_MONOTONIC`, clock_gettime(2)).
pub trait Clock: Send + Sync + 'static {
    /// Time since an arbitrary, fixed origin.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock, as tokio sees it: under a paused tokio runtime it is the paused time.
#[derive(Debug, Clone)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}
