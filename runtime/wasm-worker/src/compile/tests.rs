//! Binaries of all kinds through the role function itself, and binaries made to hurt compilers.

use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;

use neargate_fuzz::Fuzz;
use neargate_wasm::protocol::{EntryKind, ExportInfo};

use super::*;

/// What came of one order, and the code.
fn order(wasm: &[u8], change: impl FnOnce(&mut CompileOrder)) -> (CompileReply, Vec<u8>) {
    let mut order = CompileOrder {
        digest: format!("sha256:{}", hex::encode(Sha256::digest(wasm))),
        wasm_bytes_max: 64 << 20,
        code_bytes_max: 256 << 20,
    };
    change(&mut order);
    let file = |bytes: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    };
    let (binary, mut code, mut reply) = (file(wasm), file(b""), file(b""));
    let fds = [&binary, &code, &reply].map(|file| file.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(compiler_main(&encode(&order), fds.into()), 0);
    let read = |file: &mut File| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    (decode(&read(&mut reply)).unwrap(), read(&mut code))
}

fn inspect(text: &str) -> Inspection {
    let wasm = wat::parse_str(text).unwrap();
    match order(&wasm, |_| {}) {
        (CompileReply::Done { inspection }, code) => {
            let compiled = Engine::detect_precompiled(&code);
            let expect = match inspection.kind {
                BinaryKind::Module {} => wasmtime::Precompiled::Module,
                BinaryKind::Component {} => wasmtime::Precompiled::Component,
            };
            assert_eq!(compiled, Some(expect));
            assert_eq!(inspection.compiler, compiler_id());
            inspection
        }
        (reply, _) => panic!("{text}: {reply:?}"),
    }
}

fn refusal(wasm: &[u8]) -> CompileRefusal {
    match order(wasm, |_| {}) {
        (CompileReply::Refused { reason }, code) => {
            assert!(code.is_empty());
            reason
        }
        (reply, _) => panic!("{reply:?}"),
    }
}

/// What was seen of a refused binary: its entries, exports and imports.
type Seen<'a> = (&'a [EntryKind], &'a [&'a str], &'a [&'a str]);

fn check_refused(text: &str, name: Option<&str>, why: &str, expect: Seen<'_>) {
    let (found, found_why, seen) = match refusal(&wat::parse_str(text).unwrap()) {
        CompileRefusal::Import { name, why, seen } => (Some(name), why, seen),
        CompileRefusal::NoEntry { why, seen } => (None, why, seen),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!((found.as_deref(), found_why.as_str()), (name, why), "{text}");
    let exports: Vec<&str> = seen.exports.iter().map(|export| export.name.as_str()).collect();
    assert_eq!(
        (&seen.entries[..], &exports[..], &seen.imports[..]),
        (expect.0, expect.1, &owned(expect.2)[..])
    );
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn modules() {
    let found = inspect(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (func (export "_start"))
            (func (export "add") (param i32 i64) (result f64) unreachable))"#,
    );
    assert_eq!((found.kind, found.engine), (BinaryKind::Module {}, EngineKind::Sync {}));
    assert_eq!(found.entries, [EntryKind::Command {}]);
    assert_eq!(found.imports, ["wasi_snapshot_preview1"]);
    let signature = "func(i32, i64) -> f64".to_owned();
    assert_eq!(found.exports, [ExportInfo { name: "add".to_owned(), signature }]);

    let library = inspect(r#"(module (func (export "f")))"#);
    assert_eq!((library.entries, library.imports), (vec![], Vec::<String>::new()));
}

#[test]
fn modules_that_are_refused() {
    check_refused(
        r#"(module
            (import "env" "memory" (memory 1))
            (import "wasi_snapshot_preview1" "sing" (func))
            (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
            (func (export "_start"))
            (func (export "f")))"#,
        Some("env.memory"),
        "it imports `env.memory`, `wasi_snapshot_preview1.sing`, which Neargate does not offer",
        (
            &[EntryKind::Command {}],
            &["f"],
            &["wasi_snapshot_preview1", "env.memory", "wasi_snapshot_preview1.sing"],
        ),
    );
    check_refused(
        r#"(module (memory (export "memory") 1))"#,
        None,
        "the module exports neither `_start` nor any function of numbers",
        (&[], &[], &[]),
    );
    check_refused(
        r#"(module (func (export "_start") (param i32)) (func (export "f")))"#,
        None,
        "the module's `_start` is not a function without parameters and results",
        (&[], &["f"], &[]),
    );
}

#[test]
fn components() {
    let found = inspect(
        r#"(component
            (import "wasi:cli/environment@0.2.3" (instance))
            (import "wasi:keyvalue/store@0.2.0-draft" (instance))
            (import "demo:lib/types" (instance (type (record (field "x" u8))) (export "t" (type (eq 0)))))
            (core module $m (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "f")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.3" (instance $run))
            (export "neargate:task/handler@0.1.0" (instance $run))
            (func (export "count") (result u32) (canon lift (core func $i "f"))))"#,
    );
    assert_eq!((found.kind, found.engine), (BinaryKind::Component {}, EngineKind::Sync {}));
    assert_eq!(found.entries, [EntryKind::Command {}, EntryKind::Handler {}]);
    assert_eq!(found.imports, ["wasi:cli/environment@0.2.3", "wasi:keyvalue/store@0.2.0-draft"]);
    let signature = "func() -> u32".to_owned();
    assert_eq!(found.exports, [ExportInfo { name: "count".to_owned(), signature }]);

    let third = inspect(
        r#"(component
            (import "wasi:cli/environment@0.3.0" (instance))
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func (export "f") (canon lift (core func $i "f"))))"#,
    );
    assert_eq!(third.engine, EngineKind::Concurrent {});
    assert_eq!(third.imports, ["wasi:cli/environment@0.3.0"]);
}

#[test]
fn components_that_are_refused() {
    check_refused(
        r#"(component
            (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance (export "f" (func))))
            (import "wasi:cli/stdin@0.2.0" (instance))
            (import "log" (func (param "x" string)))
            (core module $m (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "count") (result u32) (canon lift (core func $i "f"))))"#,
        Some("wasi:nn/tensor@0.2.0-rc-2024-10-28"),
        "it imports `wasi:nn/tensor@0.2.0-rc-2024-10-28`, `log`, which Neargate does not offer",
        (&[], &["count"], &["wasi:cli/stdin@0.2.0", "wasi:nn/tensor@0.2.0-rc-2024-10-28", "log"]),
    );
    let many: String = (0..20).map(|n| format!(r#"(import "f{n}" (func))"#)).collect();
    match refusal(&wat::parse_str(format!("(component {many})")).unwrap()) {
        CompileRefusal::Import { name, why, .. } => {
            assert_eq!(name, "f0");
            assert!(why.ends_with("`f11`, 8 more, which Neargate does not offer"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    let CompileRefusal::NoEntry { why, .. } = refusal(&wat::parse_str("(component)").unwrap()) else {
        panic!()
    };
    assert!(why.contains("exports neither `wasi:cli/run`"), "{why}");
}

#[test]
fn what_is_no_wasm() {
    let check = |bytes: &[u8], part: &str| match refusal(bytes) {
        CompileRefusal::NotWasm { what } => assert!(what.contains(part), "{what} lacks {part}"),
        other => panic!("{other:?}"),
    };
    check(b"", "empty");
    check(b"\x7fELF\x02\x01\x01\0", "ELF");
    check(b"(module)", "text");
    check(b"#!/bin/sh\n", "script");
    // Compiled code is an ELF file, and no image's code is ever run as it came.
    let engine = compiler(&EngineKind::Sync {}, false).unwrap();
    check(&engine.precompile_module(b"\0asm\x01\0\0\0").unwrap(), "ELF");
}

#[test]
fn binaries_that_are_malformed() {
    let good = wat::parse_str(r#"(module (func (export "_start") (loop (br 0))))"#).unwrap();
    for end in 9..good.len() {
        assert!(matches!(
            refusal(&good[..end]),
            CompileRefusal::Invalid { .. } | CompileRefusal::NoEntry { .. }
        ));
    }
    let CompileRefusal::Invalid { why } = refusal(b"\0asm\x01\0\0\0\xff\xff") else { panic!() };
    assert!(!why.is_empty());
}

/// Modules and components that are nearly right: each is compiled or refused, and the compiler never panics, which the
/// role would pass off as a refusal.
#[test]
fn binaries_that_are_damaged() {
    let corpus = neargate_fuzz::binaries();
    for wasm in &corpus {
        let (reply, _) = order(wasm, |_| {});
        assert!(matches!(reply, CompileReply::Done { .. }), "{reply:?}");
    }
    Fuzz { cases: 3000, memory_bytes_max: 1 << 30 }.run(&corpus, |wasm| match order(wasm, |_| {}) {
        (CompileReply::Done { inspection }, code) => {
            assert!(Engine::detect_precompiled(&code).is_some());
            assert!(!inspection.entries.is_empty() || !inspection.exports.is_empty());
        }
        (CompileReply::Refused { reason }, code) => {
            assert!(code.is_empty());
            assert_ne!(reason, CompileRefusal::Invalid { why: "the compiler panicked".to_owned() });
        }
        (reply, _) => panic!("{reply:?}"),
    });
}

#[test]
fn orders_that_do_not_fit_the_file() {
    let wasm = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    let (reply, _) = order(&wasm, |order| order.digest = format!("sha256:{}", "0".repeat(64)));
    let found = format!("sha256:{}", hex::encode(Sha256::digest(&wasm)));
    assert_eq!(reply, CompileReply::Refused { reason: CompileRefusal::Digest { found } });
    let (reply, _) = order(&wasm, |order| order.wasm_bytes_max = 20);
    assert_eq!(
        reply,
        CompileReply::Refused { reason: CompileRefusal::TooLarge { bytes: 21, bytes_max: 20 } }
    );
    let (reply, code) = order(&wasm, |order| order.code_bytes_max = 100);
    assert!(matches!(
        reply,
        CompileReply::Refused { reason: CompileRefusal::TooLarge { bytes_max: 100, .. } }
    ));
    assert!(code.is_empty());
    assert_eq!(compiler_main(b"no order", Vec::new()), 2);
}

#[test]
fn an_unwritable_file_is_nobodys_fault() {
    let wasm = wat::parse_str(r#"(module (func (export "_start")))"#).unwrap();
    let order = CompileOrder {
        digest: format!("sha256:{}", hex::encode(Sha256::digest(&wasm))),
        wasm_bytes_max: 1 << 20,
        code_bytes_max: 1 << 20,
    };
    let mut binary = tempfile::tempfile().unwrap();
    binary.write_all(&wasm).unwrap();
    binary.seek(SeekFrom::Start(0)).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    match compile(&order, binary, full) {
        Err(failure) => {
            let step = "write compiled code".to_owned();
            assert_eq!(failure.reply(), CompileReply::Failed { step, errno: 28 });
        }
        Ok(reply) => panic!("{reply:?}"),
    }
}

/// Compiles what is made to cost the compiler much; whatever it says, it must come back and say it.
fn check_bomb(text: &str) -> CompileReply {
    order(&wat::parse_str(text).unwrap(), |_| {}).0
}

#[test]
fn bombs_are_compiled_or_refused() {
    let done = |text: String| {
        let reply = check_bomb(&text);
        assert!(matches!(reply, CompileReply::Done { .. }), "{reply:?}");
    };
    // Nesting that a recursive compiler would overflow its stack with.
    let deep = 20_000;
    done(format!(r#"(module (func (export "_start") {}{}))"#, "(block ".repeat(deep), ")".repeat(deep)));
    // A table of branches for each of which there is an edge.
    let targets = "0 ".repeat(50_000);
    done(format!(r#"(module (func (export "_start") (block (br_table {targets} (i32.const 1)))))"#));
    // Very many functions.
    done(format!(r#"(module (func (export "_start")) {})"#, "(func)".repeat(100_000)));
    // A very long body.
    let body = "(drop (i32.const 1))".repeat(200_000);
    done(format!(r#"(module (func (export "_start") {body}))"#));
    // More locals than the limits of the JavaScript interface, which wasmparser has too.
    let locals = "(local i32) ".repeat(50_001);
    let reply = check_bomb(&format!(r#"(module (func (export "_start") {locals}))"#));
    let CompileReply::Refused { reason: CompileRefusal::Invalid { why } } = reply else {
        panic!("{reply:?}")
    };
    assert!(why.contains("locals"), "{why}");
}

#[test]
fn types_that_grow_with_their_depth_are_refused() {
    // Each type holds the one before it twice: 2^40 leaves.
    let mut types = String::from("(type $t0 (tuple u8 u8))");
    for n in 1..40 {
        types += &format!("(type $t{n} (tuple $t{} $t{}))", n - 1, n - 1);
    }
    let text = format!(r#"(component {types} (import "f" (func (param "x" $t39))))"#);
    let reply = check_bomb(&text);
    let CompileReply::Refused { reason: CompileRefusal::Invalid { why } } = reply else {
        panic!("{reply:?}")
    };
    assert!(why.contains("type"), "{why}");
}
