//! Measures how long a container takes to start and to end, and how many start per second.
//!
//! ```text
//! start_rate ROOTFS SCRATCH [COUNT]
//! ```
//!
//! ROOTFS has a `/bin/true`; SCRATCH is a directory for what the containers write, best on a tmpfs. Needs root.
//! "container" is one in a sandbox that exists; "task" also makes and releases the sandbox, which has a
//! network namespace, a range of user ids and limits.

#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use neargate_container::{Supervisor, SupervisorClient, SupervisorConfig};
use neargate_driver::{
    ContainerNames, ContainerSpec, Driver, Limits, Rootfs, Sandbox, SandboxHost, SandboxSpec, Stdio,
};
use neargate_model::{ContainerId, ContainerName, TaskId};

struct Bench {
    client: SupervisorClient,
    rootfs: PathBuf,
    scratch: PathBuf,
    next: AtomicU64,
}

/// What one run took, from its beginning: sandbox ready, program running, end seen, all released.
#[derive(Clone, Copy, Default)]
struct Times {
    started: Duration,
    ended: Duration,
    whole: Duration,
}

fn main() {
    if let Some(role) = neargate_container::role_from_args() {
        role.run();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rootfs, scratch, rest @ ..] = &arguments[..] else {
        eprintln!("usage: start_rate ROOTFS SCRATCH [COUNT]");
        std::process::exit(2);
    };
    let count = rest.first().map_or(500, |count| count.parse().unwrap());
    let client = Supervisor::spawn(&SupervisorConfig::for_data_dir(Path::new(scratch))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bench = Bench { client, rootfs: rootfs.into(), scratch: scratch.into(), next: AtomicU64::new(1) };
    runtime.block_on(measure(Arc::new(bench), count));
}

async fn measure(bench: Arc<Bench>, count: usize) {
    println!("{:<10} {:>3} {:>22} {:>22} {:>8}", "", "K", "start to exec, ms", "start to exit, ms", "per s");
    println!("{:<10} {:>3} {:>10} {:>11} {:>10} {:>11}", "", "", "median", "p99", "median", "p99");
    for whole_task in [false, true] {
        for concurrent in [1, 8] {
            run(&bench, 20, concurrent, whole_task).await;
            let begun = Instant::now();
            let times = run(&bench, count, concurrent, whole_task).await;
            let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
            let name = if whole_task { "task" } else { "container" };
            let end = |times: &Times| if whole_task { times.whole } else { times.ended };
            let [a, b] = quantiles(&times, |times| times.started);
            let [c, d] = quantiles(&times, end);
            println!("{name:<10} {concurrent:>3} {a:>10.2} {b:>11.2} {c:>10.2} {d:>11.2} {rate:>8.0}");
        }
    }
    bench.client.shut_down().await;
}

fn quantiles(times: &[Times], pick: impl Fn(&Times) -> Duration) -> [f64; 2] {
    let mut sorted: Vec<f64> = times.iter().map(|times| pick(times).as_secs_f64() * 1e3).collect();
    sorted.sort_by(f64::total_cmp);
    [sorted[sorted.len() / 2], sorted[sorted.len() * 99 / 100]]
}

async fn run(bench: &Arc<Bench>, count: usize, concurrent: usize, whole_task: bool) -> Vec<Times> {
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..concurrent {
        let bench = Arc::clone(bench);
        workers.spawn(async move {
            let shared = bench.sandbox().await;
            let mut times = Vec::new();
            for _ in 0..count / concurrent {
                times.push(if whole_task { bench.task().await } else { bench.container(&shared).await });
            }
            bench.client.release(&shared.task).await.unwrap();
            times
        });
    }
    workers.join_all().await.into_iter().flatten().collect()
}

impl Bench {
    async fn sandbox(&self) -> Sandbox {
        let task = TaskId::new(format!("{:032x}", self.next.fetch_add(1, Ordering::Relaxed))).unwrap();
        let limits = Limits {
            cpu_millis: Some(1000),
            memory_bytes: Some(256 << 20),
            pids_max: Some(1000),
            ..Limits::default()
        };
        let spec = SandboxSpec {
            task,
            hostname: "bench".to_owned(),
            limits,
            linux: true,
            network: Default::default(),
            sharing: Default::default(),
        };
        SandboxHost::prepare(&self.client, &spec).await.unwrap()
    }

    async fn task(&self) -> Times {
        let begun = Instant::now();
        let sandbox = self.sandbox().await;
        let prepared = begun.elapsed();
        let times = self.container(&sandbox).await;
        self.client.release(&sandbox.task).await.unwrap();
        Times { started: prepared + times.started, ended: prepared + times.ended, whole: begun.elapsed() }
    }

    async fn container(&self, sandbox: &Sandbox) -> Times {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let scratch = self.scratch.join(number.to_string());
        std::fs::create_dir(&scratch).unwrap();
        let null =
            || OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/null").unwrap());
        let spec = ContainerSpec {
            id: ContainerId::new(format!("00000000-0000-0000-0000-{number:012x}")).unwrap(),
            task: sandbox.task.clone(),
            name: ContainerName::new("main").unwrap(),
            rootfs: Rootfs::Layers(vec![self.rootfs.clone()]),
            argv: vec!["/bin/true".to_owned()],
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            working_dir: "/".into(),
            user: None,
            limits: Limits::default(),
            ulimits: vec![],
            read_only_root: false,
            mounts: vec![],
            shm_bytes: None,
            capabilities_add: vec![],
            capabilities_drop: vec![],
            privileges: Default::default(),
            init: false,
            stdio: Stdio { stdin: null(), stdout: null(), stderr: null(), readers: None },
            scratch: scratch.clone(),
            names: ContainerNames::default(),
            wasm: None,
        };
        let begun = Instant::now();
        let handle = self.client.start(spec, sandbox).await.unwrap();
        let started = begun.elapsed();
        assert_eq!(handle.wait().await.code, Some(0));
        let ended = begun.elapsed();
        std::fs::remove_dir_all(scratch).unwrap();
        Times { started, ended, whole: ended }
    }
}
