//! Processes that only pretend: each is a thread that speaks the protocol.
//!
//! A worker does what the program's arguments say, so that a test says it where the reader looks: `exit CODE`,
//! `hold` (until it is stopped), `die`, `garbage`, `strays`, `flood`, `mute` (never says that it started), `deaf` (does not
//! end when it is killed), `dump` (leaves a core dump), `write TEXT` (to standard output), `ask` (a key-value
//! round), `resolve NAME`, `socket`. A compiler does what the bytes of the "binary" say.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use neargate_driver::{
    Limits, Process, ProcessError, ProcessExit, ProcessHost, ProcessNetwork, ProcessRole, ProcessSpec,
    Sandbox, SandboxProcessHost, ThreadSlot,
};
use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};
use neargate_wasm::protocol::{
    Attachment, BinaryKind, Cause, CompileOrder, CompileRefusal, CompileReply, EngineKind, Entry, EntryKind,
    ExportInfo, FromWorker, HostReply, HostRequest, Inspection, RunExit, RunPlan, SocketPlan, StartFailure,
    Stop, ToWorker, Usage, VERSION,
};
use tokio::sync::watch;

pub(crate) const COMPILER: &str = "fake compiler 1";

/// What a worker was started with, and what it was told.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Spawned {
        sandbox: Option<String>,
        name: String,
        core: Option<usize>,
        mounts: Vec<String>,
        network: ProcessNetwork,
    },
    Loaded,
    Unloaded {
        image: u32,
    },
    Started {
        worker: usize,
        plan: Box<RunPlan>,
    },
    Stopped {
        stop: Stop,
    },
    Told {
        reply: HostReply,
    },
    Ended {
        worker: usize,
    },
    Compiled,
    SlotGivenBack,
}

/// Starts threads instead of processes.
#[derive(Default)]
pub(crate) struct FakeHost {
    events: watch::Sender<Vec<Event>>,
    workers: AtomicUsize,
    processes: Mutex<Vec<Arc<FakeProcess>>>,
    /// Exit codes of further worker spawns: each is a worker that ends before it is ready.
    pub(crate) stillborn: AtomicUsize,
    /// Whether threads cannot be limited apart from their process.
    pub(crate) undivided: AtomicBool,
}

impl FakeHost {
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.borrow().clone()
    }

    /// Waits until the events are as wanted; a test that waits in vain shows them.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let mut events = self.events.subscribe();
        let waited =
            tokio::time::timeout(Duration::from_secs(20), events.wait_for(|events| wanted(events))).await;
        match waited {
            Ok(Ok(events)) => events.clone(),
            _ => panic!("{what} did not come: {:#?}", self.events()),
        }
    }

    fn note(&self, event: Event) {
        self.events.send_modify(|events| events.push(event));
    }

    /// The workers that were started, by number.
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Ordering::SeqCst)
    }

    pub(crate) fn compilations(&self) -> usize {
        self.events().iter().filter(|event| matches!(event, Event::Compiled)).count()
    }

    /// In which worker each start was, with its first argument's successor words.
    pub(crate) fn starts(&self) -> Vec<(usize, RunPlan)> {
        let start = |event: Event| match event {
            Event::Started { worker, plan } => Some((worker, *plan)),
            _ => None,
        };
        self.events().into_iter().filter_map(start).collect()
    }

    /// Kills a worker as `kill -9` does.
    pub(crate) fn kill(&self, worker: usize) {
        self.processes.lock().unwrap()[worker].kill();
    }
}

pub(crate) struct FakeProcess {
    exit: watch::Sender<Option<ProcessExit>>,
    socket: Option<OwnedFd>,
}

impl FakeProcess {
    fn end(&self, exit: ProcessExit) {
        self.exit.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(exit);
            first
        });
        if let Some(socket) = &self.socket {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }
}

#[async_trait]
impl Process for FakeProcess {
    async fn wait(&self) -> ProcessExit {
        let mut exit = self.exit.subscribe();
        exit.wait_for(Option::is_some).await.unwrap().unwrap()
    }

    fn kill(&self) {
        self.end(ProcessExit { code: 137, oom: false });
    }

    fn id(&self) -> u32 {
        1
    }
}

/// A host that the threads can keep.
pub(crate) struct Host(pub(crate) Arc<FakeHost>);

#[async_trait]
impl ProcessHost for Host {
    async fn spawn(&self, spec: ProcessSpec) -> Result<Arc<dyn Process>, ProcessError> {
        let host = self.0.clone();
        let process = match spec.role {
            ProcessRole::WasmWorker => worker(host, spec, None),
            ProcessRole::WasmCompiler => compiler(host, spec),
            role => panic!("the driver asks for {role:?}"),
        };
        Ok(process)
    }
}

#[async_trait]
impl SandboxProcessHost for Host {
    async fn spawn_in(
        &self,
        sandbox: &Sandbox,
        _limits: &Limits,
        spec: ProcessSpec,
    ) -> Result<Arc<dyn Process>, ProcessError> {
        assert_eq!(spec.role, ProcessRole::WasmWorker);
        Ok(worker(self.0.clone(), spec, Some(sandbox.task.to_string())))
    }

    async fn thread_slot(&self, _sandbox: &Sandbox, _limits: &Limits) -> Result<ThreadSlot, ProcessError> {
        let host = self.0.clone();
        if host.undivided.load(Ordering::SeqCst) {
            let (what, why) = ("the isolation class `thread`".to_owned(), "as on v2".to_owned());
            return Err(ProcessError::Unsupported { what, why });
        }
        Ok(ThreadSlot::new(vec![crate::bench::null()], move || host.note(Event::SlotGivenBack)))
    }
}

fn worker(host: Arc<FakeHost>, mut spec: ProcessSpec, sandbox: Option<String>) -> Arc<FakeProcess> {
    let socket = spec.fds.remove(0);
    let process =
        Arc::new(FakeProcess { exit: watch::Sender::new(None), socket: Some(socket.try_clone().unwrap()) });
    let number = host.workers.fetch_add(1, Ordering::SeqCst);
    host.processes.lock().unwrap().push(process.clone());
    host.note(Event::Spawned {
        sandbox,
        name: spec.name.clone(),
        core: spec.core,
        mounts: spec.mounts.iter().map(|mount| mount.source.display().to_string()).collect(),
        network: spec.network,
    });
    let stillborn = &host.stillborn;
    if stillborn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        process.end(ProcessExit { code: 1, oom: false });
        return process;
    }
    let of_thread = process.clone();
    std::thread::spawn(move || {
        let mut worker =
            Worker { number, host, socket, runs: HashMap::new(), images: HashSet::new(), process: of_thread };
        worker.run();
        worker.host.note(Event::Ended { worker: number });
        worker.process.end(ProcessExit { code: 0, oom: false });
    });
    process
}

struct Worker {
    number: usize,
    host: Arc<FakeHost>,
    socket: OwnedFd,
    /// The streams of the runs that hold.
    runs: HashMap<u64, (Vec<String>, Vec<OwnedFd>)>,
    images: HashSet<u32>,
    process: Arc<FakeProcess>,
}

impl Worker {
    fn say(&self, message: &FromWorker, fds: &[BorrowedFd<'_>]) {
        // The other side may be gone.
        let _ = channel::send(self.socket.as_fd(), 0, &encode(message), fds, true);
    }

    fn run(&mut self) {
        self.say(&FromWorker::Ready { version: VERSION }, &[]);
        let mut buffer = Vec::new();
        while let Ok(Some(frame)) = channel::receive(self.socket.as_fd(), &mut buffer, true) {
            let message: ToWorker = decode(&frame.message).unwrap();
            if !self.take(message, frame.fds) {
                return;
            }
        }
    }

    fn take(&mut self, message: ToWorker, fds: Vec<OwnedFd>) -> bool {
        match message {
            ToWorker::Load { image, .. } => {
                let mut code = String::new();
                File::from(fds.into_iter().next().unwrap()).read_to_string(&mut code).unwrap();
                self.host.note(Event::Loaded);
                if code.contains("unloadable") {
                    let why = "it is not what it seems".to_owned();
                    self.say(&FromWorker::LoadFailed { image, why }, &[]);
                } else {
                    self.images.insert(image);
                    self.say(&FromWorker::Loaded { image }, &[]);
                }
            }
            ToWorker::Unload { image } => {
                assert!(self.images.remove(&image), "image {image} is not loaded");
                self.host.note(Event::Unloaded { image });
            }
            ToWorker::Start { run, plan } => return self.start(run, plan, fds),
            ToWorker::Stop { run, stop } => {
                self.host.note(Event::Stopped { stop: stop.clone() });
                let code = match stop {
                    Stop::Ask { code } | Stop::Kill { code } => code,
                };
                if self.runs.get(&run).is_some_and(|(argv, _)| argv.get(1).is_none_or(|word| word != "deaf"))
                {
                    self.exit(run, code, Cause::Stopped {}, None);
                }
            }
            ToWorker::Stats { run } => {
                if self.runs.contains_key(&run) {
                    self.say(&FromWorker::Usage { run, usage: usage(100) }, &[]);
                }
            }
            ToWorker::HostReply { reply, .. } => {
                assert_eq!(fds.len(), usize::from(reply == HostReply::Socket {}));
                self.host.note(Event::Told { reply });
            }
        }
        true
    }

    fn start(&mut self, run: u64, plan: RunPlan, fds: Vec<OwnedFd>) -> bool {
        assert_eq!(fds.len() as u32, 3 + plan.listeners + plan.cgroups);
        assert!(self.images.contains(&plan.image), "image {} is not loaded", plan.image);
        let argv = plan.argv.clone();
        let entry = plan.entry.clone();
        let asks_what = plan.argv.get(2).cloned().unwrap_or_default();
        self.host.note(Event::Started { worker: self.number, plan: Box::new(plan) });
        let word = match &entry {
            // A function's behaviour is its name.
            Entry::Export { name } => name.clone(),
            _ => argv.get(1).cloned().unwrap_or_else(|| "hold".to_owned()),
        };
        if word == "mute" {
            return true;
        }
        if word == "fail" {
            let failure = StartFailure::Import { why: "it imports the moon".to_owned() };
            self.say(&FromWorker::StartFailed { run, failure }, &[]);
            return true;
        }
        let stdout = fds[1].try_clone().unwrap();
        self.runs.insert(run, (argv, fds));
        self.say(&FromWorker::Started { run }, &[]);
        match word.as_str() {
            "exit" => self.exit(run, asks_what.parse().unwrap(), Cause::Exit {}, None),
            "oom" => self.exit(run, 137, Cause::OutOfMemory {}, Some("too much")),
            "trap" => self.exit(run, 134, Cause::Trap {}, Some("wasm trap: unreachable")),
            "write" | "yes" | "no" => {
                let text = match word.as_str() {
                    "yes" => "true",
                    "no" => "false",
                    _ => &asks_what,
                };
                writeln!(File::from(stdout), "{text}").unwrap();
                self.exit(run, 0, Cause::Exit {}, None);
            }
            "die" => {
                self.process.end(ProcessExit { code: 139, oom: false });
                return false;
            }
            "swell" => {
                self.process.end(ProcessExit { code: 137, oom: true });
                return false;
            }
            "garbage" => {
                let _ = channel::send(self.socket.as_fd(), 0, &[250, 1, 2, 3], &[], true);
            }
            "strays" => {
                for stray in 0..1000 {
                    self.say(&FromWorker::Started { run: 1_000_000 + stray }, &[]);
                }
            }
            "flood" => {
                for n in 0..2000 {
                    self.say(&FromWorker::Notice { text: format!("\u{1b}[31m{n}") }, &[]);
                }
                self.exit(run, 0, Cause::Exit {}, None);
            }
            "dump" => {
                let dump = rustix::fs::memfd_create(c"core", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
                File::from(dump.try_clone().unwrap()).write_all(b"\0asm core").unwrap();
                self.dump(run, dump.as_fd());
            }
            // Parts of a handler, each with a dump of its own; with "leave-twice" one that does not keep to it.
            "leave" | "leave-twice" => {
                for count in 0..if word == "leave" { 1 } else { 2 } {
                    let dump = rustix::fs::memfd_create(c"core", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
                    write!(File::from(dump.try_clone().unwrap()), "{run} {count}").unwrap();
                    let message = FromWorker::Left { run, attachment: Attachment::CoreDump {} };
                    self.say(&message, &[dump.as_fd()]);
                }
            }
            // What would never end if it were read.
            "dump-pipe" => {
                let (reader, writer) = std::io::pipe().unwrap();
                self.dump(run, reader.as_fd());
                // It stays open for as long as its reader.
                std::mem::forget(writer);
            }
            "ask" => {
                let (bucket, key) = ("b".to_owned(), "k".to_owned());
                let set =
                    HostRequest::KvSet { bucket: bucket.clone(), key: key.clone(), value: b"v".to_vec() };
                self.say(&FromWorker::HostCall { run, call: 1, request: set }, &[]);
                let get = HostRequest::KvGet { bucket, key };
                self.say(&FromWorker::HostCall { run, call: 2, request: get }, &[]);
            }
            "socket" => {
                let request = HostRequest::Socket { socket: SocketPlan::Datagram { is_v6: true } };
                self.say(&FromWorker::HostCall { run, call: 1, request }, &[]);
            }
            "resolve" => {
                let request = HostRequest::Resolve { name: asks_what };
                self.say(&FromWorker::HostCall { run, call: 1, request }, &[]);
            }
            _ => {}
        }
        true
    }

    fn dump(&mut self, run: u64, dump: BorrowedFd<'_>) {
        let exit = RunExit {
            code: 134,
            cause: Cause::Trap {},
            reason: None,
            usage: usage(7),
            attachments: vec![Attachment::CoreDump {}],
        };
        self.runs.remove(&run);
        self.say(&FromWorker::Exited { run, exit }, &[dump]);
    }

    fn exit(&mut self, run: u64, code: i32, cause: Cause, reason: Option<&str>) {
        self.runs.remove(&run);
        let reason = reason.map(str::to_owned);
        let exit = RunExit { code, cause, reason, usage: usage(200), attachments: Vec::new() };
        self.say(&FromWorker::Exited { run, exit }, &[]);
    }
}

fn usage(cpu_ns: u64) -> Usage {
    Usage { cpu_ns, memory_bytes: 1000, memory_peak_bytes: 2000, instantiate_ns: 30, run_ns: 40, requests: 1 }
}

/// What a "binary" says: words that are its entries and exports, or what becomes of its compiler.
fn compiler(host: Arc<FakeHost>, mut spec: ProcessSpec) -> Arc<FakeProcess> {
    let _: CompileOrder = decode(&spec.input).unwrap();
    host.note(Event::Compiled);
    let process = Arc::new(FakeProcess { exit: watch::Sender::new(None), socket: None });
    let of_thread = process.clone();
    std::thread::spawn(move || {
        let (reply, output, wasm) =
            (spec.fds.pop().unwrap(), spec.fds.pop().unwrap(), spec.fds.pop().unwrap());
        let mut text = String::new();
        File::from(wasm).read_to_string(&mut text).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let (mut reply, mut output) = (File::from(reply), File::from(output));
        match words.first().copied() {
            Some("sleep") => {
                // Until it is killed.
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(of_thread.wait());
                return;
            }
            Some("crash") => return of_thread.end(ProcessExit { code: 139, oom: false }),
            Some("greedy") => return of_thread.end(ProcessExit { code: 137, oom: true }),
            Some("hot") => return of_thread.end(ProcessExit { code: 152, oom: false }),
            Some("babble") => reply.write_all(b"\xff\xff\xff").unwrap(),
            Some("grow") => {
                output.write_all(&vec![0; 1 << 20]).unwrap();
                reply.write_all(&encode(&CompileReply::Done { inspection: inspection(&words) })).unwrap();
            }
            Some("text") => {
                let reason = CompileRefusal::NotWasm { what: "text".to_owned() };
                reply.write_all(&encode(&CompileReply::Refused { reason })).unwrap();
            }
            _ => {
                write!(output, "code of {text}").unwrap();
                reply.write_all(&encode(&CompileReply::Done { inspection: inspection(&words) })).unwrap();
            }
        }
        drop((reply, output));
        of_thread.end(ProcessExit { code: 0, oom: false });
    });
    process
}

fn inspection(words: &[&str]) -> Inspection {
    let mut inspection = Inspection {
        kind: BinaryKind::Component {},
        engine: EngineKind::Sync {},
        entries: Vec::new(),
        exports: Vec::new(),
        imports: Vec::new(),
        compiler: COMPILER.to_owned(),
    };
    for word in words {
        match *word {
            "command" => inspection.entries.push(EntryKind::Command {}),
            "http" => inspection.entries.push(EntryKind::Http {}),
            "handler" => inspection.entries.push(EntryKind::Handler {}),
            import if import.contains(':') => inspection.imports.push(import.to_owned()),
            name => inspection
                .exports
                .push(ExportInfo { name: name.to_owned(), signature: "func() -> bool".to_owned() }),
        }
    }
    inspection
}
