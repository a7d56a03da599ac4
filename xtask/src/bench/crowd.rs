//! Many containers: what one that does nothing takes besides its own memory, and what starts cost beside a thousand.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::{Client, Server, ServerOptions, fixtures, is_root};
use serde_json::json;

use super::density::figure;
use super::{CLUSTER, See, Worker, prepare, through_api};
use crate::statistics::{Figures, Row};

/// Idle containers over which their memory is averaged.
const IDLE: usize = 200;
/// Containers that run while further ones start.
pub(super) const CROWD: usize = 1_000;
/// The start that is compared with the first.
const LAST_START: usize = 2_000;
/// Starts that count as the first, and as the last.
const SAMPLES: usize = 50;
/// How long a crowd may take to start or to end.
const CROWD_LIMIT: Duration = Duration::from_secs(300);
/// What RunTask starts at most at a time.
const BATCH: usize = 10;

/// Memory of Neargate's processes for each idle container.
pub(super) fn idle() -> Result<Figures> {
    let (server, mut client) = server()?;
    // The first containers fill caches and pools.
    run_idle(&mut client, BATCH)?;
    let before = Memory::of(&server)?;
    run_idle(&mut client, IDLE)?;
    let after = Memory::of(&server)?;
    stop_all(&mut client)?;
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / IDLE as f64;
    let values = vec![
        each(after.supervisor, before.supervisor) + each(after.server, before.server),
        each(after.supervisor, before.supervisor),
        each(after.server, before.server),
        each(after.containers, before.containers),
    ];
    let columns = vec!["beside KiB", "supervisor KiB", "server KiB", "container KiB"];
    let name = format!("PSS for each of {IDLE} idle containers");
    Ok(Figures { columns, rows: vec![(name, values)] })
}

/// Start number one beside start number two thousand, with a thousand containers running.
pub(super) fn many() -> Result<Figures> {
    let (server, mut client) = server()?;
    prepare(&server, "true", "busybox", &["true"])?;
    let mut worker = Worker::new(Some(&server), 1);
    let mut starts = |count: usize| -> Result<[Row; 2]> {
        let mut samples = [Vec::new(), Vec::new()];
        for _ in 0..count {
            let seen = through_api(&mut worker, "true", See::ByAsking)?;
            samples.iter_mut().zip(seen).for_each(|(samples, value)| samples.push(value));
        }
        Ok(samples.map(|samples| Row::new("", 1, samples)))
    };
    // What is made once, at the first start, is no cost of a start.
    starts(super::WARM_UP)?;
    let first = starts(SAMPLES)?;
    run_idle(&mut client, CROWD)?;
    starts(LAST_START - CROWD - 2 * SAMPLES)?;
    let last = starts(SAMPLES)?;
    stop_all(&mut client)?;
    let row = |name: &str, [exec, exit]: &[Row; 2]| {
        (
            name.to_owned(),
            vec![exec.quantile(0.5), exec.quantile(0.99), exit.quantile(0.5), exit.quantile(0.99)],
        )
    };
    let ratio = |at: usize, share: f64| last[at].quantile(share) / first[at].quantile(share);
    let ratios = vec![ratio(0, 0.5), ratio(0, 0.99), ratio(1, 0.5), ratio(1, 0.99)];
    let rows = vec![
        row(&format!("starts 1 to {SAMPLES}"), &first),
        row(&format!("the last {SAMPLES} of {LAST_START} starts, {CROWD} containers running"), &last),
        ("the last to the first".to_owned(), ratios),
    ];
    Ok(Figures { columns: vec!["exec p50 ms", "exec p99 ms", "exit p50 ms", "exit p99 ms"], rows })
}

/// Options of a server that promises its memory to a crowd.
pub(super) fn options() -> ServerOptions {
    let arguments = ["--memory-overcommit", "100"].map(str::to_owned).to_vec();
    ServerOptions { arguments, ..ServerOptions::default() }
}

fn server() -> Result<(Server, Client)> {
    ensure!(is_root(), "containers can be measured as root only");
    furnish(options().start()?)
}

/// Gives a new server a cluster, an image and the definition of idle containers.
pub(super) fn furnish(server: Server) -> Result<(Server, Client)> {
    server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
    let container = json!({
        "name": "main", "image": "busybox", "essential": true, "memory": 16, "command": ["sleep", "100000"],
        // The first process of a container ignores SIGTERM unless it handles it.
        "stopTimeout": 2,
    });
    client.ecs("RegisterTaskDefinition", &json!({"family": "idle", "containerDefinitions": [container]}))?;
    Ok((server, client))
}

/// Starts so many idle containers more and waits until they run.
pub(super) fn run_idle(client: &mut Client, count: usize) -> Result<()> {
    let wanted = running(client)? + count as u64;
    for _ in 0..count / BATCH {
        let request = json!({"cluster": CLUSTER, "taskDefinition": "idle", "count": BATCH});
        let accepted = client.ecs("RunTask", &request)?;
        ensure!(accepted["tasks"].as_array().map(Vec::len) == Some(BATCH), "run {BATCH} tasks: {accepted}");
    }
    await_running(client, |running| running >= wanted)
}

/// Stops every task, because a server that is asked to end waits for only so long.
pub(super) fn stop_all(client: &mut Client) -> Result<()> {
    loop {
        let listed = client.ecs("ListTasks", &json!({"cluster": CLUSTER, "desiredStatus": "RUNNING"}))?;
        let tasks = listed["taskArns"].as_array().context("list tasks")?;
        if tasks.is_empty() {
            return await_running(client, |running| running == 0);
        }
        for task in tasks {
            client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": task}))?;
        }
    }
}

fn running(client: &mut Client) -> Result<u64> {
    let described = client.ecs("DescribeClusters", &json!({"clusters": [CLUSTER]}))?;
    described["clusters"][0]["runningTasksCount"].as_u64().context("count running tasks")
}

fn await_running(client: &mut Client, is_so: impl Fn(u64) -> bool) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < CROWD_LIMIT {
        if is_so(running(client)?) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("the containers did not all start or end within {CROWD_LIMIT:?}")
}

/// KiB of memory, shared pages by their part.
#[derive(Default)]
struct Memory {
    server: u64,
    supervisor: u64,
    containers: u64,
}

impl Memory {
    fn of(server: &Server) -> Result<Self> {
        let mut memory = Self { server: figure(server.pid(), "smaps_rollup", "Pss:")?, ..Self::default() };
        for entry in fs::read_dir("/proc").context("list processes")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            // A process may have ended since.
            let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
            let place = match name.trim() {
                "ng-supervisor" | "ng-cells" | "ng-steward" => &mut memory.supervisor,
                "busybox" | "sleep" => &mut memory.containers,
                _ => continue,
            };
            *place += figure(pid, "smaps_rollup", "Pss:").unwrap_or(0);
        }
        Ok(memory)
    }
}
