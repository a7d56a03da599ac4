//! `neargate ps`: the tasks of a server.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Args;
use neargate_sdk::Client;
use neargate_sdk::types::ecs::{DesiredStatus, Task};
use serde_json::{Value, json};

use super::connect::ClientOptions;
use super::show::{Output, age, exit_codes, exit_column, last_part, ports, reason};
use super::table::table;

/// How much of a task's id is shown: enough to be unique, and to be typed.
const ID_SHOWN: usize = 12;

/// Options of `neargate ps`.
#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// List the tasks of this cluster only.
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// List stopped tasks too.
    #[arg(long, short)]
    all: bool,
    /// Form of the list.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    options: ClientOptions,
}

/// Lists tasks, the newest first.
pub(crate) async fn run(args: PsArgs) -> Result<ExitCode> {
    let client = args.options.connect()?;
    let mut tasks = match &args.cluster {
        Some(cluster) => tasks_of(&client, cluster, args.all)
            .await
            .with_context(|| format!("list tasks of cluster {cluster}"))?,
        None => all_tasks(&client, args.all).await.context("list tasks")?,
    };
    tasks.sort_by_key(|task| std::cmp::Reverse(task.created_at));
    let text = match args.output {
        Output::Json => format!("{:#}\n", Value::from_iter(tasks.iter().map(document))),
        Output::Table => rows(&tasks, now_ms()),
    };
    io::stdout().write_all(text.as_bytes())?;
    if tasks.is_empty() && args.output == Output::Table && !args.all {
        eprintln!("hint: no task is running; `neargate ps --all` lists the stopped ones too");
    }
    Ok(ExitCode::SUCCESS)
}

async fn all_tasks(client: &Client, with_stopped: bool) -> Result<Vec<Task>, neargate_sdk::Error> {
    let mut tasks = Vec::new();
    for cluster in client.list_all_clusters().await? {
        match tasks_of(client, &cluster, with_stopped).await {
            Ok(found) => tasks.extend(found),
            // It was deleted since it was listed.
            Err(error) if error.code() == Some("ClusterNotFoundException") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tasks)
}

async fn tasks_of(
    client: &Client,
    cluster: &str,
    with_stopped: bool,
) -> Result<Vec<Task>, neargate_sdk::Error> {
    let mut arns = client.list_all_tasks(cluster, DesiredStatus::Running).await?;
    if with_stopped {
        arns.extend(client.list_all_tasks(cluster, DesiredStatus::Stopped).await?);
        // A task that stopped between the two calls is in both lists.
        arns.sort_unstable();
        arns.dedup();
    }
    client.describe_all_tasks(cluster, &arns).await
}

fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

fn rows(tasks: &[Task], now_ms: i64) -> String {
    let part =
        |arn: &Option<String>| arn.as_deref().map_or_else(|| "-".to_owned(), |arn| last_part(arn).to_owned());
    let row = |task: &Task| {
        vec![
            part(&task.task_arn).chars().take(ID_SHOWN).collect(),
            part(&task.cluster_arn),
            part(&task.task_definition_arn),
            task.last_status.clone().unwrap_or_default(),
            exit_column(task),
            age(task.created_at, now_ms),
            ports(task.containers.as_deref().unwrap_or_default()),
            reason(task),
        ]
    };
    let headers = ["TASK", "CLUSTER", "DEFINITION", "STATUS", "EXIT", "AGE", "PORTS", "REASON"];
    table(&headers, &tasks.iter().map(row).collect::<Vec<_>>())
}

fn document(task: &Task) -> Value {
    let part = |arn: &Option<String>| arn.as_deref().map(|arn| last_part(arn).to_owned());
    json!({
        "task": part(&task.task_arn),
        "arn": task.task_arn,
        "cluster": part(&task.cluster_arn),
        "definition": part(&task.task_definition_arn),
        "status": task.last_status,
        "exit_codes": exit_codes(task),
        "ports": ports(task.containers.as_deref().unwrap_or_default()),
        "created_at": task.created_at.map(|at| at.to_string()),
        "reason": Some(reason(task)).filter(|reason| !reason.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use neargate_sdk::types::Timestamp;
    use neargate_sdk::types::ecs::{Container, NetworkBinding};

    use super::super::show::tests::container;
    use super::*;

    fn with_port(container: Container) -> Container {
        let bound =
            NetworkBinding { host_port: Some(8080), container_port: Some(80), ..NetworkBinding::default() };
        Container { network_bindings: Some(vec![bound]), ..container }
    }

    fn task() -> Task {
        Task {
            task_arn: Some("arn:aws:ecs:r:1:task/c/0123456789abcdef0123456789abcdef".into()),
            cluster_arn: Some("arn:aws:ecs:r:1:cluster/c".into()),
            task_definition_arn: Some("arn:aws:ecs:r:1:task-definition/web:3".into()),
            last_status: Some("STOPPED".into()),
            created_at: Some(Timestamp::from_millis(0)),
            containers: Some(vec![with_port(container("app", Some(1), None))]),
            stopped_reason: Some("Essential container in task exited".into()),
            ..Default::default()
        }
    }

    #[test]
    fn a_row_has_what_identifies_and_explains_a_task() {
        let text = rows(&[task()], 120_000);
        let expect = "TASK          CLUSTER  DEFINITION  STATUS   EXIT  AGE  PORTS     REASON\n\
                      0123456789ab  c        web:3       STOPPED  1     2m   8080->80  Essential container in task exited\n";
        assert_eq!(text, expect);
    }

    #[test]
    fn documents_are_flat() {
        let expect = json!({
            "task": "0123456789abcdef0123456789abcdef",
            "arn": "arn:aws:ecs:r:1:task/c/0123456789abcdef0123456789abcdef",
            "cluster": "c", "definition": "web:3", "status": "STOPPED", "exit_codes": {"app": 1}, "ports": "8080->80",
            "created_at": "1970-01-01T00:00:00Z", "reason": "Essential container in task exited",
        });
        assert_eq!(document(&task()), expect);
    }
}
