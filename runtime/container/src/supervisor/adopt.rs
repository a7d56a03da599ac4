//! Finding again what an earlier supervisor has left running, and telling a server what there is.
//!
//! The journal says what was started, the kernel what still runs: a container lives if its first process is in its
//! group, whose name no other container ever gets. How what died meanwhile has ended the steward has written down, which
//! was its parent then ([`ends`](crate::ends)); without one, a server that held its pidfd all the time knows.
//!
//! A container's pipes are found through its processes, which hold both directions of them (`O_RDWR`): that is also
//! why a container whose supervisor and server are both gone waits for room instead of dying of SIGPIPE.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::cells::Namespaces;
use super::host::{Container, Ended, Host, Process};
use super::journal::{Entry, Known, KnownContainer, KnownSandbox};
use super::pause::Pause;
use super::router::{Site, Wiring};
use super::sandbox::Sandbox;
use super::{report, start};
use crate::cgroup::Group;
use crate::ends::{Ends, Told};
use crate::failure::{Failure, Step};
use crate::init::SharedIpc;
use crate::protocol::{End, IpcPlan, NetworkPlan, Response};
use crate::{init, sys};

impl Host {
    /// Takes over what is known, and removes what is left of anything else.
    pub(super) fn adopt(&mut self, known: Known) {
        neargate_failpoint::reach("container::adoption::before");
        for (task, sandbox) in known {
            let (ids, processes) = (sandbox.ids, sandbox.nominal_processes());
            if let Err(failure) = self.adopt_sandbox(&task, sandbox) {
                // Its processes, if there are any, are swept away with its groups, where these are real.
                processes.into_iter().for_each(|pid| drop(sys::kill(pid, libc::SIGKILL)));
                report(&format!("find task {task} again"), &failure.into_start());
                self.cells.give_back(ids);
                if let Err(error) = self.note(|| Entry::Released { task }) {
                    report("write journal", &error);
                }
            }
            neargate_failpoint::reach("container::adoption::task");
        }
        let mut kept: HashMap<&str, HashSet<String>> =
            self.sandboxes.values().map(|sandbox| (sandbox.group.name(), sandbox.groups_kept())).collect();
        for container in self.containers.values() {
            let sandbox = self.sandboxes.get(&container.plan.task);
            if let Some(names) = sandbox.and_then(|sandbox| kept.get_mut(sandbox.group.name())) {
                names.insert(container.group.name().to_owned());
            }
        }
        self.groups.sweep(&kept, Some(self.cells.prefix()));
        // Of those that were found to have ended the journal tells now.
        if let Some(Err(error)) = self.ends.as_ref().map(Ends::rotate) {
            report("rotate the ends of containers", &error);
        }
        neargate_failpoint::reach("container::adoption::after");
    }

    fn adopt_sandbox(&mut self, task: &str, known: KnownSandbox) -> Result<(), Failure> {
        let KnownSandbox { group, hostname, ids, limits, network, sharing, pause, containers } = known;
        let gone = || Failure::System { step: "find cgroup of task".to_owned(), errno: libc::ENOENT };
        let group = self.groups.find_task(&group, &limits).ok_or_else(gone)?;
        let (mut living, mut ended) = (Vec::new(), Vec::new());
        for (number, container) in containers {
            self.skip_number(number);
            let found = self.find_group(&group, &container);
            let pidfd = found.as_ref().and_then(|group| find_process(group, container.pid));
            match (found, pidfd) {
                // Nobody was told that it runs: who asked for it asks again.
                (found, pidfd)
                    if container.end.is_none()
                        && pidfd.as_ref().is_none_or(|pidfd| sys::has_ended(pidfd.as_fd()))
                        && self.is_unbegun(container.pid, found.as_ref()) => {}
                (Some(group), Some(pidfd)) if container.end.is_none() => {
                    living.push((number, container, (pidfd, group)));
                }
                (found, _) => ended.push((number, container, found)),
            }
        }
        pause.iter().for_each(|pause| self.skip_number(pause.number));
        let pause = pause.and_then(|pause| Pause::find(&self.groups, &group, &pause));
        let shared = match &pause {
            Some(pause) if matches!(sharing.ipc, IpcPlan::Task { .. }) => Some(SharedIpc::of(pause.pid())?),
            _ => None,
        };
        let living_processes: HashMap<String, i32> = living
            .iter()
            .map(|(_, container, _)| (container.plan.container.clone(), container.pid))
            .collect();
        let processes = living.iter().map(|(_, container, _)| container.pid);
        let found = find_namespaces(processes, &network)?;
        let is_connected = found.is_some() || pause.is_some();
        let mut namespaces = match found {
            Some(namespaces) => namespaces,
            None => {
                let mut made = Namespaces::make(ids)?;
                made.replace_network(&network, &self.launchpad)?;
                made
            }
        };
        if let Some(pause) = &pause {
            namespaces.take_over(pause, shared.as_ref(), &network)?;
        }
        let mut sandbox = Sandbox::new(hostname, ids, namespaces, sharing, group, None);
        (sandbox.pause, sandbox.ipc, sandbox.pids_max) = (pause, shared, limits.pids_max);
        // A task whose packets go nowhere runs on all the same.
        match self.wire_again(&sandbox, &network, is_connected) {
            Ok(wiring) => sandbox.wiring = wiring,
            Err(failure) => report(&format!("connect task {task} again"), &failure.into_start()),
        }
        let router = (&mut self.network, &self.launchpad);
        if let Err(failure) = sandbox.connect_again(network.endpoints()?, &living_processes, router) {
            report(&format!("connect containers of task {task} again"), &failure.into_start());
        }
        self.sandboxes.insert(task.to_owned(), sandbox);
        for (number, container, group) in ended {
            self.adopt_ended(number, container, group);
        }
        for (number, container, found) in living {
            self.adopt_container(number, container, found)?;
        }
        Ok(())
    }

    /// Whether a container's first process has ended before it came to its program. None does so from here on: each holds
    /// the seat until it has executed or ended.
    fn is_unbegun(&self, pid: i32, group: Option<&Group>) -> bool {
        let Some(group) = group else { return false };
        let is_told = |ends: &Ends| matches!(ends.read().of(group.name(), pid), Some(Told::Unbegun));
        group.holds(pid) && init::is_unbegun(pid) || self.ends.as_ref().is_some_and(is_told)
    }

    /// Connects a sandbox that an earlier supervisor has made; `is_connected` where its network is the same still.
    fn wire_again(
        &mut self,
        sandbox: &Sandbox,
        network: &NetworkPlan,
        is_connected: bool,
    ) -> Result<Option<Wiring>, Failure> {
        let Some(interface) = network.interface()? else { return Ok(None) };
        let namespace = sandbox.namespaces.network.as_fd();
        let wired = match is_connected {
            true => self.network.wire_again(sandbox.ids, &interface, namespace, &self.launchpad),
            false => {
                let site = Site { namespace, linked: false, inside: None };
                self.network.wire(sandbox.ids, &interface, site, &self.launchpad)
            }
        };
        wired.map(Some)
    }

    fn find_group(&self, task: &Group, container: &KnownContainer) -> Option<Group> {
        let KnownContainer { plan, group, .. } = container;
        self.groups.find_container(task, group, &plan.limits, !plan.devices.is_empty())
    }

    fn adopt_container(
        &mut self,
        number: u64,
        container: KnownContainer,
        (pidfd, group): (OwnedFd, Group),
    ) -> Result<(), Failure> {
        let KnownContainer { plan, pid, pipes, .. } = container;
        let readers = find_readers(pid, &group, pipes);
        let (task, process) = (plan.task.clone(), Process::running(pid, pidfd));
        let mut container = Container::new(process, plan, group, None);
        container.readers = readers;
        self.enter_container(number, container).map_err(|(failure, container)| {
            start::abandon(&container.process.pidfd);
            failure
        })?;
        if let Some(sandbox) = self.sandboxes.get_mut(&task) {
            sandbox.live.insert(number);
        }
        Ok(())
    }

    fn adopt_ended(&mut self, number: u64, container: KnownContainer, group: Option<Group>) {
        let KnownContainer { plan, group: name, pid, end, .. } = container;
        let is_news = end.is_none();
        let end = end.unwrap_or_else(|| {
            let code = self.ends.as_ref().and_then(|ends| ends.read().code(&name, pid));
            let oom = group.as_ref().is_some_and(|group| group.oom_kills() > 0);
            End { code, oom, stats: group.map(|group| group.stats()).unwrap_or_default() }
        });
        let task = plan.task;
        if is_news
            && let Err(error) = self.note(|| Entry::Ended { number, task: task.clone(), end: end.clone() })
        {
            report("write journal", &error);
        }
        self.ended.insert(plan.container, Ended { task, end, readers: None });
    }

    /// Tells a server what there is. Sandboxes that are being released are not told: nobody can use them.
    pub(super) fn tell_all(&mut self) {
        let mut told = Vec::new();
        let open = |task: &str| self.sandboxes.get(task).is_some_and(Sandbox::is_open);
        for task in self.sandboxes.keys().filter(|task| open(task)) {
            told.push((0, Response::Sandbox { task: task.clone() }, Vec::new()));
        }
        for container in self.containers.values().filter(|container| open(&container.plan.task)) {
            let (mut fds, readers) = copies(container.readers.as_ref());
            // Without it the server could only not tell the exit code after a death of the supervisor.
            fds.extend(container.process.pidfd.try_clone());
            let (container, task) = (container.plan.container.clone(), container.plan.task.clone());
            told.push((0, Response::Found { container, task, end: None, readers }, fds));
        }
        for (container, ended) in self.ended.iter().filter(|(_, ended)| open(&ended.task)) {
            let (fds, readers) = copies(ended.readers.as_ref());
            let (container, task, end) = (container.clone(), ended.task.clone(), Some(ended.end.clone()));
            told.push((0, Response::Found { container, task, end, readers }, fds));
        }
        self.lendings.extend(told);
    }
}

fn copies(readers: Option<&[OwnedFd; 2]>) -> (Vec<OwnedFd>, bool) {
    let copy =
        |[stdout, stderr]: &[OwnedFd; 2]| io::Result::Ok(vec![stdout.try_clone()?, stderr.try_clone()?]);
    let fds = readers.and_then(|readers| copy(readers).ok()).unwrap_or_default();
    let has_readers = !fds.is_empty();
    (fds, has_readers)
}

/// The first process of a container, if it lives or was not reaped.
pub(super) fn find_process(group: &Group, pid: i32) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    // Looked for after it was opened, so that it is no other process that got the id meanwhile.
    group.holds(pid).then_some(pidfd)
}

/// A sandbox's namespaces, through one of the first processes of its containers; `None` when none of them lives any more:
/// one that ends has no namespaces any more while it takes its namespace's processes along, and after that is found until
/// it is reaped.
fn find_namespaces(
    processes: impl Iterator<Item = i32>,
    network: &NetworkPlan,
) -> Result<Option<Namespaces>, Failure> {
    for pid in processes {
        match namespaces_of(pid, network) {
            Err(Failure::System { errno: libc::ENOENT | libc::ESRCH, .. }) => {}
            found => return found.map(Some),
        }
    }
    Ok(None)
}

/// A sandbox's namespaces, one of whose containers has this first process. The container's user namespace is its own,
/// but the sandbox's had the same map, which is all that it is for unless it owns the network.
fn namespaces_of(pid: i32, network: &NetworkPlan) -> Result<Namespaces, Failure> {
    const STEP: &str = "open namespace of container";
    let open = |kind| fs::File::open(format!("/proc/{pid}/ns/{kind}")).step(STEP).map(OwnedFd::from);
    let owns_network = network.is_managed();
    let network = open("net")?;
    let user = if owns_network { sys::owner_of(network.as_fd()).step(STEP)? } else { open("user")? };
    Ok(Namespaces { user, network, owns_network })
}

impl Namespaces {
    /// Has those in place that a pause process holds: its network, also when no container has it any more, and the user
    /// namespace to which the IPC namespace belongs.
    fn take_over(
        &mut self,
        pause: &Pause,
        shared: Option<&SharedIpc>,
        network: &NetworkPlan,
    ) -> Result<(), Failure> {
        const STEP: &str = "open namespace of pause process";
        self.network = fs::File::open(format!("/proc/{}/ns/net", pause.pid())).step(STEP)?.into();
        let owned = match shared {
            Some(shared) => &shared.namespace,
            None if network.is_managed() => &self.network,
            None => return Ok(()),
        };
        self.user = sys::owner_of(owned.as_fd()).step(STEP)?;
        Ok(())
    }
}

impl Sandbox {
    /// The groups below its own that are not its containers'.
    fn groups_kept(&self) -> HashSet<String> {
        self.pause.iter().map(|pause| pause.group_name().to_owned()).collect()
    }
}

/// The reading ends of a container's standard output and error.
fn find_readers(first: i32, group: &Group, (stdout, stderr): (u64, u64)) -> Option<[OwnedFd; 2]> {
    Some([find_reader(first, 1, group, stdout)?, find_reader(first, 2, group, stderr)?])
}

/// The reading end of a pipe, through whatever process of the container holds it: most probably the first one, as the
/// stream that it was started with.
fn find_reader(first: i32, stream: u32, group: &Group, inode: u64) -> Option<OwnedFd> {
    if inode == 0 {
        return None;
    }
    if let Some(reader) = open_pipe(&format!("/proc/{first}/fd/{stream}"), inode) {
        return Some(reader);
    }
    let held_by = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut held = group.members().into_iter().flat_map(held_by);
    held.find_map(|entry| open_pipe(&entry.path().to_string_lossy(), inode))
}

/// Opens a process's descriptor for reading if it is this pipe. The process may put another file in its place at any
/// moment: so nothing but a pipe is opened on purpose, nothing that blocks, and what was opened is looked at again.
fn open_pipe(path: &str, inode: u64) -> Option<OwnedFd> {
    let is_it = |stat: &rustix::fs::Stat| stat.st_ino == inode;
    let pipe = format!("pipe:[{inode}]");
    fs::read_link(path).ok().filter(|target| target.as_os_str() == pipe.as_str())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    rustix::fs::fstat(opened.as_fd()).ok().filter(is_it)?;
    Some(opened)
}
