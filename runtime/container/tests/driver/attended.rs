//! Commands in running containers that somebody attends. Numbers are those of the security test catalogue.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use neargate_driver::{ExecError, Exit, Handle, Session, SessionSpec, SessionStreams, Signal, StartError};
use neargate_model::Window;

use crate::cases;
use crate::fixture::{Fixture, Streams};

cases![
    attended_output_and_code,
    attended_input_and_its_end,
    attended_user_and_environment,
    attended_on_a_read_only_root,
    row_46_attended_is_as_confined_as_the_container,
    attended_terminal,
    attended_terminal_is_resized,
    attended_terminal_interrupts,
    row_51_attended_terminal_is_checked,
    attended_signals,
    attended_kill_leaves_nothing,
    attended_end_of_the_container,
    attended_failures,
    attended_timeout,
];

const WINDOW: Window = Window { rows: 40, columns: 132 };

fn spec(argv: &[&str], streams: SessionStreams) -> SessionSpec {
    SessionSpec {
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        env: vec![],
        user: None,
        streams,
        timeout: Duration::from_secs(30),
    }
}

fn piped(script: &str) -> (SessionSpec, Streams) {
    let (stdio, ours) = Streams::new();
    (spec(&["sh", "-c", script], SessionStreams::Stdio(stdio)), ours)
}

fn on_terminal(script: &str) -> SessionSpec {
    spec(&["sh", "-c", script], SessionStreams::Terminal(WINDOW))
}

/// Runs a script to its end; what it wrote, without white space around it.
async fn run(handle: &Arc<dyn Handle>, spec: SessionSpec, ours: Streams) -> (Exit, String) {
    let session = handle.open(spec).await.unwrap();
    let (stdout, stderr) = ours.read().await;
    let text = [stdout, stderr].concat();
    (session.wait().await, String::from_utf8(text).unwrap().trim().to_owned())
}

async fn output(handle: &Arc<dyn Handle>, script: &str) -> String {
    let (spec, ours) = piped(script);
    let (exit, text) = run(handle, spec, ours).await;
    assert_eq!(exit.code, Some(0), "{text}");
    text
}

fn terminal(session: &dyn Session) -> File {
    session.terminal().expect("it has a terminal").as_fd().try_clone_to_owned().unwrap().into()
}

/// Reads from a terminal until `end` has come, or to its end.
async fn read_until(mut file: File, end: &'static str) -> String {
    let read = move || {
        let (mut text, mut buffer) = (String::new(), [0; 512]);
        while !text.ends_with(end) || end.is_empty() {
            match file.read(&mut buffer) {
                // A terminal whose other end is closed answers EIO.
                Ok(0) | Err(_) => break,
                Ok(count) => text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        text
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn attended_output_and_code(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    for code in [0, 1, 255] {
        let (spec, ours) = piped(&format!(r"printf 'a\000b'; printf 'e' >&2; exit {code}"));
        let (exit, text) = run(&handle, spec, ours).await;
        assert_eq!((exit.code, text.as_str()), (Some(code), "a\0be"));
    }
    assert_eq!(output(&handle, "head -c 300000 /dev/zero | tr '\\0' x").await.len(), 300_000);
    task.release().await;
}

async fn attended_input_and_its_end(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let (spec, mut ours) = piped("cat; echo over");
    let session = handle.open(spec).await.unwrap();
    ours.stdin.write_all(b"through ").unwrap();
    let (stdout, _) = ours.read().await;
    assert_eq!((session.wait().await.code, &stdout[..]), (Some(0), &b"through over\n"[..]));
    assert!(session.terminal().is_none());
    task.release().await;
}

async fn attended_user_and_environment(fixture: &Fixture) {
    let task = fixture.task().await;
    let change = |spec: &mut neargate_driver::ContainerSpec| {
        spec.user = Some("web".to_owned());
        spec.env.push(("GIVEN".to_owned(), "yes".to_owned()));
        spec.working_dir = "/tmp".into();
    };
    let (handle, _streams) = task.start_ready("echo ready; cat", change).await;
    let script = "echo $GIVEN $ADDED $TERM $(id -u):$(id -g) $(pwd)";
    for (user, ids) in [(None, "1000:1001"), (Some("root"), "0:0"), (Some("1234:44"), "1234:44")] {
        let (mut spec, ours) = piped(script);
        spec.user = user.map(str::to_owned);
        spec.env = vec![("ADDED".to_owned(), "too".to_owned())];
        let (exit, text) = run(&handle, spec, ours).await;
        assert_eq!((exit.code, text), (Some(0), format!("yes too {ids} /tmp")), "{user:?}");
    }
    let (mut spec, _ours) = piped("true");
    spec.user = Some("nobody-here".to_owned());
    let error = handle.open(spec).await.map(drop).unwrap_err();
    assert!(matches!(error, ExecError::Start(StartError::UnknownUser { .. })), "{error:?}");
    task.release().await;
}

async fn attended_on_a_read_only_root(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |spec| spec.read_only_root = true).await;
    assert_eq!(output(&handle, "touch /new 2>/dev/null || echo refused").await, "refused");
    let session = handle.open(on_terminal("tty; touch /new 2>/dev/null || echo refused")).await.unwrap();
    assert_eq!(read_until(terminal(&*session), "").await, "/dev/pts/0\r\nrefused\r\n");
    assert_eq!(session.wait().await.code, Some(0));
    task.release().await;
}

async fn row_46_attended_is_as_confined_as_the_container(fixture: &Fixture) {
    // What is written of the first process and of the command must be the same text.
    const LOOK: &str = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Umask):' /proc/self/status; \
        for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; \
        cat /proc/self/cgroup /proc/self/limits /proc/self/oom_score_adj; pwd; ls -l /proc/self/root";
    let task = fixture.task().await;
    for user in [None, Some("web".to_owned())] {
        let (mut container, streams) = task.spec(&["sh", "-c", &format!("{LOOK}; echo END; cat")]);
        container.user = user;
        container.capabilities_drop = vec!["CHOWN".to_owned()];
        container.ulimits = vec![
            neargate_driver::Ulimit { name: "nofile".to_owned(), soft: 123, hard: 456 },
            neargate_driver::Ulimit { name: "memlock".to_owned(), soft: 0, hard: 4096 },
        ];
        let handle = task.start(container).await.unwrap();
        let first = read_until(streams.stdout.try_clone().unwrap(), "END\n").await;
        let command = output(&handle, LOOK).await;
        assert_eq!(command, first.trim_end_matches("END\n").trim());
        assert!(command.contains("Max open files            123                  456"), "{command}");
        drop(streams);
        handle.wait().await;
    }
    task.release().await;
}

async fn attended_terminal(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    for user in [None, Some("web".to_owned())] {
        let script = "stty size; echo $TERM; tty; echo again > /dev/tty; echo once > /dev/stdout; \
            cut -d' ' -f6,7 /proc/self/stat > /tmp/$$; [ $$ = $(cut -d' ' -f1 /tmp/$$) ] && echo leads; read x; echo got $x; exit 3";
        let mut spec = on_terminal(script);
        spec.user = user;
        let session = handle.open(spec).await.unwrap();
        let mut ours = terminal(&*session);
        let shown = read_until(ours.try_clone().unwrap(), "leads\r\n").await;
        assert_eq!(shown, "40 132\r\nxterm\r\n/dev/pts/0\r\nagain\r\nonce\r\nleads\r\n");
        ours.write_all(b"word\n").unwrap();
        assert_eq!(read_until(ours, "").await, "word\r\ngot word\r\n");
        assert_eq!(session.wait().await.code, Some(3));
    }
    task.release().await;
}

async fn attended_terminal_is_resized(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done";
    let session = handle.open(on_terminal(script)).await.unwrap();
    assert_eq!(read_until(terminal(&*session), "ready\r\n").await, "ready\r\n");
    session.resize(Window { rows: 7, columns: 9 }).unwrap();
    assert_eq!(read_until(terminal(&*session), "").await, "7 9\r\n");
    assert_eq!(session.wait().await.code, Some(0));
    task.release().await;
}

async fn attended_terminal_interrupts(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let session = handle.open(on_terminal("echo ready; exec sleep 100")).await.unwrap();
    let mut ours = terminal(&*session);
    assert_eq!(read_until(ours.try_clone().unwrap(), "ready\r\n").await, "ready\r\n");
    ours.write_all(b"\x03").unwrap();
    assert_eq!(session.wait().await.code, Some(130));
    task.release().await;
}

/// A container must not be able to put something of its own in the place of `/dev/pts/ptmx`.
async fn row_51_attended_terminal_is_checked(fixture: &Fixture) {
    let task = fixture.task().await;
    let script = "touch /tmp/x; mv /tmp/x /dev/pts/ptmx 2>/dev/null && echo moved; \
        mv /dev/pts /dev/old 2>/dev/null && echo moved; mount -t tmpfs none /dev/pts 2>/dev/null && echo mounted; echo ready; cat";
    let (handle, _streams) = task.start_ready(script, |_| {}).await;
    let session = handle.open(on_terminal("tty")).await.unwrap();
    assert_eq!(read_until(terminal(&*session), "").await, "/dev/pts/0\r\n");
    assert_eq!(session.wait().await.code, Some(0));
    drop(session);
    assert_eq!(output(&handle, "ls /dev/pts").await, "ptmx", "an ended command's terminal stays behind");
    task.release().await;
}

async fn attended_signals(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    for (signal, code) in [(15, 143), (1, 129), (9, 137)] {
        let (spec, ours) = piped("echo ready; sleep 100");
        let session = handle.open(spec).await.unwrap();
        assert_eq!(read_until(ours.stdout.try_clone().unwrap(), "ready\n").await, "ready\n");
        session.signal(Signal::Stop(signal)).await.unwrap();
        assert_eq!(session.wait().await.code, Some(code), "signal {signal}");
        session.signal(Signal::Stop(signal)).await.unwrap();
    }
    let (spec, _ours) = piped("cat");
    let session = handle.open(spec).await.unwrap();
    assert!(session.signal(Signal::Stop(0)).await.is_err(), "signal 0 is none");
    session.signal(Signal::Kill).await.unwrap();
    assert_eq!(session.wait().await.code, Some(137));
    task.release().await;
}

async fn attended_kill_leaves_nothing(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    // With job control, each job is a process group of its own; all are of one session.
    let script = "set -m; trap '' HUP; (trap '' HUP TERM; sleep 1000 & sleep 1000) & echo ready; sleep 1000";
    let session = handle.open(on_terminal(script)).await.unwrap();
    assert_eq!(read_until(terminal(&*session), "ready\r\n").await, "ready\r\n");
    session.signal(Signal::Kill).await.unwrap();
    assert_eq!(session.wait().await.code, Some(137));
    let left = "ps -o stat,comm | grep sleep | grep -vc Z; true";
    assert_eq!(output(&handle, left).await, "0");
    assert_eq!(output(&handle, "echo lives").await, "lives", "the container itself goes on");
    task.release().await;
}

async fn attended_end_of_the_container(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let (spec, _ours) = piped("sleep 100");
    let plain = handle.open(spec).await.unwrap();
    let with_terminal = handle.open(on_terminal("sleep 100")).await.unwrap();
    drop(streams);
    assert_eq!(handle.wait().await.code, Some(0));
    assert_eq!(plain.wait().await.code, Some(137));
    assert_eq!(with_terminal.wait().await.code, Some(137));
    let (spec, _ours) = piped("true");
    let error = handle.open(spec).await.map(drop).unwrap_err();
    assert!(matches!(error, ExecError::NotRunning), "{error:?}");
    task.release().await;
}

async fn attended_failures(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    for terminal in [false, true] {
        let try_it = async |program: &str| {
            let streams = match terminal {
                true => SessionStreams::Terminal(WINDOW),
                false => SessionStreams::Stdio(Streams::new().0),
            };
            handle.open(spec(&[program], streams)).await.map(drop).unwrap_err()
        };
        let error = try_it("nothing").await;
        assert!(matches!(error, ExecError::Start(StartError::NotFound { .. })), "{error:?}");
        let error = try_it("/data").await;
        assert!(matches!(error, ExecError::Start(StartError::NotExecutable { .. })), "{error:?}");
        let error = try_it("").await;
        assert!(matches!(error, ExecError::Start(StartError::Unsupported { .. })), "{error:?}");
    }
    task.release().await;
}

async fn attended_timeout(fixture: &Fixture) {
    let task = fixture.task().await;
    let (handle, _streams) = task.start_ready("echo ready; cat", |_| {}).await;
    let mut spec = on_terminal("set -m; sleep 1000 & sleep 1000");
    spec.timeout = Duration::from_millis(150);
    let session = handle.open(spec).await.unwrap();
    let exit = session.wait().await;
    assert!(exit.code.is_none() && exit.reason.is_some(), "{exit:?}");
    // They are killed by then, and dead as soon as each has had a core for a moment.
    let sleeping = "ps -o stat,comm | grep sleep | grep -vc Z";
    let gone =
        format!("for i in $(seq 100); do [ $({sleeping}) = 0 ] && break; sleep 0.1; done; {sleeping}; true");
    assert_eq!(output(&handle, &gone).await, "0");
    task.release().await;
}
