//! The network of a task's Wasm containers, which is made when the first of them wants a socket.
//!
//! ```text
//!  unasked ──first socket──▶ asked ──made──▶ made
//!     └────────────┴── the task ends ──┴──▶ ended
//! ```
//!
//! It is the sandbox of the task, the same that a Linux container of it has. A task that opens no socket has none, and
//! costs nothing here but this value.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use neargate_driver::{LookUpError, SandboxError, SandboxHost, SocketKind, TaskSockets};
use neargate_model::{PortMapping, PortProtocol, TaskSpec, Throttle};
use tokio::sync::Mutex;

use crate::{Parts, plan};

/// Sockets that a task may have made in a second, and at once: far above what a busy client needs, and a bound to the
/// work of the supervisor, which starts the containers of others meanwhile.
const SOCKETS_PER_S: f64 = 4096.0;

/// The network of one task that has an interface.
pub(crate) struct Sockets {
    parts: Arc<Parts>,
    host: Arc<dyn SandboxHost>,
    spec: Arc<TaskSpec>,
    /// Held while the sandbox is being made, so that it is made once, and not when it has been given back.
    state: Mutex<State>,
    throttle: std::sync::Mutex<Throttle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unasked,
    /// There may be a sandbox.
    Asked,
    Made,
    Ended,
}

impl Sockets {
    /// The network of a task; `None` of one that has no interface. Without root networks of tasks lead nowhere, and nobody
    /// from the host reaches them; there a handler is of more use at the host's port.
    pub(crate) fn new(parts: &Arc<Parts>, spec: &Arc<TaskSpec>) -> Option<Arc<Self>> {
        spec.network.as_ref()?;
        let host = parts.sandboxes.clone().filter(|host| host.has_groups())?;
        let throttle = std::sync::Mutex::new(Throttle::new(SOCKETS_PER_S, SOCKETS_PER_S, Instant::now()));
        let state = Mutex::new(State::Unasked);
        Some(Arc::new(Self { parts: parts.clone(), host, spec: spec.clone(), state, throttle }))
    }

    /// Listens at the ports of these mappings, for containers that do not do that themselves. Those of UDP are left to
    /// them: nothing but a program that opens its own socket answers there.
    pub(crate) async fn listen(&self, mappings: &[PortMapping]) -> Result<Vec<OwnedFd>, SandboxError> {
        let mut listeners = Vec::new();
        for mapping in mappings.iter().filter(|mapping| mapping.protocol == PortProtocol::Tcp) {
            listeners.push(self.make(SocketKind::Listener { port: mapping.container_port }).await?);
        }
        Ok(listeners)
    }

    /// Makes no sockets any more, and tells whether there may be a sandbox to give back.
    pub(crate) async fn end(&self) -> bool {
        let before = std::mem::replace(&mut *self.state.lock().await, State::Ended);
        matches!(before, State::Asked | State::Made)
    }

    async fn ready(&self) -> Result<(), SandboxError> {
        let mut state = self.state.lock().await;
        match *state {
            State::Made => Ok(()),
            State::Ended => Err(unavailable(std::io::ErrorKind::BrokenPipe)),
            State::Unasked | State::Asked => {
                *state = State::Asked;
                // Of a network for all containers it makes no difference which of them have a root.
                self.host.prepare(&plan::sandbox(&self.spec, true, |_| false)).await?;
                *state = State::Made;
                Ok(())
            }
        }
    }

    /// Has the sandbox looked for again by whoever wants the next socket.
    async fn doubt(&self) {
        let mut state = self.state.lock().await;
        if *state == State::Made {
            *state = State::Asked;
        }
    }

    fn admit(&self) -> bool {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }
}

#[async_trait]
impl TaskSockets for Sockets {
    async fn make(&self, kind: SocketKind) -> Result<OwnedFd, SandboxError> {
        if !self.admit() {
            return Err(unavailable(std::io::ErrorKind::QuotaExceeded));
        }
        self.ready().await?;
        let made = self.host.socket(&self.spec.id, kind).await;
        if made.is_err() {
            self.doubt().await;
        }
        made
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, LookUpError> {
        let (Some(names), Some(network)) = (&self.parts.names, &self.spec.network) else {
            return Err(LookUpError::NoAnswer);
        };
        match names.addresses(network.address, name).await {
            Some(found) if !found.is_empty() => Ok(found),
            Some(_) => Err(LookUpError::Unknown),
            None => Err(LookUpError::NoAnswer),
        }
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("task", &self.spec.id).finish_non_exhaustive()
    }
}

fn unavailable(kind: std::io::ErrorKind) -> SandboxError {
    SandboxError::Unavailable { source: kind.into() }
}
