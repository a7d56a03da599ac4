//! Commands in a running container: health checks.
//!
//! The first word is a function that the image exports, called with the other words as JSON values: it passes if it
//! returns neither `false` nor an error. With any other word the image's own program is run anew; the words are its
//! arguments, its name first, as in a container. Both run beside the container in its worker, within the task's budget.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use neargate_driver::{ExecError, ExecSpec, Exit, StartError, Stdio};
use rustix::pipe::PipeFlags;
use tokio::time::{Instant, timeout_at};

use super::KILLED;
use crate::code::Code;
use crate::driver::{Shared, start_in};
use crate::entry;
use crate::protocol::{Entry, RunPlan, Stop};
use crate::worker::{KillOnDrop, Order, Run};

/// How much of a function's result is looked at, in bytes; what a pipe holds.
const RESULT_BYTES_MAX: usize = 64 * 1024;

/// Runs a command beside `beside` and waits for its end.
pub(super) async fn run(
    shared: &Arc<Shared>,
    plan: &RunPlan,
    code: &Arc<Code>,
    beside: &Run,
    spec: ExecSpec,
) -> Result<Exit, ExecError> {
    let deadline = Instant::now() + spec.timeout;
    let argv = words(spec.argv)?;
    let first = argv.first().map(String::as_str).unwrap_or_default();
    let entry = entry::choose_check(&code.inspection, first)
        .map_err(|error| ExecError::Unsupported { why: error.to_string() })?;
    let looks_at_result = matches!(entry, Entry::Export { .. }) && spec.stdio.is_none();
    let (stdio, result) = match spec.stdio {
        Some(stdio) => (stdio, None),
        None => streams(looks_at_result).map_err(system)?,
    };
    let plan = plan_of(plan, entry, argv, &spec.env);
    let order = Order {
        plan,
        fds: vec![stdio.stdin, stdio.stdout, stdio.stderr],
        slot: None,
        code: code.clone(),
        artifacts: None,
        may: beside.permissions_beside(),
    };
    let seat = shared.pool.seat_beside(beside.at()).ok_or(ExecError::NotRunning)?;
    let run = match timeout_at(deadline, start_in(&order, seat)).await {
        Ok(Ok(run)) => run,
        Ok(Err(error)) => return Err(ExecError::Start(error.into_start_error())),
        Err(_) => return Ok(too_slow()),
    };
    drop(order);
    let guard = KillOnDrop::new(run.clone());
    let Ok(ended) = timeout_at(deadline, run.wait()).await else {
        guard.defuse();
        // Whether it can be killed decides over its worker, not over this answer.
        let _ = run.stop(Stop::Kill { code: KILLED }).await;
        return Ok(too_slow());
    };
    guard.defuse();
    let mut exit = ended.into_exit();
    if exit.code == Some(0) && result.is_some_and(|result| is_false(&result)) {
        exit.code = Some(1);
    }
    Ok(exit)
}

/// There is no shell, but `CMD-SHELL` is how many write health checks. Plain words mean the same without one.
fn words(argv: Vec<String>) -> Result<Vec<String>, ExecError> {
    let [shell, flag, text] = &argv[..] else { return Ok(argv) };
    if shell != "/bin/sh" || flag != "-c" {
        return Ok(argv);
    }
    let is_plain = |c: char| c.is_alphanumeric() || " -_./:=,@%+".contains(c);
    if !text.chars().all(is_plain) {
        let why = "a Wasm container has no shell; write the health check as CMD and separate words";
        return Err(ExecError::Unsupported { why: why.to_owned() });
    }
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn plan_of(plan: &RunPlan, entry: Entry, argv: Vec<String>, env: &[(String, String)]) -> RunPlan {
    let all: Vec<_> = plan.env.iter().chain(env).cloned().collect();
    RunPlan {
        entry,
        argv,
        env: all,
        own_thread: false,
        listeners: 0,
        cgroups: 0,
        core_dump: false,
        profile: false,
        ..plan.clone()
    }
}

/// Streams that lead nowhere, or whose output can be read.
fn streams(with_result: bool) -> io::Result<(Stdio, Option<OwnedFd>)> {
    let null =
        || -> io::Result<OwnedFd> { Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into()) };
    let (result, stdout) = match with_result {
        true => {
            // A guest that writes more than the pipe holds waits until its time is over.
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&read, true)?;
            (Some(read), write)
        }
        false => (None, null()?),
    };
    Ok((Stdio { stdin: null()?, stdout, stderr: null()?, readers: None }, result))
}

/// Whether the last line is the JSON value `false`.
fn is_false(result: &OwnedFd) -> bool {
    let mut bytes = vec![0; RESULT_BYTES_MAX];
    let count = rustix::io::read(result, &mut bytes).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..count]);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()) == Some("false")
}

fn too_slow() -> Exit {
    Exit { code: None, oom: false, reason: Some("it took too long and was killed".to_owned()) }
}

fn system(source: io::Error) -> ExecError {
    ExecError::Start(StartError::System { step: "make streams for a command".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_need_no_shell() {
        let check = |argv: &[&str], expect: Option<&[&str]>| {
            let found = words(argv.iter().map(|word| (*word).to_owned()).collect()).ok();
            let expect = expect.map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expect, "{argv:?}");
        };
        check(&["healthy"], Some(&["healthy"]));
        check(&["/bin/sh", "-c", " healthy  --deep "], Some(&["healthy", "--deep"]));
        check(&["/bin/sh", "-c", "healthy || exit 1"], None);
        check(&["/bin/sh", "-c", "echo $X"], None);
        check(&["sh", "-c", "a | b"], Some(&["sh", "-c", "a | b"]));
    }

    #[test]
    fn the_last_line_is_the_result() {
        let check = |text: &str, expect: bool| {
            let (stdio, result) = streams(true).unwrap();
            rustix::io::write(&stdio.stdout, text.as_bytes()).unwrap();
            assert_eq!(is_false(&result.unwrap()), expect, "{text:?}");
        };
        check("false\n", true);
        check("looking\nfalse\n\n", true);
        check("true\n", false);
        check("\"false\"\n", false);
        check("\n", false);
    }
}
