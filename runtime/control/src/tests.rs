//! Control over the in-memory store, with a node that only writes down what it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use neargate_model::lifecycle::testing::{container, scope, shape};
use neargate_model::{
    Cidr, ClusterName, Family, LastStatus, LaunchType, NetworkMode, NodeCommand, NodeReport, PortProtocol,
    Stop, StopCode, Tags, Task, TaskShape, TaskStatus, Timestamp,
};
use neargate_store::testing::{Faulty, ManualClock};
use neargate_store::{MemoryStore, Store};

use crate::*;

/// What the node was told of tasks, and of images that will come.
#[derive(Default)]
pub(crate) struct Notebook(pub(crate) Mutex<Vec<NodeCommand>>, Mutex<Vec<String>>);

#[async_trait]
impl NodeLink for Notebook {
    async fn send(&self, command: NodeCommand) -> Result<(), NodeLinkError> {
        match command {
            NodeCommand::Prepare { images } => self.1.lock().unwrap().extend(images),
            other => self.0.lock().unwrap().push(other),
        }
        Ok(())
    }
}

pub(crate) struct TestClock(pub(crate) Mutex<i64>);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(*self.0.lock().unwrap())
    }
}

/// A disk as full as it is told.
#[derive(Default)]
struct TestDisk(Mutex<DiskRoom>);

impl Disk for TestDisk {
    fn room(&self) -> DiskRoom {
        *self.0.lock().unwrap()
    }
}

/// Ports that nobody has.
struct FreePorts;

impl Ports for FreePorts {
    fn is_free(&self, _: PortProtocol, _: u16) -> bool {
        true
    }
}

pub(crate) struct Bench {
    pub(crate) control: Control,
    disk: Arc<TestDisk>,
    pub(crate) node: Arc<Notebook>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: Arc<dyn Store>,
}

const CAPACITY: Capacity =
    Capacity { memory_mib: 4096, memory_promised_mib_max: 4096, cpu_units: 2048, tasks_max: 100 };

/// On a host without a network for tasks under `bridge`.
pub(crate) fn bench_on(store: Arc<dyn Store>) -> Bench {
    bench_with(store, Vec::new())
}

/// On a host that has these blocks for tasks under `bridge`.
pub(crate) fn bench_with(store: Arc<dyn Store>, bridge_blocks: Vec<Cidr>) -> Bench {
    let node = Arc::new(Notebook::default());
    let clock = Arc::new(TestClock(Mutex::new(1_000)));
    let disk = Arc::new(TestDisk::default());
    let host = Host {
        clock: clock.clone(),
        disk: disk.clone(),
        region: scope().region,
        default_vpcs: vec!["172.31.0.0/16".parse().unwrap(), "172.30.0.0/16".parse().unwrap()],
        bridge_blocks,
        ports: Arc::new(FreePorts),
    };
    let control = Control::new(store.clone(), node.clone(), host, CAPACITY);
    Bench { control, disk, node, clock, store }
}

pub(crate) fn cluster() -> ClusterName {
    ClusterName::new("c").unwrap()
}

fn family() -> Family {
    Family::new("f").unwrap()
}

pub(crate) fn definition() -> NewDefinition {
    NewDefinition {
        family: family(),
        shape: TaskShape { network_mode: NetworkMode::Bridge, ..shape(vec![container("a")]) },
        requires: vec![LaunchType::Ec2],
        tags: Tags::from([("from".to_owned(), "definition".to_owned())]),
        face: "{}".to_owned(),
        registered_by: "arn:aws:iam::123456789012:root".to_owned(),
    }
}

pub(crate) fn run(count: usize) -> RunTasks {
    RunTasks {
        scope: scope(),
        cluster: cluster(),
        family: family(),
        revision: RevisionWanted::Latest,
        count,
        launch_type: LaunchType::Ec2,
        capacity_provider: None,
        group: None,
        started_by: Some("me".to_owned()),
        tags: Tags::new(),
        propagate_definition_tags: true,
        changes: NewTask::default(),
        token: None,
        network: None,
        deadline: None,
        face: "{}".to_owned(),
    }
}

pub(crate) async fn ready() -> Bench {
    let bench = bench_on(Arc::new(MemoryStore::new()));
    bench.control.create_cluster(&scope(), &cluster(), Tags::new(), String::new()).await.unwrap();
    bench.control.register_definition(&scope(), definition()).await.unwrap();
    bench
}

pub(crate) fn stopped(task: &Task) -> TaskStatus {
    let stop = Stop { code: StopCode::EssentialContainerExited, reason: "over".to_owned() };
    TaskStatus {
        version: task.status.version + 1,
        last: LastStatus::Stopped,
        stop: Some(stop),
        stopped_at: Some(Timestamp(1_500)),
        ..task.status.clone()
    }
}

#[tokio::test]
async fn a_task_is_accepted_reported_and_described() {
    let bench = ready().await;
    let accepted = bench.control.run_tasks(&run(2)).await.unwrap();
    assert_eq!((accepted.tasks.len(), accepted.refused.len()), (2, 0));
    assert_eq!(bench.node.0.lock().unwrap().len(), 2);
    let task = accepted.tasks[0].task.clone();
    assert_eq!(task.group, "family:f");
    assert_eq!(task.tags.get("from").map(String::as_str), Some("definition"));

    let mut status = TaskStatus { version: 3, last: LastStatus::Running, ..task.status.clone() };
    let report = |status: &TaskStatus| NodeReport { task: task.key(), status: status.clone() };
    bench.control.apply_report(&report(&status)).await.unwrap();
    let stale = TaskStatus { version: 2, last: LastStatus::Pending, ..status.clone() };
    bench.control.apply_report(&report(&stale)).await.unwrap();
    let described = bench.control.describe_task(&task.key()).await.unwrap();
    assert_eq!(described.task.status, status, "an older status does not replace a newer one");

    status = stopped(&described.task);
    bench.control.apply_report(&report(&status)).await.unwrap();
    let list = |stopped| {
        let filter = TaskFilter { stopped, ..TaskFilter::default() };
        let control = bench.control.clone();
        async move {
            let page = control.list_tasks(&scope(), &cluster(), &filter, None, 10).await.unwrap();
            page.tasks.into_iter().map(|task| task.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(list(true).await, vec![task.id.clone()]);
    assert_eq!(list(false).await, vec![accepted.tasks[1].task.id.clone()]);
}

#[tokio::test]
async fn a_token_returns_the_same_tasks_even_when_many_race() {
    let bench = ready().await;
    let request = RunTasks { token: Some(("t".to_owned(), "digest".to_owned())), ..run(1) };
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (control, request) = (bench.control.clone(), request.clone());
        racers.spawn(async move { control.run_tasks(&request).await.unwrap().tasks[0].task.id.clone() });
    }
    let ids = racers.join_all().await;
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(bench.node.0.lock().unwrap().len(), 1, "launched once");

    let other = RunTasks { token: Some(("t".to_owned(), "another".to_owned())), ..run(1) };
    let error = bench.control.run_tasks(&other).await.unwrap_err();
    assert!(matches!(error, RunError::TokenReused { tasks } if tasks == vec![ids[0].clone()]));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_room_comes_back() {
    let bench = ready().await;
    let accepted = bench.control.run_tasks(&run(9)).await.unwrap();
    assert_eq!((accepted.tasks.len(), accepted.refused), (8, vec![Refusal::Memory]));
    let task = &accepted.tasks[0].task;
    let report = NodeReport { task: task.key(), status: stopped(task) };
    bench.control.apply_report(&report).await.unwrap();
    bench.control.apply_report(&report).await.unwrap();
    let accepted = bench.control.run_tasks(&run(2)).await.unwrap();
    assert_eq!((accepted.tasks.len(), accepted.refused.len()), (1, 1));
}

#[tokio::test]
async fn a_full_disk_takes_ends_and_nothing_new() {
    let bench = ready().await;
    let accepted = bench.control.run_tasks(&run(3)).await.unwrap();
    let task = accepted.tasks[0].task.clone();
    for room in [DiskRoom::Low, DiskRoom::Full] {
        *bench.disk.0.lock().unwrap() = room;
        let accepted = bench.control.run_tasks(&run(2)).await.unwrap();
        assert_eq!((accepted.tasks.len(), accepted.refused), (0, vec![Refusal::Disk; 2]), "{room:?}");
    }
    let name = ClusterName::new("new").unwrap();
    let created = bench.control.create_cluster(&scope(), &name, Tags::new(), String::new()).await;
    assert!(matches!(created, Err(ClusterError::Store(_))), "{created:?}");
    let registered = bench.control.register_definition(&scope(), definition()).await;
    assert!(matches!(registered, Err(DefinitionError::Store(_))), "{registered:?}");
    let report = NodeReport { task: task.key(), status: stopped(&task) };
    bench.control.apply_report(&report).await.unwrap();
    bench.control.stop_task(&accepted.tasks[1].task.key(), "full").await.unwrap();
    bench.control.deregister_definition(&scope(), &family(), 1).await.unwrap();

    *bench.disk.0.lock().unwrap() = DiskRoom::Low;
    bench.control.create_cluster(&scope(), &name, Tags::new(), String::new()).await.unwrap();
    bench.control.register_definition(&scope(), definition()).await.unwrap();
    *bench.disk.0.lock().unwrap() = DiskRoom::Ample;
    assert_eq!(bench.control.run_tasks(&run(2)).await.unwrap().tasks.len(), 2);
}

#[tokio::test]
async fn refusals() {
    let bench = ready().await;
    let nowhere = RunTasks { cluster: ClusterName::new("x").unwrap(), ..run(1) };
    assert!(matches!(bench.control.run_tasks(&nowhere).await, Err(RunError::ClusterNotFound { .. })));
    let missing = RunTasks { revision: RevisionWanted::Exactly(7), ..run(1) };
    assert!(matches!(bench.control.run_tasks(&missing).await, Err(RunError::Definition(_))));
    bench.control.deregister_definition(&scope(), &family(), 1).await.unwrap();
    let inactive = RunTasks { revision: RevisionWanted::Exactly(1), ..run(1) };
    assert!(matches!(bench.control.run_tasks(&inactive).await, Err(RunError::DefinitionInactive { .. })));
    assert!(matches!(bench.control.run_tasks(&run(1)).await, Err(RunError::Definition(_))));
    let deleted = bench.control.delete_definition(&scope(), &family(), 1).await.unwrap();
    assert!(deleted.delete_requested_at.is_some());
    assert_eq!(bench.control.sweep(&RetentionConfig::default()).await.unwrap().definitions, 1);
    let again = bench.control.register_definition(&scope(), definition()).await.unwrap();
    assert_eq!(again.revision, 2, "a revision is never given twice");
}

#[tokio::test]
async fn a_cluster_may_have_workers_of_its_own() {
    let bench = bench_on(Arc::new(MemoryStore::new()));
    let run_in = async |name: &str, tags: Tags| {
        let cluster = ClusterName::new(name).unwrap();
        bench.control.create_cluster(&scope(), &cluster, tags, String::new()).await.unwrap();
        let accepted = bench.control.run_tasks(&RunTasks { cluster, ..run(1) }).await.unwrap();
        accepted.tasks[0].spec.own_workers
    };
    bench.control.register_definition(&scope(), definition()).await.unwrap();
    let tag = |value: &str| Tags::from([("neargate:isolation".to_owned(), value.to_owned())]);
    assert!(!run_in("plain", Tags::new()).await);
    assert!(run_in("apart", tag("own-workers")).await);
    assert!(!run_in("other", tag("no")).await);
}

#[tokio::test]
async fn the_node_is_told_which_images_will_come() {
    let bench = bench_on(Arc::new(MemoryStore::new()));
    bench.control.register_definition(&scope(), definition()).await.unwrap();
    assert_eq!(bench.node.1.lock().unwrap().as_slice(), ["image:latest"]);
}

#[tokio::test]
async fn a_cluster_with_tasks_stays() {
    let bench = ready().await;
    bench.control.run_tasks(&run(1)).await.unwrap();
    let refused = bench.control.delete_cluster(&scope(), &cluster()).await;
    assert!(matches!(refused, Err(ClusterError::HasTasks { tasks: 1, .. })));
}

#[tokio::test]
async fn a_stop_is_committed_and_told() {
    let bench = ready().await;
    let task = bench.control.run_tasks(&run(1)).await.unwrap().tasks.remove(0).task;
    let described = bench.control.stop_task(&task.key(), "enough").await.unwrap();
    assert!(!described.task.is_wanted());
    assert!(matches!(bench.node.0.lock().unwrap().last(), Some(NodeCommand::Stop { .. })));

    let again = bench_on(bench.store.clone());
    assert_eq!(again.control.recover().await.unwrap().tasks.len(), 1);
    let told = again.node.0.lock().unwrap();
    let expected = matches!(
        told.as_slice(),
        [NodeCommand::Network { .. }, NodeCommand::Assign { .. }, NodeCommand::Stop { .. }]
    );
    assert!(expected, "{told:?}");
}

#[tokio::test]
async fn waiting_sees_the_end() {
    let bench = ready().await;
    let task = bench.control.run_tasks(&run(1)).await.unwrap().tasks.remove(0).task;
    let waiting = {
        let (control, key) = (bench.control.clone(), task.key());
        tokio::spawn(async move {
            control.wait_task(&key, TaskWait::Stopped, Duration::from_secs(60)).await.unwrap()
        })
    };
    tokio::task::yield_now().await;
    let report = NodeReport { task: task.key(), status: stopped(&task) };
    bench.control.apply_report(&report).await.unwrap();
    assert_eq!(waiting.await.unwrap().task.status.last, LastStatus::Stopped);
}

#[tokio::test]
async fn waiting_outlasts_a_compacted_log() {
    let clock = Arc::new(ManualClock::default());
    let bench = bench_on(Arc::new(MemoryStore::with_clock(clock.clone())));
    bench.control.create_cluster(&scope(), &cluster(), Tags::new(), String::new()).await.unwrap();
    bench.control.register_definition(&scope(), definition()).await.unwrap();
    let task = bench.control.run_tasks(&run(1)).await.unwrap().tasks.remove(0).task;
    clock.advance(Duration::from_secs(3600));
    // Another change compacts the log past the task's.
    bench.control.register_definition(&scope(), definition()).await.unwrap();
    let (control, key) = (bench.control.clone(), task.key());
    let waiting =
        tokio::spawn(
            async move { control.wait_task(&key, TaskWait::Stopped, Duration::from_secs(60)).await },
        );
    tokio::task::yield_now().await;
    let report = NodeReport { task: task.key(), status: stopped(&task) };
    bench.control.apply_report(&report).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().task.status.last, LastStatus::Stopped);
}

#[tokio::test]
async fn the_past_is_forgotten_in_time() {
    let bench = ready().await;
    let request = RunTasks { token: Some(("t".to_owned(), "digest".to_owned())), ..run(1) };
    let task = bench.control.run_tasks(&request).await.unwrap().tasks.remove(0).task;
    let report = NodeReport { task: task.key(), status: stopped(&task) };
    bench.control.apply_report(&report).await.unwrap();
    let retention = RetentionConfig::default();
    assert_eq!(bench.control.sweep(&retention).await.unwrap(), Swept::default());
    *bench.clock.0.lock().unwrap() += 25 * 3_600_000;
    assert_eq!(
        bench.control.sweep(&retention).await.unwrap(),
        Swept { tasks: 1, tokens: 1, ..Swept::default() }
    );
    assert!(matches!(bench.control.describe_task(&task.key()).await, Err(TaskError::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_store_lose_and_double_nothing() {
    for seed in 0..20 {
        let bench = bench_on(Arc::new(Faulty::new(MemoryStore::new(), seed)));
        let control = &bench.control;
        let mut ok = control.create_cluster(&scope(), &cluster(), Tags::new(), String::new()).await.is_ok();
        while !ok {
            ok = control.create_cluster(&scope(), &cluster(), Tags::new(), String::new()).await.is_ok();
        }
        while control.register_definition(&scope(), definition()).await.is_err() {}
        let mut acked = Vec::new();
        for i in 0..6 {
            let token = Some((format!("t{i}"), "digest".to_owned()));
            let request = RunTasks { token, ..run(1) };
            let accepted = loop {
                if let Ok(accepted) = control.run_tasks(&request).await {
                    break accepted;
                }
            };
            acked.push(accepted.tasks[0].task.key());
        }
        let told = bench.node.0.lock().unwrap().len();
        assert!(told <= acked.len(), "seed {seed}: told {told} times of {} tasks", acked.len());
        for key in &acked {
            let described = loop {
                if let Ok(described) = control.describe_task(key).await {
                    break described;
                }
            };
            assert_eq!(described.task.key(), *key, "seed {seed}");
        }
    }
}
