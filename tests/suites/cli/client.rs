//! `ps`, `logs`, `describe` and `stop`: the client commands against a running server.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::{Server, eventually, process};
use serde_json::{Value, json};

use crate::suite::{Case, Needs};
use crate::{Cli, assert_refused, module};

pub(crate) const CASES: &[Case] = &[
    ("client/follows_a_task", Needs::Wasm, follows_a_task),
    ("client/stops_a_task", Needs::Wasm, stops_a_task),
    ("client/names_what_it_does_not_find", Needs::Nothing, names_what_it_does_not_find),
    ("client/says_that_the_server_is_away", Needs::Nothing, says_that_the_server_is_away),
    ("client/falls_back_to_the_root_key", Needs::Nothing, falls_back_to_the_root_key),
];

/// A server with a cluster, and a task of the probe that ticks for `ms`. Returns the task's id.
fn server_with_task(ms: u32) -> Result<(Server, String)> {
    let server = Server::start()?;
    server.import(module().as_ref(), "probe")?;
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": "default"}))?;
    let definition = json!({
        "family": "tick", "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "containerDefinitions": [{"name": "main", "image": "probe", "command": ["tick", ms.to_string()], "stopTimeout": 2}],
    });
    client.ecs("RegisterTaskDefinition", &definition)?;
    let network = client.network()?;
    let request = json!({"taskDefinition": "tick", "launchType": "FARGATE", "networkConfiguration": network});
    let answer = client.ecs("RunTask", &request)?;
    let arn = answer["tasks"][0]["taskArn"].as_str().with_context(|| answer.to_string())?;
    let id = arn.rsplit('/').next().unwrap_or_default().to_owned();
    Ok((server, id))
}

fn listed(server: &Server, arguments: &[&str]) -> Result<Vec<Value>> {
    let finished = server.run(&[&["ps", "--output", "json"], arguments].concat())?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let answer: Value = serde_json::from_str(&finished.text()).context("read the answer of ps")?;
    let tasks = answer.as_array().or_else(|| answer["tasks"].as_array());
    Ok(tasks.with_context(|| answer.to_string())?.clone())
}

fn follows_a_task() -> Result<()> {
    let (server, id) = server_with_task(1_500)?;
    let mut command = server.command(&["logs", "-f", &id]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    assert!(first.ends_with("started"), "{first:?}");
    assert!(
        listed(&server, &[])?.iter().any(|task| task.to_string().contains(&id)),
        "ps does not show the task"
    );
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.len() == 1 && rest[0].ends_with("finished"), "{rest:?}");
    let status =
        process::wait(&mut child, Duration::from_secs(20))?.context("logs -f did not end with its task")?;
    assert!(status.success());
    let stopped = eventually(Duration::from_secs(10), || listed(&server, &[]).ok()?.is_empty().then_some(()));
    assert!(stopped.is_some(), "ps without --all shows a stopped task");
    assert!(listed(&server, &["--all"])?.iter().any(|task| task.to_string().contains(&id)));
    let table = server.run(&["ps", "--all"])?;
    assert!(table.text().contains(&id[..6]) && !table.text().contains('\u{1b}'), "{:?}", table.text());
    let logs = server.run(&["logs", "--container", "main", &id[..8]])?;
    assert_eq!(logs.text().lines().count(), 2, "{:?}", logs.text());
    Ok(())
}

fn stops_a_task() -> Result<()> {
    let (server, id) = server_with_task(60_000)?;
    let stopped = server.run(&["stop", &id[..8]])?;
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    let describe = || server.run(&["describe", "--output", "json", &id]);
    let seen = eventually(Duration::from_secs(20), || {
        let text = describe().ok()?.text();
        text.contains("STOPPED\"")
            .then(|| serde_json::from_str::<Value>(&text).ok())
            .flatten()
            .filter(|task| task.to_string().contains("UserInitiated"))
    });
    assert!(seen.is_some(), "the task did not stop: {}", describe()?.text());
    let table = server.run(&["describe", &id])?;
    assert!(table.text().contains("STOPPED"), "{:?}", table.text());
    Ok(())
}

fn names_what_it_does_not_find() -> Result<()> {
    let server = Server::start()?;
    server.client().ecs("CreateCluster", &json!({"clusterName": "default"}))?;
    let absent = "0123456789abcdef0123456789abcdef";
    for arguments in [&["logs", absent][..], &["stop", absent], &["describe", absent]] {
        let finished = server.run(arguments)?;
        assert_refused(&finished, finished.code.max(1), &[absent]);
    }
    let finished = server.run(&["ps", "--cluster", "nowhere"])?;
    assert_refused(&finished, finished.code.max(1), &["nowhere"]);
    let short = server.run(&["stop", "0123"])?;
    assert_refused(&short, short.code.max(1), &["0123"]);
    Ok(())
}

fn says_that_the_server_is_away() -> Result<()> {
    let cli = Cli::new()?;
    let endpoint = {
        let mut server = Server::start()?;
        server.stop()?;
        server.endpoint.clone()
    };
    let mut command = cli.command(&["ps", "--endpoint", &endpoint]);
    command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "secret");
    let finished = process::run(&mut command, b"", Duration::from_secs(20))?;
    let address = endpoint.trim_start_matches("http://");
    assert_refused(&finished, finished.code.max(1), &[address]);
    Ok(())
}

fn falls_back_to_the_root_key() -> Result<()> {
    let cli = Cli::new()?;
    let server = Server::start()?;
    server.client().ecs("CreateCluster", &json!({"clusterName": "default"}))?;
    let data = server.data.to_string_lossy().into_owned();
    let finished = cli.any(&["ps", "--endpoint", &server.endpoint, "--data", &data])?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    Ok(())
}
