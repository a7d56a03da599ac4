//! Where a container's streams go: the log store, line by line.
//!
//! The node owns the reading end of each pipe. One small task a stream cuts what arrives into lines and
//! hands them to the log store. A full buffer there makes the container wait, as `awslogs` does in its
//! blocking mode, or drops lines and counts them when the definition says non-blocking.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use async_trait::async_trait;
use neargate_driver::Stdio;
use neargate_model::{LogConfiguration, Scope, TaskSpec, Timestamp};
use neargate_telemetry::{Appended, Create, LogStore, StreamWriter};
use nix::fcntl::OFlag;
use tokio::net::unix::pipe;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes read from a container's pipe at once: few until it writes more, then what the kernel's pipe holds.
const READ_BYTES: (usize, usize) = (4 << 10, 64 << 10);

/// A line longer than this is cut: CloudWatch Logs takes events of at most 256 KiB.
const LINE_BYTES_MAX: usize = 256 << 10;

/// How long output is still read after a container's end: all its processes are gone by then, so what is
/// left is in the pipe.
const DRAIN: Duration = Duration::from_secs(5);

/// The standard streams of one container, and what serves them.
pub struct ContainerStdio {
    /// The container's ends.
    pub stdio: Stdio,
    /// The tasks that read the other ends; they end when the container has closed its own.
    pub pumps: JoinSet<()>,
}

impl ContainerStdio {
    /// Waits until all output has been taken, within a bound.
    pub(crate) async fn drain(pumps: &mut JoinSet<()>) {
        let all = async { while pumps.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::warn!("output of a container was not taken in time; the rest is lost");
        }
    }
}

/// Why the standard streams of a container could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open {what} of container {container}")]
pub struct StdioError {
    /// What was being opened.
    pub what: String,
    /// The container's name.
    pub container: String,
    /// The cause.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Opens the standard streams of containers.
#[async_trait]
pub trait StdioSource: Send + Sync + 'static {
    /// Opens the streams of one container, named by its index in the task.
    fn open(&self, spec: &TaskSpec, container: usize) -> Result<ContainerStdio, StdioError>;

    /// Opens the streams of a container that may outlive this process: with [`Stdio::readers`], if that is wanted.
    fn open_lasting(&self, spec: &TaskSpec, container: usize) -> Result<ContainerStdio, StdioError> {
        self.open(spec, container)
    }

    /// Goes on reading the output of a container that has outlived another process.
    fn resume(
        &self,
        spec: &TaskSpec,
        container: usize,
        readers: [OwnedFd; 2],
    ) -> Result<JoinSet<()>, StdioError>;

    /// Returns once all that was taken from containers can be read back.
    async fn flush(&self);
}

/// Streams that end in the log store.
pub struct LogStdio {
    store: LogStore,
    now: fn() -> Timestamp,
    /// Tells the readers to stop, and counts them.
    stopping: CancellationToken,
    readers: TaskTracker,
}

impl LogStdio {
    /// Streams into this store, stamped by this clock.
    pub fn new(store: LogStore, now: fn() -> Timestamp) -> Self {
        Self { store, now, stopping: CancellationToken::new(), readers: TaskTracker::new() }
    }

    /// Stops reading and returns once all that was read is in the store. What containers write after that waits in their
    /// pipes for the next server.
    pub async fn close(&self) {
        self.stopping.cancel();
        self.readers.close();
        self.readers.wait().await;
    }

    /// Reads a pipe's end into a stream.
    fn read(&self, pumps: &mut JoinSet<()>, ours: pipe::Receiver, writer: LineWriter) {
        let pump = pump(ours, writer, self.now, self.stopping.clone());
        pumps.spawn(self.readers.track_future(pump));
    }

    fn writer(&self, spec: &TaskSpec, container: usize) -> Result<LineWriter, StdioError> {
        let definition = &spec.shape.containers[container];
        let log = definition.log.as_ref();
        let scope = log_scope(spec, log);
        let (group, stream) = (log_group(spec, container), log_stream(spec, container));
        // A group of the definition's own must exist unless it asks for its creation, as with awslogs;
        // the default group belongs to nobody else.
        let create = match log {
            Some(log) if !log.create_group => Create::Stream,
            Some(_) | None => Create::GroupAndStream,
        };
        let stream =
            self.store.open_writer(&scope, &group, &stream, create).map_err(|source| StdioError {
                what: format!("log group {group}"),
                container: definition.name.to_string(),
                source: Box::new(source),
            })?;
        Ok(LineWriter { stream, may_drop: log.is_some_and(|log| log.non_blocking) })
    }
}

/// Hands lines to a stream, making the container wait or dropping when the store's queue is full.
#[derive(Clone)]
struct LineWriter {
    stream: StreamWriter,
    may_drop: bool,
}

impl LineWriter {
    async fn append(&self, at: Timestamp, line: &[u8]) {
        // A dropped line is counted by the store; a deleted stream takes nothing any more.
        let (Appended::Queued | Appended::Dropped | Appended::Closed) = match self.may_drop {
            true => self.stream.append(at, line),
            false => self.stream.append_async(at, line).await,
        };
    }
}

/// The scope whose log group is meant: the definition may name another region.
fn log_scope(spec: &TaskSpec, log: Option<&LogConfiguration>) -> Scope {
    let region = log.and_then(|log| log.region.as_deref());
    let region = region.and_then(|region| neargate_model::Region::new(region).ok());
    Scope { account: spec.scope.account.clone(), region: region.unwrap_or_else(|| spec.scope.region.clone()) }
}

/// The log group of containers whose definition names none.
pub fn default_group(cluster: &neargate_model::ClusterName) -> String {
    format!("/neargate/{cluster}")
}

/// The log group of a container.
pub fn log_group(spec: &TaskSpec, container: usize) -> String {
    match &spec.shape.containers[container].log {
        Some(log) => log.group.clone(),
        None => default_group(&spec.cluster),
    }
}

/// The log stream of a container: `prefix/container/task-id`, as ECS names it.
pub fn log_stream(spec: &TaskSpec, container: usize) -> String {
    let definition = &spec.shape.containers[container];
    let prefix = definition.log.as_ref().map_or(spec.family.as_str(), |log| log.stream_prefix.as_str());
    format!("{prefix}/{}/{}", definition.name, spec.id)
}

#[async_trait]
impl StdioSource for LogStdio {
    async fn flush(&self) {
        self.store.flush_async().await;
    }

    fn open(&self, spec: &TaskSpec, container: usize) -> Result<ContainerStdio, StdioError> {
        let writer = self.writer(spec, container)?;
        let mut pumps = JoinSet::new();
        let mut stream = |what: &str| -> Result<OwnedFd, StdioError> {
            let (read, write) = output_pipe().map_err(|source| failed(spec, container, what, source))?;
            let ours = receiver(read).map_err(|source| failed(spec, container, what, source))?;
            self.read(&mut pumps, ours, writer.clone());
            Ok(write)
        };
        let (stdout, stderr) = (stream("stdout")?, stream("stderr")?);
        let stdin = File::open("/dev/null").map_err(|source| failed(spec, container, "stdin", source))?;
        Ok(ContainerStdio { stdio: Stdio { stdin: stdin.into(), stdout, stderr, readers: None }, pumps })
    }

    fn open_lasting(&self, spec: &TaskSpec, container: usize) -> Result<ContainerStdio, StdioError> {
        let writer = self.writer(spec, container)?;
        let mut pumps = JoinSet::new();
        let mut stream = |what: &str| -> Result<(OwnedFd, OwnedFd), StdioError> {
            let opened = output_pipe()
                .and_then(|(read, write)| Ok((read.try_clone()?, receiver(read)?, both_ways(&write)?)));
            let (copy, ours, theirs) = opened.map_err(|source| failed(spec, container, what, source))?;
            self.read(&mut pumps, ours, writer.clone());
            Ok((theirs, copy))
        };
        let ((stdout, out), (stderr, err)) = (stream("stdout")?, stream("stderr")?);
        let stdin = File::open("/dev/null").map_err(|source| failed(spec, container, "stdin", source))?;
        let stdio = Stdio { stdin: stdin.into(), stdout, stderr, readers: Some([out, err]) };
        Ok(ContainerStdio { stdio, pumps })
    }

    fn resume(
        &self,
        spec: &TaskSpec,
        container: usize,
        readers: [OwnedFd; 2],
    ) -> Result<JoinSet<()>, StdioError> {
        let writer = self.writer(spec, container)?;
        let mut pumps = JoinSet::new();
        for reader in readers {
            let ours = receiver(reader).map_err(|source| failed(spec, container, "output", source))?;
            self.read(&mut pumps, ours, writer.clone());
        }
        Ok(pumps)
    }
}

fn failed(spec: &TaskSpec, container: usize, what: &str, source: io::Error) -> StdioError {
    let container = spec.shape.containers[container].name.to_string();
    StdioError { what: what.to_owned(), container, source: Box::new(source) }
}

/// A pipe whose writing end a container may have.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// The reading end, which never blocks us.
fn receiver(read: OwnedFd) -> io::Result<pipe::Receiver> {
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    pipe::Receiver::from_owned_fd(read)
}

/// The writing end, opened for reading, too: its holder does not get SIGPIPE when there is no other reader, but waits
/// for one when the pipe is full (pipe(7), fifo(7)).
fn both_ways(write: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    Ok(File::options().read(true).write(true).open(path)?.into())
}

/// Reads until the container has closed the pipe, or until it is told to stop. A stream that was deleted meanwhile takes
/// nothing any more; the container must not block on it, so reading goes on.
async fn pump(pipe: pipe::Receiver, writer: LineWriter, now: fn() -> Timestamp, stopping: CancellationToken) {
    let mut lines = Lines::default();
    // Many containers never write, and have none.
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            ready = pipe.readable() => if ready.is_err() { break },
        }
        buffer.resize(buffer.len().max(READ_BYTES.0), 0);
        match pipe.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let at = now();
                for line in lines.feed(&buffer[..count]) {
                    writer.append(at, &line).await;
                }
                if count == buffer.len() {
                    buffer.resize(READ_BYTES.1, 0);
                }
            }
        }
    }
    if let Some(rest) = lines.finish() {
        writer.append(now(), &rest).await;
    }
}

/// Cuts a stream of bytes into lines without their ends.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.ends_with(b"\n") {
                self.rest.pop();
                if self.rest.ends_with(b"\r") {
                    self.rest.pop();
                }
                lines.push(std::mem::take(&mut self.rest));
            }
            while self.rest.len() > LINE_BYTES_MAX {
                let tail = self.rest.split_off(LINE_BYTES_MAX);
                lines.push(std::mem::replace(&mut self.rest, tail));
            }
        }
        lines
    }

    fn finish(self) -> Option<Vec<u8>> {
        (!self.rest.is_empty()).then_some(self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], expect: &[&str], rest: Option<&str>) {
        let mut lines = Lines::default();
        let fed: Vec<_> = pieces.iter().flat_map(|piece| lines.feed(piece.as_bytes())).collect();
        let fed: Vec<_> = fed.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        assert_eq!(fed, expect);
        let finished = lines.finish().map(|rest| String::from_utf8_lossy(&rest).into_owned());
        assert_eq!(finished.as_deref(), rest);
    }

    #[test]
    fn lines() {
        check(&["a\nb\n"], &["a", "b"], None);
        check(&["a", "b\n", "c"], &["ab"], Some("c"));
        check(&["a\r\n\n"], &["a", ""], None);
        check(&[""], &[], None);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        let long = vec![b'x'; LINE_BYTES_MAX + 10];
        let fed = lines.feed(&long);
        assert_eq!(fed.iter().map(Vec::len).collect::<Vec<_>>(), vec![LINE_BYTES_MAX]);
        assert_eq!(lines.finish().map(|rest| rest.len()), Some(10));
    }
}
