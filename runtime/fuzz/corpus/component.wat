;; A program that is also a handler and a typed function, and uses a resource of its host.
(component
  (import "wasi:io/error@0.2.3" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $failure))
  (import "wasi:cli/environment@0.2.3" (instance $environment
    (export "get-arguments" (func (result (list string))))))
  (core module $memory
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $bytes))
  (alias core export $memory "realloc" (core func $realloc))
  (core func $arguments
    (canon lower (func $environment "get-arguments") (memory $bytes) (realloc $realloc)))
  (core func $drop (canon resource.drop $failure))
  (core module $main
    (import "host" "arguments" (func $arguments (param i32)))
    (import "host" "drop" (func $drop (param i32)))
    (func (export "run") (result i32) (call $arguments (i32.const 16)) (i32.const 0))
    (func (export "forget") (param i32) (call $drop (local.get 0)))
    (func (export "double") (param i32) (result i32) (i32.shl (local.get 0) (i32.const 1))))
  (core instance $main (instantiate $main
    (with "host" (instance (export "arguments" (func $arguments)) (export "drop" (func $drop))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $runner (export "run" (func $run)))
  (export "wasi:cli/run@0.2.3" (instance $runner))
  (export "neargate:task/handler@0.1.0" (instance $runner))
  (func (export "double") (param "n" u32) (result u32) (canon lift (core func $main "double"))))
