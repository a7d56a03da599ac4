//! The server is killed at work: what it accepted is not lost, runs at most once, and leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::ServerOptions;
use neargate_tests::leaks::Snapshot;
use serde_json::json;

use crate::suite::{Case, Needs};
use crate::{CLUSTER, describe, furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("crash/accepted_tasks_survive_kill_9", Needs::RootAndWasm, accepted_tasks_survive_kill_9),
    ("crash/state_survives_kill_9", Needs::Nothing, state_survives_kill_9),
    ("crash/running_containers_leave_nothing", Needs::Root, running_containers_leave_nothing),
];

/// How often the server is killed under load.
const ROUNDS: usize = 5;
/// After a kill the kernel is as before within this.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// What the log may say of work that a kill cut off.
const RECOVERY: &[&str] = &["interrupted", "recover"];

/// A data directory that outlives the servers on it.
fn on(data: &Path) -> ServerOptions {
    ServerOptions { data: Some(data.to_owned()), expected_log: RECOVERY, ..ServerOptions::default() }
}

/// Each task appends its number to a witness file: a number that is there twice ran twice.
fn accepted_tasks_survive_kill_9() -> Result<()> {
    let before = Snapshot::take();
    let shared = neargate_tests::server::scratch_directory()?;
    let witness = shared.path().join("witness");
    fs::create_dir(&witness)?;
    let data = shared.path().join("data");
    let arguments = vec!["--allow-host-path".to_owned(), witness.display().to_string()];
    let options = || ServerOptions { arguments: arguments.clone(), ..on(&data) };
    let mut server = options().start()?;
    furnish(&server)?;
    let mut accepted: BTreeMap<String, String> = BTreeMap::new();
    let mut number = 0;
    for round in 0..ROUNDS {
        let mut client = server.client();
        for _ in 0..=round * 3 + 4 {
            number += 1;
            let name = number.to_string();
            register_witness(&mut client, &witness.display().to_string(), &name)?;
            for arn in start(&mut client, &format!("witness-{name}"), 1)? {
                accepted.insert(arn, name.clone());
            }
        }
        server.kill()?;
        server = options().start()?;
    }
    let mut client = server.client();
    for (arn, name) in &accepted {
        let task = until_stopped(&mut client, arn)
            .with_context(|| format!("task {name} was accepted and is lost"))?;
        let ran = fs::read_to_string(witness.join(name)).unwrap_or_default();
        let times = ran.lines().count();
        assert!(times <= 1, "task {name} ran {times} times: {task}");
        if task["containers"][0]["exitCode"] == json!(0) {
            assert_eq!(times, 1, "task {name} is said to have ended well and never ran");
        }
    }
    server.stop()?;
    let settled = before.settle(SETTLE_LIMIT);
    assert!(settled.is_ok(), "left: {settled:?}");
    Ok(())
}

fn register_witness(client: &mut neargate_tests::Client, directory: &str, name: &str) -> Result<()> {
    let definition = json!({
        "family": format!("witness-{name}"), "requiresCompatibilities": ["EC2", "FARGATE"], "networkMode": "awsvpc",
        "cpu": "256", "memory": "512",
        "volumes": [{"name": "witness", "host": {"sourcePath": directory}}],
        "containerDefinitions": [{
            "name": "main", "image": "probe", "command": ["append", format!("/witness/{name}"), "ran"],
            "mountPoints": [{"sourceVolume": "witness", "containerPath": "/witness"}],
        }],
    });
    client.ecs("RegisterTaskDefinition", &definition).map(drop)
}

fn state_survives_kill_9() -> Result<()> {
    let shared = neargate_tests::server::scratch_directory()?;
    let data = shared.path().join("data");
    let mut server = on(&data).start()?;
    for round in 0..ROUNDS {
        let mut client = server.client();
        for i in 0..20 {
            client.ecs("CreateCluster", &json!({"clusterName": format!("c-{round}-{i}")}))?;
        }
        server.kill()?;
        server = on(&data).start()?;
    }
    let mut client = server.client();
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..20).map(|i| format!("c-{round}-{i}")).collect();
        let answer = client.ecs("DescribeClusters", &json!({"clusters": names}))?;
        assert_eq!(answer["clusters"].as_array().map(Vec::len), Some(20), "{answer}");
    }
    Ok(())
}

/// Containers end with a killed server; the next one reports them and the kernel holds nothing of them.
fn running_containers_leave_nothing() -> Result<()> {
    let before = Snapshot::take();
    let shared = neargate_tests::server::scratch_directory()?;
    let data = shared.path().join("data");
    let mut server = on(&data).start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "sleeper", "busybox", &["sleep", "600"])?;
    let arns: Vec<String> =
        (0..4).map(|_| Ok(start(&mut client, "sleeper", 1)?.remove(0))).collect::<Result<_>>()?;
    for arn in &arns {
        let running = neargate_tests::eventually(crate::TASK_LIMIT, || {
            (describe(&mut client, arn).ok()?["lastStatus"] == "RUNNING").then_some(())
        });
        assert!(running.is_some(), "{arn} does not run");
    }
    server.kill()?;
    let mut server = on(&data).start()?;
    let mut client = server.client();
    for arn in &arns {
        let task = until_stopped(&mut client, arn)?;
        assert_ne!(task["containers"][0]["exitCode"], json!(0), "{task}");
        assert!(task["stoppedReason"].is_string(), "{task}");
    }
    let listed = client.ecs("ListTasks", &json!({"cluster": CLUSTER}))?;
    assert_eq!(listed["taskArns"], json!([]), "{listed}");
    server.stop()?;
    let settled = before.settle(SETTLE_LIMIT);
    assert!(settled.is_ok(), "left: {settled:?}");
    Ok(())
}
