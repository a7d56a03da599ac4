//! Which worker runs what.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use neargate_driver::{ExecSpec, Limits, ProcessNetwork, Signal};
use neargate_model::WasmIsolation;
use neargate_wasm::WasmDriver;
use neargate_wasm::protocol::{Network, ToWorker};

use crate::bench::{Bench, config, parts, task};
use crate::fake::Event;

/// In which workers the starts so far were.
fn workers(bench: &Bench) -> Vec<usize> {
    bench.host.starts().into_iter().map(|(worker, _)| worker).collect()
}

async fn spawned(bench: &Bench, count: usize) {
    let spawns = |events: &[Event]| events.iter().filter(|e| matches!(e, Event::Spawned { .. })).count();
    bench.host.until("a worker", |events| spawns(events) >= count).await;
}

#[tokio::test]
async fn the_least_loaded_worker_takes_a_run() {
    let bench = Bench::new();
    let first = bench.run(task("hold")).await;
    // The spare is started because the first one is busy.
    spawned(&bench, 2).await;
    let _second = bench.run(task("hold")).await;
    let _third = bench.run(task("hold")).await;
    let _fourth = bench.run(task("hold")).await;
    let mut used = workers(&bench);
    assert_eq!(used.iter().filter(|worker| **worker == 0).count(), 2, "{used:?}");
    first.signal(Signal::Kill).await.unwrap();
    first.wait().await;
    let freed = used[0];
    let _fifth = bench.run(task("hold")).await;
    used = workers(&bench);
    assert_eq!(used[4], freed, "{used:?}");
    assert_eq!(bench.host.workers(), 2);
}

#[tokio::test]
async fn of_equal_workers_the_one_with_the_image_is_taken() {
    let bench = Bench::new();
    let one = bench.run(task("hold").image("command one")).await;
    spawned(&bench, 2).await;
    let two = bench.run(task("hold").image("command two")).await;
    let of_one = workers(&bench)[0];
    for handle in [one, two] {
        handle.signal(Signal::Kill).await.unwrap();
        handle.wait().await;
    }
    for (image, expect) in [("command two", 1 - of_one), ("command one", of_one), ("command two", 1 - of_one)]
    {
        bench.run(task("exit 0").image(image)).await.wait().await;
        assert_eq!(*workers(&bench).last().unwrap(), expect, "{image}");
    }
}

#[tokio::test]
async fn runs_of_a_task_share_a_worker() {
    let bench = Bench::new();
    let first = task("hold");
    let _one = bench.run(first.clone()).await;
    spawned(&bench, 2).await;
    let _two = bench.run(task("hold").beside(&first)).await;
    let _three = bench.run(task("hold").beside(&first)).await;
    let used = workers(&bench);
    assert!(used.iter().all(|worker| *worker == used[0]), "{used:?}");
}

#[tokio::test]
async fn a_worker_that_was_warmed_up_is_taken() {
    let bench = Bench::with(|config| config.workers = 1);
    bench.driver.warm_up("a");
    spawned(&bench, 1).await;
    assert!(workers(&bench).is_empty(), "nothing runs yet");
    bench.run(task("exit 0")).await.wait().await;
    assert_eq!((workers(&bench), bench.host.workers()), (vec![0], 1));
}

#[tokio::test]
async fn tenants_and_networks_do_not_share_a_worker() {
    let bench = Bench::with(|config| config.workers = 1);
    let _a = bench.run(task("hold")).await;
    let _b = bench.run(task("hold").tenant("b")).await;
    let _net = bench.run(task("hold").options(|options| options.host_network = true)).await;
    let _own = bench.run(task("hold").networked()).await;
    assert_eq!(workers(&bench), [0, 1, 2, 3]);
    let networks: Vec<(String, ProcessNetwork)> = bench
        .host
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Spawned { name, network, .. } => Some((name, network)),
            _ => None,
        })
        .collect();
    // A lone worker is not pinned, so that its name has no core.
    let name = |tenant: &str| format!("wasm-{tenant}");
    let none = ProcessNetwork::None;
    let expected = [("a", none), ("b", none), ("a", ProcessNetwork::Host), ("a", ProcessNetwork::Handed)];
    assert_eq!(networks, expected.map(|(tenant, network)| (name(tenant), network)));
}

#[tokio::test]
async fn directories_take_a_worker_of_the_tasks_own() {
    let bench = Bench::new();
    let dir = |name: &str| {
        let path = bench.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (data, more) = (dir("data"), dir("more"));
    let mut first = task("hold");
    first.mounts = vec![(data.clone(), "/data", false), (more.clone(), "/more", true)];
    let one = bench.run(first.clone()).await;
    // Sees no directory, and so may be where some are.
    let two = bench.run(task("hold").beside(&first)).await;
    let mut third = task("hold").beside(&first);
    third.mounts = vec![(data.clone(), "/elsewhere", false)];
    let three = bench.run(third).await;
    // The same directory in another way is another directory.
    let mut fourth = task("hold").beside(&first);
    fourth.mounts = vec![(data.clone(), "/data", true)];
    let _four = bench.run(fourth).await;
    assert_eq!(workers(&bench), [0, 0, 0, 1]);
    let starts = bench.host.starts();
    let preopens = &starts[0].1.preopens;
    assert_eq!(
        preopens.iter().map(|p| (p.guest.as_str(), p.read_only)).collect::<Vec<_>>(),
        [("/data", false), ("/more", true)]
    );
    assert_eq!(starts[2].1.preopens[0].name, preopens[0].name);
    let Some(Event::Spawned { mounts, core, .. }) = bench.host.events().into_iter().next() else {
        panic!("no worker");
    };
    let mut expect = [data.display().to_string(), more.display().to_string()];
    expect.sort();
    let mut mounts = mounts;
    mounts.sort();
    assert_eq!((mounts, core), (expect.to_vec(), None));
    // It ends with its last run.
    for handle in [one, two, three] {
        handle.signal(Signal::Kill).await.unwrap();
    }
    bench.host.until("the end of the task's worker", |events| is_ended(events, 0)).await;
}

#[tokio::test]
async fn a_file_or_tmpfs_is_refused() {
    let bench = Bench::new();
    let file = bench.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let mut with_file = task("hold");
    with_file.mounts = vec![(file, "/f", false)];
    let text = bench.refuse(with_file).await;
    assert!(text.contains("mount its directory"), "{text}");
    assert_eq!(bench.host.workers(), 0);
}

fn is_ended(events: &[Event], number: usize) -> bool {
    events.iter().any(|event| matches!(event, Event::Ended { worker } if *worker == number))
}

#[tokio::test]
async fn an_idle_worker_goes() {
    let bench = Bench::with(|config| {
        config.workers = 1;
        config.worker_idle = Duration::from_millis(30);
    });
    bench.run(task("exit 0")).await.wait().await;
    bench.host.until("the end of the idle worker", |events| is_ended(events, 0)).await;
    let exit = bench.run(task("exit 5")).await.wait().await;
    assert_eq!(exit.code, Some(5));
    assert_eq!(workers(&bench), [0, 1]);
}

#[tokio::test]
async fn a_busy_worker_stays() {
    let bench = Bench::with(|config| {
        config.workers = 1;
        config.worker_idle = Duration::from_millis(5);
    });
    let held = bench.run(task("hold")).await;
    let other = bench.run(task("hold").tenant("b")).await;
    other.signal(Signal::Kill).await.unwrap();
    other.wait().await;
    // By the time that this one is gone the first was looked at several times.
    bench.host.until("the end of the idle worker", |events| is_ended(events, 1)).await;
    bench.run(task("exit 0").tenant("c")).await.wait().await;
    bench.host.until("the end of another", |events| is_ended(events, 2)).await;
    assert!(!is_ended(&bench.host.events(), 0));
    assert_eq!(held.stats().await.unwrap().pids, 1);
}

#[tokio::test]
async fn places_are_bounded() {
    let bench = Bench::with(|config| {
        config.workers = 2;
        config.runs_max = 2;
    });
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(bench.run(task("hold")).await);
    }
    let text = bench.refuse(task("hold")).await;
    assert!(text.contains("all 4 places for Wasm containers are taken"), "{text}");
    held[0].signal(Signal::Kill).await.unwrap();
    held[0].wait().await;
    bench.run(task("hold")).await;
}

#[tokio::test]
async fn http_runs_on_every_core_unless_its_limits_are_small() {
    let bench = Bench::new();
    let started = |count: usize| {
        move |events: &[Event]| {
            events.iter().filter(|event| matches!(event, Event::Started { .. })).count() >= count
        }
    };
    let wide = bench.run(task("hold").http()).await;
    bench.host.until("both parts", started(2)).await;
    let mut used = workers(&bench);
    used.sort_unstable();
    assert_eq!(used, [0, 1]);
    let narrow = |limits: Limits| {
        let mut narrow = task("hold").http();
        narrow.task_limits = limits;
        narrow
    };
    let cpu = bench.run(narrow(Limits { cpu_millis: Some(500), ..Limits::default() })).await;
    let memory = bench.run(narrow(Limits { memory_bytes: Some(200 << 20), ..Limits::default() })).await;
    assert_eq!(bench.host.starts().len(), 4);
    let large = Limits { cpu_millis: Some(1500), memory_bytes: Some(512 << 20), ..Limits::default() };
    let divided = bench.run(narrow(large)).await;
    bench.host.until("both parts of the last", started(6)).await;
    for (_, plan) in &bench.host.starts()[4..] {
        assert_eq!(plan.task_limits.cpu_millis, Some(750));
        assert_eq!(plan.task_limits.memory_bytes, Some(256 << 20));
        assert_eq!(plan.listeners, 1);
    }
    drop((wide, cpu, memory, divided));
}

#[tokio::test]
async fn a_plan_says_what_the_container_gets() {
    let bench = Bench::new();
    let mut whole = task("exit 0 x").options(|options| {
        options.grants = vec!["wasi:config".to_owned()];
        options.config = vec![("colour".to_owned(), "blue".to_owned())];
        options.cpu_budget_ms = Some(20);
        options.profile = true;
    });
    whole.limits = Limits { cpu_millis: Some(100), memory_bytes: Some(1 << 20), ..Limits::default() };
    whole.artifacts = Some(bench.dir.path().to_owned());
    bench.run(whole).await.wait().await;
    let (_, plan) = bench.host.starts().remove(0);
    assert_eq!(plan.argv, ["program", "exit", "0", "x"]);
    // All of them, in order: that the later one wins is the worker's to see to.
    let pairs = [("A", "1"), ("B", "2"), ("A", "3")];
    assert_eq!(plan.env, pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(plan.limits.cpu_budget_ns, Some(20_000_000));
    assert_eq!((plan.limits.cpu_millis, plan.limits.memory_bytes), (Some(100), Some(1 << 20)));
    assert_eq!(plan.config, [("colour".to_owned(), "blue".to_owned())]);
    assert!(plan.profile && plan.core_dump && !plan.own_thread);
    assert_eq!(plan.network, Network::None {});
    let bytes = neargate_ipc::wire::encode(&ToWorker::Start { run: 1, plan: plan.clone() });
    assert_eq!(neargate_ipc::wire::decode(&bytes), Ok(ToWorker::Start { run: 1, plan }));
}

#[tokio::test]
async fn a_guest_on_the_hosts_network_is_kept_from_the_server() {
    let control: Vec<SocketAddr> = vec!["127.0.0.1:7878".parse().unwrap(), "[::1]:7878".parse().unwrap()];
    let bench = Bench::with(|config| config.control.clone_from(&control));
    bench.run(task("exit 0").options(|options| options.host_network = true)).await.wait().await;
    bench.run(task("exit 0")).await.wait().await;
    let networks: Vec<Network> = bench.host.starts().into_iter().map(|(_, plan)| plan.network).collect();
    assert_eq!(networks, [Network::Host { control }, Network::None {}]);
}

#[tokio::test]
async fn a_container_of_the_process_class_is_alone_in_its_tasks_sandbox() {
    let bench = Bench::new();
    let alone = || task("hold").options(|options| options.isolation = WasmIsolation::Process);
    let first = alone();
    let handle = bench.run(first.clone()).await;
    let _beside = bench.run(task("hold").beside(&first)).await;
    let _second = bench.run(alone().beside(&first)).await;
    let used = workers(&bench);
    assert!(used[0] != used[1] && used[0] != used[2] && used[1] != used[2], "{used:?}");
    let sandboxes: Vec<Option<String>> = bench
        .host
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Spawned { sandbox, .. } => Some(sandbox),
            _ => None,
        })
        .collect();
    let of_task = sandboxes.iter().flatten().filter(|task| **task == first.id.to_string()).count();
    assert_eq!((of_task, sandboxes[used[1]].is_none()), (2, true));
    // A check is run where the container is.
    let spec = ExecSpec {
        argv: vec!["program".to_owned(), "exit".to_owned(), "0".to_owned()],
        env: Vec::new(),
        timeout: Duration::from_secs(20),
        stdio: None,
    };
    assert_eq!(handle.exec(spec).await.unwrap().code, Some(0));
    assert_eq!(workers(&bench)[3], used[0]);
    handle.signal(Signal::Kill).await.unwrap();
    bench.host.until("the end of its worker", |events| is_ended(events, used[0])).await;
}

#[tokio::test]
async fn a_thread_of_its_own_joins_the_sandbox_for_as_long_as_it_runs() {
    let bench = Bench::new();
    let handle = bench.run(task("hold").options(|options| options.isolation = WasmIsolation::Thread)).await;
    let (_, plan) = bench.host.starts().remove(0);
    assert!(plan.own_thread && plan.cgroups == 1, "{plan:?}");
    let is_given_back = |events: &[Event]| events.iter().any(|event| matches!(event, Event::SlotGivenBack));
    assert!(!is_given_back(&bench.host.events()));
    handle.signal(Signal::Kill).await.unwrap();
    handle.wait().await;
    bench.host.until("the slot", is_given_back).await;
}

#[tokio::test]
async fn a_thread_that_cannot_be_limited_is_refused() {
    let bench = Bench::new();
    bench.host.undivided.store(true, Ordering::SeqCst);
    let text = bench.refuse(task("hold").options(|options| options.isolation = WasmIsolation::Thread)).await;
    assert_eq!(text, "the isolation class `thread` is not supported: as on v2");
    assert!(bench.host.starts().is_empty());
}

#[tokio::test]
async fn without_sandboxes_there_is_no_process_class() {
    let mut bench = Bench::new();
    let mut parts = parts(&bench.host, &bench.keys);
    parts.sandbox_processes = None;
    bench.driver = WasmDriver::new(config(bench.dir.path()), parts).unwrap();
    let text = bench.refuse(task("hold").options(|o| o.isolation = WasmIsolation::Process)).await;
    assert!(text.contains("the isolation class `process` is not supported"), "{text}");
    bench.run(task("hold").options(|o| o.isolation = WasmIsolation::Thread)).await;
    let (_, plan) = bench.host.starts().remove(0);
    assert!(plan.own_thread && plan.cgroups == 0, "{plan:?}");
}
