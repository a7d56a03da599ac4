//! Limits hold, and going over one is told.

use std::fs;
use std::path::PathBuf;

use neargate_driver::{Limits, StartError, Ulimit};

use crate::cases;
use crate::fixture::{Fixture, Task, eventually, has_v1};

cases![
    row_65_fork_bomb,
    memory_of_container,
    memory_of_task,
    row_67_oom_of_a_child_ends_the_container,
    oom_beside_an_init,
    row_44_ulimits_beyond_the_host,
    cpu_quota_is_set,
    limits_of_container_are_set,
    reservations_hold_against_other_tasks,
    swap_is_none_unless_allowed,
    swap_of_container_is_set,
];

async fn row_65_fork_bomb(fixture: &Fixture) {
    let task = fixture.task().await;
    let limits = Limits { pids_max: Some(20), ..Limits::default() };
    let script = "i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done; echo unlimited";
    let output = task.sh_with(script, |spec| spec.limits = limits).await;
    assert!(output.errors().contains("can't fork"), "{output:?}");
    assert_ne!(output.text(), "unlimited");
    let task_limit = fixture.task_with(Limits { pids_max: Some(20), ..Limits::default() }).await;
    assert!(task_limit.sh(script).await.errors().contains("can't fork"));
    task.release().await;
    task_limit.release().await;
}

const MIB: u64 = 1024 * 1024;
/// Fills memory that counts as the shell's own.
const HOG: &str = "x=x; while :; do x=$x$x; done";

fn memory(mib: u64) -> Limits {
    Limits { memory_bytes: Some(mib * MIB), ..Limits::default() }
}

async fn memory_of_container(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task.sh_with(HOG, |spec| spec.limits = memory(16)).await;
    assert_eq!((output.code(), output.exit.oom), (Some(137), true), "{output:?}");
    let output = task.sh_with("echo small", |spec| spec.limits = memory(16)).await;
    assert_eq!((output.code(), output.exit.oom, output.text().as_str()), (Some(0), false, "small"));
    task.release().await;
}

async fn memory_of_task(fixture: &Fixture) {
    let task = fixture.task_with(memory(16)).await;
    let output = task.sh(HOG).await;
    assert_eq!((output.code(), output.exit.oom), (Some(137), true), "{output:?}");
    task.release().await;
}

/// The kernel of v1 kills one process; a container of which a part is gone must not go on.
async fn row_67_oom_of_a_child_ends_the_container(fixture: &Fixture) {
    let task = fixture.task_with(memory(64)).await;
    let (other, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let script = format!("sh -c '{HOG}'; sleep 100; echo went on");
    let output = task.sh_with(&script, |spec| spec.limits = memory(16)).await;
    assert_eq!((output.code(), output.exit.oom, output.text().as_str()), (Some(137), true, ""), "{output:?}");
    assert_eq!(other.stats().await.unwrap().pids, 1, "a neighbour within its limit lives on");
    task.release().await;
}

async fn oom_beside_an_init(fixture: &Fixture) {
    let task = fixture.task().await;
    let output = task
        .sh_with(HOG, |spec| {
            spec.limits = memory(16);
            spec.init = true;
        })
        .await;
    assert_eq!((output.code(), output.exit.oom), (Some(137), true), "{output:?}");
    task.release().await;
}

/// More open files than the kernel allows are refused by name; no number of processes gets around the task's.
async fn row_44_ulimits_beyond_the_host(fixture: &Fixture) {
    let task = fixture.task_with(Limits { pids_max: Some(20), ..Limits::default() }).await;
    let ulimit = |name: &str, value| vec![Ulimit { name: name.to_owned(), soft: value, hard: value }];
    let (mut spec, _streams) = task.spec(&["true"]);
    spec.ulimits = ulimit("nofile", u64::MAX);
    let error = task.start(spec).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, StartError::Unsupported { why, .. } if why.contains("fs.nr_open")), "{error:?}");
    let most = rustix::process::getrlimit(rustix::process::Resource::Nproc).maximum.unwrap_or(u64::MAX);
    let script = "i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done; echo endless";
    let output = task.sh_with(script, |spec| spec.ulimits = ulimit("nproc", most)).await;
    assert!(output.errors().contains("can't fork"), "{output:?}");
    assert_eq!(output.text(), "");
    task.release().await;
}

/// The one value that a file of this name has in the directories of a task.
fn value_of(dirs: &[PathBuf], name: &str) -> Option<String> {
    dirs.iter().find_map(|dir| fs::read_to_string(dir.join(name)).ok()).map(|text| text.trim().to_owned())
}

async fn cpu_quota_is_set(fixture: &Fixture) {
    let limits = Limits { cpu_millis: Some(250), cpu_shares: Some(512), ..Limits::default() };
    let task = fixture.task_with(limits).await;
    let dirs = task.cgroups();
    match value_of(&dirs, "cpu.max") {
        Some(max) => {
            assert_eq!(max, "25000 100000");
            assert_eq!(value_of(&dirs, "cpu.weight").as_deref(), Some("20"));
        }
        None => {
            assert_eq!(value_of(&dirs, "cpu.cfs_quota_us").as_deref(), Some("25000"));
            assert_eq!(value_of(&dirs, "cpu.shares").as_deref(), Some("512"));
        }
    }
    let (_handle, _streams) = task.start_ready("echo ready; while :; do :; done", |_| {}).await;
    let is_throttled = || {
        let stat = value_of(&dirs, "cpu.stat").unwrap_or_default();
        stat.lines().any(|line| line.strip_prefix("nr_throttled ").is_some_and(|count| count != "0"))
    };
    eventually("it is not made to wait", is_throttled).await;
    task.release().await;
}

/// The groups of the containers of a task.
fn container_groups(task: &Task<'_>) -> Vec<PathBuf> {
    let below = |dir: &PathBuf| fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    task.cgroups().iter().flat_map(below).filter(|path| path.is_dir()).collect()
}

async fn limits_of_container_are_set(fixture: &Fixture) {
    let task = fixture.task_with(Limits { memory_bytes: Some(512 * MIB), ..Limits::default() }).await;
    let limits = Limits {
        cpu_millis: Some(1500),
        cpu_shares: Some(2),
        memory_bytes: Some(32 * MIB + 1),
        memory_reservation_bytes: Some(16 * MIB),
        pids_max: Some(77),
        ..Limits::default()
    };
    let (handle, _streams) = task.start_ready("echo ready; cat", |spec| spec.limits = limits).await;
    let dirs = container_groups(&task);
    let check = |v1: &str, v1_value: &str, v2: &str, v2_value: &str| match value_of(&dirs, v1) {
        Some(value) => assert_eq!(value, v1_value, "{v1}"),
        None => assert_eq!(value_of(&dirs, v2).as_deref(), Some(v2_value), "{v2}"),
    };
    check("cpu.cfs_quota_us", "150000", "cpu.max", "150000 100000");
    check("cpu.shares", "2", "cpu.weight", "1");
    check("memory.limit_in_bytes", "33554432", "memory.max", "33554432");
    check("memory.soft_limit_in_bytes", "16777216", "memory.low", "16777216");
    check("pids.max", "77", "pids.max", "77");
    task.release().await;
    assert_eq!(handle.wait().await.code, Some(137));
}

/// The bytes of files that a container's group has in memory.
fn cached_bytes(task: &Task<'_>) -> u64 {
    let stat = value_of(&container_groups(task), "memory.stat").unwrap();
    stat.lines().find_map(|line| line.strip_prefix("file ")).unwrap().parse().unwrap()
}

/// In v2 a reservation protects no further than the groups above hold it, too.
async fn reservations_hold_against_other_tasks(fixture: &Fixture) {
    if has_v1("memory") {
        println!("SKIPPED: reservations_hold_against_other_tasks: v1 weighs groups without those above them");
        return;
    }
    let all = fixture.cgroup_top();
    let reserved = || fs::read_to_string(all.join("memory.low")).unwrap().trim().parse::<u64>().unwrap();
    let before = reserved();
    let (with, without) = (fixture.task().await, fixture.task().await);
    let reservation = Limits { memory_reservation_bytes: Some(32 * MIB), ..Limits::default() };
    let script = "head -c 25165824 /dev/zero > /file; echo ready; cat";
    let (_one, _a) = with.start_ready(script, |spec| spec.limits = reservation.clone()).await;
    let (_two, _b) = without.start_ready(script, |_| {}).await;
    assert_eq!(reserved(), before + 32 * MIB);
    // What is not on the disk cannot be reclaimed at once.
    rustix::fs::sync();
    let before_reclaim = (cached_bytes(&with), cached_bytes(&without));
    assert!(before_reclaim.0 >= 24 * MIB && before_reclaim.1 >= 24 * MIB, "{before_reclaim:?}");
    fs::write(all.join("memory.reclaim"), "8M").unwrap();
    let lost = before_reclaim.0.saturating_sub(cached_bytes(&with));
    let neighbour_lost = before_reclaim.1.saturating_sub(cached_bytes(&without));
    assert!(
        lost < MIB && neighbour_lost > 6 * MIB,
        "it lost {lost} bytes, and its neighbour {neighbour_lost}"
    );
    with.release().await;
    without.release().await;
    assert_eq!(reserved(), before);
}

/// Files that bound memory and swap together (v1) or swap alone (v2); kernels that count no swap lack them.
const SWAP_FILES: [&str; 2] = ["memory.memsw.limit_in_bytes", "memory.swap.max"];

async fn swap_is_none_unless_allowed(fixture: &Fixture) {
    let task = fixture.task_with(memory(64)).await;
    match SWAP_FILES.map(|file| value_of(&task.cgroups(), file)) {
        [Some(both), _] => assert_eq!(both, (64 * MIB).to_string()),
        [None, Some(swap)] => assert_eq!(swap, "0"),
        [None, None] => eprintln!("SKIPPED: no swap, because this kernel counts none"),
    }
    task.release().await;
}

async fn swap_of_container_is_set(fixture: &Fixture) {
    let counts = fixture.task_with(memory(64)).await;
    let is_counted = SWAP_FILES.iter().any(|file| value_of(&counts.cgroups(), file).is_some());
    counts.release().await;
    let swapping = |mib| Limits { swap_bytes: Some(8 * MIB), swappiness: Some(7), ..memory(mib) };
    if !is_counted {
        let task = fixture.task().await;
        let (mut spec, _streams) = task.spec(&["true"]);
        spec.limits = swapping(32);
        let error = task.start(spec).await.map(|_| ()).unwrap_err();
        assert!(matches!(&error, StartError::Unsupported { what, .. } if what == "swap"), "{error:?}");
        return task.release().await;
    }
    let task = fixture.task_with(swapping(64)).await;
    let (_handle, _streams) = task.start_ready("echo ready; cat", |spec| spec.limits = swapping(32)).await;
    let dirs = container_groups(&task);
    match SWAP_FILES.map(|file| value_of(&dirs, file)) {
        [Some(both), _] => {
            assert_eq!(both, (40 * MIB).to_string());
            assert_eq!(value_of(&dirs, "memory.swappiness").as_deref(), Some("7"));
        }
        [None, swap] => assert_eq!(swap, Some((8 * MIB).to_string())),
    }
    task.release().await;
}
