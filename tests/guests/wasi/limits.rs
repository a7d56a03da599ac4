//! What limits are for, and traps that can be told from each other.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Takes memory and touches all of it.
pub(crate) fn take(mib: usize) {
    let kept: Vec<Vec<u8>> = (0..mib).map(|_| black_box(vec![1; 1 << 20])).collect();
    println!("took {}", kept.len());
}

/// Computes until so much time has gone by on the clock.
pub(crate) fn burn(ms: u64) {
    let end = Instant::now() + Duration::from_millis(ms);
    let mut rounds = 0_u64;
    while Instant::now() < end {
        rounds = black_box(rounds + 1);
    }
    println!("burnt");
}

/// The test knows the names and the file, not the lines.
#[inline(never)]
pub(crate) fn outer() {
    inner(black_box(3));
}

#[inline(never)]
fn inner(depth: u32) {
    if depth == 0 {
        panic!("as the test wants it");
    }
    inner(black_box(depth - 1));
}

/// A trap of the machine and not of the language, where the divisor is 0.
#[inline(never)]
pub(crate) fn divide(by: i32) -> i32 {
    core::hint::black_box(7_i32).checked_div(by).unwrap_or_else(|| trap())
}

fn trap() -> ! {
    std::process::abort()
}

/// Goes beyond the end of a list.
#[inline(never)]
pub(crate) fn address() {
    let list = black_box(vec![1, 2, 3]);
    println!("{}", list[black_box(1 << 20)]);
}
