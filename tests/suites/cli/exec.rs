//! `exec`: commands in the containers of running tasks, as a person or a script runs them.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_tests::process::{self, Finished};
use neargate_tests::{Server, eventually, fixtures};
use nix::pty::{OpenptyResult, Winsize, openpty};
use rustix::process::Signal;
use rustix::termios::{Winsize as Size, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::suite::{Case, Needs};
use crate::{assert_refused, module};

pub(crate) const CASES: &[Case] = &[
    ("exec/output_and_exit_code", Needs::Root, output_and_exit_code),
    ("exec/input_and_its_end", Needs::Root, input_and_its_end),
    ("exec/input_that_nobody_reads", Needs::Root, input_that_nobody_reads),
    ("exec/user_and_environment", Needs::Root, user_and_environment),
    ("exec/is_as_confined_as_its_container", Needs::Root, is_as_confined_as_its_container),
    ("exec/read_only_root", Needs::Root, read_only_root),
    ("exec/terminal", Needs::Root, terminal),
    ("exec/signals", Needs::Root, signals),
    ("exec/killed_client_leaves_nothing", Needs::Root, killed_client_leaves_nothing),
    ("exec/ends_with_its_container", Needs::Root, ends_with_its_container),
    ("exec/several_containers", Needs::Root, several_containers),
    ("exec/refusals", Needs::Root, refusals),
    ("exec/is_signed_and_upgraded", Needs::Nothing, is_signed_and_upgraded),
    ("exec/wasm_is_refused", Needs::Wasm, wasm_is_refused),
];

/// How long anything here may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A container that lives until it is stopped.
fn sleeper(name: &str) -> Value {
    let script = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";
    json!({"name": name, "image": "busybox", "command": ["sh", "-c", script], "stopTimeout": 2})
}

/// A server with a running task of these containers. Returns the task's id.
fn server_with(containers: &[Value]) -> Result<(Server, String)> {
    let server = Server::start()?;
    if containers.iter().any(|container| container["image"] == "busybox") {
        server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
    } else {
        server.import(module().as_ref(), "probe")?;
    }
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": "default"}))?;
    let definition = json!({
        "family": "t", "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "containerDefinitions": containers,
    });
    client.ecs("RegisterTaskDefinition", &definition)?;
    let network = client.network()?;
    let request = json!({"taskDefinition": "t", "launchType": "FARGATE", "networkConfiguration": network});
    let answer = client.ecs("RunTask", &request)?;
    let arn = answer["tasks"][0]["taskArn"].as_str().with_context(|| answer.to_string())?.to_owned();
    let running = eventually(LIMIT, || {
        let answer = client.ecs("DescribeTasks", &json!({"tasks": [arn]})).ok()?;
        (answer["tasks"][0]["lastStatus"] == "RUNNING").then_some(())
    });
    running.with_context(|| format!("the task does not run: {}", server.log_tail()))?;
    Ok((server, arn.rsplit('/').next().unwrap_or_default().to_owned()))
}

fn server() -> Result<(Server, String)> {
    server_with(&[sleeper("main")])
}

fn exec(server: &Server, task: &str, options: &[&str], command: &[&str]) -> Result<Finished> {
    server.run(&[&["exec", task][..], options, &["--"], command].concat())
}

/// What a script writes, which must succeed.
fn output(server: &Server, task: &str, script: &str) -> Result<String> {
    let finished = exec(server, task, &[], &["sh", "-c", script])?;
    assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{}", finished.text());
    Ok(finished.text())
}

fn output_and_exit_code() -> Result<()> {
    let (server, task) = server()?;
    for code in [0, 1, 7, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let finished = exec(&server, &task[..8], &[], &["sh", "-c", &script])?;
        assert_eq!((finished.code, finished.text().trim(), finished.stderr.trim()), (code, "out", "err"));
    }
    let large = exec(&server, &task, &[], &["head", "-c", "3000000", "/dev/zero"])?;
    assert_eq!((large.code, large.stdout.len()), (0, 3_000_000));
    // Without -i there is nothing to read.
    let finished = process::run(&mut server.command(&["exec", &task, "--", "cat"]), b"unwanted", LIMIT)?;
    assert_eq!((finished.code, finished.text().as_str()), (0, ""));
    Ok(())
}

fn input_and_its_end() -> Result<()> {
    let (server, task) = server()?;
    for size in [0, 1, 100_000, 2_000_000] {
        let input: Vec<u8> = (0..size).map(|index: u32| (index % 251) as u8).collect();
        let finished = process::run(&mut server.command(&["exec", "-i", &task, "--", "cat"]), &input, LIMIT)?;
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        assert!(finished.stdout == input, "{} of {size} bytes came back", finished.stdout.len());
    }
    Ok(())
}

fn input_that_nobody_reads() -> Result<()> {
    let (server, task) = server()?;
    let mut command = server.command(&["exec", "-i", &task, "--", "sh", "-c", "exec <&-; exit 3"]);
    assert_eq!(process::run(&mut command, &vec![0; 1_000_000], LIMIT)?.code, 3);
    // A signal must not wait behind it. Sockets on the way take some of it, a few MiB each as the kernel sees fit.
    let mut command = server.command(&["exec", "-i", &task, "--", "sh", "-c", "echo ready; sleep 1000"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let writer = std::thread::spawn(move || stdin.write_all(&vec![0; 100_000_000]));
    wait_for(&mut child, "ready\n")?;
    process::signal(&child, Signal::TERM)?;
    assert_eq!(process::wait(&mut child, LIMIT)?.map(process::code), Some(143));
    assert!(
        writer.join().is_ok_and(|written| written.is_err()),
        "all was taken by a command that reads nothing"
    );
    Ok(())
}

fn user_and_environment() -> Result<()> {
    let mut container = sleeper("main");
    container["user"] = json!("1000:1001");
    container["environment"] = json!([{"name": "GIVEN", "value": "yes"}]);
    container["workingDirectory"] = json!("/tmp");
    let (server, task) = server_with(&[container])?;
    let script = "echo $(id -u):$(id -g) $GIVEN $ADDED $(pwd)";
    let finished = exec(&server, &task, &["--env", "ADDED=a b"], &["sh", "-c", script])?;
    assert_eq!(finished.text().trim(), "1000:1001 yes a b /tmp", "{}", finished.stderr);
    let finished = exec(&server, &task, &["-u", "0:5", "-e", "GIVEN=no"], &["sh", "-c", script])?;
    assert_eq!(finished.text().trim(), "0:5 no /tmp", "{}", finished.stderr);
    Ok(())
}

fn is_as_confined_as_its_container() -> Result<()> {
    let mut container = sleeper("main");
    container["ulimits"] = json!([{"name": "nofile", "softLimit": 100, "hardLimit": 200}]);
    let (server, task) = server_with(&[container])?;
    let look = |of: &str| {
        format!(
            "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters):' /proc/{of}/status; \
             cat /proc/{of}/cgroup /proc/{of}/limits; \
             for n in cgroup ipc mnt net pid user uts; do busybox readlink /proc/{of}/ns/$n; done"
        )
    };
    let first = output(&server, &task, &look("1"))?;
    let command = output(&server, &task, &look("self"))?;
    assert_eq!(command, first);
    for text in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t00000000800405fb", "user:["] {
        assert!(first.contains(text), "{text} is not in {first}");
    }
    Ok(())
}

fn read_only_root() -> Result<()> {
    let mut container = sleeper("main");
    container["readonlyRootFilesystem"] = json!(true);
    let (server, task) = server_with(&[container])?;
    let finished = exec(&server, &task, &[], &["touch", "/x"])?;
    assert_eq!(finished.code, 1);
    assert!(finished.stderr.contains("Read-only"), "{}", finished.stderr);
    // One that reads no input needs no terminal of ours.
    let finished =
        exec(&server, &task, &["-t"], &["sh", "-c", "busybox stty size; busybox tty; echo $TERM"])?;
    assert_eq!(finished.text(), "24 80\r\n/dev/pts/0\r\nxterm\r\n", "{}", finished.stderr);
    Ok(())
}

/// A client at a terminal of its own, and our end of that.
fn at_terminal(mut command: Command) -> Result<(Child, File)> {
    let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None)?;
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    Ok((command.spawn()?, master.into()))
}

/// Reads until a text has come.
fn read_until(terminal: &mut File, text: &str) -> Result<String> {
    let (mut shown, mut buffer) = (String::new(), [0; 512]);
    while !shown.contains(text) {
        let count =
            terminal.read(&mut buffer).with_context(|| format!("{text:?} did not come: {shown:?}"))?;
        shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(shown)
}

fn wait_for(child: &mut Child, text: &str) -> Result<()> {
    let stdout = child.stdout.as_mut().context("stdout is piped")?;
    let mut shown = Vec::new();
    let mut byte = [0];
    while !shown.ends_with(text.as_bytes()) {
        anyhow::ensure!(stdout.read(&mut byte)? == 1, "{text:?} did not come: {shown:?}");
        shown.push(byte[0]);
    }
    Ok(())
}

fn terminal() -> Result<()> {
    let (server, task) = server()?;
    let script = "busybox stty size; trap 'busybox stty size' WINCH; echo ready; while ! read -t 1 x; do :; done; echo got $x; exit 9";
    let (mut child, mut ours) =
        at_terminal(server.command(&["exec", "-it", &task, "--", "sh", "-c", script]))?;
    let before = read_until(&mut ours, "ready")?;
    assert!(before.contains("33 99\r\n"), "{before:?}");
    let is_raw = || {
        tcgetattr(ours.as_fd())
            .is_ok_and(|mode| !mode.local_modes.contains(rustix::termios::LocalModes::ICANON))
    };
    anyhow::ensure!(eventually(LIMIT, || is_raw().then_some(())).is_some(), "the terminal is not raw");
    tcsetwinsize(&ours, Size { ws_row: 12, ws_col: 34, ws_xpixel: 0, ws_ypixel: 0 })?;
    process::signal(&child, Signal::WINCH)?;
    read_until(&mut ours, "12 34\r\n")?;
    ours.write_all(b"word\r")?;
    read_until(&mut ours, "got word\r\n")?;
    assert_eq!(process::wait(&mut child, LIMIT)?.map(process::code), Some(9));
    assert!(
        tcgetattr(&ours)?.local_modes.contains(rustix::termios::LocalModes::ICANON),
        "the mode was not restored"
    );
    // What is typed is the command's: ^C ends it and not us.
    let script = "echo ready; exec sleep 1000";
    let (mut child, mut ours) =
        at_terminal(server.command(&["exec", "-it", &task, "--", "sh", "-c", script]))?;
    read_until(&mut ours, "ready")?;
    ours.write_all(b"\x03")?;
    assert_eq!(process::wait(&mut child, LIMIT)?.map(process::code), Some(130));
    let refused = exec(&server, &task, &["-it"], &["sh"])?;
    assert_refused(&refused, 125, &["terminal", "-t"]);
    Ok(())
}

fn signals() -> Result<()> {
    let (server, task) = server()?;
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut command = server.command(&["exec", &task, "--", "sh", "-c", "echo ready; sleep 1000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        wait_for(&mut child, "ready\n")?;
        process::signal(&child, signal)?;
        assert_eq!(process::wait(&mut child, LIMIT)?.map(process::code), Some(code), "{signal:?}");
    }
    let finished = exec(&server, &task, &[], &["sh", "-c", "kill -SEGV $$"])?;
    assert_eq!(finished.code, 139);
    Ok(())
}

fn killed_client_leaves_nothing() -> Result<()> {
    let (server, task) = server()?;
    let left = || {
        output(&server, &task, "ps -o stat,args | grep -v grep | grep -v ^Z | grep -c 'sleep 98765'; true")
    };
    let deaf = "trap '' HUP; echo ready; sleep 98765 & sleep 98765";
    for (options, script) in
        [(&[][..], "echo ready; sleep 98765"), (&["-t"], "echo ready; sleep 98765"), (&["-t"], deaf)]
    {
        let arguments = [&["exec", &task][..], options, &["--", "sh", "-c", script]].concat();
        let mut child = server.command(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let end = if options.is_empty() { "ready\n" } else { "ready\r\n" };
        wait_for(&mut child, end)?;
        assert_ne!(left()?.trim(), "0", "what is to be seen gone is not seen");
        process::signal(&child, Signal::KILL)?;
        child.wait()?;
        let gone = eventually(LIMIT, || (left().ok()?.trim() == "0").then_some(()));
        anyhow::ensure!(gone.is_some(), "{script} lives on without its client: {}", left()?);
    }
    Ok(())
}

fn ends_with_its_container() -> Result<()> {
    let (server, task) = server()?;
    let mut command =
        server.command(&["exec", &task, "--", "sh", "-c", "trap '' TERM; echo ready; sleep 1000"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    wait_for(&mut child, "ready\n")?;
    assert_eq!(server.run(&["stop", &task])?.code, 0);
    assert_eq!(process::wait(&mut child, LIMIT)?.map(process::code), Some(137));
    let after = exec(&server, &task, &[], &["true"])?;
    assert_refused(&after, 125, &["stop"]);
    Ok(())
}

fn several_containers() -> Result<()> {
    let mut side = sleeper("side");
    side["environment"] = json!([{"name": "WHO", "value": "side"}]);
    let (server, task) = server_with(&[sleeper("main"), side])?;
    let unnamed = exec(&server, &task, &[], &["true"])?;
    assert_refused(&unnamed, 125, &["several containers", "main, side"]);
    let named = exec(&server, &task, &["-c", "side"], &["sh", "-c", "echo $WHO"])?;
    assert_eq!((named.code, named.text().trim()), (0, "side"));
    let unknown = exec(&server, &task, &["--container", "other"], &["true"])?;
    assert_refused(&unknown, 125, &["other", "main, side"]);
    Ok(())
}

fn refusals() -> Result<()> {
    let (server, task) = server()?;
    let check = |options: &[&str], command: &[&str], code: i32, mentions: &[&str]| -> Result<()> {
        assert_refused(&exec(&server, &task, options, command)?, code, mentions);
        Ok(())
    };
    check(&[], &["no-such-program"], 127, &["no-such-program"])?;
    check(&[], &["/tmp"], 126, &["/tmp", "directory"])?;
    check(&["-u", "nobody-here"], &["true"], 126, &["nobody-here"])?;
    check(&[], &[""], 125, &["command"])?;
    check(&["-e", "=x"], &["true"], 2, &["NAME=VALUE"])?;
    let absent = exec(&server, "0123456789abcdef", &[], &["true"])?;
    assert_refused(&absent, 125, &["0123456789abcdef"]);
    let bare = server.run(&["exec", &task])?;
    assert_refused(&bare, 2, &["COMMAND"]);
    Ok(())
}

fn is_signed_and_upgraded() -> Result<()> {
    let server = Server::start()?;
    let path = "/v1/tasks/0123456789abcdef0123456789abcdef/exec";
    let host = server.endpoint.trim_start_matches("http://").to_owned();
    let headers = [("host", host.as_str()), ("connection", "upgrade"), ("upgrade", "neargate-exec/1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let answer = server.client().send("POST", path, &headers, br#"{"command":["true"]}"#)?;
    assert_eq!(answer.status, 403, "{}", answer.json());
    Ok(())
}

fn wasm_is_refused() -> Result<()> {
    let container = json!({"name": "main", "image": "probe", "command": ["tick", "60000"], "stopTimeout": 2});
    let (server, task) = server_with(&[container])?;
    assert_refused(&exec(&server, &task, &[], &["true"])?, 125, &["Wasm"]);
    Ok(())
}
