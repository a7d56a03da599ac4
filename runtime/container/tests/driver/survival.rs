//! Containers go on while servers and supervisors come and go.
//!
//! Servers are processes of this binary, which attach to a supervisor in a directory, do as they are told over standard
//! input, answer over standard output, and are killed.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio as ProcessStdio};
use std::time::{Duration, Instant};

use neargate_container::{Launcher, Roles, Supervisor, SupervisorClient, SupervisorConfig};
use neargate_driver::{
    BridgedContainer, ContainerSpec, Driver, Limits, Mount, MountSource, Rootfs, Sandbox, SandboxError,
    SandboxHost, SandboxNetwork, SandboxSpec, Sharing, Signal, SocketKind, Stdio,
};
use neargate_model::policy::HostPath;
use neargate_model::{
    ContainerId, HostEnd, HostNumber, Hosts, IpcMode, OtherHost, PidMode, Policy, RemoteTask, TaskId, Traffic,
};

use crate::bridge::{answers, tcp};
use crate::cases;
use crate::dual::{self, both, from, open_out};
use crate::fixture::{Fixture, HOSTNAME, cgroup_roots, exec_spec, group_of, plain_spec};
use crate::network::{contents, from_group, group, run_in};

cases![
    killed_server,
    killed_server_and_supervisor,
    killed_supervisor_is_replaced,
    end_without_supervisor,
    end_without_server,
    end_without_either,
    end_is_adopted_before_it_is_reaped,
    killed_steward_is_replaced,
    start_after_death,
    newer_program,
    many_are_found_again,
    another_user_reaches_no_further,
    interfaces_outlive_all,
    sockets_outlive_a_supervisor,
    host_ports_outlive_all,
    what_is_shared_survives,
    a_shared_end_without_either,
    what_is_shared_survives_its_containers,
];

/// The block of tasks from 256 on, which are under `bridge`.
const BRIDGE: &str = "10.79.0.0/16";

/// Tasks from this number to 255 have an interface in a VPC, whose address ends in the number.
const CONNECTED: u8 = 200;
/// The addresses of the first of them.
const SERVER_ADDRESSES: [&str; 2] = ["10.77.2.200", "fdaa:bbcc:ddee:ff00::a4d:2c8"];

/// First argument of a server; its directory follows.
pub(crate) const SERVER_ROLE: &str = "server-to-be-killed=";

/// Exits with 7 when it is sent SIGUSR1.
const SCRIPT: &str = "trap 'echo last; exit 7' USR1; echo first; while :; do sleep 0.02; done";
const USR1: i32 = 10;
/// Nothing here takes longer, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
/// How soon a thousand containers must be found again: what `facts` ask of a host.
const MANY: usize = 200;

/// A server's process.
struct Server {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start(fixture: &Fixture, directory: &Path) -> Self {
        Self::start_as(&std::env::current_exe().unwrap(), fixture, directory)
    }

    fn start_as(program: &Path, fixture: &Fixture, directory: &Path) -> Self {
        Self::start_with(program, &fixture.rootfs(), directory, &[])
    }

    fn start_with(program: &Path, rootfs: &Path, directory: &Path, user: &[&str]) -> Self {
        let mut process = Command::new(program)
            .arg(format!("{SERVER_ROLE}{}", directory.display()))
            .arg(rootfs)
            .args(user)
            .stdin(ProcessStdio::piped())
            .stdout(ProcessStdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut server = Self { process, orders, answers };
        assert_eq!(server.hear(), "attached");
        server
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        self.hear()
    }

    #[track_caller]
    fn check(&mut self, order: &str, expect: &str) {
        assert_eq!(self.ask(order), expect, "answer to {order:?}");
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Ends it with its supervisor and all containers.
    fn shut_down(mut self, directory: &Path) {
        self.check("shut down", "done");
        assert!(self.process.wait().unwrap().success());
        // The connection ends a moment before the process.
        until(|| supervisor_of(directory).is_none());
        let instance = config(directory).instance().to_owned();
        let left: Vec<PathBuf> = cgroup_roots()
            .into_iter()
            .map(|root| root.join("neargate").join(&instance))
            .filter(|dir| dir.exists())
            .collect();
        assert_eq!(left, Vec::<PathBuf>::new(), "cgroups are left");
        assert!(!directory.join("journal").exists(), "the journal is left");
    }
}

fn config(directory: &Path) -> SupervisorConfig {
    SupervisorConfig::for_data_dir(directory)
}

/// The process id of a directory's supervisor.
fn supervisor_of(directory: &Path) -> Option<i32> {
    let wanted = format!("--supervisor-seat\0{}\0", directory.display());
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&wanted))
            && fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "ng-supervisor")
    })
}

fn kill(pid: i32) {
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

/// The steward that a server or its launcher has forked.
fn steward_of(server: &Server) -> Option<i32> {
    let server = server.process.id().cast_signed();
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_server = |parent: i32| parent == server || parent_of(parent, "ng-launcher") == Some(server);
    pids.into_iter().find(|pid| parent_of(*pid, "ng-steward").is_some_and(of_server))
}

/// The parent of a process with this name that has not ended.
fn parent_of(pid: i32, name: &str) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (own_name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let (state, rest) = rest.split_once(' ')?;
    (own_name == name && state != "Z").then(|| rest.split(' ').next()?.parse().ok())?
}

/// Kills the supervisor of a directory and waits until it is gone.
fn kill_supervisor(directory: &Path) {
    let pid = supervisor_of(directory).expect("a supervisor");
    kill(pid);
    until(|| supervisor_of(directory) != Some(pid));
}

/// Looks again and again.
fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it has not come to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn killed_server(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("start 1", "started");
    let supervisor = supervisor_of(&directory);
    first.kill();
    let mut second = Server::start(fixture, &directory);
    assert_eq!(supervisor_of(&directory), supervisor, "the supervisor has gone on");
    second.check("exec 1", "exit 3");
    second.check("usr1 1", "exit 7");
    second.check("read 1", "first last");
    second.shut_down(&directory);
}

async fn killed_server_and_supervisor(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("start 1", "started");
    // The steward would start another one.
    first.kill();
    kill_supervisor(&directory);
    let mut second = Server::start(fixture, &directory);
    second.check("exec 1", "exit 3");
    second.check("start 2", "started");
    second.check("usr1 1", "exit 7");
    second.check("read 1", "first last");
    second.check("usr1 2", "exit 7");
    second.shut_down(&directory);
}

async fn killed_supervisor_is_replaced(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut server = Server::start(fixture, &directory);
    server.check("start 1", "started");
    for _ in 0..3 {
        kill_supervisor(&directory);
        // What may be asked twice waits for the next one.
        server.check("stats 1", "some");
        server.check("exec 1", "exit 3");
    }
    server.check("usr1 1", "exit 7");
    server.check("read 1", "first last");
    server.shut_down(&directory);
}

async fn end_without_supervisor(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut server = Server::start(fixture, &directory);
    server.check("start 1", "started");
    let pid: i32 = server.ask("pid 1").parse().unwrap();
    let supervisor = supervisor_of(&directory).expect("a supervisor");
    // It cannot see the end, nor be replaced before it.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(supervisor).unwrap(),
        rustix::process::Signal::STOP,
    )
    .unwrap();
    kill(pid);
    kill(supervisor);
    server.check("wait 1", "exit 137");
    server.shut_down(&directory);
}

async fn end_without_server(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("start 1", "started");
    let pid: i32 = first.ask("pid 1").parse().unwrap();
    first.kill();
    kill(pid);
    until(|| !Path::new(&format!("/proc/{pid}/ns/pid")).exists());
    // Also when it is the next supervisor that tells it.
    kill_supervisor(&directory);
    let mut second = Server::start(fixture, &directory);
    second.check("wait 1", "exit 137");
    second.shut_down(&directory);
}

async fn end_without_either(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("start 1", "started");
    first.check("start 2", "started");
    let pids = ["pid 1", "pid 2"].map(|order| first.ask(order).parse::<i32>().unwrap());
    first.kill();
    kill_supervisor(&directory);
    kill(pids[0]);
    until(|| !Path::new(&format!("/proc/{}", pids[0])).exists());
    let mut second = Server::start(fixture, &directory);
    second.check("wait 1", "exit 137");
    // It is the child of the first server's steward, and the second supervisor finds it before it ends.
    kill(pids[1]);
    second.check("wait 2", "exit 137");
    second.shut_down(&directory);
}

async fn end_is_adopted_before_it_is_reaped(fixture: &Fixture) {
    use rustix::process::{Pid, Signal as ProcessSignal, kill_process};
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("start 1", "started");
    let pid: i32 = first.ask("pid 1").parse().unwrap();
    let steward = Pid::from_raw(steward_of(&first).expect("a steward")).unwrap();
    // It is the parent of what its supervisor leaves, and reaps nothing now.
    kill_process(steward, ProcessSignal::STOP).unwrap();
    first.kill();
    kill_supervisor(&directory);
    kill(pid);
    let mut second = Server::start(fixture, &directory);
    second.check("count", "1");
    kill_process(steward, ProcessSignal::CONT).unwrap();
    second.check("wait 1", "exit 137");
    second.shut_down(&directory);
}

async fn killed_steward_is_replaced(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut server = Server::start(fixture, &directory);
    server.check("start 1", "started");
    let first = steward_of(&server);
    kill(first.expect("a steward"));
    kill_supervisor(&directory);
    server.check("stats 1", "some");
    server.check("exec 1", "exit 3");
    until(|| steward_of(&server).is_some_and(|steward| Some(steward) != first));
    server.check("start 2", "started");
    kill_supervisor(&directory);
    server.check("stats 1", "some");
    server.check("usr1 2", "exit 7");
    server.check("read 2", "first last");
    server.shut_down(&directory);
}

async fn start_after_death(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut server = Server::start(fixture, &directory);
    server.check("start 1", "started");
    kill(supervisor_of(&directory).expect("a supervisor"));
    // Asked of the one that is dead or of the next one, as it happens.
    server.check("start 2", "started");
    server.check("usr1 1", "exit 7");
    server.check("usr1 2", "exit 7");
    server.check("start 2", "started");
    server.check("usr1 2", "exit 7");
    server.shut_down(&directory);
}

async fn newer_program(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let newer = fixture.new_dir().join("newer");
    fs::copy(std::env::current_exe().unwrap(), &newer).unwrap();
    let mut first = Server::start(fixture, &directory);
    first.check("start 1", "started");
    let supervisor = supervisor_of(&directory);
    let build = |pid: Option<i32>| fs::read_to_string(format!("/proc/{}/cmdline", pid.unwrap())).unwrap();
    let before = build(supervisor);
    first.kill();
    let mut second = Server::start_as(&newer, fixture, &directory);
    assert_eq!(supervisor_of(&directory), supervisor, "the process goes on");
    assert_ne!(build(supervisor), before, "and executes another program");
    second.check("exec 1", "exit 3");
    second.check("usr1 1", "exit 7");
    second.check("read 1", "first last");
    second.shut_down(&directory);
}

async fn interfaces_outlive_all(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut server = Server::start(fixture, &directory);
    server.check("hosts 9", "told");
    server.check("groups open", "told");
    server.check("serve 200", "started");
    server.check("start 201", "started");
    server.check("reach 201", "reached");
    let router = router_of(&directory);
    assert!(leads_to_host_9(router));
    // The next supervisor is told the groups by the server that has told them before.
    kill_supervisor(&directory);
    // Asked for again until there is one.
    server.check("stats 201", "some");
    server.check("reach 201", "reached");
    server.check("start 202", "started");
    server.check("reach 202", "reached");
    assert_eq!(router_of(&directory), router);
    assert!(leads_to_host_9(router));
    run_in(router, &["ip", "link", "del", "host9"]);
    until(|| leads_to_host_9(router));
    // What is in the kernel holds, though nobody has told this one.
    server.kill();
    kill_supervisor(&directory);
    let mut server = Server::start(fixture, &directory);
    server.check("reach 202", "reached");
    assert!(leads_to_host_9(router));
    server.check("hosts 9", "told");
    server.check("groups shut", "told");
    assert!(leads_to_host_9(router));
    server.check("reach 202", "dropped");
    server.check("groups open", "told");
    server.check("reach 202", "reached");
    // With its holder the router goes when its supervisor does; the next one makes another.
    kill(router);
    kill_supervisor(&directory);
    server.check("stats 201", "some");
    server.check("reach 201", "reached");
    server.check("start 203", "started");
    server.check("reach 203", "reached");
    let router = router_of(&directory);
    assert!(leads_to_host_9(router));
    server.shut_down(&directory);
    until(|| !Path::new(&format!("/proc/{router}")).exists());
}

/// Whether a router leads to a host of this number, and knows the groups of a task there.
fn leads_to_host_9(router: i32) -> bool {
    let there = contents(router);
    there.contains("10.77.192.0/18 via 169.254.1.3 dev host9") && there.contains("10.77.192.4")
}

/// What has nothing in its network but sockets of the server's is found again all the same.
async fn sockets_outlive_a_supervisor(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut server = Server::start(fixture, &directory);
    server.check("groups open", "told");
    server.check("listen 200", "listens");
    server.check("start 201", "started");
    server.check("reach 201", "reached");
    kill_supervisor(&directory);
    server.check("stats 201", "some");
    server.check("reach 201", "reached");
    // It is the same network, where the port is taken.
    server.check("listen 200", "taken");
    server.check("release 200", "released");
    server.check("reach 201", "dropped");
    server.shut_down(&directory);
}

async fn host_ports_outlive_all(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    fs::write(directory.join("port"), port.to_string()).unwrap();
    drop(listener);
    let host = Ipv4Addr::new(10, 79, 0, 1);
    let mut server = Server::start(fixture, &directory);
    server.check("groups open", "told");
    server.check("serve 300", "started");
    server.check("start 201", "started");
    server.check("usr1 201", "exit 7");
    let reached = async || {
        for _ in 0..20 {
            if answers(host, port).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    };
    assert!(reached().await);
    server.kill();
    assert!(reached().await, "without a server");
    kill_supervisor(&directory);
    assert!(reached().await, "without a supervisor");
    let mut server = Server::start(fixture, &directory);
    // What this supervisor does for the task whose container has ended takes nothing from the others, though nobody has
    // told it the groups.
    assert!(reached().await);
    until(|| TcpListener::bind(("0.0.0.0", port)).is_err());
    server.check("groups open", "told");
    assert!(reached().await, "the rules made anew lead there, too");
    kill(router_of(&directory));
    kill_supervisor(&directory);
    server.check("stats 300", "some");
    assert!(reached().await, "by another router");
    server.check("release 300", "released");
    assert!(TcpListener::bind(("0.0.0.0", port)).is_ok());
    server.shut_down(&directory);
}

/// The process that holds the router of a directory.
fn router_of(directory: &Path) -> i32 {
    let noted = fs::read_to_string(directory.join("router")).unwrap();
    noted.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn many_are_found_again(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check(&format!("start-many {MANY}"), "started");
    first.kill();
    kill_supervisor(&directory);
    let mut second = Server::start(fixture, &directory);
    second.check("count", &MANY.to_string());
    second.shut_down(&directory);
}

/// How the containers of a task are told apart that is shared: the second one of task n.
const BESIDE: usize = 1000;

async fn what_is_shared_survives(fixture: &Fixture) {
    for both in [false, true] {
        let directory = fixture.new_dir();
        let mut server = Server::start(fixture, &directory);
        server.check("share 1", "started");
        server.check("mark 1", "exit 0");
        server.check("pause 1", "1");
        if both {
            server.kill();
            kill_supervisor(&directory);
            server = Server::start(fixture, &directory);
        } else {
            kill_supervisor(&directory);
        }
        // What may be asked twice waits for the next one.
        server.check("stats 1", "some");
        server.check("exec 1", "exit 3");
        server.check("pause 1", "1");
        // It finds the first one's marks and process, and signals that.
        server.check("beside 1", "started");
        server.check("wait 1", "exit 7");
        server.check(&format!("wait {}", 1 + BESIDE), "exit 0");
        server.check("read 1", "first last");
        server.shut_down(&directory);
    }
}

async fn a_shared_end_without_either(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("share 1", "started");
    first.check("leave 1", "exit 0");
    let pid: i32 = first.ask("pid-of-first 1").parse().unwrap();
    first.kill();
    kill_supervisor(&directory);
    kill(pid);
    until(|| !Path::new(&format!("/proc/{pid}")).exists());
    // What it has left ends as soon as somebody knows.
    let mut second = Server::start(fixture, &directory);
    second.check("wait 1", "exit 137");
    second.check("processes 1", "1");
    second.check("share 1", "started");
    second.check("usr1 1", "exit 7");
    second.shut_down(&directory);
}

async fn what_is_shared_survives_its_containers(fixture: &Fixture) {
    let directory = fixture.new_dir();
    let mut first = Server::start(fixture, &directory);
    first.check("share 1", "started");
    first.check("mark 1", "exit 0");
    first.check("usr1 1", "exit 7");
    first.kill();
    kill_supervisor(&directory);
    let mut second = Server::start(fixture, &directory);
    second.check("pause 1", "1");
    second.check("share 1", "started");
    second.check("beside 1", "started");
    second.check("wait 1", "exit 7");
    second.check(&format!("wait {}", 1 + BESIDE), "exit 0");
    second.shut_down(&directory);
}

/// Whom a server of the case below becomes.
const ANOTHER: u32 = 4711;

async fn another_user_reaches_no_further(fixture: &Fixture) {
    // The fixture's own directory lets nobody else through.
    let temporary = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir().unwrap();
    let data = temporary.path().canonicalize().unwrap();
    let directory = data.join("run");
    fs::DirBuilder::new().mode(0o711).create(&directory).unwrap();
    for name in ["images/layers", "scratch"] {
        fs::create_dir_all(data.join(name)).unwrap();
        std::os::unix::fs::chown(data.join(name), Some(ANOTHER), Some(ANOTHER)).unwrap();
    }
    let layer = data.join("images/layers/one");
    let copied = Command::new("cp").arg("-a").arg(fixture.rootfs()).arg(&layer).status().unwrap();
    assert!(copied.success());
    let program = std::env::current_exe().unwrap();
    let user = ANOTHER.to_string();
    let mut server = Server::start_with(&program, &layer, &directory, &[&user, "/usr"]);
    let attempts = [
        ("try-layers", "refused"),
        ("try-linked", "refused"),
        ("try-scratch", "refused"),
        ("try-mount", "refused"),
        ("try-written", "refused"),
        ("try-nothing", "started"),
        ("try-allowed", "started"),
    ];
    for (number, (attempt, expect)) in attempts.iter().enumerate() {
        server.check(&format!("{attempt} {number}"), expect);
    }
    // The next supervisor meets a server that never was root.
    kill_supervisor(&directory);
    for (number, (attempt, expect)) in attempts.iter().enumerate() {
        server.check(&format!("{attempt} {}", attempts.len() + number), expect);
    }
    server.check("shut down", "done");
    assert!(server.process.wait().unwrap().success());
    until(|| supervisor_of(&directory).is_none());
}

/// What a server does.
pub(crate) fn be_server(directory: &str) -> ExitCode {
    let directory = PathBuf::from(directory);
    let rootfs = PathBuf::from(std::env::args().nth(2).unwrap());
    let user: Option<u32> = std::env::args().nth(3).map(|user| user.parse().unwrap());
    let client = match user {
        None => with_launcher(Supervisor::attach(&config(&directory), &directory).unwrap()),
        Some(user) => {
            let allowed = std::env::args().nth(4).map(PathBuf::from);
            let host_paths = allowed.map(|path| HostPath { path, read_only: true }).into_iter().collect();
            let policy = Policy { host_paths, ..Policy::default() };
            let config = config(directory.parent().unwrap()).with_server_uid(user).with_policy(policy);
            let client = with_launcher(Supervisor::attach(&config, &directory).unwrap());
            neargate_container::become_user(user, user, neargate_container::Rights::Own).unwrap();
            client
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("attached");
    let server = Role { client, directory, rootfs };
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let (verb, number) = order.split_once(' ').unwrap_or((&order, "0"));
        println!("{}", runtime.block_on(server.obey(verb, number)));
        if verb == "shut" {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// Starts the launcher that replaces the steward; it ends with this process.
fn with_launcher(client: SupervisorClient) -> SupervisorClient {
    let (roles, policy) = (Roles::new(|_, _| 0, |_, _| 0), neargate_container::Policy::default());
    let launcher = Launcher::fork_with(roles, policy, client.take_succession()).unwrap();
    std::mem::forget(launcher);
    client
}

struct Role {
    client: SupervisorClient,
    directory: PathBuf,
    rootfs: PathBuf,
}

impl Role {
    async fn obey(&self, verb: &str, number: &str) -> String {
        match verb {
            "start" => self.start(number.parse().unwrap(), SCRIPT).await,
            "share" => {
                let number: usize = number.parse().unwrap();
                self.start_in((number, SHARED), number, SCRIPT).await
            }
            "beside" => {
                let number: usize = number.parse().unwrap();
                self.start_in((number, SHARED), number + BESIDE, MEET).await
            }
            "pause" => {
                let pids = self.pids(number.parse().unwrap());
                pids.into_iter().filter(|pid| is_pause(*pid)).count().to_string()
            }
            "processes" => self.pids(number.parse().unwrap()).len().to_string(),
            "pid-of-first" => {
                let pids = self.pids(number.parse().unwrap());
                pids.into_iter().find(|pid| !is_pause(*pid)).unwrap().to_string()
            }
            "start-many" => {
                for number in 0..number.parse().unwrap() {
                    self.start(number, "exec sleep 1000").await;
                }
                "started".to_owned()
            }
            "groups" => {
                // Everybody reaches port 80 of all in group a, or nobody does; the group is named either way, so that
                // the router knows who is in it.
                let mut ingress = vec![from_group(Traffic::Udp(9, 9), 'a')];
                if number == "open" {
                    ingress.extend(["0.0.0.0/0", "::/0"].map(|peer| from(Traffic::Tcp(80, 80), peer)));
                }
                let blocks = [dual::blocks(), vec![BRIDGE.parse().unwrap()]].concat();
                self.client.set_groups(&[open_out('a', ingress)], &blocks).await.unwrap();
                "told".to_owned()
            }
            "hosts" => {
                let end = |number, last| HostEnd {
                    number: HostNumber::new(number).unwrap(),
                    address: Ipv4Addr::new(192, 0, 2, last),
                };
                let tasks =
                    vec![RemoteTask { address: Ipv4Addr::new(10, 77, 192, 4), groups: vec![group('a')] }];
                let blocks = vec!["10.77.192.0/18".parse().unwrap()];
                let others = vec![OtherHost { end: end(number.parse().unwrap(), 9), blocks, tasks }];
                self.client.set_hosts(Some(&Hosts { own: end(8, 8), others })).await.unwrap();
                "told".to_owned()
            }
            "serve" => {
                let serve = "while :; do nc -l -p 80 -e echo hello; done";
                self.start(number.parse().unwrap(), serve).await
            }
            "listen" => self.listen(number.parse().unwrap()).await,
            "reach" => {
                let found = Driver::recover(&self.client, &container(number.parse().unwrap())).await;
                let handle = found.unwrap().expect("a container").handle;
                let mut codes = Vec::new();
                for address in SERVER_ADDRESSES {
                    let command = format!(
                        "for i in 1 2 3; do nc -w 1 {address} 80 </dev/null | grep -q hello && exit; done; exit 1"
                    );
                    let exit = handle.exec(exec_spec(&["/bin/sh", "-c", &command], None)).await.unwrap();
                    codes.push(exit.code);
                }
                match codes[..] {
                    [Some(0), Some(0)] => "reached".to_owned(),
                    [Some(1), Some(1)] => "dropped".to_owned(),
                    _ => format!("{codes:?}"),
                }
            }
            "count" => self.client.found().len().to_string(),
            "release" => {
                let task = self.sandbox(number.parse().unwrap()).await.task;
                self.client.release(&task).await.unwrap();
                "released".to_owned()
            }
            attempt if attempt.starts_with("try-") => self.attempt(number.parse().unwrap(), attempt).await,
            "shut" => {
                self.client.shut_down().await;
                "done".to_owned()
            }
            verb => self.with(verb, number.parse().unwrap()).await,
        }
    }

    /// Answers at port 80 of a task in which nothing runs.
    async fn listen(&self, number: usize) -> String {
        let task = self.sandbox(number).await.task;
        let listener = match self.client.socket(&task, SocketKind::Listener { port: 80 }).await {
            Ok(listener) => tokio::net::TcpListener::from_std(listener.into()).unwrap(),
            Err(SandboxError::System { .. }) => return "taken".to_owned(),
            Err(error) => return error.to_string(),
        };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello\n").await;
            }
        });
        "listens".to_owned()
    }

    async fn with(&self, verb: &str, number: usize) -> String {
        let found = Driver::recover(&self.client, &container(number)).await.unwrap().expect("a container");
        if let Some([stdout, _]) = found.readers {
            OWN.lock().unwrap().push((number, stdout));
        }
        let exit = |code: Option<i32>| {
            format!("exit {}", code.map_or("unknown".to_owned(), |code| code.to_string()))
        };
        match verb {
            "exec" => {
                exit(found.handle.exec(exec_spec(&["/bin/sh", "-c", "exit 3"], None)).await.unwrap().code)
            }
            "mark" => {
                let mark = exec_spec(&["touch", "/dev/shm/mark", "/dev/mqueue/mark"], None);
                exit(found.handle.exec(mark).await.unwrap().code)
            }
            "leave" => {
                let leave = exec_spec(&["sh", "-c", "setsid sleep 1000 & exit 0"], None);
                exit(found.handle.exec(leave).await.unwrap().code)
            }
            "usr1" => {
                found.handle.signal(Signal::Stop(USR1)).await.unwrap();
                exit(found.handle.wait().await.code)
            }
            "stats" => found.handle.stats().await.map_or("none", |_| "some").to_owned(),
            "wait" => exit(found.handle.wait().await.code),
            "pid" => self.pid(number).to_string(),
            "read" => {
                let reader = self.readers(number).expect("a reader");
                let mut text = String::new();
                fs::File::from(reader).read_to_string(&mut text).unwrap();
                text.split_whitespace().collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other} is no order"),
        }
    }

    /// Starts a container in a data directory, with something elsewhere.
    async fn attempt(&self, number: usize, what: &str) -> String {
        let sandbox = self.sandbox(number).await;
        let data = self.directory.parent().unwrap();
        let mut spec = self.spec(number, "exec sleep 1000", &sandbox, &data.join("scratch"));
        let mount = |source: &str, read_only| Mount {
            source: MountSource::Host(source.into()),
            target: "/mnt".into(),
            read_only,
        };
        match what {
            "try-layers" => spec.rootfs = Rootfs::Layers(vec!["/usr".into()]),
            "try-linked" => {
                let link = data.join(format!("images/layers/link-{number}"));
                std::os::unix::fs::symlink("/usr", &link).unwrap();
                spec.rootfs = Rootfs::Layers(vec![link]);
            }
            "try-scratch" => spec.scratch = data.join("run"),
            "try-mount" => spec.mounts.push(mount("/etc", true)),
            "try-allowed" => spec.mounts.push(mount("/usr/bin", true)),
            "try-written" => spec.mounts.push(mount("/usr/bin", false)),
            _ => {}
        }
        match self.client.start(spec, &sandbox).await {
            Ok(_) => "started",
            Err(_) => "refused",
        }
        .to_owned()
    }

    async fn start(&self, number: usize, script: &str) -> String {
        self.start_in((number, Sharing::default()), number, script).await
    }

    async fn start_in(&self, (task, sharing): (usize, Sharing), number: usize, script: &str) -> String {
        let sandbox = self.sandbox_with(task, sharing).await;
        let spec = self.spec(number, script, &sandbox, &self.directory);
        self.client.start(spec, &sandbox).await.unwrap();
        if script == SCRIPT {
            // Its trap is set once it has written its first line.
            until(|| is_readable(number));
        }
        "started".to_owned()
    }

    fn spec(&self, number: usize, script: &str, sandbox: &Sandbox, scratch: &Path) -> ContainerSpec {
        let ((out, stdout), (err, stderr)) = (pipe(), pipe());
        let stdin = fs::File::open("/dev/null").unwrap().into();
        let starts = {
            let mut own = OWN.lock().unwrap();
            own.push((number, out.try_clone().unwrap()));
            own.len()
        };
        // A server before this one may have started it, too.
        let names = (starts..).map(|start| scratch.join(format!("scratch-{number}-{start}")));
        let scratch = names.into_iter().find(|scratch| !scratch.exists()).unwrap();
        fs::create_dir(&scratch).unwrap();
        let stdio = Stdio { stdin, stdout, stderr, readers: Some([out, err]) };
        plain_spec((container(number), sandbox), self.rootfs.clone(), &["sh", "-c", script], stdio, scratch)
    }

    async fn sandbox(&self, number: usize) -> Sandbox {
        self.sandbox_with(number, Sharing::default()).await
    }

    async fn sandbox_with(&self, number: usize, sharing: Sharing) -> Sandbox {
        let task = TaskId::new(format!("{number:032x}")).unwrap();
        let limits = Limits::default();
        let spec = SandboxSpec {
            task,
            hostname: HOSTNAME.to_owned(),
            limits,
            linux: true,
            network: match u8::try_from(number) {
                Ok(number @ CONNECTED..) => both([10, 77, 2, number], &['a']),
                Err(_) => self.bridge(number),
                _ => Default::default(),
            },
            sharing,
        };
        match self.client.find(&spec).await {
            Some(sandbox) => sandbox,
            None => SandboxHost::prepare(&self.client, &spec).await.unwrap(),
        }
    }

    /// A container under `bridge`, and the port of the host that is noted in the directory.
    fn bridge(&self, number: usize) -> SandboxNetwork {
        let port = fs::read_to_string(self.directory.join("port")).unwrap().parse().unwrap();
        let only = BridgedContainer {
            id: container(number),
            address: Ipv4Addr::new(10, 79, 0, 20),
            ports: vec![tcp(port)],
            links: vec![],
        };
        SandboxNetwork::Bridge { block: BRIDGE.parse().unwrap(), containers: vec![only], managed: false }
    }

    /// The reader of the last start by this server.
    fn readers(&self, number: usize) -> Option<OwnedFd> {
        let mut own = OWN.lock().unwrap();
        let at = own.iter().rposition(|(of, _)| *of == number)?;
        Some(own.remove(at).1)
    }

    /// The first process of a container, by its groups.
    fn pid(&self, number: usize) -> i32 {
        self.pids(number).first().copied().expect("a process")
    }

    /// The processes in the groups of a task, by their ids.
    fn pids(&self, number: usize) -> BTreeSet<i32> {
        let task = TaskId::new(format!("{number:032x}")).unwrap();
        let instance = config(&self.directory).instance().to_owned();
        let task = group_of(&task, &instance).expect("groups of the task");
        let groups = cgroup_roots().into_iter().map(|root| root.join("neargate").join(&instance).join(&task));
        let groups = groups.filter_map(|group| fs::read_dir(group).ok()).flatten().flatten();
        let listed = groups.filter_map(|group| fs::read_to_string(group.path().join("cgroup.procs")).ok());
        listed.flat_map(|text| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<i32>>()).collect()
    }
}

/// What the containers of some tasks share.
const SHARED: Sharing = Sharing { pids: PidMode::Task, ipc: IpcMode::Task, shm_bytes: None };

/// Finds the marks of a sibling, then its process, and signals that. The brackets keep it from finding itself.
const MEET: &str = "test -e /dev/shm/mark && test -e /dev/mqueue/mark && \
    for p in /proc/[0-9]*; do grep -q 'echo [l]ast' $p/cmdline && kill -USR1 ${p#/proc/}; done; exit 0";

fn is_pause(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ng-pause")
}

/// The readers of what this server has started.
static OWN: std::sync::Mutex<Vec<(usize, OwnedFd)>> = std::sync::Mutex::new(Vec::new());

fn container(number: usize) -> ContainerId {
    ContainerId::new(format!("00000000-0000-0000-0000-{number:012x}")).unwrap()
}

/// A pipe whose writing end is open for reading, too.
fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&write));
    let both = fs::File::options().read(true).write(true).open(path).unwrap();
    (read, both.into())
}

fn is_readable(number: usize) -> bool {
    let own = OWN.lock().unwrap();
    let (_, reader) = own.iter().rev().find(|(of, _)| *of == number).unwrap();
    let mut fds = [rustix::event::PollFd::new(reader, rustix::event::PollFlags::IN)];
    let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&none)).unwrap() > 0
}
