//! Commands that people run in running containers.
//!
//! A session changes nothing of its task's status, so it does not go through the task's loop; the loop only says
//! which containers run.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use neargate_driver::{
    ExecError, Exit, Handle, Session, SessionSpec, SessionStreams, Signal, SignalError, Stats, StatsError,
    Stdio, UsageDetails,
};
use neargate_model::{Command, ContainerId, Window, chain};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Commands that may be attended at a time on this node.
pub const SESSIONS_MAX: usize = 128;

/// How long a command may take altogether.
const SESSION_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a command whose caller has gone may take to end before it is killed.
const HANG_UP_LIMIT: Duration = Duration::from_secs(5);

/// What terminals send when they are hung up.
const SIGHUP: i32 = 1;

/// What a terminal takes for the end of input (termios(3), VEOF).
const END_OF_INPUT: [u8; 1] = [4];

/// Why no command was started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The container does not run on this node, or not yet, or no longer.
    #[error("container is not running")]
    NotRunning,
    /// Too many are attended already.
    #[error("{SESSIONS_MAX} commands are attended already")]
    TooMany,
    /// The driver could not start it.
    #[error(transparent)]
    Exec(ExecError),
    /// A stream could not be made.
    #[error("make streams of command")]
    Stream(#[source] io::Error),
    /// The start ended unexpectedly.
    #[error("internal error: the start of the command ended unexpectedly")]
    Internal,
}

/// Why it is not known what a container has used.
#[derive(Debug, thiserror::Error)]
pub enum UsageUnknown {
    /// The container does not run on this node, or not yet, or no longer.
    #[error("container is not running")]
    NotRunning,
    /// The driver could not read it.
    #[error(transparent)]
    Stats(StatsError),
}

/// Which output of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output, or all of a terminal's.
    Stdout,
    /// Standard error; a command on a terminal has none.
    Stderr,
}

/// The running containers of this node, for those who run commands in them. Clones share them.
#[derive(Clone)]
pub struct Sessions {
    running: Arc<Mutex<HashMap<ContainerId, Arc<dyn Handle>>>>,
    permits: Arc<Semaphore>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { running: Arc::default(), permits: Arc::new(Semaphore::new(SESSIONS_MAX)) }
    }
}

/// A command that somebody attends. When this is dropped, a command that has not ended gets SIGHUP, and SIGKILL
/// for its whole session if it does not heed that.
pub struct AttendedCommand {
    session: Arc<dyn Session>,
    stdin: tokio::sync::Mutex<Option<Arc<pipe::Sender>>>,
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Sessions {
    fn running(&self) -> MutexGuard<'_, HashMap<ContainerId, Arc<dyn Handle>>> {
        // Every critical section is one call, so a panic elsewhere spoils nothing.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells that a container runs.
    pub(crate) fn put(&self, container: ContainerId, handle: Arc<dyn Handle>) {
        self.running().insert(container, handle);
    }

    /// Tells that a container has ended.
    pub(crate) fn remove(&self, container: &ContainerId) {
        self.running().remove(container);
    }

    /// What a running container has used so far.
    pub async fn stats(&self, container: &ContainerId) -> Result<Stats, UsageUnknown> {
        let handle = self.running().get(container).cloned().ok_or(UsageUnknown::NotRunning)?;
        handle.stats().await.map_err(UsageUnknown::Stats)
    }

    /// The same in more detail.
    pub async fn usage_details(&self, container: &ContainerId) -> Result<UsageDetails, UsageUnknown> {
        let handle = self.running().get(container).cloned().ok_or(UsageUnknown::NotRunning)?;
        handle.usage_details().await.map_err(UsageUnknown::Stats)
    }

    /// Starts a command in a container, and returns when it runs.
    pub async fn open(
        &self,
        container: &ContainerId,
        command: Command,
    ) -> Result<AttendedCommand, SessionError> {
        let handle = self.running().get(container).cloned().ok_or(SessionError::NotRunning)?;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| SessionError::TooMany)?;
        // By itself, so that a caller who goes away meanwhile leaves no command that nobody attends.
        let opened = tokio::spawn(async move { start(handle, permit, command).await });
        opened.await.map_err(|_| SessionError::Internal)?
    }
}

async fn start(
    handle: Arc<dyn Handle>,
    permit: OwnedSemaphorePermit,
    command: Command,
) -> Result<AttendedCommand, SessionError> {
    let Command { argv, env, user, stdin: wants_stdin, window } = command;
    let spec = |streams| SessionSpec { argv, env, user, streams, timeout: SESSION_LIMIT };
    let Some(window) = window else {
        let (stdin, ours_in) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (ours_out, stdout) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (ours_err, stderr) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (ours_in, ours_out, ours_err) = (sender(ours_in)?, receiver(ours_out)?, receiver(ours_err)?);
        let stdio = Stdio { stdin, stdout, stderr, readers: None };
        let session = handle.open(spec(SessionStreams::Stdio(stdio))).await.map_err(SessionError::Exec)?;
        return Ok(AttendedCommand {
            session: session.into(),
            // One that is not wanted is closed now.
            stdin: tokio::sync::Mutex::new(wants_stdin.then(|| Arc::new(ours_in))),
            stdout: ours_out,
            stderr: Some(ours_err),
            permit: Some(permit),
        });
    };
    let opened = handle.open(spec(SessionStreams::Terminal(window))).await.map_err(SessionError::Exec)?;
    let session: Arc<dyn Session> = opened.into();
    match ends_of_terminal(&*session) {
        Ok((stdout, stdin)) => {
            let stdin = tokio::sync::Mutex::new(wants_stdin.then(|| Arc::new(stdin)));
            Ok(AttendedCommand { session, stdin, stdout, stderr: None, permit: Some(permit) })
        }
        Err(error) => {
            hang_up(session).await;
            Err(error)
        }
    }
}

fn failed(error: impl Into<io::Error>) -> SessionError {
    SessionError::Stream(error.into())
}

/// Our end of a terminal, once for reading and once for writing.
fn ends_of_terminal(session: &dyn Session) -> Result<(pipe::Receiver, pipe::Sender), SessionError> {
    let terminal =
        session.terminal().ok_or_else(|| failed(io::Error::other("the driver made no terminal")))?;
    let clone = || terminal.try_clone_to_owned().map_err(failed);
    Ok((receiver(clone()?)?, sender(clone()?)?))
}

impl AttendedCommand {
    /// Reads what the command writes; 0 at the end. All that a command has written before it ended is read, and
    /// nothing is waited for that its descendants may write later.
    pub async fn read(&self, output: Output, buffer: &mut [u8]) -> io::Result<usize> {
        let stream = match (output, &self.stderr) {
            (Output::Stdout, _) => &self.stdout,
            (Output::Stderr, Some(stderr)) => stderr,
            (Output::Stderr, None) => return Ok(0),
        };
        let read = loop {
            let ready = tokio::select! {
                ready = stream.readable() => ready,
                // All that it has written is there by now, whether the runtime has heard of it or not.
                _ = self.session.wait() => break nix::unistd::read(stream, buffer).map_err(io::Error::from),
            };
            match ready.and_then(|()| stream.try_read(buffer)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other,
            }
        };
        match read {
            // A terminal without another end (EIO), or a pipe with nothing more in it.
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Writes to the command's standard input and returns when it has taken everything. Without one, or after its
    /// end, the bytes are dropped.
    pub async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = self.stdin.lock().await.clone() else { return Ok(()) };
        while !bytes.is_empty() {
            stream.writable().await?;
            match stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the command's standard input; at a terminal, by the character that stands for that.
    pub async fn end_input(&self) {
        if self.session.terminal().is_some() {
            // One that takes nothing more has ended.
            let _ = self.write(&END_OF_INPUT).await;
        }
        *self.stdin.lock().await = None;
    }

    /// Delivers a signal to the command's process group.
    pub async fn signal(&self, number: i32) -> Result<(), SignalError> {
        self.session.signal(Signal::Stop(number)).await
    }

    /// Changes the size of the terminal, if there is one.
    pub fn resize(&self, window: Window) -> io::Result<()> {
        self.session.resize(window)
    }

    /// Waits for the command's end.
    pub async fn wait(&self) -> Exit {
        self.session.wait().await
    }
}

impl Drop for AttendedCommand {
    fn drop(&mut self) {
        let (session, permit) = (self.session.clone(), self.permit.take());
        // Without a runtime the server ends, and the containers with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                hang_up(session).await;
                drop(permit);
            });
        }
    }
}

/// Ends a command that nobody attends any more; does nothing to one that has ended.
async fn hang_up(session: Arc<dyn Session>) {
    let signal = async |signal| {
        if let Err(error) = session.signal(signal).await {
            tracing::warn!(error = chain(&error), "a command that nobody attends was not ended");
        }
    };
    signal(Signal::Stop(SIGHUP)).await;
    if tokio::time::timeout(HANG_UP_LIMIT, session.wait()).await.is_err() {
        signal(Signal::Kill).await;
    }
}

/// An end that never blocks us. A terminal is read and written as a pipe is.
fn receiver(fd: OwnedFd) -> Result<pipe::Receiver, SessionError> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    pipe::Receiver::from_owned_fd_unchecked(fd).map_err(failed)
}

fn sender(fd: OwnedFd) -> Result<pipe::Sender, SessionError> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    pipe::Sender::from_owned_fd_unchecked(fd).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use async_trait::async_trait;
    use neargate_driver::{ExecSpec, Stats, StatsError};
    use tokio::sync::{mpsc, watch};

    use super::*;

    /// A container in which every command runs until it is killed.
    struct Deaf {
        signals: mpsc::Sender<Signal>,
    }

    struct DeafSession {
        signals: mpsc::Sender<Signal>,
        ended: watch::Sender<bool>,
        _stdio: SessionStreams,
    }

    #[async_trait]
    impl Handle for Deaf {
        async fn wait(&self) -> Exit {
            std::future::pending().await
        }

        async fn signal(&self, _signal: Signal) -> Result<(), SignalError> {
            Ok(())
        }

        async fn stats(&self) -> Result<Stats, StatsError> {
            Ok(Stats::default())
        }

        async fn exec(&self, _spec: ExecSpec) -> Result<Exit, ExecError> {
            Err(ExecError::NotRunning)
        }

        async fn open(&self, spec: SessionSpec) -> Result<Box<dyn Session>, ExecError> {
            // Starting takes a moment, in which the caller may go away.
            tokio::task::yield_now().await;
            let (signals, ended) = (self.signals.clone(), watch::Sender::new(false));
            Ok(Box::new(DeafSession { signals, ended, _stdio: spec.streams }))
        }
    }

    #[async_trait]
    impl Session for DeafSession {
        async fn wait(&self) -> Exit {
            let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
            Exit::code(137)
        }

        async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
            self.ended.send_replace(signal == Signal::Kill);
            self.signals.try_send(signal).map_err(|e| SignalError { source: io::Error::other(e) })
        }

        fn terminal(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn resize(&self, _window: Window) -> io::Result<()> {
            Ok(())
        }
    }

    fn sessions() -> (Sessions, ContainerId, mpsc::Receiver<Signal>) {
        let (signals, told) = mpsc::channel(2 * SESSIONS_MAX);
        let id = ContainerId::new("00000000-0000-4000-8000-000000000000").unwrap();
        let sessions = Sessions::default();
        sessions.put(id.clone(), Arc::new(Deaf { signals }));
        (sessions, id, told)
    }

    fn command() -> Command {
        Command { argv: vec!["sleep".to_owned()], env: vec![], user: None, stdin: true, window: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_without_a_caller_is_hung_up_and_then_killed() {
        let (sessions, id, mut told) = sessions();
        drop(sessions.open(&id, command()).await.unwrap());
        assert_eq!(told.recv().await, Some(Signal::Stop(SIGHUP)));
        assert_eq!(told.recv().await, Some(Signal::Kill));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_while_it_starts_leaves_no_command() {
        let (sessions, id, mut told) = sessions();
        let impatient = tokio::time::timeout(Duration::ZERO, sessions.open(&id, command())).await;
        assert!(impatient.is_err(), "the start took no time");
        assert_eq!(told.recv().await, Some(Signal::Stop(SIGHUP)));
        assert_eq!(told.recv().await, Some(Signal::Kill));
    }

    #[tokio::test(start_paused = true)]
    async fn commands_are_bounded_until_they_have_ended() {
        let (sessions, id, mut told) = sessions();
        let mut open = Vec::new();
        for _ in 0..SESSIONS_MAX {
            open.push(sessions.open(&id, command()).await.unwrap());
        }
        let more = sessions.open(&id, command()).await.map(drop);
        assert!(matches!(more, Err(SessionError::TooMany)), "{more:?}");
        open.pop();
        while told.recv().await != Some(Signal::Kill) {}
        // Its place is free once the task that has killed it is done.
        let again = async {
            loop {
                match sessions.open(&id, command()).await {
                    Err(SessionError::TooMany) => tokio::task::yield_now().await,
                    other => break other,
                }
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(1), again).await.is_ok_and(|opened| opened.is_ok()));
    }

    #[tokio::test]
    async fn containers_that_have_ended_run_nothing() {
        let (sessions, id, _told) = sessions();
        sessions.remove(&id);
        let refused = sessions.open(&id, command()).await.map(drop);
        assert!(matches!(refused, Err(SessionError::NotRunning)), "{refused:?}");
    }
}
