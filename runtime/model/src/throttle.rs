//! How often something may be done: a steady rate, and more at once by whoever has rested (a token bucket).

use std::time::Instant;

/// What one caller may still do. It knows no clock; its owner does.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    per_second: f64,
    at_once: f64,
    left: f64,
    at: Instant,
}

impl Throttle {
    /// Of a caller who has rested, and may do something so often a second and at once.
    pub fn new(per_second: f64, at_once: f64, now: Instant) -> Self {
        Self { per_second, at_once, left: at_once, at: now }
    }

    /// Counts once more; `false` if it is once too often, which is not counted.
    pub fn admit(&mut self, now: Instant) -> bool {
        self.left = self.left_at(now);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }

    /// Whether the caller has rested, so that nothing need be known of it.
    pub fn is_rested(&self, now: Instant) -> bool {
        self.left_at(now) >= self.at_once
    }

    fn left_at(&self, now: Instant) -> f64 {
        let elapsed_s = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + elapsed_s * self.per_second).min(self.at_once)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn as_much_as_the_rate_and_no_more_comes_back() {
        let start = Instant::now();
        let mut throttle = Throttle::new(40.0, 60.0, start);
        let mut admitted =
            |ms| (0..100).filter(|_| throttle.admit(start + Duration::from_millis(ms))).count();
        assert_eq!([admitted(0), admitted(100), admitted(60_000)], [60, 4, 60]);
        assert!(!throttle.is_rested(start + Duration::from_millis(61_000)));
        assert!(throttle.is_rested(start + Duration::from_millis(61_500)));
        // A clock that stands still, or was read earlier, gives nothing.
        assert!(Throttle::new(40.0, 60.0, start + Duration::from_secs(1)).admit(start));
    }
}
