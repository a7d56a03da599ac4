//! Where servers find a supervisor that outlives them: a socket in a directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::NAME;
use crate::spawn::{self, Tenure};
use crate::sys;

/// Name of the socket in the directory.
const SOCKET: &str = "supervisor.sock";
/// Name of the file that a living supervisor has locked; it holds its process id.
const LOCK: &str = "supervisor.lock";
/// How long a predecessor that was killed may take to let go of its lock: its last children hold copies of it until
/// they exec or notice.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(1);
/// Servers that wait to be heard; there is one at a time, and its successor.
const BACKLOG: i32 = 4;

/// A directory, and the socket in it.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) directory: PathBuf,
    pub(super) listener: OwnedFd,
    /// Who may connect, and what this supervisor executes.
    pub(super) tenure: Tenure,
    /// Held by copies of it, too.
    lock: File,
}

impl Seat {
    /// Takes a directory, which no other supervisor may have.
    pub(super) fn take(directory: PathBuf, tenure: Tenure) -> io::Result<Self> {
        let mut lock = lock(&directory.join(LOCK))?;
        lock.set_len(0)?;
        lock.write_all(std::process::id().to_string().as_bytes())?;
        neargate_failpoint::reach("container::seat::before");
        let listener = listen(&directory, tenure.server_uid)?;
        neargate_failpoint::reach("container::seat::after");
        Ok(Self { directory, listener, tenure, lock })
    }

    /// The next server, if one waits and is who it should be, and whether it is root.
    pub(super) fn accept(&self) -> io::Result<Option<(OwnedFd, bool)>> {
        let socket = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket)?.uid.as_raw();
        Ok((peer == 0 || peer == self.tenure.server_uid).then_some((socket, peer == 0)))
    }

    /// Executes a program as supervisor of this directory, in place of this one; returns only on failure.
    pub(super) fn execute(&self, program: &OwnedFd, build: &str) -> io::Error {
        let tenure = Tenure { build: build.to_owned(), ..self.tenure.clone() };
        spawn::command(program, &self.directory, &tenure).exec()
    }

    /// A copy of what holds the directory.
    pub(super) fn hold(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone().map(OwnedFd::from)
    }

    /// Leaves nothing in the directory that would promise a supervisor.
    pub(super) fn leave(&self) {
        let _ = std::fs::remove_file(self.directory.join(SOCKET));
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            other => return other.map(|()| file).map_err(io::Error::from),
        }
    }
}

/// The supervisor that has a directory: readable once it has ended. `None` if there is none, or it is just ending.
pub(crate) fn holder(directory: &Path) -> Option<OwnedFd> {
    let mut file = File::open(directory.join(LOCK)).ok()?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let pid = Pid::from_raw(text.parse().ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Looked at after it was opened: another process may have got the id of one that is gone.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).ok()?;
    // Its last children may hold the lock a moment longer than it lives.
    (name.trim() == NAME && !sys::has_ended(pidfd.as_fd())).then_some(pidfd)
}

fn listen(directory: &Path, server_uid: u32) -> io::Result<OwnedFd> {
    let path = directory.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A server that is gone before it is accepted must not be waited for.
    let socket = socket(SocketFlags::NONBLOCK)?;
    let (_directory, address) = address(directory)?;
    rustix::net::bind(&socket, &address)?;
    rustix::fs::chmodat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600), rustix::fs::AtFlags::empty())?;
    std::os::unix::fs::chown(&path, Some(server_uid), None)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the supervisor of a directory; returns the socket and the supervisor's process id.
pub(crate) fn connect(directory: &Path) -> io::Result<(OwnedFd, i32)> {
    let socket = socket(SocketFlags::empty())?;
    let (_directory, address) = address(directory)?;
    rustix::net::connect(&socket, &address)?;
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    Ok((socket, peer.pid.as_raw_nonzero().get()))
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The address of the socket in a directory. An address has room for 107 bytes (unix(7)), which a path may exceed; so
/// it goes through a descriptor of the directory, to be kept until the address was used.
fn address(directory: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    Ok((directory, address))
}
