//! What control asks for from above: a clock, the state of the disk, and a way to its node.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use neargate_model::{Cidr, NodeCommand, PortProtocol, Region, Timestamp};

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

/// How much is left of the disk that holds the store and what tasks write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskRoom {
    /// Enough for new tasks.
    #[default]
    Ample,
    /// Too little for new tasks.
    Low,
    /// Next to nothing: what the store keeps for itself is for the ends of what there is.
    Full,
}

/// Measures the disk; asked whenever something is to be accepted.
pub trait Disk: Send + Sync + 'static {
    /// What is left now.
    fn room(&self) -> DiskRoom;
}

/// What control asks of the machine that it runs on.
#[derive(Clone)]
pub struct Host {
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// The disk of its store and its tasks.
    pub disk: Arc<dyn Disk>,
    /// Where every account has a default VPC from the start.
    pub region: Region,
    /// Blocks for default VPCs, the best first: addresses that it can route to its tasks. Each scope takes the first that
    /// no other one has.
    pub default_vpcs: Vec<Cidr>,
    /// Blocks for tasks under `bridge`, the best first; where there are none, such tasks have loopback only.
    pub bridge_blocks: Vec<Cidr>,
    /// Its ports.
    pub ports: Arc<dyn Ports>,
}

/// Looks at the ports of the host; asked whenever one is to lead to a container.
pub trait Ports: Send + Sync + 'static {
    /// Whether no other program has it, as far as can be told.
    fn is_free(&self, protocol: PortProtocol, port: u16) -> bool;
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
