//! Worker processes of Wasm tasks are killed at work, and a day of tasks of all kinds leaves nothing.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::leaks::{self, Snapshot};
use neargate_tests::{Client, Server, ServerOptions, eventually, fixtures};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::long::{Measured, SETTLE_LIMIT};
use crate::suite::{Case, Needs};
use crate::{CLUSTER, TASK_LIMIT, describe, furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("wasm/a_killed_worker_loses_only_its_own", Needs::Wasm, a_killed_worker_loses_only_its_own),
    ("wasm/workers_killed_under_load", Needs::Wasm, workers_killed_under_load),
    ("wasm/a_thousand_tasks_of_all_kinds", Needs::RootAndWasm, a_thousand_tasks_of_all_kinds),
];

/// How the names of worker processes begin in process listings, and those of compilers, which are none.
const WORKER: &str = "ng-wasm-";
const COMPILER: &str = "ng-wasm-comp";
/// What the log may say of a worker that was killed.
const LOSS: &[&str] = &["worker"];

fn workers(server: &Server) -> Vec<u32> {
    let compilers = leaks::descendants(server.pid(), COMPILER);
    let mut workers = leaks::descendants(server.pid(), WORKER);
    workers.retain(|worker| !compilers.contains(worker));
    workers
}

fn kill(process: u32) -> Result<()> {
    let pid = Pid::from_raw(process.cast_signed()).context("a process id")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("kill {process}"))
}

fn status(client: &mut Client, arn: &str) -> Option<String> {
    Some(describe(client, arn).ok()?["lastStatus"].as_str()?.to_owned())
}

/// A task that a loss ended says so, to programs and to people.
#[track_caller]
fn assert_lost(task: &Value) {
    let container = &task["containers"][0];
    assert_eq!(container["exitCode"], json!(137), "{task}");
    let reason = container["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("worker") && reason.contains("signal 9"), "the reason is {reason:?}: {task}");
}

fn a_killed_worker_loses_only_its_own() -> Result<()> {
    let before = Snapshot::take();
    let mut server = ServerOptions { expected_log: LOSS, ..ServerOptions::default() }.start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "sleeper", "probe", &["sleep", "600000"])?;
    register(&mut client, "quick", "probe", &["exit", "0"])?;
    let arns = start(&mut client, "sleeper", 8)?;
    for arn in &arns {
        let runs = eventually(TASK_LIMIT, || (status(&mut client, arn)? == "RUNNING").then_some(()));
        ensure!(runs.is_some(), "{arn} does not run");
    }
    let workers = workers(&server);
    ensure!(!workers.is_empty(), "no process is called {WORKER}…");
    kill(workers[0])?;
    let lost = eventually(TASK_LIMIT, || {
        let stopped: Vec<_> =
            arns.iter().filter(|arn| status(&mut client, arn).as_deref() == Some("STOPPED")).collect();
        (!stopped.is_empty()).then_some(stopped.len())
    });
    ensure!(lost.is_some(), "no task was reported as lost");
    // The next task runs, by when all of the loss is known.
    let quick = start(&mut client, "quick", 1)?.remove(0);
    assert_eq!(until_stopped(&mut client, &quick)?["containers"][0]["exitCode"], json!(0));
    let mut survivors = 0;
    for arn in &arns {
        let task = describe(&mut client, arn)?;
        match task["lastStatus"].as_str() {
            Some("RUNNING") => {
                survivors += 1;
                client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
                assert_eq!(until_stopped(&mut client, arn)?["stopCode"], "UserInitiated");
            }
            _ => assert_lost(&until_stopped(&mut client, arn)?),
        }
    }
    assert_eq!(
        survivors > 0,
        workers.len() > 1,
        "{survivors} of {} tasks survived one of {workers:?}",
        arns.len()
    );
    server.stop()?;
    let left = before.settle(SETTLE_LIMIT);
    assert!(left.is_ok(), "left when the server had ended: {left:?}");
    Ok(())
}

/// Whatever is running when a worker is killed either ended well or is reported as lost; none hangs.
fn workers_killed_under_load() -> Result<()> {
    let mut server = ServerOptions { expected_log: LOSS, ..ServerOptions::default() }.start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "short", "probe", &["sleep", "30"])?;
    let mut running = VecDeque::new();
    let (mut ended, mut lost) = (0, 0);
    for round in 0..30 {
        // More than two rounds at once would be more memory than the machine may promise.
        while running.len() > 10 {
            lost += usize::from(was_lost(&mut client, running.pop_front())?);
            ended += 1;
        }
        running.extend(start(&mut client, "short", 10)?);
        let victims = workers(&server);
        if let (0, Some(victim)) = (round % 3, victims.get(round % victims.len().max(1))) {
            // It may have been replaced meanwhile.
            let _ = kill(*victim);
        }
    }
    while !running.is_empty() {
        lost += usize::from(was_lost(&mut client, running.pop_front())?);
        ended += 1;
    }
    assert!(lost < ended, "all {lost} tasks were lost");
    let arn = start(&mut client, "short", 1)?.remove(0);
    assert_eq!(until_stopped(&mut client, &arn)?["containers"][0]["exitCode"], json!(0));
    server.stop().map(drop)
}

/// Whether a task was lost with its worker. One that was not ended well, or never ran and says why.
fn was_lost(client: &mut Client, arn: Option<String>) -> Result<bool> {
    let task = until_stopped(client, &arn.context("a task")?)?;
    match task["containers"][0]["exitCode"].as_i64() {
        Some(0) => return Ok(false),
        Some(_) => assert_lost(&task),
        None => {
            assert!(task["stoppedReason"].as_str().is_some_and(|reason| !reason.is_empty()), "{task}");
        }
    }
    Ok(true)
}

/// A family and how its tasks end.
struct Kind {
    family: &'static str,
    image: &'static str,
    command: &'static [&'static str],
    label: Option<(&'static str, &'static str)>,
    code: i64,
}

const fn kind(
    family: &'static str,
    image: &'static str,
    command: &'static [&'static str],
    code: i64,
) -> Kind {
    Kind { family, image, command, label: None, code }
}

const fn labelled(kind: Kind, name: &'static str, value: &'static str) -> Kind {
    Kind { label: Some((name, value)), ..kind }
}

const KINDS: [Kind; 9] = [
    kind("module", "probe", &["exit", "3"], 3),
    kind("component", "component", &["echo", "hello"], 0),
    kind("trap", "component", &["trap"], 134),
    kind("out-of-memory", "component", &["grow"], 137),
    labelled(kind("thread", "component", &["exit", "0"], 0), "neargate.wasm.isolation", "thread"),
    labelled(kind("process", "component", &["exit", "0"], 0), "neargate.wasm.isolation", "process"),
    labelled(kind("function", "greet", &["\"Ada\"", "2"], 0), "neargate.wasm.export", "greet"),
    labelled(kind("wrong-call", "greet", &["7"], 2), "neargate.wasm.export", "greet"),
    labelled(kind("counter", "counter", &[], 0), "neargate.wasm.grants", "wasi:keyvalue"),
];

fn register_kind(client: &mut Client, kind: &Kind) -> Result<()> {
    let labels: serde_json::Map<String, Value> =
        kind.label.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let definition = json!({
        "family": kind.family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc",
        "cpu": "256", "memory": "512",
        "containerDefinitions": [
            {"name": "main", "image": kind.image, "command": kind.command, "dockerLabels": labels, "memory": 64}
        ],
    });
    client.ecs("RegisterTaskDefinition", &definition).map(drop)
}

fn register_web(client: &mut Client) -> Result<()> {
    let definition = json!({
        "family": "web", "networkMode": "bridge",
        "containerDefinitions": [{
            "name": "main", "image": "web", "memory": 64, "portMappings": [{"containerPort": 80, "hostPort": 0}],
        }],
    });
    client.ecs("RegisterTaskDefinition", &definition).map(drop)
}

/// Serves one request, and is stopped.
fn one_web_task(client: &mut Client) -> Result<()> {
    let request = json!({"cluster": CLUSTER, "taskDefinition": "web", "launchType": "EC2"});
    let answer = client.ecs("RunTask", &request)?;
    let arn = answer["tasks"][0]["taskArn"].as_str().with_context(|| answer.to_string())?.to_owned();
    let port = eventually(TASK_LIMIT, || {
        let task = describe(client, &arn).ok()?;
        let is_running = task["lastStatus"] == "RUNNING";
        task["containers"][0]["networkBindings"][0]["hostPort"].as_u64().filter(|_| is_running)
    });
    let port = u16::try_from(port.with_context(|| format!("{arn} does not listen"))?)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TASK_LIMIT))?;
    stream.write_all(b"GET /world HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("hello, world"), "the answer is {answer:?}");
    client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": &arn}))?;
    let task = until_stopped(client, &arn)?;
    assert_eq!(task["stopCode"], "UserInitiated", "{task}");
    Ok(())
}

fn a_thousand_tasks_of_all_kinds() -> Result<()> {
    let before = Snapshot::take();
    let mut server = Server::start()?;
    furnish(&server)?;
    server.import(&fixtures::component().context("the case needs Wasm")?, "component")?;
    for name in ["greet", "counter", "web"] {
        server.import(&fixtures::example(name)?, name)?;
    }
    let mut client = server.client();
    for kind in &KINDS {
        register_kind(&mut client, kind)?;
    }
    register_web(&mut client)?;
    let mut rounds = |count: usize| -> Result<()> {
        for _ in 0..count {
            one_web_task(&mut client)?;
            for kind in &KINDS {
                let arn = start(&mut client, kind.family, 1)?.remove(0);
                let task = until_stopped(&mut client, &arn)?;
                assert_eq!(task["containers"][0]["exitCode"], json!(kind.code), "{}: {task}", kind.family);
            }
        }
        Ok(())
    };
    rounds(10)?;
    let morning = Measured::take(&server);
    rounds(100)?;
    morning.assert_kept(&server);
    server.stop()?;
    let left = before.settle(SETTLE_LIMIT);
    assert!(left.is_ok(), "left when the server had ended: {left:?}");
    Ok(())
}
