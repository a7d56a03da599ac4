//! Commands in running containers, attended over an upgraded connection.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use neargate_wire::session::{
    FromClient, FromServer, HEAD_BYTES, INPUT_WINDOW_BYTES, PAYLOAD_BYTES_MAX, PROTOCOL, read_head,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, Semaphore};

use crate::client::Client;
use crate::error::Error;
use crate::native::Request;

type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// A command to run in a container of a running task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The container; needed where the task has several.
    pub container: Option<String>,
    /// `user[:group]` in place of the container's.
    pub user: Option<String>,
    /// Variables added to the container's environment.
    pub environment: Vec<(String, String)>,
    /// Whether standard input is sent.
    pub stdin: bool,
    /// Rows and columns of a terminal, if the command gets one in place of three streams.
    pub terminal: Option<(u16, u16)>,
}

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// It has written to standard output or to its terminal.
    Output(Vec<u8>),
    /// It has written to standard error.
    Errors(Vec<u8>),
    /// It has ended; the last event.
    Ended {
        /// The exit code, 128 + n after signal n; 125 if it could not be learned.
        code: i32,
        /// More about an abnormal end, for people; empty otherwise.
        reason: String,
    },
}

/// A command that runs. When this and its [`ExecInput`]s are dropped, the command is hung up.
#[derive(Debug)]
pub struct Exec {
    endpoint: String,
    reader: ReadHalf<Connection>,
    input: ExecInput,
}

/// What is sent to a command. Clones send to the same one.
#[derive(Clone, Debug)]
pub struct ExecInput {
    writer: Arc<Mutex<WriteHalf<Connection>>>,
    /// Bytes of standard input that may be sent.
    window: Arc<Semaphore>,
}

impl Client {
    /// Starts a command in a container of a running task, and returns when it runs.
    ///
    /// A program that does not exist or cannot be executed is [`Error::NotRun`].
    pub async fn exec(&self, arn: &str, request: &ExecRequest) -> Result<Exec, Error> {
        let ExecRequest { command, container, user, environment, stdin, terminal } = request;
        let environment: serde_json::Map<_, _> =
            environment.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let body = json!({
            "command": command,
            "container": container,
            "user": user,
            "environment": environment,
            "stdin": stdin,
            "terminal": terminal.map(|(rows, columns)| json!({ "rows": rows, "columns": columns })),
        });
        let request = Request::of_task("exec", arn, "/exec")?.upgrading(body.to_string(), PROTOCOL);
        let answer = self.exchange(&request).await?;
        let endpoint = self.config().endpoint();
        let upgraded = hyper::upgrade::on(answer).await.map_err(|source| Error::ExecLost {
            endpoint: endpoint.clone(),
            source: io::Error::other(source),
        })?;
        let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
        let window = Arc::new(Semaphore::new(INPUT_WINDOW_BYTES));
        Ok(Exec { endpoint, reader, input: ExecInput { writer: Arc::new(Mutex::new(writer)), window } })
    }
}

impl Exec {
    /// A way to send to the command.
    pub fn input(&self) -> ExecInput {
        self.input.clone()
    }

    /// What the command does next. The future must not be dropped before it is ready: what it has read by then would
    /// be lost.
    pub async fn next(&mut self) -> Result<ExecEvent, Error> {
        loop {
            let frame = self
                .frame()
                .await
                .map_err(|source| Error::ExecLost { endpoint: self.endpoint.clone(), source })?;
            match frame {
                FromServer::Output(bytes) => return Ok(ExecEvent::Output(bytes)),
                FromServer::Errors(bytes) => return Ok(ExecEvent::Errors(bytes)),
                FromServer::Ended { code, reason } => {
                    self.input.window.close();
                    return Ok(ExecEvent::Ended { code, reason });
                }
                // A server that gives back more than it got is held to what it may.
                FromServer::InputTaken(bytes) => {
                    let free = INPUT_WINDOW_BYTES.saturating_sub(self.input.window.available_permits());
                    self.input.window.add_permits(free.min(bytes as usize));
                }
            }
        }
    }

    async fn frame(&mut self) -> io::Result<FromServer> {
        let mut head = [0; HEAD_BYTES];
        self.reader.read_exact(&mut head).await?;
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let (kind, length) = read_head(head).map_err(invalid)?;
        let mut payload = vec![0; length];
        self.reader.read_exact(&mut payload).await?;
        FromServer::decode(kind, payload).map_err(invalid)
    }
}

impl ExecInput {
    async fn send(&self, frame: &FromClient) -> io::Result<()> {
        let mut writer = self.writer.lock().await;
        writer.write_all(&frame.encode()).await?;
        writer.flush().await
    }

    /// Sends bytes to the command's standard input. Waits while the command does not read; fails once it has ended.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(PAYLOAD_BYTES_MAX) {
            let count = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let permit = self.window.acquire_many(count).await;
            permit.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?.forget();
            self.send(&FromClient::Input(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Ends the command's standard input.
    pub async fn end(&self) -> io::Result<()> {
        self.send(&FromClient::InputEnd).await
    }

    /// Tells that the terminal has another size.
    pub async fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.send(&FromClient::Resize { rows, columns }).await
    }

    /// Sends a signal to the command's process group.
    pub async fn signal(&self, number: u8) -> io::Result<()> {
        self.send(&FromClient::Signal(number)).await
    }
}
