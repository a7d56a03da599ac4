//! How long a thousand containers are without server, supervisor or both after these are killed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use neargate_tests::server::scratch_directory;
use neargate_tests::{Client, Server, ServerOptions, eventually, is_root};
use serde_json::{Value, json};

use super::crowd::{self, CROWD};
use super::{CLUSTER, TASK_LIMIT, prepare};
use crate::statistics::{Figures, Row};

/// Times that each is killed.
const ROUNDS: usize = 5;
/// Between two kills, so that the machine is at rest.
const REST: Duration = Duration::from_secs(2);
/// Ends with 7 when it is asked to end.
const STOPPABLE: &str = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
const STOPPED_CODE: i64 = 7;

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Server,
    Supervisor,
    Both,
}

/// From the kill to the first answer of the API, to the end of a container that ran before and is stopped as soon as
/// there is an answer, and to the end of one that is submitted then.
pub(super) fn adopt() -> Result<Figures> {
    ensure!(is_root(), "containers can be measured as root only");
    let scratch = scratch_directory()?;
    let options = || ServerOptions {
        data: Some(scratch.path().join("data")),
        // A kill leaves warnings.
        expected_log: &[""],
        ..crowd::options()
    };
    let (mut server, mut client) = crowd::furnish(options().start()?)?;
    prepare(&server, "stoppable", "busybox", &["sh", "-c", STOPPABLE])?;
    prepare(&server, "true", "busybox", &["true"])?;
    crowd::run_idle(&mut client, CROWD)?;
    let mut rows = Vec::new();
    for victim in [Victim::Server, Victim::Supervisor, Victim::Both] {
        let mut samples: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            let old = run(&mut server.client(), "stoppable")?;
            eventually(TASK_LIMIT, || (status(&mut server.client(), &old).ok()? == "RUNNING").then_some(()))
                .context("start the container that is to be stopped")?;
            std::thread::sleep(REST);
            let seen = kill(&mut server, victim, &options, &old)?;
            samples.iter_mut().zip(seen).for_each(|(samples, value)| samples.push(value));
        }
        let [answer, old, new] = samples.map(|samples| Row::new("", 1, samples));
        let both = |row: &Row| [row.quantile(0.5), row.quantile(1.0)];
        let name = format!("kill -9 of {victim:?} with {CROWD} containers").to_lowercase();
        rows.push((name, [both(&answer), both(&old), both(&new)].concat()));
    }
    crowd::stop_all(&mut server.client())?;
    let columns = vec!["answer p50 ms", "answer max", "old p50 ms", "old max", "new p50 ms", "new max"];
    Ok(Figures { columns, rows })
}

/// Kills, and tells when there was the first answer, the end of the old container and that of a new one, in milliseconds.
fn kill(
    server: &mut Server,
    victim: Victim,
    options: &impl Fn() -> ServerOptions,
    old: &str,
) -> Result<[f64; 3]> {
    let killed = Instant::now();
    let ms = || killed.elapsed().as_secs_f64() * 1e3;
    if matches!(victim, Victim::Server | Victim::Both) {
        server.kill()?;
    }
    if matches!(victim, Victim::Supervisor | Victim::Both) {
        server.kill_supervisor()?;
    }
    if matches!(victim, Victim::Server | Victim::Both) {
        *server = options().start()?;
    }
    let mut client = server.client();
    client.ecs("ListTasks", &json!({"cluster": CLUSTER}))?;
    let answer = ms();
    client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": old}))?;
    let new = run(&mut client, "true")?;
    let mut ended = |task: &str, code: i64| -> Result<f64> {
        eventually(TASK_LIMIT, || (status(&mut client, task).ok()? == "STOPPED").then_some(()))
            .with_context(|| format!("await the end of {task}"))?;
        let at = ms();
        let told = exit_code(&mut client, task)?;
        ensure!(told == code, "{task} was told to have ended with {told}, not with {code}");
        Ok(at)
    };
    Ok([answer, ended(old, STOPPED_CODE)?, ended(&new, 0)?])
}

fn run(client: &mut Client, family: &str) -> Result<String> {
    let network = client.network()?;
    let request = json!({"cluster": CLUSTER, "taskDefinition": family, "networkConfiguration": network});
    let accepted = client.ecs("RunTask", &request)?;
    let arn = accepted["tasks"][0]["taskArn"].as_str().with_context(|| format!("run task: {accepted}"))?;
    Ok(arn.to_owned())
}

fn describe(client: &mut Client, task: &str) -> Result<Value> {
    Ok(client.ecs("DescribeTasks", &json!({"cluster": CLUSTER, "tasks": [task]}))?["tasks"][0].take())
}

fn status(client: &mut Client, task: &str) -> Result<Value> {
    Ok(describe(client, task)?["lastStatus"].take())
}

fn exit_code(client: &mut Client, task: &str) -> Result<i64> {
    let task = describe(client, task)?;
    task["containers"][0]["exitCode"].as_i64().with_context(|| format!("find an exit code in {task}"))
}
