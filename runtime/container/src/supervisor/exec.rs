//! Runs a second command in a container.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::host::{Event, Exec, Host, Process, read_sync};
use super::start::{abandon, go, set_oom_score, streams, sync_pair};
use super::{report, unwatch, watch};
use crate::capabilities;
use crate::failure::{Failure, Step};
use crate::init::{self, Program};
use crate::protocol::{ExecPlan, Response};
use crate::sys::{self, Clone};

/// Longest time that a command may take; longer ones are cut to it.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Host {
    /// Starts a command; the request is answered when it has ended.
    pub(super) fn exec(&mut self, request: u64, plan: ExecPlan, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        if !self.has_room() {
            return Err(Failure::System { step: "start one more command".to_owned(), errno: libc::EAGAIN });
        }
        let number = self.find(&plan.container)?;
        let stdio = if plan.has_stdio { Some(streams(fds)?) } else { None };
        let (process, task) = self.launch_exec(number, &plan, stdio)?;
        let timeout = Duration::from_millis(plan.timeout_ms).min(TIMEOUT_MAX);
        let number = self.next_number();
        let watched = watch(&self.epoll, process.pidfd.as_fd(), Event::Ended(number).token());
        if let Err(failure) = watched.step("watch command") {
            abandon(&process.pidfd);
            return Err(failure);
        }
        if let Some(sandbox) = self.sandboxes.get_mut(&task) {
            sandbox.live.insert(number);
        }
        let deadline = Instant::now() + timeout;
        self.execs.insert(number, Exec { process, task, request, deadline, timed_out: false });
        Ok(())
    }

    fn launch_exec(
        &self,
        number: u64,
        plan: &ExecPlan,
        stdio: Option<[OwnedFd; 3]>,
    ) -> Result<(Process, String), Failure> {
        let container = self.containers.get(&number).ok_or(Failure::NotRunning {})?;
        if container.start_request.is_some() {
            return Err(Failure::NotRunning {});
        }
        let mut env = container.plan.env.clone();
        env.extend(plan.env.iter().cloned());
        let program = Program::new(&plan.argv, &env)?;
        let (ours, theirs) = sync_pair()?;
        let exec = init::Exec {
            pidfd: container.process.pidfd.as_fd(),
            program: &program,
            user: container.plan.user.as_deref(),
            working_dir: &container.plan.working_dir,
            capabilities: container.plan.capabilities,
            filter: self.filters.get(capabilities::has_ptrace(container.plan.capabilities)),
            tasks: container.group.open_tasks().step("open cgroup tasks")?,
            stdio,
        };
        let unified = container.group.unified_fd();
        match self.launchpad.clone_into_pids(container.process.pidfd.as_fd(), unified)? {
            Clone::Child => init::exec(exec, theirs),
            Clone::Parent { pid, pidfd } => {
                if let Err(failure) = set_oom_score(pid).and_then(|()| go(&ours)) {
                    abandon(&pidfd);
                    return Err(failure);
                }
                let process = Process { pid, pidfd, sync: Some(ours), failure: None };
                Ok((process, container.plan.task.clone()))
            }
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
        read_sync(&self.epoll, &mut exec.process);
        let Some(exec) = self.execs.remove(&number) else { return };
        unwatch(&self.epoll, exec.process.pidfd.as_fd());
        let response = match exec.process.failure {
            Some(failure) => Response::Failed { failure },
            None => Response::Executed { code: (!exec.timed_out).then_some(code) },
        };
        self.responses.push((exec.request, response));
        if let Some(sandbox) = self.sandboxes.get_mut(&exec.task) {
            sandbox.live.remove(&number);
        }
    }
}
