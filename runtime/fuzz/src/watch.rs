//! What cannot be seen from inside a call: that it does not come back, and what it takes.

use std::fs;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long one call may take: far above what it takes, also where it waits for a busy disk.
const CALL_MAX: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Call {
    what: String,
    since: Option<Instant>,
    is_over: bool,
}

/// Ends the process when a call does not come back.
pub(crate) struct Watch(Arc<(Mutex<Call>, Condvar)>);

impl Watch {
    pub(crate) fn start() -> Self {
        let call = Arc::new((Mutex::new(Call::default()), Condvar::new()));
        let watched = call.clone();
        thread::spawn(move || watch(&watched));
        Self(call)
    }

    /// A call begins, and the one before it is over.
    pub(crate) fn begin(&self, what: String) {
        let mut call = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *call = Call { what, since: Some(Instant::now()), is_over: false };
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
        self.0.1.notify_all();
    }
}

fn watch((call, changed): &(Mutex<Call>, Condvar)) {
    let mut call = call.lock().unwrap_or_else(PoisonError::into_inner);
    while !call.is_over {
        let spent = call.since.map_or(Duration::ZERO, |since| since.elapsed());
        let Some(left) = CALL_MAX.checked_sub(spent).filter(|left| !left.is_zero()) else {
            eprintln!("it did not come back within {} s with {}", CALL_MAX.as_secs(), call.what);
            std::process::abort();
        };
        call = changed.wait_timeout(call, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// The memory of this process at one time.
pub(crate) struct Memory {
    peak_bytes: u64,
}

impl Memory {
    pub(crate) fn now() -> Self {
        Self { peak_bytes: peak_bytes() }
    }

    /// By how much the highest memory use has grown since.
    pub(crate) fn growth_bytes(&self) -> u64 {
        peak_bytes().saturating_sub(self.peak_bytes)
    }
}

/// The highest resident memory of this process: `VmHWM` (proc_pid_status(5)).
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
