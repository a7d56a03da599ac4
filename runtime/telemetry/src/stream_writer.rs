//! The handle of a log pump.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use neargate_model::Timestamp;

use crate::config::LINE_BYTES_MAX;
use crate::group::{Lost, Stream};
use crate::queue::{Appended, Refused};
use crate::store::Core;

/// Appends lines to one stream; cheap to clone and to drop, and holds no file.
///
/// Lines longer than 256 KiB are split at character boundaries. Bytes that are not UTF-8 are replaced by
/// U+FFFD, because events are text. Times before 1970 become 1970.
#[derive(Clone)]
pub struct StreamWriter {
    core: Arc<Core>,
    stream: Arc<Stream>,
}

impl StreamWriter {
    pub(crate) fn new(core: Arc<Core>, stream: Arc<Stream>) -> Self {
        Self { core, stream }
    }

    /// Queues a line without ever waiting. When the queue is full the line, or the rest of a split one, is
    /// dropped and counted, and a gap is recorded once there is room.
    pub fn append(&self, timestamp: Timestamp, line: &[u8]) -> Appended {
        let ts = timestamp.as_millis().max(0);
        let line = String::from_utf8_lossy(line);
        let mut outcome = Appended::Queued;
        for piece in pieces(&line) {
            match self.core.queue.try_append(&self.stream, ts, piece.as_bytes()) {
                Ok(()) => {}
                Err(Refused::Closed) => return Appended::Closed,
                Err(Refused::Full) => {
                    self.core.lose(&self.stream, Lost { events: 1, bytes: piece.len() as u64, last_ts: ts });
                    outcome = Appended::Dropped;
                }
            }
        }
        outcome
    }

    /// Queues a line, waiting for room; the back-pressure for pumps on threads. Never drops.
    pub fn append_blocking(&self, timestamp: Timestamp, line: &[u8]) -> Appended {
        let ts = timestamp.as_millis().max(0);
        let line = String::from_utf8_lossy(line);
        for piece in pieces(&line) {
            if self.core.queue.append_wait(&self.stream, ts, piece.as_bytes()).is_err() {
                return Appended::Closed;
            }
        }
        Appended::Queued
    }

    /// Queues a line, waiting for room; the back-pressure for asynchronous pumps. Never drops, unless the
    /// future is dropped while it waits.
    pub async fn append_async(&self, timestamp: Timestamp, line: &[u8]) -> Appended {
        let ts = timestamp.as_millis().max(0);
        let line = String::from_utf8_lossy(line);
        for piece in pieces(&line) {
            if self.core.queue.append_async(&self.stream, ts, piece.as_bytes()).await.is_err() {
                return Appended::Closed;
            }
        }
        Appended::Queued
    }

    /// How many events of this stream were lost since the store was opened.
    pub fn dropped(&self) -> u64 {
        self.stream.dropped.load(Ordering::Relaxed)
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.stream.name
    }
}

impl std::fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamWriter").field("stream", &self.stream.name).finish_non_exhaustive()
    }
}

/// Splits a line into pieces of at most [`LINE_BYTES_MAX`]; an empty line is one empty piece.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        if line.len() <= LINE_BYTES_MAX {
            rest = None;
            return Some(line);
        }
        let mut at = LINE_BYTES_MAX;
        while !line.is_char_boundary(at) {
            at -= 1;
        }
        let (piece, after) = line.split_at(at);
        rest = Some(after);
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: &[usize]) {
        let lengths: Vec<_> = pieces(line).map(str::len).collect();
        assert_eq!(lengths, expect);
        assert_eq!(pieces(line).collect::<String>(), line);
    }

    #[test]
    fn lines_are_split_at_characters() {
        check("", &[0]);
        check("a", &[1]);
        check(&"a".repeat(LINE_BYTES_MAX), &[LINE_BYTES_MAX]);
        check(&"a".repeat(LINE_BYTES_MAX + 1), &[LINE_BYTES_MAX, 1]);
        check(&format!("a{}", "é".repeat(LINE_BYTES_MAX / 2)), &[LINE_BYTES_MAX - 1, 2]);
    }
}
