//! Starts the supervisor as a process of its own, from a sealed copy of the running binary.
//!
//! Sealed, because a container that could write to the file that its first process was cloned from would
//! take over the host (CVE-2019-5736). The copy is made once, not for every container.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::pause::{self, PauseRole};
use crate::protocol::Allowed;
use crate::realm;
use crate::supervisor::Meeting;
use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};

/// The argument that makes a process a supervisor; the number of its socket follows.
const ROLE_ARGUMENT: &str = "--supervisor-role";
/// The argument that makes a process a supervisor which outlives its server; its directory, the server's user id, the
/// name of the program and directories of the host follow.
const SEAT_ARGUMENT: &str = "--supervisor-seat";
/// Its name in process listings.
const NAME: &str = "neargate-supervisor";
/// How often the copy of the binary is tried to be sealed, and the pause in between. The kernel itself waits for a
/// fraction of a second each time.
const SEAL_ATTEMPTS: usize = 20;
const SEAL_PAUSE: Duration = Duration::from_millis(20);

/// Why the supervisor or the launcher could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It must be started before any thread is: between fork and exec, locks of other threads are held for
    /// ever.
    #[error(
        "start supervisor or launcher from a process with {count} threads; it must come before the first one"
    )]
    Threads {
        /// How many there are.
        count: usize,
    },
    /// The binary could not be copied into a sealed memory file.
    #[error("seal a copy of the own binary")]
    Seal(#[source] io::Error),
    /// The socket pair could not be made.
    #[error("make the socket of supervisor or launcher")]
    Socket(#[source] io::Error),
    /// The copy could not be executed.
    #[error("execute the supervisor")]
    Execute(#[source] io::Error),
    /// The launcher, or the steward of a supervisor, could not be forked.
    #[error("fork the launcher or the steward")]
    Fork(#[source] io::Error),
    /// This process could not become another user's.
    #[error("become user {uid}")]
    User {
        /// The user.
        uid: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is no supervisor to be reached in its directory.
    #[error("reach the supervisor at {}; it says on standard error what hinders it", directory.display())]
    Seat {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What a supervisor that outlives its server is started with.
#[derive(Clone, Debug)]
pub(crate) struct Tenure {
    /// Who may connect, besides root.
    pub(crate) server_uid: u32,
    /// Names the program that is executed.
    pub(crate) build: String,
    /// The most that a server which is not root may let containers have.
    pub(crate) allowed: Allowed,
}

/// A process that was started as a supervisor, or as one of its pause processes.
#[derive(Debug)]
pub struct SupervisorRole(Role);

#[derive(Debug)]
enum Role {
    Socket(RawFd),
    Seat { directory: PathBuf, tenure: Tenure },
    Pause(PauseRole),
}

impl SupervisorRole {
    /// Serves until it is to end; never returns.
    pub fn run(self) -> ! {
        let number = match self.0 {
            Role::Socket(number) => number,
            Role::Seat { directory, tenure } => {
                crate::supervisor::run(Meeting::Directory { directory, tenure })
            }
            Role::Pause(role) => role.run(),
        };
        // SAFETY: the number came from `spawn` of this very binary, which left exactly this descriptor open
        // for the role; a wrong number makes an invalid descriptor and every use of it fails with EBADF.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if fcntl_setfd(&socket, FdFlags::CLOEXEC).is_err() {
            std::process::exit(2);
        }
        crate::supervisor::run(Meeting::Socket(socket))
    }
}

/// Whether this process was started as a supervisor, or by one. To be called first in `main`, before any thread and
/// before arguments are looked at in any other way.
pub fn role_from_args() -> Option<SupervisorRole> {
    let mut args = std::env::args_os().skip(1);
    let role = args.next()?;
    if role == ROLE_ARGUMENT {
        let socket = args.next()?.into_string().ok()?.parse().ok()?;
        return (socket > 2).then_some(SupervisorRole(Role::Socket(socket)));
    }
    if role == pause::ROLE_ARGUMENT {
        let rest = args.map_while(|argument| argument.into_string().ok());
        return PauseRole::parse(rest).map(|role| SupervisorRole(Role::Pause(role)));
    }
    if role != SEAT_ARGUMENT {
        return None;
    }
    let directory = args.next()?.into();
    let server_uid = args.next()?.into_string().ok()?.parse().ok()?;
    let build = args.next()?.into_string().ok()?;
    let allowed = decode(&hex::decode(args.next()?.into_string().ok()?).ok()?).ok()?;
    let tenure = Tenure { server_uid, build, allowed };
    Some(SupervisorRole(Role::Seat { directory, tenure }))
}

/// The command that starts `program` as a supervisor which outlives its server.
pub(crate) fn command(program: &OwnedFd, directory: &Path, tenure: &Tenure) -> Command {
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command.arg0(NAME).arg(SEAT_ARGUMENT).arg(directory);
    command.arg(tenure.server_uid.to_string()).arg(&tenure.build);
    command.arg(hex::encode(encode(&tenure.allowed)));
    // Who reads the server's output must not wait for the end of a process that outlives it.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Names the running program, so that a server can tell whether its supervisor is the same.
pub(crate) fn build() -> String {
    use std::os::unix::fs::MetadataExt;
    let version = env!("CARGO_PKG_VERSION");
    match std::fs::metadata("/proc/self/exe") {
        Ok(own) => format!("{version}-{}-{}.{:09}", own.size(), own.mtime(), own.mtime_nsec()),
        Err(_) => version.to_owned(),
    }
}

/// Starts the supervisor; returns it and our end of its socket.
pub(crate) fn spawn() -> Result<(Child, OwnedFd), SpawnError> {
    check_threads()?;
    let binary = seal_own_binary().map_err(SpawnError::Seal)?;
    let (ours, theirs) = channel::pair().map_err(SpawnError::Socket)?;
    let inherited = theirs.as_raw_fd();
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    command.arg0(NAME).arg(ROLE_ARGUMENT).arg(inherited.to_string());
    let is_root = rustix::process::geteuid().is_root();
    let keep = move || {
        // SAFETY: the descriptor is open in the child, a copy of this process, and is only borrowed.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(inherited) };
        fcntl_setfd(fd, FdFlags::empty())?;
        if is_root { Ok(()) } else { realm::enter(None) }
    };
    // SAFETY: the process has one thread, as was checked, so that no lock is held by another one between fork and exec.
    unsafe { command.pre_exec(keep) };
    let child = command.spawn().map_err(SpawnError::Execute)?;
    Ok((child, ours))
}

/// Refuses a process with more than one thread.
pub(crate) fn check_threads() -> Result<(), SpawnError> {
    let count = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if count > 1 { Err(SpawnError::Threads { count }) } else { Ok(()) }
}

pub(crate) fn seal_own_binary() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where vm.memfd_noexec is set, only MFD_EXEC (Linux 6.3) makes a memfd that can be executed; older
    // kernels do not know the flag.
    let memfd = rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(NAME, flags))?;
    let mut copy = File::from(memfd);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // Somebody in the kernel may hold a page just now, to move it for example; then it is EBUSY (fcntl(2)).
    for _ in 0..SEAL_ATTEMPTS {
        match rustix::fs::fcntl_add_seals(copy.as_fd(), seals) {
            Err(Errno::BUSY) => std::thread::sleep(SEAL_PAUSE),
            other => return other.map(|()| copy.into()).map_err(io::Error::from),
        }
    }
    Err(Errno::BUSY.into())
}
