//! `cargo xtask demo`: the main job, done by the AWS CLI, each command shown before it runs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::leaks::Snapshot;
use neargate_tests::{Server, ServerOptions, binary, fixtures, is_root, repository, target_directory};
use serde_json::Value;

use crate::setup;
use crate::shell::shown;

const CLUSTER: &str = "demo";
/// What is left when the server has ended is gone within this.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// A task to run, with its definition in `examples/`.
struct Job {
    title: &'static str,
    definition: &'static str,
    family: &'static str,
}

const WASM: Job = Job { title: "a Wasm task", definition: "task.json", family: "hello" };
const CONTAINER: Job =
    Job { title: "a container task", definition: "container-task.json", family: "hello-container" };

/// Sets up, builds, and runs the examples through a server of its own.
pub(crate) fn demo() -> Result<()> {
    setup::setup()?;
    title("build");
    if let Some(mut build) = setup::build_command() {
        show(&mut build)?;
    }
    println!("$ cd examples && cargo build --release --target wasm32-wasip2");
    let examples = setup::build_examples()?;
    let before = Snapshot::take();
    run_jobs(&examples)?;
    if let Err(left) = before.settle(SETTLE_LIMIT) {
        bail!("the server ended and left:\n{}", left.join("\n"));
    }
    println!("the server ended cleanly and left nothing behind");
    Ok(())
}

fn run_jobs(examples: &Path) -> Result<()> {
    title("without a server");
    let hello = examples.join("hello.wasm");
    show(Command::new(binary()).arg("run").arg(&hello).args(["--", "world"]))?;

    title("a server");
    let data = target_directory().join("demo");
    if data.exists() {
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
    }
    println!("$ neargate serve --listen 127.0.0.1:0 --data {} &", data.display());
    let mut server = ServerOptions { data: Some(data), ..ServerOptions::default() }.start()?;
    println!("ready {}", server.endpoint);
    println!("$ eval \"$(neargate env --data {} --endpoint {})\"", server.data.display(), server.endpoint);

    let aws = Aws { environment: server.environment() };
    aws.show(&["ecs", "create-cluster", "--cluster-name", CLUSTER, "--query", "cluster.status"])?;
    println!("$ neargate image import {} --name hello", hello.display());
    server.import(&hello, "hello")?;
    aws.run_job(&WASM)?;
    if is_root() {
        println!("$ neargate image pack ROOTFS --name busybox --entrypoint /bin/busybox");
        server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
        aws.run_job(&CONTAINER)?;
    } else {
        println!("SKIPPED: not root: the container task");
    }
    stop(&mut server)
}

fn stop(server: &mut Server) -> Result<()> {
    title("the end");
    println!("$ kill -TERM {}", server.pid());
    let status = server.stop()?;
    ensure!(status.success(), "the server ended with {status}{}", server.log_tail());
    Ok(())
}

/// The AWS CLI, set up for the server.
struct Aws {
    environment: Vec<(String, String)>,
}

impl Aws {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(setup::aws_cli_1());
        command.args(arguments).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command.current_dir(repository());
        command
    }

    fn show(&self, arguments: &[&str]) -> Result<String> {
        show(&mut self.command(arguments))
    }

    fn run_job(&self, job: &Job) -> Result<()> {
        title(job.title);
        let definition = format!("file://examples/{}", job.definition);
        let query = "taskDefinition.taskDefinitionArn";
        self.show(&["ecs", "register-task-definition", "--cli-input-json", &definition, "--query", query])?;
        let query = "Subnets[0].SubnetId";
        let subnet = self.show(&["ec2", "describe-subnets", "--query", query, "--output", "text"])?;
        let network = format!("awsvpcConfiguration={{subnets=[{}]}}", subnet.trim());
        let arn = self.show(&[
            "ecs",
            "run-task",
            "--cluster",
            CLUSTER,
            "--task-definition",
            job.family,
            "--launch-type",
            "FARGATE",
            "--network-configuration",
            &network,
            "--query",
            "tasks[0].taskArn",
            "--output",
            "text",
        ])?;
        let arn = arn.trim();
        self.show(&["ecs", "wait", "tasks-stopped", "--cluster", CLUSTER, "--tasks", arn])?;
        let query = "tasks[0].{status:lastStatus,reason:stoppedReason,containers:containers[].{name:name,exit:exitCode}}";
        let text =
            self.show(&["ecs", "describe-tasks", "--cluster", CLUSTER, "--tasks", arn, "--query", query])?;
        let task: Value = serde_json::from_str(&text).context("read the description of the task")?;
        ensure!(task["containers"][0]["exit"] == 0, "the task did not end with exit code 0: {task}");
        let id = arn.rsplit('/').next().unwrap_or_default();
        let stream = format!("hello/hello/{id}");
        let events = self.show(&[
            "logs",
            "get-log-events",
            "--log-group-name",
            "/neargate/hello",
            "--log-stream-name",
            &stream,
            "--query",
            "events[].message",
            "--output",
            "text",
        ])?;
        ensure!(events.contains("hello"), "the task's log does not greet: {events:?}");
        Ok(())
    }
}

/// Prints a command, runs it, prints what it printed, and returns it.
fn show(command: &mut Command) -> Result<String> {
    println!("$ {}", shown(command));
    let output = command.stderr(Stdio::inherit()).output().context("start command")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}");
    ensure!(output.status.success(), "{} ended with {}", shown(command), output.status);
    Ok(text)
}

fn title(text: &str) {
    println!("\n── {text} {}", "─".repeat(60_usize.saturating_sub(text.chars().count())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_match_their_definitions() {
        for job in [WASM, CONTAINER] {
            let file = repository().join("examples").join(job.definition);
            let text = fs::read_to_string(&file).unwrap();
            let definition: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(definition["family"], job.family, "{}", file.display());
            let log = &definition["containerDefinitions"][0]["logConfiguration"]["options"];
            assert_eq!(log["awslogs-group"], "/neargate/hello");
            assert_eq!(log["awslogs-stream-prefix"], "hello");
        }
    }
}
