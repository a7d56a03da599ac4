//! Exit codes, arguments, environment, traps and the ways to end a run.

use std::io::Read;

use neargate_wasm::protocol::{Cause, Stop};

use crate::guests::{count, exit, module, module_with, show, spin};
use crate::harness::{Setup, Worker, encode, exited, stopped, told};

#[test]
fn exit_codes() {
    let worker = Worker::new();
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
        assert_eq!(told(&worker.run(&wasm, Setup::default()).exit), exited(code));
    }
}

#[test]
fn arguments_and_environment() {
    let worker = Worker::new();
    let setup = Setup {
        argv: &["show", "", "two words", "grüße"],
        env: &[("A", "1"), ("B", "x=y"), ("A", "2")],
        ..Setup::default()
    };
    let outcome = worker.run(&show(), setup);
    assert_eq!(outcome.stdout(), "show\0\0two words\0grüße\0");
    assert_eq!(outcome.stderr(), "A=2\0B=x=y\0", "the later value, and nothing of the host's");
}

#[test]
fn traps_are_told() {
    let worker = Worker::new();
    let recursion = module("(call $main)");
    let named = module_with("(func $boom (i32.store (i32.const 0x7fffffff) (i32.const 1)))", "(call $boom)");
    for (wasm, parts) in [
        (module("(unreachable)"), &["`unreachable` instruction executed", "at main"][..]),
        (recursion, &["call stack exhausted", "at main", "more"]),
        (named, &["out of bounds memory access", "at boom\n", "at main"]),
        (module("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), &["divide by zero"]),
    ] {
        let exit = worker.run(&wasm, Setup::default()).exit;
        let reason = exit.reason.clone().unwrap();
        assert_eq!((exit.code, &exit.cause), (134, &Cause::Trap {}), "{reason}");
        for part in parts {
            assert!(reason.contains(part), "{reason:?} lacks {part:?}");
        }
    }
}

#[test]
fn a_busy_guest_is_stopped() {
    let worker = Worker::new();
    for (stop, code) in
        [(Stop::Kill { code: 137 }, 137), (Stop::Ask { code: 143 }, 143), (Stop::Ask { code: 130 }, 130)]
    {
        let mut started = worker.start(&spin(), &Setup::default()).unwrap();
        // It runs once it has spoken.
        started.stdout.read_exact(&mut [0; 2]).unwrap();
        assert!(worker.usage(started.run).memory_bytes > 0);
        worker.stop(started.run, stop);
        let exit = worker.exit(started.run);
        assert_eq!(told(&exit), stopped(code));
        assert_eq!(exit.usage.memory_bytes, 0, "all is given back");
        assert!(exit.usage.cpu_ns > 0 && exit.usage.instantiate_ns > 0 && exit.usage.run_ns > 0);
        assert_eq!(started.stdout.read(&mut [0; 1]).unwrap(), 0, "its descriptors are closed");
        // A request after the end changes nothing.
        worker.stop(started.run, Stop::Kill { code: 1 });
    }
    assert_eq!(told(&worker.run(&exit(7), Setup::default()).exit), exited(7));
}

#[test]
fn a_waiting_guest_is_stopped() {
    let worker = Worker::new();
    let read = module(
        "(i32.store (i32.const 4) (i32.const 1))
         (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))",
    );
    let mut started = worker.start(&read, &Setup::default()).unwrap();
    assert_eq!(told(&worker.kill(started.run)), stopped(137));
    assert_eq!(started.stderr.read(&mut [0; 1]).unwrap(), 0);
    drop(started.stdin);
}

/// RUSTSEC-2026-0022: a call dropped in the middle of a host call that waits. Repeated, as a place that is not given
/// back would be missing, and with input that arrives in between.
#[test]
fn calls_are_dropped_in_host_calls() {
    let worker = Worker::with(2);
    let read = module(
        "(loop $l
            (i32.store (i32.const 4) (i32.const 1))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
            (br $l))",
    );
    for round in 0..50 {
        let mut started = worker.start(&read, &Setup::default()).unwrap();
        if round % 2 == 0 {
            std::io::Write::write_all(&mut started.stdin, b"some").unwrap();
        }
        assert_eq!(told(&worker.kill(started.run)), stopped(137), "round {round}");
    }
}

#[test]
fn a_start_function_is_part_of_the_program() {
    let worker = Worker::new();
    let wasm = encode(r#"(module (func $init (loop $l (br $l))) (start $init) (func (export "_start")))"#);
    let started = worker.start(&wasm, &Setup::default()).unwrap();
    worker.stop(started.run, Stop::Ask { code: 143 });
    assert_eq!(told(&worker.exit(started.run)), stopped(143));
}

/// One thread, two guests that never rest, and one that is short.
#[test]
fn busy_guests_do_not_starve_others() {
    let worker = Worker::new();
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut started = worker.start(&spin(), &Setup::default()).unwrap();
        started.stdout.read_exact(&mut [0; 2]).unwrap();
        busy.push(started);
    }
    assert_eq!(told(&worker.run(&count(1), Setup::default()).exit), exited(0));
    for started in busy {
        assert_eq!(told(&worker.kill(started.run)), stopped(137));
    }
}
