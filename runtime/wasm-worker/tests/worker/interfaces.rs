//! Typed exports, `neargate:task`, the granted proposals and WASI 0.3, with programs of `tests/guests`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use neargate_wasm::protocol::{
    Cause, EngineKind, Entry, FromWorker, HostReply, HostRequest, StartFailure, Stop, ToWorker,
};

use crate::harness::{Outcome, Setup, Worker, encode, exited, told};

/// Builds the guests, once for all tests of this binary.
fn guest(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/Cargo.toml");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--release",
            "--locked",
            "--examples",
            "--target=wasm32-wasip2",
            "--manifest-path",
        ]);
        cargo.arg(manifest).arg("--target-dir").arg(&target_dir);
        // Flags for this build, which are for the host, do not fit the guests.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let status = cargo.status().expect("run cargo");
        assert!(status.success(), "build the guests: {status}");
        target_dir.join("wasm32-wasip2/release/examples")
    });
    fs::read(built.join(name).with_extension("wasm")).unwrap()
}

fn with_grants(argv: &'static [&'static str], grants: &[&str]) -> Setup<'static> {
    let mut setup = Setup { argv, ..Setup::default() };
    setup.plan.grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
    setup.plan.config = vec![("a".into(), "1".into()), ("c".into(), "3".into())];
    setup
}

const ALL: [&str; 3] = ["wasi:config", "wasi:keyvalue", "wasi:logging"];

/// The server's side of `wasi:keyvalue`.
#[derive(Default)]
struct Store(BTreeMap<(String, String), Vec<u8>>);

impl Store {
    fn answer(&mut self, request: HostRequest) -> HostReply {
        match request {
            HostRequest::KvGet { bucket, key } => {
                HostReply::Value { value: self.0.get(&(bucket, key)).cloned() }
            }
            HostRequest::KvSet { bucket, key, value } => {
                self.0.insert((bucket, key), value);
                HostReply::Done {}
            }
            HostRequest::KvDelete { bucket, key } => {
                self.0.remove(&(bucket, key));
                HostReply::Done {}
            }
            HostRequest::KvExists { bucket, key } => {
                HostReply::Is { is: self.0.contains_key(&(bucket, key)) }
            }
            HostRequest::KvList { bucket, cursor } => {
                let after = |key: &String| cursor.as_ref().is_none_or(|cursor| key > cursor);
                let all = self.0.keys().filter(|(of, _)| *of == bucket).map(|(_, key)| key.clone());
                let mut keys: Vec<String> = all.filter(after).collect();
                let more = keys.len() > 2;
                keys.truncate(2);
                HostReply::Keys { cursor: keys.last().filter(|_| more).cloned(), keys }
            }
            HostRequest::KvIncrement { bucket, key, delta } => {
                let value = self.0.entry((bucket, key)).or_insert_with(|| b"0".to_vec());
                let number = std::str::from_utf8(value).unwrap().parse::<i64>().unwrap() + delta;
                *value = number.to_string().into_bytes();
                HostReply::Number { number }
            }
            HostRequest::KvSwap { bucket, key, old, new } => {
                let is = self.0.get(&(bucket.clone(), key.clone())) == old.as_ref();
                if is {
                    self.0.insert((bucket, key), new);
                }
                HostReply::Is { is }
            }
            HostRequest::Resolve { .. } | HostRequest::Socket { .. } => {
                HostReply::Failed { why: "no network here".into() }
            }
        }
    }

    fn get(&self, bucket: &str, key: &str) -> Option<&str> {
        let value = self.0.get(&(bucket.to_owned(), key.to_owned()))?;
        std::str::from_utf8(value).ok()
    }
}

/// Runs guests at the same time and answers what they ask, to the end of the last.
fn serve(worker: &Worker, wasm: &[u8], setups: &[Setup<'_>], store: &mut Store) -> Vec<Outcome> {
    let started: Vec<_> = setups.iter().map(|setup| worker.start(wasm, setup).unwrap()).collect();
    let mut left = started.len();
    let mut ends = Vec::new();
    while left > 0 {
        let (message, _) = worker.wait(|message| match message {
            FromWorker::HostCall { .. } | FromWorker::Exited { .. } => Some(message.clone()),
            _ => None,
        });
        match message {
            FromWorker::HostCall { call, request, .. } => {
                worker.send(&ToWorker::HostReply { call, reply: store.answer(request) }, &[]);
            }
            FromWorker::Exited { run, exit } => {
                ends.push((run, exit));
                left -= 1;
            }
            _ => unreachable!(),
        }
    }
    let read = |mut pipe: std::io::PipeReader| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut pipe, &mut bytes).unwrap();
        bytes
    };
    started
        .into_iter()
        .map(|started| {
            let exit = ends.iter().find(|(run, _)| *run == started.run).unwrap().1.clone();
            Outcome { exit, stdout: read(started.stdout), stderr: read(started.stderr) }
        })
        .collect()
}

#[test]
fn config_and_logging() {
    let (worker, wasm) = (Worker::new(), guest("host"));
    let outcome = worker.run(&wasm, with_grants(&["host", "config"], &ALL));
    assert_eq!((told(&outcome.exit), outcome.stderr()), (exited(0), ""));
    assert_eq!(outcome.stdout(), "Ok(Some(\"1\")) Ok(None) Ok([(\"a\", \"1\"), (\"c\", \"3\")])\n");
    let outcome = worker.run(&wasm, with_grants(&["host", "log"], &ALL));
    assert_eq!(told(&outcome.exit), exited(0));
    assert_eq!(outcome.stderr(), "WARN db: slow\\n\\u{1b}[31m\nINFO done\n");
}

#[test]
fn what_is_not_granted_is_refused_by_name() {
    let (worker, wasm) = (Worker::new(), guest("host"));
    for (grants, missing) in [
        (&[][..], "wasi:config"),
        (&["wasi:config"], "wasi:keyvalue"),
        (&["wasi:config", "wasi:keyvalue", "wasi:p3"], "wasi:logging"),
    ] {
        match worker.start(&wasm, &with_grants(&["host", "log"], grants)) {
            Err(StartFailure::Import { why }) => {
                assert!(why.starts_with(&format!("it imports `{missing}`, which is not granted")), "{why}");
            }
            other => panic!("{:?}", other.map(drop)),
        }
    }
}

#[test]
fn key_values() {
    let (worker, wasm, mut store) = (Worker::new(), guest("host"), Store::default());
    let outcome = serve(&worker, &wasm, &[with_grants(&["host", "store"], &ALL)], &mut store).remove(0);
    assert_eq!((told(&outcome.exit), outcome.stderr()), (exited(0), ""));
    assert_eq!(
        outcome.stdout(),
        "Err(Error::NoSuchStore)\n\
         Ok(None) Ok(false)\n\
         Ok(()) Ok(Some([118])) Ok(true)\n\
         Ok(()) Ok(None)\n\
         Err(Error::Other(\"a key cannot be empty\"))\n\
         Err(Error::Other(\"the value has 1048577 bytes, at most 1048576 are kept\"))\n\
         Ok(())\n\
         Ok([Some((\"k1\", [1])), None, Some((\"k4\", [4]))])\n\
         [\"k0\", \"k1\", \"k2\", \"k3\", \"k4\"]\n\
         Ok(())\n\
         Ok([\"k2\", \"k3\"])\n"
    );
}

#[test]
fn key_values_of_the_older_draft() {
    let (worker, wasm, mut store) = (Worker::new(), guest("draft"), Store::default());
    let denied = worker.start(&wasm, &with_grants(&["draft"], &["wasi:config"])).map(drop);
    assert!(
        matches!(&denied, Err(StartFailure::Import { why }) if why.contains("`wasi:keyvalue`")),
        "{denied:?}"
    );
    let outcome = serve(&worker, &wasm, &[with_grants(&["draft"], &ALL)], &mut store).remove(0);
    assert_eq!((told(&outcome.exit), outcome.stderr()), (exited(0), ""));
    assert_eq!(
        outcome.stdout(),
        "Err(Error::NoSuchStore) Err(Error::NoSuchStore)\n\
         Ok(None) Ok(false)\n\
         Ok(()) Ok(Some([118])) Ok(true)\n\
         Ok(()) Ok(None)\n\
         Err(Error::Other(\"a key cannot be empty\"))\n\
         Err(Error::Other(\"the value has 1048577 bytes, at most 1048576 are kept\"))\n\
         Ok(())\n\
         Ok([Some((\"k1\", [1])), None, Some((\"k4\", [4]))])\n\
         Ok(())\n\
         Err(Error::Other(\"a batch has at most 1000 keys, this one has 1001\"))\n\
         [[\"k1\", \"k2\"], [\"k3\", \"k4\"]]\n\
         Ok([\"k3\", \"k4\"]) Ok([\"k3\", \"k4\"])\n\
         Err(Error::Other(\"the cursor is unknown or too old\"))\n\
         Err(Error::Other(\"the cursor is unknown or too old\"))\n\
         Ok([\"k3\", \"k4\"]) Err(Error::Other(\"the cursor is unknown or too old\"))\n\
         Ok(40) Ok(42)\n\
         Ok(Some(Ok(\"42\")))\n\
         Err(Error::Other(\"numbers go up to 2^63 - 1\"))\n\
         Err(Error::Other(\"the number is negative\")) Ok(1)\n"
    );
    assert_eq!(store.get("draft", "below"), Some("1"));
}

#[test]
fn numbers_that_many_add_to() {
    let (worker, wasm, mut store) = (Worker::new(), guest("host"), Store::default());
    let setups: Vec<_> = (0..4).map(|_| with_grants(&["host", "count", "50"], &ALL)).collect();
    for outcome in serve(&worker, &wasm, &setups, &mut store) {
        assert_eq!((told(&outcome.exit), outcome.stderr()), (exited(0), ""));
    }
    assert_eq!(store.get("default", "hits"), Some("200"));
    let setups: Vec<_> = (0..4).map(|_| with_grants(&["host", "swap", "25"], &ALL)).collect();
    for outcome in serve(&worker, &wasm, &setups, &mut store) {
        assert_eq!((told(&outcome.exit), outcome.stderr()), (exited(0), ""));
    }
    assert_eq!(store.get("swaps", "n"), Some("100"));
}

fn handler(input: &'static [u8]) -> Setup<'static> {
    let mut setup = Setup { argv: &["task"], stdin: input, ..Setup::default() };
    setup.plan.entry = Entry::Handler {};
    setup.plan.attempt = 3;
    setup.plan.deadline_ms = Some(1234);
    setup
}

#[test]
fn handlers() {
    let (worker, wasm) = (Worker::new(), guest("task"));
    let check = |input, code, stdout: &str, stderr: &str| {
        let outcome = worker.run(&wasm, handler(input));
        assert_eq!((told(&outcome.exit), outcome.stdout(), outcome.stderr()), (exited(code), stdout, stderr));
    };
    check(b"", 0, "", "");
    check(b"echo", 0, "echo", "");
    check(b"ctx", 0, "00000000000000000000000000000001 3 Some(1234)", "");
    let line = "{\"error\":{\"message\":\"come\\nagain\",\"code\":\"Busy\",\"retryable\":true}}\n";
    check(b"fail", 1, "", line);
    let large: &'static [u8] = vec![b'x'; 5 << 20].leak();
    assert!(worker.run(&wasm, handler(large)).stdout == large);
    let trapped = worker.run(&wasm, handler(b"trap")).exit;
    assert_eq!((trapped.code, trapped.cause), (134, Cause::Trap {}));
}

#[test]
fn inputs_are_counted_on_the_memory_limit() {
    let (worker, wasm) = (Worker::new(), guest("task"));
    let mut setup = handler(vec![b'x'; 8 << 20].leak());
    setup.plan.limits.memory_bytes = Some(4 << 20);
    let outcome = worker.run(&wasm, setup);
    assert_eq!(told(&outcome.exit), exited(1));
    assert!(outcome.stderr().contains("\"code\":\"InputTooLarge\""), "{}", outcome.stderr());
    assert_eq!(outcome.exit.usage.memory_bytes, 0);
}

#[test]
fn handlers_learn_that_they_are_asked_to_stop() {
    let (worker, wasm) = (Worker::new(), guest("task"));
    let mut started = worker.start(&wasm, &handler(b"")).unwrap();
    started.stdin.write_all(b"wait").unwrap();
    worker.stop(started.run, Stop::Ask { code: 143 });
    let outcome = worker.finish(started, b"");
    assert_eq!((told(&outcome.exit), outcome.stderr()), (exited(0), ""));
    // It may have been asked before it looked.
    assert!(["false true", "true true"].contains(&outcome.stdout()), "{}", outcome.stdout());
}

#[test]
fn exports() {
    let worker = Worker::new();
    let wasm = encode(
        r#"(component
            (core module $m
                (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
                (memory (export "memory") 1)
                (func (export "check") (param i32) (result i32)
                    (i32.store (i32.const 8) (local.get 0)) (i32.const 8)))
            (core instance $i (instantiate $m))
            (alias core export $i "memory" (core memory $memory))
            (func (export "add") (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
            (func (export "check") (param "bad" bool) (result (result (error u32)))
                (canon lift (core func $i "check") (memory $memory))))"#,
    );
    let module = encode(
        r#"(module (func (export "twice") (param i64) (result i64) (i64.shl (local.get 0) (i64.const 1))))"#,
    );
    let check = |wasm: &[u8], argv: &[&str], code, stdout: &str, stderr: &str| {
        let mut setup = Setup { argv, ..Setup::default() };
        setup.plan.entry = Entry::Export { name: argv[0].to_owned() };
        let outcome = worker.run(wasm, setup);
        assert_eq!((told(&outcome.exit), outcome.stdout(), outcome.stderr()), (exited(code), stdout, stderr));
    };
    check(&wasm, &["add", "40", "2"], 0, "42\n", "");
    check(&wasm, &["add", "40", "-2"], 2, "", "argument 2 `b`: expected u32, got -2\n");
    check(&wasm, &["sub"], 2, "", "there is no function `sub`; there is `add`, `check`\n");
    check(&wasm, &["check", "false"], 0, "null\n", "");
    check(&module, &["twice", "21"], 0, "42\n", "");
    check(&module, &["twice", "\"x\""], 2, "", "argument 1: expected i64, got \"x\"\n");
}

#[test]
fn programs_of_wasi_0_3() {
    let (worker, wasm) = (Worker::new(), guest("third"));
    worker.load_for(&wasm, &EngineKind::Concurrent {}).unwrap();
    let setup = |argv: &'static [&'static str]| with_grants(argv, &["wasi:p3"]);
    let outcome = worker.run(&wasm, setup(&["third", "ü"]));
    assert_eq!((told(&outcome.exit), outcome.stdout(), outcome.stderr()), (exited(0), "third [\"ü\"]\n", ""));
    assert_eq!(told(&worker.run(&wasm, setup(&["third", "fail"])).exit), exited(1));
    let refused = worker.start(&wasm, &with_grants(&["third"], &[])).map(drop);
    assert!(matches!(refused, Err(StartFailure::Import { why }) if why.contains("`wasi:p3`")));
}
