//! Rows 55, 56 and 63: descriptors that a task was given, processes beside it, and what others keep under a name.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::expect::expect;
use crate::lab::lab;
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_55_descriptors", Needs::Root, row_55_descriptors),
    ("row_56_processes_of_others", Needs::Root, row_56_processes_of_others),
    ("row_56_first_process_of_the_runtime", Needs::Root, row_56_first_process_of_the_runtime),
    ("row_63_objects_of_another_task", Needs::Root, row_63_objects_of_another_task),
];

const DESCRIPTORS: &str = "0: /dev/null\n1: pipe\n2: pipe";

fn row_55_descriptors() -> Result<()> {
    let lab = lab()?;
    expect(DESCRIPTORS, &lab.run(&["descriptors"])?)?;
    let init = json!({"initProcessEnabled": true});
    expect(DESCRIPTORS, &lab.run_with(&["descriptors"], |container| container["linuxParameters"] = init)?)?;
    // A volume and a tmpfs are opened before the program is.
    let mut definition = lab.definition(&["descriptors"]);
    definition["volumes"] = json!([{"name": "v"}]);
    definition["containerDefinitions"][0]["mountPoints"] =
        json!([{"sourceVolume": "v", "containerPath": "/data"}]);
    definition["containerDefinitions"][0]["linuxParameters"] =
        json!({"tmpfs": [{"containerPath": "/t", "size": 1}]});
    expect(DESCRIPTORS, &lab.start(&definition)?.finish()?)?;
    let task = lab.start(&lab.definition(&["ipc-hold"]))?;
    task.until_printed("held")?;
    let finished = lab.server.run(&["exec", &task.arn, "--", "/bin/intruder", "descriptors"])?;
    ensure!(finished.code == 0, "{}", finished.stderr);
    task.stop()?;
    // The client closes its input at once, where it was not asked to pass it on.
    expect(&DESCRIPTORS.replace("/dev/null", "pipe"), &finished.text())
}

/// The server, the supervisor, another task, and the first process of the host.
fn row_56_processes_of_others() -> Result<()> {
    let lab = lab()?;
    let other = lab.start(&lab.definition(&["ipc-hold"]))?;
    other.until_printed("held")?;
    let neighbour = *other.host_pids().first().context("find the other task's process")?;
    let supervisor = lab.server.supervisor().context("find the supervisor")?.as_raw_nonzero().get();
    let numbers = [lab.server.pid().to_string(), supervisor.to_string(), neighbour.to_string()];
    let mut arguments = vec!["processes"];
    arguments.extend(numbers.iter().map(String::as_str));
    let of_one = include_str!("expected/process.txt");
    let of_all: String =
        (0..numbers.len()).map(|at| of_one.replace("process N", &format!("process {at}"))).collect();
    let rest = include_str!("expected/processes.txt");
    let expected = format!("{of_all}{rest}");
    expect(&expected, &lab.run(&arguments)?)?;
    // With the capability to trace, what cannot be named cannot be traced.
    let traced: Vec<String> = expected
        .lines()
        .map(|line| {
            let is_of_other = line.starts_with("process ");
            let is_traced = ["ptrace", "process_vm", "kcmp"].iter().any(|call| line.contains(call));
            if is_of_other && is_traced { line.replace("EPERM", "ESRCH") } else { line.to_owned() }
        })
        .map(|line| if line.starts_with("pidfd_getfd") { "pidfd_getfd: success".to_owned() } else { line })
        .collect();
    let add = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    let output = lab.run_with(&arguments, |container| container["linuxParameters"] = add)?;
    expect(&traced.join("\n"), &output)?;
    ensure!(other.host_pids().contains(&neighbour), "the other task is gone");
    ensure!(other.describe()?["lastStatus"] == "RUNNING", "the other task does not run");
    ensure!(
        lab.server.supervisor().map(|pid| pid.as_raw_nonzero().get()) == Some(supervisor),
        "the supervisor is another"
    );
    other.stop().map(drop)
}

fn row_56_first_process_of_the_runtime() -> Result<()> {
    let lab = lab()?;
    let expected = include_str!("expected/initial-process.txt");
    let init = json!({"initProcessEnabled": true});
    expect(expected, &lab.run_with(&["initial-process"], |container| container["linuxParameters"] = init)?)?;
    let init = json!({"initProcessEnabled": true, "capabilities": {"add": ["SYS_PTRACE"]}});
    expect(expected, &lab.run_with(&["initial-process"], |container| container["linuxParameters"] = init)?)
}

fn row_63_objects_of_another_task() -> Result<()> {
    let lab = lab()?;
    let holder = lab.start(&lab.definition(&["ipc-hold"]))?;
    // Its own are there; that the names are right is proven by whoever holds them.
    expect(include_str!("expected/ipc-held.txt"), &holder.until_printed("held")?)?;
    expect(include_str!("expected/ipc-sought.txt"), &lab.run(&["ipc-seek"])?)?;
    holder.stop().map(drop)
}
