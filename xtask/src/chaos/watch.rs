//! The client that never stops asking (I5), and the heartbeats (I6).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::machine::{CLUSTER, Site};

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(10);
/// No call may take longer, whatever happens (I5).
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// A call that was under way when the server went, or began before the new address was told, may fail.
const SLACK: Duration = Duration::from_millis(100);
/// No heartbeat may miss as long (I6).
const GAP_S_MAX: f64 = 1.0;

/// One call.
struct Sample {
    begun: SystemTime,
    ended: SystemTime,
    error: Option<String>,
}

/// Asks for tasks until it is dropped.
pub(crate) struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to ask.
    pub(crate) fn start(site: &Site, arns: Vec<String>) -> Self {
        let (samples, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (site, noted, is_over) = (site.clone(), Arc::clone(&samples), Arc::clone(&ended));
        let watcher = thread::spawn(move || {
            let mut caller = site.caller();
            while !is_over.load(Ordering::SeqCst) {
                let begun = SystemTime::now();
                let answer = caller
                    .call("ListTasks", &json!({"cluster": CLUSTER}))
                    .and_then(|_| caller.describe(&arns.iter().map(String::as_str).collect::<Vec<_>>()));
                let error = answer.err().map(|error| format!("{error:#}"));
                let sample = Sample { begun, ended: SystemTime::now(), error };
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                thread::sleep(PAUSE);
            }
        });
        Self { samples, ended, watcher: Some(watcher) }
    }

    /// When the first call that began after this time was answered.
    pub(crate) fn answered_after(&self, at: SystemTime) -> Option<SystemTime> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().find(|sample| sample.begun >= at && sample.error.is_none()).map(|sample| sample.ended)
    }

    /// How many calls there were since this was asked last, and what is wrong with them, given when there was no server.
    pub(crate) fn judge(&self, downs: &[(SystemTime, SystemTime)]) -> (usize, Vec<String>) {
        let samples = std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        let found = samples.iter().filter_map(|sample| wrong(sample, downs)).collect();
        (samples.len(), found)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.take() {
            // It has told what went wrong by its panic.
            let _ = watcher.join();
        }
    }
}

fn wrong(sample: &Sample, downs: &[(SystemTime, SystemTime)]) -> Option<String> {
    let took = sample.ended.duration_since(sample.begun).unwrap_or_default();
    if took >= ANSWER_LIMIT {
        return Some(format!("a call took {took:?}: {:?}", sample.error));
    }
    let meets =
        |(from, to): &(SystemTime, SystemTime)| sample.begun <= *to + SLACK && sample.ended + SLACK >= *from;
    let error = sample.error.as_ref().filter(|_| !downs.iter().any(meets))?;
    Some(format!("a call failed while there was a server: {error}"))
}

/// The longest time between two beats, and until now, in seconds; those before `since` were looked at before.
pub(crate) fn longest_gap_s(beats: &[f64], since_s: f64, now_s: f64) -> f64 {
    let recent = beats.iter().copied().filter(|beat| *beat >= since_s - GAP_S_MAX);
    let times: Vec<f64> = recent.chain([now_s]).collect();
    let between = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    // Without a single beat the whole time is a gap.
    if times.len() == 1 { now_s - since_s } else { between }
}

/// Whether a heartbeat was disturbed.
pub(crate) fn is_disturbed(gap_s: f64) -> bool {
    gap_s > GAP_S_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_may_fail_only_without_a_server() {
        let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let check = |begun: u64, ended: u64, error: Option<&str>, is_wrong: bool| {
            let sample = Sample { begun: at(begun), ended: at(ended), error: error.map(str::to_owned) };
            let downs = [(at(10_000), at(10_500))];
            assert_eq!(wrong(&sample, &downs).is_some(), is_wrong, "{begun} to {ended}: {error:?}");
        };
        check(0, 5, None, false);
        check(0, 5, Some("refused"), true);
        check(9_999, 10_001, Some("refused"), false);
        check(10_400, 10_401, Some("refused"), false);
        check(10_700, 10_701, Some("refused"), true);
        check(10_000, 11_000, Some("refused"), true);
        check(0, 1_000, None, true);
    }

    #[test]
    fn gaps_are_found_and_only_once() {
        let check = |beats: &[f64], since: f64, now: f64, expect: f64| {
            let gap = longest_gap_s(beats, since, now);
            assert!((gap - expect).abs() < 1e-9, "{beats:?} from {since} to {now}: {gap}");
        };
        check(&[1.0, 1.1, 1.2], 1.0, 1.3, 0.1);
        check(&[1.0, 3.0, 3.1], 1.0, 3.2, 2.0);
        check(&[1.0, 1.1], 1.0, 4.1, 3.0);
        check(&[1.0, 3.0, 5.0, 5.1], 5.0, 5.2, 0.1);
        check(&[], 1.0, 4.0, 3.0);
    }
}
