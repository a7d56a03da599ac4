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
    ("row_72_connections", Needs::Root, row_72_connections),
    ("row_73_disk_hog", Needs::Root, row_73_disk_hog),
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
/// What connections of a task of 512 MiB may hold: a quarter of its memory, and as much again for what the kernel lets each
/// have beyond that. Without a limit those of the intruder hold a GiB.
const TCP_BYTES_MAX: u64 = 256 << 20;
/// A page, as far as the machines have it that the suite runs on.
const PAGE_BYTES: u64 = 4096;
/// Writes of the server beside a task that writes; none may take longer than [`WRITE_LIMIT`].
const WRITES: usize = 20;
/// A write takes a millisecond. A disk that somebody else uses up gives it less, and how much less is its own affair; to
/// wait longer than this would be noticed.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
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

/// What a task holds in connections is memory of the kernel; it ends somewhere, and there for nobody else.
fn row_72_connections() -> Result<()> {
    let lab = lab()?;
    let before = tcp_bytes()?;
    // What a task of awsvpc reaches depends on the network around this machine.
    let mut definition = lab.definition(&["connections"]);
    definition["networkMode"] = json!("none");
    definition["requiresCompatibilities"] = json!(["EC2"]);
    let holder = lab.start(&definition)?;
    let output = holder.until_printed("held")?;
    let held = tcp_bytes()?.saturating_sub(before);
    let (reached, held_mib) = output.rsplit_once("MiB in connections: ").with_context(|| output.clone())?;
    expect(include_str!("expected/connections.txt"), reached)?;
    let held_mib: u64 = held_mib.trim().parse()?;
    ensure!(held_mib > 0, "nothing went into the connections: {output}");
    ensure!(held < TCP_BYTES_MAX, "{held} bytes of the kernel are in connections of a task");
    expect("talk: success", &lab.run(&["talk"])?)?;
    holder.stop()?;
    nothing_is_left(&holder)
}

/// What all connections of the machine hold, in bytes (proc_net(5)).
fn tcp_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat").context("read sockstat")?;
    let pages = text.lines().find_map(|line| line.strip_prefix("TCP: ")?.rsplit_once("mem "));
    let (_, pages) = pages.with_context(|| text.clone())?;
    Ok(pages.trim().parse::<u64>()? * PAGE_BYTES)
}

/// The disk is not divided among tasks; what the server must write goes on all the same.
fn row_73_disk_hog() -> Result<()> {
    let lab = lab()?;
    let mut definition = lab.definition(&[]);
    let script = "trap 'exit 0' TERM; echo writing; while :; do dd if=/dev/zero of=/hog bs=1M count=64 conv=fsync; done 2>/dev/null";
    definition["containerDefinitions"][0]["entryPoint"] = json!(["sh", "-c", script]);
    let hog = lab.start(&definition)?;
    hog.until_printed("writing")?;
    let mut client = lab.client();
    let mut slowest = Duration::ZERO;
    for number in 0..WRITES {
        let start = Instant::now();
        client.ecs("CreateCluster", &json!({"clusterName": format!("beside-a-hog-{number}")}))?;
        slowest = slowest.max(start.elapsed());
    }
    ensure!(slowest < WRITE_LIMIT, "a write took {slowest:?} beside the hog");
    // A neighbour starts and ends.
    expect("0: /dev/null\n1: pipe\n2: pipe", &lab.run(&["descriptors"])?)?;
    hog.stop().map(drop)
}

fn row_76_core_dumps() -> Result<()> {
    let lab = lab()?;
    let expected = include_str!("expected/core.txt");
    expect(expected, &lab.run(&["core"])?)?;
    let init = json!({"initProcessEnabled": true});
    expect(expected, &lab.run_with(&["core"], |container| container["linuxParameters"] = init)?)
}
