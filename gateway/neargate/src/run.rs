//! `neargate run`: one task, an embedded server for it, and nothing left behind.
//!
//! The task takes the same way as one of `neargate serve`: control accepts it, the node runs it. Only the
//! store is in memory, and its streams are this command's own, so that they pass byte for byte.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use async_trait::async_trait;
use clap::Args;
use neargate_control::{Control, DescribedTask, NewDefinition, NewTask, RevisionWanted, RunTasks, TaskWait};
use neargate_driver::{ProcessUser, Rootfs, Stdio, WasmModule};
use neargate_image::ImageStore;
use neargate_model::{
    AccountId, ClusterName, ContainerDefinition, ContainerName, Family, LaunchType, MountPoint, NetworkMode,
    Region, Scope, StopCode, Tags, TaskKey, TaskShape, TaskSpec, Volume,
};
use neargate_node::{
    Artifacts, ContainerStdio, ImageProblem, Images, LocalImages, StdioError, StdioSource, TaskImage,
};
use neargate_store::MemoryStore;
use neargate_wasm_worker::WasmDriver;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::assembly::{self, Ingredients, Machine};
use crate::containers;
use crate::data_dir::DataDir;
use crate::progress::Progress;

/// The exit code of a task that ran into `--timeout`, as timeout(1) has it.
const EXIT_TIMEOUT: u8 = 124;

/// The exit code when the task did not run, as Docker has it.
pub(crate) const EXIT_DID_NOT_RUN: u8 = 125;

/// How long a task without `--timeout` may run.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Options of `neargate run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// A Wasm file, or the name of an image in the store.
    image: String,
    /// Arguments of the task, after `--`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// A variable of its environment; may be repeated. NAME alone takes this environment's value.
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A directory it may use; may be repeated.
    #[arg(long, value_name = "HOST:GUEST[:ro]")]
    dir: Vec<String>,
    /// CPU units it may use, 1024 a core.
    #[arg(long, value_name = "UNITS")]
    cpu: Option<u32>,
    /// Memory it may use, in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Seconds it may run; after that it is killed and the exit code is 124.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The program to run instead of the image's.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// The user to run as, `user[:group]`.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Its working directory.
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Make its root file system read-only.
    #[arg(long)]
    read_only: bool,
    /// Its network: `task` is a network namespace of its own with the loopback device.
    #[arg(long, value_enum, default_value = "task")]
    net: Net,
    /// Say nothing but what the task says.
    #[arg(long, short)]
    quiet: bool,
    /// When it has ended, write one line of JSON about it to stderr.
    #[arg(long)]
    json: bool,
    /// Data directory, for its images and compiled code.
    #[arg(long, env = "NEARGATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Net {
    Task,
    None,
    Host,
}

/// Runs the task. Called before any thread exists.
pub(crate) fn run(args: &RunArgs) -> Result<ExitCode> {
    if args.net == Net::Host {
        bail!("--net host is not supported: a task has a network namespace of its own");
    }
    let timeout = args.timeout.map(timeout).transpose()?;
    let data = DataDir::open(args.data.as_deref())?;
    let image = find_image(&args.image, &data)?;
    let scratch = tempfile::Builder::new().prefix("run-").tempdir_in(data.root());
    let scratch = scratch.context("make a scratch directory")?;
    let containers = match &image {
        // Named by the scratch directory, so that this run and a server of the same data directory never
        // meet in a cgroup.
        Found::Stored { is_wasm: false, .. } => containers::start(scratch.path())?,
        Found::File(_) | Found::Stored { .. } => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start threads")?;
    let code = runtime.block_on(async {
        let wasm_config = neargate_wasm_worker::Config {
            runs_max: 4,
            ..neargate_wasm_worker::Config::new(data.wasm_code())
        };
        let wasm = WasmDriver::new(&wasm_config).context("set up Wasm")?;
        let machine = assembly::assemble(Ingredients {
            store: Arc::new(MemoryStore::new()),
            capacity: assembly::capacity(1.0),
            containers: containers.clone(),
            wasm: Arc::new(wasm),
            images: image.images(),
            stdio: Arc::new(OwnStreams),
            scratch: scratch.path().join("containers"),
            artifacts: Artifacts::new(scratch.path().join("artifacts")),
            files_of: ProcessUser::Invoker,
            listen_on: IpAddr::V4(Ipv4Addr::LOCALHOST),
        });
        let code = run_task(args, &machine, timeout).await;
        let Machine { mut node, .. } = machine;
        node.shutdown().await;
        if let Some(containers) = containers {
            containers.shut_down().await;
        }
        code
    });
    runtime.shutdown_background();
    code
}

fn timeout(seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if !timeout.is_zero() && timeout < FOR_EVER => Ok(timeout),
        _ => bail!("--timeout must be a number of seconds above 0, not {seconds}"),
    }
}

/// Where the image was found.
enum Found {
    File(WasmModule),
    Stored { store: ImageStore, is_wasm: bool },
}

fn find_image(image: &str, data: &DataDir) -> Result<Found> {
    let path = Path::new(image);
    if path.is_file() {
        return wasm_file(path).map(Found::File);
    }
    let looks_like_path = image.starts_with(['/', '.']) || image.ends_with(".wasm");
    if looks_like_path && path.is_dir() {
        bail!(
            "{image} is a directory; make an image of it with `neargate image pack {image} --name NAME --entrypoint PROGRAM`"
        );
    }
    if looks_like_path {
        bail!("{image} does not exist");
    }
    let store = ImageStore::open(data.images()).context("open the image store")?;
    let reference = image.parse().with_context(|| format!("read image name {image:?}"))?;
    let resolved = store.resolve(&reference).with_context(|| {
        format!(
            "find image {image}; `neargate image ls` lists what there is, `neargate image import` adds to it"
        )
    })?;
    let is_wasm = matches!(resolved.kind, neargate_image::ImageKind::Wasm { .. });
    Ok(Found::Stored { store, is_wasm })
}

/// A Wasm file is run from where it is; its digest is the key of its compiled code.
fn wasm_file(path: &Path) -> Result<WasmModule> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("read {}", path.display()))?;
    if !bytes.starts_with(b"\0asm") {
        bail!(
            "{} is not a Wasm binary (they begin with \\0asm); import other images with `neargate image import`",
            path.display()
        );
    }
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    let path = std::fs::canonicalize(path).with_context(|| format!("read {}", path.display()))?;
    Ok(WasmModule { path, digest })
}

impl Found {
    fn images(self) -> Arc<dyn Images> {
        match self {
            Self::File(module) => Arc::new(OneFile(module)),
            Self::Stored { store, .. } => Arc::new(LocalImages::new(store)),
        }
    }
}

/// The one Wasm file that this run is about.
struct OneFile(WasmModule);

#[async_trait]
impl Images for OneFile {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        let name =
            Path::new(image).file_name().map_or(image.to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(TaskImage {
            digest: self.0.digest.clone(),
            rootfs: Rootfs::Wasm(self.0.clone()),
            entrypoint: vec![name],
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: PathBuf::new(),
            user: None,
            stop_signal: None,
            pin: Arc::new(()),
        })
    }
}

/// This command's own streams, handed to the task as they are.
struct OwnStreams;

#[async_trait]
impl StdioSource for OwnStreams {
    fn open(&self, spec: &TaskSpec, container: usize) -> Result<ContainerStdio, StdioError> {
        let own = |what: &str, fd: std::io::Result<OwnedFd>| {
            fd.map_err(|source| StdioError {
                what: what.to_owned(),
                container: spec.shape.containers[container].name.to_string(),
                source: Box::new(source),
            })
        };
        let stdio = Stdio {
            stdin: own("stdin", std::io::stdin().as_fd().try_clone_to_owned())?,
            stdout: own("stdout", std::io::stdout().as_fd().try_clone_to_owned())?,
            stderr: own("stderr", std::io::stderr().as_fd().try_clone_to_owned())?,
        };
        Ok(ContainerStdio { stdio, pumps: JoinSet::new() })
    }

    async fn flush(&self) {}
}

async fn run_task(args: &RunArgs, machine: &Machine, timeout: Option<Duration>) -> Result<ExitCode> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let control = &machine.control;
    let key = submit(args, control).await?;
    let timeout = timeout.unwrap_or(FOR_EVER);
    let stopped = async {
        let deadline = tokio::time::Instant::now() + timeout;
        let progress = Progress::start(format!("preparing {}", args.image), args.quiet);
        control.wait_task(&key, TaskWait::Running, timeout).await?;
        drop(progress);
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        control.wait_task(&key, TaskWait::Stopped, left).await
    };
    tokio::pin!(stopped);
    let ended = tokio::select! {
        ended = &mut stopped => Some(ended?),
        _ = interrupts.recv() => None,
        _ = terminations.recv() => None,
    };
    let timed_out = ended.as_ref().is_some_and(|task| task.task.status.stopped_at.is_none());
    let task = match ended {
        Some(task) if !timed_out => task,
        _ => {
            control.stop_task(&key, "neargate run was asked to end").await?;
            // A second interrupt does not wait for the task's own end.
            tokio::select! {
                ended = control.wait_task(&key, TaskWait::Stopped, FOR_EVER) => ended?,
                _ = interrupts.recv() => bail!("interrupted before the task had ended"),
            }
        }
    };
    finish(args, &task, timed_out)
}

fn finish(args: &RunArgs, described: &DescribedTask, timed_out: bool) -> Result<ExitCode> {
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
                "phases_us": {
                    "queue": phases.queue_us, "image": phases.image_us, "network": phases.network_us,
                    "create": phases.create_us, "start": phases.start_us,
                },
            })
        );
    }
    Ok(ExitCode::from(code))
}

async fn submit(args: &RunArgs, control: &Control) -> Result<TaskKey> {
    let scope = Scope { account: AccountId::new("000000000000")?, region: Region::new("local")? };
    let (cluster, family) = (ClusterName::new("run")?, Family::new("run")?);
    control.create_cluster(&scope, &cluster, Tags::new(), String::new()).await?;
    let new = NewDefinition {
        family: family.clone(),
        shape: shape(args)?,
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
        token: None,
        deadline: None,
        face: String::new(),
    };
    let accepted = control.run_tasks(&request).await?;
    match accepted.tasks.first() {
        Some(described) => Ok(described.task.key()),
        None => bail!("the task asks for more than this machine has; lower --cpu or --memory"),
    }
}

/// Memory a task may use when `--memory` says nothing: the machine's, because someone waits for it here.
fn memory_mib_default() -> u32 {
    let mib = rustix::system::sysinfo().totalram as u64 / (1 << 20);
    u32::try_from(mib).unwrap_or(u32::MAX)
}

fn shape(args: &RunArgs) -> Result<TaskShape> {
    let dirs = args.dir.iter().enumerate().map(|(index, text)| directory(index, text));
    let (volumes, mount_points) = dirs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let container = ContainerDefinition {
        name: ContainerName::new("task")?,
        image: args.image.clone(),
        cpu_units: 0,
        memory_mib: None,
        memory_reservation_mib: None,
        essential: true,
        entry_point: args.entrypoint.clone().map(|program| vec![program]),
        command: (!args.args.is_empty()).then(|| args.args.clone()),
        environment: args.env.iter().map(|text| variable(text)).collect::<Result<Vec<_>>>()?,
        working_directory: args.workdir.clone(),
        user: args.user.clone(),
        depends_on: Vec::new(),
        health_check: None,
        start_timeout_s: None,
        stop_timeout_s: Some(10),
        restart_policy: None,
        ulimits: Vec::new(),
        read_only_root: args.read_only,
        mount_points,
        log: None,
        init: false,
        capabilities_add: Vec::new(),
        capabilities_drop: Vec::new(),
        tmpfs: Vec::new(),
        port_mappings: Vec::new(),
        wasm: Default::default(),
    };
    Ok(TaskShape {
        containers: vec![container],
        volumes,
        network_mode: if args.net == Net::None { NetworkMode::None } else { NetworkMode::Awsvpc },
        cpu_units: args.cpu,
        memory_mib: Some(args.memory.unwrap_or_else(memory_mib_default)),
        ephemeral_storage_gib: None,
    })
}

fn variable(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        None if !text.is_empty() => match std::env::var(text) {
            Ok(value) => Ok((text.to_owned(), value)),
            Err(_) => bail!("--env {text}: this environment has no such variable; say NAME=VALUE"),
        },
        _ => bail!("--env {text}: say NAME=VALUE"),
    }
}

fn directory(index: usize, text: &str) -> Result<(Volume, MountPoint)> {
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let Some((host, guest)) =
        rest.split_once(':').filter(|(host, guest)| !host.is_empty() && guest.starts_with('/'))
    else {
        bail!("--dir {text}: say HOST:GUEST or HOST:GUEST:ro, GUEST being an absolute path");
    };
    let host = std::fs::canonicalize(host).with_context(|| format!("use --dir {text}"))?;
    let name = format!("dir-{index}");
    let volume = Volume { name: name.clone(), host_path: Some(host.to_string_lossy().into_owned()) };
    Ok((volume, MountPoint { volume: name, container_path: guest.to_owned(), read_only }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories() {
        let check = |text: &str, expect: Option<(&str, bool)>| {
            let found = directory(0, text).ok();
            let found = found.as_ref().map(|(_, mount)| (mount.container_path.as_str(), mount.read_only));
            assert_eq!(found, expect, "{text}");
        };
        check("/tmp:/data", Some(("/data", false)));
        check("/tmp:/data:ro", Some(("/data", true)));
        check("/tmp", None);
        check(":/data", None);
        check("/tmp:data", None);
        check("/does/not/exist:/data", None);
    }

    #[test]
    fn timeouts() {
        let check = |seconds, expect| assert_eq!(timeout(seconds).is_ok(), expect, "{seconds}");
        check(0.5, true);
        check(0.0, false);
        check(-1.0, false);
        check(f64::NAN, false);
        check(1e300, false);
    }
}
