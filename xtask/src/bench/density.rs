//! Memory of idle Wasm tasks.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use neargate_tests::{Server, ServerOptions, fixtures};
use serde_json::json;

use super::{CLUSTER, TASK_LIMIT};
use crate::statistics::Figures;

const TASKS: [usize; 2] = [1_000, 10_000];
/// What RunTask starts at most at a time.
const BATCH: usize = 10;

pub(super) fn density() -> Result<Figures> {
    let probe = fixtures::probe("wasm32-wasip2").context("build the probe as a component")?;
    let columns = vec!["workers KiB/task", "tables KiB/task", "server KiB/task", "starts/s"];
    let mut figures = Figures { columns, rows: Vec::new() };
    for tasks in TASKS {
        let server = server()?;
        server.import(&probe, "probe")?;
        let mut client = server.client();
        client.ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
        let container = json!({
            "name": "main", "image": "probe", "essential": true, "memory": 6, "command": ["sleep", "3600000"],
        });
        client
            .ecs("RegisterTaskDefinition", &json!({"family": "idle", "containerDefinitions": [container]}))?;
        // The first tasks start the workers and map the code.
        start(&server, 2 * BATCH)?;
        let before = Memory::of(&server)?;
        let started = Instant::now();
        start(&server, tasks)?;
        let seconds = started.elapsed().as_secs_f64();
        let after = Memory::of(&server)?;
        let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / tasks as f64;
        figures.rows.push((
            format!("{tasks} idle tasks of a p2 component"),
            vec![
                each(after.workers, before.workers),
                each(after.tables, before.tables),
                each(after.server, before.server),
                tasks as f64 / seconds,
            ],
        ));
    }
    Ok(figures)
}

/// A server whose workers have places for all.
fn server() -> Result<Server> {
    let arguments = ["--wasm-instances", "6000", "--memory-overcommit", "10"];
    ServerOptions { arguments: arguments.map(str::to_owned).to_vec(), ..ServerOptions::default() }.start()
}

/// Starts so many tasks more and waits until they run.
fn start(server: &Server, tasks: usize) -> Result<()> {
    let mut client = server.client();
    let request = json!({"cluster": CLUSTER, "taskDefinition": "idle", "count": BATCH});
    let mut last = String::new();
    for _ in 0..tasks / BATCH {
        let accepted = client.ecs("RunTask", &request)?;
        let arn = accepted["tasks"][BATCH - 1]["taskArn"].as_str();
        last = arn.with_context(|| format!("run {BATCH} tasks: {accepted}"))?.to_owned();
    }
    let describe = json!({"cluster": CLUSTER, "clusters": [CLUSTER], "tasks": [last]});
    let started = Instant::now();
    while started.elapsed() < TASK_LIMIT {
        let task = client.ecs("DescribeTasks", &describe)?["tasks"][0]["lastStatus"].take();
        let pending = client.ecs("DescribeClusters", &json!({"clusters": [CLUSTER]}))?;
        if task == "RUNNING" && pending["clusters"][0]["pendingTasksCount"] == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{tasks} tasks did not run within {TASK_LIMIT:?}")
}

/// KiB of memory, shared pages by their part.
struct Memory {
    workers: u64,
    tables: u64,
    server: u64,
}

impl Memory {
    fn of(server: &Server) -> Result<Self> {
        let mut memory =
            Self { workers: 0, tables: 0, server: figure(server.pid(), "smaps_rollup", "Pss:")? };
        for pid in descendants(server.pid())? {
            memory.workers += figure(pid, "smaps_rollup", "Pss:")?;
            memory.tables += figure(pid, "status", "VmPTE:")?;
        }
        Ok(memory)
    }
}

fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("list processes")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may have ended since.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        parents.push((pid, parent.unwrap_or(0)));
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    Ok(found.split_off(1))
}

/// A line of a file of a process; 0 where it has none.
pub(super) fn figure(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find(|line| line.starts_with(name));
    // A kernel thread or a dead process has no such line.
    Ok(line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0))
}
