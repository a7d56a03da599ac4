//! Messages on their way to the server.

use std::os::fd::OwnedFd;

use neargate_wasm::protocol::FromWorker;

/// A message and its descriptors.
pub(crate) struct Outgoing {
    pub(crate) message: FromWorker,
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether the worker ends when it has been sent: it cannot be trusted any more.
    pub(crate) then_end: bool,
}

impl From<FromWorker> for Outgoing {
    fn from(message: FromWorker) -> Self {
        Self { message, fds: Vec::new(), then_end: false }
    }
}
