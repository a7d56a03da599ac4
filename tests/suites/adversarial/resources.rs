//! Rows 65 to 76: tasks that use up what they share with others.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::expect::expect;
use crate::lab::{CLUSTER, Lab, Task, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_65_fork_bomb", Needs::Root, row_65_fork_bomb),
    ("row_67_memory_of_many_processes", Needs::Root, row_67_memory_of_many_processes),
    ("row_68_share_of_the_cpu", Needs::Root, row_68_share_of_the_cpu),
    ("row_68_priorities", Needs::Root, row_68_priorities),
    ("row_71_handles", Needs::Root, row_71_handles),
    ("row_76_core_dumps", Needs::Root, row_76_core_dumps),
];

/// What the bomb is given to end by itself, in seconds: of thousands of processes, the first one may not get its turn to hear
/// of it.
const STOP_TIMEOUT_S: u64 = 1;
/// Killed, it is gone within this, as the catalogue asks for.
const BOMB_KILL_LIMIT: Duration = Duration::from_secs(1);
/// Requests that are made while the bomb burns; none may take longer than [`CALL_LIMIT`].
const CALLS: usize = 100;
/// A request takes a few milliseconds; on a machine that other tests use, too, one may wait for its turn.
const CALL_LIMIT: Duration = Duration::from_secs(1);
/// A quarter of a CPU, in thousandths, and what a period and the end of the measurement may add to it.
const SHARE_MAX: u32 = 250 + 100;

fn row_65_fork_bomb() -> Result<()> {
    let lab = lab()?;
    let supervisor = lab.server.supervisor();
    let mut definition = lab.definition(&["fork-bomb"]);
    // So that it is the number of processes that ends it, and not memory. Processes pay for their own end, too: with
    // a quarter of a CPU that takes thousands of them two seconds.
    (definition["cpu"], definition["memory"]) = (json!("1024"), json!("2048"));
    definition["containerDefinitions"][0]["stopTimeout"] = json!(STOP_TIMEOUT_S);
    let bomb = lab.start(&definition)?;
    bomb.until_printed("fork: EAGAIN")?;
    let mut client = lab.client();
    let mut slowest = Duration::ZERO;
    for _ in 0..CALLS {
        let start = Instant::now();
        client.ecs("ListTasks", &json!({"cluster": CLUSTER}))?;
        slowest = slowest.max(start.elapsed());
    }
    ensure!(slowest < CALL_LIMIT, "a request took {slowest:?} beside the bomb");
    // A neighbour starts and ends as ever.
    expect("0: /dev/null\n1: pipe\n2: pipe", &lab.run(&["descriptors"])?)?;
    let start = Instant::now();
    let stopped = bomb.stop()?;
    let took = start.elapsed();
    let limit = Duration::from_secs(STOP_TIMEOUT_S) + BOMB_KILL_LIMIT;
    ensure!(took < limit, "the bomb took {took:?} to stop");
    ensure!(stopped["stopCode"] == "UserInitiated", "{stopped}");
    nothing_is_left(&bomb)?;
    ensure!(lab.server.supervisor() == supervisor, "the supervisor is another");
    Ok(())
}

/// To kill the one that is largest is of no use here: all of them are small, and each that dies becomes two.
fn row_67_memory_of_many_processes() -> Result<()> {
    let lab = lab()?;
    for init in [false, true] {
        let mut definition = lab.definition(&["memory-bomb"]);
        let container = &mut definition["containerDefinitions"][0];
        container["memory"] = json!(64);
        container["linuxParameters"] = json!({"initProcessEnabled": init});
        let bomb = lab.start(&definition)?;
        let task = bomb.until_stopped()?;
        let container = &task["containers"][0];
        ensure!(container["exitCode"] == json!(137), "{task}");
        ensure!(container["reason"] == "OutOfMemoryError: Container killed due to memory usage", "{task}");
        nothing_is_left(&bomb)?;
    }
    Ok(())
}

/// STOPPED holds nothing: no process of the task is there when its status says so.
fn nothing_is_left(task: &Task<'_>) -> Result<()> {
    let left = task.host_pids();
    ensure!(left.is_empty(), "processes of {} are left: {left:?}", task.arn);
    Ok(())
}

fn row_68_share_of_the_cpu() -> Result<()> {
    let output = lab()?.run(&["burn", "8", "3000"])?;
    let share = output.trim().strip_prefix("thousandths of a CPU: ").with_context(|| output.clone())?;
    let share: u32 = share.parse()?;
    ensure!((1..=SHARE_MAX).contains(&share), "256 units of CPU gave {share} thousandths of one");
    Ok(())
}

fn row_68_priorities() -> Result<()> {
    let expected = include_str!("expected/priorities.txt");
    expect(expected, &lab()?.run(&["priorities"])?)
}

/// Things that a task can hold without memory of its own end somewhere, and end there for nobody else.
fn row_71_handles() -> Result<()> {
    let lab = lab()?;
    let holder = lab.start(&lab.definition(&["handles"]))?;
    let output = holder.until_printed("held")?;
    let mut outcomes = Vec::new();
    for line in output.lines() {
        let (name, what) = line.split_once(": ").with_context(|| output.clone())?;
        let (count, why) = what.split_once(" then ").with_context(|| output.clone())?;
        let count: usize = count.parse()?;
        // Timers are counted as signals that wait, of which no more may be left.
        ensure!(count > 0 || why == "EPERM" || name == "timers of POSIX", "none at all of {name}: {output}");
        outcomes.push(format!("{name}: {why}"));
    }
    expect(include_str!("expected/handles.txt"), &outcomes.join("\n"))?;
    expect(include_str!("expected/a-few.txt"), &a_few(&lab)?)?;
    let own = std::process::id();
    ensure!(std::fs::read_dir(format!("/proc/{own}/fd")).is_ok(), "the host has no descriptor left");
    holder.stop()?;
    nothing_is_left(&holder)
}

/// What a neighbour gets of the same things.
fn a_few(lab: &Lab) -> Result<String> {
    lab.run(&["a-few"])
}

fn row_76_core_dumps() -> Result<()> {
    let lab = lab()?;
    let expected = include_str!("expected/core.txt");
    expect(expected, &lab.run(&["core"])?)?;
    let init = json!({"initProcessEnabled": true});
    expect(expected, &lab.run_with(&["core"], |container| container["linuxParameters"] = init)?)
}
