//! What was written or read last, in memory, so that to read it again takes no statement of SQLite.
//!
//! The writer enters what it has committed before it answers, so what is acknowledged is seen; and it enters nothing
//! before its `COMMIT` has returned, so what is seen is durable. Readers enter what they had to look up.
//!
//! SQLite shows a commit to its readers a moment before the writer enters it here. Whoever reads from SQLite therefore
//! [waits](Recent::wait_for) for the revision that it has seen, or a next read from memory would go back in time.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::changes::Change;
use crate::key::Key;
use crate::store::{Entry, Rev};

/// Bytes of keys and values of one generation, of which there are two: some thousand tasks.
const GENERATION_BYTES: usize = 8 << 20;
/// What an entry takes beside its key and value.
const ENTRY_BYTES: usize = 200;
/// How long a reader waits for the writer, which has a lock to take and nothing else to do.
const PATIENCE: Duration = Duration::from_secs(1);

/// The entries of one revision, as far as they are known; `None` is a key that is not there.
pub(super) struct Recent {
    state: Mutex<State>,
    entered: Condvar,
    generation_bytes: usize,
}

struct State {
    rev: Rev,
    /// What was used since `old` was young.
    young: Generation,
    old: Generation,
    waiting: usize,
}

#[derive(Default)]
struct Generation {
    entries: HashMap<Key, Option<Entry>>,
    bytes: usize,
}

impl Recent {
    /// Nothing is known yet of the store at `rev`.
    pub(super) fn new(rev: Rev) -> Self {
        Self::holding(rev, GENERATION_BYTES)
    }

    fn holding(rev: Rev, generation_bytes: usize) -> Self {
        let (young, old) = Default::default();
        let state = Mutex::new(State { rev, young, old, waiting: 0 });
        Self { state, entered: Condvar::new(), generation_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last durable revision.
    pub(super) fn rev(&self) -> Rev {
        self.lock().rev
    }

    /// The entries of all these keys at one revision, if all are known.
    pub(super) fn get(&self, keys: &[Key]) -> Option<Vec<Option<Entry>>> {
        let mut state = self.lock();
        let found = keys.iter().map(|key| state.find(key)).collect::<Option<Vec<_>>>()?;
        state.turn_over(self.generation_bytes);
        Some(found)
    }

    /// Enters what was read at `rev`, unless something was committed since.
    pub(super) fn remember(&self, rev: Rev, keys: &[Key], found: &[Option<Entry>]) {
        let mut state = self.lock();
        if state.rev != rev {
            return;
        }
        for (key, entry) in keys.iter().zip(found) {
            state.put(key.clone(), entry.clone());
        }
        state.turn_over(self.generation_bytes);
    }

    /// Enters what was committed.
    pub(super) fn advance(&self, rev: Rev, changes: &[Change]) {
        let mut state = self.lock();
        state.rev = rev;
        for Change { rev, key, value } in changes {
            let entry =
                value.as_ref().map(|value| Entry { key: key.clone(), value: value.clone(), rev: *rev });
            state.put(key.clone(), entry);
        }
        state.turn_over(self.generation_bytes);
        if state.waiting > 0 {
            self.entered.notify_all();
        }
    }

    /// Forgets everything: what was committed up to `rev` is not known.
    pub(super) fn restart(&self, rev: Rev) {
        let mut state = self.lock();
        (state.rev, state.young, state.old) = (rev, Generation::default(), Generation::default());
        self.entered.notify_all();
    }

    /// Waits until everything up to `rev` is entered; `false` when that takes too long.
    pub(super) fn wait_for(&self, rev: Rev) -> bool {
        let mut state = self.lock();
        let until = Instant::now() + PATIENCE;
        while state.rev < rev {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state.waiting += 1;
            state = self.entered.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        true
    }
}

impl State {
    fn find(&mut self, key: &Key) -> Option<Option<Entry>> {
        if let Some(entry) = self.young.entries.get(key) {
            return Some(entry.clone());
        }
        let entry = self.old.entries.get(key)?.clone();
        self.put(key.clone(), entry.clone());
        Some(entry)
    }

    fn put(&mut self, key: Key, entry: Option<Entry>) {
        self.old.remove(&key);
        self.young.remove(&key);
        self.young.bytes += bytes(&key, entry.as_ref());
        self.young.entries.insert(key, entry);
    }

    fn turn_over(&mut self, generation_bytes: usize) {
        if self.young.bytes > generation_bytes {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

impl Generation {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= bytes(key, entry.as_ref());
        }
    }
}

fn bytes(key: &Key, entry: Option<&Entry>) -> usize {
    ENTRY_BYTES + key.len() + entry.map_or(0, |entry| entry.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &'static str, rev: u64) -> Option<Entry> {
        Some(Entry { key: key.into(), value: value.into(), rev: Rev::from(rev) })
    }

    fn change(key: &str, value: Option<&'static str>, rev: u64) -> Change {
        Change { rev: Rev::from(rev), key: key.into(), value: value.map(Into::into) }
    }

    #[test]
    fn what_was_written_or_looked_up_is_known() {
        let recent = Recent::new(Rev::from(1));
        let keys = |keys: &[&str]| keys.iter().map(|key| Key::from(*key)).collect::<Vec<_>>();
        assert_eq!(recent.get(&keys(&["a"])), None);
        recent.remember(Rev::from(1), &keys(&["a", "b"]), &[entry("a", "1", 1), None]);
        assert_eq!(recent.get(&keys(&["b", "a"])), Some(vec![None, entry("a", "1", 1)]));
        assert_eq!(recent.get(&keys(&["a", "c"])), None, "all or none, or they were of two revisions");
        recent.advance(Rev::from(2), &[change("a", None, 2), change("b", Some("2"), 2)]);
        assert_eq!(recent.get(&keys(&["a", "b"])), Some(vec![None, entry("b", "2", 2)]));
    }

    #[test]
    fn what_was_looked_up_before_a_commit_is_not_entered_after_it() {
        let recent = Recent::new(Rev::from(1));
        recent.advance(Rev::from(2), &[]);
        recent.remember(Rev::from(1), &["a".into()], &[entry("a", "old", 1)]);
        assert_eq!(recent.get(&["a".into()]), None);
    }

    #[test]
    fn what_was_not_used_for_long_is_forgotten() {
        let recent = Recent::holding(Rev::ZERO, 10 * ENTRY_BYTES);
        let used = [Key::from("used")];
        recent.remember(Rev::ZERO, &used, &[None]);
        recent.remember(Rev::ZERO, &["unused".into()], &[None]);
        for round in 0..100 {
            recent.advance(Rev::from(round), &[change(&format!("k{round}"), Some("v"), round)]);
            assert!(recent.get(&used).is_some(), "round {round}");
            let state = recent.lock();
            assert!(state.young.bytes + state.old.bytes <= 24 * ENTRY_BYTES);
        }
        assert_eq!(recent.get(&["unused".into()]), None);
    }

    #[test]
    fn a_reader_waits_for_what_it_has_seen() {
        let recent = Recent::new(Rev::from(1));
        assert!(recent.wait_for(Rev::from(1)));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| recent.wait_for(Rev::from(2)));
            recent.advance(Rev::from(2), &[]);
            assert!(reader.join().unwrap());
        });
        recent.restart(Rev::from(5));
        assert_eq!(recent.rev(), Rev::from(5));
    }
}
