//! Programs, functions and what becomes of them.

use std::fs;
use std::time::Duration;

use neargate_driver::{ExecSpec, Exit, Limits, Mount, MountSource, Signal};

use crate::harness::{Bench, Setup, WAIT, module, new_task, words};

#[tokio::test]
async fn a_program_from_its_binary_to_its_exit() {
    let bench = Bench::new();
    let hello = module("hello", "", "(call $put (i32.const 1)) (call $exit (i32.const 3))");
    for _ in 0..3 {
        let (exit, text) = bench.run(&hello, Setup::default()).await;
        assert_eq!((exit, text.as_str()), (Exit::code(3), "hello"));
    }
    let kept = fs::read_dir(bench.dir.path().join("code")).unwrap().count();
    assert_eq!(kept, 2, "the code and what was seen of the binary");
}

#[tokio::test]
async fn what_cannot_be_run_says_why() {
    let bench = Bench::new();
    let unknown = wat::parse_str(
        r#"(module (import "env" "launch" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    for (wasm, expect) in [
        (b"\x7fELF\x02\x01\x01\0".to_vec(), "ELF"),
        (b"(module)".to_vec(), "text"),
        (b"\0asm\x01\0\0\0\xff\xff".to_vec(), "compile: "),
        (unknown.unwrap(), "launch"),
    ] {
        let error = bench.start(&wasm, Setup::default()).await.err().expect("it cannot be run");
        assert!(error.to_string().contains(expect), "{error} lacks {expect}");
    }
}

#[tokio::test]
async fn a_trap_leaves_a_core_dump() {
    let bench = Bench::new();
    let artifacts = bench.dir.path().join("artifacts");
    fs::create_dir(&artifacts).unwrap();
    let setup = Setup { artifacts: Some(artifacts.clone()), ..Setup::default() };
    let (exit, _) = bench.run(&module("", "", "(unreachable)"), setup).await;
    assert_eq!(exit.code, Some(134));
    assert!(exit.reason.unwrap().contains("unreachable"));
    assert!(fs::read(artifacts.join("core")).unwrap().starts_with(b"\0asm"));
}

#[tokio::test]
async fn a_busy_guest_is_measured_and_killed() {
    let bench = Bench::new();
    let started = bench.start(&module("", "", "(loop $l (br $l))"), Setup::default()).await.unwrap();
    let used = async {
        while started.handle.stats().await.unwrap().cpu_ns < 20_000_000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), used).await.unwrap();
    let stats = started.handle.stats().await.unwrap();
    assert!(stats.memory_bytes >= 4 * 65536 && stats.wasm.unwrap().instantiate_ns > 0, "{stats:?}");
    started.handle.signal(Signal::Kill).await.unwrap();
    assert_eq!(started.finish().await.0, Exit::code(137));
}

#[tokio::test]
async fn a_waiting_guest_is_stopped() {
    let bench = Bench::new();
    let started = bench.start(&module("", "", WAIT), Setup::default()).await.unwrap();
    started.handle.signal(Signal::Stop(15)).await.unwrap();
    assert_eq!(started.handle.wait().await, Exit::code(143));
}

#[tokio::test]
async fn memory_limits_and_cpu_budgets() {
    let bench = Bench::new();
    let grow = module(
        "",
        "",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
    );
    let limits = Limits { memory_bytes: Some(10 << 20), ..Limits::default() };
    let (exit, _) = bench.run(&grow, Setup { limits, ..Setup::default() }).await;
    assert_eq!((exit.code, exit.oom), (Some(137), true));
    let mut setup = Setup::default();
    setup.options.cpu_budget_ms = Some(30);
    let (exit, _) = bench.run(&module("", "", "(loop $l (br $l))"), setup).await;
    assert!(exit.code != Some(0) && !exit.oom && exit.reason.is_some(), "{exit:?}");
}

#[tokio::test]
async fn directories_are_given_and_no_others() {
    let bench = Bench::new();
    let data = bench.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    // Makes the file that its data names in the first directory, and exits with the error number.
    let create = module(
        "made",
        "",
        "(call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4)
            (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 20)))",
    );
    let mount = |read_only| {
        vec![Mount { source: MountSource::Host(data.clone()), target: "/data".into(), read_only }]
    };
    let (refused, _) = bench.run(&create, Setup { mounts: mount(true), ..Setup::default() }).await;
    assert_ne!(refused.code, Some(0));
    assert!(!data.join("made").exists());
    assert_eq!(bench.run(&create, Setup { mounts: mount(false), ..Setup::default() }).await.0, Exit::code(0));
    assert!(data.join("made").exists());
    // There is no descriptor 3: EBADF.
    assert_eq!(bench.run(&create, Setup::default()).await.0, Exit::code(8));
}

/// A component with functions that can be called by name, and no program.
fn functions() -> Vec<u8> {
    wat::parse_str(
        r#"(component
            (core module $m
                (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
                (func (export "yes") (result i32) (i32.const 1))
                (func (export "no") (result i32) (i32.const 0))
                (func (export "spin") (loop $l (br $l))))
            (core instance $i (instantiate $m))
            (func (export "add") (param "a" u32) (param "b" u32) (result u32)
                (canon lift (core func $i "add")))
            (func (export "yes") (result bool) (canon lift (core func $i "yes")))
            (func (export "no") (result bool) (canon lift (core func $i "no")))
            (func (export "spin") (canon lift (core func $i "spin"))))"#,
    )
    .unwrap()
}

fn call(name: &str, argv: &str) -> Setup {
    let mut setup = Setup { argv: words(argv), ..Setup::default() };
    setup.options.export = Some(name.to_owned());
    setup
}

#[tokio::test]
async fn a_function_is_called_with_json() {
    let bench = Bench::new();
    let (exit, text) = bench.run(&functions(), call("add", "add 2 40")).await;
    assert_eq!((exit, text.trim()), (Exit::code(0), "42"));
    let (exit, text) = bench.run(&functions(), call("add", "add 2 many")).await;
    assert!(exit.code != Some(0), "{exit:?} {text}");
    let error = bench.start(&functions(), call("sub", "sub")).await.err().expect("there is no sub");
    assert!(error.to_string().contains("exports no function `sub`; it exports: "), "{error}");
    let error = bench.start(&functions(), Setup::default()).await.err().expect("it is no program");
    assert!(error.to_string().contains("no program"), "{error}");
}

#[tokio::test]
async fn health_checks_by_function() {
    let bench = Bench::new();
    let started = bench.start(&functions(), call("spin", "spin")).await.unwrap();
    for (words_of_check, expect) in [("yes", Some(0)), ("no", Some(1)), ("add 1 1", Some(0)), ("spin", None)]
    {
        let timeout = Duration::from_millis(if expect.is_none() { 200 } else { 20_000 });
        let spec = ExecSpec { argv: words(words_of_check), env: Vec::new(), timeout, stdio: None };
        assert_eq!(started.handle.exec(spec).await.unwrap().code, expect, "{words_of_check}");
    }
    started.handle.signal(Signal::Kill).await.unwrap();
    assert_eq!(started.finish().await.0, Exit::code(137));
}

#[tokio::test]
async fn containers_of_a_task_and_of_others_run_side_by_side() {
    let bench = Bench::new();
    let task = new_task();
    let wait = module("go", "", &format!("(call $put (i32.const 1)) {WAIT} (call $exit (i32.const 5))"));
    let mut started = Vec::new();
    for index in 0..12 {
        let task = (index % 2 == 0).then(|| task.clone());
        started.push(bench.start(&wait, Setup { task, ..Setup::default() }).await.unwrap());
    }
    for started in started {
        assert_eq!(started.finish().await, (Exit::code(5), "go".to_owned()));
    }
}

#[tokio::test]
async fn the_end_of_the_driver_ends_what_runs() {
    let bench = Bench::new();
    let started = bench.start(&module("", "", WAIT), Setup::default()).await.unwrap();
    bench.driver.shut_down().await;
    let exit = started.handle.wait().await;
    assert!(exit.reason.unwrap().contains("the server ends"));
}
