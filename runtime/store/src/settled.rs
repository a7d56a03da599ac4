//! What became of recent transactions, by id: makes commits idempotent and `outcome` possible.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use uuid::Uuid;

use crate::limits::OUTCOME_WINDOW;
use crate::store::Rev;

/// `Some`: applied at this revision. `None`: given up, must never be applied.
pub(crate) type Fate = Option<Rev>;

/// The fates of the last [`OUTCOME_WINDOW`]; about 100 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    by_id: HashMap<Uuid, Fate>,
    by_age: VecDeque<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    id: Uuid,
    rev: Rev,
    at: Duration,
}

impl Fates {
    pub(crate) fn get(&self, id: Uuid) -> Option<Fate> {
        self.by_id.get(&id).copied()
    }

    /// Records a fate that was settled at revision `rev`. Revisions must not go back.
    pub(crate) fn record(&mut self, id: Uuid, fate: Fate, rev: Rev, now: Duration) {
        self.by_id.insert(id, fate);
        self.by_age.push_back(Recorded { id, rev, at: now });
    }

    /// Forgets up to `count` fates older than the window. Returns the newest revision forgotten.
    pub(crate) fn forget_old(&mut self, now: Duration, count: usize) -> Option<Rev> {
        let mut newest = None;
        for _ in 0..count {
            let Some(oldest) = self.by_age.pop_front_if(|oldest| oldest.at + OUTCOME_WINDOW < now) else {
                break;
            };
            self.by_id.remove(&oldest.id);
            newest = Some(oldest.rev);
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_last_for_the_window_and_no_longer() {
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut fates = Fates::default();
        fates.record(first, Some(Rev::from(1)), Rev::from(1), Duration::ZERO);
        fates.record(second, None, Rev::from(2), Duration::from_secs(1));
        assert_eq!(fates.forget_old(OUTCOME_WINDOW, 10), None);
        assert_eq!(fates.get(first), Some(Some(Rev::from(1))));
        assert_eq!(fates.forget_old(OUTCOME_WINDOW + Duration::from_millis(1), 10), Some(Rev::from(1)));
        assert_eq!(fates.get(first), None);
        assert_eq!(fates.get(second), Some(None));
    }
}
