//! A log group on the disk and in memory.
//!
//! ```text
//! g00000001/group.json          name, scope, retention; replaced atomically
//! g00000001/streams.log         creations and deletions of streams, one checked line each
//! g00000001/00000001-0.seg      events
//! g00000001/00000001-0.idx      its index, once sealed
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use neargate_model::{Scope, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::segment::{self, Contents, Segment, SegmentName};

/// The stream log is rewritten at open when it has this many more lines than live streams.
const STREAM_LOG_SLACK: usize = 1000;

/// What `group.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupMeta {
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) created: Timestamp,
    pub(crate) retention_days: Option<u32>,
}

impl GroupMeta {
    /// The oldest time that is kept.
    pub(crate) fn cutoff(&self, now: Timestamp) -> i64 {
        const DAY_MS: i64 = 86_400_000;
        self.retention_days.map_or(i64::MIN, |days| now.as_millis().saturating_sub(i64::from(days) * DAY_MS))
    }
}

/// A line of `streams.log`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StreamLine {
    Create {
        id: u32,
        name: String,
        created: Timestamp,
    },
    Delete {
        id: u32,
    },
    /// Ids below this one were used; written when deleted streams are dropped from the log.
    Next {
        id: u32,
    },
}

/// What followers of a stream are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) last_seq: u64,
    pub(crate) ended: bool,
}

/// Times of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamTimes {
    pub(crate) first_event: Option<i64>,
    pub(crate) last_event: Option<i64>,
    pub(crate) last_ingestion: Option<i64>,
    pub(crate) last_seq: u64,
}

/// Events that were lost and not yet recorded as a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) last_ts: i64,
}

/// A log stream in memory. One exists per task, so it stays small.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    pub(crate) created: Timestamp,
    pub(crate) group: Weak<Group>,
    pub(crate) deleted: AtomicBool,
    pub(crate) queued_bytes: AtomicUsize,
    pub(crate) dropped: AtomicU64,
    pub(crate) times: Mutex<StreamTimes>,
    pub(crate) lost: Mutex<Lost>,
    /// Made by the first follower.
    pub(crate) progress: OnceLock<watch::Sender<Progress>>,
}

impl Stream {
    fn new(id: u32, name: &str, created: Timestamp, group: Weak<Group>) -> Self {
        Self {
            id,
            name: name.into(),
            created,
            group,
            deleted: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            times: Mutex::default(),
            lost: Mutex::default(),
            progress: OnceLock::new(),
        }
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn times(&self) -> MutexGuard<'_, StreamTimes> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lost(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells followers that nothing more will come.
    pub(crate) fn end(&self) {
        if let Some(progress) = self.progress.get() {
            progress.send_modify(|progress| progress.ended = true);
        }
    }
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) name: SegmentName,
    pub(crate) contents: Contents,
}

#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) meta: GroupMeta,
    pub(crate) streams: BTreeMap<Arc<str>, Arc<Stream>>,
    pub(crate) by_id: HashMap<u32, Arc<Stream>>,
    next_stream: u32,
    pub(crate) next_seq: u64,
    pub(crate) next_number: u64,
    pub(crate) sealed: Vec<Arc<Segment>>,
    pub(crate) active: Option<Active>,
}

/// A log group in memory.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) deleted: AtomicBool,
    state: Mutex<GroupState>,
}

/// What opening a group had to repair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repairs {
    pub(crate) torn_bytes: u64,
    pub(crate) corrupt_blocks: u64,
}

impl Group {
    pub(crate) fn dir_name(id: u64) -> String {
        format!("g{id:08}")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, GroupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn stream_log(&self) -> PathBuf {
        self.dir.join("streams.log")
    }

    /// Makes a group; it exists once its directory has its final name.
    pub(crate) fn create(root: &Path, id: u64, meta: GroupMeta) -> io::Result<Self> {
        let dir = root.join(Self::dir_name(id));
        let unfinished = dir.with_extension("new");
        fs::create_dir(&unfinished)?;
        let made = segment::write_atomically(&unfinished.join("group.json"), &serde_json::to_vec(&meta)?)
            .and_then(|()| fs::rename(&unfinished, &dir));
        if let Err(error) = made {
            // Best effort: what stays is removed when the store is opened next.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(error);
        }
        segment::sync_parent(&dir)?;
        Ok(Self { id, dir, deleted: AtomicBool::new(false), state: Mutex::new(GroupState::new(meta)) })
    }

    /// Reads a group back, repairing what a crash has left.
    pub(crate) fn open(root: &Path, id: u64) -> io::Result<(Arc<Self>, Repairs)> {
        let dir = root.join(Self::dir_name(id));
        let meta = serde_json::from_slice(&fs::read(dir.join("group.json"))?)?;
        let state = Mutex::new(GroupState::new(meta));
        let group = Arc::new(Self { id, dir, deleted: AtomicBool::new(false), state });
        let mut repairs = Repairs::default();
        {
            let mut state = group.lock();
            repairs.torn_bytes += group.read_streams(&mut state)?;
            group.read_segments(&mut state, &mut repairs)?;
            state.recount();
        }
        Ok((group, repairs))
    }

    /// Replaces the description of the group.
    pub(crate) fn write_meta(&self, meta: &GroupMeta) -> io::Result<()> {
        segment::write_atomically(&self.dir.join("group.json"), &serde_json::to_vec(meta)?)
    }

    /// Adds a stream, which must not exist.
    pub(crate) fn create_stream(
        self: &Arc<Self>,
        state: &mut GroupState,
        name: &str,
        now: Timestamp,
    ) -> io::Result<Arc<Stream>> {
        let id = state.next_stream;
        let line = encode_line(&StreamLine::Create { id, name: name.to_owned(), created: now })?;
        self.append_to_stream_log(&line)?;
        state.next_stream += 1;
        let stream = Arc::new(Stream::new(id, name, now, Arc::downgrade(self)));
        state.insert(stream.clone());
        Ok(stream)
    }

    /// Removes a stream; its events become dead weight that a sweep collects.
    pub(crate) fn delete_stream(&self, state: &mut GroupState, stream: &Stream) -> io::Result<()> {
        self.append_to_stream_log(&encode_line(&StreamLine::Delete { id: stream.id })?)?;
        state.streams.remove(&stream.name);
        state.by_id.remove(&stream.id);
        stream.deleted.store(true, Ordering::Release);
        stream.end();
        Ok(())
    }

    /// Appends one line; after an error the file is as it was.
    fn append_to_stream_log(&self, line: &[u8]) -> io::Result<()> {
        let mut file = File::options().append(true).create(true).open(self.stream_log())?;
        let length = file.metadata()?.len();
        neargate_failpoint::reach("telemetry::stream::before");
        file.write_all(line).inspect_err(|_| {
            // If even this fails, the half line has no valid checksum and is cut at the next open.
            let _ = file.set_len(length);
        })?;
        neargate_failpoint::reach("telemetry::stream::after");
        Ok(())
    }

    /// Replays the stream log. Returns how many bytes of a torn line were cut off.
    fn read_streams(self: &Arc<Self>, state: &mut GroupState) -> io::Result<u64> {
        let bytes = match fs::read(self.stream_log()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let (mut end, mut lines) = (0, 0);
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            let Some(line_read) = decode_line(line) else { break };
            end += line.len();
            lines += 1;
            match line_read {
                StreamLine::Create { id, name, created } => {
                    state.next_stream = state.next_stream.max(id.saturating_add(1));
                    state.insert(Arc::new(Stream::new(id, &name, created, Arc::downgrade(self))));
                }
                StreamLine::Delete { id } => {
                    if let Some(stream) = state.by_id.remove(&id) {
                        state.streams.remove(&stream.name);
                    }
                }
                StreamLine::Next { id } => state.next_stream = state.next_stream.max(id),
            }
        }
        if lines > state.by_id.len() + STREAM_LOG_SLACK {
            self.rewrite_stream_log(state)?;
        } else if end < bytes.len() {
            File::options().write(true).open(self.stream_log())?.set_len(end as u64)?;
        }
        Ok((bytes.len() - end) as u64)
    }

    fn rewrite_stream_log(&self, state: &GroupState) -> io::Result<()> {
        let mut bytes = encode_line(&StreamLine::Next { id: state.next_stream })?;
        for stream in state.streams.values() {
            let (id, name, created) = (stream.id, stream.name.to_string(), stream.created);
            bytes.extend(encode_line(&StreamLine::Create { id, name, created })?);
        }
        segment::write_atomically(&self.stream_log(), &bytes)
    }

    fn read_segments(&self, state: &mut GroupState, repairs: &mut Repairs) -> io::Result<()> {
        let names = self.segment_names()?;
        let last = names.last().copied();
        for name in names {
            state.next_number = name.number + 1;
            if let Some(segment) = Segment::open(&self.dir, name) {
                state.next_seq = state.next_seq.max(segment.last_seq + 1);
                state.sealed.push(Arc::new(segment));
                continue;
            }
            let (contents, torn, corrupt) = segment::recover(&name.path(&self.dir))?;
            repairs.torn_bytes += torn;
            repairs.corrupt_blocks += corrupt;
            state.next_seq = state.next_seq.max(contents.last_seq() + 1);
            if Some(name) == last {
                state.active = Some(Active { name, contents });
            } else {
                let segment = Segment::new(&self.dir, name, contents);
                segment.write_index()?;
                state.sealed.push(Arc::new(segment));
            }
        }
        Ok(())
    }

    /// The segments on the disk in order; removes older generations and what unfinished work has left.
    fn segment_names(&self) -> io::Result<Vec<SegmentName>> {
        let mut latest: BTreeMap<u64, SegmentName> = BTreeMap::new();
        let mut rest = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match SegmentName::parse(file_name) {
                Some(name) => {
                    let kept = latest.entry(name.number).or_insert(name);
                    *kept = (*kept).max(name);
                    rest.push((path, Some(name)));
                }
                None => rest.push((path, None)),
            }
        }
        for (path, name) in rest {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            let index_of = path.with_extension("seg");
            let index_of = index_of.file_name().and_then(|n| n.to_str()).and_then(SegmentName::parse);
            let is_latest =
                |name: Option<SegmentName>| name.is_some_and(|n| latest.get(&n.number) == Some(&n));
            let stale = match (name, extension) {
                (Some(name), _) => !is_latest(Some(name)),
                (None, "tmp") => true,
                (None, "idx") => !is_latest(index_of),
                (None, _) => false,
            };
            if stale {
                fs::remove_file(&path)?;
            }
        }
        Ok(latest.into_values().collect())
    }
}

impl GroupState {
    fn new(meta: GroupMeta) -> Self {
        Self {
            meta,
            streams: BTreeMap::new(),
            by_id: HashMap::new(),
            next_stream: 1,
            next_seq: 1,
            next_number: 1,
            sealed: Vec::new(),
            active: None,
        }
    }

    fn insert(&mut self, stream: Arc<Stream>) {
        self.by_id.insert(stream.id, stream.clone());
        self.streams.insert(stream.name.clone(), stream);
    }

    /// The streams whose names start with `prefix` and come after the name `after`, by name.
    pub(crate) fn named<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Stream>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let streams = self.streams.range::<str, _>((from, Bound::Unbounded));
        streams.take_while(move |(name, _)| name.starts_with(prefix)).map(|(_, stream)| stream)
    }

    /// What live streams take on the disk, in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let active = self.active.iter().map(|active| &active.contents.summaries);
        self.sealed
            .iter()
            .map(|segment| &segment.summaries)
            .chain(active)
            .flatten()
            .filter(|(id, _)| self.by_id.contains_key(id))
            .map(|(_, summary)| summary.bytes)
            .sum()
    }

    /// What all segments take on the disk, in bytes.
    pub(crate) fn total_bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.contents.length);
        self.sealed.iter().map(|segment| segment.length).sum::<u64>() + active
    }

    /// Derives the streams' times from the segments. The latest times never go back: that events have
    /// expired does not change when the last one came.
    pub(crate) fn recount(&mut self) {
        for stream in self.by_id.values() {
            stream.times().first_event = None;
        }
        let active = self.active.iter().map(|active| &active.contents.summaries);
        for (id, summary) in self.sealed.iter().map(|segment| &segment.summaries).chain(active).flatten() {
            let Some(stream) = self.by_id.get(id) else { continue };
            let mut times = stream.times();
            times.first_event = Some(times.first_event.map_or(summary.min_ts, |t| t.min(summary.min_ts)));
            times.last_event = times.last_event.max(Some(summary.max_ts));
            times.last_ingestion = times.last_ingestion.max(Some(summary.last_ingested));
            times.last_seq = times.last_seq.max(summary.last_seq);
        }
    }
}

/// `crc32 json\n`
fn encode_line(line: &StreamLine) -> io::Result<Vec<u8>> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
}

fn decode_line(line: &[u8]) -> Option<StreamLine> {
    let (crc, json) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let intact = u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(json.as_bytes());
    if intact { serde_json::from_str(json).ok() } else { None }
}
