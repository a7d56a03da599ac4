//! What a caller can do with a started container.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use neargate_driver::{
    ExecError, ExecSpec, Exit, Handle, Session, SessionSpec, Signal, SignalError, StartError, Stats,
    StatsError, Stdio, UsageDetails,
};
use tokio::sync::oneshot;

use super::{Connection, Pending, Started, gone, session, unexpected};
use crate::failure::Failure;
use crate::protocol::{ExecPlan, Request, Response};

/// A started container.
pub(super) struct ContainerHandle {
    pub(super) connection: Arc<Connection>,
    pub(super) started: Arc<Started>,
}

#[async_trait]
impl Handle for ContainerHandle {
    async fn wait(&self) -> Exit {
        let mut ended = self.started.ended.subscribe();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some((exit, _))) => exit.clone(),
            // The sender is in `self`.
            _ => Exit { code: None, oom: false, reason: Some("its end was not told".to_owned()) },
        }
    }

    async fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        if self.started.ended.borrow().is_some() {
            return Ok(());
        }
        let request = Request::Signal { container: self.started.id.clone(), signal: number_of(signal)? };
        match self.connection.call(&request, &[]).await.map_err(|source| SignalError { source })? {
            Response::Done {} => Ok(()),
            Response::Failed { failure } => Err(failure.into_signal()),
            _ => Err(SignalError { source: unexpected() }),
        }
    }

    async fn stats(&self) -> Result<Stats, StatsError> {
        let at_end = || self.started.ended.borrow().as_ref().map(|(_, stats)| stats.clone());
        if let Some(stats) = at_end() {
            return Ok(stats);
        }
        let request = Request::Stats { container: self.started.id.clone() };
        match self.connection.call(&request, &[]).await.map_err(|source| StatsError { source })? {
            Response::Usage { stats } => Ok(stats),
            // It ended meanwhile; its exit was told before this answer.
            Response::Failed { failure: Failure::NotRunning {} } => Ok(at_end().unwrap_or_default()),
            Response::Failed { failure } => Err(failure.into_stats()),
            _ => Err(StatsError { source: unexpected() }),
        }
    }

    async fn usage_details(&self) -> Result<UsageDetails, StatsError> {
        if self.started.ended.borrow().is_some() {
            return Ok(UsageDetails::default());
        }
        let request = Request::UsageDetails { container: self.started.id.clone() };
        match self.connection.call(&request, &[]).await.map_err(|source| StatsError { source })? {
            Response::UsageDetails { details } => Ok(details),
            Response::Failed { failure: Failure::NotRunning {} } => Ok(UsageDetails::default()),
            Response::Failed { failure } => Err(failure.into_stats()),
            _ => Err(StatsError { source: unexpected() }),
        }
    }

    async fn exec(&self, spec: ExecSpec) -> Result<Exit, ExecError> {
        if self.started.ended.borrow().is_some() {
            return Err(ExecError::NotRunning);
        }
        let plan = ExecPlan {
            container: self.started.id.clone(),
            argv: spec.argv,
            env: spec.env,
            timeout_ms: u64::try_from(spec.timeout.as_millis()).unwrap_or(u64::MAX),
            has_stdio: spec.stdio.is_some(),
            user: None,
            attended: false,
            window: None,
        };
        let fds = match &spec.stdio {
            Some(Stdio { stdin, stdout, stderr, .. }) => vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            None => Vec::new(),
        };
        let unavailable = |source| ExecError::Start(StartError::Unavailable { source });
        let (reply, response) = oneshot::channel();
        let pending = Pending::Reply(reply);
        self.connection.send(&Request::Exec { plan }, &fds, pending).await.map_err(unavailable)?;
        match response.await.map_err(|_| unavailable(gone()))? {
            response @ Response::Executed { .. } => Ok(session::exit(&response)),
            Response::Failed { failure } => Err(failure.into_exec()),
            _ => Err(unavailable(unexpected())),
        }
    }

    async fn open(&self, spec: SessionSpec) -> Result<Box<dyn Session>, ExecError> {
        if self.started.ended.borrow().is_some() {
            return Err(ExecError::NotRunning);
        }
        session::open(&self.connection, &self.started.id, spec).await
    }
}

/// The number of a signal in requests, where 0 is the kill of all.
pub(super) fn number_of(signal: Signal) -> Result<i32, SignalError> {
    match signal {
        Signal::Kill | Signal::Stop(libc::SIGKILL) => Ok(0),
        Signal::Stop(signal @ 1..=64) => Ok(signal),
        Signal::Stop(_) => Err(SignalError { source: io::Error::from_raw_os_error(libc::EINVAL) }),
    }
}
