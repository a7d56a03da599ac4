//! Keeps a supervisor there as long as there is a server.
//!
//! ```text
//!  server ──fork──▶ steward ──spawn──▶ supervisor ──clone──▶ containers
//!    │  end of file     │   ◀──ended──      │
//!    └───────────────▶ ends                 └── go on without either
//! ```
//!
//! A server that has threads, and perhaps no rights any more, cannot start a process with all rights. So it forks the
//! steward first, which does nothing else: it starts the supervisor unless one is there, starts another when that is
//! killed, and ends with the server. As a subreaper it also reaps containers whose supervisor is gone; only then does
//! the kernel tell their exit code to those who hold a pidfd (`PIDFD_INFO_EXIT`, Linux 6.15).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::spawn::{self, SpawnError, Tenure};
use crate::supervisor::report;
use crate::sys;

/// A supervisor that ends sooner than this has perhaps something to say that starting another one will not change ...
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// ... and after this many times in a row the next ones are not started at once any more: it costs little to try, and
/// without a supervisor nobody tells, stops or removes what runs.
const SHORT_LIVES_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Keeps the kernel from choosing the steward when memory runs out.
const OOM_SCORE_ADJ: &str = "-999";

/// What a supervisor is started with.
pub(crate) struct Post<'a> {
    /// A sealed copy of the own program.
    pub(crate) program: &'a OwnedFd,
    pub(crate) directory: &'a Path,
    pub(crate) tenure: &'a Tenure,
}

/// Forks the steward; it lives until the returned socket is closed. `present` is the process id of a supervisor that is
/// there already.
pub(crate) fn fork(post: &Post<'_>, present: Option<i32>) -> Result<OwnedFd, SpawnError> {
    spawn::check_threads()?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| SpawnError::Socket(error.into()))?;
    match sys::fork().map_err(SpawnError::Fork)? {
        0 => {
            let code = match keep(&theirs, post, present) {
                Ok(()) => 0,
                Err(error) => {
                    report("keep a supervisor", &error);
                    1
                }
            };
            sys::exit_now(code)
        }
        _ => Ok(ours),
    }
}

/// What the steward waits for.
struct Watch<'a> {
    server: &'a OwnedFd,
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

fn keep(server: &OwnedFd, post: &Post<'_>, present: Option<i32>) -> io::Result<()> {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"ng-steward");
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let _ = rustix::process::chdir(c"/");
    // Whoever reads the server's output must not wait for the steward.
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    sys::dup2(null.as_fd(), libc::STDIN_FILENO)?;
    sys::dup2(null.as_fd(), libc::STDOUT_FILENO)?;
    std::mem::forget(null);
    sys::close_all_but(&mut [server.as_raw_fd(), post.program.as_raw_fd()])?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    // Signals to the server's group are the server's matter.
    sys::set_blocked(&[libc::SIGCHLD, libc::SIGINT, libc::SIGTERM, libc::SIGHUP], libc::SIG_BLOCK);
    let watch = Watch { server, children: sys::signalfd(&[libc::SIGCHLD])? };
    if let Some(pidfd) = present.and_then(open) {
        match watch.wait_for(None, Some(&pidfd), None)? {
            Over::Server => return Ok(()),
            Over::Supervisor { .. } | Over::Pause => {}
        }
    }
    let mut short_lives = 0;
    loop {
        if short_lives >= SHORT_LIVES_MAX
            && let Over::Server = watch.wait_for(None, None, Some(Instant::now() + PAUSE))?
        {
            return Ok(());
        }
        let since = Instant::now();
        neargate_failpoint::reach("container::steward::before");
        let child = spawn::command(post.program, post.directory, post.tenure).spawn()?.id().cast_signed();
        neargate_failpoint::reach("container::steward::after");
        match watch.wait_for(Some(child), None, None)? {
            Over::Server | Over::Supervisor { well: true } => return Ok(()),
            Over::Supervisor { well: false } | Over::Pause => {}
        }
        short_lives = if since.elapsed() < SHORT_LIFE { short_lives.saturating_add(1) } else { 0 };
        if short_lives == SHORT_LIVES_MAX {
            report("keep a supervisor", &"it ends again and again; what it said last is above");
        }
    }
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

impl Watch<'_> {
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
            let mut fds =
                vec![PollFd::new(self.server, PollFlags::IN), PollFd::new(&self.children, PollFlags::IN)];
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
            if children && let Some(well) = self.reap(child)? {
                return Ok(Over::Supervisor { well });
            }
            if other {
                return Ok(Over::Supervisor { well: false });
            }
        }
    }

    /// Reaps all that has ended; tells how `child` did, if it is among them.
    fn reap(&self, child: Option<i32>) -> io::Result<Option<bool>> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while rustix::io::read(self.children.as_fd(), &mut info).is_ok_and(|count| count > 0) {}
        let mut ended = None;
        loop {
            match sys::wait_child(None, false) {
                Ok(Some((pid, code))) if Some(pid) == child => ended = Some(code == 0),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(ended),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(ended),
                Err(error) => return Err(error),
            }
        }
    }
}
