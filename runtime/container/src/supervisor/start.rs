//! Starts a container.
//!
//! A container's first process waits already, made by the [`factory`](super::factory), or is cloned now. While it
//! furnishes its namespaces, the supervisor prepares what is not made inside; then the process is told what to become,
//! and [`init`](crate::init) does it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use neargate_ipc::channel;
use neargate_model::capability;
use rustix::fs::{FileType, Mode};

use super::cells::Parked;
use super::factory::{self, First, Shape};
use super::host::{Container, Event, Host, Process};
use super::journal::Entry;
use super::sandbox::Sandbox;
use super::{allow, ordinary, watch};
use crate::cgroup::Group;
use crate::devices;
use crate::failure::{Failure, Step};
use crate::init::{self, NO_CORE, Orders, Parts, Program, ResourceLimit};
use crate::protocol::{PidPlan, Response, StartPlan};
use crate::rootfs::{self, Scratch};
use crate::standing::Standing;
use crate::sys;

/// The namespaces of a container, besides the network's, which is its sandbox's, and the cgroup's, which
/// the child makes once it has joined its groups.
pub(super) const NAMESPACES: i32 =
    libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Open files of a container that does not name its own limit, as on Fargate; less where the supervisor
/// itself may not have as many.
const DEFAULT_NOFILE: u64 = 65_535;

/// Limits that capabilities raise, which the kernel would ignore in a user namespace: what it looks at beside the
/// host's own capability is the limit. A niceness of -20 is 40 (getrlimit(2)).
const RAISED: [(u64, u32, u64); 2] = [
    (capability::IPC_LOCK, libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY),
    (capability::SYS_NICE, libc::RLIMIT_NICE, 40),
];

impl Host {
    /// Starts a container; the request is answered once its program runs or cannot.
    pub(super) fn start(
        &mut self,
        request: u64,
        mut plan: StartPlan,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        if self.numbers.contains_key(&plan.container) {
            return Err(Failure::System { step: "start container twice".to_owned(), errno: libc::EEXIST });
        }
        if !self.has_room() {
            return Err(Failure::System { step: "start one more container".to_owned(), errno: libc::EAGAIN });
        }
        if !plan.container.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Failure::System { step: "check container id".to_owned(), errno: libc::EINVAL });
        }
        let (stdio, readers) = streams_and_readers(fds)?;
        allow::check_plan(&self.setup.allowed, &plan)?;
        allow::check_core(&plan)?;
        let number = self.next_number();
        // Early, so that what cannot be executed anyway makes no work.
        Program::new(&plan.argv, &plan.env)?;
        let pids_max = self.open_sandbox(&plan.task)?.pids_max;
        ordinary::bound_processes(&mut plan, pids_max);
        neargate_failpoint::reach("container::clone::before");
        let Parked { process, group, scratch } = match self.take_parked(&plan) {
            Some(parked) => self.limit_parked(parked, &plan)?,
            None => self.make_first(number, &plan)?,
        };
        neargate_failpoint::reach("container::cgroup::container");
        neargate_failpoint::reach("container::clone::after");
        if let Some(sandbox) = self.sandboxes.get_mut(&plan.task) {
            sandbox.live.insert(number);
        }
        self.ended.remove(&plan.container);
        match self.settle(number, &plan, (&process, &group, scratch.as_ref()), stdio) {
            Ok(()) => {
                let mut container = Container::new(process, plan, group, Some(request));
                container.readers = readers;
                self.watch_container(number, container);
            }
            Err(failure) => {
                abandon(&process.pidfd);
                scratch.iter().for_each(Scratch::remove);
                let answer = Some((request, Response::Failed { failure }));
                self.leave(number, plan.task, group, None, answer);
            }
        }
        Ok(())
    }

    pub(super) fn open_sandbox(&self, task: &str) -> Result<&Sandbox, Failure> {
        let missing = || Failure::System { step: "find sandbox".to_owned(), errno: libc::ENOENT };
        self.sandboxes.get(task).filter(|sandbox| sandbox.is_open()).ok_or_else(missing)
    }

    /// The process that waits in a sandbox, for a container that is like most.
    fn take_parked(&mut self, plan: &StartPlan) -> Option<Parked> {
        if plan.privileged || !plan.devices.is_empty() {
            return None;
        }
        // A sandbox that shares more than most has none.
        let sandbox = self.sandboxes.get_mut(&plan.task)?;
        let parked = sandbox.has_network_of_sandbox(&plan.container).then(|| sandbox.parked.take())??;
        if parked.is_waiting() {
            return Some(parked);
        }
        // Somebody has killed it, for memory for example.
        parked.scratch.iter().for_each(Scratch::remove);
        self.leave(0, plan.task.clone(), parked.group, None, None);
        None
    }

    fn limit_parked(&mut self, parked: Parked, plan: &StartPlan) -> Result<Parked, Failure> {
        if let Err(failure) = self.groups.limit_container(&parked.group, &plan.limits) {
            parked.kill();
            self.leave(0, plan.task.clone(), parked.group, Some(parked.process.pidfd), None);
            return Err(failure);
        }
        Ok(parked)
    }

    /// Clones a container's first process in a group of its own.
    fn make_first(&mut self, number: u64, plan: &StartPlan) -> Result<Parked, Failure> {
        self.ready_to_share(&plan.task)?;
        let sandbox = self.open_sandbox(&plan.task)?;
        let name = format!("{}.{number}", plan.container);
        let mut group =
            self.groups.make_container(&sandbox.group, &name, &plan.limits, &devices::rules(plan)?)?;
        let cloned = self.clone_first(plan, &group).and_then(|first| {
            let named = group.name_after(first.pid).inspect_err(|_| abandon(&first.pidfd));
            named.map(|()| first)
        });
        match cloned {
            Ok(First { pid, pidfd, sync }) => {
                let process = Process { sync: Some(sync), ..Process::running(pid, pidfd) };
                Ok(Parked { process, group, scratch: None })
            }
            Err(failure) => {
                self.leave(number, plan.task.clone(), group, None, None);
                Err(failure)
            }
        }
    }

    fn clone_first(&self, plan: &StartPlan, group: &Group) -> Result<First, Failure> {
        let sandbox = self.open_sandbox(&plan.task)?;
        let namespaces = &sandbox.namespaces;
        // Only in the user namespace that owns it does a container have power over its network.
        let manages = namespaces.owns_network && plan.capabilities & capability::NETWORK != 0;
        let joins = manages || sandbox.sharing.joins();
        let shape = Shape {
            is_sibling: false,
            is_masked: !plan.privileged,
            ipc: self.ipc_of(sandbox)?,
            pids: self.pids_of(sandbox)?,
            joined: joins.then_some(namespaces.user.as_fd()),
        };
        let network = sandbox.network_of(&plan.container);
        factory::clone_first(&self.launchpad, &self.ground(), network, group, sandbox.ids, shape)
    }

    /// Prepares what a container is made of, and tells its first process what to become.
    fn settle(
        &mut self,
        number: u64,
        plan: &StartPlan,
        (process, group, ahead): (&Process, &Group, Option<&Scratch>),
        stdio: [OwnedFd; 3],
    ) -> Result<(), Failure> {
        let missing = || Failure::System { step: "find sandbox".to_owned(), errno: libc::ENOENT };
        let sandbox = self.sandboxes.get(&plan.task).ok_or_else(missing)?;
        neargate_failpoint::reach("container::overlay::before");
        let (userns, ids) = (sandbox.namespaces.user.as_fd(), sandbox.ids);
        let root = rootfs::mount_root(plan, userns, ids, ahead, &mut self.passing, &self.launchpad)?;
        neargate_failpoint::reach("container::overlay::after");
        let volumes = rootfs::open_volumes(plan, ids, self.cells.volumes())?;
        let devices = devices::open(plan, &self.launchpad)?;
        let pipes = (pipe_inode(&stdio[1])?, pipe_inode(&stdio[2])?);
        let limits = resource_limits(plan);
        let hostname = plan.names.hostname.as_ref().unwrap_or(&sandbox.hostname);
        let orders = Orders {
            plan: plan.clone(),
            hosts: plan.names.hosts(hostname, sandbox.address_of(&plan.container)),
            hostname: hostname.clone(),
            resolv_conf: plan.names.resolv_conf(&self.setup.resolv_conf),
            ulimits: limits.iter().map(|limit| (limit.resource, (limit.soft, limit.hard))).collect(),
            has_network_files: root.has_network_files,
            volumes: volumes.iter().map(|volume| (volume.mount.is_some(), volume.is_dir)).collect(),
        };
        let parts = Parts { stdio, root, volumes, devices };
        limits.iter().filter(|limit| limit.is_raised()).try_for_each(|limit| limit.set(process.pid))?;
        let (pid, group) = (process.pid, group.name().to_owned());
        self.note(|| Entry::Started { number, plan: orders.plan.clone(), group, pid, pipes })
            .step("write journal")?;
        neargate_failpoint::reach("container::gate::before");
        let sync = process.sync.as_ref().ok_or_else(missing)?;
        init::give(sync, &orders, &parts).step("release new process")?;
        neargate_failpoint::reach("container::gate::after");
        Ok(())
    }

    fn watch_container(&mut self, number: u64, container: Container) {
        if let Err((failure, container)) = self.enter_container(number, container) {
            abandon(&container.process.pidfd);
            container.group.end_all();
            let answer = container.start_request.map(|request| (request, Response::Failed { failure }));
            self.leave(number, container.plan.task, container.group, None, answer);
        }
    }

    /// Takes a container whose process runs among those that are watched.
    pub(super) fn enter_container(
        &mut self,
        number: u64,
        mut container: Container,
    ) -> Result<(), (Failure, Box<Container>)> {
        match self.register(number, &container) {
            Ok(oom_event) => {
                self.numbers.insert(container.plan.container.clone(), number);
                container.oom_event = oom_event;
                self.containers.insert(number, container);
                Ok(())
            }
            Err(failure) => Err((failure, Box::new(container))),
        }
    }

    fn register(&mut self, number: u64, container: &Container) -> Result<Option<OwnedFd>, Failure> {
        let process = &container.process;
        let sandbox = self.sandboxes.get(&container.plan.task);
        if sandbox.is_some_and(|sandbox| sandbox.sharing.pids == PidPlan::Host {}) {
            self.expect_strays()?;
        }
        watch(&self.epoll, process.pidfd.as_fd(), Event::Ended(number).token()).step("watch container")?;
        if let Some(sync) = &process.sync {
            watch(&self.epoll, sync.as_fd(), Event::Synced(number).token()).step("watch container")?;
        }
        if !container.group.needs_oom_watch() {
            return Ok(None);
        }
        let event = sys::eventfd().step("watch memory")?;
        container.group.watch_oom(event.as_fd()).step("watch memory")?;
        watch(&self.epoll, event.as_fd(), Event::OutOfMemory(number).token()).step("watch memory")?;
        Ok(Some(event))
    }
}

/// The three standard streams and, of a container that outlives its server, the reading ends of two of them.
fn streams_and_readers(mut fds: Vec<OwnedFd>) -> Result<([OwnedFd; 3], Option<[OwnedFd; 2]>), Failure> {
    const STREAMS: usize = 3;
    let readers = if fds.len() > STREAMS { fds.split_off(STREAMS) } else { Vec::new() };
    Ok((streams(fds)?, readers.try_into().ok()))
}

/// By what a pipe can be told from all others; 0 for what is no pipe.
fn pipe_inode(stream: &OwnedFd) -> Result<u64, Failure> {
    let stat = rustix::fs::fstat(stream).step("look at standard streams")?;
    let is_pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
    Ok(if is_pipe { stat.st_ino } else { 0 })
}

/// The three standard streams. A pipe is made writable to all who can reach it, because the container's
/// user, who does not own it, may open it again through `/dev/stdout`; only processes of the container can.
pub(super) fn streams(fds: Vec<OwnedFd>) -> Result<[OwnedFd; 3], Failure> {
    let streams: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|_| Failure::System { step: "receive standard streams".to_owned(), errno: libc::EBADMSG })?;
    for stream in &streams {
        let stat = rustix::fs::fstat(stream).step("look at standard streams")?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            rustix::fs::fchmod(stream, Mode::from_raw_mode(0o666)).step("open up standard streams")?;
        }
    }
    Ok(streams)
}

/// A socket over which a new process is told to go on, and tells a failure. Message-based, so that a
/// failure arrives whole; closed by exec.
pub(super) fn sync_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    channel::pair().step("make socket pair")
}

/// Lets the process go on.
pub(super) fn go(sync: &OwnedFd) -> Result<(), Failure> {
    rustix::io::write(sync, &[init::GO]).step("release new process").map(drop)
}

/// Gives a process its ids, unless its user namespace has them already, and takes the supervisor's protection off it.
pub(super) fn admit(pid: i32, ids: Option<u32>) -> Result<(), Failure> {
    if let Some(ids) = ids {
        let map = Standing::own().id_map(ids);
        rootfs::write_maps(pid, &map, &map).step("write id maps")?;
    }
    set_oom_score(pid)
}

/// The resource limits of a container: ours and what its capabilities raise, as far as the supervisor may, then what
/// its definition names.
pub(super) fn resource_limits(plan: &StartPlan) -> Vec<ResourceLimit> {
    // Raising a hard limit takes SYS_RESOURCE, which even root lacks in some containers.
    let nofile = sys::own_hard_limit(libc::RLIMIT_NOFILE).min(DEFAULT_NOFILE);
    let is_named = |resource| plan.ulimits.iter().any(|(named, _)| *named == resource);
    let ours = [(libc::RLIMIT_NOFILE, (nofile, nofile)), (libc::RLIMIT_CORE, (NO_CORE, NO_CORE))];
    let raised = RAISED.iter().filter(|(capability, ..)| plan.capabilities & capability != 0);
    let raised = raised.map(|&(_, resource, most)| {
        let most = if sys::may_raise_limits() { most } else { most.min(sys::own_hard_limit(resource)) };
        (resource, (most, most))
    });
    let unnamed = ours.into_iter().chain(raised).filter(|(resource, _)| !is_named(*resource));
    unnamed
        .chain(plan.ulimits.iter().copied())
        .map(|(resource, (soft, hard))| ResourceLimit { resource, soft, hard })
        .collect()
}

/// Takes the supervisor's protection from the OOM killer off a process. Set by host root, this is also the
/// lowest value that the container can return to.
pub(super) fn set_oom_score(pid: i32) -> Result<(), Failure> {
    match fs::write(format!("/proc/{pid}/oom_score_adj"), "0") {
        // Only lowering can be refused, to a supervisor that lacks SYS_RESOURCE and is itself easier to kill.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        other => other.step("set OOM score"),
    }
}

/// Kills and reaps a process that must not go on.
pub(super) fn abandon(pidfd: &OwnedFd) {
    let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = sys::wait_child(Some(pidfd.as_fd()), true);
}
