//! `neargate serve`: the gateway, control and node of one machine in one process.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use neargate_container::{ContainerDriver, LauncherClient, Policy as LauncherPolicy, Rights, become_user};
use neargate_control::{Control, RetentionConfig};
use neargate_driver::ProcessUser;
use neargate_image::ImageStore;
use neargate_model::{AccountId, Cidr, Policy, Region, TaskId};
use neargate_node::{Artifacts, LocalImages, LogStdio, Starts};
use neargate_server::discovery::DiscoveryApi;
use neargate_server::ec2::Ec2Api;
use neargate_server::ecr::EcrApi;
use neargate_server::ecs::EcsApi;
use neargate_server::iam::IamApi;
use neargate_server::logs::LogsApi;
use neargate_server::sts::StsApi;
use neargate_server::{
    Access, AccountKeys, Apis, Gateway, Metadata, Native, Registry, RegistryConfig, TaskEndpoints,
};
use neargate_store::SqliteOptions;
use neargate_telemetry::{LogStore, LogStoreConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::adopt;
use crate::assembly::{self, Ingredients, Machine, NodeArtifacts, REMOVAL_LIMIT};
use crate::containers::{self, Unenforced};
use crate::data_dir::DataDir;
use crate::disk::{DataDisk, RESERVE_BYTES, Space};
use crate::firewall;
use crate::keeper::Files;
use crate::link_local::{self, Supplies};
use crate::metadata::{NodeEndpoints, NodeUsage};
use crate::notify;
use crate::own_images::OwnImages;
use crate::policy;
use crate::pull::{self, ImagePull, NodeRegistries};
use crate::resolver;
use crate::sessions::NodeSessions;
use crate::tidy;
use crate::user::HostUser;
use crate::vpc_blocks;
use crate::wasm;

/// How often what was kept long enough is forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Connections that may wait to be accepted; std's own number is too small for a burst of clients.
const BACKLOG: i32 = 1024;

/// Names the machine's boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How long tasks may take to end when the server is asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(8);

/// Options of `neargate serve`.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Address and port to listen on; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7878", value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Data directory [default: /var/lib/neargate as root, else below $XDG_DATA_HOME].
    #[arg(long, env = "NEARGATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The account that resources belong to, 12 digits.
    #[arg(long, default_value = "123456789012", value_name = "ID")]
    account: String,
    /// The region of requests that name none.
    #[arg(long, default_value = "us-east-1", value_name = "REGION")]
    region: String,
    /// The user that the server becomes when it is started as root, as NAME or UID, with :GROUP if wanted [default: the user
    /// neargate if there is one, else a number that nobody has]. `root` keeps all rights.
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Accept any credentials; listens on the loopback address only.
    #[arg(long)]
    dev: bool,
    /// How many times over the machine's memory may be promised to tasks.
    #[arg(long, default_value_t = 4.0, value_name = "RATIO")]
    memory_overcommit: f64,
    /// The block of the default VPC, from which tasks get their addresses: a network that this machine does not use, for
    /// example 172.31.0.0/16, which is the default unless something is routed there. Of effect before it is made, at the
    /// first use of networks.
    #[arg(long, value_name = "CIDR", env = "NEARGATE_VPC_BLOCK")]
    vpc_block: Option<Cidr>,
    /// A resolver that is asked for names that are not of tasks; may be repeated [default: those of /etc/resolv.conf].
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = resolver::parse_server)]
    dns_server: Vec<SocketAddr>,
    /// When a registry is asked for the image of a task, as ECS_IMAGE_PULL_BEHAVIOR of ECS's agent; see docs/images.md.
    #[arg(long, value_enum, default_value = "default", value_name = "BEHAVIOR")]
    image_pull: ImagePull,
    /// How many instances a Wasm worker may hold at a time; an account has one worker for each core.
    #[arg(long, default_value_t = 1000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=6000))]
    wasm_instances: u32,
    /// A JSON file that says what task definitions may ask for beyond what every task has: host_paths, capabilities,
    /// privileged, host_namespaces and devices; see docs/policy.md.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A host directory below which task definitions may mount; may be repeated. The same as a "rw" entry of
    /// "host_paths" in the policy.
    #[arg(long, value_name = "DIR")]
    allow_host_path: Vec<PathBuf>,
    /// Let tasks have the host's network, by networkMode host or the label neargate.wasm.network. The same as
    /// "network" in "host_namespaces" of the policy.
    #[arg(long)]
    allow_host_network: bool,
    /// For an ordinary user: run container tasks although nothing enforces their limits of CPU and memory. Otherwise such
    /// tasks stop with the reason.
    #[arg(long)]
    without_limits: bool,
}

/// Runs the server until it is asked to end: SIGINT ends all tasks first, SIGTERM only those that cannot go on without
/// it. Called before any thread exists.
pub(crate) fn run(args: &ServeArgs) -> Result<ExitCode> {
    let account = AccountId::new(args.account.clone()).context("read --account")?;
    let region = Region::new(args.region.clone()).context("read --region")?;
    if args.dev && !args.listen.ip().is_loopback() {
        bail!(
            "--dev accepts any credentials, so it listens on the loopback address only, not on {}",
            args.listen
        );
    }
    if !(0.1..=100.0).contains(&args.memory_overcommit) {
        bail!("--memory-overcommit must be between 0.1 and 100");
    }
    let mut policy = args.policy.as_deref().map(policy::read).transpose()?.unwrap_or_default();
    policy::add_flags(&mut policy, &args.allow_host_path, args.allow_host_network)?;
    let data = DataDir::open(args.data.as_deref())?;
    let user = user(args)?;
    let server_uid = user.map_or_else(own_uid, |user| user.uid);
    let unenforced = Unenforced::of_option(args.without_limits)?;
    let containers = containers::attach(&data, server_uid, &policy, unenforced)?;
    if containers.is_some() && user.is_some() && firewall::drops_forwarded() == Some(true) {
        eprintln!("warning: iptables drops what tasks send beyond this host; {}", firewall::HINT);
    }
    let invoker = user.map(|user| (user.uid, user.gid));
    let kept = vec![data.images(), data.scratch(), data.volumes()];
    let launcher = wasm::launch_beside(containers.as_ref(), LauncherPolicy { invoker, kept })?;
    let listener = std::net::TcpListener::bind(args.listen).with_context(|| {
        format!("listen on {}; is another server running? Choose another port with --listen", args.listen)
    })?;
    if let Some(user) = user {
        adopt::give(&data, user)?;
        become_server(&data, user)?;
    }
    allow_descriptors();
    let start = Start { account, region, is_root: user.is_some(), listener, policy };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start threads")?;
    let served = runtime.block_on(serve(args, start, &data, containers, launcher));
    runtime.shutdown_timeout(Duration::from_secs(2));
    served.map(|()| ExitCode::SUCCESS)
}

/// What was made while there were all rights.
struct Start {
    account: AccountId,
    region: Region,
    /// Whether the program was started as root.
    is_root: bool,
    listener: std::net::TcpListener,
    policy: Policy,
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The user to become; none where this is not root, and nobody else can be become.
fn user(args: &ServeArgs) -> Result<Option<HostUser>> {
    if own_uid() != 0 {
        if args.user.is_some() {
            bail!("--user is for a server that is started as root; this one stays uid {}", own_uid());
        }
        return Ok(None);
    }
    let user = HostUser::find(args.user.as_deref())?;
    if user.is_root() {
        eprintln!("warning: --user root: the server keeps all rights, and so does whoever takes it over");
    }
    Ok(Some(user))
}

/// Gives up root, for good. What needs it is done by the processes that were started before.
fn become_server(data: &DataDir, user: HostUser) -> Result<()> {
    if user.is_root() {
        return Ok(());
    }
    become_user(user.uid, user.gid, Rights::Own)?;
    std::fs::read_dir(data.images()).map(drop).with_context(|| {
        format!(
            "use {} as uid {}; each directory above it must let that user through (chmod o+x), or choose another with \
             --data, or another user with --user",
            data.root().display(),
            user.uid
        )
    })
}

async fn serve(
    args: &ServeArgs,
    start: Start,
    data: &DataDir,
    containers: Option<ContainerDriver>,
    launcher: LauncherClient,
) -> Result<()> {
    let Start { account, region, is_root, listener, policy } = start;
    let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let listener = listener.context("use the listening socket")?;
    rustix::net::listen(&listener, BACKLOG).context("use the listening socket")?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let disk = Arc::new(DataDisk::new(data.root()));
    let root = data.root().to_owned();
    let takes_reserve = move || Space::of(&root).is_ok_and(Space::takes_reserve);
    let store = SqliteOptions::default().reserve(RESERVE_BYTES, takes_reserve);
    let store = store.open(data.database()).context("open the control state")?;
    let logs = LogStore::open(data.logs(), LogStoreConfig::default()).context("open the log store")?;
    let files = match containers.is_some() && !is_root {
        true => {
            let trees = vec![("scratch", data.scratch()), ("volumes", data.volumes())];
            Files::of_containers(trees, Arc::new(launcher.clone()))?
        }
        false => Files::of_all(data, Arc::new(launcher.clone()), is_root)?,
    };
    let images =
        ImageStore::open_with(data.images(), files.image_options()).context("open the image store")?;
    let registries = Arc::new(NodeRegistries(pull::puller(data, images.clone())?));
    let stored = images.clone();
    let mut config = wasm::config(data);
    config.runs_max = args.wasm_instances;
    let address = listener.local_addr().context("read the address of the listener")?;
    config.control.push(address);
    let wasm = wasm::driver(config, data, &launcher, containers.as_ref().filter(|_| is_root))?;
    clear_scratch(data, containers.as_ref(), &files)?;
    let artifacts = Artifacts::new(data.artifacts());
    let boot = std::fs::read_to_string(BOOT_ID).with_context(|| format!("read {BOOT_ID}"))?;
    let starts = Starts::open(&data.starts(), boot.trim()).context("read the notes of starts")?;
    let starts = Arc::new(starts);
    let stdio = Arc::new(LogStdio::new(logs.clone(), assembly::now));
    let seal = data.session_seal()?;
    let endpoints = TaskEndpoints::new(seal.clone());
    let access = match args.dev {
        true => Access::open(account.clone(), seal),
        false => {
            let keys = AccountKeys { account: account.clone(), root: data.root_key()? };
            Access::signed(keys, seal)
        }
    };
    let access = Arc::new(access);
    let own = Arc::new(OnceLock::new());
    let others = LocalImages::pulling(images.clone(), registries, args.image_pull.into());
    let Machine { control, resolver, sessions, storage, removals, mut node } =
        assembly::assemble(Ingredients {
            store: Arc::new(store),
            capacity: assembly::capacity(args.memory_overcommit),
            containers: containers.clone(),
            wasm: wasm.clone(),
            images: Arc::new(OwnImages::new(images.clone(), others, own.clone())),
            stdio: stdio.clone(),
            scratch: data.scratch(),
            volumes: data.volumes(),
            starts: starts.clone(),
            files: files.of_tasks(),
            artifacts: artifacts.clone(),
            files_of: ProcessUser::Volumes,
            listen_on: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            policy: policy.clone(),
            endpoints: Some(Arc::new(NodeEndpoints(endpoints.clone()))),
            servers: resolver::servers(&args.dns_server),
            disk: disk.clone(),
            region: region.clone(),
            default_vpcs: vpc_blocks::candidates(args.vpc_block),
            bridge_blocks: vpc_blocks::for_bridge(args.vpc_block),
        });
    let registry = RegistryConfig { account, region: region.clone(), address };
    let registry = Arc::new(Registry::new(control.clone(), images, access.clone(), registry));
    // Before any task is told of, which may need an image of it.
    let _ = own.set(registry.clone());
    for allowed in policy::describe(&policy) {
        tracing::info!(allowed, "the policy allows tasks more than usual");
    }
    let recovered = control.recover().await.context("read the tasks of the last run")?;
    match starts.begin(&recovered.tasks) {
        // Who cannot start on a full disk cannot stop what has filled it.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
            tracing::warn!(%error, "the notes of starts are not written anew");
        }
        begun => begun.context("write the notes of starts")?,
    }
    if !recovered.tasks.is_empty() {
        tracing::info!(tasks = recovered.tasks.len(), "tasks of the last run are looked after");
    }
    let apis = Apis {
        discovery: DiscoveryApi::new(control.clone()),
        ec2: Ec2Api::new(control.clone()),
        ecr: EcrApi::new(registry.clone()),
        ecs: EcsApi::new(control.clone(), policy),
        iam: IamApi::new(control.clone()),
        logs: LogsApi::new(logs.clone()),
        sts: StsApi::new(control.clone(), access.clone()),
    };
    let end = CancellationToken::new();
    let native = Native::new(
        control.clone(),
        Arc::new(NodeArtifacts(artifacts.clone())),
        Arc::new(NodeSessions(sessions.clone())),
        registry.clone(),
        end.clone(),
    );
    let gateway = Arc::new(Gateway {
        apis,
        native,
        registry: registry.clone(),
        access,
        control: control.clone(),
        region,
    });
    announce(args, data, &listener)?;
    notify::notify(notify::READY);

    // Tasks that are told to stop may still ask for names, and for what they are.
    let end_of_tasks = CancellationToken::new();
    let serving = tokio::spawn(neargate_server::serve(listener, gateway.clone(), end.clone()));
    let (answerers, Supplies { metadata: listeners, resolver: sockets }) = link_local::channels();
    let supplying = containers
        .clone()
        .map(|host| tokio::spawn(async move { link_local::supply(&host, answerers).await }));
    // None of them ends before it is told to.
    let mut helpers = JoinSet::new();
    if let Some(containers) = containers.clone() {
        let usage = Arc::new(NodeUsage { sessions, containers, storage });
        let metadata = Arc::new(Metadata::new(control.clone(), gateway, endpoints, usage));
        let end = end_of_tasks.clone();
        helpers.spawn(async move { metadata.serve(listeners, end).await });
        helpers.spawn(resolver::answer(sockets, resolver, end_of_tasks.clone()));
    }
    helpers.spawn({
        let (control, end) = (control.clone(), end_of_tasks.clone());
        async move {
            let _ = end.run_until_cancelled(control.follow_discovery()).await;
        }
    });
    helpers.spawn({
        let end = end_of_tasks.clone();
        async move { registry.sweep(end).await }
    });
    let sweeping = tokio::spawn(sweep(control.clone(), logs.clone(), artifacts, end.clone()));
    let watching = tokio::spawn({
        let end = end.clone();
        async move { disk.watch(end).await }
    });
    // Who prefers what is here wants it to stay.
    let tidying = (!matches!(args.image_pull, ImagePull::PreferCached))
        .then(|| tokio::spawn(tidy::watch(stored, data.root().to_owned(), end.clone())));
    let ends_tasks = tokio::select! {
        _ = interrupts.recv() => true,
        _ = terminations.recv() => false,
        _ = node.join_next() => {
            tracing::error!("the node ended unexpectedly");
            false
        }
        Some(ended) = helpers.join_next() => {
            let error = ended.err().map(|error| error.to_string());
            tracing::error!(error, "what answers tasks, or follows service discovery, ended unexpectedly");
            false
        }
    };
    tracing::info!("ending");
    notify::notify(notify::STOPPING);
    end.cancel();
    if let Some(supplying) = supplying {
        supplying.abort();
    }
    let _ = serving.await;
    let _ = sweeping.await;
    let _ = watching.await;
    if let Some(tidying) = tidying {
        let _ = tidying.await;
    }
    let kept = match &containers {
        Some(containers) if !ends_tasks => containers.running(),
        _ => BTreeSet::new(),
    };
    let left = control.drain("Host stopped: the server was asked to end", &kept, STOP_DEADLINE).await?;
    if left > 0 {
        tracing::warn!(tasks = left, "tasks did not end in time; they are reported at the next start");
    }
    if !removals.settle(REMOVAL_LIMIT).await {
        tracing::warn!("files of ended tasks are not removed yet; the next start does that");
    }
    end_of_tasks.cancel();
    while helpers.join_next().await.is_some() {}
    stdio.close().await;
    node.shutdown().await;
    wasm.shut_down().await;
    launcher.shut_down().await;
    match containers {
        Some(containers) if ends_tasks => containers.shut_down().await,
        Some(containers) => {
            if !kept.is_empty() {
                tracing::info!(
                    tasks = kept.len(),
                    "container tasks go on; the next `neargate serve` looks after them"
                );
            }
            containers.leave().await;
        }
        None => {}
    }
    tokio::task::spawn_blocking(move || logs.close()).await?;
    Ok(())
}

/// Allows this process as many descriptors as it may have: besides files and tasks, names that tasks ask for take up to
/// 768 sockets, and many systems begin with 1,024.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // What a process may raise is its own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Removes what tasks have left that do not run any more.
fn clear_scratch(data: &DataDir, containers: Option<&ContainerDriver>, files: &Files) -> Result<()> {
    let scratch = data.scratch();
    let entries = match std::fs::read_dir(&scratch) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("read {}", scratch.display()))?,
    };
    let kept = containers.map(ContainerDriver::found).unwrap_or_default();
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", scratch.display()))?.path();
        let is_kept = |task: &TaskId| path.file_name().is_some_and(|name| name == task.as_str());
        if !kept.iter().any(is_kept) {
            files.of_tasks().remove(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn announce(args: &ServeArgs, data: &DataDir, listener: &TcpListener) -> Result<()> {
    let url = format!("http://{}", listener.local_addr()?);
    data.write_endpoint(&url)?;
    if args.dev {
        eprintln!("warning: --dev accepts any credentials; everyone who can reach {url} may run tasks");
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready {url}").and_then(|()| stdout.flush()).context("write to stdout")
}

async fn sweep(control: Control, logs: LogStore, artifacts: Artifacts, end: CancellationToken) {
    let retention = RetentionConfig::default();
    let mut tick = tokio::time::interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = control.sweep(&retention).await {
            tracing::warn!(%error, "what is over could not be forgotten yet");
        }
        if let Err(error) = sweep_artifacts(&control, &artifacts).await {
            tracing::warn!(%error, "what forgotten tasks left could not be removed yet");
        }
        let logs = logs.clone();
        let _ = tokio::task::spawn_blocking(move || logs.sweep()).await;
    }
}

/// Removes what tasks left that nobody knows any more.
async fn sweep_artifacts(control: &Control, artifacts: &Artifacts) -> Result<()> {
    // Looked for before the tasks, so that what a new task leaves meanwhile is never taken for an old one's.
    let found = artifacts.tasks();
    if found.is_empty() {
        return Ok(());
    }
    let known = control.task_ids().await?;
    for task in found.iter().filter(|task| !known.contains(task)) {
        artifacts.forget(task).with_context(|| format!("remove what task {task} left"))?;
    }
    Ok(())
}
