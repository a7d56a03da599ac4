//! The bounded queue between those who append and the writer thread.
//!
//! One mutex protects one growing arena of messages; an append copies its message there, which takes well
//! under a microsecond, and the writer takes the whole arena at once. Two limits hold: on all streams
//! together and on each, so that one flood cannot push out everybody else.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use crate::config::{HANDOVER_BYTES, HANDOVER_INTERVAL, SYNC_INTERVAL};
use crate::group::{Group, Lost, Stream};

/// What an entry takes in the queue beyond its message, in bytes.
const ENTRY_BYTES: usize = 64;

/// What became of an appended line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Appended {
    /// It is in the queue and will be with the kernel within 10 ms.
    Queued,
    /// The queue was full; the line is counted and will appear as part of a gap.
    Dropped,
    /// The stream was deleted or the store closed.
    Closed,
}

/// Why an event is not in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

pub(crate) struct Entry {
    pub(crate) stream: Arc<Stream>,
    pub(crate) timestamp: i64,
    /// Where its message ends in the arena; it starts where the one before ends.
    pub(crate) end: usize,
    pub(crate) kind: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// From a log pump, which cannot be told when it is lost later.
    Line,
    /// From a client, who waits for the outcome.
    Put,
    /// Says what was lost.
    Gap(Lost),
}

/// Who waits for the outcome of what was queued before; `None` waits for the batch, whatever its outcome.
pub(crate) struct Waiter {
    pub(crate) group: Option<Arc<Group>>,
    pub(crate) done: SyncSender<Result<(), Arc<io::Error>>>,
}

/// Work that only the writer thread may do, after it has written the batch.
pub(crate) enum Command {
    /// Seal the group's active segment.
    Seal(Arc<Group>, SyncSender<()>),
    /// Close the files of a deleted group.
    Forget(u64, SyncSender<()>),
}

#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) arena: Vec<u8>,
    pub(crate) waiters: Vec<Waiter>,
    /// Who waits for the batch without a thread, whatever its outcome.
    pub(crate) flushes: Vec<oneshot::Sender<()>>,
    pub(crate) commands: Vec<Command>,
    /// Streams that have lost events since they were last here.
    pub(crate) gaps: Vec<Arc<Stream>>,
}

impl Batch {
    fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * ENTRY_BYTES
    }

    /// Adds an entry that says what was lost.
    pub(crate) fn push_gap(&mut self, stream: &Arc<Stream>, lost: Lost) {
        let s = if lost.events == 1 { "" } else { "s" };
        let message = format!("[neargate] {} log event{s} ({} bytes) lost here", lost.events, lost.bytes);
        self.push(stream, lost.last_ts, EntryKind::Gap(lost), message.as_bytes());
    }

    fn push(&mut self, stream: &Arc<Stream>, timestamp: i64, kind: EntryKind, message: &[u8]) {
        stream.queued_bytes.fetch_add(cost(message), Ordering::Relaxed);
        self.arena.extend_from_slice(message);
        self.entries.push(Entry { stream: stream.clone(), timestamp, end: self.arena.len(), kind });
    }
}

#[derive(Default)]
struct State {
    batch: Batch,
    /// When the oldest entry came.
    since: Option<Instant>,
    urgent: bool,
    closing: bool,
    /// Whether the writer is at work on what it took last.
    writing: bool,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    /// The writer waits here.
    filled: Condvar,
    /// Blocking appenders wait here…
    room: Condvar,
    /// …and asynchronous ones here.
    room_async: Notify,
    bytes_max: usize,
    stream_bytes_max: usize,
}

/// What `message` takes in the queue, in bytes.
pub(crate) fn cost(message: &[u8]) -> usize {
    message.len() + ENTRY_BYTES
}

impl Queue {
    pub(crate) fn new(bytes_max: usize, stream_bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            room: Condvar::new(),
            room_async: Notify::new(),
            bytes_max,
            stream_bytes_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line if there is room for it.
    pub(crate) fn try_append(&self, stream: &Arc<Stream>, ts: i64, message: &[u8]) -> Result<(), Refused> {
        self.append_locked(&mut self.lock(), stream, ts, message)
    }

    /// Queues a line, waiting for room.
    pub(crate) fn append_wait(&self, stream: &Arc<Stream>, ts: i64, message: &[u8]) -> Result<(), Refused> {
        let mut state = self.lock();
        loop {
            match self.append_locked(&mut state, stream, ts, message) {
                Err(Refused::Full) => state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner),
                done => return done,
            }
        }
    }

    /// Queues a line, waiting for room without blocking the thread.
    pub(crate) async fn append_async(
        &self,
        stream: &Arc<Stream>,
        ts: i64,
        message: &[u8],
    ) -> Result<(), Refused> {
        loop {
            let mut room = std::pin::pin!(self.room_async.notified());
            // Registered before the attempt, so that room made in between is not missed.
            room.as_mut().enable();
            match self.try_append(stream, ts, message) {
                Err(Refused::Full) => room.await,
                done => return done,
            }
        }
    }

    fn append_locked(
        &self,
        state: &mut State,
        stream: &Arc<Stream>,
        ts: i64,
        message: &[u8],
    ) -> Result<(), Refused> {
        if state.closing || stream.is_deleted() {
            return Err(Refused::Closed);
        }
        let queued = stream.queued_bytes.load(Ordering::Relaxed);
        let held = state.batch.bytes();
        // An empty queue takes anything, or a line larger than the limit would wait for ever.
        if (queued > 0 && queued + cost(message) > self.stream_bytes_max)
            || (held > 0 && held + cost(message) > self.bytes_max)
        {
            return Err(Refused::Full);
        }
        let lost = std::mem::take(&mut *stream.lost());
        if lost.events > 0 {
            state.batch.push_gap(stream, lost);
        }
        state.batch.push(stream, ts, EntryKind::Line, message);
        self.after_push(state);
        Ok(())
    }

    /// Queues a whole batch, waiting for room, to be written at once.
    pub(crate) fn put<'a>(
        &self,
        group: &Arc<Group>,
        stream: &Arc<Stream>,
        events: impl Iterator<Item = (i64, &'a [u8])>,
        done: SyncSender<Result<(), Arc<io::Error>>>,
    ) -> Result<(), Refused> {
        let mut state = self.lock();
        while !state.closing && !stream.is_deleted() && state.batch.bytes() >= self.bytes_max {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closing || stream.is_deleted() {
            return Err(Refused::Closed);
        }
        for (ts, message) in events {
            state.batch.push(stream, ts, EntryKind::Put, message);
        }
        state.batch.waiters.push(Waiter { group: Some(group.clone()), done });
        state.urgent = true;
        self.after_push(&mut state);
        Ok(())
    }

    /// Asks to be told when everything queued so far is written. `false` when the writer is gone.
    pub(crate) fn wait_written(&self, done: SyncSender<Result<(), Arc<io::Error>>>) -> bool {
        let mut state = self.lock();
        if state.closing {
            return false;
        }
        state.batch.waiters.push(Waiter { group: None, done });
        state.urgent = true;
        self.filled.notify_one();
        true
    }

    /// Asks to be told when everything queued so far is written; none when it is, or when the writer is gone.
    pub(crate) fn written(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.closing || (state.batch.entries.is_empty() && !state.writing) {
            return None;
        }
        let (done, written) = oneshot::channel();
        state.batch.flushes.push(done);
        state.urgent = true;
        self.filled.notify_one();
        Some(written)
    }

    pub(crate) fn command(&self, command: Command) -> bool {
        let mut state = self.lock();
        if state.closing {
            return false;
        }
        state.batch.commands.push(command);
        state.urgent = true;
        self.filled.notify_one();
        true
    }

    /// Notes that events of `stream` are lost, to be recorded as a gap.
    pub(crate) fn record_lost(&self, stream: &Arc<Stream>, more: Lost) {
        let first = {
            let mut lost = stream.lost();
            let first = lost.events == 0;
            lost.events += more.events;
            lost.bytes += more.bytes;
            lost.last_ts = more.last_ts;
            first
        };
        if first {
            self.lock().batch.gaps.push(stream.clone());
            self.filled.notify_one();
        }
    }

    fn after_push(&self, state: &mut State) {
        let first = state.since.is_none();
        if first {
            state.since = Some(Instant::now());
        }
        if first || state.urgent || state.batch.arena.len() >= HANDOVER_BYTES {
            self.filled.notify_one();
        }
    }

    /// Waits until something is due and takes it. `None` when the queue is closed and empty.
    pub(crate) fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        state.writing = false;
        loop {
            let full = state.batch.arena.len() >= HANDOVER_BYTES;
            let age = state.since.map(|since| since.elapsed());
            if state.urgent || state.closing || full || age.is_some_and(|age| age >= HANDOVER_INTERVAL) {
                break;
            }
            let patience = match age {
                Some(age) => HANDOVER_INTERVAL - age,
                None if !state.batch.gaps.is_empty() => SYNC_INTERVAL,
                None => {
                    state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
            };
            let waited = self.filled.wait_timeout(state, patience);
            let (locked, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = locked;
            if timeout.timed_out() && age.is_none() && state.since.is_none() {
                break;
            }
        }
        state.since = None;
        state.urgent = false;
        let batch = std::mem::take(&mut state.batch);
        let nobody_waits = batch.waiters.is_empty() && batch.flushes.is_empty() && batch.commands.is_empty();
        if state.closing && nobody_waits && batch.entries.is_empty() && batch.gaps.is_empty() {
            return None;
        }
        state.writing = true;
        drop(state);
        self.make_room();
        Some(batch)
    }

    /// Wakes those who wait for room.
    pub(crate) fn make_room(&self) {
        self.room.notify_all();
        self.room_async.notify_waiters();
    }

    /// Refuses further work; what is queued is still written.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.filled.notify_all();
        self.make_room();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.lock().closing
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().batch.bytes()
    }
}
