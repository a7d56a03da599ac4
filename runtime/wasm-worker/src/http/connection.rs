//! One client's connection: hyper in the middle, the limits of time around it.
//!
//! Slow clients are found by a sweep once a second over marks that the connection sets as it goes, so a
//! request pays for no timer. What is waited for, and how long:
//!
//! ```text
//!  idle ── first byte ──► head ── head is whole ──► serving ── response is out ──► idle
//!  60 s                   10 s                      │ the client's next part of the body   60 s
//!                                                   │ the client's taking the next part    60 s
//!                                                   │ a client that has hung up            10 s
//!                                                   └ the guest: no limit but its own
//! ```
//!
//! A client that has hung up is mostly noticed at once, by reading. hyper does not read while a guest leaves a
//! body alone, and such a guest is ended by the sweep.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Seconds that a kept connection waits for its next request.
const IDLE_S: u32 = 60;
/// Seconds from the first byte of a request until its head is whole.
const HEAD_S: u32 = 10;
/// Seconds that a client may take to send or to take the next part of a body.
const BODY_S: u32 = 60;
/// Seconds that a guest may go on with what a client had sent before it hung up.
const HANG_UP_S: u32 = 10;
/// How often connections are looked at.
pub(super) const SWEEP: Duration = Duration::from_secs(1);

/// A clock of whole seconds, moved on by the sweep.
#[derive(Default)]
pub(super) struct Seconds(AtomicU32);

impl Seconds {
    pub(super) fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Seconds since the clock was made, from 1: 0 stands for "not waiting".
    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed).saturating_add(1)
    }
}

/// A point in time since when something is waited for, or none.
#[derive(Default)]
struct Since(AtomicU32);

impl Since {
    fn set(&self, now: u32) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn is_older(&self, now: u32, seconds: u32) -> bool {
        let since = self.0.load(Ordering::Relaxed);
        since != 0 && now.saturating_sub(since) > seconds
    }
}

/// What a connection is doing. Atomics only because bodies have to be `Send`; one thread uses them.
pub(super) struct Marks {
    clock: Arc<Seconds>,
    /// Requests that the guest has and responses that are not out.
    serving: AtomicU32,
    idle: Since,
    head: Since,
    body: Since,
    write: Since,
    hung_up: Since,
    /// Set once the connection is to end after its present request.
    closing: AtomicBool,
    waker: std::sync::OnceLock<Waker>,
}

impl Marks {
    pub(super) fn new(clock: Arc<Seconds>) -> Arc<Self> {
        let marks = Self {
            serving: AtomicU32::new(0),
            idle: Since::default(),
            head: Since::default(),
            body: Since::default(),
            write: Since::default(),
            hung_up: Since::default(),
            closing: AtomicBool::new(false),
            waker: std::sync::OnceLock::new(),
            clock,
        };
        marks.idle.set(marks.clock.now());
        Arc::new(marks)
    }

    /// A request's head is whole. The mark goes with the response.
    pub(super) fn serve(self: &Arc<Self>) -> Serving {
        self.serving.fetch_add(1, Ordering::Relaxed);
        self.idle.clear();
        self.head.clear();
        Serving(Arc::clone(self))
    }

    /// The client's next part of a body is waited for, or is there.
    pub(super) fn body_is_awaited(&self, awaited: bool) {
        match awaited {
            true => self.body.set(self.clock.now()),
            false => self.body.clear(),
        }
    }

    /// Whether the client of a guest at work has closed its side, which costs a system call to find out.
    pub(super) fn look_at(&self, stream: &TcpStream) {
        let gone = self.serving.load(Ordering::Relaxed) > 0 && is_hung_up(stream);
        match gone {
            true => self.hung_up.set(self.clock.now()),
            false => self.hung_up.clear(),
        }
    }

    /// Whether the client has taken too long.
    pub(super) fn is_overdue(&self) -> bool {
        let now = self.clock.now();
        self.idle.is_older(now, IDLE_S)
            || self.head.is_older(now, HEAD_S)
            || self.body.is_older(now, BODY_S)
            || self.write.is_older(now, BODY_S)
            || self.hung_up.is_older(now, HANG_UP_S)
    }

    /// Asks the connection to end after its present request.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was asked to. Called by each poll of the connection's task.
    pub(super) fn is_closing(&self, cx: &Context<'_>) -> bool {
        // A task keeps its waker for life.
        self.waker.get_or_init(|| cx.waker().clone());
        self.closing.load(Ordering::Relaxed)
    }

    fn read_some(&self) {
        if self.serving.load(Ordering::Relaxed) == 0 {
            self.idle.clear();
            self.head.set(self.clock.now());
        }
    }
}

/// A request that is being served.
pub(super) struct Serving(Arc<Marks>);

impl Serving {
    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.0
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let marks = &self.0;
        if marks.serving.fetch_sub(1, Ordering::Relaxed) == 1 {
            marks.body.clear();
            marks.idle.set(marks.clock.now());
        }
    }
}

/// Whether the peer will send no more, or is gone (poll(2)).
fn is_hung_up(stream: &TcpStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// The socket, watched. The sweep has it as well.
pub(super) struct Watched {
    stream: Arc<TcpStream>,
    marks: Arc<Marks>,
}

impl Watched {
    pub(super) fn new(stream: Arc<TcpStream>, marks: Arc<Marks>) -> Self {
        Self { stream, marks }
    }

    /// Writes when there is room.
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    self.marks.write.set(self.marks.clock.now());
                    return Poll::Pending;
                }
            }
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => {
                    self.marks.write.clear();
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read_buf(buf) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {
                    self.marks.read_some();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |stream| stream.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// There is nothing between us and the kernel.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.stream, Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(clock: &Seconds, count: u32) {
        for _ in 0..count {
            clock.tick();
        }
    }

    #[test]
    fn each_wait_has_an_end() {
        let clock = Arc::new(Seconds::default());
        let marks = Marks::new(Arc::clone(&clock));
        seconds(&clock, IDLE_S);
        assert!(!marks.is_overdue());
        seconds(&clock, 1);
        assert!(marks.is_overdue(), "nothing was ever sent");

        marks.read_some();
        seconds(&clock, HEAD_S);
        marks.read_some();
        assert!(!marks.is_overdue());
        seconds(&clock, 1);
        assert!(marks.is_overdue(), "more bytes do not buy a slow head time");

        let serving = marks.serve();
        seconds(&clock, 10 * BODY_S);
        assert!(!marks.is_overdue(), "the guest may take its time");
        marks.body_is_awaited(true);
        seconds(&clock, BODY_S);
        marks.body_is_awaited(true);
        assert!(!marks.is_overdue());
        seconds(&clock, 1);
        assert!(marks.is_overdue(), "the body has stalled");
        marks.body_is_awaited(false);
        assert!(!marks.is_overdue());
        marks.write.set(clock.now());
        seconds(&clock, BODY_S + 1);
        assert!(marks.is_overdue(), "the client takes nothing");
        marks.write.clear();
        marks.hung_up.set(clock.now());
        seconds(&clock, HANG_UP_S);
        assert!(!marks.is_overdue());
        seconds(&clock, 1);
        assert!(marks.is_overdue(), "nobody waits for the answer");
        marks.hung_up.clear();

        drop(serving);
        seconds(&clock, IDLE_S);
        assert!(!marks.is_overdue());
        seconds(&clock, 1);
        assert!(marks.is_overdue(), "no next request");
    }
}
