//! The guests, built once, and a run that serves one of them.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use neargate_ipc::wire;
use neargate_wasm::protocol::{Cause, EngineKind, Entry, FromWorker, RunExit, Usage, VERSION, WorkerSetup};

use crate::client::{Client, Response};
use crate::harness::{Setup, Started, Worker};

/// How long a test waits for what happens soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest of this name.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(build);
    std::fs::read(BUILT.join(format!("{name}.wasm"))).unwrap()
}

fn build() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("http-guests");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--examples", "--target", "wasm32-wasip2"])
        .current_dir(source)
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("RUSTFLAGS")
        .status()
        .unwrap();
    assert!(built.success(), "the guests do not build; `rustup target add wasm32-wasip2` if that is missing");
    target.join("wasm32-wasip2/release/examples")
}

/// A worker whose runs may have the network.
pub(crate) fn worker(runs_max: u32) -> Worker {
    let setup = WorkerSetup { version: VERSION, runs_max, images_max: 4, network: true };
    let worker = Worker::raw(wire::encode(&setup));
    assert_eq!(worker.next(), FromWorker::Ready { version: VERSION });
    worker
}

/// A run that serves a handler: the guest `http`, or another.
pub(crate) struct Served {
    pub(crate) worker: Worker,
    pub(crate) started: Started,
    pub(crate) address: SocketAddr,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::with(16, |_| {})
    }

    /// With so many places in the pool and a plan that was changed.
    pub(crate) fn with(runs_max: u32, change: impl FnOnce(&mut Setup<'_>)) -> Self {
        Self::of("http", &EngineKind::Sync {}, runs_max, change)
    }

    /// By the handler of this name, on this engine.
    pub(crate) fn of(
        name: &str,
        engine: &EngineKind,
        runs_max: u32,
        change: impl FnOnce(&mut Setup<'_>),
    ) -> Self {
        let worker = worker(runs_max);
        let wasm = guest(name);
        worker.load_for(&wasm, engine).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut setup = Setup::default();
        setup.plan.entry = Entry::Http { reuse: None };
        setup.plan.listeners = 1;
        change(&mut setup);
        let started = worker.start_and(&wasm, &setup, vec![listener.into()]).unwrap();
        Self { worker, started, address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Response {
        self.client().get(path)
    }

    pub(crate) fn usage(&self) -> Usage {
        self.worker.usage(self.started.run)
    }

    /// Waits until no instance is left.
    pub(crate) fn wait_for_no_instance(&self) {
        let begun = Instant::now();
        while self.usage().memory_bytes > 0 {
            assert!(begun.elapsed() < PATIENCE, "an instance is left: {:?}", self.usage());
            std::thread::yield_now();
        }
    }

    /// Waits until so much memory is taken by instances.
    pub(crate) fn wait_for_instances(&self) {
        let begun = Instant::now();
        while self.usage().memory_bytes == 0 {
            assert!(begun.elapsed() < PATIENCE, "no instance comes");
            std::thread::yield_now();
        }
    }

    /// Ends the run; what it wrote to standard error.
    pub(crate) fn end(self) -> String {
        let exit = self.worker.kill(self.started.run);
        assert_eq!(exit.cause, Cause::Stopped {}, "the run had ended before: {exit:?}");
        self.said()
    }

    /// What a run that has ended wrote to standard error.
    pub(crate) fn said(mut self) -> String {
        let mut said = String::new();
        self.started.stderr.read_to_string(&mut said).unwrap();
        said
    }

    pub(crate) fn exit(&self) -> RunExit {
        self.worker.exit(self.started.run)
    }
}
