//! What the driver adds to a run. `cargo test --release -p neargate-wasm-worker --test end_to_end -- --ignored
//! --nocapture latency` prints it.

use std::time::Instant;

use neargate_driver::Exit;

use crate::harness::{Bench, Setup, module};

const ROUNDS: usize = 2000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, which says nothing on a busy machine"]
async fn latency() {
    let bench = Bench::new();
    let wasm = module("", "", "");
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let started = bench.start(&wasm, Setup::default()).await.unwrap();
        starts.push(begun.elapsed());
        assert_eq!(started.handle.wait().await, Exit::code(0));
        ends.push(begun.elapsed());
    }
    for (what, mut times) in [("start", starts), ("start to exit", ends)] {
        times.sort();
        let at = |share: usize| times[times.len() * share / 100];
        eprintln!("{what}: median {:?}, p99 {:?}", at(50), at(99));
    }
}
