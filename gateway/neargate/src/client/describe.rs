//! `neargate describe`: all that is known of a task.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use neargate_sdk::types::{self, ecs};
use serde_json::Value;

use super::connect::ClientOptions;
use super::show::{Output, last_part, phases, ports, span, usage};
use super::table::{pairs, table};
use super::task_ref;

/// Options of `neargate describe`.
#[derive(Args, Debug)]
pub(crate) struct DescribeArgs {
    /// The task's ARN, its id, or at least six digits that its id begins with.
    #[arg(value_name = "TASK")]
    task: String,
    /// Form of the description; json is the task as ECS's DescribeTasks gives it.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    options: ClientOptions,
}

/// Describes a task: what it is, what its containers did, and where the time of its start went.
pub(crate) async fn run(args: DescribeArgs) -> Result<ExitCode> {
    let client = args.options.connect()?;
    let arn = task_ref::find(&client, &args.task).await?;
    let task = client.task(&arn).await?;
    let text = match args.output {
        Output::Table => {
            // A server that does not know the native API describes no usage.
            let details = client.details(&arn).await.unwrap_or_default();
            description(&task, &details)
        }
        Output::Json => {
            let document: Value =
                serde_json::from_slice(&types::json::encode(&task)).context("write the task as JSON")?;
            format!("{document:#}\n")
        }
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn description(task: &ecs::Task, details: &Value) -> String {
    let mut text = summary(task);
    text.push('\n');
    text.push_str(&containers(task));
    text.push_str(&used(details));
    let phases = phases(task);
    if !phases.is_empty() {
        let total = phases.iter().map(|(_, us)| us).sum();
        let rows = phases.into_iter().chain([("total", total)]);
        let rows: Vec<_> = rows.map(|(phase, us)| vec![phase.to_owned(), span(us)]).collect();
        text.push('\n');
        text.push_str(&table(&["PHASE", "TIME"], &rows));
    }
    text
}

fn summary(task: &ecs::Task) -> String {
    let part = |arn: &Option<String>| arn.as_deref().map(|arn| last_part(arn).to_owned());
    let time = |at: Option<types::Timestamp>| at.map(|at| at.to_string());
    let status = task.last_status.clone().unwrap_or_default();
    let status = match task.desired_status.as_deref() {
        Some(desired) if desired != status => format!("{status} (to be {desired})"),
        _ => status,
    };
    let reason = match (&task.stopped_reason, &task.stop_code) {
        (Some(reason), Some(code)) => Some(format!("{reason} ({code})")),
        (reason, _) => reason.clone(),
    };
    let tag = |tag: &ecs::Tag| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}={}", text(&tag.key), text(&tag.value))
    };
    let tags: Vec<_> = task.tags.iter().flatten().map(tag).collect();
    pairs(&[
        ("Task", part(&task.task_arn)),
        ("Cluster", part(&task.cluster_arn)),
        ("Definition", part(&task.task_definition_arn)),
        ("Status", Some(status)),
        ("Reason", reason),
        ("Address", address(task)),
        ("CPU units", task.cpu.clone()),
        ("Memory MiB", task.memory.clone()),
        ("Started by", task.started_by.clone()),
        ("Created", time(task.created_at)),
        ("Started", time(task.started_at)),
        ("Stopping", time(task.stopping_at)),
        ("Stopped", time(task.stopped_at)),
        ("Tags", Some(tags.join(", ")).filter(|tags| !tags.is_empty())),
        ("ARN", task.task_arn.clone()),
    ])
}

/// The address of the task's network interface.
fn address(task: &ecs::Task) -> Option<String> {
    let details =
        task.attachments.iter().flatten().flat_map(|attachment| attachment.details.iter().flatten());
    let mut addresses = details.filter(|detail| detail.name.as_deref() == Some("privateIPv4Address"));
    addresses.next().and_then(|detail| detail.value.clone())
}

fn containers(task: &ecs::Task) -> String {
    let row = |container: &ecs::Container| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![
            text(&container.name),
            text(&container.image),
            text(&container.last_status),
            container.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
            ports(std::slice::from_ref(container)),
            text(&container.reason),
        ]
    };
    let rows: Vec<_> = task.containers.iter().flatten().map(row).collect();
    table(&["CONTAINER", "IMAGE", "STATUS", "EXIT", "PORTS", "REASON"], &rows)
}

/// What the containers have used, once it is known; the last two columns are of Wasm alone.
fn used(details: &Value) -> String {
    let containers = details.get("containers").and_then(Value::as_array).into_iter().flatten();
    let row = |container: &Value| {
        let used = usage(container);
        let name = container.get("name")?.as_str()?.to_owned();
        let cell = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        Some(vec![name, used.cpu?, cell(used.memory_peak), cell(used.instantiate), cell(used.run)])
    };
    let rows: Vec<_> = containers.filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table(&["USED BY", "CPU", "PEAK MEMORY", "INSTANTIATE", "RUN"], &rows))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::show::tests::container;
    use super::*;

    #[test]
    fn a_description_says_what_happened_and_how_long_it_took() {
        let attribute = |name: &str, value: &str| ecs::Attribute {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..Default::default()
        };
        let detail =
            ecs::KeyValuePair { name: Some("privateIPv4Address".into()), value: Some("10.64.0.2".into()) };
        let task = ecs::Task {
            task_arn: Some("arn:aws:ecs:r:1:task/c/0f".into()),
            cluster_arn: Some("arn:aws:ecs:r:1:cluster/c".into()),
            last_status: Some("STOPPED".into()),
            desired_status: Some("STOPPED".into()),
            stopped_reason: Some("Essential container in task exited".into()),
            stop_code: Some(ecs::TaskStopCode::EssentialContainerExited),
            stopped_at: Some(types::Timestamp::from_millis(1_700_000_000_000)),
            attachments: Some(vec![ecs::Attachment { details: Some(vec![detail]), ..Default::default() }]),
            attributes: Some(vec![
                attribute("neargate.queue-us", "200"),
                attribute("neargate.start-us", "1300"),
            ]),
            containers: Some(vec![container("app", Some(137), Some("OutOfMemoryError"))]),
            ..Default::default()
        };
        let expect = "\
Task     0f
Cluster  c
Status   STOPPED
Reason   Essential container in task exited (EssentialContainerExited)
Address  10.64.0.2
Stopped  2023-11-14T22:13:20Z
ARN      arn:aws:ecs:r:1:task/c/0f

CONTAINER  IMAGE  STATUS  EXIT  PORTS  REASON
app                       137          OutOfMemoryError

USED BY  CPU      PEAK MEMORY  INSTANTIATE  RUN
app      1.50 ms  2.0 MiB      42 µs        1.46 ms

PHASE  TIME
queue  200 µs
start  1.30 ms
total  1.50 ms
";
        let used = json!({ "cpu_ns": 1_500_000, "memory_peak_bytes": 2_097_152, "instantiate_ns": 42_000,
                           "run_ns": 1_460_000 });
        let details =
            json!({ "containers": [{ "name": "app", "usage": used }, { "name": "new", "usage": {} }] });
        assert_eq!(description(&task, &details), expect);
    }

    #[test]
    fn what_is_wanted_is_said_while_it_is_not_so() {
        let task = ecs::Task {
            last_status: Some("RUNNING".into()),
            desired_status: Some("STOPPED".into()),
            ..Default::default()
        };
        let expect = "Status  RUNNING (to be STOPPED)\n\nCONTAINER  IMAGE  STATUS  EXIT  PORTS  REASON\n";
        assert_eq!(description(&task, &Value::Null), expect);
    }
}
