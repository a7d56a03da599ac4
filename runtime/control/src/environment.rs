//! What control asks for from above: a clock, and a way to its node.

use std::time::SystemTime;

use async_trait::async_trait;
use neargate_model::{NodeCommand, Timestamp};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// The way to the node: a channel on one machine, a stream on many.
#[async_trait]
pub trait NodeLink: Send + Sync + 'static {
    /// Hands a command over. An error means that the node will not get it; control tells it again when the
    /// node is back, because the store knows what should be.
    async fn send(&self, command: NodeCommand) -> Result<(), NodeLinkError>;
}

/// The node cannot be told anything now.
#[derive(Debug, thiserror::Error)]
#[error("reach the node")]
pub struct NodeLinkError;
