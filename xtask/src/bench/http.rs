//! Answering HTTP requests by a `wasi:http` component, beside `wasmtime serve` and beside no Wasm at all.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::{Server, fixtures};
use serde_json::{Value, json};

use super::{CLUSTER, TASK_LIMIT, floor, wasmtime, wrk};
use crate::setup;
use crate::shell::output;
use crate::statistics::{Figures, median};

const CONNECTIONS: [u32; 3] = [1, 16, 64];
/// Each server is loaded this often at each number of connections, in turn with the others.
const ROUNDS: usize = 3;
const ROUND_SECONDS: u32 = 2;
/// Requests that one instance may answer in the rows that reuse instances; `wasmtime serve`'s own default for p3.
const REUSE: u32 = 128;

/// What wrk says of one round.
#[derive(Clone, Copy)]
pub(super) struct Load {
    per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// A server that ends with this value.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn http() -> Result<Figures> {
    let component = component()?;
    let server = Server::start()?;
    server.import(&component, "handler")?;
    let fresh = start_task(&server, "fresh", "handler", &json!({}))?;
    let labels = json!({"neargate.wasm.reuse": REUSE.to_string()});
    let reused = start_task(&server, "reused", "handler", &labels)?;
    let mut ways = vec![
        ("neargate task, fresh instance for each request".to_owned(), fresh),
        (format!("neargate task, instance reuse {REUSE}"), reused),
    ];
    let floor = floor()?;
    let (bare, url) = start_peer(Command::new(&floor).arg("http"))?;
    let mut peers = vec![bare];
    ways.push(("bare hyper, two processes, constant answer".to_owned(), url));
    if let Some(wasmtime) = wasmtime() {
        let resident = "pooling-memory-keep-resident=131072,pooling-table-keep-resident=16384,\
                        pooling-async-stack-keep-resident=65536";
        for (name, arguments) in [
            ("wasmtime serve, defaults", vec![]),
            ("wasmtime serve, pool kept resident", vec!["-O", resident]),
            ("wasmtime serve, instance reuse 128", vec!["--max-instance-reuse-count", "128"]),
        ] {
            let mut serve = Command::new(&wasmtime);
            serve
                .args(["serve", "-S", "cli"])
                .args(arguments)
                .args(["--addr", "127.0.0.1:0"])
                .arg(&component);
            let (peer, url) = start_peer(&mut serve)?;
            peers.push(peer);
            ways.push((name.to_owned(), url));
        }
    }
    let mut figures = Figures { columns: vec!["requests/s", "p50 us", "p99 us"], rows: Vec::new() };
    for connections in CONNECTIONS {
        let mut loads: Vec<Vec<Load>> = ways.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for ((_, url), loads) in ways.iter().zip(&mut loads) {
                loads.push(load(url, connections, ROUND_SECONDS)?);
            }
        }
        for ((name, _), loads) in ways.iter().zip(loads) {
            let of = |what: fn(&Load) -> f64| median(loads.iter().map(what).collect());
            let values = vec![of(|load| load.per_second), of(|load| load.p50_us), of(|load| load.p99_us)];
            figures.rows.push((format!("{name}, c={connections}"), values));
        }
    }
    drop(peers);
    let call_us: f64 = output(Command::new(&floor).arg("call").arg(&component))?.trim().parse()?;
    let over_http = figures.rows.first().map_or(f64::NAN, |(_, values)| values[1]);
    figures.rows.push((
        "the same call in process: instantiate, handle".to_owned(),
        vec![1e6 / call_us, call_us, f64::NAN],
    ));
    figures.rows.push((
        "added by network and worker at c=1 (accept to result)".to_owned(),
        vec![f64::NAN, over_http - call_us, f64::NAN],
    ));
    for (name, processes) in [("one core", "1"), ("two cores", "2")] {
        let floor: f64 =
            output(Command::new(&floor).args(["instances", processes]).arg(&component))?.trim().parse()?;
        figures
            .rows
            .push((format!("instances in process, {name}: the floor"), vec![floor, f64::NAN, f64::NAN]));
    }
    Ok(figures)
}

/// Starts a handler as a task with a port mapping and returns its URL.
pub(super) fn start_task(server: &Server, family: &str, image: &str, labels: &Value) -> Result<String> {
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
    let container = json!({
        "name": "main", "image": image, "essential": true, "memory": 512, "dockerLabels": labels,
        "portMappings": [{"containerPort": 8080, "hostPort": 0}],
    });
    let definition = json!({"family": family, "networkMode": "bridge", "containerDefinitions": [container]});
    client.ecs("RegisterTaskDefinition", &definition)?;
    let accepted = client.ecs("RunTask", &json!({"cluster": CLUSTER, "taskDefinition": family}))?;
    let arn = accepted["tasks"][0]["taskArn"].as_str().with_context(|| format!("run task: {accepted}"))?;
    let describe = json!({"cluster": CLUSTER, "tasks": [arn]});
    let started = Instant::now();
    while started.elapsed() < TASK_LIMIT {
        let task = client.ecs("DescribeTasks", &describe)?["tasks"][0].take();
        ensure!(task["lastStatus"] != "STOPPED", "the task did not stay up: {task}");
        if let (true, Some(port)) = (
            task["lastStatus"] == "RUNNING",
            task["containers"][0]["networkBindings"][0]["hostPort"].as_u64(),
        ) {
            return Ok(format!("http://127.0.0.1:{port}/"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("task {arn} did not run within {TASK_LIMIT:?}")
}

/// Starts a server that says on standard error where it listens.
fn start_peer(command: &mut Command) -> Result<(Peer, String)> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut peer = Peer(child.with_context(|| format!("start {command:?}"))?);
    let stderr = peer.0.stderr.take().context("read from the peer")?;
    let mut lines = BufReader::new(stderr).lines();
    for line in &mut lines {
        if let Some(at) = line.as_deref().unwrap_or_default().find("http://") {
            let url = line?.split_off(at);
            // Nobody may ever wait for a reader of what it says further.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok((peer, url));
        }
    }
    bail!("{command:?} ended without saying where it listens")
}

/// Loads a server for some seconds, with keep-alive, from as many threads as it has cores here.
pub(super) fn load(url: &str, connections: u32, seconds: u32) -> Result<Load> {
    let threads = connections.min(2).to_string();
    let mut wrk = wrk()?;
    wrk.args([
        "--latency",
        "-t",
        &threads,
        "-c",
        &connections.to_string(),
        "-d",
        &format!("{seconds}s"),
        url,
    ]);
    parse(&output(&mut wrk)?).with_context(|| format!("load {url}"))
}

fn parse(text: &str) -> Result<Load> {
    ensure!(!text.contains("Non-2xx"), "answers were errors:\n{text}");
    let after = |name: &str| {
        let mut words = text.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).with_context(|| format!("find {name} in:\n{text}"))
    };
    Ok(Load {
        per_second: after("Requests/sec:")?.parse()?,
        p50_us: microseconds(after("50%")?)?,
        p99_us: microseconds(after("99%")?)?,
    })
}

fn microseconds(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) = units
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .with_context(|| format!("read duration {text}"))?;
    Ok(number.parse::<f64>()? * factor)
}

/// The HTTP handler of the bench, for other rows: the example.
pub(super) fn component() -> Result<PathBuf> {
    setup::build_examples()?;
    fixtures::example("web")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_wrk_says() {
        let text = "Running 2s test @ http://127.0.0.1:1/\n  Latency Distribution\n     50%  344.00us\n     75%  1.02ms\n\
                    \x20    90%  2.00ms\n     99%  1.50s\n  80 requests in 2.00s, 1MB read\nRequests/sec:  40800.5\n";
        let load = parse(text).unwrap();
        assert_eq!((load.per_second, load.p50_us, load.p99_us), (40800.5, 344.0, 1.5e6));
        assert!(parse("Requests/sec: 1\n  Non-2xx or 3xx responses: 4\n").is_err());
        assert!(microseconds("5m").is_err());
    }
}
