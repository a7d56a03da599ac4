//! The standard streams of a run, as WASI sees them.
//!
//! Bytes go from the guest to the descriptor and back by `read(2)` and `write(2)` that never block; only
//! when the kernel says `EAGAIN` is the descriptor registered with the runtime and waited for, so a short
//! run makes no epoll calls at all. A full pipe therefore stops the guest and nobody else. Regular files
//! and devices that epoll does not know (`EPERM`, epoll_ctl(2)) are always ready, as they are to poll(2).
//!
//! `O_NONBLOCK` belongs to the open file description, which others may share: a shell its terminal, another
//! container its log pipe. So it is left as it is where the kernel lets us: see [`Manner`].

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use crate::budget::Account;
use bytes::{Buf, Bytes, BytesMut};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError};

/// The most bytes that are read, or taken for writing, at once; the capacity of a Linux pipe.
const CHUNK: usize = 64 * 1024;
/// The offset by which preadv2(2) and pwritev2(2) mean the current one.
const CURRENT_OFFSET: u64 = u64::MAX;

/// The most bytes that are written to a terminal at once. Its driver reports room long before it has much.
const TERMINAL_CHUNK: usize = 1024;

/// How a descriptor is read and written without blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As it is: a file, a device, or a description that has `O_NONBLOCK` already.
    Plain,
    /// `MSG_DONTWAIT`: a socket.
    Socket,
    /// `RWF_NOWAIT` (preadv2(2)): a pipe, until a kernel says that it does not know that for pipes, as before 6.5. It says
    /// so only of a transfer that moves something.
    NoWait,
    /// Only when poll(2) says that it is ready: a terminal.
    Polled,
}

/// A descriptor that is read or written without blocking.
struct Descriptor {
    fd: Arc<OwnedFd>,
    manner: Manner,
    /// Whether the kernel does not know `RWF_NOWAIT` for it, and it has `O_NONBLOCK` in its place.
    is_old: AtomicBool,
    terminal: bool,
    interest: Interest,
    /// Set when it was first waited for; `None` inside means that it is always ready.
    registered: OnceLock<Option<AsyncFd<Shared>>>,
}

struct Shared(Arc<OwnedFd>);

impl AsRawFd for Shared {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Descriptor {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(&fd);
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        let manner = match kind {
            FileType::Socket => Manner::Socket,
            _ if flags.contains(OFlags::NONBLOCK) => Manner::Plain,
            FileType::Fifo => Manner::NoWait,
            _ if terminal => Manner::Polled,
            _ => Manner::Plain,
        };
        let (is_old, registered) = (AtomicBool::new(false), OnceLock::new());
        Ok(Self { fd: Arc::new(fd), manner, is_old, terminal, interest, registered })
    }

    fn manner(&self) -> Manner {
        match self.manner {
            Manner::NoWait if self.is_old.load(Ordering::Relaxed) => Manner::Plain,
            manner => manner,
        }
    }

    /// Goes on without `RWF_NOWAIT` where a transfer has shown that the kernel does not know it; true if it is to be
    /// tried again.
    fn is_refused<T>(&self, tried: &io::Result<T>) -> io::Result<bool> {
        let errno = tried.as_ref().err().and_then(Errno::from_io_error);
        if !matches!(errno, Some(Errno::OPNOTSUPP | Errno::NOSYS)) {
            return Ok(false);
        }
        // An older kernel leaves nothing but to change what others may share.
        let flags = rustix::fs::fcntl_getfl(&self.fd)?;
        rustix::fs::fcntl_setfl(&self.fd, flags | OFlags::NONBLOCK)?;
        self.is_old.store(true, Ordering::Relaxed);
        Ok(true)
    }

    /// Reads what is there; an error of [`io::ErrorKind::WouldBlock`] when there is nothing yet.
    fn read(&self, size: usize) -> io::Result<Bytes> {
        let mut bytes: Vec<u8> = Vec::with_capacity(size.min(CHUNK));
        match self.manner() {
            Manner::Socket => {
                retry(|| rustix::net::recv(&self.fd, spare_capacity(&mut bytes), RecvFlags::DONTWAIT))?;
            }
            Manner::NoWait => {
                // preadv2 takes initialised memory; a pipe holds no more than this anyway.
                bytes.resize(size.min(CHUNK), 0);
                let read = retry(|| {
                    let mut buffers = [IoSliceMut::new(&mut bytes)];
                    preadv2(&self.fd, &mut buffers, CURRENT_OFFSET, ReadWriteFlags::NOWAIT)
                });
                if self.is_refused(&read)? {
                    return self.read(size);
                }
                bytes.truncate(read?);
            }
            Manner::Polled if !self.is_ready() => return Err(io::ErrorKind::WouldBlock.into()),
            Manner::Polled | Manner::Plain => {
                retry(|| rustix::io::read(&self.fd, spare_capacity(&mut bytes)))?;
            }
        };
        Ok(bytes.into())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.manner() {
            Manner::Socket => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                retry(|| rustix::net::send(&self.fd, bytes, flags))
            }
            Manner::NoWait => {
                let buffers = [IoSlice::new(bytes)];
                let written = retry(|| pwritev2(&self.fd, &buffers, CURRENT_OFFSET, ReadWriteFlags::NOWAIT));
                if self.is_refused(&written)? { self.write(bytes) } else { written }
            }
            Manner::Polled if !self.is_ready() => Err(io::ErrorKind::WouldBlock.into()),
            Manner::Polled => {
                retry(|| rustix::io::write(&self.fd, &bytes[..bytes.len().min(TERMINAL_CHUNK)]))
            }
            Manner::Plain => retry(|| rustix::io::write(&self.fd, bytes)),
        }
    }

    fn registration(&self) -> io::Result<Option<&AsyncFd<Shared>>> {
        if let Some(registered) = self.registered.get() {
            return Ok(registered.as_ref());
        }
        // Deprecated because a type whose descriptor changes would be unsound there, and its successor is an
        // unsafe function for it. `Shared` owns its descriptor and always returns the same, so the safe form
        // is right here and needs no unsafe block.
        #[allow(deprecated)]
        let registered = match AsyncFd::with_interest(Shared(Arc::clone(&self.fd)), self.interest) {
            Ok(registered) => Some(registered),
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => None,
            Err(error) => return Err(error),
        };
        Ok(self.registered.get_or_init(|| registered).as_ref())
    }

    /// Whether poll(2) says now that it is ready, at its end, or broken.
    fn is_ready(&self) -> bool {
        let wanted = if self.interest.is_readable() { PollFlags::IN } else { PollFlags::OUT };
        let now = rustix::event::Timespec::default();
        // A poll that fails has nothing to say; the read or write that follows tells the error.
        poll(&mut [PollFd::new(&*self.fd, wanted)], Some(&now)).map_or(true, |ready| ready > 0)
    }

    /// Waits until it is ready.
    async fn wait(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_wait(cx)).await
    }

    /// tokio's readiness may be stale. Asking the kernel after the guard was taken loses no event: one that
    /// comes in between makes `clear_ready` do nothing.
    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(registered) = self.registration()? else { return Poll::Ready(Ok(())) };
        loop {
            let mut guard = match self.interest.is_readable() {
                true => ready!(registered.poll_read_ready(cx))?,
                false => ready!(registered.poll_write_ready(cx))?,
            };
            if self.is_ready() {
                return Poll::Ready(Ok(()));
            }
            guard.clear_ready();
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Standard input.
#[derive(Clone)]
pub(crate) struct Input(Arc<Descriptor>);

impl Input {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(Arc::new(Descriptor::new(fd, Interest::READABLE)?)))
    }
}

impl IsTerminal for Input {
    fn is_terminal(&self) -> bool {
        self.0.terminal
    }
}

impl StdinStream for Input {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        // What is wrong, the next read tells.
        let _ = self.0.wait().await;
    }
}

#[async_trait::async_trait]
impl InputStream for Input {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.0.read(size) {
            Ok(bytes) if bytes.is_empty() => Err(StreamError::Closed),
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Bytes::new()),
            Err(error) => Err(StreamError::LastOperationFailed(error.into())),
        }
    }

    /// Reads before it waits, which is all there is to do while data keeps coming.
    async fn blocking_read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        loop {
            let bytes = self.read(size)?;
            if !bytes.is_empty() || size == 0 {
                return Ok(bytes);
            }
            self.0.wait().await.map_err(|error| StreamError::LastOperationFailed(error.into()))?;
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.0.read(buf.remaining()) {
                Ok(bytes) => {
                    buf.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_wait(cx))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Standard output or error. All streams made from it share one queue, so their bytes keep their order.
#[derive(Clone)]
pub(crate) struct Output(Arc<Sink>);

struct Sink {
    descriptor: Descriptor,
    queue: Mutex<Queue>,
    account: Account,
}

/// What the guest has written and the kernel has not taken yet.
#[derive(Default)]
struct Queue {
    bytes: BytesMut,
    /// How much of it is on the account.
    charged: usize,
    /// Why nothing can be written any more, until it has been told.
    error: Option<io::Error>,
    closed: bool,
}

impl Output {
    /// What waits to be written is charged to the account.
    pub(crate) fn new(fd: OwnedFd, account: Account) -> io::Result<Self> {
        let descriptor = Descriptor::new(fd, Interest::WRITABLE)?;
        Ok(Self(Arc::new(Sink { descriptor, queue: Mutex::default(), account })))
    }

    /// Adds a text of the host's own. It is left out while the reader is behind: what guests write goes first.
    pub(crate) fn note(&self, text: &str) {
        let mut queue = self.0.write_queue();
        if queue.bytes.is_empty() && !queue.closed {
            queue.bytes.extend_from_slice(text.as_bytes());
            drop(queue);
            drop(self.0.write_queue());
        }
    }

    /// Waits until the kernel has taken everything, or will take no more.
    pub(crate) async fn drain(&self) {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await;
    }

    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.0.write_queue().bytes.is_empty() {
                return Poll::Ready(());
            }
            if let Err(error) = ready!(self.0.descriptor.poll_wait(cx)) {
                self.0.lock().fail(error);
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.account.give_back(queue.charged as u64);
    }
}

impl Sink {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes as much of the queue as the kernel takes now.
    fn write_queue(&self) -> MutexGuard<'_, Queue> {
        let mut queue = self.lock();
        while !queue.bytes.is_empty() {
            match self.descriptor.write(&queue.bytes) {
                Ok(n) => queue.bytes.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => queue.fail(error),
            }
        }
        queue.settle(&self.account);
        queue
    }
}

impl Queue {
    /// Brings the account up to date.
    fn settle(&mut self, account: &Account) {
        match self.bytes.len().checked_sub(self.charged) {
            Some(more) => account.charge(more as u64),
            None => account.give_back((self.charged - self.bytes.len()) as u64),
        }
        self.charged = self.bytes.len();
    }

    fn fail(&mut self, error: io::Error) {
        self.bytes.clear();
        self.closed = true;
        // To a WASI guest a reader that is gone is the end of the stream, as EPIPE is to others.
        if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            self.error = Some(error);
        }
    }

    fn check(&mut self) -> Result<(), StreamError> {
        match (self.error.take(), self.closed) {
            (Some(error), _) => Err(StreamError::LastOperationFailed(error.into())),
            (None, true) => Err(StreamError::Closed),
            (None, false) => Ok(()),
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        self.0.descriptor.terminal
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.drain().await;
    }
}

#[async_trait::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        let mut queue = self.0.lock();
        queue.check()?;
        // `check_write` allows a chunk when nothing is queued; with two streams of one sink, twice.
        if bytes.len() > CHUNK || queue.bytes.len() >= CHUNK {
            return Err(StreamError::trap("write exceeds what check-write allowed"));
        }
        queue.bytes.extend_from_slice(&bytes);
        drop(queue);
        // An error of this very write is told here: wasmtime drops what `flush` says of a closed stream.
        self.0.write_queue().check()
    }

    /// There is nothing between the queue and the kernel; `check_write` waits for the queue.
    fn flush(&mut self) -> Result<(), StreamError> {
        self.0.write_queue().check()
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        let mut queue = self.0.write_queue();
        queue.check()?;
        Ok(if queue.bytes.is_empty() { CHUNK } else { 0 })
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx));
        loop {
            match self.0.descriptor.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.0.descriptor.poll_wait(cx))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
