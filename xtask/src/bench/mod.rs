//! `cargo xtask bench`: Neargate beside its peers, in turn on one machine in one run, because only ratios travel.

mod adopt;
mod container;
mod crowd;
mod density;
mod floor;
mod http;
mod neighbour;
mod network;
mod pull;
mod wasm_run;

use std::collections::btree_map::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::{Client, Server, target_directory};
use serde_json::{Value, json};

use crate::setup;
use crate::shell::{cargo, command, is_installed, run};
use crate::statistics::{Figures, Row, table};

/// The rows, in the order in which they are measured.
const ROWS: [(&str, Measure); 12] = [
    ("container-start", Measure::Times(container::container_start)),
    ("container-idle", Measure::Figures(crowd::idle)),
    ("container-many", Measure::Figures(crowd::many)),
    ("container-adopt", Measure::Figures(adopt::adopt)),
    ("image-pull", Measure::Figures(pull::pull)),
    ("network-traffic", Measure::Figures(network::traffic)),
    ("network-changes", Measure::Figures(network::changes)),
    ("wasm-run", Measure::Times(wasm_run::wasm_run)),
    ("wasm-first-start", Measure::Times(wasm_run::first_start)),
    ("wasm-http", Measure::Figures(http::http)),
    ("wasm-density", Measure::Figures(density::density)),
    ("wasm-neighbour", Measure::Figures(neighbour::neighbour)),
];
const CONCURRENCY: [usize; 4] = [1, 2, 8, 32];
/// Runs that warm caches and are not counted.
const WARM_UP: usize = 5;
/// Counted runs of each way at each concurrency; the 99th percentile is then the worst but one of a hundred.
const SAMPLES: usize = 200;
/// Pause between two questions to the API, of all workers together. Without one, asking and answering would keep the
/// cores busy that start what is asked for.
const POLL: Duration = Duration::from_micros(300);
/// A task that has not stopped by then never will.
const TASK_LIMIT: Duration = Duration::from_secs(60);
const CLUSTER: &str = "bench";
/// The peer for Wasm, built from its crate: Debian has no package of it.
const WASMTIME: [&str; 4] = ["wasmtime-cli", "--version", "~48.0", "--locked"];
const WASMTIME_FEATURES: &str = "run,serve,compile,cranelift,component-model,component-model-async,wasi-http,\
                                 pooling-allocator,parallel-compilation,cache,gc,gc-drc,threads,backtrace,logging";

/// How a row is measured.
#[derive(Clone, Copy)]
enum Measure {
    Times(fn() -> Result<Vec<Row>>),
    Figures(fn() -> Result<Figures>),
}

/// Runs the rows that are named, or all, and writes them as JSON if a file is given. With `--peers`, builds
/// wasmtime first, which takes as long as building Neargate.
pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    let (names, file) = match arguments {
        [names @ .., "--json", file] => (names, Some(*file)),
        names => (names, None),
    };
    let names: Vec<&str> = names.iter().copied().filter(|name| *name != "--peers").collect();
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|(row, _)| row != *name)) {
        bail!("there is no row {unknown}; the rows are {}", ROWS.map(|(row, _)| row).join(", "));
    }
    setup::setup()?;
    if let Some(mut build) = setup::build_command() {
        run(&mut build)?;
    }
    if arguments.contains(&"--peers") {
        let root = target_directory().join("peers");
        let mut install = cargo(&["install"]);
        install.args(WASMTIME).args(["--no-default-features", "--features", WASMTIME_FEATURES]);
        run(install.arg("--root").arg(&root).arg("--target-dir").arg(root.join("build")))?;
    }
    let mut results = serde_json::Map::new();
    for (name, measure) in ROWS.into_iter().filter(|(name, _)| names.is_empty() || names.contains(name)) {
        let (text, json) = match measure {
            Measure::Times(measure) => {
                let rows = measure().with_context(|| name.to_owned())?;
                (table(&rows), rows.iter().map(Row::to_json).collect())
            }
            Measure::Figures(measure) => {
                let figures = measure().with_context(|| name.to_owned())?;
                (figures.table(), figures.to_json())
            }
        };
        println!("{name}\n{text}");
        results.insert(name.to_owned(), json);
    }
    let Some(file) = file else { return Ok(()) };
    fs::write(file, Value::from(results).to_string()).with_context(|| format!("write {file}"))
}

/// Where wasmtime is: built by `--peers`, or on the PATH.
fn wasmtime() -> Option<PathBuf> {
    let built = target_directory().join("peers/bin/wasmtime");
    match built.exists() {
        true => Some(built),
        false => is_present("wasmtime").then(|| "wasmtime".into()),
    }
}

/// A program of the worker's crate that does the same work without Neargate; built like the binary.
fn floor() -> Result<PathBuf> {
    // With the program, whose features of dependencies are others: they would all be built once more.
    let packages = ["-p", "neargate", "-p", "neargate-wasm-worker"];
    run(cargo(&["build", "--release", "--locked"]).args(packages).args(["--example", "floor"]))?;
    Ok(target_directory().join("release/examples/floor"))
}

/// What loads HTTP servers; installed where that can be done.
fn wrk() -> Result<Command> {
    if !is_installed("wrk") {
        run(&mut command("apt-get", &["install", "--yes", "--no-install-recommends", "wrk"]))
            .context("install wrk")?;
    }
    Ok(Command::new("wrk"))
}

/// One way of doing the work once; what it returns is in milliseconds, one value for each thing seen.
type Way<'w> = (Vec<String>, Box<dyn Fn(&mut Worker) -> Result<Vec<f64>> + Sync + 'w>);

/// What each thread of a measurement has of its own.
struct Worker {
    client: Option<Client>,
    shells: BTreeMap<&'static str, container::PeerShell>,
    floor: Option<floor::Floor>,
    /// Pause between two questions to the API.
    poll: Duration,
}

impl Worker {
    /// One of so many that work at once.
    fn new(server: Option<&Server>, concurrency: usize) -> Self {
        let poll = POLL * u32::try_from(concurrency).unwrap_or(u32::MAX);
        Self { client: server.map(Server::client), shells: BTreeMap::new(), floor: None, poll }
    }
}

/// Limits that any machine allows a container of another engine, whose own may be more than this one's.
const PEER_LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:1024"];

/// Another engine, with a runtime that takes cgroups in whichever layout they are.
fn engine(name: &str) -> Command {
    let mut command = Command::new(name);
    if name == "podman" && is_installed("runc") {
        command.args(["--runtime", "runc"]);
    }
    command
}

fn is_present(peer: &str) -> bool {
    let is_present = is_installed(peer);
    if !is_present {
        println!("{peer} is not installed and is left out");
    }
    is_present
}

/// What was seen of one way at one concurrency.
#[derive(Default)]
struct Seen {
    samples: Vec<Vec<f64>>,
    seconds: f64,
}

/// Runs all ways alternately at each concurrency, so that drift of the machine meets them alike.
fn measure(ways: &[Way<'_>], server: Option<&Server>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for concurrency in CONCURRENCY {
        let mut seen: Vec<Seen> = ways.iter().map(|_| Seen::default()).collect();
        let crew = || (0..concurrency).map(|_| Worker::new(server, concurrency)).collect();
        let mut crews: Vec<Vec<Worker>> = ways.iter().map(|_| crew()).collect();
        let rounds = 10;
        for round in 0..=rounds {
            for (((_, way), seen), crew) in ways.iter().zip(&mut seen).zip(&mut crews) {
                let count = if round == 0 { WARM_UP * concurrency } else { SAMPLES / rounds };
                let started = Instant::now();
                let samples = at_once(way, crew, count)?;
                // The first round warms up.
                if round > 0 {
                    seen.seconds += started.elapsed().as_secs_f64();
                    seen.samples.extend(samples);
                }
            }
        }
        for ((names, _), seen) in ways.iter().zip(seen) {
            let per_second = seen.samples.len() as f64 / seen.seconds;
            for (at, name) in names.iter().enumerate() {
                let samples = seen.samples.iter().filter_map(|values| values.get(at).copied()).collect();
                rows.push(Row::new(name, concurrency, samples).at_rate(per_second));
            }
        }
    }
    Ok(rows)
}

/// Has the workers do the work `count` times, all at once. They stay the same through a measurement, so that what they
/// make for themselves (connections, shells) is made while it warms up.
fn at_once(
    way: &(dyn Fn(&mut Worker) -> Result<Vec<f64>> + Sync),
    crew: &mut [Worker],
    count: usize,
) -> Result<Vec<Vec<f64>>> {
    let next = AtomicUsize::new(0);
    let work = |worker: &mut Worker| {
        let mut seen = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            seen.push(way(worker)?);
        }
        Ok(seen)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = crew.iter_mut().map(|worker| scope.spawn(|| work(worker))).collect();
        let mut seen = Vec::new();
        for thread in threads {
            let values: Result<Vec<Vec<f64>>> = thread.join().expect("workers return their errors");
            seen.extend(values?);
        }
        Ok(seen)
    })
}

fn prepare(server: &Server, family: &str, image: &str, command: &[&str]) -> Result<()> {
    prepare_with(server, (family, image, command), &json!({}))
}

/// Registers a definition with members in place of the usual ones.
fn prepare_with(
    server: &Server,
    (family, image, command): (&str, &str, &[&str]),
    members: &Value,
) -> Result<()> {
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
    let mut definition = json!({
        "family": family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "containerDefinitions": [{"name": "main", "image": image, "command": command, "essential": true}],
    });
    for (name, value) in members.as_object().into_iter().flatten() {
        definition[name] = value.clone();
    }
    client.ecs("RegisterTaskDefinition", &definition).map(drop)
}

/// How the end of a task is learnt of.
#[derive(Clone, Copy, PartialEq)]
enum See {
    /// By DescribeTasks, again and again, as a client of ECS must.
    ByAsking,
    /// By one request, which is answered when the task has stopped.
    ByWaiting,
}

/// Submits a task and sees to its end: when it started, by the server's clock against ours, and when its end was seen
/// over HTTP. Both clocks are this machine's.
fn through_api(worker: &mut Worker, family: &str, see: See) -> Result<Vec<f64>> {
    let Course { start, seen, .. } = run_task(worker, family, see)?;
    Ok(vec![start, seen])
}

fn run_task(worker: &mut Worker, family: &str, see: See) -> Result<Course> {
    let network = worker.client.as_mut().context("this way needs a server")?.network()?;
    let request = json!({"cluster": CLUSTER, "taskDefinition": family, "launchType": "FARGATE", "networkConfiguration": network});
    submit(worker, &request, see)
}

/// What a client saw of a task, in milliseconds since it was submitted.
struct Course {
    /// RunTask was answered.
    accepted: f64,
    /// The first container was started, by the server's clock.
    start: f64,
    /// The client knew of the end.
    seen: f64,
}

fn submit(worker: &mut Worker, request: &Value, see: See) -> Result<Course> {
    let poll = worker.poll;
    let client = worker.client.as_mut().context("this way needs a server")?;
    let started = Instant::now();
    let started_unix =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("read clock")?;
    let answer = client.ecs("RunTask", request)?;
    let accepted = started.elapsed().as_secs_f64() * 1e3;
    let arn = answer["tasks"][0]["taskArn"].as_str().with_context(|| format!("run task: {answer}"))?;
    let describe = json!({"cluster": CLUSTER, "tasks": [arn]});
    let id = arn.rsplit('/').next().unwrap_or_default();
    let (wait, query) = (format!("/v1/tasks/{id}"), format!("cluster={CLUSTER}&timeout=60&wait=stopped"));
    while started.elapsed() < TASK_LIMIT {
        let waited = match see {
            See::ByAsking => None,
            See::ByWaiting => Some((client.native(&wait, &query)?, started.elapsed())),
        };
        let task = client.ecs("DescribeTasks", &describe)?["tasks"][0].take();
        if task["lastStatus"] == "STOPPED" {
            let seen = waited.map_or_else(|| started.elapsed(), |(_, at)| at).as_secs_f64() * 1e3;
            ensure!(task["containers"][0]["exitCode"] == 0, "the task failed: {task}");
            let start = task["startedAt"].as_f64().with_context(|| format!("find startedAt in {task}"))?;
            return Ok(Course { accepted, start: (start - started_unix.as_secs_f64()) * 1e3, seen });
        }
        thread::sleep(poll);
    }
    bail!("task {arn} did not stop within {TASK_LIMIT:?}")
}

/// Runs a command to its end.
fn timed(command: &mut Command) -> Result<Vec<f64>> {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let elapsed = started.elapsed().as_secs_f64() * 1e3;
    let status = status.with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(vec![elapsed])
}
