//! Groups of a sandbox that are lent to processes and threads which somebody else starts.
//!
//! A Wasm container of class `process` is a process of the launcher's, not of the supervisor's: the supervisor's
//! memory holds the plans of all running containers, of which a process that never executes anything would
//! have a copy. So the supervisor makes the group, and hands it and the task's network namespace out.

use std::os::fd::OwnedFd;

use neargate_driver::Limits;

use super::host::Host;
use crate::cgroup::Group;
use crate::failure::{Failure, Step};
use crate::protocol::{LendPlan, Response};

/// A group that was lent.
pub(super) struct Lent {
    task: String,
    group: Group,
    /// Whether a thread is in it, whose process must not be killed for it.
    thread: bool,
}

impl Host {
    /// Makes a group and hands it out; `request` names it from then on.
    pub(super) fn lend(&mut self, request: u64, plan: &LendPlan) -> Result<(), Failure> {
        if plan.name.is_empty() || !plan.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Failure::System { step: "check process name".to_owned(), errno: libc::EINVAL });
        }
        if self.lent.contains_key(&request) || !self.has_room() {
            return Err(Failure::System { step: "start one more process".to_owned(), errno: libc::EAGAIN });
        }
        if plan.thread && !self.groups.divides_processes() {
            return Err(no_threads());
        }
        let number = self.next_number();
        // A task of Wasm containers has no use for it.
        self.discard_parked(&plan.task);
        let sandbox = self.open_sandbox(&plan.task)?;
        if plan.thread && plan.limits.cpu_millis.is_none() && plan.limits.cpu_shares.is_none() {
            // The task's own group will do.
            let tasks = sandbox.group.open_thread_tasks().step("open cgroup")?;
            let fds = tasks.into_iter().map(OwnedFd::from).collect();
            self.lendings.push((request, Response::Lent { unified: false }, fds));
            return Ok(());
        }
        let limits = if plan.thread { cpu_only(&plan.limits) } else { plan.limits.clone() };
        let name = format!("{}.{number}", plan.name);
        let group = self.groups.make_container(&sandbox.group, &name, &limits, &[])?;
        let opened =
            if plan.thread { open_for_thread(&group) } else { open(&sandbox.namespaces.network, &group) };
        let lent = Lent { task: plan.task.clone(), group, thread: plan.thread };
        match opened {
            Ok((unified, fds)) => {
                self.lendings.push((request, Response::Lent { unified }, fds));
                self.lent.insert(request, lent);
                Ok(())
            }
            Err(failure) => {
                let answer = Some((request, Response::Failed { failure }));
                self.leave(0, lent.task, lent.group, None, answer);
                Ok(())
            }
        }
    }

    /// Takes a group back; it is removed as soon as nothing is in it. One that went with its sandbox is not an
    /// error.
    pub(super) fn take_back(&mut self, lending: u64) {
        if let Some(lent) = self.lent.remove(&lending) {
            self.leave(0, lent.task, lent.group, None, None);
        }
    }

    /// Whether something in a group was killed for going over the memory limit; what went with its sandbox was
    /// killed for that.
    pub(super) fn lent_oom(&self, lending: u64) -> Response {
        Response::Oom { oom: self.lent.get(&lending).is_some_and(|lent| lent.group.oom_kills() > 0) }
    }

    /// Takes all groups of a sandbox back and kills the processes in them.
    pub(super) fn take_all_back(&mut self, task: &str) {
        let of_task = |(_, lent): &(&u64, &Lent)| lent.task == task;
        let lendings: Vec<u64> = self.lent.iter().filter(of_task).map(|(lending, _)| *lending).collect();
        for lending in lendings {
            let Some(lent) = self.lent.remove(&lending) else { continue };
            if !lent.thread {
                lent.group.kill_listed();
            }
            self.leave(0, lent.task, lent.group, None, None);
        }
    }
}

fn no_threads() -> Failure {
    let why = "cgroup v2 cannot limit the CPU time of one thread of a process; \
               use the class `process`, which is limited as a container is, or `shared`";
    Failure::Unsupported { what: "the isolation class `thread`".to_owned(), why: why.to_owned() }
}

fn cpu_only(limits: &Limits) -> Limits {
    Limits { cpu_millis: limits.cpu_millis, cpu_shares: limits.cpu_shares, ..Limits::default() }
}

fn open_for_thread(group: &Group) -> Result<(bool, Vec<OwnedFd>), Failure> {
    let tasks = group.open_thread_tasks().step("open cgroup")?;
    Ok((false, tasks.into_iter().map(OwnedFd::from).collect()))
}

fn open(network: &OwnedFd, group: &Group) -> Result<(bool, Vec<OwnedFd>), Failure> {
    const STEP: &str = "open cgroup";
    let mut fds = vec![network.try_clone().step("open network namespace")?];
    let unified = group.unified_fd().map(|fd| fd.try_clone_to_owned()).transpose().step(STEP)?;
    let is_unified = unified.is_some();
    fds.extend(unified);
    fds.extend(group.open_tasks().step(STEP)?.into_iter().map(OwnedFd::from));
    Ok((is_unified, fds))
}
