//! What must hold when things go wrong: crashes, floods, full disks, wrong bytes, and a long day of tasks.
//!
//! The cases look at the whole machine, so that they run one after another.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod bombs;
mod churn;
mod crash;
mod disk;
mod hostile;
mod long;
#[path = "../suite.rs"]
mod suite;
mod wasm;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use neargate_tests::{Client, Server, fixtures};
use serde_json::{Value, json};
use suite::Case;

const CLUSTER: &str = "robust";
const TASK_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let cases: Vec<Case> =
        [hostile::CASES, disk::CASES, crash::CASES, wasm::CASES, bombs::CASES, long::CASES, churn::CASES]
            .concat();
    suite::main(&cases, Some(1))
}

/// Gives a new server the cluster and the images of this suite.
fn furnish(server: &Server) -> Result<()> {
    server.client().ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
    if let Some(probe) = fixtures::module() {
        server.import(&probe, "probe")?;
    }
    if neargate_tests::is_root() {
        server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
    }
    Ok(())
}

/// Registers a family of one container.
fn register(client: &mut Client, family: &str, image: &str, command: &[&str]) -> Result<()> {
    let definition = json!({
        "family": family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "containerDefinitions": [{"name": "main", "image": image, "command": command}],
    });
    client.ecs("RegisterTaskDefinition", &definition).map(drop)
}

fn start(client: &mut Client, family: &str, count: u32) -> Result<Vec<String>> {
    let network = client.network()?;
    let request = json!({
        "cluster": CLUSTER, "taskDefinition": family, "launchType": "FARGATE", "count": count, "networkConfiguration": network,
    });
    let answer = client.ecs("RunTask", &request)?;
    let tasks = answer["tasks"].as_array().with_context(|| answer.to_string())?;
    if tasks.is_empty() {
        bail!("run {family}: {answer}");
    }
    Ok(tasks.iter().filter_map(|task| task["taskArn"].as_str().map(str::to_owned)).collect())
}

fn describe(client: &mut Client, arn: &str) -> Result<Value> {
    let answer = client.ecs("DescribeTasks", &json!({"cluster": CLUSTER, "tasks": [arn]}))?;
    anyhow::ensure!(answer["failures"].as_array().is_none_or(Vec::is_empty), "describe {arn}: {answer}");
    Ok(answer["tasks"][0].clone())
}

fn until_stopped(client: &mut Client, arn: &str) -> Result<Value> {
    let deadline = Instant::now() + TASK_LIMIT;
    loop {
        let task = describe(client, arn)?;
        if task["lastStatus"] == "STOPPED" {
            return Ok(task);
        }
        if Instant::now() > deadline {
            bail!("{arn} did not stop within {TASK_LIMIT:?}: {task}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
