//! What runs in a pause process, which holds the namespaces that the containers of a sandbox share.
//!
//! ```text
//!  supervisor ──clone, CLONE_NEWPID──▶ own program, executed again ──▶ waits for nothing, until it is killed
//!      ◀───────────── "ready", or a failure ─────────┘
//! ```
//!
//! It is the first process of the PID namespace: the kernel gives it the orphans of all containers, ends all of them with
//! it, and keeps signals from within off it. It is in the task's network, because `/proc/1/net` shows everybody the
//! network of the first process, and in the task's IPC and mount namespaces where these are shared, so that they are there
//! between two containers and can be found by the next supervisor.
//!
//! Containers live beside it for long, so nothing of it is worth taking. It executes the program anew and has no copy of
//! the supervisor's memory, which holds the plans of all tasks. It has no capability and a user of its own, whom no
//! container knows, so that none of them can stop, trace or limit it. It has one descriptor besides the null device's
//! and its end of a closed socket, and may make no system call but `read(2)`, `write(2)` and `exit(2)`
//! (`SECCOMP_MODE_STRICT`): the kernel reaps for it.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use neargate_ipc::wire::{decode, encode};
use rustix::fs::{Mode, OFlags};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::cgroup;
use crate::failure::{Failure, Step};
use crate::{init, sys};

/// The argument that makes a process one; its socket, its mount namespace and its user follow.
pub(crate) const ROLE_ARGUMENT: &str = "--pause-role";
/// Its name in process listings, those of the containers included.
const NAME: &str = "neargate-pause";
/// Its name among threads and processes (`/proc/PID/comm`).
const SHORT_NAME: &std::ffi::CStr = c"ng-pause";
/// What it writes when it is ready.
const READY: &[u8] = b"r";
/// Longest message of a failure, in bytes.
const FAILURE_BYTES_MAX: usize = 4096;

/// A process that was started as one.
#[derive(Debug)]
pub(crate) struct PauseRole {
    sync: RawFd,
    mounts: RawFd,
    user: u32,
}

/// What a pause process is made with.
pub(crate) struct Plan<'a> {
    /// The opened `tasks` files of its v1 groups.
    pub(crate) tasks: Vec<fs::File>,
    /// The IPC namespace to hold, if it is shared.
    pub(crate) ipc: Option<BorrowedFd<'a>>,
    /// The mount namespace to hold.
    pub(crate) mounts: BorrowedFd<'a>,
    /// The host's user and group id that it gets.
    pub(crate) user: u32,
}

/// Becomes a pause process, in a clone of the supervisor; `sync` is where it says that it is one, or why not.
pub(crate) fn execute(mut plan: Plan<'_>, sync: &OwnedFd) -> ! {
    let Err(failure) = prepare(&mut plan, sync);
    tell_failure(sync, &failure);
    sys::exit_now(1)
}

fn prepare(plan: &mut Plan<'_>, sync: &OwnedFd) -> Result<Infallible, Failure> {
    const STEP: &str = "execute pause process";
    cgroup::join(&mut plan.tasks).step("join cgroup")?;
    if let Some(ipc) = plan.ipc {
        sys::setns(ipc, libc::CLONE_NEWIPC).step("enter IPC namespace")?;
    }
    for fd in [sync.as_fd(), plan.mounts] {
        fcntl_setfd(fd, FdFlags::empty()).step(STEP)?;
    }
    let numbers = [sync.as_raw_fd().to_string(), plan.mounts.as_raw_fd().to_string(), plan.user.to_string()];
    let texts = [NAME, ROLE_ARGUMENT].into_iter().chain(numbers.iter().map(String::as_str));
    let texts = texts.map(CString::new).collect::<Result<Vec<_>, _>>().map_err(io::Error::from).step(STEP)?;
    let argv: Vec<_> = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect();
    // No environment: everybody may read it who may trace.
    Err(sys::execve(c"/proc/self/exe", &argv, &[std::ptr::null()])).step(STEP)
}

/// Waits until a pause process, or whoever else tells it with [`tell_ready`] and [`tell_failure`], is ready.
pub(crate) fn hear(sync: &OwnedFd) -> Result<(), Failure> {
    let mut message = [0; FAILURE_BYTES_MAX];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(sync, &mut message[..]));
    match &message[..length.step("wait for process")?] {
        [] => Err(Failure::System { step: "wait for process".to_owned(), errno: libc::EPIPE }),
        message if message == READY => Ok(()),
        message => {
            let malformed = || Failure::System { step: "read failure".to_owned(), errno: libc::EBADMSG };
            Err(decode(message).unwrap_or_else(|_| malformed()))
        }
    }
}

/// Says that all is ready.
pub(crate) fn tell_ready(sync: &OwnedFd) -> rustix::io::Result<()> {
    rustix::io::write(sync, READY).map(drop)
}

/// Says why it is not. Nobody is left to tell when this fails, too.
pub(crate) fn tell_failure(sync: &OwnedFd, failure: &Failure) {
    let _ = rustix::io::write(sync, &encode(failure));
}

impl PauseRole {
    /// The role, by the arguments behind [`ROLE_ARGUMENT`].
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let (sync, mounts) = (arguments.next()?.parse().ok()?, arguments.next()?.parse().ok()?);
        let user = arguments.next()?.parse().ok()?;
        (sync > 2 && mounts > 2).then_some(Self { sync, mounts, user })
    }

    /// Holds the namespaces until it is killed.
    pub(crate) fn run(self) -> ! {
        // SAFETY: the numbers came from `prepare` of this very binary, which left exactly these descriptors open for the
        // role; a wrong number makes an invalid descriptor and every use of it fails with EBADF.
        let (sync, mounts) = unsafe { (OwnedFd::from_raw_fd(self.sync), OwnedFd::from_raw_fd(self.mounts)) };
        let Err(failure) = hold(&sync, &mounts, self.user);
        tell_failure(&sync, &failure);
        sys::exit_now(1)
    }
}

fn hold(sync: &OwnedFd, mounts: &OwnedFd, user: u32) -> Result<Infallible, Failure> {
    const STEP: &str = "set up pause process";
    sys::prctl(libc::PR_SET_DUMPABLE, 0).step(STEP)?;
    let _ = rustix::thread::set_name(SHORT_NAME);
    // The kernel then reaps what the containers leave (`SA_NOCLDWAIT` in sigaction(2)).
    sys::ignore_children().step(STEP)?;
    sys::setns(mounts.as_fd(), libc::CLONE_NEWNS).step("enter mount namespace")?;
    // No controlling terminal is shared with the supervisor, and no stream.
    rustix::process::setsid().step("make session")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).step("open root")?;
    init::attach_null(root.as_fd())?;
    // Nobody ever writes to it, and it never ends, because this process holds both ends.
    let (wait, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(STEP)?;
    sys::close_all_but(&mut [sync.as_raw_fd(), wait.as_raw_fd(), end.as_raw_fd()]).step(STEP)?;
    // Of root's capabilities nothing is left with this.
    sys::set_ids(user, user, &[]).step("become another user")?;
    sys::clear_ambient().step(STEP)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).step(STEP)?;
    sys::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT.into()).step(STEP)?;
    // From here on there is nothing but this that it may do, also where it fails.
    let _ = tell_ready(sync);
    loop {
        let _ = rustix::io::read(&wait, &mut [0u8; 1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_the_role() {
        let check = |text: &str, expect: Option<(RawFd, RawFd, u32)>| {
            let role = PauseRole::parse(text.split_whitespace().map(str::to_owned));
            assert_eq!(role.map(|role| (role.sync, role.mounts, role.user)), expect, "{text}");
        };
        check("7 8 1000065535", Some((7, 8, 1_000_065_535)));
        for text in ["", "7", "7 8", "2 8 1", "7 0 1", "7 8 x", "x 8 1", "-1 8 1"] {
            check(text, None);
        }
    }

    #[test]
    fn what_is_told_is_heard() {
        let told = |tell: &dyn Fn(&OwnedFd)| {
            let (ours, theirs) = neargate_ipc::channel::pair().unwrap();
            tell(&theirs);
            drop(theirs);
            hear(&ours)
        };
        assert_eq!(told(&|sync| tell_ready(sync).unwrap()), Ok(()));
        let failure = Failure::System { step: "try".to_owned(), errno: libc::EPERM };
        assert_eq!(told(&|sync| tell_failure(sync, &failure)), Err(failure.clone()));
        assert!(told(&|_| {}).is_err());
    }
}
