//! Memory and CPU limits.

use std::time::{Duration, Instant};

use neargate_driver::{Exit, Limits, Signal};

use crate::guests::{exit, grow, module, spin};
use crate::harness::{Bench, Setup, encode};

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> Limits {
    Limits { memory_bytes: Some(bytes), ..Limits::default() }
}

fn oom() -> Exit {
    let reason = "OutOfMemoryError: Container killed due to memory usage".to_owned();
    Exit { code: Some(137), oom: true, reason: Some(reason) }
}

#[tokio::test]
async fn memory_limits() {
    let bench = Bench::new();
    let two_memories = encode(
        r#"(module (memory 1) (memory 1)
            (func (export "_start")
                (loop $l
                    (br_if $l (i32.ne (memory.grow 0 (i32.const 16)) (i32.const -1)))
                    (br_if $l (i32.ne (memory.grow 1 (i32.const 16)) (i32.const -1))))
                (if (i32.gt_u (i32.add (memory.size 0) (memory.size 1)) (i32.const 160)) (then (unreachable)))
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
    for (name, wasm, limits, exit) in [
        ("bomb", grow("(unreachable)"), memory(10 * MIB), oom()),
        ("a program that copes", grow("(call $exit (i32.const 7))"), memory(10 * MIB), Exit::code(7)),
        ("the sum of memories", two_memories, memory(10 * MIB), oom()),
        ("tables", table, memory(64 << 10), oom()),
        ("more than the limit from the start", large, memory(10 * MIB), oom()),
        ("the limit exactly", exit(0), memory(4 * 65536), Exit::code(0)),
    ] {
        let setup = Setup { limits: limits.clone(), ..Setup::default() };
        assert_eq!(bench.run(&wasm, setup).await.exit, exit, "{name}");
        // A task's limits never change, so this takes a driver of its own.
        let (bench, setup) = (Bench::new(), Setup { task_limits: limits, ..Setup::default() });
        assert_eq!(bench.run(&wasm, setup).await.exit, exit, "{name}, limit of the task");
    }
    for (name, wasm) in [("own maximum", own_maximum), ("grew later", recovered)] {
        let setup = Setup { limits: memory(10 * MIB + 65536), ..Setup::default() };
        let exit = bench.run(&wasm, setup).await.exit;
        assert_eq!((exit.code, exit.oom), (Some(134), false), "{name}");
    }
}

#[tokio::test]
async fn memory_is_counted() {
    let bench = Bench::new();
    let setup = Setup { limits: memory(10 * MIB), ..Setup::default() };
    let started = bench.start(&grow("(loop $l (br $l))"), &setup).await.unwrap();
    // 4 pages at first, then 16 at a time until the next 16 do not fit into 160.
    let expect = 148 * 65536;
    let mut stats = started.handle.stats().await.unwrap();
    while stats.memory_bytes < expect || stats.cpu_ns == 0 {
        tokio::task::yield_now().await;
        stats = started.handle.stats().await.unwrap();
    }
    assert_eq!((stats.memory_bytes, stats.memory_peak_bytes), (expect, expect));
    started.handle.signal(Signal::Kill).await.unwrap();
    assert_eq!(started.handle.wait().await, Exit::code(137), "killed, and not for its memory");
    let stats = started.handle.stats().await.unwrap();
    assert_eq!((stats.memory_bytes, stats.memory_peak_bytes), (0, expect));
}

/// Two containers of a task draw on its limit together, and what one had is free when it has ended.
#[tokio::test]
async fn containers_share_the_memory_of_their_task() {
    let bench = Bench::new();
    let setup = || Setup { task_limits: memory(10 * MIB), ..Setup::default() };
    let hold = module(
        "(drop (memory.grow (i32.const 100)))
         (call $put (i32.const 1) (i32.const 0) (i32.const 1))
         (loop $l (br $l))",
    );
    let need = module("(if (i32.eq (memory.grow (i32.const 100)) (i32.const -1)) (then (unreachable)))");
    let mut first = bench.start(&hold, &setup()).await.unwrap();
    std::io::Read::read_exact(&mut first.stdout, &mut [0; 1]).unwrap();
    assert_eq!(bench.run(&need, setup()).await.exit, oom());
    first.handle.signal(Signal::Kill).await.unwrap();
    first.handle.wait().await;
    assert_eq!(bench.run(&need, setup()).await.exit, Exit::code(0));
}

/// A twentieth of a core: 100 ms of work take about 1.7 s, as 5 ms are granted at once and a slice of 10 ms
/// is paid afterwards. Only four times the work is asked for, as a loaded machine makes slices longer.
#[tokio::test]
async fn cpu_limits_throttle() {
    for (container, task) in [(Some(50), None), (None, Some(50)), (Some(4000), Some(50))] {
        let limits = |millis| Limits { cpu_millis: millis, ..Limits::default() };
        let setup = Setup { limits: limits(container), task_limits: limits(task), ..Setup::default() };
        // A task's limits never change, so each takes a driver of its own.
        let bench = Bench::new();
        let begun = Instant::now();
        let started = bench.start(&spin(), &setup).await.unwrap();
        let mut cpu = Duration::ZERO;
        while cpu < Duration::from_millis(100) {
            let ended = tokio::time::timeout(Duration::from_millis(5), started.handle.wait()).await;
            assert!(ended.is_err(), "throttled, not ended: {ended:?}");
            cpu = Duration::from_nanos(started.handle.stats().await.unwrap().cpu_ns);
        }
        let wall = begun.elapsed();
        assert!(wall >= cpu * 4, "{cpu:?} of work in {wall:?}");
        // It can be ended while it sleeps off its debt.
        started.handle.signal(Signal::Kill).await.unwrap();
        assert_eq!(started.handle.wait().await, Exit::code(137));
    }
}
