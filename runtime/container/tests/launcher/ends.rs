//! How processes and launchers end, and what is left then: nothing.

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::pin::pin;
use std::process::{Command, ExitCode, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use neargate_container::{Launcher, LauncherClient, Policy, Roles, SpawnError};
use neargate_driver::{ProcessError, ProcessHost, ProcessMount, ProcessNetwork};

use crate::cases;
use crate::fixture::{Fixture, Mode};
use crate::probes;

cases![
    exit_codes,
    bad_specs_are_refused,
    cancelled_spawns,
    nothing_accumulates,
    threads_are_refused,
    killed_program,
    killed_launcher,
];

/// First argument of the process that [`killed_program`] kills.
pub(crate) const CLIENT_ROLE: &str = "client-to-be-killed";

fn exit_codes(fixture: &Fixture) {
    for code in [0, 1, 101, 255] {
        assert_eq!(fixture.try_with(&format!("exit {code}"), |_| {}).exit.code, code);
    }
    assert_eq!(fixture.try_with("panic", |_| {}).exit.code, 101);
    let waiting = fixture.wait_with(&fixture.client, |_| {});
    waiting.process.kill();
    assert_eq!(fixture.block_on(waiting.process.wait()).code, 137);
    waiting.process.kill();
    assert_eq!(fixture.block_on(waiting.process.wait()).code, 137);
}

fn bad_specs_are_refused(fixture: &Fixture) {
    for name in ["", "../x", "a/b", "a b"] {
        let mut spec = fixture.spec("exit 0");
        spec.name = name.to_owned();
        assert!(matches!(fixture.spawn(spec), Err(ProcessError::System { .. })), "{name:?}");
    }
    for source in ["/nowhere", "/dev/null"] {
        let mut spec = fixture.spec("exit 0");
        spec.mounts.push(ProcessMount { source: source.into(), name: "data".to_owned(), read_only: true });
        let error = fixture.spawn(spec).err().unwrap();
        assert!(
            matches!(&error, ProcessError::Mount { path, .. } if path.as_os_str() == source),
            "{error:?}"
        );
    }
    let mut spec = fixture.spec("exit 0");
    spec.fds.extend((0..100).map(|_| fs::File::open("/dev/null").unwrap().into()));
    assert!(matches!(fixture.spawn(spec), Err(ProcessError::System { .. })));
}

/// Waits for something that another process is about to do.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn children(launcher: &LauncherClient) -> usize {
    let id = launcher.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    children.split_whitespace().count()
}

fn cancelled_spawns(fixture: &Fixture) {
    for _ in 0..10 {
        let (end, hold) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut spec = fixture.spec("wait");
        spec.fds.extend([end.try_clone().unwrap(), end]);
        let _runtime = fixture.runtime.enter();
        let mut spawn = pin!(fixture.client.spawn(spec));
        // The first poll sends the request.
        let state = spawn.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(state, Poll::Pending));
        std::mem::forget(hold);
    }
    // Each is known to the launcher by the time that this one is.
    assert_eq!(fixture.try_with("exit 0", |_| {}).exit.code, 0);
    eventually("processes without an owner end", || children(&fixture.client) == 0);
}

/// Countable things of the host and of the launcher.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    groups: usize,
    mounts: usize,
    fds: usize,
    children: usize,
}

impl Census {
    fn take(fixture: &Fixture, instance: Option<&str>) -> Self {
        let id = fixture.client.id();
        let is_dir = |entry: &fs::DirEntry| entry.path().is_dir();
        let count = |dir: &str| {
            let top = format!("/sys/fs/cgroup/{dir}/neargate/{}", instance.unwrap_or("none"));
            fs::read_dir(top).into_iter().flatten().flatten().filter(is_dir).count()
        };
        Self {
            groups: ["unified", "memory", "pids", "cpu", ""].into_iter().map(count).sum(),
            mounts: fs::read_to_string(format!("/proc/{id}/mountinfo")).unwrap_or_default().lines().count(),
            fds: fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count),
            children: children(&fixture.client),
        }
    }
}

/// The name of the launcher's cgroups, which is in the path of its processes' ones.
fn instance(fixture: &Fixture) -> Option<String> {
    let waiting = fixture.wait_with(&fixture.client, |_| {});
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", waiting.process.id())).unwrap();
    waiting.process.kill();
    fixture.block_on(waiting.process.wait());
    let (_, below) = groups.split_once("/neargate/")?;
    below.split_once("/probe.").map(|(instance, _)| instance.to_owned())
}

fn nothing_accumulates(fixture: &Fixture) {
    let instance = instance(fixture);
    assert_eq!(instance.is_some(), fixture.mode == Mode::Root);
    let instance = instance.as_deref();
    eventually("groups are removed", || Census::take(fixture, instance).groups == 0);
    let before = Census::take(fixture, instance);
    for n in 0..200 {
        let found = fixture.try_with("exit 3", |spec| {
            if n % 3 == 0 && fixture.has_namespaces() {
                spec.mounts.push(fixture.mount("data", false));
            }
            if n % 4 == 0 {
                spec.network = ProcessNetwork::Host;
            }
            spec.memory_bytes = (n % 5 == 0).then_some(64 << 20);
        });
        assert_eq!(found.exit.code, 3);
        if n % 10 == 0 {
            let mut spec = fixture.spec("exit 0");
            spec.core = Some(1_000_000);
            assert!(fixture.spawn(spec).is_err());
            fixture.wait_with(&fixture.client, |_| {}).process.kill();
        }
    }
    eventually("all is as before", || Census::take(fixture, instance) == before);
}

fn threads_are_refused(_: &Fixture) {
    // The runtime's threads are there.
    let refused = Launcher::fork(Roles::new(probes::role, probes::role), Policy::default());
    assert!(matches!(refused, Err(SpawnError::Threads { count: 2.. })), "{refused:?}");
}

/// The process that is killed: starts a process, tells its id and the launcher's, and waits.
pub(crate) fn be_client() -> ExitCode {
    let client = Launcher::fork(Roles::new(probes::role, probes::role), Policy::default()).unwrap();
    let launcher = client.id();
    let fixture = Fixture::new(Mode::Root, client.clone(), client);
    let waiting = fixture.wait_with(&fixture.client, |_| {});
    println!("{} {launcher}", waiting.process.id());
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
    ExitCode::SUCCESS
}

fn is_alive(pid: &str) -> bool {
    // A zombie that nobody has reaped yet is dead.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn killed_program(fixture: &Fixture) {
    if fixture.mode != Mode::Root {
        return;
    }
    let mut program = Command::new("/proc/self/exe");
    let program = program.arg(CLIENT_ROLE).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = program.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<&str> = line.split_whitespace().collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(pid)), "{line}");
    program.kill().unwrap();
    program.wait().unwrap();
    eventually("launcher and process end", || !pids.iter().any(|pid| is_alive(pid)));
}

fn killed_launcher(fixture: &Fixture) {
    let waiting: Vec<_> = (0..3).map(|_| fixture.wait_with(&fixture.second, |_| {})).collect();
    let launcher = rustix::process::Pid::from_raw(fixture.second.id() as i32).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    for waiting in &waiting {
        assert_eq!(fixture.block_on(waiting.process.wait()).code, 137);
        eventually("processes die with the launcher", || !is_alive(&waiting.process.id().to_string()));
        waiting.process.kill();
    }
    let refused = fixture.block_on(fixture.second.spawn(fixture.spec("exit 0")));
    assert!(matches!(refused, Err(ProcessError::Unavailable { .. })));
}
