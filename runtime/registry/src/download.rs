//! One blob into one file: in ranges over several connections if it is large, each resumed where it broke.

use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use neargate_image::{BlobRef, GrowingWriter, Pieces};
use neargate_model::image::Digest;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::client::Session;
use crate::error::{PullError, RequestError};
use crate::transport::Answer;

/// What is asked for at a time of a large blob. Smaller ranges cost requests; larger ones leave connections without work
/// at the end.
const RANGE_BYTES: u64 = 16 << 20;
/// Blobs below are asked for as a whole.
const WHOLE_BYTES_MAX: u64 = 2 * RANGE_BYTES;
/// Connections for one blob.
const CONNECTIONS_MAX: usize = 4;
/// Handed to a thread that writes at a time; a connection holds two of these at most.
const WRITE_BYTES: usize = 1 << 20;
/// Pieces of one write (IOV_MAX, writev(2)).
const WRITE_PIECES_MAX: usize = 1024;
/// An attempt that has brought so much was worth it: those before are forgotten.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Bytes of a blob that have come; for people.
#[derive(Debug, Default)]
pub(crate) struct Counter(pub(crate) AtomicU64);

/// A blob on its way.
struct Download {
    session: Arc<Session>,
    blob: BlobRef,
    pieces: Pieces,
    counter: Arc<Counter>,
    ranges: Mutex<Ranges>,
}

/// What has been written.
struct Ranges {
    writer: GrowingWriter,
    /// Start and end of what was written of each range, in order.
    written: Vec<(u64, u64)>,
}

impl Ranges {
    /// Notes that a range was written up to `end`, and tells the reader how far there is no gap.
    fn note(&mut self, range: usize, end: u64) {
        self.written[range].1 = end;
        let mut prefix = 0;
        for (start, end) in &self.written {
            if *start > prefix {
                break;
            }
            prefix = prefix.max(*end);
        }
        self.writer.advance(prefix);
    }
}

/// Downloads `blob` into the file behind `writer`. A permit of `connections` is held for each connection.
pub(crate) async fn download(
    session: Arc<Session>,
    blob: BlobRef,
    writer: GrowingWriter,
    connections: Arc<Semaphore>,
    counter: Arc<Counter>,
) -> Result<(), PullError> {
    let pieces = writer.pieces();
    let range_bytes = if blob.size < WHOLE_BYTES_MAX { blob.size.max(1) } else { RANGE_BYTES };
    let count = blob.size.div_ceil(range_bytes);
    let starts = (0..count).map(|n| n * range_bytes);
    let written = starts.map(|start| (start, start)).collect();
    let ranges = Mutex::new(Ranges { writer, written });
    let download = Arc::new(Download { session, blob, pieces, counter, ranges });
    let mut next = 0;
    let mut running = JoinSet::new();
    loop {
        while running.len() < CONNECTIONS_MAX && next < usize::try_from(count).unwrap_or(usize::MAX) {
            let (download, connections) = (download.clone(), connections.clone());
            let start = next as u64 * range_bytes;
            let end = (start + range_bytes).min(download.blob.size);
            // The first range goes alone: it tells whether the registry knows ranges.
            let is_first = next == 0;
            running.spawn(async move {
                let _permit = connections.acquire_owned().await.map_err(|_| PullError::Ended)?;
                download.range(next, start, end).await
            });
            next += 1;
            if is_first && count > 1 {
                break;
            }
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok(Ok(Came::Range))) => {}
            // The whole blob came with the first range.
            Some(Ok(Ok(Came::All))) => return Ok(()),
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => return Err(PullError::Ended),
        }
    }
}

/// What a request for a range has brought.
enum Came {
    Range,
    All,
}

impl Came {
    fn of(start: u64, end: u64, size: u64) -> Self {
        if start == 0 && end == size { Self::All } else { Self::Range }
    }
}

impl Download {
    /// Brings the bytes from `start` to `end`, in as many attempts as get further.
    async fn range(&self, index: usize, start: u64, mut end: u64) -> Result<Came, PullError> {
        let size = self.blob.size;
        let mut position = start;
        let mut attempts = 1;
        loop {
            let from = position;
            let wanted = (position > 0 || end < size).then(|| (position, end - 1));
            let error = match self.session.blob(self.blob.digest, size, wanted).await {
                Ok((offset, answer)) => {
                    // A registry that knows no ranges sends all. The first range then takes all, another one its own part.
                    let sends_all = answer.status == http::StatusCode::OK;
                    if sends_all && start > 0 {
                        let what = "it knows ranges of a blob, and then it does not".to_owned();
                        let source = RequestError::Protocol { url: answer.url, what };
                        return Err(PullError::Fetch { digest: self.blob.digest, attempts, source });
                    }
                    end = if sends_all { size } else { end };
                    match self.take(index, answer, offset, &mut position, end).await {
                        Ok(()) => return Ok(Came::of(start, end, size)),
                        // All is here, but its end was not told: the digest says whether it is right.
                        Err(TakeError::Request(error)) if position == end && error.is_transient() => {
                            return Ok(Came::of(start, end, size));
                        }
                        Err(TakeError::Write(source)) => {
                            return Err(PullError::Write { digest: self.blob.digest, source });
                        }
                        Err(TakeError::Request(error)) => error,
                    }
                }
                Err(error) => error,
            };
            if position - from >= PROGRESS_BYTES {
                attempts = 1;
            }
            let patience = self.session.patience();
            if !error.is_transient() || attempts >= patience.attempts {
                return Err(PullError::Fetch { digest: self.blob.digest, attempts, source: error });
            }
            tracing::debug!(digest = %self.blob.digest, position, attempts, error = neargate_model::chain(&error), "blob is asked for again");
            tokio::time::sleep(patience.pause_after(attempts, &error)).await;
            attempts += 1;
        }
    }

    /// Writes what an answer brings from `offset` on, up to `until`. What comes before `position` was written already.
    async fn take(
        &self,
        index: usize,
        mut answer: Answer,
        offset: u64,
        position: &mut u64,
        until: u64,
    ) -> Result<(), TakeError> {
        let mut at = offset;
        let mut batch = Batch::default();
        let mut writing: Option<Writing> = None;
        let ended = loop {
            let mut data = match answer.next().await {
                Ok(Some(data)) => data,
                Ok(None) if at == until => break Ok(()),
                Ok(None) => {
                    let text = format!("unexpected EOF after {at} of {until} bytes");
                    let source = Box::new(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                    break Err(RequestError::Connection { url: answer.url.clone(), source });
                }
                Err(error) => break Err(error),
            };
            let length = data.len() as u64;
            if length > until - at {
                let what = format!("it sends more than {} bytes", until - offset);
                break Err(RequestError::Protocol { url: answer.url.clone(), what });
            }
            let known = position.saturating_sub(at).min(length);
            at += length;
            let _ = data.split_to(usize::try_from(known).unwrap_or(usize::MAX));
            if batch.push(data) {
                self.wait(index, position, writing.take()).await?;
                writing = Some(self.write(std::mem::take(&mut batch), *position));
            }
        };
        self.wait(index, position, writing.take()).await?;
        if !batch.pieces.is_empty() {
            let last = self.write(batch, *position);
            self.wait(index, position, Some(last)).await?;
        }
        ended.map_err(TakeError::Request)
    }

    fn write(&self, batch: Batch, position: u64) -> Writing {
        let pieces = self.pieces.clone();
        let length = batch.bytes as u64;
        let task = tokio::task::spawn_blocking(move || {
            let mut slices: Vec<IoSlice<'_>> = batch.pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            pieces.write_all_at(&mut slices, position)
        });
        Writing { task, length }
    }

    /// Waits for a write, and tells of it.
    async fn wait(
        &self,
        index: usize,
        position: &mut u64,
        writing: Option<Writing>,
    ) -> Result<(), TakeError> {
        let Some(Writing { task, length }) = writing else { return Ok(()) };
        task.await.map_err(io::Error::other).and_then(|written| written).map_err(TakeError::Write)?;
        *position += length;
        self.counter.0.fetch_add(length, Ordering::Relaxed);
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).note(index, *position);
        Ok(())
    }
}

struct Writing {
    task: JoinHandle<io::Result<()>>,
    length: u64,
}

enum TakeError {
    Request(RequestError),
    Write(io::Error),
}

/// Data that is written at once.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Whether it is time to write.
    fn push(&mut self, data: Bytes) -> bool {
        if !data.is_empty() {
            self.bytes += data.len();
            self.pieces.push(data);
        }
        self.bytes >= WRITE_BYTES || self.pieces.len() >= WRITE_PIECES_MAX
    }
}

/// Asks until there is an answer, or asking again is of no use. With an error comes how often it was asked.
pub(crate) async fn retry<T, F>(session: &Session, ask: impl Fn() -> F) -> Result<T, (u32, RequestError)>
where
    F: Future<Output = Result<T, RequestError>>,
{
    let patience = session.patience();
    let mut attempt = 1;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_transient() && attempt < patience.attempts => {
                tracing::debug!(attempt, error = neargate_model::chain(&error), "registry is asked again");
                tokio::time::sleep(patience.pause_after(attempt, &error)).await;
                attempt += 1;
            }
            Err(error) => return Err((attempt, error)),
        }
    }
}

/// A small blob, whole.
pub(crate) async fn document(session: &Session, blob: &BlobRef) -> Result<Bytes, PullError> {
    let digest: Digest = blob.digest;
    let ask = || async move {
        let (_, answer) = session.blob(digest, blob.size, None).await?;
        answer.bytes(neargate_image::DOCUMENT_BYTES_MAX).await
    };
    retry(session, ask).await.map_err(|(attempts, source)| PullError::Fetch { digest, attempts, source })
}
