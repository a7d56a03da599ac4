//! Rows 55, 56 and 63: descriptors that a task was given, processes beside it, and what others keep under a name.

use anyhow::{Context as _, Result, ensure};
use neargate_tests::eventually;
use serde_json::json;

use crate::expect::expect;
use crate::lab::{IMAGE, TASK_LIMIT, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_55_descriptors", Needs::Root, row_55_descriptors),
    ("row_56_processes_of_others", Needs::Root, row_56_processes_of_others),
    ("row_56_first_process_of_the_runtime", Needs::Root, row_56_first_process_of_the_runtime),
    ("row_56_processes_of_the_task", Needs::Root, row_56_processes_of_the_task),
    ("row_56_pause_process", Needs::Root, row_56_pause_process),
    ("row_63_objects_of_another_task", Needs::Root, row_63_objects_of_another_task),
    ("row_63_objects_of_the_task", Needs::Root, row_63_objects_of_the_task),
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

/// A container that shares its task's processes sees those, and nobody else's; it kills all that it can.
fn row_56_processes_of_the_task() -> Result<()> {
    let lab = lab()?;
    let sharing = || {
        let mut definition = lab.definition(&["ipc-hold"]);
        definition["pidMode"] = json!("task");
        definition
    };
    let other = lab.start(&sharing())?;
    other.until_printed("held")?;
    let supervisor = lab.server.supervisor().context("find the supervisor")?.as_raw_nonzero().get();
    let neighbours = other.host_pids();
    ensure!(
        neighbours.len() == 2,
        "the other task has its container's process and the pause: {neighbours:?}"
    );
    let mut numbers = vec![lab.server.pid().to_string(), supervisor.to_string()];
    numbers.extend(neighbours.iter().map(ToString::to_string));
    let mut arguments = vec!["processes"];
    arguments.extend(numbers.iter().map(String::as_str));
    let mut definition = sharing();
    definition["containerDefinitions"] = json!([
        {"name": "main", "image": IMAGE, "command": arguments,
            "dependsOn": [{"containerName": "beside", "condition": "START"}]},
        {"name": "beside", "image": IMAGE, "command": ["ipc-hold"], "essential": false},
    ]);
    let of_one = include_str!("expected/process.txt");
    let of_all: String =
        (0..numbers.len()).map(|at| of_one.replace("process N", &format!("process {at}"))).collect();
    let task = lab.start(&definition)?;
    let stopped = task.until_stopped()?;
    let containers = stopped["containers"].as_array().context("containers")?;
    let code =
        |name: &str| containers.iter().find(|one| one["name"] == name).map(|one| one["exitCode"].clone());
    ensure!(code("main") == Some(json!(0)) && code("beside") == Some(json!(137)), "{stopped}");
    let said = task.output_of("main")?;
    // The pause, its sibling and itself; threads of its sibling have taken numbers between them.
    let seen =
        said.lines().find(|line| line.starts_with("processes seen: 1 2 ")).with_context(|| said.clone())?;
    ensure!(seen.split(' ').count() == 5, "{said}");
    let rest = include_str!("expected/processes.txt").replace("processes seen: 1", seen);
    let rest = rest.replace("kill all: ESRCH", "kill all: success");
    expect(&format!("{of_all}{rest}"), &said)?;
    ensure!(other.host_pids() == neighbours, "the other task has lost a process");
    other.stop().map(drop)
}

/// What holds the namespaces of such a task is as shut as every other process of the runtime, and cannot even be
/// signalled: it is another user's.
fn row_56_pause_process() -> Result<()> {
    let lab = lab()?;
    let expected = include_str!("expected/initial-process.txt").replace("kill: success", "kill: EPERM");
    for capabilities in [json!({}), json!({"add": ["SYS_PTRACE"]})] {
        let mut definition = lab.definition(&["initial-process"]);
        definition["pidMode"] = json!("task");
        definition["containerDefinitions"][0]["linuxParameters"] = json!({"capabilities": capabilities});
        expect(&expected, &lab.start(&definition)?.finish()?)?;
    }
    Ok(())
}

/// A container finds what its sibling holds if their task says so, as if it were its own.
fn row_63_objects_of_the_task() -> Result<()> {
    let lab = lab()?;
    let mut definition = lab.definition(&["ipc-hold"]);
    definition["requiresCompatibilities"] = json!(["EC2"]);
    definition["ipcMode"] = json!("task");
    definition["containerDefinitions"] = json!([
        {"name": "holder", "image": IMAGE, "command": ["ipc-hold"]},
        {"name": "main", "image": IMAGE, "entryPoint": ["/bin/busybox"], "command": ["sleep", "1000"],
            "dependsOn": [{"containerName": "holder", "condition": "START"}]},
    ]);
    let task = lab.start(&definition)?;
    let holds = || task.output_of("holder").ok()?.trim_end().strip_suffix("held").map(str::to_owned);
    let held = eventually(TASK_LIMIT, holds).context("wait for what is held")?;
    expect(include_str!("expected/ipc-held.txt"), held.trim())?;
    let seek = || {
        let arguments = ["exec", "--container", "main", &task.arn, "--", "/bin/intruder", "ipc-seek"];
        lab.server.run(&arguments).ok().filter(|finished| finished.code == 0)
    };
    let finished = eventually(TASK_LIMIT, seek).context("run a command in the other container")?;
    // With the socket to which it has just connected.
    let found =
        include_str!("expected/ipc-held.txt").replace("made: all\n", "").replace("table: 2", "table: 3");
    expect(&found, &finished.text())?;
    // And another task still nothing.
    expect(include_str!("expected/ipc-sought.txt"), &lab.run(&["ipc-seek"])?)?;
    task.stop().map(drop)
}

fn row_63_objects_of_another_task() -> Result<()> {
    let lab = lab()?;
    let holder = lab.start(&lab.definition(&["ipc-hold"]))?;
    // Its own are there; that the names are right is proven by whoever holds them.
    expect(include_str!("expected/ipc-held.txt"), &holder.until_printed("held")?)?;
    expect(include_str!("expected/ipc-sought.txt"), &lab.run(&["ipc-seek"])?)?;
    holder.stop().map(drop)
}
