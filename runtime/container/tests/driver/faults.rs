//! What is left behind: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio as ProcessStdio};
use std::time::{Duration, Instant};

use neargate_container::{Launcher, Roles, SpawnError, Supervisor, SupervisorConfig};
use neargate_driver::{Limits, SandboxError, SandboxHost, SandboxSpec};
use neargate_model::TaskId;

use crate::cases;
use crate::fixture::{Fixture, cgroup_roots, eventually};
use crate::sandboxed;

cases![nothing_accumulates, killed_client, killed_supervisor, threads_are_refused, beside_other_processes];

/// First argument of the process that [`killed_client`] kills; the directory to use follows.
pub(crate) const CLIENT_ROLE: &str = "client-to-be-killed=";

/// Countable things of the host and of the supervisors, without cells that are ready: how many there are changes.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    cgroups: usize,
    mounts: usize,
    networks: usize,
    supervisor_fds: usize,
    children: usize,
}

fn supervisors() -> Vec<PathBuf> {
    let own = std::process::id().to_string();
    let is_ours = |dir: &PathBuf| {
        let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.split(' ').nth(2) == Some(&own))
            && fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim() == "ng-supervisor")
    };
    fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(is_ours).collect()
}

impl Census {
    fn take(fixture: &Fixture) -> Self {
        let instances = cgroup_roots().into_iter().map(|root| root.join("neargate").join(&fixture.instance));
        let is_marked =
            |dir: &PathBuf| rustix::fs::getxattr(dir, "trusted.neargate.task", &mut [0; 64][..]).is_ok();
        let groups = instances.flat_map(fs::read_dir).flatten().flatten().map(|entry| entry.path());
        let is_namespace = |link: &PathBuf| link.to_string_lossy().starts_with("net:");
        let links = |dir: &PathBuf| fs::read_dir(dir.join("fd")).unwrap().flatten().map(|fd| fd.path());
        let supervisors = supervisors();
        let networks: BTreeSet<PathBuf> = supervisors
            .iter()
            .flat_map(links)
            .filter_map(|link| fs::read_link(link).ok())
            .filter(is_namespace)
            .collect();
        let children = || supervisors.iter().flat_map(|dir| children_of(dir));
        let cells = children().filter(|pid| is_called(*pid, "ng-parked")).count();
        let routers = children().filter(|pid| is_called(*pid, "ng-router")).count();
        Self {
            cgroups: groups.filter(is_marked).count(),
            mounts: fs::read_to_string("/proc/self/mounts").unwrap().lines().count(),
            networks: networks.len().saturating_sub(cells + routers),
            supervisor_fds: supervisors.iter().flat_map(links).count().saturating_sub(cells * fds_of_cell()),
            children: children().count() - cells,
        }
    }
}

/// The descriptors that a supervisor has of a cell: two namespaces, a process and its socket, and two groups where there
/// is cgroup v2.
fn fds_of_cell() -> usize {
    let is_v2 = |root: &PathBuf| root.join("cgroup.controllers").exists();
    if cgroup_roots().iter().any(is_v2) { 6 } else { 4 }
}

fn is_called(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}

fn children_of(process: &Path) -> Vec<u32> {
    let id = process.file_name().unwrap().to_str().unwrap();
    let children = fs::read_to_string(process.join(format!("task/{id}/children"))).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

async fn nothing_accumulates(fixture: &Fixture) {
    // The first start makes what is kept on purpose.
    let task = fixture.task().await;
    task.sh("true").await;
    task.release().await;
    // The host's is left, and that of each other host.
    let hosts = 1 + fixture.machines.len();
    eventually("a network is left", || Census::take(fixture).networks == hosts).await;
    let before = Census::take(fixture);
    for n in 0..100 {
        let task = fixture.task_with(Limits { memory_bytes: Some(64 << 20), ..Limits::default() }).await;
        let script = if n % 2 == 0 { "true" } else { "sleep 100 & exit 1" };
        task.sh_with(script, |spec| {
            spec.init = n % 3 == 0;
            spec.limits.cpu_millis = (n % 5 == 0).then_some(500);
        })
        .await;
        if n % 10 == 0 {
            let (mut spec, _streams) = task.spec(&["nothing"]);
            spec.argv = vec!["nothing".to_owned()];
            assert!(task.start(spec).await.is_err());
        }
        task.release().await;
    }
    // Cells for the next tasks may still be in the making.
    eventually(&format!("something was left; before it was {before:?}"), || Census::take(fixture) == before)
        .await;
}

/// The process that is killed: starts a container, tells its supervisor, and waits.
pub(crate) fn be_client(directory: &str) -> ExitCode {
    let directory = PathBuf::from(directory);
    let config = SupervisorConfig::for_data_dir(&directory);
    let roles = Roles::new(sandboxed::role, sandboxed::role);
    let launcher = Launcher::fork(roles, neargate_container::Policy::default()).unwrap();
    let client = Supervisor::spawn(&config).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fixture =
        Fixture::new(&directory, [client.clone(), client.clone(), client], vec![], launcher, &[&config]);
    runtime.block_on(async {
        let task = fixture.task().await;
        let (handle, _streams) =
            task.start_ready("trap '' TERM; (sleep 1000 &); echo ready; exec sleep 1000", |_| {}).await;
        let supervisor = supervisors().remove(0);
        println!("{} {}", supervisor.file_name().unwrap().to_str().unwrap(), config.instance());
        handle.wait().await;
    });
    ExitCode::FAILURE
}

fn instance_dirs(instance: &str) -> Vec<PathBuf> {
    cgroup_roots()
        .into_iter()
        .map(|root| root.join("neargate").join(instance))
        .filter(|dir| dir.exists())
        .collect()
}

struct Killable {
    child: std::process::Child,
    supervisor: i32,
    instance: String,
    containers: Vec<u32>,
    factory: u32,
}

/// Starts another client with a running container.
fn start_client(fixture: &Fixture) -> Killable {
    let argument = format!("{CLIENT_ROLE}{}", fixture.new_dir().display());
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe).arg(argument).stdout(ProcessStdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (supervisor, instance) = line.trim().split_once(' ').expect("the other client could not start");
    let look = || -> (Vec<u32>, Vec<u32>) {
        let mut children = children_of(&PathBuf::from(format!("/proc/{supervisor}")));
        children.retain(|pid| !is_called(*pid, "ng-parked"));
        children.into_iter().partition(|pid| is_called(*pid, "ng-cells"))
    };
    // The factory has the supervisor's name until it gives itself one, and what it clones has its own for a moment.
    let since = Instant::now();
    let (factories, containers) = loop {
        let seen = look();
        if (seen.0.len(), seen.1.len()) == (1, 1) {
            break seen;
        }
        assert!(since.elapsed() < Duration::from_secs(10), "{seen:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(!instance_dirs(instance).is_empty());
    let (supervisor, instance) = (supervisor.parse().unwrap(), instance.to_owned());
    Killable { child, supervisor, instance, containers, factory: factories[0] }
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn killed_client(fixture: &Fixture) {
    let mut client = start_client(fixture);
    client.child.kill().unwrap();
    client.child.wait().unwrap();
    eventually("containers of a killed client live on", || {
        !client.containers.iter().any(|&pid| is_alive(pid))
    })
    .await;
    eventually("its supervisor lives on", || !is_alive(client.supervisor as u32)).await;
    eventually("its factory lives on", || !is_alive(client.factory)).await;
    assert_eq!(instance_dirs(&client.instance), Vec::<PathBuf>::new());
}

/// What a killed supervisor leaves is removed by the next one that starts, whosever it is.
async fn killed_supervisor(fixture: &Fixture) {
    let mut client = start_client(fixture);
    let pid = rustix::process::Pid::from_raw(client.supervisor).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    client.child.wait().unwrap();
    assert!(client.containers.iter().any(|&pid| is_alive(pid)), "they are not tied to the supervisor");
    eventually("its factory lives on", || !is_alive(client.factory)).await;
    let mut next = start_client(fixture);
    assert!(!client.containers.iter().any(|&pid| is_alive(pid)), "the next supervisor left them alive");
    assert_eq!(instance_dirs(&client.instance), Vec::<PathBuf>::new());
    next.child.kill().unwrap();
    next.child.wait().unwrap();
    eventually("cgroups are left", || instance_dirs(&next.instance).is_empty()).await;
}

async fn threads_are_refused(fixture: &Fixture) {
    let error =
        Supervisor::spawn(&SupervisorConfig::for_data_dir(&fixture.directory)).map(|_| ()).unwrap_err();
    assert!(matches!(error, SpawnError::Threads { count } if count > 1), "{error:?}");
}

/// Has a new supervisor prepare one sandbox.
fn prepare_and_release(directory: &Path) -> Result<(), SandboxError> {
    let client = Supervisor::spawn(&SupervisorConfig::for_data_dir(directory)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let task = TaskId::new("f".repeat(32)).unwrap();
    let spec = SandboxSpec {
        task,
        hostname: "x".to_owned(),
        limits: Limits::default(),
        linux: true,
        network: Default::default(),
        sharing: Default::default(),
    };
    let (prepared, released) = runtime
        .block_on(async { (SandboxHost::prepare(&client, &spec).await, client.release(&spec.task).await) });
    released.unwrap();
    runtime.block_on(client.shut_down());
    prepared.map(drop)
}

/// First argument of the process that is in a group as in a container; its directory follows.
pub(crate) const CONTAINED_ROLE: &str = "client-in-a-container=";

/// The process that sees its own group as the root of all: it is told what to do, and does it.
pub(crate) fn be_contained(group: &str) -> ExitCode {
    let root = unified_root().unwrap();
    let join = |group: &Path| fs::write(group.join("cgroup.procs"), "0").unwrap();
    join(group.as_ref());
    let flags = rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::NEWCGROUP;
    // SAFETY: descriptors stay shared; there is one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }.unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    // The kernel mounts no file system on itself.
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
    rustix::mount::mount(c"cgroup2", &root, c"cgroup2", rustix::mount::MountFlags::empty(), None).unwrap();
    let prepare = || prepare_and_release(&std::env::temp_dir());
    match prepare() {
        Err(SandboxError::System { source, .. }) => println!("{source}"),
        other => panic!("{other:?}"),
    }
    let init = root.join("init");
    fs::create_dir(&init).unwrap();
    join(&init);
    prepare().unwrap();
    ExitCode::SUCCESS
}

/// Where the v2 hierarchy is mounted, if it has the controllers.
fn unified_root() -> Option<PathBuf> {
    let has_controllers = |root: &PathBuf| {
        fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|given| given.contains("memory"))
    };
    cgroup_roots().into_iter().find(has_controllers)
}

/// In v2, a group with processes can have no children with limits; in a container that is the rule.
async fn beside_other_processes(fixture: &Fixture) {
    let Some(root) = unified_root() else {
        println!("SKIPPED: beside_other_processes: only groups of cgroup v2 must have no processes");
        return;
    };
    let group = root.join(format!("neargate-test-{}", fixture.instance));
    fs::create_dir(&group).unwrap();
    let argument = format!("{CONTAINED_ROLE}{}", group.display());
    let output = Command::new(std::env::current_exe().unwrap()).arg(argument).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let advice = "move them into a group of their own before: mkdir /sys/fs/cgroup/init;";
    assert!(text.contains("there are processes in") && text.contains(advice), "{text}");
    eventually("groups are left", || fs::remove_dir(group.join("init")).is_ok()).await;
    assert_eq!(fs::remove_dir(&group).map_err(|error| error.kind()), Ok(()));
}
