//! Hands out ranges of host user ids, one per task.

use std::collections::HashSet;

use crate::user::ID_RANGE;

/// Ids from 2^31 on are refused by some sysctls (`ping_group_range`) and file formats.
const ID_MAX: u32 = 1 << 31;

/// Slots of 65,536 host ids each. Slot 0 is never handed out: volumes are stored with its ids.
#[derive(Debug)]
pub(crate) struct IdRanges {
    base: u32,
    slots: u32,
    next: u32,
    used: HashSet<u32>,
}

impl IdRanges {
    /// Ranges from `base` on. `seed` decides where to begin, so that two servers on one host meet late.
    pub(crate) fn new(base: u32, seed: u32) -> Self {
        let slots = (ID_MAX.saturating_sub(base) / ID_RANGE).saturating_sub(1);
        Self { base, slots, next: seed.checked_rem(slots).unwrap_or(0), used: HashSet::new() }
    }

    /// First id of a range that no live task has; `None` when all are taken. Ranges are used in turn, so
    /// that a range comes back as late as possible.
    pub(crate) fn take(&mut self) -> Option<u32> {
        for _ in 0..self.slots {
            let slot = self.next;
            self.next = (self.next + 1) % self.slots;
            if self.used.insert(slot) {
                return Some(self.base + (slot + 1) * ID_RANGE);
            }
        }
        None
    }

    /// Takes the range that begins with an id, because an earlier supervisor has given it to a task.
    pub(crate) fn claim(&mut self, first: u32) {
        self.used.extend(self.slot(first));
    }

    /// Gives a range back.
    pub(crate) fn give_back(&mut self, first: u32) {
        self.slot(first).map(|slot| self.used.remove(&slot));
    }

    /// The slot of a range; `None` for one that was not made from this base.
    fn slot(&self, first: u32) -> Option<u32> {
        (first.checked_sub(self.base)? / ID_RANGE).checked_sub(1)
    }

    /// First id of the range in which volumes are stored.
    pub(crate) fn volumes(&self) -> u32 {
        self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_return_last() {
        let base = ID_MAX - 4 * ID_RANGE;
        let mut ids = IdRanges::new(base, 5);
        let all: Vec<u32> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(all, [base + 3 * ID_RANGE, base + ID_RANGE, base + 2 * ID_RANGE]);
        ids.give_back(all[1]);
        assert_eq!(ids.take(), Some(all[1]));
        assert_eq!(ids.take(), None);
        ids.give_back(all[0]);
        ids.claim(all[0]);
        assert_eq!(ids.take(), None);
        assert!(all.iter().all(|&first| first > ids.volumes() && first <= ID_MAX - ID_RANGE));
    }

    #[test]
    fn no_room_is_no_range() {
        for base in [ID_MAX, u32::MAX, ID_MAX - ID_RANGE] {
            assert_eq!(IdRanges::new(base, 1).take(), None);
        }
    }
}
