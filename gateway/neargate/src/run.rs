//! `neargate run`: one task, an embedded server for it, and nothing left behind.
//!
//! The task takes the same way as one of `neargate serve`: control accepts it, the node runs it. Only the
//! store is in memory, and its streams are this command's own, so that they pass byte for byte.

mod args;
mod container;
mod image;
mod own;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use neargate_container::{LauncherClient, Policy, make_files_of};
use neargate_control::{Control, DescribedTask, NewDefinition, NewTask, RevisionWanted, RunTasks, TaskWait};
use neargate_driver::{ProcessUser, Stdio};
use neargate_image::{LayerFiles, OwnLayerFiles};
use neargate_model::{
    AccountId, ClusterName, Family, LaunchType, Region, Scope, Stop, StopCode, Tags, TaskKey, TaskShape,
    TaskSpec,
};
use neargate_node::{Artifacts, ContainerStdio, Starts, StdioError, StdioSource};
use neargate_store::MemoryStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use self::args::FOR_EVER;
use self::image::{Found, Wanted};
use crate::adopt;
use crate::assembly::{self, Ingredients, Machine, REMOVAL_LIMIT};
use crate::containers::{self, Unenforced};
use crate::data_dir::DataDir;
use crate::disk::AnyDisk;
use crate::keeper::Files;
use crate::policy;
use crate::progress::Progress;
use crate::resolver;
use crate::vpc_blocks;
use crate::wasm;

pub(crate) use self::args::RunArgs;
pub(crate) use self::image::{image_name, not_found, wasm_file};

/// The exit code of a task that ran into `--timeout`, as timeout(1) has it.
const EXIT_TIMEOUT: u8 = 124;

/// The exit code when the task did not run, as Docker has it.
pub(crate) const EXIT_DID_NOT_RUN: u8 = 125;

/// The exit code of what had to be killed.
const KILLED: u8 = 137;

/// The account of the task, and so the tenant of its worker.
const ACCOUNT: &str = "000000000000";

/// Why a task stops that was interrupted here.
const ASKED_TO_END: &str = "neargate run was asked to end";

/// Instances that a program may have at a time: itself and those of its health checks. Each costs a system call
/// when the worker starts.
const RUNS_MAX: u32 = 8;

/// Runs the task. Called before any thread exists, with the launcher where there is one already.
pub(crate) fn run(args: &RunArgs, launcher: Option<LauncherClient>) -> Result<ExitCode> {
    let timeout = args.timeout()?;
    let launcher = launcher.map_or_else(|| wasm::launch(Policy::of_a_root_program()), Ok)?;
    let data = DataDir::open(args.data.as_deref())?;
    let owner = take_owner(&data)?;
    let is_root = rustix::process::geteuid().is_root();
    let wanted = Wanted { image: &args.image, pull: args.pull, quiet: args.quiet };
    let image = Found::find(wanted, &data, owner, &launcher)?;
    args.check(image.is_wasm())?;
    let shape = args.shape(image.is_wasm())?;
    let scratch = Scratch::new(&data);
    let containers = match !image.is_wasm() || args.needs_sandbox() {
        // Named by the scratch directory, so that this run and a server of the same data directory never
        // meet in a cgroup.
        true => containers::start(scratch.make()?, Unenforced::of_option(args.without_limits())?)?,
        false => None,
    };
    // This process is the user's own, and asks with the user's rights.
    let files = match containers.is_some() && !is_root {
        true => Files::of_containers(vec![("scratch", scratch.path.clone())], Arc::new(launcher.clone()))?,
        false => Files::Own,
    };
    let artifacts = Artifacts::new(scratch.path.join("artifacts"));
    // One task is too little to do for a second thread: to wake it takes longer than what it could do.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start threads")?;
    let code = runtime.block_on(async {
        let mut config = wasm::config(&data);
        config.code_owner = owner;
        if args.wasm.http.is_none() {
            // One program needs one process, and no spare beside it.
            (config.workers, config.runs_max) = (1, RUNS_MAX);
        }
        let wasm = wasm::driver(config, &data, &launcher, containers.as_ref().filter(|_| is_root))?;
        if image.is_wasm() && args.shares_worker() {
            wasm.warm_up(ACCOUNT);
            // It is asked for now, and made while the task is accepted and its code is looked for.
            tokio::task::yield_now().await;
        }
        let machine = assembly::assemble(Ingredients {
            store: Arc::new(MemoryStore::new()),
            capacity: assembly::capacity(1.0),
            containers: containers.clone(),
            wasm: wasm.clone(),
            images: image.images(),
            stdio: Arc::new(OwnStreams),
            scratch: scratch.path.join("containers"),
            volumes: scratch.path.join("volumes"),
            starts: Arc::new(Starts::forgetful()),
            files: files.of_tasks(),
            artifacts: artifacts.clone(),
            files_of: ProcessUser::Invoker,
            listen_on: args.wasm.http.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip()),
            policy: policy::of_invoker(),
            endpoints: None,
            servers: resolver::servers(&[]),
            disk: Arc::new(AnyDisk),
            region: region()?,
            default_vpcs: vpc_blocks::candidates(None),
            // A router would outlive no more than this one task, and takes longer to make than most of these run.
            bridge_blocks: Vec::new(),
        });
        let code = run_task(args, shape, &machine, &artifacts, timeout).await;
        // The directory above goes with this process, whoever is still at it.
        machine.removals.settle(REMOVAL_LIMIT).await;
        match containers {
            Some(containers) => {
                let Machine { mut node, .. } = machine;
                node.shutdown().await;
                drop((wasm, launcher));
                containers.shut_down().await;
            }
            // When this process has gone the launcher ends its processes, and then itself. Nobody need wait for
            // that, nor for what follows it: to take all apart takes longer than a small program runs.
            None => std::mem::forget((machine, wasm, launcher)),
        }
        code
    });
    std::mem::forget(runtime);
    code
}

/// The user whom the data directory belongs to. As root this process goes on as root, but what it puts there is that
/// user's, so that the server of that directory can use it.
fn take_owner(data: &DataDir) -> Result<u32> {
    let own = rustix::process::geteuid();
    let owner = if own.is_root() { adopt::user_of(data)? } else { return Ok(own.as_raw()) };
    if !owner.is_root() {
        make_files_of(owner.uid, owner.gid)?;
    }
    Ok(owner.uid)
}

/// A directory of this run's own, which is made when something is put there. It is gone when this is dropped.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(data: &DataDir) -> Self {
        let name = format!("run-{}", uuid::Uuid::new_v4().simple());
        Self { path: data.root().join(name) }
    }

    fn make(&self) -> Result<&Path> {
        let make = std::fs::DirBuilder::new().mode(0o700).create(&self.path);
        make.with_context(|| format!("make scratch directory {}", self.path.display()))?;
        Ok(&self.path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = OwnLayerFiles.remove(&self.path) {
            eprintln!("warning: remove scratch directory {}: {error}", self.path.display());
        }
    }
}

/// This command's own streams, handed to the task as they are.
struct OwnStreams;

#[async_trait]
impl StdioSource for OwnStreams {
    fn open(&self, spec: &TaskSpec, container: usize) -> Result<ContainerStdio, StdioError> {
        let own = |what: &str, fd: io::Result<OwnedFd>| {
            fd.map_err(|source| StdioError {
                what: what.to_owned(),
                container: spec.shape.containers[container].name.to_string(),
                source: Box::new(source),
            })
        };
        let stdio = Stdio {
            readers: None,
            stdin: own("stdin", io::stdin().as_fd().try_clone_to_owned())?,
            stdout: own("stdout", io::stdout().as_fd().try_clone_to_owned())?,
            stderr: own("stderr", io::stderr().as_fd().try_clone_to_owned())?,
        };
        Ok(ContainerStdio { stdio, pumps: JoinSet::new() })
    }

    /// There is nothing to read: the container writes where this command does.
    fn resume(&self, _: &TaskSpec, _: usize, _: [OwnedFd; 2]) -> Result<JoinSet<()>, StdioError> {
        Ok(JoinSet::new())
    }

    async fn flush(&self) {}
}

async fn run_task(
    args: &RunArgs,
    shape: TaskShape,
    machine: &Machine,
    artifacts: &Artifacts,
    timeout: Option<Duration>,
) -> Result<ExitCode> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let control = &machine.control;
    let key = submit(shape, control, timeout).await?;
    let timeout = timeout.unwrap_or(FOR_EVER);
    let stopped = async {
        let deadline = tokio::time::Instant::now() + timeout;
        let progress = Progress::start(format!("preparing {}", args.image), args.quiet);
        let running = control.wait_task(&key, TaskWait::Running, timeout).await?;
        drop(progress);
        announce(args, &running);
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        control.wait_task(&key, TaskWait::Stopped, left).await
    };
    tokio::pin!(stopped);
    let ended = tokio::select! {
        ended = &mut stopped => Some(ended?),
        _ = interrupts.recv() => None,
        _ = terminations.recv() => None,
    };
    let interrupted = ended.is_none();
    let timed_out = ended.as_ref().is_some_and(|task| task.task.status.stopped_at.is_none());
    let task = match ended {
        Some(task) if !timed_out => task,
        _ => {
            control.stop_task(&key, ASKED_TO_END).await?;
            // A second interrupt does not wait for the task's own end.
            tokio::select! {
                ended = control.wait_task(&key, TaskWait::Stopped, FOR_EVER) => ended?,
                _ = interrupts.recv() => bail!("interrupted before the task had ended"),
            }
        }
    };
    keep(args, &task, artifacts)?;
    let code = finish(args, &task, timed_out)?;
    // A handler has no end of its own: to be interrupted is how it ends well.
    let has_ended_well = interrupted && args.wasm.http.is_some() && code != KILLED;
    Ok(if has_ended_well { ExitCode::SUCCESS } else { ExitCode::from(code) })
}

/// Says where requests are answered.
fn announce(args: &RunArgs, described: &DescribedTask) {
    let container = described.task.status.containers.first();
    let port = container.and_then(|container| container.host_ports.first());
    if let (Some(address), Some(port), false) = (args.wasm.http, port, args.quiet) {
        eprintln!("listening http://{}", SocketAddr::new(address.ip(), *port));
    }
}

/// Keeps what the task left where the options say.
fn keep(args: &RunArgs, described: &DescribedTask, artifacts: &Artifacts) -> Result<()> {
    let Some(container) = described.task.status.containers.first() else { return Ok(()) };
    let wanted =
        [("core", "core dump", &args.wasm.core_dump), ("profile.json", "profile", &args.wasm.profile)];
    for (name, what, target) in wanted {
        let Some(target) = target else { continue };
        let found = artifacts.open(&described.task.id, container.name.as_str(), name);
        let Some(mut from) = found.with_context(|| format!("read the {what}"))? else { continue };
        let mut write = || io::copy(&mut from, &mut File::create(target)?);
        write().with_context(|| format!("write the {what} to {}", target.display()))?;
        if !args.quiet {
            eprintln!("note: the {what} is in {}", target.display());
        }
    }
    Ok(())
}

fn finish(args: &RunArgs, described: &DescribedTask, timed_out: bool) -> Result<u8> {
    let status = &described.task.status;
    let container = status.containers.first().ok_or_else(|| anyhow!("the task had no container"))?;
    let stop = status.stop.as_ref();
    let failed_to_start = stop.is_some_and(|stop| stop.code == StopCode::TaskFailedToStart);
    let code = match (timed_out, container.exit_code) {
        (true, _) => EXIT_TIMEOUT,
        (false, Some(code)) => u8::try_from(code & 0xff).unwrap_or(EXIT_DID_NOT_RUN),
        (false, None) => {
            container.shell_code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_DID_NOT_RUN)
        }
    };
    if !args.quiet {
        if timed_out {
            eprintln!("error: the task was killed because it ran longer than --timeout allows");
        } else if failed_to_start {
            eprintln!("error: {}", stop.map_or("the task did not start", |stop| stop.reason.as_str()));
        } else if let Some(reason) = &container.reason {
            eprintln!("error: {reason}");
        } else if let Some(stop) = stop.filter(|stop| is_of_a_limit(stop)) {
            eprintln!("error: {}", stop.reason);
        }
    }
    if args.json {
        let phases = status.phases;
        eprintln!(
            "{}",
            serde_json::json!({
                "task": described.task.id.as_str(),
                "exit_code": container.exit_code,
                "timed_out": timed_out,
                "stopped_reason": stop.map(|stop| stop.reason.as_str()),
                "reason": container.reason,
                "cpu_ns": container.cpu_ns,
                "memory_peak_bytes": container.memory_peak_bytes,
                "instantiate_ns": container.instantiate_ns,
                "run_ns": container.run_ns,
                "phases_us": {
                    "queue": phases.queue_us, "image": phases.image_us, "network": phases.network_us,
                    "create": phases.create_us, "start": phases.start_us,
                },
            })
        );
    }
    Ok(code)
}

/// Whether a limit of the task ended it, and not whoever runs it.
fn is_of_a_limit(stop: &Stop) -> bool {
    stop.code == StopCode::UserInitiated && stop.reason != ASKED_TO_END
}

/// The region of the one task.
fn region() -> Result<Region> {
    Ok(Region::new("local")?)
}

async fn submit(shape: TaskShape, control: &Control, timeout: Option<Duration>) -> Result<TaskKey> {
    let scope = Scope { account: AccountId::new(ACCOUNT)?, region: region()? };
    let (cluster, family) = (ClusterName::new("run")?, Family::new("run")?);
    control.create_cluster(&scope, &cluster, Tags::new(), String::new()).await?;
    let new = NewDefinition {
        family: family.clone(),
        shape,
        requires: Vec::new(),
        tags: Tags::new(),
        face: String::new(),
        registered_by: "neargate run".to_owned(),
    };
    control.register_definition(&scope, new).await?;
    let request = RunTasks {
        scope,
        cluster,
        family,
        revision: RevisionWanted::Latest,
        count: 1,
        launch_type: LaunchType::Ec2,
        capacity_provider: None,
        group: None,
        started_by: None,
        tags: Tags::new(),
        propagate_definition_tags: false,
        changes: NewTask::default(),
        network: None,
        token: None,
        deadline: timeout.map(|timeout| (SystemTime::now() + timeout).into()),
        face: String::new(),
    };
    let accepted = control.run_tasks(&request).await?;
    match accepted.tasks.first() {
        Some(described) => Ok(described.task.key()),
        None => bail!("the task asks for more than this machine has; lower --cpu or --memory"),
    }
}
