//! Runs guests through the driver contract and collects what they wrote.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use neargate_driver::{
    ContainerSpec, Driver, Exit, Handle, Limits, Mount, Rootfs, Sandbox, StartError, Stdio, WasmModule,
};
use neargate_model::{ContainerId, ContainerName, TaskId};
use neargate_wasm_worker::{Config, WasmDriver};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A driver with a directory of its own.
pub(crate) struct Bench {
    pub(crate) driver: WasmDriver,
    pub(crate) dir: TempDir,
}

/// A started guest whose streams the test holds.
pub(crate) struct Started {
    pub(crate) handle: Arc<dyn Handle>,
    pub(crate) stdin: PipeWriter,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
}

/// What came of a guest.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> &str {
        std::str::from_utf8(&self.stderr).unwrap()
    }
}

/// How a guest is run.
#[derive(Default)]
pub(crate) struct Setup<'a> {
    pub(crate) argv: &'a [&'a str],
    pub(crate) env: &'a [(&'a str, &'a str)],
    pub(crate) stdin: &'a [u8],
    pub(crate) mounts: Vec<Mount>,
    pub(crate) limits: Limits,
    pub(crate) task_limits: Limits,
}

pub(crate) fn encode(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn sandbox(limits: &Limits) -> Sandbox {
    Sandbox { task: TaskId::new("00000000000000000000000000000001").unwrap(), limits: limits.clone() }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let driver = WasmDriver::new(&Self::config(dir.path())).unwrap();
        Self { driver, dir }
    }

    pub(crate) fn config(dir: &Path) -> Config {
        let mut config = Config::new(dir.join("cache"));
        config.runs_max = 16;
        config.workers = 1;
        config
    }

    /// Puts a file where images are, unless it is there: another start may be reading it.
    pub(crate) fn image(&self, bytes: &[u8]) -> WasmModule {
        let digest = hex::encode(Sha256::digest(bytes));
        let path = self.dir.path().join(&digest);
        if !path.exists() {
            fs::write(&path, bytes).unwrap();
        }
        WasmModule { path, digest: format!("sha256:{digest}") }
    }

    /// Starts with the given descriptors.
    pub(crate) async fn start_with(
        &self,
        wasm: &[u8],
        setup: &Setup<'_>,
        stdio: Stdio,
    ) -> Result<Arc<dyn Handle>, StartError> {
        let spec = ContainerSpec {
            id: ContainerId::new("0a1b2c3d-0000-4000-8000-0123456789ab").unwrap(),
            task: sandbox(&setup.task_limits).task,
            name: ContainerName::new("guest").unwrap(),
            rootfs: Rootfs::Wasm(self.image(wasm)),
            argv: setup.argv.iter().map(|arg| (*arg).to_owned()).collect(),
            env: setup.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            working_dir: PathBuf::from("/"),
            user: None,
            limits: setup.limits.clone(),
            ulimits: Vec::new(),
            read_only_root: false,
            mounts: setup.mounts.clone(),
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            init: false,
            stdio,
            scratch: self.dir.path().to_owned(),
            wasm: None,
        };
        self.driver.start(spec, &sandbox(&setup.task_limits)).await
    }

    /// Starts with pipes.
    pub(crate) async fn start(&self, wasm: &[u8], setup: &Setup<'_>) -> Result<Started, StartError> {
        let (guest_in, stdin) = std::io::pipe().unwrap();
        let (stdout, guest_out) = std::io::pipe().unwrap();
        let (stderr, guest_err) = std::io::pipe().unwrap();
        let stdio = Stdio { stdin: guest_in.into(), stdout: guest_out.into(), stderr: guest_err.into() };
        let handle = self.start_with(wasm, setup, stdio).await?;
        Ok(Started { handle, stdin, stdout, stderr })
    }

    /// Runs to the end. That the readers see the end of the streams shows that the driver closed them.
    pub(crate) async fn run(&self, wasm: &[u8], setup: Setup<'_>) -> Outcome {
        let started = self.start(wasm, &setup).await.unwrap();
        let (input, mut stdin) = (setup.stdin.to_vec(), started.stdin);
        // A guest that does not read its input makes this fail, and that is its right.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let (stdout, stderr) = (collect(started.stdout), collect(started.stderr));
        let exit = started.handle.wait().await;
        feed.join().unwrap();
        Outcome { exit, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    /// The error that a start of these bytes gives.
    pub(crate) async fn refused(&self, wasm: &[u8], setup: Setup<'_>) -> String {
        match self.start(wasm, &setup).await {
            Ok(_) => panic!("started"),
            Err(error) => error.to_string(),
        }
    }
}

fn collect(mut pipe: PipeReader) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}
