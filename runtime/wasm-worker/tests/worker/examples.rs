//! The programs of `examples/`, as a module and as a component.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use neargate_wasm::protocol::{EngineKind, Entry};

use crate::harness::{Setup, Worker, exited, told};

const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];

/// Builds the examples, once for all tests of this binary, and returns where they are.
fn build() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/Cargo.toml");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--manifest-path"]).arg(manifest);
        cargo.args(TARGETS.map(|target| format!("--target={target}"))).arg("--target-dir").arg(&target_dir);
        // Flags for this build, which are for the host, do not fit the guests.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let status = cargo.status().expect("run cargo");
        assert!(status.success(), "build the examples: {status}");
        target_dir
    })
}

fn example(name: &str, target: &str) -> Vec<u8> {
    fs::read(build().join(target).join("release").join(name).with_extension("wasm")).unwrap()
}

#[test]
fn hello() {
    let worker = Worker::new();
    for target in TARGETS {
        let wasm = example("hello", target);
        for (argv, env, expect) in [
            (&["hello"][..], &[][..], "hello\n"),
            (&["hello", "world"], &[], "hello, world\n"),
            (&["hello", "Ada", "Grace"], &[("GREETING", "good morning")], "good morning, Ada Grace\n"),
        ] {
            let outcome = worker.run(&wasm, Setup { argv, env, ..Setup::default() });
            assert_eq!((told(&outcome.exit), outcome.stdout()), (exited(0), expect), "{target}");
            assert_eq!(outcome.stderr(), "", "{target}");
        }
    }
}

/// What needs no concurrency also runs on the engine that has it.
#[test]
fn hello_on_the_other_engine() {
    let worker = Worker::new();
    for target in TARGETS {
        let wasm = example("hello", target);
        worker.load_for(&wasm, &EngineKind::Concurrent {}).unwrap();
        let outcome = worker.run(&wasm, Setup { argv: &["hello", "world"], ..Setup::default() });
        assert_eq!((told(&outcome.exit), outcome.stdout()), (exited(0), "hello, world\n"), "{target}");
    }
}

#[test]
fn greet_task() {
    let worker = Worker::new();
    for target in TARGETS {
        let wasm = example("greet-task", target);
        for (input, code, stdout, stderr) in [
            (r#"{"name":"Ada","times":2}"#, 0, "{\"greeting\":\"hello, Ada! hello, Ada!\"}\n", ""),
            (r#"{"name":""}"#, 1, "", "{\"error\":{\"message\":\"nobody to greet\",\"code\":\"NoName\"}}\n"),
            (
                "",
                1,
                "",
                "{\"error\":{\"message\":\"read the input: invalid type: null, expected struct Request at line 1 \
                 column 4\",\"code\":\"InvalidInput\"}}\n",
            ),
        ] {
            // As a program, and where there are components also as a handler: nobody can tell the difference.
            for entry in [Entry::Command {}, Entry::Handler {}] {
                if matches!(entry, Entry::Handler {}) && target == "wasm32-wasip1" {
                    continue;
                }
                let mut setup = Setup { stdin: input.as_bytes(), ..Setup::default() };
                setup.plan.entry = entry;
                let outcome = worker.run(&wasm, setup);
                assert_eq!(told(&outcome.exit), exited(code), "{target} {input}");
                assert_eq!((outcome.stdout(), outcome.stderr()), (stdout, stderr), "{target} {input}");
            }
        }
    }
}
