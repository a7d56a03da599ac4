//! Runs leave nothing behind. Alone in its process, as it counts what the process has.

// clippy takes only functions marked `#[test]` for tests, not what they call.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use neargate_driver::{ContainerSpec, Driver, Exit, Limits, Rootfs, Sandbox, Stdio, WasmModule};
use neargate_model::{ContainerId, ContainerName, TaskId};
use neargate_wasm_worker::{Config, WasmDriver};
use sha2::{Digest, Sha256};

fn count(dir: &str) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[tokio::test]
async fn five_hundred_runs_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("cache"));
    config.runs_max = 8;
    let driver = WasmDriver::new(&config).unwrap();
    let wasm = wat::parse_str(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 64) "x")
            (func (export "_start")
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const 1))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#,
    )
    .unwrap();
    let digest = hex::encode(Sha256::digest(&wasm));
    let module = WasmModule { path: dir.path().join("image"), digest: format!("sha256:{digest}") };
    std::fs::write(&module.path, &wasm).unwrap();
    let task = TaskId::new("00000000000000000000000000000001").unwrap();
    let sandbox = Sandbox { task: task.clone(), limits: Limits::default() };
    let mut before = (0, 0);
    for round in 0..500 {
        let (stdin, feed) = std::io::pipe().unwrap();
        let (output, stdout) = std::io::pipe().unwrap();
        let (errors, stderr) = std::io::pipe().unwrap();
        let spec = ContainerSpec {
            id: ContainerId::new("0a1b2c3d-0000-4000-8000-0123456789ab").unwrap(),
            task: task.clone(),
            name: ContainerName::new("guest").unwrap(),
            rootfs: Rootfs::Wasm(module.clone()),
            argv: vec!["guest".into()],
            env: Vec::new(),
            working_dir: PathBuf::from("/"),
            user: None,
            limits: Limits::default(),
            ulimits: Vec::new(),
            read_only_root: false,
            mounts: Vec::new(),
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            init: false,
            stdio: Stdio { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() },
            scratch: dir.path().to_owned(),
            wasm: None,
        };
        let handle = driver.start(spec, &sandbox).await.unwrap();
        assert_eq!(handle.wait().await, Exit::code(0));
        drop((feed, output, errors));
        // The first run starts threads (the compiler's), opens epoll descriptors and the like.
        if round == 0 {
            before = (count("/proc/self/fd"), count("/proc/self/task"));
        }
    }
    let fds = count("/proc/self/fd");
    let threads = count("/proc/self/task");
    assert_eq!(fds, before.0, "descriptors");
    assert!(threads <= before.1, "threads: {} at first, {threads} now", before.1);
}
