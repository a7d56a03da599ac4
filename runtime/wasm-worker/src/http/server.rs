//! Accepting connections, and ending them.
//!
//! The worker processes of a tenant, one per core, accept from the same listening sockets: no proxy in
//! between, and no hop. The kernel wakes all that wait, and the first to come gets the connection; the others
//! are told that there is none, which costs them a microsecond per connection. A worker accepts one connection
//! at a time and then lets all others of its tasks have a turn, so the one that has less to do comes first, and
//! a connection is never queued behind a guest while another core is idle. That alone is not enough when many
//! connections come at once, as one worker may take all before the scheduler lets the next one run; so a worker
//! that takes more than it had lately pauses after each ([`Pace`]). The two ways of the kernel to
//! choose by itself are worse here: `SO_REUSEPORT` spreads connections by a hash, whether a worker has time for
//! them or not, and `EPOLLEXCLUSIVE` wakes the same worker again and again (epoll(7) keeps the waiters in a
//! last-in, first-out order).

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::connection::{Marks, SWEEP, Seconds, Watched};
use super::request::Calls;

/// Connections of one run in one worker. Others wait in the kernel until one ends.
const CONNECTIONS_MAX: usize = 4096;
/// The longest head of a request, in bytes. Larger ones are answered with 431.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How much of a body is read ahead of the guest, in bytes.
const BUFFER_BYTES_MAX: usize = 128 << 10;
/// How long a worker leaves the next connection to others when it has more than lately. A few of the scheduler's
/// slices pass meanwhile; clients that connect again for each request are not slowed.
const PACE: Duration = Duration::from_millis(2);
/// With more connections than this they spread well enough by chance.
const PACED_MAX: usize = 64;
/// How long to wait when the process has no descriptor or memory for another connection.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// What the sweep knows of a connection.
struct Open {
    marks: Arc<Marks>,
    /// Gone with the connection's task, which must not wait for the sweep to close it.
    stream: Weak<TcpStream>,
    task: AbortHandle,
}

/// When to leave connections to other workers.
#[derive(Default)]
struct Pace {
    /// The most connections at a time, halved every second.
    lately: usize,
}

impl Pace {
    /// Whether a worker that now has so many connections has more than lately.
    fn is_growth(&mut self, connections: usize) -> bool {
        let growth = connections > self.lately;
        self.lately = self.lately.max(connections);
        growth && connections <= PACED_MAX
    }

    fn tick(&mut self) {
        self.lately /= 2;
    }
}

/// The connections of a run.
pub(super) struct Server {
    calls: Arc<Calls>,
    http: http1::Builder,
    clock: Arc<Seconds>,
    connections: JoinSet<()>,
    open: Vec<Open>,
    pace: Pace,
    /// Whether the sockets were taken out of service by another worker, which was told to stop before this one.
    is_refused: bool,
}

impl Server {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        let mut http = http1::Builder::new();
        // No timer: slow heads are found by the sweep. hyper takes up to 100 header fields.
        http.max_header_size(HEAD_BYTES_MAX).max_buf_size(BUFFER_BYTES_MAX).header_read_timeout(None);
        let clock = Arc::new(Seconds::default());
        let (connections, open) = (JoinSet::new(), Vec::new());
        Self { calls, http, clock, connections, open, pace: Pace::default(), is_refused: false }
    }

    /// Accepts until the run is asked to stop, then lets the requests that are being served finish.
    pub(super) async fn run(mut self, listeners: Vec<TcpListener>) {
        let context = Arc::clone(self.calls.context());
        listeners.iter().for_each(|listener| context.watch(listener.as_fd()));
        let mut sweep = tokio::time::interval(SWEEP);
        let mut stopped = std::pin::pin!(context.stop().requested());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                _ = sweep.tick() => self.sweep(),
                Some(ended) = self.connections.join_next() => self.connection_ended(ended),
                accepted = accept(&listeners), if self.may_accept() => {
                    self.accepted(accepted).await;
                }
            }
        }
        refuse(listeners);
        self.open.iter().for_each(|open| open.marks.close());
        while !self.connections.is_empty() {
            tokio::select! {
                _ = sweep.tick() => self.sweep(),
                Some(ended) = self.connections.join_next() => self.connection_ended(ended),
            }
        }
        self.calls.finished().await;
    }

    fn may_accept(&self) -> bool {
        !self.is_refused && self.connections.len() < CONNECTIONS_MAX
    }

    async fn accepted(&mut self, accepted: io::Result<TcpStream>) {
        match accepted {
            Ok(stream) => {
                self.serve(stream);
                match self.pace.is_growth(self.connections.len()) {
                    true => tokio::time::sleep(PACE).await,
                    false => tokio::task::yield_now().await,
                }
            }
            // The client has gone before we came (accept(2)).
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Not listening (accept(2)): what `refuse` of another worker does. Our own end comes next.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.is_refused = true,
            Err(error) => {
                self.calls.context().log(&format!("neargate: accept a connection: {error}\n"));
                tokio::time::sleep(EXHAUSTED_WAIT).await;
            }
        }
    }

    fn serve(&mut self, stream: TcpStream) {
        // Parts of a response are written when the guest writes them, not when there is more (RFC 896). It fails
        // for a connection that is gone, which reading will tell.
        let _ = stream.set_nodelay(true);
        self.calls.context().watch(stream.as_fd());
        let marks = Marks::new(Arc::clone(&self.clock));
        let stream = Arc::new(stream);
        let of_sweep = Arc::downgrade(&stream);
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&marks)));
        let (calls, of_requests) = (Arc::clone(&self.calls), Arc::clone(&marks));
        let service = service_fn(move |request| {
            let answer = Arc::clone(&calls).answer(Arc::clone(&of_requests), request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = self.http.serve_connection(io, service);
        let of_task = Arc::clone(&marks);
        let task = self.connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let mut closing = false;
            // Errors are the client's: what it sent is not HTTP, or it is gone.
            let _ = std::future::poll_fn(|cx| {
                if of_task.is_closing(cx) && !std::mem::replace(&mut closing, true) {
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(cx)
            })
            .await;
        });
        self.open.push(Open { marks, stream: of_sweep, task });
    }

    fn sweep(&mut self) {
        self.clock.tick();
        self.pace.tick();
        self.calls.sweep();
        self.open.retain(|Open { marks, stream, task }| {
            if let Some(stream) = stream.upgrade() {
                marks.look_at(&stream);
            }
            if marks.is_overdue() {
                task.abort();
            }
            !task.is_finished()
        });
    }

    fn connection_ended(&mut self, ended: Result<(), JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            self.calls.context().log("neargate: a connection was ended by a panic of the worker\n");
        }
        // The list follows by the sweep; clients that connect for each request must not outgrow it before.
        if self.open.len() > 2 * self.connections.len() + 1024 {
            self.open.retain(|open| !open.task.is_finished());
        }
    }
}

/// Ends listening for good. The server and the workers of other cores hold the same sockets, so that closing them
/// here would let clients connect that nobody answers. Linux takes a listening socket that is shut down out of
/// service for all who hold it, and refuses clients at once (`tcp_disconnect` in its `inet_shutdown`).
fn refuse(listeners: Vec<TcpListener>) {
    for listener in &listeners {
        // What fails is out of service already: another worker was faster.
        let _ = rustix::net::shutdown(listener, Shutdown::Both);
    }
}

/// A connection from any of the sockets.
async fn accept(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    std::future::poll_fn(|cx| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    })
    .await
}

/// Takes over a listening socket. It may be shared with other processes, which non-blocking mode is as well.
pub(super) fn listener(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = StdListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_growth_is_paced() {
        let mut pace = Pace::default();
        assert!((1..=16).all(|connections| pace.is_growth(connections)));
        assert!((1..=16).all(|connections| !pace.is_growth(connections)), "it had as many a moment ago");
        pace.tick();
        assert!(!pace.is_growth(8) && pace.is_growth(9));
        assert!(!pace.is_growth(PACED_MAX + 1), "the more, the less it matters");
    }
}
