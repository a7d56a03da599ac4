//! A driver over threads, and containers for it.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use neargate_driver::{
    ContainerNames, ContainerSpec, Driver, Exit, Handle, Limits, Mount, ProcessUser, Rootfs, Sandbox,
    StartError, Stdio, WasmModule, WasmSpec,
};
use neargate_model::{ContainerId, ContainerName, TaskId, WasmOptions};
use neargate_wasm::{Config, KeyPage, KeyValueError, KeyValues, Parts, WasmDriver};
use neargate_wasm_worker::compiler_id;
use neargate_wasm_worker::testing::ThreadHost;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) struct Bench {
    pub(crate) driver: WasmDriver,
    pub(crate) dir: TempDir,
}

/// What a container is.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) task: Option<TaskId>,
    pub(crate) argv: Vec<String>,
    pub(crate) options: WasmOptions,
    pub(crate) limits: Limits,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) artifacts: Option<PathBuf>,
}

/// A container that runs.
pub(crate) struct Started {
    pub(crate) handle: Arc<dyn Handle>,
    pub(crate) stdin: PipeWriter,
    pub(crate) stdout: PipeReader,
}

impl Started {
    /// Its end and what it wrote.
    pub(crate) async fn finish(self) -> (Exit, String) {
        drop(self.stdin);
        let mut stdout = self.stdout;
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        let exit = self.handle.wait().await;
        (exit, reading.await.unwrap())
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("code"), compiler_id());
        config.workers = 2;
        config.runs_max = 16;
        let parts =
            Parts { processes: Arc::new(ThreadHost), sandbox_processes: None, key_values: Arc::new(NoKeys) };
        Self { driver: WasmDriver::new(config, parts).unwrap(), dir }
    }

    pub(crate) fn image(&self, wasm: &[u8]) -> WasmModule {
        let digest = hex::encode(Sha256::digest(wasm));
        let path = self.dir.path().join(&digest);
        if !path.exists() {
            fs::write(&path, wasm).unwrap();
        }
        WasmModule { path, digest: format!("sha256:{digest}") }
    }

    pub(crate) async fn start(&self, wasm: &[u8], setup: Setup) -> Result<Started, StartError> {
        let (guest_in, stdin) = std::io::pipe().unwrap();
        let (stdout, guest_out) = std::io::pipe().unwrap();
        let stdio = Stdio {
            stdin: guest_in.into(),
            stdout: guest_out.try_clone().unwrap().into(),
            stderr: guest_out.into(),
            readers: None,
        };
        let task = setup.task.unwrap_or_else(new_task);
        let sandbox = Sandbox { task: task.clone(), limits: Limits::default() };
        let spec = ContainerSpec {
            id: ContainerId::new("0a1b2c3d-0000-4000-8000-0123456789ab").unwrap(),
            task,
            name: ContainerName::new("guest").unwrap(),
            names: ContainerNames::default(),
            rootfs: Rootfs::Wasm(self.image(wasm)),
            argv: setup.argv,
            env: Vec::new(),
            working_dir: PathBuf::new(),
            user: None,
            limits: setup.limits,
            ulimits: Vec::new(),
            read_only_root: false,
            mounts: setup.mounts,
            shm_bytes: None,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            privileges: Default::default(),
            init: false,
            stdio,
            scratch: PathBuf::new(),
            wasm: Some(WasmSpec {
                options: setup.options,
                tenant: "000000000001".to_owned(),
                files_of: ProcessUser::Invoker,
                listeners: setup.listeners.into_iter().map(Into::into).collect(),
                own_ports: false,
                sockets: None,
                attempt: 1,
                deadline_ms: None,
                artifacts: setup.artifacts,
            }),
        };
        let handle = self.driver.start(spec, &sandbox).await?;
        Ok(Started { handle, stdin, stdout })
    }

    pub(crate) async fn run(&self, wasm: &[u8], setup: Setup) -> (Exit, String) {
        self.start(wasm, setup).await.unwrap_or_else(|error| panic!("{error:?}")).finish().await
    }
}

pub(crate) fn new_task() -> TaskId {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    TaskId::new(format!("{:032x}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A preview 1 module with this body of `_start`, and `say`, which writes its `data`.
pub(crate) fn module(data: &str, items: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (memory (export "memory") 4)
            (data (i32.const 64) "{data}")
            (func $put (param $fd i32)
                (i32.store (i32.const 0) (i32.const 64))
                (i32.store (i32.const 4) (i32.const {len}))
                (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16))))
            {items}
            (func $main (export "_start") {body}))"#,
        len = data.len()
    );
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits for the end of its input.
pub(crate) const WAIT: &str =
    "(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1))
     (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))";

/// Guests here keep nothing.
struct NoKeys;

fn none<T>() -> Result<T, KeyValueError> {
    Err(KeyValueError::Store(std::io::ErrorKind::Unsupported.into()))
}

#[async_trait]
impl KeyValues for NoKeys {
    async fn get(&self, _: &str, _: &str, _: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        none()
    }
    async fn set(&self, _: &str, _: &str, _: &str, _: Vec<u8>) -> Result<(), KeyValueError> {
        none()
    }
    async fn delete(&self, _: &str, _: &str, _: &str) -> Result<(), KeyValueError> {
        none()
    }
    async fn list(&self, _: &str, _: &str, _: Option<&str>) -> Result<KeyPage, KeyValueError> {
        none()
    }
    async fn increment(&self, _: &str, _: &str, _: &str, _: i64) -> Result<i64, KeyValueError> {
        none()
    }
    async fn swap(
        &self,
        _: &str,
        _: &str,
        _: &str,
        _: Option<Vec<u8>>,
        _: Vec<u8>,
    ) -> Result<bool, KeyValueError> {
        none()
    }
}
