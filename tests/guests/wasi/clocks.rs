//! `wasi:clocks`, `wasi:random` and waiting.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock in seconds since 1970, and whether the monotonic clock never goes back.
pub(crate) fn print() {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    println!("wall: {}", wall.as_secs());
    let mut last = Instant::now();
    let first = last;
    let is_monotonic = (0..10_000).all(|_| {
        let now = Instant::now();
        let is_later = now >= last;
        last = now;
        is_later
    });
    println!("monotonic: {is_monotonic}");
    println!("moves: {}", last > first);
}

/// Sleeps, and tells for how many milliseconds by its own clock.
pub(crate) fn sleep(ms: u64) {
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(ms));
    println!("{}", start.elapsed().as_millis());
}

/// 64 bits of the host's random source, which seeds the standard library's hash maps.
pub(crate) fn random() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Waits for three timers at once and names them in the order in which they were ready.
#[cfg(target_env = "p2")]
pub(crate) fn timers() {
    use wasip2::clocks::monotonic_clock::subscribe_duration;
    use wasip2::io::poll;

    let mut waiting: Vec<_> = [("slow", 120), ("fast", 20), ("middle", 70)]
        .map(|(name, ms)| (name, subscribe_duration(ms * 1_000_000)))
        .into();
    while !waiting.is_empty() {
        let pollables: Vec<_> = waiting.iter().map(|(_, pollable)| pollable).collect();
        let mut ready = poll::poll(&pollables);
        ready.sort_unstable();
        for index in ready.into_iter().rev() {
            println!("{}", waiting.remove(index as usize).0);
        }
    }
}

/// Preview 1 has one list for all, which the standard library does not show.
#[cfg(not(target_env = "p2"))]
pub(crate) fn timers() {
    std::process::exit(64);
}
