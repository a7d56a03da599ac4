//! A staged file that is read while it is written: blobs that are unpacked while they are downloaded.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::write_out::WriteOut;

/// A file of a known size that several writers fill, in any order, and one reader follows.
///
/// A reader waits for as long as no writer says anything. Whoever writes therefore holds a [`GrowingWriter`], which
/// ends the wait when it is dropped.
#[derive(Debug)]
pub(crate) struct Growing {
    file: File,
    path: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// All before this offset is there.
    prefix: u64,
    is_closed: bool,
}

impl Growing {
    /// `file` must be open for reading and writing.
    pub(crate) fn new(file: File, path: PathBuf) -> (Arc<Self>, GrowingWriter) {
        let (state, changed) = Default::default();
        let growing = Arc::new(Self { file, path, state, changed });
        (growing.clone(), GrowingWriter { growing })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything from the start on, as it comes. A file that was given up ends early, with an error.
    pub(crate) fn follow(self: &Arc<Self>, size: u64) -> Follower {
        Follower { growing: self.clone(), position: 0, size, write_out: WriteOut::default() }
    }

    /// Waits until there is something behind `position`; says where it ends.
    fn wait_beyond(&self, position: u64) -> io::Result<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_waiting = |state: &mut State| state.prefix <= position && !state.is_closed;
        let state = self.changed.wait_while(state, is_waiting).unwrap_or_else(PoisonError::into_inner);
        match state.prefix > position {
            true => Ok(state.prefix),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up")),
        }
    }
}

/// Writes a file that somebody follows. Dropping it tells that nothing more comes.
#[derive(Debug)]
pub struct GrowingWriter {
    growing: Arc<Growing>,
}

impl GrowingWriter {
    /// A handle for writing pieces. It does not keep the reader waiting.
    pub fn pieces(&self) -> Pieces {
        Pieces { growing: self.growing.clone() }
    }

    /// Tells that all before `offset` has been written.
    pub fn advance(&self, offset: u64) {
        let mut state = self.growing.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.prefix = state.prefix.max(offset);
        self.growing.changed.notify_all();
    }
}

impl Drop for GrowingWriter {
    fn drop(&mut self) {
        self.growing.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.growing.changed.notify_all();
    }
}

/// Writes pieces of a file that grows; to be used from a thread that may wait for the disk.
#[derive(Clone, Debug)]
pub struct Pieces {
    growing: Arc<Growing>,
}

impl Pieces {
    /// Writes `buffers`, one behind the other, at `offset`.
    pub fn write_all_at(&self, mut buffers: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            match rustix::io::pwritev(&self.growing.file, buffers, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    offset += n as u64;
                    IoSlice::advance_slices(&mut buffers, n);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.growing.path
    }
}

/// Reads a file while it grows.
pub(crate) struct Follower {
    growing: Arc<Growing>,
    position: u64,
    size: u64,
    write_out: WriteOut,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.size || buffer.is_empty() {
            return Ok(0);
        }
        let end = self.growing.wait_beyond(self.position)?.min(self.size);
        let length = usize::try_from(end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.growing.file.read_at(&mut buffer[..length], self.position)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += n as u64;
        self.write_out.reached(self.growing.file.as_fd(), self.position);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::TempDir, File, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        (directory, file, path)
    }

    #[test]
    fn a_reader_sees_what_was_written_in_any_order() {
        let (_directory, file, path) = file();
        let (growing, writer) = Growing::new(file, path);
        let mut follower = growing.follow(6);
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            follower.read_to_string(&mut text).map(|_| text)
        });
        let pieces = writer.pieces();
        pieces.write_all_at(&mut [IoSlice::new(b"ef")], 4).unwrap();
        pieces.write_all_at(&mut [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cd")], 0).unwrap();
        writer.advance(2);
        writer.advance(6);
        assert_eq!(reading.join().unwrap().unwrap(), "abcdef");
    }

    #[test]
    fn a_reader_does_not_wait_for_a_writer_that_is_gone() {
        let (_directory, file, path) = file();
        let (growing, writer) = Growing::new(file, path);
        let mut follower = growing.follow(6);
        writer.pieces().write_all_at(&mut [IoSlice::new(b"abc")], 0).unwrap();
        writer.advance(3);
        drop(writer);
        let mut found = Vec::new();
        let error = follower.read_to_end(&mut found).unwrap_err();
        assert_eq!((found.as_slice(), error.kind()), (b"abc".as_slice(), io::ErrorKind::UnexpectedEof));
    }
}
