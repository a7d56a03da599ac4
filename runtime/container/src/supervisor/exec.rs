//! Runs a second command in a container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::host::{Event, Exec, Host, Process, read_sync};
use super::start::{abandon, go, resource_limits, set_oom_score, streams, sync_pair};
use super::{report, unwatch, watch};
use crate::failure::{Failure, Step};
use crate::init::{self, Program, Streams};
use crate::protocol::{ExecPlan, Response};
use crate::sys::{self, Clone};

/// Longest time that a command may take; longer ones are cut to it.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a terminal is said to be unless the container or the request says it; Docker's value.
const DEFAULT_TERM: &str = "xterm";

impl Host {
    /// Starts a command; the request is answered when it has ended, that of an attended one also when it runs.
    pub(super) fn exec(&mut self, request: u64, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if !self.has_room() {
            return Err(Failure::System { step: "start one more command".to_owned(), errno: libc::EAGAIN });
        }
        let container = self.find(&plan.container)?;
        let streams = match plan.window {
            Some((rows, columns)) => Streams::Terminal(rows, columns),
            None if plan.has_stdio => Streams::Stdio(streams(fds)?),
            None => Streams::Null,
        };
        let (process, task) = self.launch_exec(container, &plan, streams)?;
        let timeout = Duration::from_millis(plan.timeout_ms).min(TIMEOUT_MAX);
        let number = self.next_number();
        if let Err(failure) = self.watch_exec(number, &process, plan.attended) {
            abandon(&process.pidfd);
            return Err(failure);
        }
        if let Some(sandbox) = self.sandboxes.get_mut(&task) {
            sandbox.live.insert(number);
        }
        let deadline = Instant::now() + timeout;
        let starts = plan.attended;
        let exec = Exec { process, task, request, deadline, timed_out: false, container, starts };
        self.execs.insert(number, exec);
        Ok(())
    }

    fn watch_exec(&self, number: u64, process: &Process, attended: bool) -> Result<(), Failure> {
        watch(&self.epoll, process.pidfd.as_fd(), Event::Ended(number).token()).step("watch command")?;
        match &process.sync {
            Some(sync) if attended => {
                watch(&self.epoll, sync.as_fd(), Event::Synced(number).token()).step("watch command")
            }
            _ => Ok(()),
        }
    }

    fn launch_exec(
        &self,
        number: u64,
        plan: &ExecPlan,
        streams: Streams,
    ) -> Result<(Process, String), Failure> {
        let container = self.containers.get(&number).ok_or(Failure::NotRunning {})?;
        if container.start_request.is_some() {
            return Err(Failure::NotRunning {});
        }
        let mut env = container.plan.env.clone();
        env.extend(plan.env.iter().cloned());
        if plan.window.is_some() && !env.iter().any(|(name, _)| name == "TERM") {
            env.push(("TERM".to_owned(), DEFAULT_TERM.to_owned()));
        }
        let program = Program::new(&plan.argv, &env)?;
        let (ours, theirs) = sync_pair()?;
        let exec = init::Exec {
            pidfd: container.process.pidfd.as_fd(),
            program,
            user: plan.user.as_deref().or(container.plan.user.as_deref()),
            working_dir: &container.plan.working_dir,
            capabilities: container.plan.capabilities,
            filter: self.filters.of(&container.plan)?,
            tasks: container.group.open_tasks().step("open cgroup tasks")?,
            streams,
        };
        let unified = container.group.unified_fd();
        match self.launchpad.clone_into_pids(container.process.pidfd.as_fd(), unified)? {
            Clone::Child => init::exec(exec, theirs, ours.as_fd()),
            Clone::Parent { pid, pidfd } => {
                let limits = resource_limits(&container.plan);
                let admitted =
                    set_oom_score(pid).and_then(|()| limits.iter().try_for_each(|limit| limit.set(pid)));
                if let Err(failure) = admitted.and_then(|()| go(&ours)) {
                    abandon(&pidfd);
                    return Err(failure);
                }
                let process = Process { pid, pidfd, sync: Some(ours), failure: None, terminal: None };
                Ok((process, container.plan.task.clone()))
            }
        }
    }

    /// Tells that an attended command runs, once it has said no more.
    pub(super) fn sync_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        // A failure is answered when the process is reaped.
        if read_sync(&self.epoll, &mut exec.process) && exec.starts && exec.process.failure.is_none() {
            exec.starts = false;
            let terminal = exec.process.terminal.take().into_iter().collect();
            self.lendings.push((exec.request, Response::Attended {}, terminal));
        }
    }

    /// Signals the process group of a command; 0 kills all processes of its session.
    pub(super) fn signal_exec(&self, request: u64, signal: i32) -> Result<(), Failure> {
        // An ended command is not an error.
        let Some(exec) = self.execs.values().find(|exec| exec.request == request) else { return Ok(()) };
        // It leads a group unless it has not come that far; that it cannot have ended unseen, its pidfd keeps.
        let group = sys::kill(-exec.process.pid, if signal == 0 { libc::SIGKILL } else { signal });
        if signal == 0 {
            let _ = sys::pidfd_signal(exec.process.pidfd.as_fd(), libc::SIGKILL);
            if let Some(container) = self.containers.get(&exec.container) {
                container.group.kill_session(exec.process.pid);
            }
            return Ok(());
        }
        let sent = group.or_else(|_| sys::pidfd_signal(exec.process.pidfd.as_fd(), signal));
        match sent {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.step("send signal"),
        }
    }

    /// Reaps a command that has ended and answers its request.
    pub(super) fn end_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let code = match sys::wait_child(Some(exec.process.pidfd.as_fd()), false) {
            Ok(Some((_, code))) => code,
            Ok(None) => return,
            Err(error) => {
                report("reap command", &error);
                return;
            }
        };
        // The end of file that tells a successful exec may come in the same turn, after this event.
        self.sync_exec(number);
        let Some(exec) = self.execs.remove(&number) else { return };
        unwatch(&self.epoll, exec.process.pidfd.as_fd());
        let response = match exec.process.failure {
            Some(failure) => Response::Failed { failure },
            None => Response::Executed { code: (!exec.timed_out).then_some(code) },
        };
        // In order behind the answer that it runs.
        self.lendings.push((exec.request, response, Vec::new()));
        if let Some(sandbox) = self.sandboxes.get_mut(&exec.task) {
            sandbox.live.remove(&number);
        }
    }
}
