//! A file of blocks, and the sparse index that finds them.
//!
//! A segment belongs to a group and interleaves all its streams. Its index has two levels: a summary per
//! stream (does this segment matter, for which times), always in memory, and a list of *chunks*, runs of
//! about 64 KiB of blocks with their time range and the streams in them. The chunks of the segment being
//! written are in memory; when it is sealed they go to a file beside it and are read when needed.
//!
//! Names: `<number>-<generation>.seg` and `.idx`. Rewriting a segment makes the next generation; if a crash
//! leaves two, the higher one is complete and the lower is removed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::block::{self, Header};

/// A chunk is closed when it is this long, in bytes.
const CHUNK_BYTES: u64 = 64 << 10;

/// A run of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) min_ts: i64,
    pub(crate) max_ts: i64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// Sorted.
    pub(crate) streams: Vec<u32>,
}

/// What a segment has of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) bytes: u64,
    pub(crate) min_ts: i64,
    pub(crate) max_ts: i64,
    pub(crate) last_seq: u64,
    pub(crate) last_ingested: i64,
}

/// The index of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) length: u64,
    pub(crate) summaries: HashMap<u32, Summary>,
    pub(crate) chunks: Vec<Chunk>,
}

impl Contents {
    /// Adds a block that lies at `offset`, at or after the present end.
    pub(crate) fn add(&mut self, header: &Header, offset: u64, length: u64) {
        let last_seq = header.last_seq();
        self.length = offset + length;
        let summary = self.summaries.entry(header.stream).or_insert(Summary {
            bytes: 0,
            min_ts: header.min_ts,
            max_ts: header.max_ts,
            last_seq,
            last_ingested: header.ingested,
        });
        summary.bytes += length;
        summary.min_ts = summary.min_ts.min(header.min_ts);
        summary.max_ts = summary.max_ts.max(header.max_ts);
        summary.last_seq = last_seq;
        summary.last_ingested = summary.last_ingested.max(header.ingested);
        match self.chunks.last_mut() {
            Some(chunk) if chunk.length < CHUNK_BYTES => {
                chunk.length = offset + length - chunk.offset;
                chunk.min_ts = chunk.min_ts.min(header.min_ts);
                chunk.max_ts = chunk.max_ts.max(header.max_ts);
                chunk.last_seq = last_seq;
                if let Err(at) = chunk.streams.binary_search(&header.stream) {
                    chunk.streams.insert(at, header.stream);
                }
            }
            _ => self.chunks.push(Chunk {
                offset,
                length,
                min_ts: header.min_ts,
                max_ts: header.max_ts,
                first_seq: header.first_seq,
                last_seq,
                streams: vec![header.stream],
            }),
        }
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.chunks.last().map_or(0, |chunk| chunk.last_seq)
    }
}

/// A segment that is no longer written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    pub(crate) path: PathBuf,
    pub(crate) length: u64,
    pub(crate) summaries: HashMap<u32, Summary>,
    pub(crate) last_seq: u64,
    /// Present until the index file is written.
    chunks: Mutex<Option<Arc<Vec<Chunk>>>>,
    removed: AtomicBool,
}

/// The place of a segment in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) number: u64,
    pub(crate) generation: u32,
}

impl SegmentName {
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:08}-{}.seg", self.number, self.generation))
    }

    /// Reads a file name; `None` if it is not that of a segment.
    pub(crate) fn parse(file_name: &str) -> Option<Self> {
        let (number, generation) = file_name.strip_suffix(".seg")?.split_once('-')?;
        Some(Self { number: number.parse().ok()?, generation: generation.parse().ok()? })
    }
}

impl Segment {
    pub(crate) fn new(dir: &Path, name: SegmentName, contents: Contents) -> Self {
        Self {
            name,
            path: name.path(dir),
            length: contents.length,
            last_seq: contents.last_seq(),
            summaries: contents.summaries,
            chunks: Mutex::new(Some(Arc::new(contents.chunks))),
            removed: AtomicBool::new(false),
        }
    }

    /// Opens a sealed segment by its index file; `None` if that is missing or does not fit.
    pub(crate) fn open(dir: &Path, name: SegmentName) -> Option<Self> {
        let path = name.path(dir);
        let contents = read_index(&path.with_extension("idx")).ok()?;
        if fs::metadata(&path).ok()?.len() < contents.length {
            return None;
        }
        let segment = Self::new(dir, name, contents);
        *segment.chunks.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Some(segment)
    }

    /// When the latest event arrived.
    pub(crate) fn last_ingested(&self) -> i64 {
        self.summaries.values().map(|s| s.last_ingested).max().unwrap_or(i64::MIN)
    }

    pub(crate) fn chunks(&self) -> io::Result<Arc<Vec<Chunk>>> {
        let held = self.chunks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match held {
            Some(chunks) => Ok(chunks),
            None => Ok(Arc::new(read_index(&self.path.with_extension("idx"))?.chunks)),
        }
    }

    /// Writes the index file and forgets the chunks. The caller has synced the segment itself.
    pub(crate) fn write_index(&self) -> io::Result<()> {
        let held = self.chunks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(chunks) = held else { return Ok(()) };
        let contents =
            Contents { length: self.length, summaries: self.summaries.clone(), chunks: chunks.to_vec() };
        let body = serde_json::to_vec(&contents)?;
        let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
        bytes.extend_from_slice(&body);
        let path = self.path.with_extension("idx");
        if !self.removed.load(Ordering::Acquire) {
            write_atomically(&path, &bytes)?;
        }
        if self.removed.load(Ordering::Acquire) {
            return remove_if_there(&path);
        }
        *self.chunks.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Deletes the files. A reader that has not opened them yet sees `NotFound` and looks again.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.removed.store(true, Ordering::Release);
        remove_if_there(&self.path)?;
        remove_if_there(&self.path.with_extension("idx"))
    }
}

/// Indexes a segment by reading it all; cuts a torn end off the file. Returns the index, the bytes cut and
/// the broken blocks skipped.
pub(crate) fn recover(path: &Path) -> io::Result<(Contents, u64, u64)> {
    let bytes = fs::read(path)?;
    let mut contents = Contents::default();
    let (end, skipped) = block::walk(&bytes, |offset, found| {
        contents.add(&found.header, offset as u64, found.bytes.len() as u64);
    });
    let torn = (bytes.len() - end) as u64;
    if torn > 0 {
        let file = File::options().write(true).open(path)?;
        file.set_len(end as u64)?;
        file.sync_data()?;
    }
    contents.length = end as u64;
    Ok((contents, torn, skipped))
}

fn read_index(path: &Path) -> io::Result<Contents> {
    let bytes = fs::read(path)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the index of a segment is damaged");
    let (crc, body) = bytes.split_first_chunk::<4>().ok_or_else(wrong)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(wrong());
    }
    Ok(serde_json::from_slice(body)?)
}

/// Replaces the file at `path` so that after any crash it is the old one or the new one.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes the directory entry of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
