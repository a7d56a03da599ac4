//! Processes and threads of our own in a task's sandbox.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use neargate_container::SandboxProcesses;
use neargate_driver::{
    Limits, Process, ProcessError, ProcessHost, ProcessNetwork, ProcessRole, ProcessSpec, ProcessUser,
    SandboxProcessHost,
};

use crate::cases;
use crate::fixture::{Fixture, Task, has_v1};

cases![
    process_is_in_the_sandbox,
    process_has_the_memory_of_its_container,
    process_has_the_memory_of_its_task,
    process_ends_with_the_sandbox,
    no_process_in_no_sandbox,
    thread_is_in_the_sandbox,
];

/// What the processes do: `wait` until the second descriptor is closed, `hog` memory, or wait as a `thread`
/// that has joined the groups of the other descriptors.
pub(crate) fn role(input: &[u8], fds: Vec<OwnedFd>) -> i32 {
    match input {
        b"wait" => wait(&fds, &[]),
        b"thread" => {
            let (own, tasks) = fds.split_at(2);
            std::thread::scope(|scope| scope.spawn(|| wait(own, tasks)).join().unwrap_or(1))
        }
        b"hog" => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            (0..1024).for_each(|_| all.push(vec![1; 1 << 20]));
            std::hint::black_box(all);
            0
        }
        _ => 2,
    }
}

fn wait(fds: &[OwnedFd], tasks: &[OwnedFd]) -> i32 {
    let joined = tasks.iter().all(|tasks| rustix::io::write(tasks, b"0") == Ok(1));
    let _ = rustix::io::write(&fds[0], if joined { b"here" } else { b"gone" });
    let _ = rustix::io::read(&fds[1], &mut [0u8; 1]);
    7
}

fn processes(fixture: &Fixture) -> SandboxProcesses {
    SandboxProcesses::new(fixture.client.clone(), fixture.launcher.clone())
}

fn spec(what: &str) -> ProcessSpec {
    ProcessSpec {
        role: ProcessRole::WasmWorker,
        name: "0123-abc".to_owned(),
        input: what.as_bytes().to_vec(),
        fds: Vec::new(),
        mounts: Vec::new(),
        user: ProcessUser::Nobody,
        network: ProcessNetwork::None,
        memory_bytes: None,
        address_space_bytes: None,
        cpu_seconds: None,
        core: None,
    }
}

/// What starts a process.
enum In<'a> {
    Sandbox(&'a Task<'a>, Limits),
    Nothing(&'a Fixture),
}

/// Starts a process that waits until the descriptor is dropped.
async fn start_waiting(place: In<'_>, what: &str, more: Vec<OwnedFd>) -> (Arc<dyn Process>, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let (end, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut spec = spec(what);
    spec.fds.extend([write, end]);
    spec.fds.extend(more);
    let process = match place {
        In::Sandbox(task, limits) => processes(task.fixture).spawn_in(&task.sandbox, &limits, spec).await,
        In::Nothing(fixture) => fixture.launcher.spawn(spec).await,
    };
    let mut here = [0; 4];
    File::from(read).read_exact(&mut here).unwrap();
    assert_eq!(&here, b"here");
    (process.unwrap(), hold)
}

/// The directories of groups whose name begins so, below the task's.
fn groups(task: &Task<'_>, name: &str) -> Vec<PathBuf> {
    let children = task.cgroups().into_iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
    children.filter(|e| e.file_name().to_string_lossy().starts_with(name)).map(|e| e.path()).collect()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

async fn process_is_in_the_sandbox(fixture: &Fixture) {
    let task = fixture.task().await;
    let (container, streams) = task.start_ready("echo ready; cat; readlink /proc/self/ns/net", |_| {}).await;
    let limits = Limits { memory_bytes: Some(64 << 20), pids_max: Some(50), ..Limits::default() };
    let (process, hold) = start_waiting(In::Sandbox(&task, limits), "wait", Vec::new()).await;
    let network = fs::read_link(format!("/proc/{}/ns/net", process.id())).unwrap();
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", process.id())).unwrap();
    let within = format!("/neargate/{}/{}/0123-abc.", fixture.instance, task.group);
    assert!(cgroup.contains(&within), "{cgroup}");
    assert!(!groups(&task, "0123-abc.").is_empty());
    let (stdout, _) = streams.read().await;
    container.wait().await;
    assert_eq!(String::from_utf8_lossy(&stdout).trim(), network.to_string_lossy());
    drop(hold);
    assert_eq!(process.wait().await.code, 7);
    eventually("its groups are removed", || groups(&task, "0123-abc.").is_empty());
    task.release().await;
}

async fn hog_in(task: &Task<'_>, limits: &Limits) {
    let process = processes(task.fixture).spawn_in(&task.sandbox, limits, spec("hog")).await.unwrap();
    let exit = process.wait().await;
    assert_eq!((exit.code, exit.oom), (137, true));
    assert_eq!(process.wait().await, exit);
}

async fn process_has_the_memory_of_its_container(fixture: &Fixture) {
    let task = fixture.task().await;
    hog_in(&task, &Limits { memory_bytes: Some(32 << 20), ..Limits::default() }).await;
    task.release().await;
}

async fn process_has_the_memory_of_its_task(fixture: &Fixture) {
    let task = fixture.task_with(Limits { memory_bytes: Some(32 << 20), ..Limits::default() }).await;
    hog_in(&task, &Limits::default()).await;
    task.release().await;
}

async fn process_ends_with_the_sandbox(fixture: &Fixture) {
    let task = fixture.task().await;
    let (process, _hold) = start_waiting(In::Sandbox(&task, Limits::default()), "wait", Vec::new()).await;
    task.release().await;
    assert_eq!(process.wait().await.code, 137);
    assert!(task.cgroups().is_empty());
}

async fn no_process_in_no_sandbox(fixture: &Fixture) {
    let task = fixture.task().await;
    task.release().await;
    let processes = processes(fixture);
    let limits = Limits::default();
    assert!(processes.spawn_in(&task.sandbox, &limits, spec("wait")).await.is_err());
    assert!(processes.thread_slot(&task.sandbox, &limits).await.is_err());
}

async fn thread_is_in_the_sandbox(fixture: &Fixture) {
    let task = fixture.task().await;
    let limits = Limits { cpu_millis: Some(250), ..Limits::default() };
    let slot = processes(fixture).thread_slot(&task.sandbox, &limits).await;
    if !has_v1("cpu") {
        // Threads of one process cannot be told apart; that is said, and nothing is made.
        let refused = slot.map(drop).unwrap_err();
        assert!(
            matches!(&refused, ProcessError::Unsupported { why, .. } if why.contains("v2")),
            "{refused:?}"
        );
        assert!(groups(&task, "thread.").is_empty());
        return task.release().await;
    }
    let mut slot = slot.unwrap();
    let tasks = std::mem::take(&mut slot.tasks);
    let (process, hold) = start_waiting(In::Nothing(fixture), "thread", tasks).await;
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().flatten();
    let threads: Vec<PathBuf> = threads.map(|entry| entry.path()).collect();
    let within = format!("/{}/thread.", task.group);
    let is_inside = |thread: &Path| fs::read_to_string(thread.join("cgroup")).unwrap().contains(&within);
    let inside = threads.iter().filter(|thread| is_inside(thread)).count();
    assert_eq!((threads.len(), inside), (2, 1));
    let dirs = groups(&task, "thread.");
    let quota: Vec<_> =
        dirs.iter().filter_map(|dir| fs::read_to_string(dir.join("cpu.cfs_quota_us")).ok()).collect();
    assert_eq!(quota, ["25000\n"]);
    drop(slot);
    drop(hold);
    assert_eq!(process.wait().await.code, 7);
    eventually("its groups are removed", || groups(&task, "thread.").is_empty());
    task.release().await;
}
