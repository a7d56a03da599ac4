//! Limits driven over their edge: CPU budgets, and bombs of every kind beside a guest that goes on.

use std::io::Read;

use neargate_wasm::protocol::{Cause, RunLimits};

use crate::guests::{cat, count, exit, module, spin};
use crate::harness::{Setup, Started, Worker, encode, exited, no_limits, told};

fn cpu(milliseconds: u64) -> RunLimits {
    RunLimits { cpu_budget_ns: Some(milliseconds * 1_000_000), ..no_limits() }
}

fn exhausted(reason: &'static str) -> (i32, Cause, Option<&'static str>) {
    (137, Cause::CpuBudget {}, Some(reason))
}

#[test]
fn a_cpu_budget_ends_a_run() {
    let worker = Worker::new();
    let mut setup = Setup::default();
    setup.plan.limits = cpu(20);
    let reason = "CPU budget exceeded: the container may use 20 ms of CPU time";
    let exit = worker.run(&spin(), setup).exit;
    assert_eq!(told(&exit), exhausted(reason));
    assert!(exit.usage.cpu_ns >= 20_000_000, "{:?}", exit.usage);

    // One that needs less is not touched.
    let mut setup = Setup::default();
    setup.plan.limits = cpu(60_000);
    assert_eq!(told(&worker.run(&count(1), setup).exit), exited(0));
}

/// What the first container of a task has used is gone for the second.
#[test]
fn containers_share_the_cpu_budget_of_their_task() {
    let worker = Worker::new();
    let setup = || {
        let mut setup = Setup::default();
        setup.plan.task_limits = cpu(20);
        setup
    };
    // Keeps the task, and with it its budget, in being.
    let holder = worker.start(&cat(), &setup()).unwrap();
    let reason = "CPU budget exceeded: the task may use 20 ms of CPU time";
    assert_eq!(told(&worker.run(&spin(), setup()).exit), exhausted(reason));
    let exit = worker.run(&spin(), setup()).exit;
    assert_eq!(told(&exit), exhausted(reason), "at once");
    worker.kill(holder.run);
}

/// Waiting costs nothing: a guest that waits for input longer than its budget of CPU time goes on.
#[test]
fn waiting_costs_nothing() {
    let worker = Worker::new();
    let mut setup = Setup::default();
    setup.plan.limits = cpu(50);
    let started = worker.start(&cat(), &setup).unwrap();
    // Another's 100 ms of CPU time pass meanwhile, on the same thread.
    let mut other = Setup::default();
    other.plan.task = "another".into();
    other.plan.limits = cpu(100);
    assert_eq!(worker.run(&spin(), other).exit.cause, Cause::CpuBudget {});
    let outcome = worker.finish(started, b"still here");
    assert_eq!((told(&outcome.exit), outcome.stdout()), (exited(0), "still here"));
}

/// Bombs of several kinds, several of each at the same time, beside a guest that must not notice.
#[test]
fn bombs_harm_nobody_else() {
    let worker = Worker::new();
    let calm = worker.start(&cat(), &Setup::default()).unwrap();
    let grow_for_ever = module("(loop $l (drop (memory.grow (i32.const 1))) (br $l))");
    let tables = encode(
        r#"(module (table 1 funcref)
            (func (export "_start") (loop $l (drop (table.grow (ref.null func) (i32.const 1000))) (br $l))))"#,
    );
    let fill = encode(
        r#"(module (table 10000 funcref)
            (func (export "_start")
                (loop $l (table.fill (i32.const 0) (ref.null func) (i32.const 10000)) (br $l))))"#,
    );
    let copy = encode(
        r#"(module (memory 256)
            (func (export "_start")
                (loop $l (memory.copy (i32.const 8388608) (i32.const 0) (i32.const 8388608)) (br $l))))"#,
    );
    for (name, wasm) in
        [("memory.grow", grow_for_ever), ("table.grow", tables), ("table.fill", fill), ("memory.copy", copy)]
    {
        let limits = RunLimits { memory_bytes: Some(32 << 20), ..cpu(30) };
        let started: Vec<Started> = (0..4)
            .map(|index| {
                let mut setup = Setup::default();
                setup.plan.task = format!("{name} {index}");
                setup.plan.limits = limits.clone();
                worker.start(&wasm, &setup).unwrap()
            })
            .collect();
        for guest in started {
            let exit = worker.exit(guest.run);
            assert_eq!((exit.code, &exit.cause), (137, &Cause::CpuBudget {}), "{name}: {exit:?}");
            assert!(exit.usage.memory_peak_bytes <= 32 << 20, "{name}: {exit:?}");
        }
    }
    let outcome = worker.finish(calm, b"calm");
    assert_eq!((told(&outcome.exit), outcome.stdout()), (exited(0), "calm"));
}

/// 2^31 elements: out of bounds at once, and never a long loop in the host.
#[test]
fn bulk_operations_out_of_bounds() {
    let worker = Worker::new();
    for (items, body) in [
        ("(table 1 funcref)", "(table.fill (i32.const 0) (ref.null func) (i32.const 0x80000000))"),
        ("(memory 1)", "(memory.fill (i32.const 0) (i32.const 1) (i32.const 0x80000000))"),
        ("(memory 1)", "(memory.copy (i32.const 0) (i32.const 1) (i32.const 0xffffffff))"),
    ] {
        let wasm = encode(&format!(r#"(module {items} (func (export "_start") {body}))"#));
        let exit = worker.run(&wasm, Setup::default()).exit;
        assert_eq!((exit.code, &exit.cause), (134, &Cause::Trap {}), "{body}");
        assert!(exit.reason.as_deref().unwrap_or_default().contains("out of bounds"), "{exit:?}");
    }
}

#[test]
fn recursion_ends_the_guest_alone() {
    let worker = Worker::new();
    for body in ["(call $main)", "(call $main) (call $main)"] {
        let exit = worker.run(&module(body), Setup::default()).exit;
        assert_eq!((exit.code, &exit.cause), (134, &Cause::Trap {}));
    }
    assert_eq!(told(&worker.run(&exit(4), Setup::default()).exit), exited(4));
}

/// A guest that asks for more random bytes than a call may give.
#[test]
fn random_bytes_are_bounded() {
    let worker = Worker::new();
    let wasm = encode(
        r#"(module
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1024)
            (func (export "_start")
                (if (call $random (i32.const 0) (i32.const 1048576)) (then (call $exit (i32.const 1))))
                (call $exit (call $random (i32.const 0) (i32.const 33554432)))))"#,
    );
    let outcome = worker.run(&wasm, Setup::default());
    assert!(!matches!(outcome.exit.code, 0 | 1), "a mebibyte is given, 32 are not: {outcome:?}");
}

/// A busy guest that writes is heard while it is busy.
#[test]
fn a_busy_guest_is_heard() {
    let worker = Worker::new();
    let mut started = worker.start(&spin(), &Setup::default()).unwrap();
    let mut heard = [0; 2];
    started.stdout.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"go");
    worker.kill(started.run);
}
