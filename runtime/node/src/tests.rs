//! The whole node over the simulated driver, in virtual time.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use neargate_driver::sim::SimDriver;
use neargate_driver::{Rootfs, Stdio};
use neargate_model::lifecycle::testing::{container, depends, spec};
use neargate_model::{
    Condition, ContainerDefinition, HealthCheck, LastStatus, NodeCommand, NodeReport, Stop, StopCode, TaskId,
    TaskKey, TaskSpec, TaskStatus, Timestamp,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::*;

struct SimImages;

#[async_trait]
impl Images for SimImages {
    async fn resolve(&self, image: &str) -> Result<TaskImage, ImageProblem> {
        if image.starts_with("missing") {
            return Err(ImageProblem { reason: "CannotPullContainerError: not found".to_owned() });
        }
        Ok(TaskImage {
            digest: "sha256:0".to_owned(),
            rootfs: Rootfs::Layers(Vec::new()),
            entrypoint: vec!["sim".to_owned()],
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: PathBuf::new(),
            user: None,
            stop_signal: None,
            pin: Arc::new(()),
        })
    }
}

struct NullStdio;

#[async_trait]
impl StdioSource for NullStdio {
    fn open(&self, _spec: &TaskSpec, _container: usize) -> Result<ContainerStdio, StdioError> {
        let null =
            || OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null").unwrap());
        let stdio = Stdio { stdin: null(), stdout: null(), stderr: null() };
        Ok(ContainerStdio { stdio, pumps: JoinSet::new() })
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
    witness: Arc<Witness>,
    commands: mpsc::Sender<NodeCommand>,
    scratch: tempfile::TempDir,
    _agent: JoinSet<()>,
}

fn bench() -> Bench {
    let (driver, witness) = (SimDriver::new(), Arc::new(Witness::default()));
    let scratch = tempfile::tempdir().unwrap();
    let agent = Agent::new(Parts {
        wasm: Arc::new(driver.clone()),
        containers: Some(Arc::new(driver.clone())),
        sandboxes: Some(Arc::new(driver.clone())),
        images: Arc::new(SimImages),
        stdio: Arc::new(NullStdio),
        sink: witness.clone(),
        scratch: scratch.path().to_owned(),
        now: || Timestamp(1_000),
    });
    let (commands, inbox) = mpsc::channel(64);
    let mut running = JoinSet::new();
    running.spawn(agent.run(inbox));
    Bench { driver, witness, commands, scratch, _agent: running }
}

fn acts(name: &str, words: &str) -> ContainerDefinition {
    let command = Some(words.split_whitespace().map(str::to_owned).collect());
    ContainerDefinition { command, ..container(name) }
}

fn numbered(number: usize, containers: Vec<ContainerDefinition>) -> TaskSpec {
    let mut spec = spec(containers);
    spec.id = TaskId::new(format!("{number:032x}")).unwrap();
    for (index, id) in spec.container_ids.iter_mut().enumerate() {
        let text = format!("{number:08x}-0000-4000-8000-{index:012x}");
        *id = neargate_model::ContainerId::new(text).unwrap();
    }
    spec
}

impl Bench {
    async fn assign(&self, spec: &TaskSpec) -> TaskKey {
        let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
        self.assign_with(spec, TaskStatus::accepted(&names)).await
    }

    async fn assign_with(&self, spec: &TaskSpec, status: TaskStatus) -> TaskKey {
        let command = NodeCommand::Assign {
            spec: Box::new(spec.clone()),
            status: Box::new(status),
            created_at: Timestamp(900),
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

    fn assert_nothing_held(&self) {
        assert_eq!((self.driver.running(), self.driver.sandboxes()), (0, vec![]));
        assert_eq!(std::fs::read_dir(self.scratch.path()).unwrap().count(), 0, "scratch is empty");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_and_holds_nothing_afterwards() {
    let bench = bench();
    let task = bench.assign(&numbered(1, vec![acts("a", "sleep 50 exit 3")])).await;
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert_eq!(status.containers[0].exit_code, Some(3));
    assert_eq!(status.stop.unwrap().reason, "Essential container in task exited");
    bench.assert_nothing_held();
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
    bench.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn stop_asks_and_then_kills() {
    let bench = bench();
    let polite = numbered(1, vec![acts("a", "sleep 1000000")]);
    let stubborn = numbered(2, vec![acts("a", "sleep 1000000 ignore-stop")]);
    for (spec, code) in [(polite, 143), (stubborn, 137)] {
        let task = bench.assign(&spec).await;
        bench.reached(&task, LastStatus::Running).await;
        let stop = Stop { code: StopCode::UserInitiated, reason: "enough".to_owned() };
        bench.commands.send(NodeCommand::Stop { task: task.clone(), stop }).await.unwrap();
        let status = bench.reached(&task, LastStatus::Stopped).await;
        assert_eq!(status.containers[0].exit_code, Some(code));
    }
    bench.assert_nothing_held();
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
    bench.assert_nothing_held();
}

#[tokio::test(start_paused = true)]
async fn what_may_have_run_is_not_run_again() {
    let bench = bench();
    let spec = numbered(1, vec![acts("a", "exit 0")]);
    let names: Vec<_> = spec.shape.containers.iter().map(|c| c.name.clone()).collect();
    let status = TaskStatus { start_intended: true, version: 4, ..TaskStatus::accepted(&names) };
    let task = bench.assign_with(&spec, status).await;
    let status = bench.reached(&task, LastStatus::Stopped).await;
    assert_eq!(status.stop.unwrap().code, StopCode::InfrastructureHealth);
    assert_eq!(bench.driver.starts(), vec![]);
    bench.assert_nothing_held();
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
    bench.assert_nothing_held();
    let mut starts = bench.driver.starts();
    let all = starts.len();
    starts.dedup();
    assert_eq!(starts.len(), all, "nothing started twice");
}
