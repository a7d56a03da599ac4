//! Memory limits and shares of a core.

use std::io::Read;
use std::time::{Duration, Instant};

use neargate_wasm::protocol::{Cause, RunLimits};

use crate::guests::{exit, grow, module, spin};
use crate::harness::{Setup, Worker, encode, exited, no_limits, stopped, told};

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> RunLimits {
    RunLimits { memory_bytes: Some(bytes), ..no_limits() }
}

fn oom() -> (i32, Cause, Option<&'static str>) {
    (137, Cause::OutOfMemory {}, Some("OutOfMemoryError: Container killed due to memory usage"))
}

fn limited(container: RunLimits, task: RunLimits) -> Setup<'static> {
    let mut setup = Setup::default();
    (setup.plan.limits, setup.plan.task_limits) = (container, task);
    setup
}

#[test]
fn memory_limits() {
    let worker = Worker::new();
    let two_memories = encode(
        r#"(module (memory 1) (memory 1)
            (func (export "_start")
                (loop $l
                    (br_if $l (i32.ne (memory.grow 0 (i32.const 16)) (i32.const -1)))
                    (br_if $l (i32.ne (memory.grow 1 (i32.const 16)) (i32.const -1))))
                (if (i32.gt_u (i32.add (memory.size 0) (memory.size 1)) (i32.const 160))
                    (then (loop $for_ever (br $for_ever))))
                (unreachable)))"#,
    );
    let table = encode(
        r#"(module (table 1 funcref)
            (func (export "_start")
                (loop $l (br_if $l (i32.ne (table.grow (ref.null func) (i32.const 100)) (i32.const -1))))
                (unreachable)))"#,
    );
    // Within the type's own maximum there is no limit to blame.
    let own_maximum = encode(
        r#"(module (memory 1 2)
            (func (export "_start") (drop (memory.grow (i32.const 5))) (unreachable)))"#,
    );
    let recovered = grow("(drop (memory.grow (i32.const 1))) (unreachable)");
    let large = encode(r#"(module (memory 200) (func (export "_start")))"#);
    for (name, wasm, limits, end) in [
        ("bomb", grow("(unreachable)"), memory(10 * MIB), oom()),
        ("a program that copes", grow("(call $exit (i32.const 7))"), memory(10 * MIB), exited(7)),
        ("the sum of memories", two_memories, memory(10 * MIB), oom()),
        ("tables", table, memory(64 << 10), oom()),
        ("more than the limit from the start", large, memory(10 * MIB), oom()),
        ("the limit exactly", exit(0), memory(4 * 65536), exited(0)),
        ("one byte less", exit(0), memory(4 * 65536 - 1), oom()),
    ] {
        let outcome = worker.run(&wasm, limited(limits.clone(), no_limits()));
        assert_eq!(told(&outcome.exit), end, "{name}");
        let outcome = worker.run(&wasm, limited(no_limits(), limits));
        assert_eq!(told(&outcome.exit), end, "{name}, limit of the task");
    }
    for (name, wasm) in [("own maximum", own_maximum), ("grew later", recovered)] {
        let exit = worker.run(&wasm, limited(memory(10 * MIB + 65536), no_limits())).exit;
        assert_eq!((exit.code, exit.cause), (134, Cause::Trap {}), "{name}");
    }
}

#[test]
fn memory_is_counted() {
    let worker = Worker::new();
    let setup = limited(memory(10 * MIB), no_limits());
    let started = worker.start(&grow("(loop $l (br $l))"), &setup).unwrap();
    // 4 pages at first, then 16 at a time until the next 16 do not fit into 160.
    let expect = 148 * 65536;
    let mut usage = worker.usage(started.run);
    while usage.memory_bytes < expect || usage.cpu_ns == 0 {
        usage = worker.usage(started.run);
    }
    assert_eq!((usage.memory_bytes, usage.memory_peak_bytes), (expect, expect));
    let exit = worker.kill(started.run);
    assert_eq!(told(&exit), stopped(137), "killed, and not for its memory");
    assert_eq!((exit.usage.memory_bytes, exit.usage.memory_peak_bytes), (0, expect));
}

/// Two containers of a task draw on its limit together, and what one had is free when it has ended.
#[test]
fn containers_share_the_memory_of_their_task() {
    let worker = Worker::new();
    let setup = || limited(no_limits(), memory(10 * MIB));
    let hold = module(
        "(drop (memory.grow (i32.const 100)))
         (call $put (i32.const 1) (i32.const 0) (i32.const 1))
         (loop $l (br $l))",
    );
    let need = module("(if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then (unreachable)))");
    let mut first = worker.start(&hold, &setup()).unwrap();
    first.stdout.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(told(&worker.run(&need, setup()).exit), oom());
    let mut other_task = setup();
    other_task.plan.task = "another".into();
    assert_eq!(told(&worker.run(&need, other_task).exit), exited(0), "another task has its own");
    worker.kill(first.run);
    assert_eq!(told(&worker.run(&need, setup()).exit), exited(0));
}

/// A twentieth of a core: 100 ms of work take about 1.9 s, as 5 ms are granted at once. Only four times the work is
/// asked for, as a loaded machine makes slices longer.
#[test]
fn shares_throttle() {
    let worker = Worker::new();
    for (container, task) in [(Some(50), None), (None, Some(50)), (Some(4000), Some(50))] {
        let limits = |millis| RunLimits { cpu_millis: millis, ..no_limits() };
        let begun = Instant::now();
        let started = worker.start(&spin(), &limited(limits(container), limits(task))).unwrap();
        let mut cpu = Duration::ZERO;
        while cpu < Duration::from_millis(100) {
            cpu = Duration::from_nanos(worker.usage(started.run).cpu_ns);
        }
        let wall = begun.elapsed();
        assert!(wall >= cpu * 4, "{cpu:?} of work in {wall:?}");
        // It can be ended while it sleeps off its debt.
        assert_eq!(told(&worker.kill(started.run)), stopped(137));
    }
}
