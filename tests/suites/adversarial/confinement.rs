//! Rows 46 to 50, 59 and 64: who a task is to the kernel, which calls it may make, and the first steps of known ways out.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::expect::expect;
use crate::lab::lab;
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_46_identity", Needs::Root, row_46_identity),
    ("row_46_identity_of_a_user", Needs::Root, row_46_identity_of_a_user),
    ("row_46_identity_of_an_exec", Needs::Root, row_46_identity_of_an_exec),
    ("row_47_50_refused_calls", Needs::Root, row_47_50_refused_calls),
    ("row_47_calls_with_sys_ptrace", Needs::Root, row_47_calls_with_sys_ptrace),
    ("row_48_foreign_abis", Needs::Root, row_48_foreign_abis),
    ("row_48_sockets", Needs::Root, row_48_sockets),
    ("row_59_first_steps_of_escapes", Needs::Root, row_59_first_steps_of_escapes),
    ("row_64_clocks", Needs::Root, row_64_clocks),
];

const IDENTITY: &str = include_str!("expected/identity.txt");
const CALLS: &str = include_str!("expected/calls.txt");
/// Calls that come with SYS_PTRACE, which Fargate allows to be added, and what they answer to arguments that make no
/// sense.
const CALLS_OF_PTRACE: [&str; 6] =
    ["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"];

/// The arguments of the intruder's `identity`.
fn identity() -> Result<Vec<String>> {
    let mut arguments = vec!["identity".to_owned()];
    for entry in fs::read_dir("/proc/self/ns").context("list our namespaces")? {
        arguments.push(fs::read_link(entry?.path())?.display().to_string());
    }
    ensure!(arguments.len() > 8, "we have too few namespaces: {arguments:?}");
    Ok(arguments)
}

fn row_46_identity() -> Result<()> {
    let arguments = identity()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lab = lab()?;
    expect(IDENTITY, &lab.run(&arguments)?)?;
    let with_init = lab.run_with(&arguments, |container| {
        container["linuxParameters"] = json!({"initProcessEnabled": true});
    })?;
    // The runtime's first process is the parent, and the session's leader all the same.
    expect(&IDENTITY.replace("parent: 0", "parent: 1"), &with_init)
}

fn row_46_identity_of_a_user() -> Result<()> {
    let arguments = identity()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = lab()?.run_with(&arguments, |container| container["user"] = json!("user"))?;
    let bounding = IDENTITY.lines().find(|line| line.starts_with("CapBnd")).context("find CapBnd")?;
    let expected: Vec<String> = IDENTITY
        .lines()
        .map(|line| match line.split_once(": ") {
            Some(("Uid" | "Gid", _)) => line.replace('0', "1000"),
            Some(("CapPrm" | "CapEff", _)) => format!("{}: none", &line[..6]),
            _ => line.to_owned(),
        })
        .collect();
    ensure!(expected.iter().any(|line| line == bounding), "the bounding set is still expected");
    expect(&expected.join("\n"), &output)
}

/// A command that is run in the task later has no more than the task.
fn row_46_identity_of_an_exec() -> Result<()> {
    let lab = lab()?;
    let task = lab.start(&lab.definition(&["ipc-hold"]))?;
    task.until_printed("held")?;
    let mut arguments =
        vec!["exec".to_owned(), task.arn.clone(), "--".to_owned(), "/bin/intruder".to_owned()];
    arguments.extend(identity()?);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let finished = lab.server.run(&arguments)?;
    ensure!(finished.code == 0, "{}", finished.stderr);
    task.stop()?;
    // It leads a session of its own, and its parent is outside.
    let output: Vec<String> = finished
        .text()
        .lines()
        .map(|line| if line.starts_with("session: ") { "session: 1".to_owned() } else { line.to_owned() })
        .collect();
    expect(IDENTITY, &output.join("\n"))
}

fn row_47_50_refused_calls() -> Result<()> {
    expect(CALLS, &lab()?.run(&["calls"])?)
}

fn row_47_calls_with_sys_ptrace() -> Result<()> {
    let add = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    let output = lab()?.run_with(&["calls"], |container| container["linuxParameters"] = add)?;
    let expected: Vec<String> = CALLS
        .lines()
        .map(|line| match line.split_once(": ") {
            Some((call, _)) if CALLS_OF_PTRACE.contains(&call) => {
                format!("{call}: EBADF|EFAULT|EINVAL|EIO|ESRCH")
            }
            _ => line.to_owned(),
        })
        .collect();
    expect(&expected.join("\n"), &output)
}

fn row_48_foreign_abis() -> Result<()> {
    expect(include_str!("expected/foreign.txt"), &lab()?.run(&["foreign"])?)
}

fn row_48_sockets() -> Result<()> {
    expect(include_str!("expected/sockets.txt"), &lab()?.run(&["sockets"])?)
}

fn row_59_first_steps_of_escapes() -> Result<()> {
    let expected = include_str!("expected/escapes.txt");
    expect(expected, &lab()?.run(&["escapes"])?)?;
    // As an ordinary user, and with the one capability that may be added.
    let as_user = lab()?.run_with(&["escapes"], |container| container["user"] = json!("user"))?;
    expect(&expected.replace("EXDEV", "EPERM"), &as_user)?;
    let add = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    expect(expected, &lab()?.run_with(&["escapes"], |container| container["linuxParameters"] = add)?)
}

fn row_64_clocks() -> Result<()> {
    expect(include_str!("expected/clocks.txt"), &lab()?.run(&["clocks"])?)
}
