//! What a point does in a chaos build.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

use crate::{FILE_VARIABLE, struck};

/// What this process was armed with when it last looked, and how often it has come to that point since.
static SEEN: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

pub(crate) fn reach(name: &str) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(file) = FILE.get_or_init(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from)) else { return };
    let Ok(order) = fs::read_to_string(file) else { return };
    let mut words = order.split_whitespace();
    if words.next() != Some(name) {
        return;
    }
    let hits = words.next().and_then(|hits| hits.parse().ok()).unwrap_or(1);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.0 != order {
        *seen = (order.clone(), 0);
    }
    seen.1 += 1;
    // Whoever fails to rename it was not first.
    if seen.1 < hits || fs::rename(file, struck(file)).is_err() {
        return;
    }
    // The kernel lets no thread of a process that kills itself return to its program (signal(7)).
    let _ = kill_process(getpid(), Signal::KILL);
}
