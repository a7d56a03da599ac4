//! Exit codes, arguments, environment, traps and signals.

use std::io::Read;

use neargate_driver::{Driver, ExecError, ExecSpec, Exit, Signal};

use crate::guests::{count, exit, module, module_with, show, spin};
use crate::harness::{Bench, Setup, encode};

#[tokio::test]
async fn exit_codes() {
    let bench = Bench::new();
    for (wasm, code) in [
        (module(""), 0),
        (exit(0), 0),
        (exit(1), 1),
        (exit(125), 125),
        (exit(126), 126),
        (exit(137), 137),
        (exit(255), 255),
        (exit(256 + 3), 3),
        (exit(-1), 255),
    ] {
        assert_eq!(bench.run(&wasm, Setup::default()).await.exit, Exit::code(code));
    }
}

#[tokio::test]
async fn arguments_and_environment() {
    let bench = Bench::new();
    let setup = Setup {
        argv: &["show", "", "two words", "grüße"],
        env: &[("A", "1"), ("B", "x=y"), ("A", "2")],
        ..Setup::default()
    };
    let outcome = bench.run(&show(), setup).await;
    assert_eq!(outcome.stdout(), "show\0\0two words\0grüße\0");
    assert_eq!(outcome.stderr(), "A=2\0B=x=y\0", "the later value, and nothing of the host's");
}

#[tokio::test]
async fn traps_are_told() {
    let bench = Bench::new();
    let recursion = module("(call $main)");
    let named = module_with("(func $boom (i32.store (i32.const 0x7fffffff) (i32.const 1)))", "(call $boom)");
    for (wasm, parts) in [
        (module("(unreachable)"), &["`unreachable` instruction executed", "at main"][..]),
        (recursion, &["call stack exhausted", "at main", "more"]),
        (named, &["out of bounds memory access", "at boom\n", "at main"]),
        (module("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), &["divide by zero"]),
    ] {
        let exit = bench.run(&wasm, Setup::default()).await.exit;
        let reason = exit.reason.unwrap();
        assert_eq!((exit.code, exit.oom), (Some(134), false), "{reason}");
        for part in parts {
            assert!(reason.contains(part), "{reason:?} lacks {part:?}");
        }
    }
}

#[tokio::test]
async fn a_busy_guest_is_cancelled() {
    let bench = Bench::new();
    for (signal, code) in [(Signal::Kill, 137), (Signal::Stop(15), 143), (Signal::Stop(2), 130)] {
        let mut started = bench.start(&spin(), &Setup::default()).await.unwrap();
        // It runs once it has spoken.
        started.stdout.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(started.handle.stats().await.unwrap().pids, 1);
        started.handle.signal(signal).await.unwrap();
        assert_eq!(started.handle.wait().await, Exit::code(code));
        assert_eq!(started.handle.wait().await, Exit::code(code), "again");
        started.handle.signal(Signal::Kill).await.unwrap();
        assert_eq!(started.handle.wait().await, Exit::code(code), "a signal after the end changes nothing");
        let stats = started.handle.stats().await.unwrap();
        assert_eq!((stats.pids, stats.memory_bytes), (0, 0));
        assert_eq!(started.stdout.read(&mut [0; 1]).unwrap(), 0, "its descriptors are closed");
    }
}

#[tokio::test]
async fn a_waiting_guest_is_cancelled() {
    let bench = Bench::new();
    let read = module(
        "(i32.store (i32.const 4) (i32.const 1))
         (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))",
    );
    let mut started = bench.start(&read, &Setup::default()).await.unwrap();
    started.handle.signal(Signal::Kill).await.unwrap();
    assert_eq!(started.handle.wait().await, Exit::code(137));
    assert_eq!(started.stderr.read(&mut [0; 1]).unwrap(), 0);
    drop(started.stdin);
}

#[tokio::test]
async fn a_start_function_is_part_of_the_program() {
    let bench = Bench::new();
    let wasm = encode(r#"(module (func $init (loop $l (br $l))) (start $init) (func (export "_start")))"#);
    let started = bench.start(&wasm, &Setup::default()).await.unwrap();
    started.handle.signal(Signal::Stop(15)).await.unwrap();
    assert_eq!(started.handle.wait().await, Exit::code(143));
}

/// One thread, two guests that never rest, and one that is short.
#[tokio::test]
async fn busy_guests_do_not_starve_others() {
    let bench = Bench::new();
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut started = bench.start(&spin(), &Setup::default()).await.unwrap();
        started.stdout.read_exact(&mut [0; 2]).unwrap();
        busy.push(started);
    }
    assert_eq!(bench.run(&count(1), Setup::default()).await.exit, Exit::code(0));
    for started in busy {
        started.handle.signal(Signal::Kill).await.unwrap();
        assert_eq!(started.handle.wait().await.code, Some(137));
    }
}

#[tokio::test]
async fn a_dropped_driver_ends_its_guests() {
    let Bench { driver, dir } = Bench::new();
    let bench = Bench { driver, dir };
    let mut started = bench.start(&spin(), &Setup::default()).await.unwrap();
    started.stdout.read_exact(&mut [0; 2]).unwrap();
    drop(bench);
    let exit = started.handle.wait().await;
    assert_eq!(exit.code, None);
    assert!(exit.reason.unwrap().contains("driver ended"));
}

#[tokio::test]
async fn what_wasm_cannot_do() {
    let bench = Bench::new();
    let started = bench.start(&spin(), &Setup::default()).await.unwrap();
    let command = || ExecSpec {
        argv: vec!["sh".into()],
        env: Vec::new(),
        timeout: std::time::Duration::from_secs(1),
        stdio: None,
    };
    assert!(matches!(started.handle.exec(command()).await, Err(ExecError::Unsupported { .. })));
    started.handle.signal(Signal::Kill).await.unwrap();
    started.handle.wait().await;
    assert!(matches!(started.handle.exec(command()).await, Err(ExecError::NotRunning)));
    let id = neargate_model::ContainerId::new("0a1b2c3d-0000-4000-8000-0123456789ab").unwrap();
    assert!(bench.driver.recover(&id).await.unwrap().is_none());
}
