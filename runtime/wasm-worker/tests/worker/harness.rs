//! A worker on a thread, the server's end of its socket, and guests whose streams the test holds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use neargate_driver::{
    Process, ProcessHost, ProcessMount, ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser,
};
use neargate_ipc::{channel, wire};
use neargate_wasm::protocol::{
    Cause, CodeInfo, EngineKind, FromWorker, Preopen, RunExit, RunLimits, RunPlan, StartFailure, Stop,
    ToWorker, Usage, VERSION, WorkerSetup,
};
pub(crate) use neargate_wasm_worker::testing::plan;
use neargate_wasm_worker::testing::{self, ThreadHost};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tempfile::TempDir;

/// How long a test waits for a message; only a worker that hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A worker and the server's end of its socket.
pub(crate) struct Worker {
    socket: OwnedFd,
    process: Arc<dyn Process>,
    /// Messages that nobody asked for yet.
    waiting: RefCell<Vec<(FromWorker, Vec<OwnedFd>)>>,
    numbers: Cell<u64>,
    images: RefCell<HashMap<Vec<u8>, u32>>,
    pub(crate) dir: TempDir,
}

/// A started guest.
pub(crate) struct Started {
    pub(crate) run: u64,
    pub(crate) stdin: PipeWriter,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
}

/// What came of a guest.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: RunExit,
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
pub(crate) struct Setup<'a> {
    pub(crate) argv: &'a [&'a str],
    pub(crate) env: &'a [(&'a str, &'a str)],
    pub(crate) stdin: &'a [u8],
    pub(crate) plan: RunPlan,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { argv: &[], env: &[], stdin: &[], plan: plan() }
    }
}

pub(crate) fn no_limits() -> RunLimits {
    RunLimits { cpu_millis: None, cpu_budget_ns: None, memory_bytes: None }
}

pub(crate) fn encode(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Code, cause and reason of an end.
pub(crate) fn told(exit: &RunExit) -> (i32, Cause, Option<&str>) {
    (exit.code, exit.cause.clone(), exit.reason.as_deref())
}

/// What [`told`] says of a guest that ended by itself.
pub(crate) fn exited(code: i32) -> (i32, Cause, Option<&'static str>) {
    (code, Cause::Exit {}, None)
}

/// What [`told`] says of a guest that was asked to end.
pub(crate) fn stopped(code: i32) -> (i32, Cause, Option<&'static str>) {
    (code, Cause::Stopped {}, None)
}

impl Worker {
    /// A worker with a directory `volume` that plans can name.
    pub(crate) fn new() -> Self {
        Self::with(16)
    }

    /// A worker with places for so many runs.
    pub(crate) fn with(runs_max: u32) -> Self {
        let setup = WorkerSetup { version: VERSION, runs_max, images_max: 64, network: false };
        let worker = Self::raw(wire::encode(&setup));
        assert_eq!(worker.next(), FromWorker::Ready { version: VERSION });
        worker
    }

    /// A worker with this input.
    pub(crate) fn raw(input: Vec<u8>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let (socket, other) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mounts = vec![ProcessMount { source: volume, name: "volume".into(), read_only: false }];
        let spec = ProcessSpec {
            role: ProcessRole::WasmWorker,
            name: "worker".into(),
            input,
            fds: vec![other],
            mounts,
            user: ProcessUser::Nobody,
            network: ProcessNetwork::None,
            memory_bytes: None,
            address_space_bytes: None,
            cpu_seconds: None,
            core: None,
        };
        let process = block_on(ThreadHost.spawn(spec)).unwrap();
        Self {
            socket,
            process,
            waiting: RefCell::default(),
            numbers: Cell::new(1),
            images: RefCell::default(),
            dir,
        }
    }

    pub(crate) fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    /// The exit code of the worker.
    pub(crate) fn code(&self) -> i32 {
        block_on(async { tokio::time::timeout(PATIENCE, self.process.wait()).await.unwrap().code })
    }

    fn number(&self) -> u64 {
        self.numbers.replace(self.numbers.get() + 1)
    }

    pub(crate) fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        self.send_bytes(&wire::encode(message), fds);
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        channel::send(self.socket.as_fd(), 0, bytes, fds, true).unwrap();
    }

    /// Closes the server's end.
    pub(crate) fn hang_up(&self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).unwrap();
    }

    /// The next message, in order; `None` when the worker has closed its end.
    pub(crate) fn receive(&self) -> Option<(FromWorker, Vec<OwnedFd>)> {
        let timeout = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "the worker says nothing");
        let frame = channel::receive(self.socket.as_fd(), &mut Vec::new(), true).unwrap()?;
        Some((wire::decode(&frame.message).unwrap(), frame.fds))
    }

    pub(crate) fn next(&self) -> FromWorker {
        self.receive().expect("the worker has ended").0
    }

    /// Waits for a message of a kind; others are kept.
    pub(crate) fn wait<T>(&self, wanted: impl Fn(&FromWorker) -> Option<T>) -> (T, Vec<OwnedFd>) {
        let mut from = 0;
        let begun = Instant::now();
        loop {
            let mut waiting = self.waiting.borrow_mut();
            let found =
                (from..waiting.len()).find_map(|index| wanted(&waiting[index].0).map(|found| (index, found)));
            if let Some((index, found)) = found {
                return (found, waiting.remove(index).1);
            }
            from = waiting.len();
            drop(waiting);
            assert!(begun.elapsed() < PATIENCE, "the worker does not say it");
            let message = self.receive().expect("the worker has ended");
            self.waiting.borrow_mut().push(message);
        }
    }

    /// Hands over compiled code, whatever it is.
    pub(crate) fn load_code(&self, code: CodeInfo, bytes: &[u8]) -> Result<u32, String> {
        let image = u32::try_from(self.number()).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        self.send(&ToWorker::Load { image, code }, &[file.as_fd()]);
        let answer = |message: &FromWorker| match message {
            FromWorker::Loaded { image: loaded } if *loaded == image => Some(Ok(image)),
            FromWorker::LoadFailed { image: failed, why } if *failed == image => Some(Err(why.clone())),
            _ => None,
        };
        self.wait(answer).0
    }

    /// Compiles and loads, unless that is done.
    pub(crate) fn load(&self, wasm: &[u8]) -> Result<u32, String> {
        self.load_for(wasm, &EngineKind::Sync {})
    }

    /// Compiles for an engine and loads, unless that is done for this engine or the other.
    pub(crate) fn load_for(&self, wasm: &[u8], engine: &EngineKind) -> Result<u32, String> {
        if let Some(image) = self.images.borrow().get(wasm) {
            return Ok(*image);
        }
        let (code, bytes) = testing::compile(wasm, engine)?;
        let image = self.load_code(code, &bytes)?;
        self.images.borrow_mut().insert(wasm.to_vec(), image);
        Ok(image)
    }

    /// Starts with the given descriptors: streams and what the plan says comes after them.
    pub(crate) fn start_with(
        &self,
        wasm: &[u8],
        setup: &Setup<'_>,
        fds: Vec<OwnedFd>,
    ) -> Result<u64, StartFailure> {
        let mut plan = setup.plan.clone();
        plan.image = self.load(wasm).unwrap();
        plan.argv = setup.argv.iter().map(|arg| (*arg).to_owned()).collect();
        plan.env = setup.env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let run = self.number();
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.send(&ToWorker::Start { run, plan }, &borrowed);
        drop(fds);
        let answer = |message: &FromWorker| match message {
            FromWorker::Started { run: started } if *started == run => Some(Ok(run)),
            FromWorker::StartFailed { run: failed, failure } if *failed == run => Some(Err(failure.clone())),
            _ => None,
        };
        self.wait(answer).0
    }

    /// Starts with pipes.
    pub(crate) fn start(&self, wasm: &[u8], setup: &Setup<'_>) -> Result<Started, StartFailure> {
        self.start_and(wasm, setup, Vec::new())
    }

    /// Starts with pipes and further descriptors.
    pub(crate) fn start_and(
        &self,
        wasm: &[u8],
        setup: &Setup<'_>,
        more: Vec<OwnedFd>,
    ) -> Result<Started, StartFailure> {
        let (guest_in, stdin) = std::io::pipe().unwrap();
        let (stdout, guest_out) = std::io::pipe().unwrap();
        let (stderr, guest_err) = std::io::pipe().unwrap();
        let mut fds: Vec<OwnedFd> = vec![guest_in.into(), guest_out.into(), guest_err.into()];
        fds.extend(more);
        let run = self.start_with(wasm, setup, fds)?;
        Ok(Started { run, stdin, stdout, stderr })
    }

    /// The end of a run, with what it left.
    pub(crate) fn end(&self, run: u64) -> (RunExit, Vec<OwnedFd>) {
        self.wait(|message| match message {
            FromWorker::Exited { run: ended, exit } if *ended == run => Some(exit.clone()),
            _ => None,
        })
    }

    pub(crate) fn exit(&self, run: u64) -> RunExit {
        self.end(run).0
    }

    pub(crate) fn stop(&self, run: u64, stop: Stop) {
        self.send(&ToWorker::Stop { run, stop }, &[]);
    }

    pub(crate) fn kill(&self, run: u64) -> RunExit {
        self.stop(run, Stop::Kill { code: 137 });
        self.exit(run)
    }

    pub(crate) fn usage(&self, run: u64) -> Usage {
        self.send(&ToWorker::Stats { run }, &[]);
        let answer = |message: &FromWorker| match message {
            FromWorker::Usage { run: of, usage } if *of == run => Some(usage.clone()),
            _ => None,
        };
        self.wait(answer).0
    }

    /// Runs to the end. That the readers see the end of the streams shows that the worker closed them.
    pub(crate) fn run(&self, wasm: &[u8], setup: Setup<'_>) -> Outcome {
        let started = self.start(wasm, &setup).unwrap();
        self.finish(started, setup.stdin)
    }

    /// Feeds a started guest, and collects what comes of it.
    pub(crate) fn finish(&self, started: Started, input: &[u8]) -> Outcome {
        let (input, mut stdin) = (input.to_vec(), started.stdin);
        // A guest that does not read its input makes this fail, and that is its right.
        let feed = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let (stdout, stderr) = (collect(started.stdout), collect(started.stderr));
        let exit = self.exit(started.run);
        feed.join().unwrap();
        Outcome { exit, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.hang_up();
        if !std::thread::panicking() {
            self.code();
        }
    }
}

/// Sees the directory `volume` as `/data`.
pub(crate) fn mounted(read_only: bool) -> Setup<'static> {
    let mut setup = Setup::default();
    setup.plan.preopens = vec![Preopen { name: "volume".into(), guest: "/data".into(), read_only }];
    setup
}

pub(crate) fn contents(file: OwnedFd) -> Vec<u8> {
    use std::io::Seek;
    let mut file = File::from(file);
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn collect(mut pipe: PipeReader) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    })
}
