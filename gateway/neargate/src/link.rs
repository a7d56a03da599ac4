//! The in-process link between control and the node: a bounded channel one way, a call the other.

use async_trait::async_trait;
use neargate_control::{Control, NodeLink, NodeLinkError};
use neargate_model::{NodeCommand, NodeReport};
use neargate_node::{PublishError, StatusSink};
use tokio::sync::mpsc;

/// Commands that wait for the node; control waits when it is full.
pub(crate) const COMMANDS_MAX: usize = 1024;

/// Control's end.
pub(crate) struct ChannelLink {
    pub(crate) commands: mpsc::Sender<NodeCommand>,
}

#[async_trait]
impl NodeLink for ChannelLink {
    async fn send(&self, command: NodeCommand) -> Result<(), NodeLinkError> {
        self.commands.send(command).await.map_err(|_| NodeLinkError)
    }
}

/// The node's end.
pub(crate) struct ControlSink {
    pub(crate) control: Control,
}

#[async_trait]
impl StatusSink for ControlSink {
    async fn publish(&self, report: NodeReport) -> Result<(), PublishError> {
        self.control.apply_report(&report).await.map_err(|source| PublishError { source: Box::new(source) })
    }
}
