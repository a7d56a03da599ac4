//! What the containers of a sandbox share besides the network, and the process that holds it.
//!
//! Most sandboxes have none of it, and nothing is made for them here. For the others a [pause process](crate::pause) is
//! made when the first container starts, and again when somebody has killed it; containers then enter its namespaces
//! ([`factory::clone_first`](super::factory::clone_first)). One whose network somebody elsewhere has sockets in gets one,
//! too, with nothing to enter ([`sockets`](super::sockets)). All containers of such a sandbox are in its one user
//! namespace: else none of them would have the rights over the others' processes and objects for which they share them.
//!
//! Without a PID namespace of its own a container does not end all its processes with its first one. That is done here:
//! its end counts when nothing is left in its group.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use neargate_driver::Limits;

use super::factory::Pids;
use super::host::{Event, Host};
use super::journal::{Entry, KnownPause};
use super::sandbox::Sandbox;
use super::start::{abandon, sync_pair};
use super::watch;
use crate::cgroup::{Group, Groups};
use crate::failure::{Failure, Step};
use crate::init::{self, HostIpc, Ipc, SharedIpc};
use crate::launchpad::Launchpad;
use crate::pause::{self, Plan};
use crate::protocol::{IpcPlan, PidPlan, SharingPlan};
use crate::standing::Standing;
use crate::sys::{self, Clone};
use crate::user::ID_RANGE;

/// The process that holds what the containers of a sandbox share.
pub(super) struct Pause {
    pid: i32,
    pidfd: OwnedFd,
    group: Group,
}

impl SharingPlan {
    /// Whether there must be a pause process.
    fn needs_pause(&self) -> bool {
        self.pids == PidPlan::Task {} || matches!(self.ipc, IpcPlan::Task { .. })
    }

    /// Whether its containers are in the one user namespace of the sandbox.
    pub(super) fn joins(&self) -> bool {
        self.pids != PidPlan::Own {} || matches!(self.ipc, IpcPlan::Task { .. } | IpcPlan::Host {})
    }

    /// Whether a container's processes outlive its first one, unless they are killed.
    pub(super) fn shares_pids(&self) -> bool {
        self.pids != PidPlan::Own {}
    }
}

impl Pause {
    /// Finds one again that an earlier supervisor has made.
    pub(super) fn find(groups: &Groups, task: &Group, known: &KnownPause) -> Option<Self> {
        let group = groups.find_container(task, &known.group, &Limits::default(), false)?;
        let pidfd = super::adopt::find_process(&group, known.pid)?;
        let pause = Self { pid: known.pid, pidfd, group };
        pause.is_alive().then_some(pause)
    }

    /// Its id in the supervisor's namespace.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// The name of its group.
    pub(super) fn group_name(&self) -> &str {
        self.group.name()
    }

    /// Whether its PID namespace takes new processes. One that was killed is there until all others in the namespace are
    /// reaped, also by its supervisor (`zap_pid_ns_processes()`).
    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        !sys::has_ended(self.pidfd.as_fd()) && stat.is_ok_and(|stat| !tells_exiting(&stat))
    }
}

/// Of proc_pid_stat(5).
fn tells_exiting(stat: &str) -> bool {
    /// `PF_EXITING` of the kernel's `linux/sched.h`.
    const EXITING: u64 = 0x4;
    // The name, in parentheses, may hold anything.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & EXITING != 0)
}

impl Host {
    /// Makes what the containers of a sandbox share, unless it is there.
    pub(super) fn ready_to_share(&mut self, task: &str) -> Result<(), Failure> {
        match self.open_sandbox(task)?.sharing.needs_pause() {
            true => self.ready_pause(task),
            false => Ok(()),
        }
    }

    /// Sees to it that a process holds the network of a sandbox, so that the next supervisor finds it, also where no
    /// container has a process in it.
    pub(super) fn ready_pause(&mut self, task: &str) -> Result<(), Failure> {
        if self.open_sandbox(task)?.pause.as_ref().is_some_and(Pause::is_alive) {
            return Ok(());
        }
        self.discard_pause(task);
        let number = self.next_number();
        self.make_shared_ipc(task)?;
        let sandbox = self.open_sandbox(task)?;
        let name = format!("pause.{number}");
        let mut group = self.groups.make_container(&sandbox.group, &name, &Limits::default(), &[])?;
        let started = self.start_pause(sandbox, &group).and_then(|(pid, pidfd)| {
            let named = group.name_after(pid).inspect_err(|_| abandon(&pidfd));
            named.map(|()| (pid, pidfd))
        });
        let (pid, pidfd) = match started {
            Ok(started) => started,
            Err(failure) => {
                self.leave(0, task.to_owned(), group, None, None);
                return Err(failure);
            }
        };
        let name = group.name().to_owned();
        let entry = || Entry::Paused { number, task: task.to_owned(), group: name, pid };
        let noted = self.note(entry).step("write journal");
        if let Some(sandbox) = self.sandboxes.get_mut(task) {
            sandbox.pause = Some(Pause { pid, pidfd, group });
        }
        noted.inspect_err(|_| self.discard_pause(task))
    }

    /// Ends the pause process of a sandbox, and with it whatever is in its PID namespace.
    pub(super) fn discard_pause(&mut self, task: &str) {
        let sandbox = self.sandboxes.get_mut(task);
        if let Some(pause) = sandbox.and_then(|sandbox| sandbox.pause.take()) {
            let _ = sys::pidfd_signal(pause.pidfd.as_fd(), libc::SIGKILL);
            self.leave(0, task.to_owned(), pause.group, Some(pause.pidfd), None);
        }
    }

    fn make_shared_ipc(&mut self, task: &str) -> Result<(), Failure> {
        let sandbox = self.open_sandbox(task)?;
        let IpcPlan::Task { shm_bytes } = sandbox.sharing.ipc else { return Ok(()) };
        if sandbox.ipc.is_some() {
            return Ok(());
        }
        let (userns, ids) = (sandbox.namespaces.user.as_fd(), sandbox.ids);
        let made = make_shared_ipc(userns, ids, shm_bytes, &self.launchpad)?;
        if let Some(sandbox) = self.sandboxes.get_mut(task) {
            sandbox.ipc = Some(made);
        }
        Ok(())
    }

    fn start_pause(&self, sandbox: &Sandbox, group: &Group) -> Result<(i32, OwnedFd), Failure> {
        let (ours, theirs) = sync_pair()?;
        let network = sandbox.namespaces.network.as_fd();
        let (pid, pidfd) = self.launchpad.in_network(network, || {
            let plan = Plan {
                tasks: group.open_tasks().step("open cgroup tasks")?,
                ipc: sandbox.ipc.as_ref().map(|shared| shared.namespace.as_fd()),
                mounts: match &sandbox.ipc {
                    Some(shared) => shared.mounts.as_fd(),
                    None => self.launchpad.mounts(),
                },
                user: match Standing::own() {
                    // The last id of the volumes' range, which is no user's of any container.
                    Standing::Host => self.cells.volumes() + ID_RANGE - 1,
                    Standing::Realm => 0,
                },
            };
            match sys::clone3(libc::CLONE_NEWPID as u64, group.unified_fd()).step("clone pause process")? {
                Clone::Child => pause::execute(plan, &theirs),
                Clone::Parent { pid, pidfd } => Ok((pid, pidfd)),
            }
        })?;
        drop(theirs);
        match pause::hear(&ours) {
            Ok(()) => Ok((pid, pidfd)),
            Err(failure) => {
                abandon(&pidfd);
                Err(failure)
            }
        }
    }

    /// The IPC namespace of a container of a sandbox.
    pub(super) fn ipc_of(&self, sandbox: &Sandbox) -> Result<Ipc, Failure> {
        match (&sandbox.sharing.ipc, &sandbox.ipc) {
            (IpcPlan::Own {}, _) => Ok(Ipc::Own),
            (IpcPlan::OwnWithoutShm {}, _) => Ok(Ipc::OwnWithoutShm),
            (IpcPlan::Host {}, _) => HostIpc::open().map(Ipc::Host),
            (IpcPlan::Task { .. }, Some(shared)) => shared.try_clone().map(Ipc::Shared),
            (IpcPlan::Task { .. }, None) => Err(not_made("IPC namespace")),
        }
    }

    /// The PID namespace of a container of a sandbox.
    pub(super) fn pids_of<'a>(&self, sandbox: &'a Sandbox) -> Result<Pids<'a>, Failure> {
        match (&sandbox.sharing.pids, &sandbox.pause) {
            (PidPlan::Own {}, _) => Ok(Pids::Own),
            (PidPlan::Host {}, _) => Ok(Pids::Host),
            (PidPlan::Task {}, Some(pause)) => Ok(Pids::Of(pause.pidfd.as_fd())),
            (PidPlan::Task {}, None) => Err(not_made("PID namespace")),
        }
    }

    /// Has the supervisor told of children that end, once there is a container in the host's PID namespace: what such a
    /// container leaves without a parent becomes the supervisor's child.
    pub(super) fn expect_strays(&mut self) -> Result<(), Failure> {
        const STEP: &str = "listen to ends of processes";
        if self.strays.is_some() {
            return Ok(());
        }
        sys::set_blocked(&[libc::SIGCHLD], libc::SIG_BLOCK);
        let told = sys::signalfd(&[libc::SIGCHLD]).step(STEP)?;
        watch(&self.epoll, told.as_fd(), Event::Stray.token()).step(STEP)?;
        self.strays = Some(told);
        Ok(())
    }

    /// Reaps children that are neither a container nor a command. Others that nobody has reaped, like processes that
    /// waited to become one, may go with them: who waits for those takes their absence for their end.
    pub(super) fn reap_strays(&mut self) {
        let Some(told) = &self.strays else { return };
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(told, &mut info).is_ok_and(|length| length > 0) {}
        while let Ok(Some((pid, _))) = sys::peek_child(None) {
            let containers = self.containers.values().map(|container| container.process.pid);
            let mut known = containers.chain(self.execs.values().map(|exec| exec.process.pid));
            // The kernel would tell of it again and again; the next turn comes with its end.
            if known.any(|known| known == pid) || sys::reap_child(pid).is_err() {
                return;
            }
        }
    }
}

/// Makes the IPC namespace of a task and the mount namespace with its `/dev/shm`, both of its user namespace. Who has
/// entered that one cannot come back, so a child does it.
fn make_shared_ipc(
    userns: BorrowedFd<'_>,
    ids: u32,
    shm_bytes: u64,
    launchpad: &Launchpad,
) -> Result<SharedIpc, Failure> {
    const STEP: &str = "make IPC namespace of task";
    let (ours, theirs) = sync_pair()?;
    match launchpad.clone_from_launch(0, None, ids)? {
        Clone::Child => {
            drop(ours);
            match init::make_shared_ipc(userns, shm_bytes) {
                // The read returns when the supervisor has closed its end, or has died.
                Ok(()) if pause::tell_ready(&theirs).is_ok() => {
                    let _ = rustix::io::read(&theirs, &mut [0u8; 1]);
                }
                Ok(()) => {}
                Err(failure) => pause::tell_failure(&theirs, &failure),
            }
            sys::exit_now(0)
        }
        Clone::Parent { pid, pidfd } => {
            drop(theirs);
            let made = pause::hear(&ours).and_then(|()| SharedIpc::of(pid));
            drop(ours);
            sys::wait_child(Some(pidfd.as_fd()), true).step(STEP)?;
            made
        }
    }
}

fn not_made(what: &str) -> Failure {
    Failure::System { step: format!("find {what} of task"), errno: libc::ENOENT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_exiting_is_seen() {
        let check = |name: &str, flags: &str, expect: bool| {
            let stat = format!("7 ({name}) S 1 7 7 0 -1 {flags} 0 0 0 0");
            assert_eq!(tells_exiting(&stat), expect, "{stat}");
        };
        check("ng-pause", "4194560", false);
        check("ng-pause", "4194564", true);
        check("a) S 1 2 3 4 5 4 (b", "4194560", false);
        assert!(tells_exiting(""));
    }

    #[test]
    fn what_is_shared_decides() {
        let check = |pids: PidPlan, ipc: IpcPlan, expect: (bool, bool, bool)| {
            let plan = SharingPlan { pids, ipc };
            assert_eq!((plan.needs_pause(), plan.joins(), plan.shares_pids()), expect, "{plan:?}");
        };
        check(PidPlan::Own {}, IpcPlan::Own {}, (false, false, false));
        check(PidPlan::Own {}, IpcPlan::OwnWithoutShm {}, (false, false, false));
        check(PidPlan::Own {}, IpcPlan::Host {}, (false, true, false));
        check(PidPlan::Own {}, IpcPlan::Task { shm_bytes: 1 }, (true, true, false));
        check(PidPlan::Task {}, IpcPlan::Own {}, (true, true, true));
        check(PidPlan::Host {}, IpcPlan::Own {}, (false, true, true));
        check(PidPlan::Host {}, IpcPlan::Task { shm_bytes: 1 }, (true, true, true));
    }
}
