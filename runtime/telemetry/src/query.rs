//! Finding the first events of a range in the order of their times.
//!
//! Segments and chunks know only their time ranges, and may overlap. All wait in one heap ordered by the
//! earliest event they can contain; taking a segment puts its chunks there, taking a chunk reads it. What
//! was read is kept in order and cut to a page, so memory is bounded by the page, and the search ends when
//! nothing in the heap can precede the last event of a full page. Logs that arrive in order are read once
//! and only as far as the page goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use neargate_model::Timestamp;

use crate::block::{self, Block};
use crate::config::{BATCH_BYTES_MAX, EVENT_OVERHEAD_BYTES};
use crate::event::Event;
use crate::group::{Group, Stream};
use crate::pattern::FilterPattern;
use crate::segment::{Chunk, Segment};
use crate::token::{Direction, Position};

/// How many segments one search holds open.
const FILES_MAX: usize = 16;

/// How often a search starts anew because a sweep replaced a segment under it.
const ATTEMPTS_MAX: usize = 5;

/// What to look for. Events are in `start..end` and strictly beyond `from` in the direction of reading.
pub(crate) struct Search<'a> {
    pub(crate) streams: &'a HashMap<u32, Arc<Stream>>,
    pub(crate) pattern: Option<&'a FilterPattern>,
    pub(crate) direction: Direction,
    pub(crate) from: Position,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) limit: usize,
    /// After this many bytes the search may stop early, once it has got anywhere.
    pub(crate) scan_bytes_max: u64,
}

/// An event and where it was.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) at: Position,
    pub(crate) stream: u32,
    pub(crate) event: Event,
}

/// What was found, in the order of reading.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) hits: Vec<Hit>,
    /// Present when there may be more: everything up to here is in `hits`.
    pub(crate) resume: Option<Position>,
}

type Rank = (i64, u64);

/// Something that may contain events.
enum Source {
    Segment(Arc<Segment>),
    Chunk { path: Arc<PathBuf>, offset: u64, length: u64 },
}

/// Runs `search` on what the group holds now.
pub(crate) fn run(group: &Group, search: &Search<'_>) -> io::Result<Found> {
    let mut attempt = 1;
    loop {
        match (Run { search, heap: BinaryHeap::new(), sources: Vec::new(), page: Page::default() }).run(group)
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS_MAX => {
                if group.is_deleted() {
                    return Ok(Found::default());
                }
                attempt += 1;
            }
            done => return done,
        }
    }
}

struct Run<'a> {
    search: &'a Search<'a>,
    heap: BinaryHeap<Reverse<(Rank, usize)>>,
    sources: Vec<Source>,
    page: Page,
}

impl Run<'_> {
    fn run(mut self, group: &Group) -> io::Result<Found> {
        self.gather(group);
        let search = self.search;
        let mut files = Files::default();
        let mut scanned = 0;
        while let Some(Reverse((rank, index))) = self.heap.pop() {
            if self.page.is_settled(rank, search.limit) {
                break;
            }
            // Stopping is allowed only where it leaves something behind, or the next page would be this one.
            let progress =
                search.direction.rank(before(rank, search.direction)) > search.direction.rank(search.from);
            if scanned >= search.scan_bytes_max && progress {
                self.page.cut(rank);
                break;
            }
            match &self.sources[index] {
                Source::Segment(segment) => {
                    let segment = segment.clone();
                    self.expand(&segment)?;
                }
                Source::Chunk { path, offset, length } => {
                    let mut bytes = vec![0; usize::try_from(*length).unwrap_or(usize::MAX)];
                    files.get(path)?.read_exact_at(&mut bytes, *offset)?;
                    scanned += length;
                    block::walk(&bytes, |_, block| self.page.take(search, &block));
                }
            }
        }
        Ok(self.page.finish(search))
    }

    /// Puts everything that may matter into the heap.
    fn gather(&mut self, group: &Group) {
        let state = group.lock();
        for segment in &state.sealed {
            if let Some((min, max)) = self.range_in(segment) {
                self.offer(min, max, Source::Segment(segment.clone()));
            }
        }
        if let Some(active) = &state.active {
            let path = Arc::new(active.name.path(&group.dir));
            self.offer_chunks(&path, &active.contents.chunks);
        }
    }

    /// The times that the wanted streams have in a segment.
    fn range_in(&self, segment: &Segment) -> Option<(i64, i64)> {
        let wanted = self.search.streams;
        let join = |a: Option<(i64, i64)>, s: &crate::segment::Summary| match a {
            Some((min, max)) => Some((min.min(s.min_ts), max.max(s.max_ts))),
            None => Some((s.min_ts, s.max_ts)),
        };
        if wanted.len() < segment.summaries.len() {
            wanted.keys().filter_map(|id| segment.summaries.get(id)).fold(None, join)
        } else {
            segment
                .summaries
                .iter()
                .filter(|(id, _)| wanted.contains_key(id))
                .map(|(_, s)| s)
                .fold(None, join)
        }
    }

    fn expand(&mut self, segment: &Segment) -> io::Result<()> {
        let path = Arc::new(segment.path.clone());
        self.offer_chunks(&path, &segment.chunks()?);
        Ok(())
    }

    fn offer_chunks(&mut self, path: &Arc<PathBuf>, chunks: &[Chunk]) {
        let wanted = self.search.streams;
        for chunk in chunks {
            let relevant = if wanted.len() < chunk.streams.len() {
                wanted.keys().any(|id| chunk.streams.binary_search(id).is_ok())
            } else {
                chunk.streams.iter().any(|id| wanted.contains_key(id))
            };
            if relevant {
                let source = Source::Chunk { path: path.clone(), offset: chunk.offset, length: chunk.length };
                self.offer(chunk.min_ts, chunk.max_ts, source);
            }
        }
    }

    fn offer(&mut self, min: i64, max: i64, source: Source) {
        let Search { direction, from, start, end, .. } = *self.search;
        let (first, last) = match direction {
            Direction::Forward => (Position { ts: min, seq: 0 }, Position { ts: max, seq: u64::MAX }),
            Direction::Backward => (Position { ts: max, seq: u64::MAX }, Position { ts: min, seq: 0 }),
        };
        if max >= start && min < end && direction.rank(last) > direction.rank(from) {
            self.heap.push(Reverse((direction.rank(first), self.sources.len())));
            self.sources.push(source);
        }
    }
}

/// The best events so far.
#[derive(Default)]
struct Page {
    hits: BTreeMap<Rank, Hit>,
    bytes: usize,
    /// Nothing at or after this rank belongs to the page.
    ceiling: Option<Rank>,
}

impl Page {
    /// Whether nothing from `rank` on can belong to the page.
    fn is_settled(&mut self, rank: Rank, limit: usize) -> bool {
        if self.ceiling.is_some_and(|ceiling| rank >= ceiling) {
            return true;
        }
        let full =
            self.hits.len() >= limit && self.hits.last_key_value().is_some_and(|(last, _)| rank > *last);
        if full {
            self.ceiling = Some(rank);
        }
        full
    }

    fn take(&mut self, search: &Search<'_>, block: &Block<'_>) {
        let Search { direction, from, start, end, .. } = *search;
        let header = &block.header;
        if !search.streams.contains_key(&header.stream) || header.max_ts < start || header.min_ts >= end {
            return;
        }
        for record in block.records() {
            let at = Position { ts: record.timestamp, seq: record.seq };
            let rank = direction.rank(at);
            let in_range = (start..end).contains(&at.ts) && rank > direction.rank(from);
            if !in_range || self.ceiling.is_some_and(|ceiling| rank >= ceiling) {
                continue;
            }
            let message = String::from_utf8_lossy(record.message);
            if search.pattern.is_some_and(|pattern| !pattern.matches(&message)) {
                continue;
            }
            let event = Event {
                timestamp: Timestamp(at.ts),
                ingestion_time: Timestamp(header.ingested),
                message: message.into_owned(),
                gap: record.gap,
            };
            self.bytes += size(&event);
            self.hits.insert(rank, Hit { at, stream: header.stream, event });
            self.shrink(search.limit);
        }
    }

    /// Cuts the page to its limits; the first event always stays.
    fn shrink(&mut self, limit: usize) {
        while self.hits.len() > limit || (self.bytes > BATCH_BYTES_MAX && self.hits.len() > 1) {
            let Some((rank, hit)) = self.hits.pop_last() else { return };
            self.bytes -= size(&hit.event);
            self.ceiling = Some(rank);
        }
    }

    /// Drops everything from `rank` on.
    fn cut(&mut self, rank: Rank) {
        self.hits.split_off(&rank);
        self.ceiling = Some(rank);
    }

    fn finish(self, search: &Search<'_>) -> Found {
        let resume = self.ceiling.map(|ceiling| before(ceiling, search.direction));
        Found { hits: self.hits.into_values().collect(), resume }
    }
}

/// The position read directly before `rank`.
fn before(rank: Rank, direction: Direction) -> Position {
    match direction {
        Direction::Forward => Position { ts: rank.0, seq: rank.1 }.previous(),
        Direction::Backward => Position { ts: !rank.0, seq: !rank.1 }.next(),
    }
}

fn size(event: &Event) -> usize {
    event.message.len() + EVENT_OVERHEAD_BYTES
}

/// The events of one stream that arrived after `seq`, in the order of arrival, at most `limit` and about
/// 1 MiB.
pub(crate) fn arrivals(group: &Group, stream: u32, seq: u64, limit: usize) -> io::Result<Vec<(u64, Event)>> {
    let mut attempt = 1;
    loop {
        match arrivals_once(group, stream, seq, limit) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS_MAX => {
                if group.is_deleted() {
                    return Ok(Vec::new());
                }
                attempt += 1;
            }
            done => return done,
        }
    }
}

fn arrivals_once(group: &Group, stream: u32, seq: u64, limit: usize) -> io::Result<Vec<(u64, Event)>> {
    let wanted = |chunk: &Chunk| chunk.last_seq > seq && chunk.streams.binary_search(&stream).is_ok();
    let (sealed, active) = {
        let state = group.lock();
        let has = |segment: &&Arc<Segment>| segment.summaries.get(&stream).is_some_and(|s| s.last_seq > seq);
        let mut sealed: Vec<_> = state.sealed.iter().filter(has).cloned().collect();
        sealed.sort_by_key(|segment| segment.name);
        let active = state.active.as_ref().map(|active| {
            let chunks = &active.contents.chunks;
            let from = chunks.partition_point(|chunk| chunk.last_seq <= seq);
            let places = chunks[from..].iter().filter(|c| wanted(c)).map(|c| (c.offset, c.length));
            (active.name.path(&group.dir), places.collect::<Vec<_>>())
        });
        (sealed, active)
    };
    let mut places = Vec::new();
    for segment in sealed {
        let chunks = segment.chunks()?;
        let of_stream = chunks.iter().filter(|chunk| wanted(chunk)).map(|c| (c.offset, c.length));
        places.push((segment.path.clone(), of_stream.collect::<Vec<_>>()));
    }
    places.extend(active);
    let (mut events, mut bytes_taken) = (Vec::new(), 0);
    for (path, chunks) in places {
        let Some(file) = chunks.first().map(|_| File::open(&path)).transpose()? else { continue };
        for (offset, length) in chunks {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, offset)?;
            block::walk(&bytes, |_, block| {
                if block.header.stream != stream || block.header.last_seq() <= seq {
                    return;
                }
                for record in block.records().filter(|record| record.seq > seq) {
                    if events.len() == limit || bytes_taken > BATCH_BYTES_MAX {
                        return;
                    }
                    let message = String::from_utf8_lossy(record.message).into_owned();
                    bytes_taken += message.len() + EVENT_OVERHEAD_BYTES;
                    let (timestamp, ingestion_time) =
                        (Timestamp(record.timestamp), Timestamp(block.header.ingested));
                    events.push((record.seq, Event { timestamp, ingestion_time, message, gap: record.gap }));
                }
            });
            if events.len() == limit || bytes_taken > BATCH_BYTES_MAX {
                return Ok(events);
            }
        }
    }
    Ok(events)
}

/// Segments that a search has open.
#[derive(Default)]
struct Files {
    open: HashMap<Arc<PathBuf>, File>,
}

impl Files {
    fn get(&mut self, path: &Arc<PathBuf>) -> io::Result<&File> {
        if !self.open.contains_key(path) {
            if self.open.len() == FILES_MAX {
                self.open.clear();
            }
            self.open.insert(path.clone(), File::open(path.as_path())?);
        }
        self.open.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
