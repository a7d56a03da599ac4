//! What the two ends of a socket need beyond [`channel`]: a client that waits for room without holding up its
//! runtime, and a single-threaded server that never waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use neargate_ipc::channel;
use rustix::event::epoll;

/// Sends a message; when the other end is behind, waits for room on a thread that may block.
pub(crate) async fn send<S: AsFd + Send + Sync + 'static>(
    socket: &Arc<S>,
    id: u64,
    message: Vec<u8>,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    match channel::send(socket.as_fd(), id, &message, fds, false) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        other => return other,
    }
    let socket = Arc::clone(socket);
    let fds: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
    let send = move || {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        channel::send(socket.as_fd(), id, &message, &fds, true)
    };
    tokio::task::spawn_blocking(send).await.map_err(io::Error::other)?
}

/// Encoded responses that are to be sent, in order.
#[derive(Default)]
pub(crate) struct Outbox {
    responses: VecDeque<(u64, Vec<u8>, Vec<OwnedFd>)>,
    /// Whether the socket's registration asks for room.
    wants_write: bool,
}

impl Outbox {
    /// Appends a response.
    pub(crate) fn push(&mut self, id: u64, message: Vec<u8>, fds: Vec<OwnedFd>) {
        self.responses.push_back((id, message, fds));
    }

    /// Sends what the socket has room for. For the rest, `registration` (the epoll instance and the socket's token
    /// in it) is told to report room; a socket that is no longer registered has none.
    pub(crate) fn flush(
        &mut self,
        socket: &OwnedFd,
        registration: Option<(&OwnedFd, u64)>,
    ) -> io::Result<()> {
        while let Some((id, message, fds)) = self.responses.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match channel::send(socket.as_fd(), *id, message, &fds, false) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The other end is gone; the end of the stream follows and starts the farewell.
                Err(_) => {}
            }
            self.responses.pop_front();
        }
        let wants_write = !self.responses.is_empty();
        if let (Some((epoll, token)), true) = (registration, wants_write != self.wants_write) {
            let write = if wants_write { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let flags = epoll::EventFlags::IN | write;
            epoll::modify(epoll, socket, epoll::EventData::new_u64(token), flags)?;
            self.wants_write = wants_write;
        }
        Ok(())
    }
}
