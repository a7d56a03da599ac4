//! The server and its supervisor are killed at work: what was accepted is not lost, runs at most once, goes on if it is
//! a container, and leaves nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::leaks::Snapshot;
use neargate_tests::{Server, ServerOptions};
use serde_json::json;

use crate::suite::{Case, Needs};
use crate::{CLUSTER, describe, furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("crash/accepted_tasks_survive_kill_9", Needs::RootAndWasm, accepted_tasks_survive_kill_9),
    ("crash/state_survives_kill_9", Needs::Nothing, state_survives_kill_9),
    ("crash/running_containers_go_on", Needs::Root, running_containers_go_on),
    ("crash/an_end_after_a_restart_is_heard", Needs::Root, an_end_after_a_restart_is_heard),
];

/// How often the server is killed under load.
const ROUNDS: usize = 5;
/// After a kill the kernel is as before within this.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// What the log may say of work that a kill cut off; a worker in the middle of a message sees its server gone as a reset.
const RECOVERY: &[&str] = &["interrupted", "recover", "another one is started", "talk to the server"];

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

/// What ends while its containers go on.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Server,
    Supervisor,
    Both,
    /// The server is asked to end, as before an upgrade.
    Leave,
}

/// Prints a number after the other, and ends with 3 when it is asked to.
const TICKER: &str = "trap 'echo bye; exit 3' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.02; done";
/// How many lines may be lost by a fault: a line is safe 10 ms after it was read.
const LINES_LOST_MAX: u64 = 3;

/// Containers go on, with their output and their exit codes, whatever ends around them.
fn running_containers_go_on() -> Result<()> {
    const FAULTS: [Fault; 5] =
        [Fault::Server, Fault::Supervisor, Fault::Both, Fault::Leave, Fault::Supervisor];
    let before = Snapshot::take();
    let shared = neargate_tests::server::scratch_directory()?;
    let data = shared.path().join("data");
    let mut server = on(&data).start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "ticker", "busybox", &["sh", "-c", TICKER])?;
    let arns = start(&mut client, "ticker", 4)?;
    for arn in &arns {
        until_running(&mut client, arn)?;
    }
    for fault in FAULTS {
        let ticked = arns.iter().map(|arn| last_number(&server, arn)).collect::<Result<Vec<_>>>()?;
        match fault {
            Fault::Server => server.kill()?,
            Fault::Supervisor => server.kill_supervisor()?,
            Fault::Both => {
                server.kill()?;
                server.kill_supervisor()?;
            }
            Fault::Leave => drop(server.leave()?),
        }
        if !matches!(fault, Fault::Supervisor) {
            server = on(&data).start()?;
        }
        client = server.client();
        for (arn, before) in arns.iter().zip(ticked) {
            let task = describe(&mut client, arn)?;
            assert_eq!(task["lastStatus"], "RUNNING", "after {fault:?}: {task}");
            let goes_on = neargate_tests::eventually(crate::TASK_LIMIT, || {
                (last_number(&server, arn).ok()? > before + 5).then_some(())
            });
            assert!(goes_on.is_some(), "after {fault:?} {arn} prints nothing");
        }
    }
    for arn in &arns {
        client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
        let task = until_stopped(&mut client, arn)?;
        assert_eq!(task["containers"][0]["exitCode"], json!(3), "{task}");
        let numbers = numbers(&server, arn)?;
        let lost: u64 = numbers.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1)).sum();
        let lost_max = LINES_LOST_MAX * FAULTS.len() as u64;
        assert!(lost <= lost_max, "{lost} lines of {} are lost", numbers.len());
        assert!(numbers.is_sorted(), "lines are told twice or out of order");
    }
    server.stop()?;
    let settled = before.settle(SETTLE_LIMIT);
    assert!(settled.is_ok(), "left: {settled:?}");
    Ok(())
}

/// A container that was there before its server ends, and nobody asks that server for anything about containers.
fn an_end_after_a_restart_is_heard() -> Result<()> {
    let shared = neargate_tests::server::scratch_directory()?;
    let data = shared.path().join("data");
    let mut server = on(&data).start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "ender", "busybox", &["sh", "-c", "sleep 2; exit 5"])?;
    let arn = start(&mut client, "ender", 1)?.remove(0);
    until_running(&mut client, &arn)?;
    server.kill()?;
    server = on(&data).start()?;
    client = server.client();
    assert_eq!(describe(&mut client, &arn)?["lastStatus"], "RUNNING", "it was to end after the restart");
    let task = until_stopped(&mut client, &arn)?;
    assert_eq!(task["containers"][0]["exitCode"], json!(5), "{task}");
    server.stop()?;
    Ok(())
}

fn until_running(client: &mut neargate_tests::Client, arn: &str) -> Result<()> {
    let running = neargate_tests::eventually(crate::TASK_LIMIT, || {
        (describe(client, arn).ok()?["lastStatus"] == "RUNNING").then_some(())
    });
    running.with_context(|| format!("{arn} does not run"))
}

/// What a ticker has printed so far.
fn numbers(server: &Server, arn: &str) -> Result<Vec<u64>> {
    let id = arn.rsplit('/').next().unwrap_or(arn);
    let told = server.run(&["logs", id])?;
    Ok(told.text().lines().filter_map(|line| line.trim().parse().ok()).collect())
}

fn last_number(server: &Server, arn: &str) -> Result<u64> {
    Ok(numbers(server, arn)?.last().copied().unwrap_or(0))
}
