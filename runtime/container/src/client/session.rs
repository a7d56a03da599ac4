//! Commands that somebody attends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{
    ExecError, Exit, Session, SessionSpec, SessionStreams, Signal, SignalError, StartError, Stdio,
};
use neargate_ipc::channel;
use neargate_ipc::wire::encode;
use neargate_model::Window;
use rustix::termios::{Winsize, tcsetwinsize};
use std::sync::atomic::Ordering;
use tokio::sync::{oneshot, watch};

use super::handle::number_of;
use super::{Connection, Pending, Shared, gone, unexpected};
use crate::protocol::{ExecPlan, Request, Response};

/// An attended command as the receiving thread knows it.
#[derive(Debug)]
pub(super) struct Attended {
    /// Taken when the start is answered.
    started: Option<oneshot::Sender<(Response, Vec<OwnedFd>)>>,
    ended: watch::Sender<Option<Exit>>,
}

impl Attended {
    /// Takes an answer; returns itself if another one will come.
    pub(super) fn take(
        mut self,
        shared: &Shared,
        id: u64,
        response: Response,
        fds: Vec<OwnedFd>,
    ) -> Option<Self> {
        match (self.started.take(), response) {
            (Some(started), response @ Response::Attended {}) => {
                if started.send((response, fds)).is_err() {
                    // Nobody attends it. What cannot be sent now ends at its timeout, or with its container.
                    let kill = encode(&Request::SignalCommand { command: id, signal: 0 });
                    let _ = channel::send(shared.link().as_fd(), 0, &kill, &[], false);
                }
                return Some(self);
            }
            (Some(started), response) => drop(started.send((response, fds))),
            (None, response) => {
                self.ended.send_replace(Some(exit(&response)));
            }
        }
        None
    }
}

/// How a command ended.
pub(super) fn exit(response: &Response) -> Exit {
    let (code, reason) = match response {
        Response::Executed { code: Some(code) } => (Some(*code), None),
        Response::Executed { code: None } => (None, Some("it took too long and was killed")),
        _ => (None, Some("the supervisor told something else than its end")),
    };
    Exit { code, oom: false, reason: reason.map(str::to_owned) }
}

struct AttendedCommand {
    connection: Arc<Connection>,
    id: u64,
    ended: watch::Receiver<Option<Exit>>,
    terminal: Option<OwnedFd>,
}

/// Starts a command in a container and waits until it runs.
pub(super) async fn open(
    connection: &Arc<Connection>,
    container: &str,
    spec: SessionSpec,
) -> Result<Box<dyn Session>, ExecError> {
    let unavailable = |source| ExecError::Start(StartError::Unavailable { source });
    let (stdio, window) = match &spec.streams {
        SessionStreams::Stdio(stdio) => (Some(stdio), None),
        SessionStreams::Terminal(window) => (None, Some((window.rows, window.columns))),
    };
    let plan = ExecPlan {
        container: container.to_owned(),
        argv: spec.argv,
        env: spec.env,
        timeout_ms: u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX),
        has_stdio: stdio.is_some(),
        user: spec.user,
        attended: true,
        window,
    };
    let fds = match stdio {
        Some(Stdio { stdin, stdout, stderr, .. }) => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        None => Vec::new(),
    };
    let ((started, answer), (end, ended)) = (oneshot::channel(), watch::channel(None));
    let id = connection.next_id.fetch_add(1, Ordering::Relaxed);
    let pending = Pending::Attend(Attended { started: Some(started), ended: end });
    connection.send_as(id, &Request::Exec { plan }, &fds, pending).await.map_err(unavailable)?;
    match answer.await.map_err(|_| unavailable(gone()))? {
        (Response::Attended {}, mut fds) if window.is_some() == (fds.len() == 1) => {
            let connection = Arc::clone(connection);
            Ok(Box::new(AttendedCommand { connection, id, ended, terminal: fds.pop() }))
        }
        (Response::Failed { failure }, _) => Err(failure.into_exec()),
        _ => Err(unavailable(unexpected())),
    }
}

#[async_trait]
impl Session for AttendedCommand {
    async fn wait(&self) -> Exit {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(exit)) => exit.clone(),
            _ => Exit { code: None, oom: false, reason: Some(gone().to_string()) },
        }
    }

    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        if self.ended.borrow().is_some() {
            return Ok(());
        }
        let request = Request::SignalCommand { command: self.id, signal: number_of(signal)? };
        match self.connection.call(&request, &[]).await.map_err(|source| SignalError { source })? {
            Response::Done {} => Ok(()),
            Response::Failed { failure } => Err(failure.into_signal()),
            _ => Err(SignalError { source: unexpected() }),
        }
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    fn resize(&self, Window { rows, columns }: Window) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        match &self.terminal {
            Some(terminal) => Ok(tcsetwinsize(terminal, size)?),
            None => Ok(()),
        }
    }
}
