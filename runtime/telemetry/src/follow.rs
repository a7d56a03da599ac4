//! Reading a stream as it grows.
//!
//! A follower reads in the order of arrival, so it misses nothing when clocks step back, and wakes through
//! a watch channel that holds only the latest sequence number: a slow follower costs no memory.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::ReadError;
use crate::event::Event;
use crate::group::{Group, Progress, Stream};
use crate::query;

/// How many events [`Follower::next`] returns at most.
const NEXT_EVENTS_MAX: usize = 1000;

/// Where to begin following.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowFrom {
    /// The oldest stored event.
    Oldest,
    /// What arrives from now on.
    Newest,
    /// This many of the latest events, at most 10,000.
    Last(usize),
    /// Events at or after this time.
    Since(neargate_model::Timestamp),
}

/// Follows one stream; made by [`LogStore::follow`](crate::LogStore::follow).
#[derive(Debug)]
pub struct Follower {
    group: Arc<Group>,
    stream: Arc<Stream>,
    progress: watch::Receiver<Progress>,
    /// Events up to here have been read.
    seq: u64,
    start: i64,
}

impl Follower {
    pub(crate) fn new(group: Arc<Group>, stream: Arc<Stream>, closing: bool) -> Self {
        // Under the group's lock, so that no event falls between the number read and the subscription.
        let progress = {
            let _state = group.lock();
            let last_seq = stream.times().last_seq;
            let ended = stream.is_deleted() || closing;
            stream.progress.get_or_init(|| watch::Sender::new(Progress { last_seq, ended })).subscribe()
        };
        Self { group, stream, progress, seq: 0, start: i64::MIN }
    }

    pub(crate) fn starting(mut self, seq: u64, start: i64) -> Self {
        self.seq = seq;
        self.start = start;
        self
    }

    pub(crate) fn latest(&self) -> u64 {
        self.progress.borrow().last_seq
    }

    /// Waits until there is something to read; `false` once the stream was deleted or the store closed, and
    /// everything was read. Dropping the future loses nothing.
    pub async fn ready(&mut self) -> bool {
        let seq = self.seq;
        let progress = self.progress.wait_for(|progress| progress.last_seq > seq || progress.ended).await;
        progress.is_ok_and(|progress| progress.last_seq > seq && !self.stream.is_deleted())
    }

    /// Reads what has arrived, at most `limit` events and about 1 MiB. Blocks on the disk.
    pub fn read(&mut self, limit: usize) -> Result<Vec<Event>, ReadError> {
        let latest = self.latest();
        let found = query::arrivals(&self.group, self.stream.id, self.seq, limit.max(1))
            .map_err(|source| ReadError::Io { group: self.group.lock().meta.name.clone(), source })?;
        self.seq = found.last().map_or(latest, |(seq, _)| *seq).max(self.seq);
        let cutoff = self.start;
        let fresh = found.into_iter().map(|(_, event)| event);
        Ok(fresh.filter(|event| event.timestamp.as_millis() >= cutoff).collect())
    }

    /// Waits for events and reads them on a blocking thread, at most 1,000 at a time; `None` at the end.
    /// The batch may be empty when all that came is older than [`FollowFrom::Since`] asked for.
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, ReadError> {
        if !self.ready().await {
            return Ok(None);
        }
        let mut reader = Self {
            group: self.group.clone(),
            stream: self.stream.clone(),
            progress: self.progress.clone(),
            seq: self.seq,
            start: self.start,
        };
        let read = tokio::task::spawn_blocking(move || {
            let events = reader.read(NEXT_EVENTS_MAX);
            (events, reader.seq)
        });
        match read.await {
            Ok((events, seq)) => {
                self.seq = seq;
                events.map(Some)
            }
            // The runtime is shutting down.
            Err(_) => Ok(None),
        }
    }
}
