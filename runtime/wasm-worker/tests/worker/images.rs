//! What is accepted as compiled code, and how many images and runs there may be.

use neargate_wasm::protocol::{BinaryKind, CodeInfo, EngineKind, Entry, StartFailure, ToWorker};
use neargate_wasm_worker::testing;

use crate::guests::{exit, module};
use crate::harness::{Setup, Worker, encode, exited, told};

fn info(kind: BinaryKind) -> CodeInfo {
    CodeInfo { kind, engine: EngineKind::Sync {} }
}

#[test]
fn code_that_is_refused() {
    let worker = Worker::new();
    let (_, code) = testing::compile(&exit(0), &EngineKind::Sync {}).unwrap();
    let (_, concurrent) = testing::compile(&exit(0), &EngineKind::Concurrent {}).unwrap();
    let (_, component) = testing::compile(&encode("(component)"), &EngineKind::Sync {}).unwrap();
    let module = || info(BinaryKind::Module {});
    for (what, kind, bytes) in [
        ("nothing", module(), &b""[..]),
        ("Wasm itself", module(), &exit(0)),
        ("half of it", module(), &code[..code.len() / 2]),
        ("another engine's", module(), &concurrent),
        ("a component for a module", module(), &component),
        ("a module for a component", info(BinaryKind::Component {}), &code),
        ("no component", info(BinaryKind::Component {}), b""),
    ] {
        let why = worker.load_code(kind, bytes).expect_err(what);
        assert!(!why.is_empty(), "{what}");
    }
    let image = worker.load_code(module(), &code).unwrap();
    worker.send(&ToWorker::Unload { image }, &[]);
    assert_eq!(told(&worker.run(&exit(5), Setup::default()).exit), exited(5), "the worker goes on");
}

#[test]
fn imports_that_nobody_has() {
    let worker = Worker::new();
    let missing = r#"(module (import "env" "launch" (func)) (func (export "_start")))"#;
    let why = worker.load(&encode(missing)).unwrap_err();
    assert!(why.contains("env::launch"), "{why}");
    let component = r#"(component (import "acme:bank/vault@1.0.0" (instance (export "x" (func)))))"#;
    let why = worker.load(&encode(component)).unwrap_err();
    assert!(why.contains("acme:bank/vault@1.0.0"), "{why}");
}

#[test]
fn runs_that_are_refused() {
    let worker = Worker::new();
    let mut setup = Setup::default();
    setup.plan.entry = Entry::Handler {};
    let failure = worker.start(&exit(0), &setup).map(|started| started.run).unwrap_err();
    assert!(matches!(failure, StartFailure::NoEntry { .. }), "{failure:?}");

    for (text, expect) in [
        ("(component)", "`wasi:cli/run`"),
        ("(module)", "no function `_start`"),
        (r#"(module (func (export "_start") (result i32) (i32.const 1)))"#, "`_start` is not a function"),
        (r#"(module (global (export "_start") i32 (i32.const 1)))"#, "`_start` is not a function"),
    ] {
        let failure = worker.start(&encode(text), &Setup::default()).map(|started| started.run).unwrap_err();
        let StartFailure::NoEntry { why } = failure else { panic!("{failure:?}") };
        assert!(why.contains(expect), "{why:?} lacks {expect:?}");
    }

    // The image goes, its runs go on.
    let wait = waits();
    let started = worker.start(&wait, &Setup::default()).unwrap();
    let image = worker.load(&wait).unwrap();
    worker.send(&ToWorker::Unload { image }, &[]);
    let failure = worker.start(&wait, &Setup::default()).map(|started| started.run).unwrap_err();
    assert_eq!(failure, StartFailure::NoEntry { why: "the image is not loaded".into() });
    assert_eq!(told(&worker.finish(started, b"x").exit), exited(0));
}

/// Reads a byte and ends.
fn waits() -> Vec<u8> {
    module(
        "(i32.store (i32.const 4) (i32.const 1))
         (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))",
    )
}

#[test]
fn no_more_runs_than_places() {
    let worker = Worker::with(4);
    let mut started: Vec<_> = (0..4).map(|_| worker.start(&waits(), &Setup::default()).unwrap()).collect();
    let full = |worker: &Worker| worker.start(&waits(), &Setup::default()).map(|started| started.run);
    assert_eq!(full(&worker), Err(StartFailure::Full {}), "the fifth");
    let first = started.remove(0);
    assert_eq!(told(&worker.finish(first, b"x").exit), exited(0));
    started.push(worker.start(&waits(), &Setup::default()).unwrap());
    for guest in started {
        assert_eq!(told(&worker.finish(guest, b"x").exit), exited(0));
    }
}
