//! Containers that share processes, or System V objects, message queues and `/dev/shm`, with each other or with the host.

use std::fs;
use std::path::{Path, PathBuf};

use neargate_container::SupervisorClient;
use neargate_driver::{Handle, Limits, SandboxHost, SandboxNetwork, SandboxSpec, Sharing, Signal};
use neargate_model::{IpcMode, PidMode};

use crate::cases;
use crate::fixture::{Fixture, Streams, Task, eventually, exec_spec};

cases![
    processes_of_a_task,
    an_end_takes_all_of_its_own_along,
    a_kill_takes_all_of_its_own_along,
    orphans_are_reaped,
    commands_share_too,
    the_pause_process_is_out_of_reach,
    a_killed_pause_process_is_replaced,
    objects_of_a_task,
    objects_without_shared_memory,
    processes_of_the_host,
    strays_on_the_host_are_reaped,
    nothing_of_the_host_without_a_policy,
];

const PIDS_OF_TASK: Sharing = Sharing { pids: PidMode::Task, ipc: IpcMode::Container, shm_bytes: None };
const IPC_OF_TASK: Sharing =
    Sharing { pids: PidMode::Container, ipc: IpcMode::Task, shm_bytes: Some(3 << 20) };
const PIDS_OF_HOST: Sharing = Sharing { pids: PidMode::Host, ipc: IpcMode::Container, shm_bytes: None };

/// Prints the names and states of all processes that can be seen.
const LIST: &str =
    "for p in /proc/[0-9]*; do echo $(cat $p/comm) $(sed -n 's/^State:.\\(.\\).*/\\1/p' $p/status); done";

/// What a command in a container prints.
async fn ask(handle: &dyn Handle, script: &str) -> String {
    let (stdio, ours) = Streams::new();
    let exec = handle.exec(exec_spec(&["sh", "-c", script], Some(stdio)));
    let (exit, (stdout, stderr)) = tokio::join!(exec, ours.read());
    let exit = exit.unwrap();
    assert_eq!(exit.code, Some(0), "{script}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

/// A task on each of the supervisors.
async fn tasks(fixture: &Fixture, sharing: Sharing) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for client in [&fixture.client, &fixture.old_client] {
        tasks.push(fixture.sharing_task(client, sharing).await);
    }
    tasks
}

async fn processes_of_a_task(fixture: &Fixture) {
    let stranger = fixture.sharing_task(&fixture.client, PIDS_OF_TASK).await;
    let (_stranger, _held) = stranger
        .start_ready("cp /bin/busybox /tmp/stranger; /tmp/stranger sleep 1000 & echo ready; wait", |_| {})
        .await;
    for task in tasks(fixture, PIDS_OF_TASK).await {
        let script = "trap 'exit 5' USR1; echo $$ > /tmp/own; echo ready; while :; do sleep 0.02; done";
        let (main, _streams) = task.start_ready(script, |_| {}).await;
        // The first process is nobody's container's, and the next is the main container's.
        let output = task.sh(&format!("echo $$; {LIST}")).await;
        let lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
        assert_ne!(lines[0], "1", "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("ng-pause ")).count(), 1, "{lines:?}");
        assert!(lines.len() < 10, "more than the task's processes can be seen: {lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("stranger ")), "{lines:?}");
        // Each has its own files, and sees those of its sibling through the sibling's process alone.
        let script =
            "test ! -e /tmp/own && for p in /proc/[0-9]*; do cat $p/root/tmp/own 2>/dev/null && break; done";
        let sibling = task.sh(script).await.text();
        assert_eq!(ask(&*main, "cat /tmp/own").await, sibling);
        let output = task.sh(&format!("kill -USR1 {sibling}")).await;
        assert_eq!(output.code(), Some(0), "{}", output.errors());
        assert_eq!(main.wait().await.code, Some(5));
        // Not without being asked for.
        let alone = fixture.task().await;
        assert_eq!(alone.sh("echo $$").await.text(), "1");
        alone.release().await;
        task.release().await;
        assert_eq!(task.cgroups(), Vec::<PathBuf>::new());
    }
    stranger.release().await;
}

async fn an_end_takes_all_of_its_own_along(fixture: &Fixture) {
    for task in tasks(fixture, PIDS_OF_TASK).await {
        let (beside, _streams) = task.start_ready("sleep 1000 & echo ready; wait", |_| {}).await;
        let script =
            "for n in 1 2 3; do setsid tail -f /dev/null & done; (setsid tail -f /dev/null &); exit 4";
        let output = task.sh_with(script, |_| {}).await;
        assert_eq!(output.code(), Some(4));
        // As soon as the end is told.
        assert!(
            !ask(&*beside, LIST).await.contains("tail "),
            "something is left of a container that has ended"
        );
        assert!(
            ask(&*beside, LIST).await.contains("sleep "),
            "the end of a container took another one along"
        );
        task.release().await;
    }
}

async fn a_kill_takes_all_of_its_own_along(fixture: &Fixture) {
    let task = fixture.sharing_task(&fixture.client, PIDS_OF_TASK).await;
    let (beside, _streams) = task.start_ready("sleep 1000 & echo ready; wait", |_| {}).await;
    let (killed, _streams) =
        task.start_ready("trap '' TERM; setsid tail -f /dev/null & echo ready; wait; wait", |_| {}).await;
    killed.signal(Signal::Kill).await.unwrap();
    assert_eq!(killed.wait().await.code, Some(137));
    assert!(!ask(&*beside, LIST).await.contains("tail "));
    assert_eq!(ask(&*beside, "echo here").await, "here");
    // Not being the first process of a namespace, it ends as programs do everywhere else.
    let (ended, _streams) = task.start_ready("echo ready; exec sleep 1000", |_| {}).await;
    ended.signal(Signal::Stop(15)).await.unwrap();
    assert_eq!(ended.wait().await.code, Some(143));
    task.release().await;
}

async fn orphans_are_reaped(fixture: &Fixture) {
    let task = fixture.sharing_task(&fixture.client, PIDS_OF_TASK).await;
    for init in [false, true] {
        let script =
            "for n in 1 2 3 4 5; do (cat /dev/null & exec cat /dev/null); done; sleep 0.1; echo ready; cat";
        let (handle, streams) = task.start_ready(script, |spec| spec.init = init).await;
        let list = ask(&*handle, LIST).await;
        assert!(!list.lines().any(|line| line.ends_with(" Z")), "init {init}: {list}");
        drop(streams);
        assert_eq!(handle.wait().await.code, Some(0));
    }
    task.release().await;
}

async fn commands_share_too(fixture: &Fixture) {
    let task = fixture.sharing_task(&fixture.client, Sharing { ipc: IpcMode::Task, ..PIDS_OF_TASK }).await;
    let (one, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let (two, _others) = task.start_ready("echo ready; cat", |_| {}).await;
    for kind in ["pid", "ipc", "user", "net"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(ask(&*one, &link).await, ask(&*two, &link).await, "{kind}");
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(ask(&*one, &link).await, host.to_str().unwrap(), "{kind} is the host's");
    }
    for kind in ["mnt", "uts", "cgroup"] {
        let link = format!("readlink /proc/self/ns/{kind}");
        assert_ne!(ask(&*one, &link).await, ask(&*two, &link).await, "{kind}");
    }
    // What a command has left in a container goes with that.
    ask(&*one, "setsid tail -f /dev/null > /dev/null 2>&1 &").await;
    assert!(ask(&*two, LIST).await.contains("tail "));
    one.signal(Signal::Kill).await.unwrap();
    one.wait().await;
    assert!(!ask(&*two, LIST).await.contains("tail "));
    task.release().await;
}

async fn the_pause_process_is_out_of_reach(fixture: &Fixture) {
    let task = fixture.sharing_task(&fixture.client, PIDS_OF_TASK).await;
    let script = "kill -9 1; kill -0 1; renice -n 19 -p 1; echo 500 > /proc/1/oom_score_adj; \
        for f in environ maps fd/0 exe root cwd ns/pid; do cat /proc/1/$f; readlink /proc/1/$f; done; \
        tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm; sed -n 's/^\\(Seccomp\\|CapEff\\|NoNewPrivs\\):.//p' /proc/1/status; \
        ls /proc/1/net/dev > /dev/null && tail -n +3 /proc/1/net/dev | cut -d: -f1";
    let output = task.sh_with(script, |spec| spec.capabilities_add.push("SYS_PTRACE".to_owned())).await;
    let lines: Vec<String> = output.text().lines().map(|line| line.trim().to_owned()).collect();
    assert!(lines[0].starts_with("neargate-pause --pause-role"), "{lines:?} {}", output.errors());
    assert!(!lines[0].contains('/'), "a path of the host is told: {lines:?}");
    let rest: Vec<&str> = lines[lines.len() - 4..].iter().map(String::as_str).collect();
    assert_eq!(rest, ["0000000000000000", "1", "1", "lo"], "{lines:?}");
    let refused = output.errors();
    assert_eq!(refused.matches("can't kill pid 1").count(), 2, "{refused}");
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    assert!(ask(&*handle, LIST).await.contains("ng-pause S"));
    task.release().await;
}

async fn a_killed_pause_process_is_replaced(fixture: &Fixture) {
    let task = fixture.sharing_task(&fixture.client, Sharing { ipc: IpcMode::Task, ..PIDS_OF_TASK }).await;
    let (first, _streams) = task.start_ready("touch /dev/shm/kept; echo ready; cat", |_| {}).await;
    let pause = members(&task).into_iter().find(|pid| name_of(*pid) == "ng-pause").expect("a pause process");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pause).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert_eq!(first.wait().await.code, Some(137));
    // The task's objects are still there, and another one holds them.
    let output = task.sh(&format!("ls /dev/shm; {LIST} | grep -c ng-pause")).await;
    assert_eq!(output.text(), "kept\n1", "{}", output.errors());
    task.release().await;
    assert_eq!(task.cgroups(), Vec::<PathBuf>::new());
}

async fn objects_of_a_task(fixture: &Fixture) {
    for task in tasks(fixture, IPC_OF_TASK).await {
        let output = task.sh("echo from-one > /dev/shm/file; touch /dev/mqueue/queue; echo $$").await;
        assert_eq!(output.text(), "1", "{}", output.errors());
        // Also when the one that has made them is gone, and for an ordinary user.
        let script =
            "cat /dev/shm/file; ls /dev/mqueue; df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2";
        let output = task.sh_with(script, |spec| spec.user = Some("web".to_owned())).await;
        assert_eq!(output.text(), "from-one\nqueue\n3072", "{}", output.errors());
        let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
        assert_eq!(ask(&*handle, "cat /dev/shm/file; ls /dev/mqueue").await, "from-one\nqueue");
        let output = task.sh("cp /bin/busybox /dev/shm/program; /dev/shm/program true").await;
        assert_eq!(output.code(), Some(126), "a program in /dev/shm was executed");
        let other = fixture.sharing_task(&fixture.client, IPC_OF_TASK).await;
        assert_eq!(other.sh("ls /dev/shm /dev/mqueue | grep -c '[a-z]$'").await.text(), "0");
        other.release().await;
        task.release().await;
    }
    let alone = fixture.task().await;
    assert_eq!(alone.sh("touch /dev/shm/x /dev/mqueue/y").await.code(), Some(0));
    assert_eq!(alone.sh("ls /dev/shm /dev/mqueue | grep -c '^[xy]$'").await.text(), "0");
    alone.release().await;
}

async fn objects_without_shared_memory(fixture: &Fixture) {
    let sharing = Sharing { ipc: IpcMode::None, ..Sharing::default() };
    let task = fixture.sharing_task(&fixture.client, sharing).await;
    let script = "ls -d /dev/shm; ls -d /dev/mqueue; readlink /proc/self/ns/ipc; echo $$";
    let (_first, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let output = task.sh(script).await;
    assert!(output.errors().contains("/dev/shm: No such file"), "{}", output.errors());
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    let host = fs::read_link("/proc/self/ns/ipc").unwrap();
    assert_eq!((lines[0], lines[2]), ("/dev/mqueue", "1"));
    assert_ne!(lines[1], host.to_str().unwrap());
    task.release().await;
}

async fn processes_of_the_host(fixture: &Fixture) {
    for client in [&fixture.allowing_client, &fixture.old_client] {
        let task = fixture.sharing_task(client, PIDS_OF_HOST).await;
        let own = std::process::id();
        let host = fs::read_link("/proc/self/ns/pid").unwrap();
        let script = format!(
            "readlink /proc/self/ns/pid; cat /proc/{own}/comm; kill -0 {own}; kill -9 1; cat /proc/1/environ; \
             cat /proc/{own}/root/etc/passwd; cat /proc/{own}/fd/0; true > /proc/sys/vm/drop_caches; id -u"
        );
        let output = task.sh_with(&script, |spec| spec.capabilities_add.push("SYS_PTRACE".to_owned())).await;
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(output.text(), format!("{}\n{name}0", host.display()), "{}", output.errors());
        let errors = output.errors();
        for refused in
            [&*format!("can't kill pid {own}"), "can't kill pid 1", "environ", "root", "fd", "drop_caches"]
        {
            assert!(errors.contains(refused), "{refused} was not refused: {errors}");
        }
        // Its siblings it sees, and ends.
        let (sibling, _streams) = task.start_ready("echo ready; exec sleep 1234", |_| {}).await;
        let script =
            "kill $(for p in /proc/[0-9]*; do grep -q '^sleep.1234' $p/cmdline && echo ${p#/proc/}; done)";
        let output = task.sh(script).await;
        assert_eq!(output.code(), Some(0), "{}", output.errors());
        assert_eq!(sibling.wait().await.code, Some(143));
        let output = task.sh("setsid tail -f /dev/null & (setsid tail -f /dev/null &); exit 4").await;
        assert_eq!(output.code(), Some(4));
        assert_eq!(members(&task), Vec::<i32>::new(), "something is left of a container that has ended");
        task.release().await;
        assert_eq!(task.cgroups(), Vec::<PathBuf>::new());
    }
}

async fn strays_on_the_host_are_reaped(fixture: &Fixture) {
    let task = fixture.sharing_task(&fixture.allowing_client, PIDS_OF_HOST).await;
    let (handle, _streams) =
        task.start_ready("(sleep 0.01 &); (sleep 0.02 &); echo ready; cat", |_| {}).await;
    ask(&*handle, "(sleep 0.03 > /dev/null &)").await;
    // While the container goes on: nobody looks at what it leaves but the supervisor that it was left to.
    eventually("what a container has left is not reaped", || {
        !members(&task).iter().any(|pid| name_of(*pid) == "sleep") && zombies_named("sleep") == 0
    })
    .await;
    assert_eq!(ask(&*handle, "exit 0").await, "");
    handle.signal(Signal::Kill).await.unwrap();
    assert_eq!(handle.wait().await.code, Some(137));
    task.release().await;
}

async fn nothing_of_the_host_without_a_policy(fixture: &Fixture) {
    for sharing in [PIDS_OF_HOST, Sharing { ipc: IpcMode::Host, ..Sharing::default() }] {
        let refused = prepare(&fixture.client, sharing).await.unwrap_err();
        assert!(neargate_model::chain(&refused).contains("--policy"), "{refused:?}");
    }
}

async fn prepare(client: &SupervisorClient, sharing: Sharing) -> Result<(), neargate_driver::SandboxError> {
    let spec = SandboxSpec {
        task: neargate_model::TaskId::new("f".repeat(32)).unwrap(),
        hostname: "x".to_owned(),
        limits: Limits::default(),
        linux: true,
        network: SandboxNetwork::Own,
        sharing,
    };
    client.prepare(&spec).await.map(drop)
}

/// The processes in the groups of a task's containers, as the host knows them.
fn members(task: &Task<'_>) -> Vec<i32> {
    let groups = task.cgroups().into_iter().filter_map(|group| fs::read_dir(group).ok()).flatten().flatten();
    let listed = groups.filter_map(|group| fs::read_to_string(group.path().join("cgroup.procs")).ok());
    let mut pids: Vec<i32> =
        listed.flat_map(|text| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<_>>()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// How many processes of a name have ended and were not reaped.
fn zombies_named(name: &str) -> usize {
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats
        .filter_map(|entry| fs::read_to_string(Path::new("/proc").join(entry.file_name()).join("stat")).ok());
    stats.filter(|stat| stat.contains(&format!("({name}) Z "))).count()
}
