//! The whole node over the simulated driver, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use neargate_driver::sim::SimDriver;
use neargate_driver::{
    ContainerSpec, Driver, Handle, IpVersion, ProcessUser, RecoverError, Recovered, Rootfs, Sandbox,
    SocketKind, StartError, Stdio, TaskSockets, WasmModule,
};
use neargate_model::lifecycle::testing::{container, depends, spec};
use neargate_model::{
    Condition, ContainerDefinition, ContainerId, HealthCheck, LastStatus, MacAddress, NetworkInterfaceId,
    NodeCommand, NodeReport, PortMapping, PortProtocol, Stop, StopCode, SubnetId, TaskId, TaskKey,
    TaskNetwork, TaskSpec, TaskStatus, Timestamp, VpcId, WasmIsolation,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::*;

struct SimImages;

#[async_trait]
impl Images for SimImages {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        if image == "slow" {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if image.starts_with("missing") {
            return Err(ImageProblem { reason: "CannotPullContainerError: not found".to_owned() });
        }
        Ok(TaskImage {
            digest: "sha256:0".to_owned(),
            rootfs: match image.strip_prefix("wasm") {
                Some(_) => {
                    Rootfs::Wasm(WasmModule { path: PathBuf::from("/x.wasm"), digest: "sha256:1".to_owned() })
                }
                None => Rootfs::Layers(Vec::new()),
            },
            entrypoint: vec!["sim".to_owned()],
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: PathBuf::new(),
            user: None,
            stop_signal: None,
            pin: Arc::new(()),
        })
    }

    async fn find_again(&self, image: &str, _digest: Option<&str>) -> Result<TaskImage, ImageProblem> {
        self.resolve(image).await
    }
}

/// What a Wasm driver was told of a container.
#[derive(Debug)]
struct Told {
    tenant: String,
    attempt: u32,
    listeners: usize,
    files_of: ProcessUser,
    sockets: Option<Arc<dyn TaskSockets>>,
}

/// The simulated driver as one for Wasm: it notes what it is told, and `core` leaves a core dump.
#[derive(Clone)]
struct WasmSim {
    driver: SimDriver,
    told: Arc<Mutex<Vec<Told>>>,
    prepared: mpsc::Sender<String>,
}

#[async_trait]
impl Driver for WasmSim {
    async fn start(&self, spec: ContainerSpec, sandbox: &Sandbox) -> Result<Arc<dyn Handle>, StartError> {
        let wasm = spec.wasm.as_ref().expect("a Wasm container is told what it needs");
        self.told.lock().unwrap().push(Told {
            tenant: wasm.tenant.clone(),
            attempt: wasm.attempt,
            listeners: wasm.listeners.len(),
            files_of: wasm.files_of,
            sockets: wasm.sockets.clone(),
        });
        if let (Some(dir), true) = (&wasm.artifacts, spec.argv.iter().any(|word| word == "core")) {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join("core"), b"dump").unwrap();
        }
        self.driver.start(spec, sandbox).await
    }

    async fn prepare(&self, rootfs: &Rootfs) -> Result<(), StartError> {
        let Rootfs::Wasm(module) = rootfs else { panic!("only Wasm images are made ready") };
        self.prepared.send(module.digest.clone()).await.unwrap();
        Ok(())
    }

    async fn recover(&self, id: &ContainerId) -> Result<Option<Recovered>, RecoverError> {
        self.driver.recover(id).await
    }
}

struct NullStdio;

#[async_trait]
impl StdioSource for NullStdio {
    fn open(&self, _spec: &TaskSpec, _container: usize) -> Result<ContainerStdio, StdioError> {
        let null =
            || OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null").unwrap());
        let stdio = Stdio { stdin: null(), stdout: null(), stderr: null(), readers: None };
        Ok(ContainerStdio { stdio, pumps: JoinSet::new() })
    }

    fn resume(
        &self,
        _spec: &TaskSpec,
        _container: usize,
        _readers: [OwnedFd; 2],
    ) -> Result<JoinSet<()>, StdioError> {
        Ok(JoinSet::new())
    }

    async fn flush(&self) {}
}

/// Keeps every status it is told, and refuses every third time.
#[derive(Default)]
struct Witness {
    reports: Mutex<BTreeMap<TaskId, Vec<TaskStatus>>>,
    calls: Mutex<u32>,
    stopped: tokio::sync::Notify,
}

#[async_trait]
impl StatusSink for Witness {
    async fn publish(&self, report: NodeReport) -> Result<(), PublishError> {
        let calls = {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            *calls
        };
        if calls.is_multiple_of(3) {
            return Err(PublishError { source: "the store is away".into() });
        }
        self.reports.lock().unwrap().entry(report.task.id).or_default().push(report.status);
        self.stopped.notify_waiters();
        Ok(())
    }
}

struct Bench {
    driver: SimDriver,
    wasm: WasmSim,
    prepared: mpsc::Receiver<String>,
    witness: Arc<Witness>,
    commands: mpsc::Sender<NodeCommand>,
    starts: Arc<Starts>,
    scratch: tempfile::TempDir,
    _agent: JoinSet<()>,
}

fn bench() -> Bench {
    let (driver, witness) = (SimDriver::new(), Arc::new(Witness::default()));
    let scratch = tempfile::tempdir().unwrap();
    let starts = || Starts::open(&scratch.path().join("starts"), "boot").unwrap();
    starts().begin(&BTreeSet::new()).unwrap();
    let starts = Arc::new(starts());
    let (prepare, prepared) = mpsc::channel(8);
    let wasm = WasmSim { driver: driver.clone(), told: Arc::default(), prepared: prepare };
    let agent = Agent::new(Parts {
        wasm: Arc::new(wasm.clone()),
        containers: Some(Arc::new(driver.clone())),
        sandboxes: Some(Arc::new(driver.clone())),
        images: Arc::new(SimImages),
        stdio: Arc::new(NullStdio),
        sink: witness.clone(),
        scratch: scratch.path().join("scratch"),
        volumes: scratch.path().join("volumes"),
        starts: starts.clone(),
        files: Arc::new(OwnTaskFiles),
        sessions: Sessions::default(),
        storage: StorageUsage::default(),
        artifacts: Artifacts::new(scratch.path().join("artifacts")),
        files_of: ProcessUser::Volumes,
        listen_on: IpAddr::V4(Ipv4Addr::LOCALHOST),
        policy: Policy::default(),
        endpoints: None,
        names: None,
        now: || Timestamp(1_000),
    });
    let (commands, inbox) = mpsc::channel(64);
    let mut running = JoinSet::new();
    running.spawn(agent.run(inbox));
    Bench { driver, wasm, prepared, witness, commands, starts, scratch, _agent: running }
}

fn acts(name: &str, words: &str) -> ContainerDefinition {
    let command = Some(words.split_whitespace().map(str::to_owned).collect());
    ContainerDefinition { command, ..container(name) }
}

fn wasm(name: &str, words: &str) -> ContainerDefinition {
    ContainerDefinition { image: "wasm".to_owned(), ..acts(name, words) }
}

fn numbered(number: usize, containers: Vec<ContainerDefinition>) -> TaskSpec {
    let mut spec = spec(containers);
    spec.id = TaskId::new(format!("{number:032x}")).unwrap();
    for (index, id) in spec.container_ids.iter_mut().enumerate() {
        let text = format!("{number:08x}-0000-4000-8000-{index:012x}");
        *id = ContainerId::new(text).unwrap();
    }
    spec
}

impl Bench {
    async fn assign(&self, spec: &TaskSpec) -> TaskKey {
        let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
        self.assign_with(spec, TaskStatus::accepted(&names), true).await
    }

    async fn assign_with(&self, spec: &TaskSpec, status: TaskStatus, is_fresh: bool) -> TaskKey {
        let command = NodeCommand::Assign {
            spec: Box::new(spec.clone()),
            status: Box::new(status),
            created_at: Timestamp(900),
            is_fresh,
        };
        self.commands.send(command).await.unwrap();
        spec.key()
    }

    async fn reached(&self, task: &TaskKey, last: LastStatus) -> TaskStatus {
        let wait = async {
            loop {
                let changed = self.witness.stopped.notified();
                if let Some(status) = self.latest(task).filter(|status| status.last >= last) {
                    return status;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), wait).await.expect("the task gets on")
    }

    fn latest(&self, task: &TaskKey) -> Option<TaskStatus> {
        self.witness.reports.lock().unwrap().get(&task.id).and_then(|reports| reports.last().cloned())
    }

    async fn assert_nothing_held(&self) {
        assert_eq!((self.driver.running(), self.driver.sandboxes()), (0, vec![]));
        // Files go a little later, in real time.
        for _ in 0..2000 {
            if self.tasks_with_files() == 0 {
                return;
            }
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
        }
        assert_eq!(self.tasks_with_files(), 0, "nothing of a task is in scratch");
    }

    fn tasks_with_files(&self) -> usize {
        let scratch = std::fs::read_dir(self.scratch.path().join("scratch"));
        let of_tasks = |entry: &std::fs::DirEntry| !entry.file_name().to_str().unwrap().starts_with("spare-");
        scratch.into_iter().flatten().flatten().filter(of_tasks).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_and_holds_nothing_afterwards() {
    let bench = bench();
    let task = bench.assign(&numbered(1, vec![acts("a", "sleep 50 exit 3")])).await;
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert_eq!(status.containers[0].exit_code, Some(3));
    assert_eq!(status.stop.unwrap().reason, "Essential container in task exited");
    bench.assert_nothing_held().await;
    let versions: Vec<u64> =
        bench.witness.reports.lock().unwrap()[&task.id].iter().map(|status| status.version).collect();
    assert!(versions.is_sorted(), "{versions:?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_and_a_failing_start() {
    let bench = bench();
    let missing = ContainerDefinition { image: "missing:1".to_owned(), ..container("a") };
    let task = bench.assign(&numbered(1, vec![missing, acts("b", "exit 0")])).await;
    let status = bench.reached(&task, LastStatus::Stopped).await;
    let stop = status.stop.unwrap();
    assert_eq!(
        (stop.code, stop.reason.as_str()),
        (StopCode::TaskFailedToStart, "CannotPullContainerError: not found")
    );
    let task = bench.assign(&numbered(2, vec![acts("a", "fail broken")])).await;
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert_eq!(status.stop.unwrap().reason, "CannotStartContainerError: use image: broken");
    assert_eq!((status.containers[0].exit_code, status.containers[0].shell_code), (None, Some(125)));
    bench.assert_nothing_held().await;
}

/// A task that was accepted under another policy, as after a restart of the server.
#[tokio::test(start_paused = true)]
async fn an_accepted_task_does_not_outlive_a_stricter_policy() {
    let bench = bench();
    let forbidden = ContainerDefinition { privileged: true, ..acts("a", "exit 0") };
    let task = bench.assign(&numbered(1, vec![forbidden])).await;
    let stop = bench.reached(&task, LastStatus::Stopped).await.stop.unwrap();
    assert_eq!(stop.code, StopCode::TaskFailedToStart);
    let reason = "ResourceInitializationError: container a may not be privileged";
    assert!(stop.reason.starts_with(reason), "{}", stop.reason);
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn stop_asks_and_then_kills() {
    let bench = bench();
    let polite = numbered(1, vec![acts("a", "sleep 1000000")]);
    let stubborn = numbered(2, vec![acts("a", "sleep 1000000 ignore-stop")]);
    let polite_wasm = numbered(3, vec![wasm("a", "sleep 1000000")]);
    let stubborn_wasm = numbered(4, vec![wasm("a", "sleep 1000000 ignore-stop")]);
    for (spec, code) in [(polite, 143), (stubborn, 137), (polite_wasm, 143), (stubborn_wasm, 137)] {
        let task = bench.assign(&spec).await;
        bench.reached(&task, LastStatus::Running).await;
        let stop = Stop { code: StopCode::UserInitiated, reason: "enough".to_owned() };
        bench.commands.send(NodeCommand::Stop { task: task.clone(), stop }).await.unwrap();
        let status = bench.reached(&task, LastStatus::Stopped).await;
        assert_eq!(status.containers[0].exit_code, Some(code));
    }
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_stops_a_task() {
    let bench = bench();
    let mut polite = numbered(1, vec![acts("a", "sleep 1000000")]);
    let mut stubborn = numbered(2, vec![acts("a", "sleep 1000000 ignore-stop")]);
    let mut quick = numbered(3, vec![acts("a", "sleep 50 exit 3")]);
    for (spec, code) in [(&mut polite, 143), (&mut stubborn, 137), (&mut quick, 3)] {
        spec.shape.timeout_s = Some(60);
        let begun = tokio::time::Instant::now();
        let task = bench.assign(spec).await;
        let status = bench.reached(&task, LastStatus::Stopped).await;
        assert_eq!(status.containers[0].exit_code, Some(code));
        let (timed_out, reason) = (code != 3, status.stop.unwrap().reason);
        assert_eq!(reason.starts_with("Task timed out: "), timed_out, "{reason}");
        assert_eq!(begun.elapsed() >= Duration::from_secs(60), timed_out);
    }
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_writes_too_much_is_killed() {
    let bench = bench();
    let mut spec = numbered(1, vec![acts("a", "sleep 10000000 ignore-stop"), acts("b", "sleep 10000000")]);
    spec.shape.ephemeral_storage_gib = Some(1);
    let task = bench.assign(&spec).await;
    bench.reached(&task, LastStatus::Running).await;
    let own = bench.scratch.path().join("scratch").join(spec.id.as_str());
    let write = |dir: &str, mib: u64| {
        let file = std::fs::File::create(own.join(dir).join("x")).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, mib << 20).unwrap();
    };
    write("container-0", 600);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.latest(&task).unwrap().stop, None, "it has used up a part only");
    write("container-1", 600);
    let begun = tokio::time::Instant::now();
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert!(begun.elapsed() < Duration::from_secs(25), "it is not asked to end, nor waited for");
    assert_eq!(status.containers[0].exit_code, Some(137));
    assert_eq!(status.stop.unwrap().reason, "Task used more than its ephemeral storage of 1 GiB");
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn dependencies_and_health() {
    let bench = bench();
    let argv = vec!["check".to_owned()];
    let check = HealthCheck { argv, interval_s: 5, timeout_s: 2, retries: 3, start_period_s: 0 };
    let db = ContainerDefinition { health_check: Some(check), ..acts("db", "sleep 60000 unhealthy 2") };
    let init = ContainerDefinition { essential: false, ..acts("init", "sleep 10 exit 0") };
    let web = depends(
        depends(acts("web", "sleep 100 exit 0"), "db", Condition::Healthy),
        "init",
        Condition::Success,
    );
    let task = bench.assign(&numbered(1, vec![web, init, db])).await;
    bench.reached(&task, LastStatus::Stopped).await;
    let order: Vec<_> = bench.driver.starts().into_iter().map(|(_, name)| name).collect();
    assert_eq!(order.last().map(String::as_str), Some("web"), "{order:?}");
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_have_run_is_not_run_again() {
    let bench = bench();
    let spec = numbered(1, vec![acts("a", "exit 0")]);
    let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
    let status = TaskStatus { start_intended: true, version: 4, ..TaskStatus::accepted(&names) };
    let task = bench.assign_with(&spec, status, false).await;
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert_eq!(status.stop.unwrap().code, StopCode::InfrastructureHealth);
    assert_eq!(bench.driver.starts(), vec![]);
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_noted_is_not_made_again() {
    let bench = bench();
    let specs = [1, 2].map(|number| numbered(number, vec![acts("a", "exit 3")]));
    bench.starts.note(&specs[0].id).unwrap();
    let mut ends = Vec::new();
    for spec in &specs {
        let accepted = TaskStatus::accepted(&[spec.shape.containers[0].name.clone()]);
        let task = bench.assign_with(spec, accepted, false).await;
        let status = bench.reached(&task, LastStatus::Stopped).await;
        ends.push((status.stop.unwrap().code, status.containers[0].exit_code));
    }
    assert_eq!(ends, [(StopCode::InfrastructureHealth, None), (StopCode::EssentialContainerExited, Some(3))]);
    assert_eq!(bench.driver.starts().len(), 1);
    bench.assert_nothing_held().await;
}

/// What is told before a start says that it is intended, or the start waits until something told says so.
#[tokio::test(start_paused = true)]
async fn a_start_is_noted_or_told() {
    let bench = bench();
    let quick = bench.assign(&numbered(1, vec![acts("a", "exit 3")])).await;
    let slow = ContainerDefinition { image: "slow".to_owned(), ..acts("a", "exit 3") };
    let slow = bench.assign(&numbered(2, vec![slow])).await;
    let mut told = Vec::new();
    for task in [&quick, &slow] {
        bench.reached(task, LastStatus::Stopped).await;
        let reports = bench.witness.reports.lock().unwrap()[&task.id].clone();
        told.push(reports.iter().map(|status| (status.start_intended, status.last)).collect::<Vec<_>>());
    }
    assert_eq!(told[0], [(true, LastStatus::Stopped)]);
    // Its image takes so long that it is shown as being pulled.
    assert_eq!(told[1][..2], [(false, LastStatus::Provisioning), (false, LastStatus::Pending)]);
    assert!(told[1][2].0 && told[1][2].1 < LastStatus::Running, "{:?}", told[1]);
    // The notes go when the loops end, which is after the last report.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let notes = std::fs::read_to_string(bench.scratch.path().join("starts")).unwrap();
    let (first, second) = (format!("+{}", quick.id), format!("-{}", quick.id));
    assert_eq!(notes.lines().collect::<Vec<_>>(), ["boot", &first, &second], "only the first needs a note");
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn many_tasks_with_stops_at_any_time() {
    let bench = bench();
    let mut tasks = Vec::new();
    for number in 1..=200 {
        let words = ["sleep 20 exit 0", "fail no", "sleep 90000", "oom"][number % 4];
        let task = bench.assign(&numbered(number, vec![acts("a", words)])).await;
        tasks.push(task.clone());
        if number % 4 == 2 {
            tokio::time::sleep(Duration::from_millis((number % 7) as u64)).await;
            let stop = Stop { code: StopCode::UserInitiated, reason: "enough".to_owned() };
            bench.commands.send(NodeCommand::Stop { task, stop }).await.unwrap();
        }
    }
    for task in &tasks {
        let status = bench.reached(task, LastStatus::Stopped).await;
        assert!(status.stop.is_some());
    }
    bench.assert_nothing_held().await;
    let mut starts = bench.driver.starts();
    let all = starts.len();
    starts.dedup();
    assert_eq!(starts.len(), all, "nothing started twice");
}

#[tokio::test(start_paused = true)]
async fn a_wasm_container_has_ports_and_leaves_a_core_dump() {
    let bench = bench();
    let mapping = PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        more_ports: 0,
        host_port: None,
        name: None,
    };
    let web = ContainerDefinition {
        port_mappings: vec![mapping.clone(), mapping],
        ..wasm("web", "sleep 60000 exit 134 core")
    };
    let mut spec = numbered(1, vec![web, acts("side", "sleep 100000")]);
    spec.own_workers = true;
    let task = bench.assign(&spec).await;
    let status = bench.reached(&task, LastStatus::Running).await;
    let ports = status.containers[0].host_ports.clone();
    assert_eq!(ports.len(), 2);
    for port in ports {
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("somebody listens");
    }
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert_eq!(status.containers[0].artifacts, ["core"]);
    assert_eq!(status.containers[1].artifacts, Vec::<String>::new());
    let artifacts = Artifacts::new(bench.scratch.path().join("artifacts"));
    assert_eq!(artifacts.list(&task.id).len(), 1);
    {
        let told = bench.wasm.told.lock().unwrap();
        let [told] = told.as_slice() else { panic!("one Wasm container was started, not {told:?}") };
        assert_eq!((told.tenant.as_str(), told.attempt, told.listeners), ("123456789012-us-east-1-c", 1, 2));
        assert_eq!(told.files_of, ProcessUser::Nobody);
    }
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_named() {
    let bench = bench();
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mapping = PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        more_ports: 0,
        host_port: Some(port),
        name: None,
    };
    let web = ContainerDefinition { port_mappings: vec![mapping], ..wasm("web", "exit 0") };
    let task = bench.assign(&numbered(1, vec![web])).await;
    let stop = bench.reached(&task, LastStatus::Stopped).await.stop.unwrap();
    assert_eq!(stop.code, StopCode::TaskFailedToStart);
    let begin = format!("CannotStartContainerError: listen on port {port}: it is in use");
    assert!(stop.reason.starts_with(&begin), "{}", stop.reason);
    assert_eq!(bench.driver.starts(), vec![]);
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn wasm_has_a_sandbox_only_where_its_isolation_needs_one() {
    let bench = bench();
    for (number, isolation, sandboxes) in
        [(1, WasmIsolation::Shared, 0), (2, WasmIsolation::Thread, 1), (3, WasmIsolation::Process, 1)]
    {
        let mut container = wasm("a", "sleep 50");
        container.wasm.isolation = isolation;
        let task = bench.assign(&numbered(number, vec![container])).await;
        bench.reached(&task, LastStatus::Running).await;
        assert_eq!(bench.driver.sandboxes().len(), sandboxes, "{isolation:?}");
        bench.reached(&task, LastStatus::Stopped).await;
    }
    let mut container = acts("a", "exit 0");
    container.wasm.isolation = WasmIsolation::Process;
    let task = bench.assign(&numbered(4, vec![container])).await;
    let stop = bench.reached(&task, LastStatus::Stopped).await.stop.unwrap();
    assert!(stop.reason.contains("labels neargate.wasm"), "{}", stop.reason);
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn a_wasm_task_has_a_network_from_its_first_socket_on() {
    let bench = bench();
    let mut spec = numbered(1, vec![wasm("a", "sleep 50")]);
    spec.network = Some(interface());
    let task = bench.assign(&spec).await;
    bench.reached(&task, LastStatus::Running).await;
    assert_eq!(bench.driver.sandboxes(), [], "nobody has asked for a socket");
    let sockets = bench.wasm.told.lock().unwrap()[0].sockets.clone().expect("it has an interface");
    let kind = SocketKind::Stream(IpVersion::V4);
    let (first, second) = tokio::join!(sockets.make(kind), sockets.make(kind));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(bench.driver.sandboxes(), std::slice::from_ref(&task.id));
    bench.reached(&task, LastStatus::Stopped).await;
    bench.assert_nothing_held().await;
    assert!(sockets.make(kind).await.is_err(), "its task has ended");
    bench.assert_nothing_held().await;
}

#[tokio::test(start_paused = true)]
async fn a_wasm_handler_listens_on_its_own_address() {
    let bench = bench();
    let mapping = PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        more_ports: 0,
        host_port: Some(80),
        name: None,
    };
    let web = ContainerDefinition { port_mappings: vec![mapping], ..wasm("web", "sleep 50") };
    let mut spec = numbered(1, vec![web]);
    spec.network = Some(interface());
    let task = bench.assign(&spec).await;
    let status = bench.reached(&task, LastStatus::Running).await;
    assert_eq!(status.containers[0].host_ports, Vec::<u16>::new(), "none of the host's");
    assert_eq!(bench.wasm.told.lock().unwrap()[0].listeners, 1);
    assert_eq!(bench.driver.sandboxes(), std::slice::from_ref(&task.id));
    bench.reached(&task, LastStatus::Stopped).await;
    bench.assert_nothing_held().await;
}

fn interface() -> TaskNetwork {
    let address = Ipv4Addr::new(172, 31, 0, 5);
    TaskNetwork {
        interface: NetworkInterfaceId::new("eni-00000000000000001").unwrap(),
        attachment: "00000000-0000-0000-0000-000000000000".to_owned(),
        vpc: VpcId::new("vpc-00000000000000001").unwrap(),
        vpc_block: "172.31.0.0/16".parse().unwrap(),
        subnet: SubnetId::new("subnet-00000000000000001").unwrap(),
        zone: "us-east-1a".to_owned(),
        address,
        address_v6: None,
        vpc_block_v6: None,
        mac: MacAddress::of(address),
        groups: Vec::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn wasm_images_are_made_ready_before_they_are_needed() {
    let mut bench = bench();
    let images = ["image", "missing", "wasm"].map(str::to_owned).to_vec();
    bench.commands.send(NodeCommand::Prepare { images }).await.unwrap();
    assert_eq!(bench.prepared.recv().await.as_deref(), Some("sha256:1"));
}
