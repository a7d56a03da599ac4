//! Datagrams with descriptors over a `SOCK_SEQPACKET` pair.
//!
//! A frame is the request id, a form byte and the message. A message longer than [`INLINE_MAX`] travels
//! in a sealed memfd that is the frame's first descriptor, so no frame depends on the size of a socket
//! buffer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, socketpair,
};

/// Longest message inside a frame, in bytes; a quarter of the default socket buffer of 208 KiB, so that
/// several fit in it.
const INLINE_MAX: usize = 48 * 1024;
/// Longest message at all, in bytes. `execve(2)` refuses more than a few MiB of arguments anyway.
pub const MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// Most descriptors that a message brings: three streams and a few listening sockets or cgroup files. The
/// kernel allows 253 (`SCM_MAX_FD`, unix(7)); each costs room for the control message on the stack.
pub const FDS_MAX: usize = 31;
/// Those and the memfd of a long message.
const FRAME_FDS_MAX: usize = FDS_MAX + 1;
const HEADER: usize = 9;
const FORM_INLINE: u8 = 0;
const FORM_MEMFD: u8 = 1;
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Two sockets that are connected to each other; closed by exec. Message-based, so that each frame arrives whole.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// One message with its request id and descriptors.
#[derive(Debug)]
pub struct Frame {
    /// Pairs a response with its request; 0 for what nobody asked for.
    pub id: u64,
    /// The encoded message.
    pub message: Vec<u8>,
    /// Descriptors that belong to it.
    pub fds: Vec<OwnedFd>,
}

/// Sends a frame. With `wait` false it fails with `WouldBlock` when the peer's queue is full.
pub fn send(
    socket: BorrowedFd<'_>,
    id: u64,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + message.len().min(INLINE_MAX));
    bytes.extend_from_slice(&id.to_le_bytes());
    let memfd;
    let mut all_fds = Vec::with_capacity(fds.len() + 1);
    if message.len() <= INLINE_MAX {
        bytes.push(FORM_INLINE);
        bytes.extend_from_slice(message);
    } else {
        bytes.push(FORM_MEMFD);
        memfd = sealed_memfd(message)?;
        all_fds.push(memfd.as_fd());
    }
    all_fds.extend_from_slice(fds);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !all_fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&all_fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | if wait { SendFlags::empty() } else { SendFlags::DONTWAIT };
    loop {
        match rustix::net::sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn sealed_memfd(message: &[u8]) -> io::Result<OwnedFd> {
    if message.len() > MESSAGE_MAX {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let fd = rustix::fs::memfd_create(c"neargate-message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = message;
    while !rest.is_empty() {
        let count = rustix::io::write(&fd, rest)?;
        rest = &rest[count..];
    }
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
}

/// Receives a frame; `None` when the peer has closed. `buffer` is reused between calls.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut Vec<u8>, wait: bool) -> io::Result<Option<Frame>> {
    buffer.resize(HEADER + INLINE_MAX, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FRAME_FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [io::IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            // A peer that died with unread frames resets the pair.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    parse(&buffer[..received.bytes], fds).map(Some)
}

fn parse(bytes: &[u8], mut fds: Vec<OwnedFd>) -> io::Result<Frame> {
    let (header, inline) = bytes.split_at_checked(HEADER).ok_or(io::ErrorKind::InvalidData)?;
    let id = u64::from_le_bytes(header[..8].try_into().map_err(|_| io::ErrorKind::InvalidData)?);
    let message = match header[8] {
        FORM_INLINE => inline.to_vec(),
        FORM_MEMFD if inline.is_empty() && !fds.is_empty() => read_memfd(&fds.remove(0))?,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    Ok(Frame { id, message, fds })
}

fn read_memfd(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    if !rustix::fs::fcntl_get_seals(fd)?.contains(SEALS) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let size = usize::try_from(rustix::fs::fstat(fd)?.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
    if size > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; size];
    let mut done = 0;
    while done < size {
        match rustix::io::pread(fd, &mut message[done..], done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(length: usize, fd_count: usize) {
        let (a, b) = pair().unwrap();
        let message: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let fds = vec![a.as_fd(); fd_count];
        send(a.as_fd(), 7, &message, &fds, false).unwrap();
        let frame = receive(b.as_fd(), &mut Vec::new(), false).unwrap().unwrap();
        assert_eq!((frame.id, frame.message, frame.fds.len()), (7, message, fd_count));
    }

    #[test]
    fn frames_arrive_whole_at_any_length() {
        for length in [0, 1, INLINE_MAX, INLINE_MAX + 1, 1_000_000] {
            check(length, 0);
            check(length, 3);
            check(length, FDS_MAX);
        }
    }

    #[test]
    fn an_oversized_message_is_refused() {
        let (a, _b) = pair().unwrap();
        let error = send(a.as_fd(), 1, &vec![0; MESSAGE_MAX + 1], &[], false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    }

    #[test]
    fn an_unsealed_memfd_is_refused() {
        let fd = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(read_memfd(&fd).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_closed_peer_is_the_end() {
        let (a, b) = pair().unwrap();
        drop(a);
        assert!(receive(b.as_fd(), &mut Vec::new(), true).unwrap().is_none());
    }
}
