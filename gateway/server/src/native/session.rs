//! Carries the streams of a command over a connection, in the frames of [`neargate_wire::session`].
//!
//! Everything of a session happens in one task, so that nothing of it outlives it. It ends with the command, or when
//! the client is gone or sends what is no frame; dropping the command then ends it.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use neargate_model::Window;
use neargate_wire::session::{
    FromClient, FromServer, HEAD_BYTES, INPUT_WINDOW_BYTES, MalformedFrame, PAYLOAD_BYTES_MAX, read_head,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};

use super::exec::{CommandOutput, RunningCommand};

/// How long the change of protocols may take.
const UPGRADE_LIMIT: Duration = Duration::from_secs(10);

/// Frames that wait to be sent; a command whose output the client does not take is held up behind them.
const FRAMES_MAX: usize = 4;

/// How long is read on after the last frame. Closing a connection with unread input would cut that frame off.
const LINGER: Duration = Duration::from_secs(2);

/// The exit code of a command whose own could not be learned.
const EXIT_UNKNOWN: i32 = 125;

/// Why a session ended before its command.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("read from client")]
    Read(#[source] io::Error),
    #[error("read frame")]
    Frame(#[from] MalformedFrame),
    #[error("the client has sent more standard input than was taken from it")]
    Flood,
    #[error("write to client")]
    Write(#[source] io::Error),
}

/// A frame, and whether it is the last.
type Outgoing = (Vec<u8>, bool);

/// Standard input that the command has not taken.
#[derive(Default)]
struct Input {
    state: Mutex<InputState>,
    changed: Notify,
}

#[derive(Default)]
struct InputState {
    bytes: Vec<u8>,
    ended: bool,
}

/// Attends a command over an upgraded connection to its end.
pub(super) async fn attend(upgrade: OnUpgrade, command: Box<dyn RunningCommand>) {
    let upgraded = match tokio::time::timeout(UPGRADE_LIMIT, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(_)) | Err(_) => {
            tracing::debug!("the client of a command was gone before it began");
            return;
        }
    };
    if let Err(error) = relay(TokioIo::new(upgraded), &*command).await {
        tracing::debug!(error = neargate_model::chain(&error), "the client of a command is gone");
    }
}

async fn relay(
    connection: impl AsyncRead + AsyncWrite,
    command: &dyn RunningCommand,
) -> Result<(), SessionError> {
    let (mut reader, mut writer) = tokio::io::split(connection);
    let (frames, queue) = mpsc::channel(FRAMES_MAX);
    let input = Input::default();
    let result = tokio::select! {
        result = write_frames(&mut writer, queue) => result,
        error = read_frames(&mut reader, &input, command) => Err(error),
        never = feed(&input, command, &frames) => match never {},
        never = report(command, &frames) => match never {},
    };
    if result.is_ok() {
        // The client closes when it has the last frame.
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await;
    }
    result
}

/// Sends frames to the last one.
async fn write_frames(
    writer: &mut (impl AsyncWrite + Unpin),
    mut queue: mpsc::Receiver<Outgoing>,
) -> Result<(), SessionError> {
    while let Some((frame, is_last)) = queue.recv().await {
        writer.write_all(&frame).await.map_err(SessionError::Write)?;
        if is_last {
            break;
        }
    }
    writer.shutdown().await.map_err(SessionError::Write)
}

/// Takes what the client sends; returns why no more comes.
async fn read_frames(
    reader: &mut (impl AsyncRead + Unpin),
    input: &Input,
    command: &dyn RunningCommand,
) -> SessionError {
    loop {
        let frame = match read_frame(reader).await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        match frame {
            FromClient::Input(bytes) => {
                if !input.push(&bytes) {
                    return SessionError::Flood;
                }
            }
            FromClient::InputEnd => input.end(),
            FromClient::Resize { rows, columns } => command.resize(Window { rows, columns }),
            FromClient::Signal(number) => command.signal(number).await,
        }
    }
}

async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<FromClient, SessionError> {
    let mut head = [0; HEAD_BYTES];
    reader.read_exact(&mut head).await.map_err(SessionError::Read)?;
    let (kind, length) = read_head(head)?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.map_err(SessionError::Read)?;
    Ok(FromClient::decode(kind, payload)?)
}

impl Input {
    fn with<T>(&self, act: impl FnOnce(&mut InputState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes bytes over; false when the client has no right to send so many. After the end they are dropped.
    fn push(&self, bytes: &[u8]) -> bool {
        let fits = self.with(|state| {
            let fits = state.bytes.len() + bytes.len() <= INPUT_WINDOW_BYTES;
            if fits && !state.ended {
                state.bytes.extend_from_slice(bytes);
            }
            fits
        });
        self.changed.notify_one();
        fits
    }

    fn end(&self) {
        self.with(|state| state.ended = true);
        self.changed.notify_one();
    }
}

/// Gives the command its standard input, and tells the client how much was taken.
async fn feed(
    input: &Input,
    command: &dyn RunningCommand,
    frames: &mpsc::Sender<Outgoing>,
) -> std::convert::Infallible {
    let mut is_open = true;
    loop {
        input.changed.notified().await;
        let (bytes, ended) = input.with(|state| (std::mem::take(&mut state.bytes), state.ended));
        // What a command does not want, because it has closed its standard input, is dropped.
        for part in bytes.chunks(PAYLOAD_BYTES_MAX) {
            is_open = is_open && command.write(part).await.is_ok();
            let taken = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let _ = frames.send((FromServer::InputTaken(taken).encode(), false)).await;
        }
        if ended && is_open {
            is_open = false;
            command.end_input().await;
        }
    }
}

/// Sends what the command writes, and then its end.
async fn report(command: &dyn RunningCommand, frames: &mpsc::Sender<Outgoing>) -> std::convert::Infallible {
    let stdout = copy(command, CommandOutput::Stdout, FromServer::Output, frames);
    let stderr = copy(command, CommandOutput::Stderr, FromServer::Errors, frames);
    tokio::join!(stdout, stderr);
    let (code, reason) = command.wait().await;
    let ended = FromServer::Ended { code: code.unwrap_or(EXIT_UNKNOWN), reason: reason.unwrap_or_default() };
    let _ = frames.send((ended.encode(), true)).await;
    std::future::pending().await
}

async fn copy(
    command: &dyn RunningCommand,
    output: CommandOutput,
    frame: fn(Vec<u8>) -> FromServer,
    frames: &mpsc::Sender<Outgoing>,
) {
    let mut buffer = vec![0; PAYLOAD_BYTES_MAX];
    loop {
        match command.read(output, &mut buffer).await {
            Ok(0) => return,
            Ok(count) => {
                let _ = frames.send((frame(buffer[..count].to_vec()).encode(), false)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the output of a command cannot be read");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::io::DuplexStream;
    use tokio::sync::watch;

    use super::*;

    /// A command that gives back what it is written, but reads only once it got a signal.
    struct Slow {
        reads: watch::Sender<bool>,
        taken: Mutex<Vec<u8>>,
        ended: watch::Sender<bool>,
    }

    #[async_trait]
    impl RunningCommand for Slow {
        async fn read(&self, output: CommandOutput, buffer: &mut [u8]) -> io::Result<usize> {
            self.ended.subscribe().wait_for(|ended| *ended).await.map_err(io::Error::other)?;
            let mut taken = self.taken.lock().unwrap();
            if output == CommandOutput::Stderr || taken.is_empty() {
                return Ok(0);
            }
            let count = taken.len().min(buffer.len());
            buffer[..count].copy_from_slice(&taken[..count]);
            taken.drain(..count);
            Ok(count)
        }

        async fn write(&self, bytes: &[u8]) -> io::Result<()> {
            self.reads.subscribe().wait_for(|reads| *reads).await.map_err(io::Error::other)?;
            self.taken.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        }

        async fn end_input(&self) {
            self.ended.send_replace(true);
        }

        async fn signal(&self, number: u8) {
            assert_eq!(number, 10);
            self.reads.send_replace(true);
        }

        fn resize(&self, _window: Window) {}

        async fn wait(&self) -> (Option<i32>, Option<String>) {
            (Some(7), None)
        }
    }

    fn slow() -> Slow {
        Slow { reads: watch::Sender::new(false), taken: Mutex::default(), ended: watch::Sender::new(false) }
    }

    async fn receive(client: &mut DuplexStream) -> FromServer {
        let mut head = [0; HEAD_BYTES];
        client.read_exact(&mut head).await.unwrap();
        let (kind, length) = read_head(head).unwrap();
        let mut payload = vec![0; length];
        client.read_exact(&mut payload).await.unwrap();
        FromServer::decode(kind, payload).unwrap()
    }

    #[tokio::test]
    async fn a_signal_overtakes_input_that_nobody_reads() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let command = slow();
        let attend = async {
            let part = vec![b'x'; PAYLOAD_BYTES_MAX];
            for frame in [FromClient::Input(part.clone()), FromClient::Input(part), FromClient::Signal(10)] {
                client.write_all(&frame.encode()).await.unwrap();
            }
            client.write_all(&FromClient::InputEnd.encode()).await.unwrap();
            let (mut taken, mut shown) = (0, 0);
            loop {
                match receive(&mut client).await {
                    FromServer::InputTaken(bytes) => taken += bytes as usize,
                    FromServer::Output(bytes) => shown += bytes.len(),
                    FromServer::Errors(_) => panic!("it writes no errors"),
                    FromServer::Ended { code, .. } => break assert_eq!(code, 7),
                }
            }
            assert_eq!((taken, shown), (INPUT_WINDOW_BYTES, INPUT_WINDOW_BYTES));
            drop(client);
        };
        let (relayed, ()) = tokio::join!(relay(server, &command), attend);
        relayed.unwrap();
    }

    #[tokio::test]
    async fn clients_that_break_the_rules_are_cut_off() {
        let flood: Vec<u8> =
            (0..3).flat_map(|_| FromClient::Input(vec![0; PAYLOAD_BYTES_MAX]).encode()).collect();
        for (sent, expect) in [
            (flood, "more standard input"),
            (vec![0, 0xff, 0, 0, 0], "read frame"),
            (vec![99, 0, 0, 0, 0], "read frame"),
            (vec![0, 0], "read from client"),
            (vec![], "read from client"),
        ] {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            client.write_all(&sent).await.unwrap();
            drop(client);
            let error = relay(server, &slow()).await.unwrap_err();
            assert!(error.to_string().contains(expect), "{sent:?}: {error}");
        }
    }
}
