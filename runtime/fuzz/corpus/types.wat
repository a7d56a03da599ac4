;; A function whose parameter has a part of every type that has a form in JSON.
(component
  (type $point' (record (field "x" s32) (field "label" (option string))))
  (export $point "point" (type $point'))
  (type $shape' (variant (case "dot") (case "circle" f64) (case "at" $point) (case "maybe" (option u8))))
  (export $shape "shape" (type $shape'))
  (type $colour' (enum "red" "green"))
  (export $colour "colour" (type $colour'))
  (type $mode' (flags "read" "write" "run"))
  (export $mode "mode" (type $mode'))
  (type $all' (record
    (field "shapes" (list $shape)) (field "pair" (tuple u8 $colour)) (field "mode" $mode)
    (field "done" (result u64 (error string))) (field "letter" char) (field "half" f32) (field "is" bool)))
  (export $all "all" (type $all'))
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
    (func (export "take") (param i32 i32 i32 i32 i32 i32 i64 i32 i32 f32 i32) (result i32) i32.const 7))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (func (export "take") (param "all" $all) (result s16)
    (canon lift (core func $i "take") (memory $memory) (realloc $realloc))))
