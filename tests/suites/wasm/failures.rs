//! What a person is told when a task fails, and what is kept of it.

use std::fs;

use anyhow::{Context as _, Result};
use neargate_tests::cli::Cli;
use neargate_tests::{Server, eventually, fixtures};
use serde_json::{Value, json};

use crate::suite::{Case, Needs};
use crate::{TRAP, guests, module, text};

pub(crate) const CASES: &[Case] = &[
    ("failures/traps_name_source_lines", Needs::Wasm, traps_name_source_lines),
    ("failures/core_dump", Needs::Wasm, core_dump),
    ("failures/profile", Needs::Wasm, profile),
    ("failures/debug_of_a_task", Needs::Wasm, debug_of_a_task),
    ("failures/logs_are_harmless_on_a_terminal", Needs::Wasm, logs_are_harmless_on_a_terminal),
];

fn traps_name_source_lines() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let finished = cli.run(&[&image, "--", "panic"])?;
        assert_eq!(finished.code, TRAP, "{}", finished.stderr);
        for part in ["unreachable", "inner", "outer", "wasi/limits.rs:"] {
            assert!(finished.stderr.contains(part), "{part:?} is not in {:?}", finished.stderr);
        }
        let finished = cli.run(&[&image, "--", "divide", "0"])?;
        assert_eq!(finished.code, TRAP, "{}", finished.stderr);
        assert!(finished.stderr.contains("divide"), "{:?}", finished.stderr);
    }
    Ok(())
}

fn core_dump() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let file = cli.path("core");
        let finished = cli.run(&["--core-dump", &file, &image, "--", "panic"])?;
        assert_eq!(finished.code, TRAP, "{}", finished.stderr);
        let dump = fs::read(&file).with_context(|| finished.stderr.clone())?;
        assert!(dump.starts_with(b"\0asm\x01\0\0\0"), "{:?} is no module", &dump[..dump.len().min(8)]);
        for section in ["core", "coremodules", "coreinstances", "corestack"] {
            let is_there = dump.windows(section.len()).any(|bytes| bytes == section.as_bytes());
            assert!(is_there, "the dump has no section {section}");
        }
        fs::remove_file(&file)?;
        assert_eq!(cli.run(&["--core-dump", &file, &image, "--", "exit", "0"])?.code, 0);
        assert!(!fs::exists(&file)?, "a program that ended well left a core dump");
    }
    Ok(())
}

/// A guest that computes shows up in the profile by the names of its functions.
fn profile() -> Result<()> {
    let cli = Cli::with_kept_code()?;
    for image in guests()? {
        let file = cli.path("profile.json");
        let finished = cli.run(&["--quiet", "--profile", &file, &image, "--", "burn", "500"])?;
        assert_eq!((finished.text().as_str(), finished.code), ("burnt\n", 0), "{}", finished.stderr);
        let text = fs::read_to_string(&file).with_context(|| finished.stderr.clone())?;
        let profile: Value = serde_json::from_str(&text)?;
        let samples = profile["threads"][0]["samples"]["length"].as_u64();
        assert!(samples.is_some_and(|samples| samples > 0), "{:.300}", text);
        assert!(text.contains("burn"), "the profile does not name the function");
        fs::remove_file(&file)?;
    }
    Ok(())
}

fn start(server: &Server, family: &str, command: &[&str]) -> Result<String> {
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": "wasm"}))?;
    let definition = json!({
        "family": family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "containerDefinitions": [{"name": "main", "image": "guest", "command": command}],
    });
    client.ecs("RegisterTaskDefinition", &definition)?;
    let network = client.network()?;
    let request = json!({
        "cluster": "wasm", "taskDefinition": family, "launchType": "FARGATE", "networkConfiguration": network,
    });
    let answer = client.ecs("RunTask", &request)?;
    Ok(answer["tasks"][0]["taskArn"].as_str().with_context(|| answer.to_string())?.to_owned())
}

fn stopped(server: &Server, arn: &str) -> Result<Value> {
    let mut client = server.client();
    let describe = json!({"cluster": "wasm", "tasks": [arn]});
    let task = eventually(neargate_tests::cli::LIMIT, || {
        let answer = client.ecs("DescribeTasks", &describe).ok()?;
        (answer["tasks"][0]["lastStatus"] == "STOPPED").then(|| answer["tasks"][0].clone())
    });
    task.with_context(|| format!("{arn} did not stop"))
}

/// The record of a task that trapped says where, to the API as to a person.
fn debug_of_a_task() -> Result<()> {
    let server = Server::start()?;
    server.import(module()?.as_ref(), "guest")?;
    let arn = start(&server, "panics", &["panic"])?;
    let task = stopped(&server, &arn)?;
    assert_eq!(task["containers"][0]["exitCode"], TRAP, "{task}");
    assert!(
        task["containers"][0]["reason"].as_str().is_some_and(|reason| reason.contains("unreachable")),
        "{task}"
    );
    let finished = server.run(&["debug", &arn])?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    for part in ["unreachable", "outer", "wasi/limits.rs:"] {
        assert!(finished.text().contains(part), "{part:?} is not in {:?}", finished.text());
    }
    let finished = server.run(&["debug", "no-such-task"])?;
    assert_ne!(finished.code, 0);
    assert!(finished.stderr.contains("no-such-task"), "{:?}", finished.stderr);
    Ok(())
}

/// A task's output cannot take over the terminal of who reads its log: `script` gives `logs` a terminal.
fn logs_are_harmless_on_a_terminal() -> Result<()> {
    let server = Server::start()?;
    server.import(&fixtures::module().context("the case needs Wasm")?, "guest")?;
    let escape = "\u{1b}]0;owned\u{7}";
    let arn = start(&server, "escapes", &["echo", "plain", escape])?;
    stopped(&server, &arn)?;
    let piped = server.run(&["logs", &arn])?;
    assert_eq!(piped.text(), format!("plain {escape}\n"), "{}", piped.stderr);
    let logs = format!("{} logs {arn}", text(&neargate_tests::binary()));
    let mut script = std::process::Command::new("script");
    script.args(["-qefc", &logs, "/dev/null"]).envs(server.environment());
    let shown = neargate_tests::process::run(&mut script, b"", neargate_tests::cli::LIMIT)?;
    assert!(shown.text().contains("plain"), "{} {}", shown.text(), shown.stderr);
    assert!(!shown.stdout.contains(&0x1b), "an escape reached the terminal: {:?}", shown.text());
    Ok(())
}
