//! Holes that WASI's files had, each as the advisory tells it, against read-only and against other directories.

use std::fs;

use crate::harness::{Outcome, Setup, Worker, encode, mounted};

/// A program that makes one preview 1 call on the first mount and exits with its error number, plus 100 so that
/// success is told apart from not having come so far.
fn call(signature: &str, name: &str, data: &str, arguments: &str) -> Vec<u8> {
    encode(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "{name}" (func $call (param {signature}) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "{data}")
            (func (export "_start")
                (call $exit (i32.add (i32.const 100) (call $call {arguments})))))"#
    ))
}

fn consts(values: &[&str]) -> String {
    values.iter().map(|value| format!("({}) ", value.replace(':', ".const "))).collect()
}

/// Whether the call was refused by an error number, rather than made or trapped on.
fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome.exit.code, 101..=176)
}

/// RUSTSEC-2026-0149: `path_open` with TRUNC on a read-only preopen emptied the file.
#[test]
fn a_read_only_file_is_not_truncated() {
    let worker = Worker::new();
    fs::write(worker.volume().join("file"), "contents").unwrap();
    // O_TRUNC is 8; with no rights at all, with reading, with writing and with all.
    for rights in ["0", "2", "64", "-1"] {
        let arguments = consts(&[
            "i32:3",
            "i32:0",
            "i32:64",
            "i32:4",
            "i32:8",
            &format!("i64:{rights}"),
            "i64:0",
            "i32:0",
            "i32:1024",
        ]);
        let wasm = call("i32 i32 i32 i32 i32 i64 i64 i32 i32", "path_open", "file", &arguments);
        let outcome = worker.run(&wasm, mounted(true));
        assert!(is_refused(&outcome), "{rights}: {outcome:?}");
        assert_eq!(fs::read(worker.volume().join("file")).unwrap(), b"contents", "{rights}");
    }
}

/// RUSTSEC-2026-0188: hard links and renames out of a read-only preopen, and others that write.
#[test]
fn read_only_directories_stay_as_they_are() {
    let worker = Worker::new();
    let volume = worker.volume();
    fs::write(volume.join("file"), "contents").unwrap();
    let listing = || {
        let mut names: Vec<_> =
            fs::read_dir(&volume).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = listing();
    let (path, other) = (["i32:64", "i32:4"], ["i32:68", "i32:4"]);
    for (name, signature, arguments) in [
        (
            "path_link",
            "i32 i32 i32 i32 i32 i32 i32",
            [&["i32:3", "i32:0"], &path[..], &["i32:3"], &other].concat(),
        ),
        ("path_rename", "i32 i32 i32 i32 i32 i32", [&["i32:3"], &path[..], &["i32:3"], &other].concat()),
        ("path_symlink", "i32 i32 i32 i32 i32", [&path[..], &["i32:3"], &other].concat()),
        ("path_unlink_file", "i32 i32 i32", [&["i32:3"], &path[..]].concat()),
        ("path_create_directory", "i32 i32 i32", [&["i32:3"], &other[..]].concat()),
        ("path_remove_directory", "i32 i32 i32", [&["i32:3"], &path[..]].concat()),
        (
            "path_filestat_set_times",
            "i32 i32 i32 i32 i64 i64 i32",
            [&["i32:3", "i32:0"], &path[..], &["i64:0", "i64:0", "i32:5"]].concat(),
        ),
    ] {
        let outcome = worker.run(&call(signature, name, "filelink", &consts(&arguments)), mounted(true));
        assert!(is_refused(&outcome), "{name}: {outcome:?}");
        assert_eq!(listing(), before, "{name}");
        assert_eq!(fs::read(volume.join("file")).unwrap(), b"contents", "{name}");
    }
}

/// A hard link or a rename to a place above the directory.
#[test]
fn names_do_not_lead_out() {
    let worker = Worker::new();
    fs::write(worker.volume().join("file"), "contents").unwrap();
    let (path, up) = (["i32:64", "i32:4"], ["i32:68", "i32:7"]);
    for (name, signature, arguments) in [
        (
            "path_link",
            "i32 i32 i32 i32 i32 i32 i32",
            [&["i32:3", "i32:0"], &path[..], &["i32:3"], &up].concat(),
        ),
        ("path_rename", "i32 i32 i32 i32 i32 i32", [&["i32:3"], &path[..], &["i32:3"], &up].concat()),
        ("path_symlink", "i32 i32 i32 i32 i32", [&path[..], &["i32:3"], &up].concat()),
        ("path_create_directory", "i32 i32 i32", [&["i32:3"], &up[..]].concat()),
    ] {
        let outcome = worker.run(&call(signature, name, "file../file", &consts(&arguments)), mounted(false));
        assert!(is_refused(&outcome), "{name}: {outcome:?}");
        assert!(!worker.dir.path().join("file").exists(), "{name}");
    }
}

/// RUSTSEC-2025-0046: `fd_renumber` onto nothing or itself panicked in the host, and RUSTSEC-2026-0182: it leaked.
#[test]
fn descriptors_are_renumbered() {
    let worker = Worker::new();
    for (from, to) in [("3", "3"), ("3", "100"), ("100", "3"), ("0", "1"), ("-1", "-1"), ("3", "2147483647")]
    {
        let arguments = consts(&[&format!("i32:{from}"), &format!("i32:{to}")]);
        let outcome = worker.run(&call("i32 i32", "fd_renumber", "", &arguments), mounted(false));
        assert!(matches!(outcome.exit.code, 100..=176), "{from} to {to}: {outcome:?}");
    }
    // Over and over: each round opens the directory and moves it onto the last round's descriptor.
    let wasm = encode(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) ".")
            (func $open_here (param $to i32)
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 2)
                        (i64.const 0) (i64.const 0) (i32.const 0) (local.get $to))
                    (then (call $exit (i32.const 1)))))
            (func (export "_start") (local $left i32)
                (call $open_here (i32.const 16))
                (local.set $left (i32.const 20000))
                (loop $l
                    (call $open_here (i32.const 20))
                    (if (call $renumber (i32.load (i32.const 20)) (i32.load (i32.const 16)))
                        (then (call $exit (i32.const 2))))
                    (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))"#,
    );
    // More rounds than an instance may have resources (10,000): a leak would end in an error.
    let outcome = worker.run(&wasm, mounted(false));
    assert_eq!(outcome.exit.code, 0, "{outcome:?}");
}

/// Without a mount every call on the first descriptor finds nothing.
#[test]
fn nothing_is_there_without_a_mount() {
    let worker = Worker::new();
    let wasm = call("i32 i32", "fd_prestat_get", "", &consts(&["i32:3", "i32:1024"]));
    assert_eq!(worker.run(&wasm, Setup::default()).exit.code, 108, "EBADF");
}
