;; A component of WASI 0.3: it imports what only that has, and its types hold streams.
(component
  (import "wasi:cli/environment@0.3.0" (instance))
  (type $bytes (stream u8))
  (type $later (future (result u32)))
  (core module $m (func (export "f") (result i32) i32.const 3))
  (core instance $i (instantiate $m))
  (core func (canon stream.new $bytes))
  (core func (canon future.new $later))
  (func (export "count") (result u32) (canon lift (core func $i "f"))))
