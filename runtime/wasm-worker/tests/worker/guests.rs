//! The guests: preview 1 modules as text.

use crate::harness::encode;

/// A module whose `_start` has this body. Memory: an iovec at 0, results at 16, data and buffers above.
pub(crate) fn module(body: &str) -> Vec<u8> {
    module_with("", body)
}

/// The same with further items.
pub(crate) fn module_with(items: &str, body: &str) -> Vec<u8> {
    encode(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env_sizes (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_get" (func $env (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 4)
            {items}
            (func $put (param $fd i32) (param $from i32) (param $len i32)
                (i32.store (i32.const 0) (local.get $from))
                (i32.store (i32.const 4) (local.get $len))
                (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16))))
            (func $main (export "_start") {body}))"#
    ))
}

/// Exits with a code.
pub(crate) fn exit(code: i32) -> Vec<u8> {
    module(&format!("(call $exit (i32.const {code}))"))
}

/// Writes its arguments to standard output and its environment to standard error, as in `/proc/PID`.
pub(crate) fn show() -> Vec<u8> {
    module(
        "(drop (call $args_sizes (i32.const 16) (i32.const 20)))
         (drop (call $args (i32.const 1024) (i32.const 4096)))
         (call $put (i32.const 1) (i32.const 4096) (i32.load (i32.const 20)))
         (drop (call $env_sizes (i32.const 16) (i32.const 20)))
         (drop (call $env (i32.const 1024) (i32.const 4096)))
         (call $put (i32.const 2) (i32.const 4096) (i32.load (i32.const 20)))",
    )
}

/// Copies standard input to standard output in pieces of 100,000 bytes.
pub(crate) fn cat() -> Vec<u8> {
    module(
        "(loop $more
            (i32.store (i32.const 0) (i32.const 1024))
            (i32.store (i32.const 4) (i32.const 100000))
            (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16))
                (then (call $exit (i32.const 9))))
            (if (i32.load (i32.const 16)) (then
                (call $put (i32.const 1) (i32.const 1024) (i32.load (i32.const 16)))
                (br $more))))",
    )
}

/// Says `go` and computes for ever.
pub(crate) fn spin() -> Vec<u8> {
    module_with(
        r#"(data (i32.const 64) "go")"#,
        "(call $put (i32.const 1) (i32.const 64) (i32.const 2)) (loop $l (br $l))",
    )
}

/// Counts to a number of millions and exits.
pub(crate) fn count(millions: u32) -> Vec<u8> {
    module(&format!(
        "(local $n i64)
         (loop $l
            (local.set $n (i64.add (local.get $n) (i64.const 1)))
            (br_if $l (i64.lt_u (local.get $n) (i64.const {millions}000000))))"
    ))
}

/// Opens a path of the first mount for writing, making it, and exits with the error number.
pub(crate) fn create(path: &str) -> Vec<u8> {
    // O_CREAT is 1, the right to write is bit 6, the first preopened directory is descriptor 3.
    module_with(
        &format!("(data (i32.const 64) \"{path}\")"),
        &format!(
            "(local $error i32)
             (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const {len})
                (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 20)))
             (if (i32.eqz (local.get $error)) (then
                (call $put (i32.load (i32.const 20)) (i32.const 64) (i32.const {len}))))
             (call $exit (local.get $error))",
            len = path.len()
        ),
    )
}

/// Writes a file of the first mount to standard output, or exits with the error number.
pub(crate) fn show_file(path: &str) -> Vec<u8> {
    module_with(
        &format!("(data (i32.const 64) \"{path}\")"),
        &format!(
            "(local $error i32)
             (local.set $error (call $open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const {})
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 20)))
             (if (local.get $error) (then (call $exit (local.get $error))))
             (i32.store (i32.const 0) (i32.const 1024))
             (i32.store (i32.const 4) (i32.const 4096))
             (drop (call $read (i32.load (i32.const 20)) (i32.const 0) (i32.const 1) (i32.const 16)))
             (call $put (i32.const 1) (i32.const 1024) (i32.load (i32.const 16)))",
            path.len()
        ),
    )
}

/// Grows its memory page by page until that fails, then does what `then` says.
pub(crate) fn grow(then: &str) -> Vec<u8> {
    module(&format!("(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) {then}"))
}
