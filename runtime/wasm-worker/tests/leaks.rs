//! Runs leave nothing behind. Alone in its process, as it counts what the process has.

// clippy takes only functions marked `#[test]` for tests, not what they call.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "worker/guests.rs"]
mod guests;
#[allow(dead_code)]
#[path = "worker/harness.rs"]
mod harness;

use guests::{module, spin};
use harness::{Setup, Worker, exited, mounted, stopped, told};

fn count(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn counts() -> (usize, usize) {
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[test]
fn five_hundred_runs_leave_nothing() {
    let worker = Worker::with(8);
    let speak = module("(call $put (i32.const 1) (i32.const 64) (i32.const 1))");
    let crash = module("(unreachable)");
    let mut before = (0, 0);
    for round in 0..500 {
        let mut setup = mounted(round % 2 == 0);
        setup.plan.own_thread = round % 5 == 1;
        setup.plan.core_dump = true;
        match round % 10 {
            3 => assert_eq!(worker.run(&crash, setup).exit.code, 134),
            7 => {
                let started = worker.start(&spin(), &Setup::default()).unwrap();
                assert_eq!(told(&worker.kill(started.run)), stopped(137));
            }
            _ => assert_eq!(told(&worker.run(&speak, setup).exit), exited(0)),
        }
        // The first runs open epoll descriptors and the like; threads of runs end after they have told it.
        if round == 20 {
            before = counts();
        }
    }
    let mut after = counts();
    for _ in 0..1000 {
        if after.0 <= before.0 && after.1 <= before.1 {
            break;
        }
        std::thread::yield_now();
        after = counts();
    }
    assert!(
        after.0 <= before.0 && after.1 <= before.1,
        "descriptors and threads: {before:?} at first, {after:?} now"
    );
}
