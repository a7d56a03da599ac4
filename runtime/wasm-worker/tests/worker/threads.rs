//! Runs on threads of their own.

use std::io::Read;
use std::os::fd::OwnedFd;

use neargate_wasm::protocol::{Cause, RunLimits, StartFailure};

use crate::guests::{cat, exit, module, spin};
use crate::harness::{Setup, Worker, exited, no_limits, stopped, told};

fn own(cgroups: u32) -> Setup<'static> {
    let mut setup = Setup::default();
    (setup.plan.own_thread, setup.plan.cgroups) = (true, cgroups);
    setup
}

#[test]
fn everything_is_as_on_the_main_thread() {
    let worker = Worker::new();
    assert_eq!(told(&worker.run(&exit(9), own(0)).exit), exited(9));
    let trap = worker.run(&module("(unreachable)"), own(0)).exit;
    assert_eq!((trap.code, trap.cause), (134, Cause::Trap {}));
    let outcome = worker.run(&cat(), Setup { stdin: b"through", ..own(0) });
    assert_eq!((told(&outcome.exit), outcome.stdout()), (exited(0), "through"));
    let mut setup = own(0);
    setup.plan.limits = RunLimits { cpu_budget_ns: Some(10_000_000), ..no_limits() };
    assert_eq!(worker.run(&spin(), setup).exit.cause, Cause::CpuBudget {});
    let mut busy = worker.start(&spin(), &own(0)).unwrap();
    busy.stdout.read_exact(&mut [0; 2]).unwrap();
    assert_eq!(told(&worker.run(&exit(1), Setup::default()).exit), exited(1));
    assert_eq!(told(&worker.kill(busy.run)), stopped(137));
    assert_eq!(busy.stdout.read(&mut [0; 1]).unwrap(), 0, "its descriptors are closed");
}

/// The thread writes `0` to each file before the guest runs.
#[test]
fn the_thread_joins_its_cgroups() {
    let worker = Worker::new();
    let (mut first, first_tasks) = std::io::pipe().unwrap();
    let (mut second, second_tasks) = std::io::pipe().unwrap();
    let more: Vec<OwnedFd> = vec![first_tasks.into(), second_tasks.into()];
    let started = worker.start_and(&exit(0), &own(2), more).unwrap();
    assert_eq!(told(&worker.exit(started.run)), exited(0));
    for joined in [&mut first, &mut second] {
        let mut text = String::new();
        joined.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0");
    }
}

#[test]
fn a_cgroup_that_cannot_be_joined() {
    let worker = Worker::new();
    // The reading end of a pipe cannot be written to: EBADF.
    let (reader, _writer) = std::io::pipe().unwrap();
    let failure = worker.start_and(&exit(0), &own(1), vec![reader.into()]).map(|started| started.run);
    assert_eq!(failure, Err(StartFailure::System { step: "join the cgroup of the task".into(), errno: 9 }));
    assert_eq!(told(&worker.run(&exit(2), own(0)).exit), exited(2));
}

/// The server hangs up while a thread computes: the worker does not wait for it, and the thread ends.
#[test]
fn a_worker_ends_with_busy_threads() {
    let worker = Worker::new();
    let mut busy = worker.start(&spin(), &own(0)).unwrap();
    busy.stdout.read_exact(&mut [0; 2]).unwrap();
    worker.hang_up();
    assert_eq!(worker.code(), 0);
    assert_eq!(busy.stdout.read(&mut [0; 1]).unwrap(), 0, "the guest is gone");
}
