//! Attaching to a supervisor that outlives its servers, and to the next one when it is killed.

use std::collections::{HashMap, HashSet};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use neargate_ipc::channel;
use neargate_ipc::wire::{decode, encode};

use crate::config::SupervisorConfig;
use crate::failure::Failure;
use crate::protocol::{End, Request, Response};
use crate::spawn::{self, SpawnError, Tenure};
use crate::steward::{self, Post, Succession};
use crate::{supervisor, sys};

/// Name of the file that a living server has locked.
const LOCK: &str = "server.lock";
/// How long a supervisor is waited for: it starts in milliseconds, and finds a thousand containers in less than two
/// seconds.
const WAIT: Duration = Duration::from_secs(20);
/// How soon it is looked for again.
const PAUSE: Duration = Duration::from_millis(2);
/// How long an older supervisor may take to end the commands of the server before.
const RENEW_WAIT: Duration = Duration::from_secs(5);
/// How long the parent of a container whose supervisor was killed may take to reap it.
const REAP_WAIT: Duration = Duration::from_secs(1);

/// Where the supervisor is found.
#[derive(Debug)]
pub(super) struct SeatClient {
    directory: PathBuf,
    setup: Vec<u8>,
    /// Stewards start supervisors as long as this is open.
    steward: Mutex<Option<OwnedFd>>,
    /// What it takes to replace the steward, until somebody takes it.
    succession: Mutex<Option<Succession>>,
    /// Keeps other servers off.
    _lock: File,
}

/// What a supervisor tells of itself.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) sandboxes: HashSet<String>,
    pub(super) containers: HashMap<String, Found>,
    build: String,
}

/// A container that was there already.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) task: String,
    pub(super) end: Option<End>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) readers: Option<[OwnedFd; 2]>,
}

/// Attaches to the supervisor of a directory, which is started if there is none.
pub(super) fn attach(
    config: &SupervisorConfig,
    directory: &Path,
) -> Result<(SeatClient, OwnedFd, Snapshot), SpawnError> {
    spawn::check_threads()?;
    // A container takes some ten descriptors of the supervisor and three of the server, and shells give them 1,024 of
    // those that they may have. A container's own limits are set by themselves.
    let files = sys::own_hard_limit(libc::RLIMIT_NOFILE);
    if let Err(error) = sys::prlimit(0, libc::RLIMIT_NOFILE, files, files) {
        tracing::warn!(%error, "the limit of open files stays low, and with it the number of containers");
    }
    let seat_error = |source| SpawnError::Seat { directory: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o711).create(directory).map_err(seat_error)?;
    let lock = lock(directory).map_err(seat_error)?;
    let program = spawn::seal_own_binary().map_err(SpawnError::Seal)?;
    let build = spawn::build();
    let (server_uid, allowed) = (config.server_uid(), config.allowed());
    let is_root = rustix::process::geteuid().is_root();
    // In the realm of an ordinary user that user is root.
    let tenure = Tenure { server_uid: if is_root { server_uid } else { 0 }, build: build.clone(), allowed };
    neargate_failpoint::reach("container::attach::before");
    let present = supervisor::connect(directory).ok();
    let copy = program.try_clone().map_err(SpawnError::Seal)?;
    let (post, ours) = Post::new(copy, directory, tenure.clone()).map_err(SpawnError::Socket)?;
    let steward = steward::fork(&post)?;
    let setup = encode(&Request::Setup { setup: config.to_setup() });
    let seat = SeatClient {
        directory: directory.to_owned(),
        setup,
        steward: Mutex::new(Some(ours)),
        // The launcher of an ordinary user is in a user namespace of its own, from which no other one can be entered.
        succession: Mutex::new(is_root.then_some(Succession { post, steward })),
        _lock: lock,
    };
    let (socket, snapshot) = match present {
        Some((socket, pid)) => seat.take_over(socket, pid, &program, &build),
        None => seat.reattach(),
    }
    .map_err(seat_error)?;
    if server_uid != rustix::process::geteuid().as_raw() {
        // From here on this connection, too, has no more rights than the user who will hold it.
        let resign = encode(&Request::Resign { server_uid, allowed: tenure.allowed.clone() });
        channel::send(socket.as_fd(), 0, &resign, &[], true).map_err(seat_error)?;
    }
    neargate_failpoint::reach("container::attach::after");
    Ok((seat, socket, snapshot))
}

/// Takes the place of the directory's server: two would take the supervisor from each other. The kernel gives it back
/// when this process is gone; those that it forks close their copies first.
fn lock(directory: &Path) -> io::Result<File> {
    let file =
        File::options().write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another server uses this data directory; end it first, or name another directory",
        )),
        other => other.map(|()| file).map_err(io::Error::from),
    }
}

impl SeatClient {
    /// Attaches to a supervisor of an earlier server. One that executes another program than this server executes
    /// this one from now on; one that cannot is killed, and what it had is found by its successor.
    fn take_over(
        &self,
        socket: OwnedFd,
        pid: i32,
        program: &OwnedFd,
        build: &str,
    ) -> io::Result<(OwnedFd, Snapshot)> {
        let until = Instant::now() + RENEW_WAIT;
        let mut socket = socket;
        loop {
            match self.greet(&socket) {
                Ok(snapshot) if snapshot.build == build => return Ok((socket, snapshot)),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the supervisor does not answer as this version does"),
            }
            let renew = encode(&Request::Renew { build: build.to_owned() });
            if channel::send(socket.as_fd(), 0, &renew, &[program.as_fd()], true).is_err() {
                // It is gone already.
                return self.reattach();
            }
            // Answered only if it cannot be done; else the connection ends with the program.
            let is_renewed =
                channel::receive(socket.as_fd(), &mut Vec::new(), true).is_ok_and(|frame| frame.is_none());
            if is_renewed {
                return self.reattach();
            }
            if until <= Instant::now() {
                tracing::warn!(
                    pid,
                    "the supervisor is of another version and cannot be renewed; it is replaced"
                );
                sys::kill(pid, libc::SIGKILL)?;
                return self.reattach();
            }
            std::thread::sleep(PAUSE);
            socket = self.connect(until)?;
        }
    }

    /// Ends the steward, so that no other supervisor takes the place of this one.
    pub(super) fn dismiss_steward(&self) {
        drop(self.steward.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// What it takes to replace the steward. Only the first one gets it.
    pub(super) fn take_succession(&self) -> Option<Succession> {
        self.succession.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Attaches to the supervisor that is there, or will be soon.
    pub(super) fn reattach(&self) -> io::Result<(OwnedFd, Snapshot)> {
        let until = Instant::now() + WAIT;
        loop {
            let socket = self.connect(until)?;
            match self.greet(&socket) {
                Ok(snapshot) => return Ok((socket, snapshot)),
                // It ends just now, or is killed again.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe && Instant::now() < until => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn connect(&self, until: Instant) -> io::Result<OwnedFd> {
        loop {
            match supervisor::connect(&self.directory) {
                Ok((socket, _)) => return Ok(socket),
                Err(_) if Instant::now() < until => std::thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    /// Says what this server is, and hears what there is. A supervisor that can run nothing has nothing, and tells why
    /// to whoever asks it for something.
    fn greet(&self, socket: &OwnedFd) -> io::Result<Snapshot> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(socket, Timeout::Recv, Some(WAIT))?;
        let snapshot = self.ask_for_all(socket)?;
        set_socket_timeout(socket, Timeout::Recv, None)?;
        Ok(snapshot)
    }

    fn ask_for_all(&self, socket: &OwnedFd) -> io::Result<Snapshot> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        // What it has to say to people, it says where this server does.
        let stderr = io::stderr();
        channel::send(socket.as_fd(), 0, &self.setup, &[stderr.as_fd()], true).map_err(|_| gone())?;
        let (mut snapshot, mut buffer) = (Snapshot::default(), Vec::new());
        loop {
            let mut frame = channel::receive(socket.as_fd(), &mut buffer, true)?.ok_or_else(gone)?;
            let response = decode::<Response>(&frame.message).map_err(io::Error::other)?;
            match response {
                Response::Sandbox { task } => drop(snapshot.sandboxes.insert(task)),
                Response::Found { container, task, end, readers } => {
                    let pidfd = if end.is_none() { frame.fds.pop() } else { None };
                    let readers = if readers { frame.fds.try_into().ok() } else { None };
                    snapshot.containers.insert(container, Found { task, end, pidfd, readers });
                }
                Response::Attached { build } => return Ok(Snapshot { build, ..snapshot }),
                Response::Failed { failure: Failure::System { errno: libc::EPROTO, .. } } => {
                    return Err(io::Error::from_raw_os_error(libc::EPROTO));
                }
                Response::Failed { .. } => return Ok(Snapshot { build: spawn::build(), ..snapshot }),
                // An end that came while this was told; what follows tells it, too.
                _ => {}
            }
        }
    }
}

/// The exit code of a container that nobody watches any more, from its pidfd.
pub(super) fn exit_code(pidfd: &OwnedFd) -> Option<i32> {
    let until = Instant::now() + REAP_WAIT;
    loop {
        match sys::pidfd_exit_code(pidfd.as_fd()) {
            Ok(Some(code)) => return Some(code),
            Ok(None) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => return None,
        }
    }
}
