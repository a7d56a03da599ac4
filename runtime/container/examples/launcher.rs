//! How long it takes to fork the launcher and to start a process with it; prints medians in microseconds.
//!
//! `cargo run --release -p neargate-container --example launcher`

// An example may stop at the first thing that goes wrong.
#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use neargate_container::{Launcher, Policy, Roles};
use neargate_driver::{ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser};

const ROUNDS: usize = 200;

fn end(_input: &[u8], _fds: Vec<OwnedFd>) -> i32 {
    0
}

fn spec() -> ProcessSpec {
    ProcessSpec {
        role: ProcessRole::WasmWorker,
        name: "bench".to_owned(),
        input: vec![1; 1000],
        fds: Vec::new(),
        mounts: Vec::new(),
        user: ProcessUser::Nobody,
        network: ProcessNetwork::None,
        memory_bytes: None,
        address_space_bytes: None,
        cpu_seconds: None,
        core: None,
    }
}

fn median(mut times: Vec<Duration>) -> u128 {
    times.sort_unstable();
    times[times.len() / 2].as_micros()
}

fn main() {
    let begin = Instant::now();
    let client = Launcher::fork(Roles::new(end, end), Policy::default()).unwrap();
    let forked = begin.elapsed();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let first = Instant::now();
        client.spawn(spec()).await.unwrap().wait().await;
        println!("{:>6} µs  fork", forked.as_micros());
        println!("{:>6} µs  first process, to its end", first.elapsed().as_micros());
        println!("{:>6} µs  both", begin.elapsed().as_micros());
        println!("{:?}", client.fences().await.unwrap());
        let plain = || spec();
        let host = || ProcessSpec { network: ProcessNetwork::Host, ..spec() };
        let limited = || ProcessSpec { memory_bytes: Some(64 << 20), ..spec() };
        let mount = ProcessMount { source: "/tmp".into(), name: "data".to_owned(), read_only: true };
        let mounted = || ProcessSpec { mounts: vec![mount.clone()], ..spec() };
        let kinds: [(&str, &dyn Fn() -> ProcessSpec); 4] =
            [("plain", &plain), ("host network", &host), ("memory limit", &limited), ("one mount", &mounted)];
        for (name, spec) in kinds {
            let (mut starts, mut ends) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let begin = Instant::now();
                let process = client.spawn(spec()).await.unwrap();
                starts.push(begin.elapsed());
                process.wait().await;
                ends.push(begin.elapsed());
            }
            println!("{:>6} µs  spawn, {name}; {:>6} µs to its end", median(starts), median(ends));
        }
        client.shut_down().await;
    });
}
