//! Messages on their way to the server.

use std::os::fd::OwnedFd;

use neargate_wasm::protocol::FromWorker;

/// A message and its descriptors.
pub(crate) struct Outgoing {
    pub(crate) message: FromWorker,
    pub(crate) fds: Vec<OwnedFd>,
}

impl From<FromWorker> for Outgoing {
    fn from(message: FromWorker) -> Self {
        Self { message, fds: Vec::new() }
    }
}
