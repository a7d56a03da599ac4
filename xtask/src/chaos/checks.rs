//! The invariants, checked from outside: by what the API says, what tasks have written, and what the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use neargate_tests::eventually;
use neargate_tests::groups::groups_of_tasks;
use serde_json::{Value, json};

use super::load::{Job, Kind, Load, STOPPED_CODE};
use super::machine::{CLUSTER, Caller};

/// All tasks end within this; the longest of them is stopped when it has run.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// What tasks had is gone within this after the last was reported as stopped.
const LEAK_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at the list of tasks.
const PAUSE: Duration = Duration::from_millis(10);
/// Tasks that are described at a time (API reference, DescribeTasks).
const DESCRIBED_MAX: usize = 100;
/// The exit code of a shell that could not start one more process.
const NO_FORK_CODE: i64 = 2;
/// The exit code of what the kernel has killed for its memory.
const OUT_OF_MEMORY_CODE: i64 = 137;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// No accepted task is lost.
    Kept,
    /// None runs twice.
    Once,
    /// Its end is told as it was, or said to be unknown.
    Honest,
    /// Nothing of it is left.
    Clean,
    /// The API answers, or fails at once.
    Answering,
    /// Running tasks go on.
    Undisturbed,
    /// Limits hold.
    Limited,
}

/// All of them, with the names that the scoreboard has for them.
pub(crate) const INVARIANTS: [(Invariant, &str); 7] = [
    (Invariant::Kept, "I1"),
    (Invariant::Once, "I2"),
    (Invariant::Honest, "I3"),
    (Invariant::Clean, "I4"),
    (Invariant::Answering, "I5"),
    (Invariant::Undisturbed, "I6"),
    (Invariant::Limited, "I9"),
];

/// Something that does not hold, for people.
pub(crate) type Violation = (Invariant, String);

/// What became of a task.
#[derive(Debug, PartialEq)]
enum Verdict {
    Right,
    /// It is told that its end is not known, and why.
    Unknown(String),
    Wrong(Invariant, &'static str),
}

/// Waits until all of these have stopped and no task but the heartbeats is listed; what still is does not end.
pub(crate) fn drain(caller: &mut Caller, load: &Load, jobs: &[Job]) -> BTreeSet<String> {
    let until = Instant::now() + DRAIN_LIMIT;
    let steady: BTreeSet<&str> = load.heartbeats.iter().map(|job| job.arn.as_str()).collect();
    loop {
        load.stop_due(caller);
        let left = unfinished(caller, jobs).and_then(|mut left| {
            for arn in list(caller)?.into_iter().filter(|arn| !steady.contains(arn.as_str())) {
                // Nobody heard that it was accepted, so nobody stops it.
                if !jobs.iter().any(|job| job.arn == arn) {
                    caller.call("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
                }
                left.insert(arn);
            }
            Ok(left)
        });
        let is_over = Instant::now() > until;
        match left {
            Ok(left) if left.is_empty() || is_over => return left,
            Err(error) if is_over => return BTreeSet::from([format!("the list of tasks: {error:#}")]),
            Ok(_) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Which of these have not stopped. One that is not known any more is found by [`judge`].
fn unfinished(caller: &mut Caller, jobs: &[Job]) -> Result<BTreeSet<String>> {
    let mut left = BTreeSet::new();
    for jobs in jobs.chunks(DESCRIBED_MAX) {
        let arns: Vec<&str> = jobs.iter().map(|job| job.arn.as_str()).collect();
        let answer = caller.call("DescribeTasks", &json!({"cluster": CLUSTER, "tasks": arns}))?;
        let tasks = answer["tasks"].as_array().into_iter().flatten();
        let running = tasks.filter(|task| task["lastStatus"] != "STOPPED");
        left.extend(running.filter_map(|task| task["taskArn"].as_str().map(str::to_owned)));
    }
    Ok(left)
}

fn list(caller: &mut Caller) -> Result<Vec<String>> {
    let mut arns = Vec::new();
    let mut next = Value::Null;
    loop {
        let answer = caller.call("ListTasks", &json!({"cluster": CLUSTER, "nextToken": next}))?;
        let page = answer["taskArns"].as_array().context("read the list of tasks")?;
        arns.extend(page.iter().filter_map(|arn| arn.as_str().map(str::to_owned)));
        next = answer["nextToken"].clone();
        if next.is_null() {
            return Ok(arns);
        }
    }
}

/// Compares how tasks have ended with how they should have; also the reasons of ends that are not known.
pub(crate) fn judge(
    caller: &mut Caller,
    jobs: &[Job],
    runs: &BTreeMap<u64, usize>,
) -> Result<(Vec<Violation>, Vec<String>)> {
    let (mut violations, mut unknown) = (Vec::new(), Vec::new());
    for jobs in jobs.chunks(DESCRIBED_MAX) {
        let arns: Vec<&str> = jobs.iter().map(|job| job.arn.as_str()).collect();
        let described = caller.call("DescribeTasks", &json!({"cluster": CLUSTER, "tasks": arns}))?;
        let tasks: BTreeMap<&str, &Value> = described["tasks"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|task| Some((task["taskArn"].as_str()?, task)))
            .collect();
        for job in jobs {
            let ran = runs.get(&job.number).copied().unwrap_or(0);
            let Some(task) = tasks.get(job.arn.as_str()) else {
                violations.push((Invariant::Kept, format!("{} is not known any more", job.arn)));
                continue;
            };
            match verdict(job.kind, task, ran) {
                Verdict::Right => {}
                Verdict::Unknown(reason) => unknown.push(reason),
                Verdict::Wrong(invariant, what) => {
                    let what = format!("{what}: {:?}, ran {ran} times: {}", job.kind, short(task));
                    violations.push((invariant, what));
                }
            }
        }
    }
    Ok((violations, unknown))
}

fn verdict(kind: Kind, task: &Value, ran: usize) -> Verdict {
    let (expected, of_memory) = match kind {
        Kind::Exit(code) | Kind::Bridged(code) => (code, false),
        Kind::Stopped => (STOPPED_CODE, false),
        Kind::Wasm => (0, false),
        Kind::Hog => (OUT_OF_MEMORY_CODE, true),
        Kind::Crowd => (NO_FORK_CODE, false),
    };
    let container = &task["containers"][0];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reasons = [text(&container["reason"]), text(&task["stoppedReason"])];
    let is_out_of_memory = reasons.iter().any(|reason| reason.contains("OutOfMemory"));
    if task["lastStatus"] != "STOPPED" {
        return Verdict::Wrong(Invariant::Kept, "a task does not end");
    }
    if ran > 1 {
        return Verdict::Wrong(Invariant::Once, "a task ran twice");
    }
    match container["exitCode"].as_i64() {
        Some(_) if ran == 0 && text(&task["stopCode"]) == "TaskFailedToStart" => {
            Verdict::Unknown(why(reasons))
        }
        Some(_) if ran == 0 => Verdict::Wrong(Invariant::Honest, "a task has an exit code and never ran"),
        Some(code) if code == expected && of_memory == is_out_of_memory => Verdict::Right,
        Some(_) if of_memory => Verdict::Wrong(Invariant::Limited, "a task over its memory ended otherwise"),
        Some(_) if kind == Kind::Crowd => {
            Verdict::Wrong(Invariant::Limited, "a task with too many processes ended otherwise")
        }
        Some(_) => Verdict::Wrong(Invariant::Honest, "a task has a wrong exit code or reason"),
        None if reasons.iter().all(String::is_empty) => {
            Verdict::Wrong(Invariant::Honest, "a task has neither exit code nor reason")
        }
        None => Verdict::Unknown(why(reasons)),
    }
}

fn why([container, task]: [String; 2]) -> String {
    if container.is_empty() { task } else { container }
}

/// What a person needs to see of a task.
fn short(task: &Value) -> String {
    let container = &task["containers"][0];
    let seen =
        ["taskArn", "lastStatus", "desiredStatus", "stopCode", "stoppedReason"].map(|name| &task[name]);
    let [arn, last, desired, code, reason] = seen;
    format!("{arn} {last} {desired} {code} {reason} exit {} {}", container["exitCode"], container["reason"])
}

/// Numbers that ran twice, whoever submitted them and whether or not they were accepted.
pub(crate) fn ran_twice(runs: &BTreeMap<u64, usize>) -> Vec<Violation> {
    let twice = runs.iter().filter(|(_, times)| **times > 1);
    twice.map(|(number, times)| (Invariant::Once, format!("task {number} ran {times} times"))).collect()
}

/// Waits until nothing is left of tasks that have stopped: no group, process or directory; else what is.
pub(crate) fn leaks_of(data: &Path, jobs: &[Job]) -> Vec<Violation> {
    let ids: BTreeSet<&str> = jobs.iter().map(Job::id).collect();
    let look = || {
        let mut left: Vec<String> =
            groups_of_tasks(|task| ids.contains(task)).iter().map(|dir| shown("cgroup", dir)).collect();
        left.extend(
            entries(&data.join("scratch"), |name| ids.contains(name))
                .iter()
                .map(|dir| shown("directory", dir)),
        );
        left
    };
    settle(look)
}

/// Waits until a server and its supervisor have no more descriptors than they may; else how many they have. Returns what
/// they had last, too.
pub(crate) fn descriptors(
    counts: impl Fn() -> Option<[usize; 2]>,
    most: [usize; 2],
) -> (Option<[usize; 2]>, Option<Violation>) {
    let is_within = |counts: &[usize; 2]| counts.iter().zip(&most).all(|(count, most)| count <= most);
    let settled = eventually(LEAK_LIMIT, || counts().filter(is_within));
    let last = settled.or_else(&counts);
    let what = match (settled, last) {
        (Some(_), _) => return (last, None),
        (None, Some([server, supervisor])) => {
            format!(
                "open descriptors: {server} of the server, {supervisor} of the supervisor, at most {most:?}"
            )
        }
        (None, None) => "there is no supervisor whose descriptors could be counted".to_owned(),
    };
    (last, Some((Invariant::Clean, what)))
}

/// Waits until nothing is left of a server that has ended with all tasks; `groups` is where its groups were.
pub(crate) fn remains_of(data: &Path, groups: &BTreeSet<PathBuf>) -> Vec<Violation> {
    let path = data.display().to_string();
    let look = || {
        let mut left = processes("cmdline", |line| line.contains(&path));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&path)).map(|line| format!("mount {line}")));
        left.extend(groups.iter().filter(|dir| dir.exists()).map(|dir| shown("cgroup", dir)));
        let run = entries(&data.join("run"), |name| !name.ends_with(".lock"));
        let scratch = entries(&data.join("scratch"), |_| true);
        left.extend(run.iter().chain(&scratch).map(|dir| shown("file", dir)));
        left
    };
    settle(look)
}

fn settle(look: impl Fn() -> Vec<String>) -> Vec<Violation> {
    match eventually(LEAK_LIMIT, || look().is_empty().then_some(())) {
        Some(()) => Vec::new(),
        None => look().into_iter().map(|left| (Invariant::Clean, format!("left: {left}"))).collect(),
    }
}

/// The groups of the server that has this task, in every hierarchy.
pub(crate) fn groups_of_server(task: &str) -> BTreeSet<PathBuf> {
    groups_of_tasks(|of| of == task).iter().filter_map(|dir| dir.parent().map(Path::to_owned)).collect()
}

fn shown(kind: &str, path: &Path) -> String {
    format!("{kind} {}", path.display())
}

/// Processes of whose file in `/proc` something is true.
fn processes(file: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let pids = entries(Path::new("/proc"), |name| name.bytes().all(|b| b.is_ascii_digit()));
    let text = |path: &Path| {
        fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    let wanted = pids.into_iter().filter(|pid| is_wanted(&text(&pid.join(file))));
    wanted.map(|pid| format!("process {} {}", pid.display(), text(&pid.join("comm")).trim())).collect()
}

fn entries(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    all.filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted)).map(|entry| entry.path()).collect()
}

/// All files below a directory, to be compared. Directories are not: the store keeps those that it sorts blobs into, of
/// which there are 256 at most.
pub(crate) fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else {
                found.insert(entry.path());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_judged_by_what_was_to_be() {
        let task = |status: &str, code: Value, reason: &str| {
            json!({"lastStatus": status, "stopCode": "EssentialContainerExited",
                   "containers": [{"exitCode": code, "reason": reason}], "stoppedReason": ""})
        };
        let check = |kind: Kind, task: Value, ran: usize, expect: Option<Invariant>| {
            let found = match verdict(kind, &task, ran) {
                Verdict::Wrong(invariant, _) => Some(invariant),
                Verdict::Right | Verdict::Unknown(_) => None,
            };
            assert_eq!(found, expect, "{kind:?} ran {ran} times: {task}");
        };
        let oom = "OutOfMemoryError: Container killed due to memory usage";
        check(Kind::Exit(4), task("STOPPED", json!(4), ""), 1, None);
        check(Kind::Exit(4), task("STOPPED", json!(4), ""), 2, Some(Invariant::Once));
        check(Kind::Exit(4), task("STOPPED", json!(4), ""), 0, Some(Invariant::Honest));
        check(Kind::Exit(4), task("STOPPED", json!(0), ""), 1, Some(Invariant::Honest));
        check(Kind::Exit(4), task("STOPPED", json!(null), ""), 1, Some(Invariant::Honest));
        check(Kind::Exit(4), task("STOPPED", json!(null), "Host lost"), 1, None);
        check(Kind::Exit(4), task("RUNNING", json!(null), ""), 1, Some(Invariant::Kept));
        check(Kind::Stopped, task("STOPPED", json!(STOPPED_CODE), ""), 1, None);
        check(Kind::Hog, task("STOPPED", json!(OUT_OF_MEMORY_CODE), oom), 1, None);
        check(Kind::Hog, task("STOPPED", json!(OUT_OF_MEMORY_CODE), ""), 1, Some(Invariant::Limited));
        check(Kind::Hog, task("STOPPED", json!(0), ""), 1, Some(Invariant::Limited));
        check(Kind::Crowd, task("STOPPED", json!(NO_FORK_CODE), ""), 1, None);
        check(Kind::Crowd, task("STOPPED", json!(0), ""), 1, Some(Invariant::Limited));
        check(Kind::Exit(137), task("STOPPED", json!(137), oom), 1, Some(Invariant::Honest));
    }
}
