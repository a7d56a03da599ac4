;; A program of WASI preview 1, with one of each section.
(module
  (type $write (func (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (type $write)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1 2)
  (table $table 2 4 funcref)
  (global $count (mut i32) (i32.const 0))
  (elem (table $table) (i32.const 0) func $twice $start)
  (data (i32.const 0) "\08\00\00\00\06\00\00\00hello\n")
  (func $twice (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func $start (export "_start")
    (local $left i64)
    (local.set $left (i64.const 3))
    (block $done
      (loop $again
        (br_if $done (i64.eqz (local.get $left)))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))
        (local.set $left (i64.sub (local.get $left) (i64.const 1)))
        (br $again)))
    (if (i32.eq (call_indirect (param i32) (result i32) (i32.const 21) (i32.const 0)) (i32.const 42))
      (then (call $proc_exit (global.get $count)))
      (else unreachable))))
