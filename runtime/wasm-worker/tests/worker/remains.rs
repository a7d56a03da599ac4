//! What a run leaves for people.

use neargate_wasm::protocol::{Attachment, Cause};

use crate::guests::{count, exit, module, spin};
use crate::harness::{Setup, Worker, contents, encode, exited, told};

#[test]
fn a_trap_leaves_a_core_dump() {
    let worker = Worker::new();
    let mark = module("(i32.store (i32.const 4096) (i32.const 0x6b72616d)) (unreachable)");
    for wanted in [true, false] {
        let mut setup = Setup { argv: &["crasher"], ..Setup::default() };
        setup.plan.core_dump = wanted;
        let started = worker.start(&mark, &setup).unwrap();
        let (exit, mut files) = worker.end(started.run);
        assert_eq!((exit.code, &exit.cause), (134, &Cause::Trap {}));
        if !wanted {
            assert!(exit.attachments.is_empty() && files.is_empty());
            continue;
        }
        assert_eq!((&exit.attachments[..], files.len()), (&[Attachment::CoreDump {}][..], 1));
        let dump = contents(files.remove(0));
        // The format is a Wasm module with sections of its own, the first of which names the program.
        assert!(dump.starts_with(b"\0asm"));
        let holds = |what: &[u8]| dump.windows(what.len()).any(|window| window == what);
        assert!(holds(b"core") && holds(b"crasher") && holds(b"corestack") && holds(b"mark"));
    }
}

#[test]
fn only_a_trap_leaves_one() {
    let worker = Worker::new();
    let mut setup = Setup::default();
    setup.plan.core_dump = true;
    let started = worker.start(&exit(3), &setup).unwrap();
    let (exit, files) = worker.end(started.run);
    assert_eq!((told(&exit), exit.attachments.len(), files.len()), (exited(3), 0, 0));
}

/// 80 MiB of memory do not fit into an attachment, and half a dump is no dump.
#[test]
fn a_large_memory_is_not_dumped() {
    let worker = Worker::new();
    let wasm = encode(r#"(module (memory 1280) (func (export "_start") (unreachable)))"#);
    let mut setup = Setup::default();
    setup.plan.core_dump = true;
    let started = worker.start(&wasm, &setup).unwrap();
    let (exit, files) = worker.end(started.run);
    assert_eq!((exit.code, &exit.cause, files.len()), (134, &Cause::Trap {}, 0));
}

#[test]
fn a_profile_names_the_functions() {
    let worker = Worker::new();
    let mut setup = Setup { argv: &["counter"], ..Setup::default() };
    setup.plan.profile = true;
    let started = worker.start(&count(200), &setup).unwrap();
    let (exit, mut files) = worker.end(started.run);
    assert_eq!((told(&exit), &exit.attachments[..]), (exited(0), &[Attachment::Profile {}][..]));
    let profile: serde_json::Value = serde_json::from_slice(&contents(files.remove(0))).unwrap();
    let thread = &profile["threads"][0];
    assert!(thread["samples"]["length"].as_u64().unwrap() > 0, "{profile}");
    let strings = thread["stringArray"].to_string() + &profile["shared"]["stringArray"].to_string();
    assert!(strings.contains("main"), "{strings}");
}

/// A run that is killed leaves nothing, whatever it was to leave.
#[test]
fn a_killed_run_leaves_nothing() {
    let worker = Worker::new();
    let mut setup = Setup::default();
    (setup.plan.profile, setup.plan.core_dump) = (true, true);
    let started = worker.start(&spin(), &setup).unwrap();
    worker.stop(started.run, neargate_wasm::protocol::Stop::Kill { code: 137 });
    let (exit, files) = worker.end(started.run);
    assert_eq!((exit.code, exit.attachments.len(), files.len()), (137, 0, 0));
}
