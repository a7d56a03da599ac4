//! Keeps a supervisor there as long as there is a server, and learns how what dead supervisors leave has ended.
//!
//! ```text
//!             launcher ──forks another──┐
//!                                       ▼
//!  server ──fork────────────────▶ steward ──spawn──▶ supervisor ──clone──▶ containers
//!    │  end of file                 │   ◀──ended──      │
//!    └───────▶ starts no more       │                   └── go on without either
//!                                   └── reaps what is left, writes its ends
//! ```
//!
//! A server that has threads, and perhaps no rights any more, cannot start a process with all rights. So it forks the
//! steward first, which does nothing else: it starts the supervisor unless one is there, and starts another when that is
//! killed, as long as there is a server.
//!
//! As a subreaper it is the next parent of containers whose supervisor is gone, and so the only one to learn how they
//! end: it writes that into [`ends`] before it reaps them. Therefore it outlives its server and goes on until it has no
//! child any more, which are a supervisor that it has started and what that leaves.
//!
//! A steward that is killed is replaced by the [launcher](crate::launcher), which is forked early as well and ends with
//! the server. Its successor is no parent of what is there already: how a container ends whose supervisor is killed,
//! too, is then known to who holds its pidfd, from Linux 6.15 on (`PIDFD_INFO_EXIT`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::ends::Told;
use crate::spawn::{self, SpawnError, Tenure};
use crate::standing::Standing;
use crate::supervisor::{holder, is_router, report};
use crate::{cgroup, ends, init, realm, sys};

/// A supervisor that ends sooner than this has perhaps something to say that starting another one will not change ...
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// ... and after this many times in a row the next ones are not started at once any more: it costs little to try, and
/// without a supervisor nobody tells, stops or removes what runs.
const SHORT_LIVES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Keeps the kernel from choosing the steward when memory runs out.
const OOM_SCORE_ADJ: &str = "-999";

/// What a steward needs, wherever it is forked.
#[derive(Debug)]
pub(crate) struct Post {
    /// A sealed copy of the own program.
    pub(crate) program: OwnedFd,
    pub(crate) directory: PathBuf,
    pub(crate) tenure: Tenure,
    /// The mount namespace in which supervisors are started.
    mounts: OwnedFd,
    /// Hangs up when the server is gone or wants no other supervisor; also when a steward has seen one end as it should.
    server: OwnedFd,
}

/// What it takes to replace a steward that is killed; for [`Launcher::fork_with`](crate::Launcher::fork_with).
#[derive(Debug)]
pub struct Succession {
    pub(crate) post: Post,
    /// The steward that is there: readable once it has ended.
    pub(crate) steward: OwnedFd,
}

impl Succession {
    /// The descriptors to be kept by who is to replace the steward.
    pub(crate) fn descriptors(&self) -> [i32; 4] {
        let [program, mounts, server] = self.post.descriptors();
        [program, mounts, server, self.steward.as_raw_fd()]
    }
}

impl Post {
    /// The post of this process's stewards, and what keeps them there while it is open.
    pub(crate) fn new(program: OwnedFd, directory: &Path, tenure: Tenure) -> io::Result<(Self, OwnedFd)> {
        let (ours, server) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let mounts = File::open("/proc/self/ns/mnt")?.into();
        Ok((Self { program, directory: directory.to_owned(), tenure, mounts, server }, ours))
    }

    /// Whether nobody wants a steward any more.
    pub(crate) fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(&self.server, PollFlags::IN)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&none)).is_ok_and(|count| count > 0)
    }

    fn descriptors(&self) -> [i32; 3] {
        [self.program.as_raw_fd(), self.mounts.as_raw_fd(), self.server.as_raw_fd()]
    }
}

/// Forks the steward; what is returned is readable once it has ended. It is a child of the caller.
pub(crate) fn fork(post: &Post) -> Result<OwnedFd, SpawnError> {
    spawn::check_threads()?;
    match sys::fork().map_err(SpawnError::Fork)? {
        0 => {
            let code = match keep(post) {
                Ok(()) => 0,
                Err(error) => {
                    report("keep a supervisor", &error);
                    1
                }
            };
            sys::exit_now(code)
        }
        // Nobody but the caller reaps it, so that it is still there.
        pid => open(pid).ok_or_else(|| SpawnError::Fork(io::Error::from_raw_os_error(libc::ESRCH))),
    }
}

/// What the steward waits for.
struct Watch<'a> {
    post: &'a Post,
    children: OwnedFd,
}

/// Why waiting was over.
enum Over {
    Server,
    /// The supervisor has ended; whether as it should.
    Supervisor {
        well: bool,
    },
    /// The time.
    Pause,
}

/// What reaping has brought.
struct Reaped {
    /// Whether the child that was asked for has ended as it should, if it has ended.
    well: Option<bool>,
    /// Whether there is no child any more.
    is_alone: bool,
}

fn keep(post: &Post) -> io::Result<()> {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"ng-steward");
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    // Whoever reads the server's output must not wait for the steward.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    sys::dup2(null.as_fd(), libc::STDIN_FILENO)?;
    sys::dup2(null.as_fd(), libc::STDOUT_FILENO)?;
    sys::close_all_but(&mut [&post.descriptors()[..], &[null.as_raw_fd()]].concat())?;
    enter_mounts(&post.mounts)?;
    if !rustix::process::geteuid().is_root() {
        realm::enter(Some(&post.directory))?;
        Standing::look_up()?;
    }
    let _ = rustix::process::chdir(c"/");
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    // Signals to the server's group are the server's matter.
    sys::set_blocked(&[libc::SIGCHLD, libc::SIGINT, libc::SIGTERM, libc::SIGHUP], libc::SIG_BLOCK);
    let watch = Watch { post, children: sys::signalfd(&[libc::SIGCHLD])? };
    let kept = watch.keep_supervisor();
    // Also where a steward ends for another reason than its server: the launcher is not to fork another one.
    let _ = shutdown(&post.server, Shutdown::Both);
    sys::dup2(null.as_fd(), libc::STDERR_FILENO)?;
    kept.and(watch.outlive_children())
}

/// Goes back to the server's mount namespace from the launcher's. Only if it is another one: entering it would also leave
/// a root directory that the server was given (setns(2)).
fn enter_mounts(mounts: &OwnedFd) -> io::Result<()> {
    let own = rustix::fs::stat("/proc/self/ns/mnt")?;
    let wanted = rustix::fs::fstat(mounts)?;
    match (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino) {
        true => Ok(()),
        false => sys::setns(mounts.as_fd(), libc::CLONE_NEWNS),
    }
}

/// Ends the routers of supervisors that are gone, once they are all the children there are: nobody uses them any more.
fn end_routers_alone() {
    let path = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
    let children = std::fs::read_to_string(path).unwrap_or_default();
    let children: Vec<i32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    if children.iter().all(|pid| is_router(*pid)) {
        for router in children.into_iter().filter_map(open) {
            let _ = sys::pidfd_signal(router.as_fd(), libc::SIGKILL);
        }
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

impl Watch<'_> {
    /// Has a supervisor be there until the server is gone, or the supervisor has ended as it should.
    fn keep_supervisor(&self) -> io::Result<()> {
        let Post { program, directory, tenure, .. } = self.post;
        let mut short_lives = 0;
        loop {
            let since = Instant::now();
            let over = match holder(directory) {
                // Another steward has started it.
                Some(supervisor) => self.wait_for(None, Some(&supervisor), None)?,
                None => {
                    neargate_failpoint::reach("container::steward::before");
                    let child = spawn::command(program, directory, tenure).spawn();
                    neargate_failpoint::reach("container::steward::after");
                    match child {
                        Ok(child) => self.wait_for(Some(child.id().cast_signed()), None, None)?,
                        Err(error) => {
                            report("start a supervisor", &error);
                            Over::Supervisor { well: false }
                        }
                    }
                }
            };
            if !matches!(over, Over::Supervisor { well: false }) {
                return Ok(());
            }
            short_lives = if since.elapsed() < SHORT_LIFE { short_lives + 1 } else { 0 };
            if short_lives == SHORT_LIVES_MAX {
                report("keep a supervisor", &"it ends again and again; what it said last is above");
            }
            if short_lives >= SHORT_LIVES_MAX
                && let Over::Server = self.wait_for(None, None, Some(Instant::now() + PAUSE))?
            {
                return Ok(());
            }
        }
    }

    /// Waits until the server or the supervisor, a child or a process of another parent, has ended, or it is time.
    fn wait_for(
        &self,
        child: Option<i32>,
        other: Option<&OwnedFd>,
        until: Option<Instant>,
    ) -> io::Result<Over> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Over::Pause);
            }
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![
                PollFd::new(&self.post.server, PollFlags::IN),
                PollFd::new(&self.children, PollFlags::IN),
            ];
            fds.extend(other.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let is_ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            let (server, children, other) = (is_ready(0), is_ready(1), is_ready(2));
            // A server that ends its supervisor says so first.
            if server {
                return Ok(Over::Server);
            }
            if children && let Some(well) = self.reap(child)?.well {
                return Ok(Over::Supervisor { well });
            }
            if other {
                return Ok(Over::Supervisor { well: false });
            }
        }
    }

    /// Reaps until there is no child any more.
    fn outlive_children(&self) -> io::Result<()> {
        while !self.reap(None)?.is_alone {
            // A supervisor that another steward has started may use them.
            if holder(&self.post.directory).is_none() {
                end_routers_alone();
            }
            let mut fds = [PollFd::new(&self.children, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reaps all that has ended.
    fn reap(&self, child: Option<i32>) -> io::Result<Reaped> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(self.children.as_fd(), &mut info).is_ok_and(|count| count > 0) {}
        let mut well = None;
        loop {
            let (pid, code) = match sys::peek_child(None) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(Reaped { well, is_alone: false }),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    return Ok(Reaped { well, is_alone: true });
                }
                Err(error) => return Err(error),
            };
            match Some(pid) == child {
                true => well = Some(code == 0),
                false => self.note_end(pid, code),
            }
            sys::reap_child(pid)?;
        }
    }

    /// Writes down how a container's process has ended, which is not to be reaped before.
    fn note_end(&self, pid: i32, code: i32) {
        let Some(group) = cgroup::container_of(pid) else { return };
        neargate_failpoint::reach("container::orphan::before");
        let told = if init::is_unbegun(pid) { Told::Unbegun } else { Told::Code(code) };
        if let Err(error) = ends::append(&self.post.directory, &group, pid, told) {
            report("write down the end of a container", &error);
        }
        neargate_failpoint::reach("container::orphan::after");
    }
}
