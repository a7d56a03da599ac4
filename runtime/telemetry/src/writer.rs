//! The two threads of a store: one writes what was queued, the other makes it durable.
//!
//! The writer is the only one who appends to segments and assigns sequence numbers, so events need no lock
//! while they are written. It never waits for the disk: syncing is the other thread's work.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::block::{Encoder, Header};
use crate::config::SYNC_INTERVAL;
use crate::group::{Active, Group, Lost, Progress, Stream};
use crate::queue::{Batch, Command, Entry, EntryKind, cost};
use crate::segment::{Contents, Segment, SegmentName};
use crate::store::Core;

/// How many segments are held open for writing; opening one anew costs some 10 µs.
const FILES_MAX: usize = 128;

/// What the sync thread has to do.
#[derive(Debug, Default)]
struct Due {
    stream_logs: HashSet<PathBuf>,
    segments: HashSet<PathBuf>,
    sealed: Vec<Arc<Segment>>,
    closing: bool,
}

/// The list of files that the kernel has and the disk perhaps not.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    due: Mutex<Due>,
    wake: Condvar,
}

impl Syncer {
    fn with(&self, change: impl FnOnce(&mut Due)) {
        change(&mut self.due.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    pub(crate) fn sync_stream_log(&self, group: &Group) {
        self.with(|due| {
            due.stream_logs.insert(group.stream_log());
        });
    }

    pub(crate) fn index(&self, segment: Arc<Segment>) {
        self.with(|due| due.sealed.push(segment));
    }

    pub(crate) fn close(&self) {
        self.with(|due| due.closing = true);
    }

    /// The body of the sync thread; ends after `close`, with everything synced.
    pub(crate) fn run(&self, core: &Core) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let idle = |due: &mut Due| {
                due.stream_logs.is_empty() && due.segments.is_empty() && due.sealed.is_empty() && !due.closing
            };
            due = self.wake.wait_while(due, idle).unwrap_or_else(PoisonError::into_inner);
            let gather = self.wake.wait_timeout_while(due, SYNC_INTERVAL, |due| !due.closing);
            due = gather.unwrap_or_else(PoisonError::into_inner).0;
            let closing = due.closing;
            let work = std::mem::take(&mut *due);
            drop(due);
            sync(core, work);
            if closing {
                return;
            }
            due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Syncs stream logs before segments: events whose stream is unknown would be dead.
fn sync(core: &Core, due: Due) {
    neargate_failpoint::reach("telemetry::sync::before");
    for path in due.stream_logs.iter().chain(&due.segments) {
        // Any descriptor syncs the whole file (fsync(2)), so none needs to be kept open for this.
        match File::open(path).and_then(|file| file.sync_data()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                core.note_write_error("sync", path, &error)
            }
            _ => {}
        }
    }
    neargate_failpoint::reach("telemetry::sync::after");
    for segment in due.sealed {
        let written =
            File::open(&segment.path).and_then(|file| file.sync_data()).and_then(|()| segment.write_index());
        match written {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                core.note_write_error("index", &segment.path, &error);
            }
            _ => {}
        }
    }
}

/// A segment open for writing.
struct OpenFile {
    name: SegmentName,
    file: File,
    last_used: u64,
}

pub(crate) struct Writer {
    core: Arc<Core>,
    files: HashMap<u64, OpenFile>,
    uses: u64,
    buffer: Vec<u8>,
}

/// The entries of one stream in a batch.
struct Slot {
    stream: Arc<Stream>,
    entries: Vec<usize>,
}

/// A block as it lies in the buffer.
struct Written {
    header: Header,
    offset: usize,
    length: usize,
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, files: HashMap::new(), uses: 0, buffer: Vec::new() }
    }

    /// The body of the writer thread; ends when the queue is closed and empty.
    pub(crate) fn run(mut self) {
        while let Some(batch) = self.core.queue.take() {
            self.write(batch);
        }
    }

    fn write(&mut self, mut batch: Batch) {
        let closing = self.core.queue.is_closing();
        for stream in std::mem::take(&mut batch.gaps) {
            let lost = std::mem::take(&mut *stream.lost());
            if lost.events > 0 {
                batch.push_gap(&stream, lost);
            }
        }
        let mut failed: HashMap<u64, Arc<io::Error>> = HashMap::new();
        for (group, slots) in by_group(&batch) {
            if let Err(error) = self.write_group(&group, &batch, &slots) {
                self.core.note_write_error("write", &group.dir, &error);
                if !closing {
                    self.lose(&batch, &slots);
                }
                failed.insert(group.id, Arc::new(error));
            }
        }
        for (index, entry) in batch.entries.iter().enumerate() {
            entry.stream.queued_bytes.fetch_sub(cost(message(&batch, index)), Ordering::Relaxed);
        }
        self.core.queue.make_room();
        for waiter in batch.waiters {
            let error = waiter.group.and_then(|group| failed.get(&group.id).cloned());
            // Who no longer waits does not want to know.
            let _ = waiter.done.try_send(error.map_or(Ok(()), Err));
        }
        for flush in batch.flushes {
            let _ = flush.send(());
        }
        for command in batch.commands {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        let done = match command {
            Command::Seal(group, done) => {
                self.seal(&group);
                done
            }
            Command::Forget(group, done) => {
                self.files.remove(&group);
                done
            }
        };
        let _ = done.try_send(());
    }

    /// Writes the slots of one group with one write.
    fn write_group(&mut self, group: &Arc<Group>, batch: &Batch, slots: &[Slot]) -> io::Result<()> {
        if group.is_deleted() {
            return Ok(());
        }
        let now = (self.core.config.clock)().as_millis();
        let (first_seq, name, length) = {
            let mut state = group.lock();
            if state.active.is_none() {
                let name = SegmentName { number: state.next_number, generation: 0 };
                state.next_number += 1;
                state.active = Some(Active { name, contents: Contents::default() });
            }
            let active = state.active.as_ref().map(|active| (active.name, active.contents.length));
            let (name, length) = active.unwrap_or((SegmentName { number: 0, generation: 0 }, 0));
            (state.next_seq, name, length)
        };
        let blocks = self.encode(batch, slots, first_seq, now);
        if blocks.is_empty() {
            return Ok(());
        }
        neargate_failpoint::reach("telemetry::append::before");
        self.append(group, name, length)?;
        neargate_failpoint::reach("telemetry::append::after");
        self.publish(group, &blocks, length, now);
        if length + self.buffer.len() as u64 >= self.core.config.segment_bytes {
            self.seal(group);
        }
        Ok(())
    }

    /// Fills the buffer with the blocks of the slots.
    fn encode(&mut self, batch: &Batch, slots: &[Slot], mut seq: u64, now: i64) -> Vec<Written> {
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        let mut blocks = Vec::with_capacity(slots.len());
        for slot in slots.iter().filter(|slot| !slot.stream.is_deleted()) {
            let mut entries = slot.entries.iter().peekable();
            while entries.peek().is_some() {
                let offset = self.buffer.len();
                let mut encoder = Encoder::new(&mut self.buffer, slot.stream.id, seq, now);
                while let Some(&entry) = entries.next_if(|_| !encoder.is_full()) {
                    let Entry { timestamp, kind, .. } = &batch.entries[entry];
                    encoder.push(*timestamp, matches!(kind, EntryKind::Gap(_)), message(batch, entry));
                }
                let (header, length) = encoder.finish();
                seq += u64::from(header.events);
                blocks.push(Written { header, offset, length });
            }
        }
        blocks
    }

    /// Appends the buffer to the active segment. After an error the file is as long as before.
    fn append(&mut self, group: &Group, name: SegmentName, length: u64) -> io::Result<()> {
        self.uses += 1;
        let uses = self.uses;
        if self.files.get(&group.id).is_none_or(|open| open.name != name) {
            self.open(group, name, length)?;
        }
        let Some(open) = self.files.get_mut(&group.id) else { return Ok(()) };
        open.last_used = uses;
        let Err(error) = open.file.write_all(&self.buffer) else { return Ok(()) };
        if open.file.set_len(length).is_err() {
            // The index does not know the half-written rest; nothing may come after it.
            self.abandon(group);
        }
        self.files.remove(&group.id);
        Err(error)
    }

    fn open(&mut self, group: &Group, name: SegmentName, length: u64) -> io::Result<()> {
        if self.files.len() >= FILES_MAX {
            let oldest = self.files.iter().min_by_key(|(_, open)| open.last_used).map(|(id, _)| *id);
            oldest.map(|id| self.files.remove(&id));
        }
        let path = name.path(&group.dir);
        let fresh = !path.exists();
        let file = File::options().append(true).create(true).open(&path)?;
        if file.metadata()?.len() != length && file.set_len(length).is_err() || fresh && length > 0 {
            self.abandon(group);
            return Err(io::Error::other("the segment is not as it was written"));
        }
        if fresh {
            crate::segment::sync_parent(&path)?;
        }
        self.files.insert(group.id, OpenFile { name, file, last_used: self.uses });
        Ok(())
    }

    /// Makes written blocks visible to readers and wakes followers.
    fn publish(&self, group: &Group, blocks: &[Written], base: u64, now: i64) {
        let mut state = group.lock();
        let Some(active) = state.active.as_mut() else { return };
        let path = active.name.path(&group.dir);
        for block in blocks {
            active.contents.add(&block.header, base + block.offset as u64, block.length as u64);
        }
        if let Some(last) = blocks.last() {
            state.next_seq = last.header.last_seq() + 1;
        }
        let mut events = 0;
        for Written { header, .. } in blocks {
            events += u64::from(header.events);
            let Some(stream) = state.by_id.get(&header.stream) else { continue };
            {
                let mut times = stream.times();
                times.first_event = Some(times.first_event.map_or(header.min_ts, |t| t.min(header.min_ts)));
                times.last_event = times.last_event.max(Some(header.max_ts));
                times.last_ingestion = Some(now);
                times.last_seq = header.last_seq();
            }
            if let Some(progress) = stream.progress.get() {
                progress.send_modify(|progress: &mut Progress| progress.last_seq = header.last_seq());
            }
        }
        drop(state);
        self.core.counters.events_written.fetch_add(events, Ordering::Relaxed);
        self.core.syncer.with(|due| {
            due.segments.insert(path);
        });
    }

    /// Counts the lines of a failed write and puts lost gaps back.
    fn lose(&self, batch: &Batch, slots: &[Slot]) {
        for slot in slots.iter().filter(|slot| !slot.stream.is_deleted()) {
            let mut fresh = Lost::default();
            let mut known = Lost::default();
            for &index in &slot.entries {
                let entry = &batch.entries[index];
                let (into, events, bytes) = match entry.kind {
                    EntryKind::Line => (&mut fresh, 1, message(batch, index).len() as u64),
                    EntryKind::Gap(lost) => (&mut known, lost.events, lost.bytes),
                    EntryKind::Put => continue,
                };
                into.events += events;
                into.bytes += bytes;
                into.last_ts = entry.timestamp;
            }
            if known.events > 0 {
                self.core.queue.record_lost(&slot.stream, known);
            }
            if fresh.events > 0 {
                self.core.lose(&slot.stream, fresh);
            }
        }
    }

    /// Gives up the active segment; the next write starts another.
    fn abandon(&self, group: &Group) {
        self.seal_active(group);
        group.lock().active = None;
    }

    fn seal(&mut self, group: &Group) {
        self.files.remove(&group.id);
        self.seal_active(group);
    }

    fn seal_active(&self, group: &Group) {
        let mut state = group.lock();
        let Some(Active { name, contents }) = state.active.take() else { return };
        if contents.length == 0 {
            state.active = Some(Active { name, contents });
            return;
        }
        let segment = Arc::new(Segment::new(&group.dir, name, contents));
        state.sealed.push(segment.clone());
        drop(state);
        self.core.syncer.index(segment);
    }
}

fn message(batch: &Batch, index: usize) -> &[u8] {
    let start = if index == 0 { 0 } else { batch.entries[index - 1].end };
    &batch.arena[start..batch.entries[index].end]
}

/// Sorts the entries of a batch by group and stream; entries of one stream stay in order.
fn by_group(batch: &Batch) -> Vec<(Arc<Group>, Vec<Slot>)> {
    let mut slot_of: HashMap<*const Stream, usize> = HashMap::new();
    let mut slots: Vec<Slot> = Vec::new();
    for (index, entry) in batch.entries.iter().enumerate() {
        let slot = *slot_of.entry(Arc::as_ptr(&entry.stream)).or_insert_with(|| {
            slots.push(Slot { stream: entry.stream.clone(), entries: Vec::new() });
            slots.len() - 1
        });
        slots[slot].entries.push(index);
    }
    let mut groups: BTreeMap<u64, (Arc<Group>, Vec<Slot>)> = BTreeMap::new();
    for slot in slots {
        // The group is gone when it was deleted: so are its events.
        let Some(group) = slot.stream.group.upgrade() else { continue };
        groups.entry(group.id).or_insert_with(|| (group, Vec::new())).1.push(slot);
    }
    groups.into_values().collect()
}
