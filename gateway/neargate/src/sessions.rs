//! The in-process way from the gateway to commands in the node's containers.

use std::io;

use async_trait::async_trait;
use neargate_driver::{ExecError, StartError};
use neargate_model::{Command, ContainerId, Window, chain};
use neargate_node::{AttendedCommand, Output, SessionError, Sessions};
use neargate_server::{CommandError, CommandOutput, Commands, RunningCommand};

/// The gateway's end.
pub(crate) struct NodeSessions(pub(crate) Sessions);

struct NodeCommand(AttendedCommand);

#[async_trait]
impl Commands for NodeSessions {
    async fn start(
        &self,
        container: &ContainerId,
        command: Command,
    ) -> Result<Box<dyn RunningCommand>, CommandError> {
        match self.0.open(container, command).await {
            Ok(command) => Ok(Box::new(NodeCommand(command))),
            Err(error) => Err(explain(error)),
        }
    }
}

fn explain(error: SessionError) -> CommandError {
    let text = chain(&error);
    match error {
        SessionError::NotRunning | SessionError::Exec(ExecError::NotRunning) => CommandError::NotRunning,
        SessionError::TooMany => CommandError::TooMany(text),
        SessionError::Exec(ExecError::Unsupported { .. }) => CommandError::Unsupported(text),
        SessionError::Exec(ExecError::Start(error)) => match &error {
            StartError::NotFound { .. } => CommandError::NotFound(error.to_string()),
            StartError::NotExecutable { .. }
            | StartError::UnknownUser { .. }
            | StartError::InvalidImage { .. } => CommandError::NotExecutable(error.to_string()),
            StartError::Unsupported { .. } => CommandError::Unsupported(error.to_string()),
            StartError::Mount { .. } | StartError::System { .. } | StartError::Unavailable { .. } => {
                tracing::error!(error = text, "a command was not started");
                CommandError::Failed(text)
            }
        },
        SessionError::Stream(_) | SessionError::Internal => {
            tracing::error!(error = text, "a command was not started");
            CommandError::Failed(text)
        }
    }
}

#[async_trait]
impl RunningCommand for NodeCommand {
    async fn read(&self, output: CommandOutput, buffer: &mut [u8]) -> io::Result<usize> {
        let output = match output {
            CommandOutput::Stdout => Output::Stdout,
            CommandOutput::Stderr => Output::Stderr,
        };
        self.0.read(output, buffer).await
    }

    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes).await
    }

    async fn end_input(&self) {
        self.0.end_input().await;
    }

    async fn signal(&self, number: u8) {
        if let Err(error) = self.0.signal(i32::from(number)).await {
            tracing::debug!(error = chain(&error), "a signal for a command was not delivered");
        }
    }

    fn resize(&self, window: Window) {
        if let Err(error) = self.0.resize(window) {
            tracing::debug!(%error, "a terminal was not resized");
        }
    }

    async fn wait(&self) -> (Option<i32>, Option<String>) {
        let exit = self.0.wait().await;
        (exit.code, exit.reason)
    }
}
