//! A small task beside busy ones of the same tenant: they share its worker processes.

use anyhow::{Context as _, Result, ensure};
use neargate_tests::{Client, Server, eventually, fixtures};
use serde_json::{Value, json};

use super::http::{Load, component, load, start_task};
use super::{CLUSTER, See, TASK_LIMIT, WARM_UP, Worker, prepare, through_api};
use crate::statistics::{Figures, Row, median};

/// Tasks of each round; with [`ROUNDS`], the 99th percentile is the twentieth worst of two thousand.
const SAMPLES: usize = 400;
/// Alone and beside busy loops alternate this often, so that drift of the machine meets both.
const ROUNDS: usize = 5;
/// How long HTTP requests are sent in each round.
const SECONDS: u32 = 2;

/// What was seen in one of the two situations, over all rounds.
#[derive(Default)]
struct Seen {
    tasks_ms: Vec<f64>,
    calls: Vec<Load>,
}

pub(super) fn neighbour() -> Result<Figures> {
    let server = Server::start()?;
    server.import(&fixtures::probe("wasm32-wasip2").context("build the probe as a component")?, "probe")?;
    server.import(&component()?, "handler")?;
    prepare(&server, "small", "probe", &["echo", "hello"])?;
    let url = start_task(&server, "handler", "handler", &json!({}))?;
    let spin =
        json!({"name": "main", "image": "probe", "essential": true, "memory": 16, "command": ["spin"]});
    let mut client = server.client();
    client.ecs("RegisterTaskDefinition", &json!({"family": "spin", "containerDefinitions": [spin]}))?;
    small_tasks(&server, WARM_UP)?;
    let (mut alone, mut beside) = (Seen::default(), Seen::default());
    for _ in 0..ROUNDS {
        look(&server, &url, &mut alone)?;
        let loops = start_loops(&mut client)?;
        look(&server, &url, &mut beside)?;
        stop_loops(&mut client, &loops)?;
    }
    let of = |what: fn(&Load) -> f64, seen: &Seen| median(seen.calls.iter().map(what).collect());
    let (alone_task, alone_call) =
        (Row::new("", 1, alone.tasks_ms.clone()).quantile(0.99), of(|call| call.p99_us, &alone));
    let columns = vec!["p50 ms", "p99 ms", "p99 ratio"];
    let mut figures = Figures { columns, rows: Vec::new() };
    for (name, seen) in [("alone", alone), ("beside one busy loop per core", beside)] {
        let (p50, p99) = (of(|call| call.p50_us, &seen), of(|call| call.p99_us, &seen));
        let tasks = Row::new("", 1, seen.tasks_ms);
        let (task_p50, task_p99) = (tasks.quantile(0.5), tasks.quantile(0.99));
        figures.rows.push((
            format!("task over the API, submit to exit seen, {name}"),
            vec![task_p50, task_p99, task_p99 / alone_task],
        ));
        figures.rows.push((
            format!("HTTP request, fresh instance, {name}"),
            vec![p50 / 1e3, p99 / 1e3, p99 / alone_call],
        ));
    }
    Ok(figures)
}

fn look(server: &Server, url: &str, seen: &mut Seen) -> Result<()> {
    seen.tasks_ms.extend(small_tasks(server, SAMPLES)?);
    seen.calls.push(load(url, 1, SECONDS)?);
    Ok(())
}

/// Starts one busy loop for each core, and returns the tasks once they run.
fn start_loops(client: &mut Client) -> Result<Vec<Value>> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let request = json!({"cluster": CLUSTER, "taskDefinition": "spin", "count": cores});
    let accepted = client.ecs("RunTask", &request)?;
    let tasks = accepted["tasks"].as_array().with_context(|| format!("run busy loops: {accepted}"))?;
    let arns: Vec<Value> = tasks.iter().map(|task| task["taskArn"].clone()).collect();
    ensure!(arns.len() == cores, "not every busy loop was accepted: {accepted}");
    await_status(client, &arns, "RUNNING")?;
    Ok(arns)
}

fn stop_loops(client: &mut Client, arns: &[Value]) -> Result<()> {
    for arn in arns {
        client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
    }
    await_status(client, arns, "STOPPED")
}

fn await_status(client: &mut Client, arns: &[Value], status: &str) -> Result<()> {
    let mut is_reached = || -> Result<bool> {
        let described = client.ecs("DescribeTasks", &json!({"cluster": CLUSTER, "tasks": arns}))?;
        let tasks = described["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(tasks.len() == arns.len() && tasks.iter().all(|task| task["lastStatus"] == status))
    };
    let reached = eventually(TASK_LIMIT, || is_reached().map(|reached| reached.then_some(())).transpose());
    reached.with_context(|| format!("busy loops were not {status} within {TASK_LIMIT:?}"))?
}

/// Runs small tasks one after the other; milliseconds from submit to exit seen.
fn small_tasks(server: &Server, count: usize) -> Result<Vec<f64>> {
    let mut worker = Worker::new(Some(server), 1);
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        samples.extend(through_api(&mut worker, "small", See::ByAsking)?.pop());
    }
    Ok(samples)
}
