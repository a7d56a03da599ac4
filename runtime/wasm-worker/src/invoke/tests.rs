//! JSON ⇄ values for every type, where errors are said to be, and calls of real functions.

use std::fmt::Write;

use neargate_fuzz::Fuzz;
use proptest::prelude::*;
use serde_json::{Value, json};
use wasmtime::component::{Component, Linker, Type, Val, types};
use wasmtime::{Engine, Module, Store};

use super::value::{from_json, to_json};
use super::{Call, CoreCall, Outcome, function, signature};

/// The type that a text in the component model's text format names, and the definitions that it needs: what
/// is not a plain type must be named in an interface to be a parameter.
fn with_type<T>(definitions: &str, ty: &str, f: impl FnOnce(&Type) -> T) -> T {
    let text =
        format!(r#"(component (import "i" (instance {definitions} (export "f" (func (param "x" {ty}))))))"#);
    let engine = Engine::default();
    let component =
        Component::new(&engine, wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))).unwrap();
    let imports = component.component_type();
    let Some((_, item)) = imports.imports(&engine).next() else { panic!("{text}") };
    let types::ComponentItem::ComponentInstance(instance) = item.ty else { panic!("{text}") };
    let function = instance.exports(&engine).find_map(|(_, item)| match item.ty {
        types::ComponentItem::ComponentFunc(function) => Some(function),
        _ => None,
    });
    let function = function.unwrap();
    let (_, ty) = function.params().next().unwrap();
    f(&ty)
}

const DEFINITIONS: &str = r#"
    (type $p (record (field "x" s32) (field "label" (option string))))
    (export "point" (type $point (eq $p)))
    (type $s (variant (case "dot") (case "circle" f64) (case "at" $point) (case "maybe" (option u8))))
    (export "shape" (type $shape (eq $s)))
    (type $c (enum "red" "green"))
    (export "colour" (type $colour (eq $c)))
    (type $m (flags "read" "write" "run"))
    (export "mode" (type $mode (eq $m)))
    (type $o (record (field "limit" u32) (field "shapes" (list $shape)) (field "pair" (tuple u8 $colour))))
    (export "opts" (type $opts (eq $o)))
"#;

fn accepts(ty: &str, input: Value, output: Value) {
    with_type(DEFINITIONS, ty, |ty| {
        let value = from_json(ty, &input).unwrap_or_else(|error| panic!("{input}{error}"));
        assert_eq!(to_json(ty, &value).unwrap(), output, "{input}");
    });
}

/// The same out as in.
fn keeps(ty: &str, values: &[Value]) {
    values.iter().for_each(|value| accepts(ty, value.clone(), value.clone()));
}

fn refuses(ty: &str, input: Value, expect: &str) {
    with_type(DEFINITIONS, ty, |ty| match from_json(ty, &input) {
        Ok(value) => panic!("{input} became {value:?}"),
        Err(mismatch) => assert_eq!(mismatch.to_string(), expect, "{input}"),
    });
}

#[test]
fn plain_types() {
    keeps("bool", &[json!(true), json!(false)]);
    refuses("bool", json!(1), ": expected bool, got 1");
    refuses("bool", json!("true"), ": expected bool, got \"true\"");
    keeps("string", &[json!(""), json!("grüße\0\n")]);
    refuses("string", json!(7), ": expected string, got 7");
    refuses("string", json!(null), ": expected string, got null");
    keeps("char", &[json!("x"), json!("🦀"), json!("\"")]);
    refuses("char", json!(""), ": expected char, got \"\"");
    refuses("char", json!("xy"), ": expected char, got \"xy\"");
}

#[test]
fn integers_are_checked_against_their_range() {
    keeps("u8", &[json!(0), json!(255)]);
    keeps("s8", &[json!(-128), json!(127)]);
    keeps("u16", &[json!(65535)]);
    keeps("s16", &[json!(-32768)]);
    keeps("u32", &[json!(u32::MAX)]);
    keeps("s32", &[json!(i32::MIN)]);
    for (ty, value) in [("u8", json!(256)), ("u8", json!(-1)), ("s8", json!(128)), ("s8", json!(-129))] {
        refuses(ty, value.clone(), &format!(": expected {ty}, got {value}"));
    }
    refuses("u32", json!(1u64 << 32), ": expected u32, got 4294967296");
    refuses("u32", json!(1.5), ": expected u32, got 1.5");
    refuses("u32", json!("x"), ": expected u32, got \"x\"");
    refuses("u32", json!(""), ": expected u32, got \"\"");
    refuses("u32", json!("+1"), ": expected u32, got \"+1\"");
    refuses("u32", json!(" 1"), ": expected u32, got \" 1\"");
    accepts("u32", json!(3.0), json!(3));
    accepts("u32", json!("42"), json!(42));
}

#[test]
fn large_integers_go_out_as_strings() {
    let exact = 1u64 << 53;
    keeps("u64", &[json!(exact), json!((exact + 1).to_string()), json!(u64::MAX.to_string())]);
    keeps("s64", &[json!(-(exact as i64)), json!(i64::MIN.to_string()), json!(i64::MAX.to_string())]);
    accepts("u64", json!(u64::MAX), json!("18446744073709551615"));
    accepts("s64", json!(i64::MIN), json!("-9223372036854775808"));
    refuses("u64", json!("18446744073709551616"), ": expected u64, got \"18446744073709551616\"");
    refuses("s64", json!("9223372036854775808"), ": expected s64, got \"9223372036854775808\"");
    refuses("s64", json!(1e19), ": expected s64, got 1e+19");
}

#[test]
fn floats() {
    keeps(
        "f64",
        &[json!(0.1), json!(-0.0), json!(1e300), json!("NaN"), json!("Infinity"), json!("-Infinity")],
    );
    keeps("f32", &[json!(0.1), json!(-1.5), json!("NaN"), json!("Infinity"), json!("-Infinity")]);
    accepts("f64", json!(3), json!(3.0));
    accepts("f32", json!(16777217), json!(16777216.0));
    refuses("f32", json!(1e39), ": expected f32, got 1e+39");
    refuses("f64", json!("1.0"), ": expected f64, got \"1.0\"");
}

#[test]
fn lists_tuples_and_records() {
    keeps("(list u8)", &[json!([]), json!([1, 2, 3])]);
    refuses("(list u8)", json!([1, 256]), ", item 2: expected u8, got 256");
    refuses("(list u8)", json!("text"), ": expected list<u8>, got \"text\"");
    keeps("(tuple u8 string)", &[json!([1, "x"])]);
    refuses("(tuple u8 string)", json!([1]), ": expected tuple<u8, string>, got [1]");
    refuses("(tuple u8 string)", json!([1, 2]), ", item 2: expected string, got 2");
    keeps("$point", &[json!({"x": 1, "label": "a"})]);
    accepts("$point", json!({"x": 1}), json!({"x": 1, "label": null}));
    refuses("$point", json!({"label": "a"}), ", field `x`: it is missing; expected s32");
    refuses("$point", json!({"x": 1, "y": 2}), ": there is no field `y`; there are `x`, `label`");
    refuses("$point", json!([1]), ": expected record { x: s32, label: option<string> }, got [1]");
}

#[test]
fn variants_enums_flags_and_results() {
    keeps("$shape", &[json!("dot"), json!({"circle": 2.5}), json!({"at": {"x": 1, "label": null}})]);
    keeps("$shape", &[json!({"maybe": 1}), json!({"maybe": null})]);
    accepts("$shape", json!({"dot": null}), json!("dot"));
    accepts("$shape", json!("maybe"), json!({"maybe": null}));
    refuses("$shape", json!("circle"), ", case `circle`: it is without its value; expected f64");
    refuses("$shape", json!({"circle": "x"}), ", case `circle`: expected f64, got \"x\"");
    refuses("$shape", json!({"dot": 1}), ", case `dot`: expected no value, got 1");
    refuses("$shape", json!({"at": {"x": "a"}}), ", case `at`, field `x`: expected s32, got \"a\"");
    let variant =
        ": expected variant { dot, circle(f64), at(record { x: s32, label: option<string> }), maybe(…, got ";
    refuses("$shape", json!("square"), &format!("{variant}\"square\""));
    refuses(
        "$shape",
        json!({"dot": null, "circle": 1}),
        &format!("{variant}{}", r#"{"circle":1,"dot":null}"#),
    );
    keeps("$colour", &[json!("red"), json!("green")]);
    refuses("$colour", json!("blue"), ": expected enum { red, green }, got \"blue\"");
    refuses("$colour", json!(0), ": expected enum { red, green }, got 0");
    keeps("$mode", &[json!([]), json!(["read", "run"])]);
    refuses("$mode", json!(["read", "sing"]), ", item 2: expected one of read, write, run, got \"sing\"");
    refuses("$mode", json!(["run", "run"]), ", item 2: `run` is listed twice");
    refuses("$mode", json!("read"), ": expected flags { read, write, run }, got \"read\"");
    keeps("(result u8 (error string))", &[json!({"ok": 1}), json!({"err": "x"})]);
    keeps("(result)", &[json!({"ok": null}), json!({"err": null})]);
    accepts("(result)", json!("ok"), json!({"ok": null}));
    refuses("(result u8)", json!({"ok": -1}), ", case `ok`: expected u8, got -1");
    refuses("(result u8)", json!("ok"), ", case `ok`: it is without its value; expected u8");
    refuses("(result u8)", json!({"error": 1}), ": expected result<u8>, got {\"error\":1}");
    refuses("(result (error u8))", json!(1), ": expected result<_, u8>, got 1");
}

#[test]
fn options() {
    keeps("(option u8)", &[json!(null), json!(1)]);
    refuses("(option u8)", json!("x"), ": expected u8, got \"x\"");
    keeps("(option (option u8))", &[json!(null), json!({"some": null}), json!({"some": 1})]);
    refuses("(option (option u8))", json!(1), ": expected null or {\"some\": value}, got 1");
}

#[test]
fn errors_say_where_from_the_outside_in() {
    let good = json!({"limit": 1, "shapes": [], "pair": [1, "red"]});
    keeps("$opts", &[good]);
    refuses(
        "$opts",
        json!({"limit": "x", "shapes": [], "pair": [1, "red"]}),
        ", field `limit`: expected u32, got \"x\"",
    );
    refuses(
        "$opts",
        json!({"limit": 1, "shapes": ["dot", {"at": {"x": []}}], "pair": [1, "red"]}),
        ", field `shapes`, item 2, case `at`, field `x`: expected s32, got []",
    );
    refuses(
        "$opts",
        json!({"limit": 1, "shapes": [], "pair": [1, "pink"]}),
        ", field `pair`, item 2: expected enum { red, green }, got \"pink\"",
    );
    let long = "y".repeat(200);
    refuses("u8", json!(long), &format!(": expected u8, got \"{}…", "y".repeat(79)));
}

#[test]
fn resources_have_no_form() {
    let definitions = r#"(export "r" (type $r (sub resource)))"#;
    with_type(definitions, "(own $r)", |ty| {
        let error = from_json(ty, &json!(1)).unwrap_err();
        assert_eq!(error.to_string(), ": a resource cannot be given as JSON");
    });
}

/// A random type in the text format.
fn type_text() -> impl Strategy<Value = String> {
    let plain =
        ["bool", "u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "char", "string"];
    let leaf = prop::sample::select(
        plain
            .iter()
            .chain(["$colour", "$mode", "$point", "$shape"].iter())
            .map(|s| (*s).to_owned())
            .collect::<Vec<_>>(),
    );
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|ty| format!("(list {ty})")),
            inner.clone().prop_map(|ty| format!("(option {ty})")),
            prop::collection::vec(inner.clone(), 1..4)
                .prop_map(|types| format!("(tuple {})", types.join(" "))),
            (inner.clone(), inner).prop_map(|(ok, error)| format!("(result {ok} (error {error}))")),
        ]
    })
}

/// A value of a type, chosen by the bytes.
fn value_of(ty: &Type, bytes: &mut dyn Iterator<Item = u8>) -> Val {
    let mut next = || bytes.next().unwrap_or(0);
    let mut word = || u64::from_le_bytes(std::array::from_fn(|_| next()));
    match ty {
        Type::Bool => Val::Bool(word() & 1 == 1),
        Type::U8 => Val::U8(word() as u8),
        Type::S8 => Val::S8(word() as i8),
        Type::U16 => Val::U16(word() as u16),
        Type::S16 => Val::S16(word() as i16),
        Type::U32 => Val::U32(word() as u32),
        Type::S32 => Val::S32(word() as i32),
        Type::U64 => Val::U64(word()),
        Type::S64 => Val::S64(word() as i64),
        Type::Float32 => Val::Float32(f32::from_bits(word() as u32)),
        // At most ten digits: serde_json may read a float of more than fifteen as its neighbour.
        Type::Float64 => Val::Float64(match word() % 8 {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            _ => f64::from(word() as i32) / 100.0,
        }),
        Type::Char => Val::Char(char::from_u32(word() as u32 % 0xD800).unwrap()),
        Type::String => Val::String((0..word() % 4).map(|_| char::from(word() as u8)).collect()),
        Type::Enum(names) => Val::Enum(pick(names.names(), word()).to_owned()),
        Type::Flags(names) => {
            let set = word();
            Val::Flags(
                names
                    .names()
                    .enumerate()
                    .filter(|(bit, _)| set >> bit & 1 == 1)
                    .map(|(_, n)| n.to_owned())
                    .collect(),
            )
        }
        Type::List(list) => {
            let count = word() % 4;
            Val::List((0..count).map(|_| value_of(&list.ty(), bytes)).collect())
        }
        Type::Tuple(tuple) => Val::Tuple(tuple.types().map(|ty| value_of(&ty, bytes)).collect()),
        Type::Record(record) => Val::Record(
            record.fields().map(|field| (field.name.to_owned(), value_of(&field.ty, bytes))).collect(),
        ),
        Type::Variant(variant) => {
            let case = pick(variant.cases(), word());
            Val::Variant(case.name.to_owned(), case.ty.map(|ty| Box::new(value_of(&ty, bytes))))
        }
        Type::Option(option) => {
            let some = word() & 1 == 1;
            Val::Option(some.then(|| Box::new(value_of(&option.ty(), bytes))))
        }
        Type::Result(result) => {
            let ok = word() & 1 == 1;
            let ty = if ok { result.ok() } else { result.err() };
            let value = ty.map(|ty| Box::new(value_of(&ty, bytes)));
            Val::Result(if ok { Ok(value) } else { Err(value) })
        }
        other => panic!("{other:?}"),
    }
}

fn pick<T>(items: impl ExactSizeIterator<Item = T>, by: u64) -> T {
    let index = by as usize % items.len();
    items.into_iter().nth(index).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn values_survive_json(ty in type_text(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        with_type(DEFINITIONS, &ty, |ty| {
            let value = value_of(ty, &mut bytes.iter().copied());
            let json = to_json(ty, &value).unwrap();
            // Through text, as a caller has it.
            let read: Value = serde_json::from_str(&json.to_string()).unwrap();
            let found = from_json(ty, &read).unwrap_or_else(|error| panic!("{json}{error}"));
            assert_eq!(found, value, "{json}");
        });
    }

    #[test]
    fn no_json_makes_it_panic(ty in type_text(), text in "[\\[\\]{}\":,a-z0-9. -]{0,40}") {
        if let Ok(json) = serde_json::from_str::<Value>(&text) {
            with_type(DEFINITIONS, &ty, |ty| drop(from_json(ty, &json).map_err(|error| error.to_string())));
        }
    }
}

/// Arguments of the corpus's `take`, which has a part of every type.
const TAKEN: [&str; 3] = [
    r#"{"shapes":["dot",{"circle":1.5},{"at":{"x":-3,"label":"é"}},{"maybe":null},{"maybe":7}],"pair":[1,"green"],"mode":["read","run"],"done":{"ok":"18446744073709551615"},"letter":"é","half":"NaN","is":true}"#,
    r#"{"shapes":[],"pair":[255,"red"],"mode":[],"done":{"err":"a \\ \u0000"},"letter":"\ud83d\ude00","half":-1e-3,"is":false}"#,
    r#"{"is":true,"half":0,"letter":"x","done":{"ok":12},"mode":["write"],"pair":[0,"red"],"shapes":[{"at":{"x":1}}]}"#,
];

/// Arguments that are nearly right: each is taken or refused, in a few words however long it is.
#[test]
fn arguments_that_are_damaged() {
    let component = Component::new(&Engine::default(), neargate_fuzz::binary("types")).unwrap();
    let corpus = TAKEN.map(|text| text.as_bytes().to_vec());
    let call = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        Call::new(&component, "take", &[text]).map(drop).map_err(|error| error.to_string())
    };
    for text in &corpus {
        assert_eq!(call(text), Ok(()));
    }
    Fuzz { cases: 5000, memory_bytes_max: 256 << 20 }.run(&corpus, |bytes| {
        if let Err(why) = call(bytes) {
            assert!(why.starts_with("argument 1") && why.len() < 2000, "{why}");
        }
    });
}

/// A component with a function of each kind that calls differ in.
const LIBRARY: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "echo") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0))
      (i32.store (i32.const 20) (local.get 1))
      (i32.const 16))
    (func (export "half") (param i32) (result i32)
      (i32.store (i32.const 32) (i32.and (local.get 0) (i32.const 1)))
      (i32.store (i32.const 36) (i32.shr_u (local.get 0) (i32.const 1)))
      (i32.const 32))
    (func (export "nothing"))
    (func (export "healthy") (param i32) (result i32) (local.get 0))
    (func (export "fall") unreachable))
  (core instance $i (instantiate $m))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (func (export "add") (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func $echo (param "text" string) (result string)
    (canon lift (core func $i "echo") (memory $memory) (realloc $realloc)))
  (func (export "half") (param "n" u32) (result (result u32 (error u32)))
    (canon lift (core func $i "half") (memory $memory)))
  (func (export "nothing") (canon lift (core func $i "nothing")))
  (func (export "healthy") (param "well" bool) (result bool) (canon lift (core func $i "healthy")))
  (func (export "fall") (canon lift (core func $i "fall")))
  (instance $texts (export "echo" (func $echo)))
  (export "demo:lib/texts@1.0.0" (instance $texts))
)
"#;

fn call(name: &str, arguments: &[&str]) -> Result<Outcome, String> {
    let engine = Engine::default();
    let component = Component::new(&engine, wat::parse_str(LIBRARY).unwrap()).unwrap();
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let call = Call::new(&component, name, &arguments).map_err(|error| error.to_string())?;
    let mut store = Store::new(&engine, ());
    block_on(async {
        let instance = Linker::new(&engine).instantiate_async(&mut store, &component).await.unwrap();
        call.run(&mut store, &instance).await.map_err(|error| format!("{:#}", error.root_cause()))
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn check_call(name: &str, arguments: &[&str], line: &str, failed: bool) {
    let outcome = call(name, arguments).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((std::str::from_utf8(&outcome.line).unwrap(), outcome.failed), (line, failed), "{name}");
}

fn check_call_refused(name: &str, arguments: &[&str], expect: &str) {
    assert_eq!(call(name, arguments).unwrap_err(), expect);
}

#[test]
fn calls_of_a_component() {
    check_call("add", &["40", "2"], "42\n", false);
    check_call("add", &["4294967295", "1"], "0\n", false);
    check_call("echo", &["\"grüße \\u0000\""], "\"grüße \\u0000\"\n", false);
    check_call("demo:lib/texts#echo", &["\"\""], "\"\"\n", false);
    check_call("half", &["42"], "21\n", false);
    check_call("half", &["43"], "21\n", true);
    check_call("nothing", &[], "null\n", false);
    check_call("healthy", &["true"], "true\n", false);
    check_call("healthy", &["false"], "false\n", false);
    assert!(call("fall", &[]).unwrap_err().contains("unreachable"));
}

#[test]
fn calls_that_are_refused_before_anything_runs() {
    check_call_refused("add", &["1"], "`add` takes 2 argument(s), 1 given: func(a: u32, b: u32) -> u32");
    check_call_refused("add", &["1", "-2"], "argument 2 `b`: expected u32, got -2");
    check_call_refused(
        "echo",
        &["plain"],
        "argument 1 is not JSON: expected value at line 1 column 1: `plain` (a string needs its quotes: '\"text\"')",
    );
    check_call_refused(
        "ad",
        &[],
        "there is no function `ad`; there is `add`, `half`, `nothing`, `healthy`, `fall`, `demo:lib/texts@1.0.0#echo`",
    );
    let deep = "[".repeat(100_000);
    assert!(call("echo", &[deep.as_str()]).unwrap_err().contains("recursion limit exceeded"));
}

#[test]
fn signatures() {
    let engine = Engine::default();
    let component = Component::new(&engine, wat::parse_str(LIBRARY).unwrap()).unwrap();
    let mut found = String::new();
    for function in function::of_component(&component.component_type(), &engine) {
        writeln!(found, "{}: {}", function.full_name(), signature::function(&function.ty)).unwrap();
    }
    assert_eq!(
        found,
        "add: func(a: u32, b: u32) -> u32\n\
         half: func(n: u32) -> result<u32, u32>\n\
         nothing: func()\n\
         healthy: func(well: bool) -> bool\n\
         fall: func()\n\
         demo:lib/texts@1.0.0#echo: func(text: string) -> string\n"
    );
    with_type(DEFINITIONS, "$opts", |ty| {
        assert_eq!(
            signature::ty(ty),
            "record { limit: u32, shapes: list<variant { dot, circle(f64), at(record { x: s32, label: \
             option<string> }), maybe(option<u8>) }>, pair: tuple<u8, enum { red, green }> }"
        );
    });
    let wide = format!("(tuple {})", vec!["$point"; 100].join(" "));
    with_type(DEFINITIONS, &wide, |ty| {
        let text = signature::ty(ty);
        assert!(text.len() < 1100 && text.ends_with('…'), "{text}");
    });
}

const MODULE: &str = r#"
(module
  (global $set (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $set (i32.const 7)))
  (func (export "get") (result i32) (global.get $set))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "wide") (param i64) (result i64) (local.get 0))
  (func (export "swap") (param f32 f64) (result f64 f32) (local.get 1) (local.get 0))
  (func (export "nothing"))
  (func (export "reference") (param externref)))
"#;

fn call_core(name: &str, arguments: &[&str]) -> Result<String, String> {
    let engine = Engine::default();
    let module = Module::new(&engine, wat::parse_str(MODULE).unwrap()).unwrap();
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let call = CoreCall::new(&module, name, &arguments).map_err(|error| error.to_string())?;
    let mut store = Store::new(&engine, ());
    let outcome = block_on(async {
        let instance = wasmtime::Linker::new(&engine).instantiate_async(&mut store, &module).await.unwrap();
        call.run(&mut store, &instance).await.unwrap()
    });
    assert!(!outcome.failed);
    Ok(String::from_utf8(outcome.line).unwrap())
}

#[test]
fn calls_of_a_module() {
    let check = |name: &str, arguments: &[&str], line: &str| {
        assert_eq!(call_core(name, arguments).as_deref(), Ok(line), "{name}");
    };
    check("get", &[], "7\n");
    check("add", &["40", "2"], "42\n");
    check("add", &["4294967295", "-1"], "-2\n");
    check("wide", &["\"18446744073709551615\""], "-1\n");
    check("wide", &["-9223372036854775808"], "\"-9223372036854775808\"\n");
    check("swap", &["0.1", "\"NaN\""], "[\"NaN\",0.1]\n");
    check("nothing", &[], "null\n");
    let refused = |name: &str, arguments: &[&str], expect: &str| {
        assert_eq!(call_core(name, arguments).unwrap_err(), expect, "{name}");
    };
    refused("add", &["1"], "`add` takes 2 argument(s), 1 given: func(i32, i32) -> i32");
    refused("add", &["1", "4294967296"], "argument 2: expected i32, got 4294967296");
    refused("add", &["1", "\"x\""], "argument 2: expected i32, got \"x\"");
    refused(
        "reference",
        &[],
        "there is no function `reference`; there is `get`, `add`, `wide`, `swap`, `nothing`",
    );
}
