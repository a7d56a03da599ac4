//! The socket to the server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdSocket;

use neargate_ipc::channel;
use neargate_ipc::wire::{self, Malformed};
use neargate_wasm::protocol::ToWorker;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use super::Outgoing;
use super::runs::Runs;

/// Why the conversation ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The socket failed.
    #[error("talk to the server")]
    Socket(#[from] io::Error),
    /// The server said what is no message.
    #[error("read a message of the server")]
    Malformed(#[from] Malformed),
    /// A message came without its descriptors, or with others.
    #[error("a message of the server has {found} descriptors, not {expected}")]
    Descriptors {
        /// How many there are.
        found: usize,
        /// How many its plan says.
        expected: usize,
    },
    /// The worker's own code panicked; what it holds may be broken.
    #[error("the worker panicked")]
    Panicked,
}

/// The worker's end.
pub(crate) struct Control(UnixDatagram);

impl Control {
    /// tokio has no type for `SOCK_SEQPACKET`. Of the one for datagrams only the readiness is used, which is the
    /// same; bytes and descriptors go through [`channel`].
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = StdSocket::from(socket);
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket).map(Self)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Receives until the server closes its end.
    pub(crate) async fn receive_all(&self, mut runs: Runs) -> Result<(), ControlError> {
        let mut buffer = Vec::new();
        loop {
            let received = self
                .0
                .async_io(Interest::READABLE, || channel::receive(self.fd(), &mut buffer, false))
                .await?;
            let Some(frame) = received else { return Ok(()) };
            let message: ToWorker = wire::decode(&frame.message)?;
            runs.take(message, frame.fds).await?;
        }
    }

    /// Sends what is queued, until nobody can queue any more or the server has gone.
    pub(crate) async fn send_all(&self, mut queue: mpsc::Receiver<Outgoing>) -> Result<(), ControlError> {
        while let Some(Outgoing { message, fds, then_end }) = queue.recv().await {
            let bytes = wire::encode(&message);
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            let send = || channel::send(self.fd(), 0, &bytes, &fds, false);
            match self.0.async_io(Interest::WRITABLE, send).await {
                Ok(()) if then_end => return Err(ControlError::Panicked),
                Ok(()) => {}
                // The same end as one that is noticed while receiving.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
