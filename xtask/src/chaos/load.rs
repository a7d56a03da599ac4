//! The load: tasks of all kinds, submitted while things are killed, with what is known of each beforehand.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::eventually;
use serde_json::{Value, json};

use super::machine::{CLUSTER, Caller, Site, VOLUME};
use crate::shell::command;

/// Between two tasks of one submitter; with two of them, some thirty tasks a second.
const PAUSE: Duration = Duration::from_millis(50);
/// A task that was accepted runs within this, or is found to be lost by whoever checks.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Tasks that run all the time with an interface in a VPC; one more is under `bridge`.
const HEARTBEATS: usize = 3;
/// The port of a container under `bridge` to which one of the host leads.
const PORT: u16 = 80;
/// What the heartbeat under `bridge` says to whoever connects.
const GREETING: &str = "here";
/// It answers within this.
const GREETING_LIMIT: Duration = Duration::from_secs(5);
/// The family of tasks under `bridge`.
const BRIDGED: &str = "bridged";
/// Enough for as many processes as a task may have.
const CROWD_MEMORY_MIB: u64 = 2048;

/// Starts processes once it is told to; a shell that cannot fork ends with 2.
const CROWD: &str = "echo ran >> /witness/ran-$0; while [ ! -e /witness/go-$0 ]; do sleep 0.05; done; i=0; while [ $i -lt 6000 ]; do sleep 100 & i=$((i+1)); done; exit 0";

/// The exit code of a task that was stopped.
pub(crate) const STOPPED_CODE: i64 = 7;
/// The exit code of a heartbeat.
pub(crate) const HEARTBEAT_CODE: i64 = 3;

/// Writes the machine's time since boot to its witness and its output, ten times a second.
const HEARTBEAT: &str = "trap 'exit 3' TERM; while :; do read up idle < /proc/uptime; echo $up >> /witness/beat-$0; echo $up; sleep 0.1; done";
/// The same, and answers at a port.
const REACHED: &str = "nc -ll -p 80 -e echo here & ";
const EXIT: &str = "echo ran >> /witness/ran-$0; exit $1";
const STOPPED: &str = "trap 'exit 7' TERM; echo ran >> /witness/ran-$0; while :; do sleep 0.05; done";
/// Takes more memory than it may once it is told to.
const HOG: &str =
    "echo ran >> /witness/ran-$0; while [ ! -e /witness/go-$0 ]; do sleep 0.05; done; tail /dev/zero";

/// What a task does, and so how it should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A container that ends with this code.
    Exit(i64),
    /// The same under `bridge`, with a port of the host that leads to it.
    Bridged(i64),
    /// A container that is stopped while it runs.
    Stopped,
    /// A container that goes over its memory.
    Hog,
    /// A container that starts more processes than it may.
    Crowd,
    /// A Wasm module that ends with 0.
    Wasm,
}

/// A task that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) arn: String,
    pub(crate) number: u64,
    pub(crate) kind: Kind,
}

impl Job {
    /// The last part of its name, which is in the names of its groups and directories.
    pub(crate) fn id(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or(&self.arn)
    }
}

#[derive(Default)]
struct Ledger {
    accepted: Vec<Job>,
    /// Those that are still to be stopped.
    to_stop: Vec<Job>,
}

struct Shared {
    site: Site,
    witness: PathBuf,
    ledger: Mutex<Ledger>,
    numbers: AtomicU64,
    /// Held for reading by whoever submits.
    gate: RwLock<()>,
    ended: AtomicBool,
}

/// What submits tasks, until it is ended.
pub(crate) struct Load {
    shared: Arc<Shared>,
    submitters: Vec<JoinHandle<()>>,
    /// Tasks that run all the time, with their numbers.
    pub(crate) heartbeats: Vec<Job>,
}

impl Load {
    /// Registers the definitions, starts the heartbeats, and submits from now on.
    pub(crate) fn start(site: &Site, witness: &Path) -> Result<Self> {
        let shared = Arc::new(Shared {
            site: site.clone(),
            witness: witness.to_owned(),
            ledger: Mutex::default(),
            numbers: AtomicU64::new(0),
            gate: RwLock::new(()),
            ended: AtomicBool::new(false),
        });
        let mut caller = site.caller();
        register(&mut caller, "container", &definition("busybox", 64))?;
        register(&mut caller, "crowd", &definition("busybox", CROWD_MEMORY_MIB))?;
        register(&mut caller, "wasm", &definition("probe", 64))?;
        register(&mut caller, BRIDGED, &bridged(definition("busybox", 64)))?;
        let mut heartbeats = Vec::new();
        let kinds = [Kind::Exit(HEARTBEAT_CODE); HEARTBEATS].into_iter();
        for kind in kinds.chain([Kind::Bridged(HEARTBEAT_CODE)]) {
            let number = shared.next_number();
            let (family, first) = match kind {
                Kind::Bridged(_) => (BRIDGED, REACHED),
                _ => ("container", ""),
            };
            let script = format!("{first}{HEARTBEAT}");
            let arn = run(&mut caller, family, &["sh", "-c", &script, &number.to_string()])?;
            heartbeats.push(Job { arn, number, kind });
        }
        for job in &heartbeats {
            let beat = witness.join(format!("beat-{}", job.number));
            if eventually(START_LIMIT, || beat.exists().then_some(())).is_none() {
                bail!("a heartbeat does not start: {:?}", caller.describe(&[&job.arn]));
            }
        }
        let kinds: [fn(u64) -> Kind; 2] = [
            |number| {
                let code = (number % 100).cast_signed();
                match number % 4 {
                    0 => Kind::Stopped,
                    1 => Kind::Bridged(code),
                    _ => Kind::Exit(code),
                }
            },
            |_| Kind::Wasm,
        ];
        let submitter = |kind| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.submit_all(kind))
        };
        let submitters = kinds.map(submitter).into();
        Ok(Self { shared, submitters, heartbeats })
    }

    /// Keeps new tasks off while the guard lives.
    pub(crate) fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops what is to be stopped and can be. To be called again and again while the load pauses.
    pub(crate) fn stop_due(&self, caller: &mut Caller) {
        self.shared.stop_due(caller);
    }

    /// The tasks that were accepted since this was asked last.
    pub(crate) fn take_accepted(&self) -> Vec<Job> {
        std::mem::take(&mut self.shared.ledger().accepted)
    }

    /// Starts a task that will go over a limit, and waits until it runs.
    pub(crate) fn start_waiting(&self, caller: &mut Caller, kind: Kind) -> Result<Job> {
        let job = self.submit_until_accepted(caller, kind)?;
        let ran = self.shared.witness.join(format!("ran-{}", job.number));
        eventually(START_LIMIT, || ran.exists().then_some(()))
            .context("start the task that goes over a limit")?;
        Ok(job)
    }

    /// Lets it.
    pub(crate) fn let_go(&self, waiting: &Job) -> Result<()> {
        let go = self.shared.witness.join(format!("go-{}", waiting.number));
        fs::write(&go, "").with_context(|| format!("write {}", go.display()))
    }

    /// Submits a task now, as soon as somebody accepts it.
    pub(crate) fn submit_until_accepted(&self, caller: &mut Caller, kind: Kind) -> Result<Job> {
        eventually(START_LIMIT, || self.shared.submit(caller, kind).ok()).context("submit a task")
    }
}

impl Load {
    /// Submits nothing any more.
    pub(crate) fn end(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for submitter in self.submitters.drain(..) {
            // It has told what went wrong by its panic.
            let _ = submitter.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::SeqCst)
    }

    fn submit_all(&self, kind: fn(u64) -> Kind) {
        let mut caller = self.site.caller();
        let mut turn = 0;
        while !self.ended.load(Ordering::SeqCst) {
            {
                let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
                // Refused or cut off: whether it runs is not known, and nobody was promised anything.
                let _ = self.submit(&mut caller, kind(turn));
                self.stop_due(&mut caller);
            }
            turn += 1;
            thread::sleep(PAUSE);
        }
    }

    fn submit(&self, caller: &mut Caller, kind: Kind) -> Result<Job> {
        let number = self.next_number();
        let text = number.to_string();
        let arn = match kind {
            Kind::Exit(code) => run(caller, "container", &["sh", "-c", EXIT, &text, &code.to_string()]),
            Kind::Bridged(code) => run(caller, BRIDGED, &["sh", "-c", EXIT, &text, &code.to_string()]),
            Kind::Stopped => run(caller, "container", &["sh", "-c", STOPPED, &text]),
            Kind::Hog => run(caller, "container", &["sh", "-c", HOG, &text]),
            Kind::Crowd => run(caller, "crowd", &["sh", "-c", CROWD, &text]),
            Kind::Wasm => run(caller, "wasm", &["append", &format!("/witness/ran-{text}"), "ran"]),
        }?;
        let job = Job { arn, number, kind };
        let mut ledger = self.ledger();
        ledger.accepted.push(job.clone());
        if kind == Kind::Stopped {
            ledger.to_stop.push(job.clone());
        }
        Ok(job)
    }

    fn stop_due(&self, caller: &mut Caller) {
        let due: Vec<Job> = self.ledger().to_stop.clone();
        for job in due.iter().filter(|job| self.witness.join(format!("ran-{}", job.number)).exists()) {
            let stop = json!({"cluster": CLUSTER, "task": job.arn, "reason": "chaos"});
            if caller.call("StopTask", &stop).is_ok() {
                self.ledger().to_stop.retain(|other| other.number != job.number);
            }
        }
    }
}

/// How often each number has run, by what its tasks have written.
pub(crate) fn runs(witness: &Path) -> Result<BTreeMap<u64, usize>> {
    let mut runs = BTreeMap::new();
    for entry in fs::read_dir(witness).context("read the witnesses")? {
        let entry = entry.context("read the witnesses")?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("ran-")?.parse().ok());
        if let Some(number) = number {
            let text = fs::read_to_string(entry.path()).context("read a witness")?;
            runs.insert(number, text.lines().count());
        }
    }
    Ok(runs)
}

/// When a heartbeat was alive, in seconds since the machine's boot.
pub(crate) fn beats(witness: &Path, number: u64) -> Result<Vec<f64>> {
    let text = fs::read_to_string(witness.join(format!("beat-{number}"))).context("read the beats")?;
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// What a container of an image is, whose task has an interface in a VPC.
fn definition(image: &str, memory_mib: u64) -> Value {
    json!({
        "requiresCompatibilities": ["EC2"], "networkMode": "awsvpc",
        "cpu": "256", "memory": memory_mib.max(512).to_string(),
        "volumes": [{"name": VOLUME, "dockerVolumeConfiguration": {"scope": "shared", "autoprovision": true}}],
        "containerDefinitions": [{
            "name": "main", "image": image, "memory": memory_mib, "command": ["true"],
            "mountPoints": [{"sourceVolume": VOLUME, "containerPath": "/witness"}],
        }],
    })
}

/// The same under `bridge`.
fn bridged(mut definition: Value) -> Value {
    definition["networkMode"] = json!("bridge");
    definition["containerDefinitions"][0]["portMappings"] = json!([{"containerPort": PORT, "hostPort": 0}]);
    definition
}

fn register(caller: &mut Caller, family: &str, definition: &Value) -> Result<()> {
    let mut definition = definition.clone();
    definition["family"] = json!(family);
    caller.call("RegisterTaskDefinition", &definition).map(drop)
}

/// Connects to the port of the host that leads to a task under `bridge`; says what is wrong.
pub(crate) fn reach(task: &Value) -> Result<()> {
    let port = task["containers"][0]["networkBindings"][0]["hostPort"].as_u64();
    let port =
        port.and_then(|port| u16::try_from(port).ok()).with_context(|| format!("find a port in {task}"))?;
    let address = SocketAddr::from((host_address()?, port));
    let mut stream = TcpStream::connect_timeout(&address, GREETING_LIMIT)
        .with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(GREETING_LIMIT)).context("set read timeout")?;
    let mut said = String::new();
    stream.read_to_string(&mut said).with_context(|| format!("read from {address}"))?;
    ensure!(said.trim() == GREETING, "{address} says {said:?}");
    Ok(())
}

/// An address of this machine that is not the loopback's; there is one as long as there is a router.
fn host_address() -> Result<Ipv4Addr> {
    let shown = command("ip", &["-o", "-4", "addr"]).output().context("list addresses")?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let mut addresses = shown.split_whitespace().filter_map(|word| word.split_once('/')?.0.parse().ok());
    addresses.find(|address: &Ipv4Addr| !address.is_loopback()).context("find an address of this machine")
}

/// Runs a task of a family with a command; returns its name once it is accepted.
pub(crate) fn run(caller: &mut Caller, family: &str, command: &[&str]) -> Result<String> {
    let mut request = json!({
        "cluster": CLUSTER, "taskDefinition": family, "launchType": "EC2",
        "overrides": {"containerOverrides": [{"name": "main", "command": command}]},
    });
    if family != BRIDGED {
        request["networkConfiguration"] = caller.network()?;
    }
    let answer: Value = caller.call("RunTask", &request)?;
    let arn = answer["tasks"][0]["taskArn"].as_str().with_context(|| format!("run {family}: {answer}"))?;
    Ok(arn.to_owned())
}
