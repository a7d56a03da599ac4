//! How long to wait before asking again.

use std::time::Duration;

/// Pauses that double from a first to a longest one.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    first: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max, first }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// The next pause, shortened by up to a half at random, so that clients do not come back all at once.
    pub(crate) fn next_jittered(&mut self) -> Duration {
        let pause = self.next();
        let random = u16::from_ne_bytes([random_byte(0), random_byte(1)]);
        pause - pause.mul_f64(f64::from(random) / f64::from(u16::MAX) / 2.0)
    }

    /// Starts again with the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

fn random_byte(index: usize) -> u8 {
    uuid::Uuid::new_v4().as_bytes()[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(18));
        let pauses: Vec<_> = (0..4).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [5, 10, 18, 18]);
        backoff.reset();
        assert_eq!(backoff.next().as_millis(), 5);
    }

    #[test]
    fn jitter_takes_at_most_half_and_varies() {
        let first = Duration::from_millis(100);
        let pauses: Vec<_> = (0..64).map(|_| Backoff::new(first, first).next_jittered()).collect();
        assert!(pauses.iter().all(|pause| (first / 2..=first).contains(pause)), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
