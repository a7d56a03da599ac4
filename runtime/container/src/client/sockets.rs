//! Sockets that the supervisor makes in the networks of tasks.

use std::os::fd::OwnedFd;

use neargate_driver::{IpVersion, SandboxError, SocketKind};
use neargate_model::TaskId;

use super::{ATTEMPTS, Connection, gone, unexpected};
use crate::protocol::{Request, Response, SocketPlan};

impl Connection {
    /// Asks for a socket; one that a supervisor has made and not handed over went with it, so that the next one can be
    /// asked.
    pub(super) async fn socket(&self, task: &TaskId, kind: SocketKind) -> Result<OwnedFd, SandboxError> {
        let unavailable = |source| SandboxError::Unavailable { source };
        let request = Request::Socket { task: task.to_string(), socket: SocketPlan::of(kind) };
        for _ in 0..ATTEMPTS {
            let asked_of = self.attached();
            match self.call_for_fds(&request).await {
                Ok((_, (Response::Socket {}, fds))) => {
                    return fds.into_iter().next().ok_or_else(|| unavailable(unexpected()));
                }
                Ok((_, (Response::Failed { failure }, _))) => return Err(failure.into_sandbox()),
                Ok(_) => return Err(unavailable(unexpected())),
                Err(_) => self.wait_for_another(asked_of).await.map_err(unavailable)?,
            }
        }
        Err(unavailable(gone()))
    }
}

impl SocketPlan {
    fn of(kind: SocketKind) -> Self {
        match kind {
            SocketKind::Stream(version) => Self::Stream { is_v6: version == IpVersion::V6 },
            SocketKind::Datagram(version) => Self::Datagram { is_v6: version == IpVersion::V6 },
            SocketKind::Listener { port } => Self::Listener { port: port.into() },
        }
    }
}
