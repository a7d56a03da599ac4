//! `neargate debug`: why a task ended as it did, and what it left for a debugger.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use futures_util::TryStreamExt;
use neargate_sdk::{Artifact, Client};
use serde_json::{Value, json};

use super::connect::ServerOptions;
use super::core_dump::CoreDump;
use super::hint::Hinted;
use super::show::{Output, size, usage};
use super::table::pairs;
use super::task_ref;

/// The name of a core dump among the artifacts.
const CORE: &str = "core";

/// The name of a profile among the artifacts.
const PROFILE: &str = "profile.json";

/// Options of `neargate debug`.
#[derive(Args, Debug)]
pub(crate) struct DebugArgs {
    /// The task's ARN, its id, or at least six digits that its id begins with.
    #[arg(value_name = "TASK")]
    task: String,
    /// Show this container only.
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Write the core dump to this file instead.
    #[arg(long, value_name = "FILE")]
    core: Option<PathBuf>,
    /// Write the profile, for the Firefox Profiler, to this file instead.
    #[arg(long, value_name = "FILE", conflicts_with = "core")]
    profile: Option<PathBuf>,
    /// Form of the answer.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    options: ServerOptions,
}

/// Shows why a task ended, or writes what it left to a file.
pub(crate) async fn run(args: DebugArgs) -> Result<ExitCode> {
    let client = args.options.connect()?;
    let arn = task_ref::find(&client, &args.task).await?;
    let mut details = client.details(&arn).await?;
    let mut artifacts = client.artifacts(&arn).await?;
    if let Some(name) = &args.container {
        keep_only(&mut details, name)?;
        artifacts.retain(|artifact| artifact.container == *name);
    }
    let wanted = [(CORE, "core dump", &args.core), (PROFILE, "profile", &args.profile)];
    for (name, what, path) in wanted {
        if let Some(path) = path {
            let artifact = pick(&artifacts, name, what)?;
            let mut file =
                std::fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
            copy(&client, &arn, artifact, &mut file).await?;
            file.sync_all().with_context(|| format!("write {}", path.display()))?;
            println!("{} {}", path.display(), size(artifact.bytes));
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut dumps = Vec::new();
    for artifact in artifacts.iter().filter(|artifact| artifact.name == CORE) {
        let mut bytes = Vec::new();
        copy(&client, &arn, artifact, &mut bytes).await?;
        dumps.push((artifact.container.clone(), CoreDump::read(&bytes)?));
    }
    let text = match args.output {
        Output::Table => report(&details, &artifacts, &dumps),
        Output::Json => format!("{:#}\n", document(details, &artifacts, &dumps)),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn containers(details: &Value) -> impl Iterator<Item = &Value> {
    details.get("containers").and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

fn keep_only(details: &mut Value, name: &str) -> Result<(), Hinted> {
    let names: Vec<String> = containers(details).filter_map(|container| text(container, "name")).collect();
    if !names.iter().any(|known| known == name) {
        let hint = format!("it has {}", names.join(", "));
        return Err(Hinted::not_found(format!("find container '{name:.64}' of the task"), hint));
    }
    if let Some(Value::Array(containers)) = details.get_mut("containers") {
        containers.retain(|container| text(container, "name").as_deref() == Some(name));
    }
    Ok(())
}

/// The only file of this name.
fn pick<'a>(artifacts: &'a [Artifact], name: &str, what: &str) -> Result<&'a Artifact, Hinted> {
    let found: Vec<&Artifact> = artifacts.iter().filter(|artifact| artifact.name == name).collect();
    match found.as_slice() {
        [artifact] => Ok(artifact),
        [] => {
            let hint = match name {
                CORE => {
                    "only Wasm containers that trapped leave one, unless neargate.wasm.core-dump is false"
                }
                _ => "only Wasm containers with the label neargate.wasm.profile = true leave one",
            };
            Err(Hinted::not_found(format!("find a {what} of the task"), hint))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|artifact| artifact.container.as_str()).collect();
            let hint = format!("name one with --container: {}", names.join(", "));
            Err(Hinted::refused(format!("choose between {} files of the name {name}", several.len()), hint))
        }
    }
}

async fn copy(client: &Client, arn: &str, artifact: &Artifact, to: &mut impl Write) -> Result<()> {
    let mut pieces = client.artifact(arn, &artifact.container, &artifact.name).await?;
    while let Some(piece) = pieces.try_next().await? {
        to.write_all(&piece).with_context(|| format!("write {}", artifact.name))?;
    }
    Ok(())
}

fn document(mut details: Value, artifacts: &[Artifact], dumps: &[(String, CoreDump)]) -> Value {
    let artifact = |artifact: &Artifact| {
        let dump =
            dumps.iter().find(|(container, _)| artifact.name == CORE && *container == artifact.container);
        json!({
            "container": artifact.container,
            "name": artifact.name,
            "bytes": artifact.bytes,
            "core_dump": dump.map(|(_, dump)| dump.document()),
        })
    };
    details["artifacts"] = artifacts.iter().map(artifact).collect();
    details
}

fn report(details: &Value, artifacts: &[Artifact], dumps: &[(String, CoreDump)]) -> String {
    let mut out = pairs(&[
        ("Task", text(details, "task")),
        ("Cluster", text(details, "cluster")),
        ("Status", text(details, "status")),
        ("Reason", text(details, "stopped_reason")),
        ("Limits", limits(details)),
    ]);
    for container in containers(details) {
        out.push('\n');
        out.push_str(&container_report(container, artifacts, dumps));
    }
    out
}

fn container_report(container: &Value, artifacts: &[Artifact], dumps: &[(String, CoreDump)]) -> String {
    let name = text(container, "name").unwrap_or_default();
    let left = |file: &str| artifacts.iter().find(|one| one.container == name && one.name == file);
    let core = left(CORE).map(|core| {
        let dump = dumps.iter().find(|(container, _)| *container == name);
        let line = dump.map_or_else(String::new, |(_, dump)| format!(": {}", dump.line()));
        format!("{}{line}", size(core.bytes))
    });
    let usage = usage(container);
    let mut out = pairs(&[
        ("Container", Some(name.clone())),
        ("Image", text(container, "image")),
        ("Status", text(container, "status")),
        ("Exit code", container.get("exit_code").and_then(Value::as_i64).map(|code| code.to_string())),
        ("Limits", limits(container)),
        ("Wasm", container.get("wasm").and_then(wasm)),
        ("CPU time", usage.cpu),
        ("Peak memory", usage.memory_peak),
        ("Instantiate", usage.instantiate),
        ("Run", usage.run),
        ("Core dump", core),
        ("Profile", left(PROFILE).map(|profile| size(profile.bytes))),
    ]);
    if let Some(reason) = text(container, "reason") {
        out.push_str("Cause\n");
        for line in reason.lines() {
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            out.push_str(format!("  {line}").trim_end());
            out.push('\n');
        }
    }
    out
}

/// `256 CPU units, 512 MiB`.
fn limits(of: &Value) -> Option<String> {
    let limits = of.get("limits")?;
    let number = |name: &str| limits.get(name).and_then(Value::as_u64).filter(|&number| number > 0);
    let cpu = number("cpu_units").map(|units| format!("{units} CPU units"));
    let memory = number("memory_mib").map(|mib| format!("{mib} MiB"));
    let both: Vec<String> = cpu.into_iter().chain(memory).collect();
    (!both.is_empty()).then(|| both.join(", "))
}

/// The settings of a Wasm container that differ from the usual, after its isolation.
fn wasm(settings: &Value) -> Option<String> {
    let mut shown = vec![format!("isolation {}", text(settings, "isolation")?)];
    shown.extend(text(settings, "export").map(|name| format!("calls {name}")));
    let number = |name: &str| settings.get(name).and_then(Value::as_u64);
    shown.extend(number("reuse").map(|count| format!("{count} requests an instance")));
    shown.extend(number("cpu_budget_ms").map(|ms| format!("CPU budget {ms} ms")));
    let grants = settings.get("grants").and_then(Value::as_array).into_iter().flatten();
    shown.extend(grants.filter_map(Value::as_str).map(|grant| format!("may use {grant}")));
    if text(settings, "network").as_deref() == Some("host") {
        shown.push("the host's network".to_owned());
    }
    Some(shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::core_dump::Thread;
    use super::*;

    fn artifact(container: &str, name: &str) -> Artifact {
        Artifact { container: container.to_owned(), name: name.to_owned(), bytes: 1536 }
    }

    fn details() -> Value {
        json!({
            "task": "0f", "cluster": "c", "status": "STOPPED",
            "stopped_reason": "Essential container in task exited",
            "limits": { "cpu_units": 256, "memory_mib": 512 },
            "containers": [{
                "name": "main", "image": "probe", "status": "STOPPED", "exit_code": 134,
                "reason": "wasm trap: unreachable\n  0: probe!main\n\u{1b}[31m",
                "limits": { "cpu_units": 0, "memory_mib": null },
                "usage": { "cpu_ns": 1_500_000, "memory_peak_bytes": 2_097_152, "instantiate_ns": 42_000,
                           "run_ns": 900 },
                "artifacts": ["core"],
                "wasm": { "isolation": "thread", "export": null, "reuse": null, "cpu_budget_ms": 100,
                          "grants": ["wasi:keyvalue"], "network": "none" },
            }, { "name": "side", "limits": {}, "usage": {} }],
        })
    }

    #[test]
    fn a_report_says_why_and_what_is_left() {
        let thread = Thread { name: "main".to_owned(), frames: Vec::new() };
        let dump = CoreDump { threads: vec![thread], ..CoreDump::default() };
        let text = report(&details(), &[artifact("main", "core")], &[("main".to_owned(), dump)]);
        let expect = "\
Task     0f
Cluster  c
Status   STOPPED
Reason   Essential container in task exited
Limits   256 CPU units, 512 MiB

Container    main
Image        probe
Status       STOPPED
Exit code    134
Wasm         isolation thread, CPU budget 100 ms, may use wasi:keyvalue
CPU time     1.50 ms
Peak memory  2.0 MiB
Instantiate  42 µs
Run          900 ns
Core dump    1.5 KiB: 0 modules, 1 thread, 0 frames, no memory
Cause
  wasm trap: unreachable
    0: probe!main
  [31m

Container  side
";
        assert_eq!(text, expect);
    }

    #[test]
    fn one_container_may_be_meant() {
        let mut one = details();
        keep_only(&mut one, "side").unwrap();
        assert_eq!(containers(&one).count(), 1);
        let error = keep_only(&mut details(), "other").unwrap_err();
        assert_eq!(error.hint, "it has main, side");
    }

    #[test]
    fn a_file_is_picked_when_it_is_the_only_one() {
        let left = [artifact("a", "core"), artifact("b", "core"), artifact("b", "profile.json")];
        assert_eq!(pick(&left, PROFILE, "profile").unwrap().container, "b");
        assert!(pick(&left, CORE, "core dump").unwrap_err().hint.contains("--container: a, b"));
        assert!(pick(&[], CORE, "core dump").unwrap_err().hint.contains("trapped"));
    }

    #[test]
    fn programs_get_the_same() {
        let dump = CoreDump { program: "x".to_owned(), ..CoreDump::default() };
        let found = document(details(), &[artifact("main", "core")], &[("main".to_owned(), dump)]);
        assert_eq!(found["artifacts"][0]["core_dump"]["program"], "x");
        assert_eq!(found["containers"][0]["exit_code"], 134);
    }
}
