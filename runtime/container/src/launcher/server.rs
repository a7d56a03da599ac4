//! The launcher's loop: one thread, one epoll.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use neargate_driver::{Limits, ProcessNetwork, ProcessRole};
use neargate_ipc::channel::{self, Frame};
use neargate_ipc::wire::{decode, encode};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fs::{Mode, OFlags};

use super::ground::Ground;
use super::place::Place;
use super::process::{self, GO, Start};
use super::protocol::{ProcessMountPlan, ProcessPlan, Report, Request, Response};
use super::succession::Successor;
use super::{Policy, Roles};
use crate::cgroup::{Fencing, Group, Groups};
use crate::failure::{Failure, Step};
use crate::fence::{Filters, Needs, THREADS_MAX};
use crate::peer::Outbox;
use crate::rootfs;
use crate::steward::Succession;
use crate::sys::{self, Clone};

/// How long a launcher whose program is gone waits for its processes to die; what is left then hangs in the
/// kernel.
const FAREWELL: Duration = Duration::from_secs(10);
/// How soon a busy cgroup directory is looked at again: at first, and after having looked in vain for long.
const LOOK_AGAIN_MIN: Duration = Duration::from_micros(200);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(20);
/// Most processes at once, so that a runaway program cannot use up the host's process ids.
const PROCESSES_MAX: usize = 4096;
/// Keeps the kernel from choosing the launcher, with which all workers end, when memory runs out.
const OOM_SCORE_ADJ: &str = "-999";
/// Its name in process listings.
const NAME: &[u8] = b"neargate-launcher";

/// The loop's own tokens; processes have higher ones: 2n for its end, 2n + 1 for its reports.
const SOCKET: u64 = 0;
const SIGNALS: u64 = 1;
const STEWARD: u64 = u64::MAX;

/// Namespaces of each process besides those that it enters or makes itself.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// A process from its clone to its reaping.
struct Running {
    /// The request that asked for it, which is also its name for the program.
    request: u64,
    pid: i32,
    pidfd: OwnedFd,
    /// Open until the process is behind its fences or has failed.
    sync: Option<OwnedFd>,
    /// Ids in the launcher's user namespace.
    ids: (u32, u32),
    group: Option<Group>,
    failure: Option<Failure>,
    is_ready: bool,
}

struct Server {
    socket: OwnedFd,
    epoll: OwnedFd,
    roles: Roles,
    policy: Policy,
    ground: Result<Ground, Failure>,
    groups: Result<Groups, Failure>,
    filters: Filters,
    processes: HashMap<u64, Running>,
    last_number: u64,
    leaving: Vec<Group>,
    look_again: Duration,
    outbox: Outbox,
    closing: Option<Instant>,
    successor: Option<Successor>,
}

/// Serves the socket until the program is gone; never returns.
pub(super) fn run(socket: OwnedFd, roles: Roles, policy: Policy, succession: Option<Succession>) -> ! {
    let code = match Server::new(socket, roles, policy, succession).and_then(Server::serve) {
        Ok(()) => 0,
        Err(error) => {
            tell("serve", &error);
            1
        }
    };
    sys::exit_now(code)
}

/// Tells a person about something that no response can carry.
pub(super) fn tell(what: &str, error: &dyn std::fmt::Display) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "neargate-launcher: {what}: {error}");
}

/// Overwrites what may be secret, so that the next process does not find it in its copy of this memory.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    black_box(bytes);
}

impl Server {
    fn new(
        socket: OwnedFd,
        roles: Roles,
        policy: Policy,
        succession: Option<Succession>,
    ) -> io::Result<Self> {
        become_nobodys_child(&socket, succession.as_ref())?;
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
        sys::set_blocked(&signals, libc::SIG_BLOCK);
        let signal_fd = sys::signalfd(&signals)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &signal_fd, epoll::EventData::new_u64(SIGNALS), epoll::EventFlags::IN)?;
        // Lives as long as the process.
        std::mem::forget(signal_fd);
        let successor = succession.map(|succession| Successor::watch(succession, &epoll, STEWARD));
        let successor = successor.transpose()?;
        // All this happens while the program starts up, on another core.
        let is_root = rustix::process::geteuid().is_root();
        let ground = Ground::make();
        let groups = if is_root { open_groups() } else { Err(no_groups()) };
        let mut filters = Filters::default();
        let usual =
            Needs { role: ProcessRole::WasmWorker, files: false, network: ProcessNetwork::None, pid: 1 };
        filters.get(usual)?;
        Ok(Self {
            socket,
            epoll,
            roles,
            policy,
            ground,
            groups,
            filters,
            processes: HashMap::new(),
            last_number: 0,
            leaving: Vec::new(),
            look_again: LOOK_AGAIN_MIN,
            outbox: Outbox::default(),
            closing: None,
            successor,
        })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        let mut buffer = Vec::new();
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    SOCKET => self.on_socket(&mut buffer)?,
                    SIGNALS => self.begin_farewell(),
                    STEWARD => self.successor.iter_mut().for_each(|successor| successor.on_end(&self.epoll)),
                    token if token % 2 == 0 => self.on_end(token / 2),
                    token => {
                        self.on_report(token / 2);
                    }
                }
            }
            self.flush()?;
            self.clean_up();
            self.successor.iter_mut().for_each(|successor| successor.on_time(&self.epoll, STEWARD));
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let cleaning = (!self.leaving.is_empty()).then_some(self.look_again);
        let closing = self.closing.map(|until| until.saturating_duration_since(Instant::now()));
        let steward = self.successor.as_ref().and_then(Successor::due);
        Timespec::try_from(cleaning.into_iter().chain(closing).chain(steward).min()?).ok()
    }

    fn on_socket(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        match channel::receive(self.socket.as_fd(), buffer, false) {
            Ok(Some(frame)) => {
                wipe(buffer);
                self.on_frame(frame);
            }
            Ok(None) => self.begin_farewell(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn on_frame(&mut self, mut frame: Frame) {
        let id = frame.id;
        let request = decode::<Request>(&frame.message);
        wipe(&mut frame.message);
        match request {
            Ok(Request::Spawn { plan }) => {
                if let Err(failure) = self.spawn(id, plan, frame.fds) {
                    self.answer(id, &Response::Failed { failure });
                }
            }
            Ok(Request::Kill { process }) => {
                // One that has ended already is not an error.
                for running in self.processes.values().filter(|running| running.request == process) {
                    kill(&running.pidfd);
                }
            }
            Ok(Request::Fences {}) => {
                let response = Response::Fences {
                    namespaces: self.ground.as_ref().err().cloned(),
                    cgroup: self.groups.as_ref().err().cloned(),
                    landlock_abi: sys::landlock_abi(),
                };
                self.answer(id, &response);
            }
            // Both ends are one binary, so this is a bug; the sender gets an answer.
            Err(_) => {
                let failure = Failure::System { step: "read request".to_owned(), errno: libc::EBADMSG };
                self.answer(id, &Response::Failed { failure });
            }
        }
    }

    /// Starts a process; the request is answered once it is behind its fences or cannot be.
    fn spawn(&mut self, request: u64, plan: ProcessPlan, mut fds: Vec<OwnedFd>) -> Result<(), Failure> {
        plan.check()?;
        self.check_role(&plan)?;
        if self.processes.len() >= PROCESSES_MAX || self.closing.is_some() {
            return Err(Failure::System { step: "start one more process".to_owned(), errno: libc::EAGAIN });
        }
        self.last_number += 1;
        let number = self.last_number;
        let lent = plan.place.as_ref().map(|place| Place::take(place, &mut fds)).transpose()?;
        let group = match &self.groups {
            Ok(groups) if lent.is_none() => {
                Some(groups.make_process(&format!("{}.{number}", plan.name), &limits_of(&plan))?)
            }
            _ => None,
        };
        let place = match (lent, &group) {
            (Some(place), _) => Ok(place),
            (None, Some(group)) => Place::of(group),
            (None, None) => Ok(Place::default()),
        };
        let started = place.and_then(|place| self.launch(request, plan, fds, place)).and_then(|running| {
            self.watch(number, &running).inspect_err(|_| {
                kill(&running.pidfd);
                // Dies at once, and is nobody's afterwards.
                let _ = sys::wait_child(Some(running.pidfd.as_fd()), true);
            })?;
            Ok(running)
        });
        match started {
            Ok(running) => {
                self.processes.insert(number, Running { group, ..running });
                Ok(())
            }
            Err(failure) => {
                self.leaving.extend(group);
                Err(failure)
            }
        }
    }

    /// Refuses a role that this program does not have, that cannot be had without root, or that would reach further than
    /// the policy says.
    fn check_role(&self, plan: &ProcessPlan) -> Result<(), Failure> {
        let role = plan.role();
        let refuse = |why: &str| {
            let what = format!("a process with the role {role:?}");
            Err(Failure::Unsupported { what, why: why.to_owned() })
        };
        if self.roles.of(role).is_none() {
            return refuse("this program was built without it");
        }
        let may_keep_files = self.ground.as_ref().is_ok_and(|ground| ground.may_keep_files(role));
        if role.keeps_files() && !may_keep_files {
            return refuse("rights over files of other users take root; start the program as root");
        }
        let is_kept = |mount: &ProcessMountPlan| self.policy.keeps(rootfs::path_of(&mount.source));
        if role.keeps_files() && !plan.mounts.iter().all(is_kept) {
            return refuse("it would reach beyond the directories that this program named when it started");
        }
        Ok(())
    }

    fn launch(
        &mut self,
        request: u64,
        mut plan: ProcessPlan,
        fds: Vec<OwnedFd>,
        place: Place,
    ) -> Result<Running, Failure> {
        let mounts = self.open_mounts(&plan)?;
        let ground = self.ground.as_ref().ok();
        let ids = ground.map_or((0, 0), |ground| ground.ids_of(plan.user(), self.policy.invoker));
        if ground.is_some() {
            // Compiled here, so that the next process has it, too. Each is the first of its PID namespace.
            self.filters.get(process::needs(&plan, 1)).step("compile seccomp filter")?;
        }
        let Place { network, unified, tasks } = place;
        let (ours, theirs) = channel::pair().step("make socket pair")?;
        let flags = if ground.is_some() { NAMESPACES as u64 } else { 0 };
        match sys::clone3(flags, unified.as_ref().map(AsFd::as_fd)).step("clone process")? {
            Clone::Child => {
                let (roles, filters) = (self.roles, &mut self.filters);
                let start = Start { plan, fds, roles, ground, mounts, network, tasks, filters, sync: theirs };
                process::run(start)
            }
            Clone::Parent { pid, pidfd } => {
                wipe(&mut plan.input);
                let sync = Some(ours);
                Ok(Running { request, pid, pidfd, sync, ids, group: None, failure: None, is_ready: false })
            }
        }
    }

    fn open_mounts(&self, plan: &ProcessPlan) -> Result<Vec<(String, OwnedFd)>, Failure> {
        let open = |mount: &ProcessMountPlan| match &self.ground {
            Ok(ground) => Ok((mount.name.clone(), ground.open_mount(mount)?)),
            // Without a mount namespace there is no place for it.
            Err(why) => Err(Failure::Mount {
                source_path: mount.source.clone(),
                target: mount.name.clone().into_bytes(),
                errno: if let Failure::System { errno, .. } = why { *errno } else { libc::EPERM },
            }),
        };
        plan.mounts.iter().map(open).collect()
    }

    fn watch(&self, number: u64, running: &Running) -> Result<(), Failure> {
        const STEP: &str = "watch process";
        let add = |fd: BorrowedFd<'_>, token| {
            epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN).step(STEP)
        };
        add(running.pidfd.as_fd(), number * 2)?;
        running.sync.as_ref().map_or(Ok(()), |sync| add(sync.as_fd(), number * 2 + 1))
    }

    /// Acts on what a process tells about its way behind the fences. Returns whether there may be more.
    fn on_report(&mut self, number: u64) -> bool {
        let Some(running) = self.processes.get_mut(&number) else { return false };
        let Some(sync) = running.sync.as_ref() else { return false };
        let report = match channel::receive(sync.as_fd(), &mut Vec::new(), false) {
            Ok(Some(frame)) => decode::<Report>(&frame.message).ok(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Ok(None) | Err(_) => None,
        };
        match report {
            Some(Report::Unshared {}) => {
                if let Err(failure) = admit(running.pid, running.ids, sync) {
                    running.failure = Some(failure);
                    kill(&running.pidfd);
                }
                return true;
            }
            Some(Report::Ready {}) => {
                running.is_ready = true;
                let (request, pid) = (running.request, running.pid.unsigned_abs());
                self.outbox.push(request, encode(&Response::Spawned { pid }), Vec::new());
            }
            // Answered when the process is reaped, so that nothing is left behind by then.
            Some(Report::Failed { failure }) => running.failure = running.failure.take().or(Some(failure)),
            // It has closed its end without a word, and ends or was killed.
            None => {}
        }
        unwatch_sync(&self.epoll, running);
        false
    }

    fn on_end(&mut self, number: u64) {
        // What it told last may come in the same turn, after this event.
        while self.on_report(number) {}
        let Some(running) = self.processes.get(&number) else { return };
        let code = match sys::wait_child(Some(running.pidfd.as_fd()), false) {
            Ok(Some((_, code))) => code,
            Ok(None) => return,
            Err(error) => return tell("reap process", &error),
        };
        let Some(mut running) = self.processes.remove(&number) else { return };
        unwatch_sync(&self.epoll, &mut running);
        let _ = epoll::delete(&self.epoll, &running.pidfd);
        if running.is_ready {
            let oom = running.group.as_ref().is_some_and(|group| group.oom_kills() > 0);
            self.answer(0, &Response::Exited { process: running.request, code, oom });
        } else {
            let step = format!("fence process, which ended with code {code}");
            let failure = running.failure.take();
            let failure = failure.unwrap_or(Failure::System { step, errno: libc::ECHILD });
            self.answer(running.request, &Response::Failed { failure });
        }
        self.leaving.extend(running.group.take());
        self.look_again = LOOK_AGAIN_MIN;
    }

    fn answer(&mut self, id: u64, response: &Response) {
        self.outbox.push(id, encode(response), Vec::new());
    }

    fn flush(&mut self) -> io::Result<()> {
        let registration = self.closing.is_none().then_some((&self.epoll, SOCKET));
        self.outbox.flush(&self.socket, registration)
    }

    /// Removes the groups of ended processes; the kernel lets go of them a moment after the reaping.
    fn clean_up(&mut self) {
        let before = self.leaving.len();
        self.leaving.retain(|group| !group.remove());
        if self.leaving.len() == before && before > 0 {
            self.look_again = (self.look_again * 2).min(LOOK_AGAIN_MAX);
        }
    }

    /// Starts killing everything; the loop ends when it is gone.
    fn begin_farewell(&mut self) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + FAREWELL);
        self.successor = None;
        // A closed socket would be readable for ever.
        let _ = epoll::delete(&self.epoll, &self.socket);
        self.processes.values().for_each(|running| kill(&running.pidfd));
    }

    fn is_done(&self) -> bool {
        let Some(until) = self.closing else { return false };
        let is_empty = self.processes.is_empty() && self.leaving.is_empty();
        if is_empty && let Ok(groups) = &self.groups {
            groups.close();
        }
        is_empty || until <= Instant::now()
    }
}

/// Ends a process. One that has ended already is about to be reaped.
fn kill(pidfd: &OwnedFd) {
    let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
}

/// Closes our end. The registration ends first: a child that was cloned meanwhile holds a copy of the
/// descriptor, which would keep it alive.
fn unwatch_sync(epoll: &OwnedFd, running: &mut Running) {
    if let Some(sync) = running.sync.take() {
        let _ = epoll::delete(epoll, &sync);
    }
}

/// Writes the id maps of a process in its new user namespace, and lets it go on.
fn admit(pid: i32, (uid, gid): (u32, u32), sync: &OwnedFd) -> Result<(), Failure> {
    rootfs::write_maps(pid, &format!("0 {uid} 1"), &format!("0 {gid} 1")).step("write id maps")?;
    // Only lowering can be refused, to a launcher that was never protected itself.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0");
    rustix::io::write(sync, &[GO]).step("release new process").map(drop)
}

fn limits_of(plan: &ProcessPlan) -> Limits {
    Limits { memory_bytes: plan.memory_bytes, pids_max: u32::try_from(THREADS_MAX).ok(), ..Limits::default() }
}

/// This launcher's cgroups, under a name of its own: programs of one data directory may run at once.
fn open_groups() -> Result<Groups, Failure> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").step("choose a name")?;
    Groups::open(
        &uuid.chars().filter(char::is_ascii_hexdigit).take(16).collect::<String>(),
        None,
        Fencing::None,
    )
}

fn no_groups() -> Failure {
    Failure::System { step: "limit processes by cgroups, which takes root".to_owned(), errno: libc::EPERM }
}

/// Gives up all that ties the launcher to the program and its terminal, but standard error and the socket.
fn become_nobodys_child(socket: &OwnedFd, succession: Option<&Succession>) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    sys::reset_inherited_signals();
    // Out of reach of the terminal's signals, but in the program's session: with `sched_autogroup_enabled` each
    // session is a group to the scheduler, which lets a busy one wait for too long beside another.
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::thread::set_name(c"ng-launcher");
    // A reader of the program's output must not wait for the launcher's copy of the pipe, and the program
    // may have descriptors that are none of our business.
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::dup2(null.as_fd(), 0)?;
    sys::dup2(null.as_fd(), 1)?;
    if rustix::io::fcntl_getfd(io::stderr()).is_err() {
        sys::dup2(null.as_fd(), 2)?;
    }
    std::mem::forget(null);
    let mut kept = vec![socket.as_raw_fd()];
    kept.extend(succession.into_iter().flat_map(Succession::descriptors));
    sys::close_all_but(&mut kept)?;
    // A launcher with the program's arguments in its memory is no worse than the program; its processes are.
    if let Err(error) = sys::wipe_arguments(NAME) {
        tell("wipe arguments", &error);
    }
    let _ = sys::join_new_session_keyring();
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    rustix::process::chdir(c"/").map_err(io::Error::from)
}
