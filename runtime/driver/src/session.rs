//! Commands in running containers that somebody attends.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use async_trait::async_trait;
use neargate_model::Window;

use crate::{Exit, Signal, SignalError, Stdio};

/// A command to start inside a running container.
#[derive(Debug)]
pub struct SessionSpec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables added to the container's environment.
    pub env: Vec<(String, String)>,
    /// `user[:group]`; the container's own when there is none.
    pub user: Option<String>,
    /// What it reads and writes.
    pub streams: SessionStreams,
    /// How long it may take; it is killed after that, and [`Exit::code`] is `None`.
    pub timeout: Duration,
}

/// What a command reads and writes.
#[derive(Debug)]
pub enum SessionStreams {
    /// Three streams, owned by the command once it has started.
    Stdio(Stdio),
    /// A terminal of this size, made in the container, which controls the command's session (tty_ioctl(4)).
    Terminal(Window),
}

/// A command that was started. Dropping this ends nothing.
#[async_trait]
pub trait Session: Send + Sync {
    /// Waits for the command's end and tells it; may be called any number of times and may be cancelled.
    async fn wait(&self) -> Exit;

    /// Delivers a signal to the command's process group, as a terminal does; [`Signal::Kill`] ends every process
    /// of its session (credentials(7)). A command that has ended already is not an error.
    async fn signal(&self, signal: Signal) -> Result<(), SignalError>;

    /// Our end of the command's terminal, if it has one.
    fn terminal(&self) -> Option<BorrowedFd<'_>>;

    /// Changes the size of the terminal; its foreground processes get SIGWINCH. Without one this does nothing.
    fn resize(&self, window: Window) -> io::Result<()>;
}
