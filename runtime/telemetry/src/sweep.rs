//! Giving space back: expired events, deleted streams, and the limit on the whole store.
//!
//! The unit of removal is the segment. One in which nothing is alive is deleted; one in which more than
//! half is dead is rewritten without it. Readers filter what is dead but still there, so a sweep changes
//! no answer, only the space; the owner calls it now and then, for example every minute.

use std::fs::{self, File};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError};

use crate::block;
use crate::event::SweepReport;
use crate::group::{Group, GroupState};
use crate::queue::Command;
use crate::segment::{Contents, Segment, SegmentName, Summary, write_atomically};
use crate::store::Core;

/// An active segment smaller than this is not sealed merely because half of it is dead, in bytes.
const SEAL_BYTES_MIN: u64 = 1 << 20;

/// What a sweep would do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Rewrite,
    Remove,
}

impl Core {
    pub(crate) fn sweep(&self) -> SweepReport {
        let _one = self.sweeping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = SweepReport::default();
        let groups = self.all_groups();
        for group in &groups {
            self.sweep_group(group, &mut report);
        }
        if let Some(limit) = self.config.total_bytes_max {
            self.evict(&groups, limit, &mut report);
        }
        report
    }

    fn sweep_group(&self, group: &Arc<Group>, report: &mut SweepReport) {
        let active = |state: &GroupState| {
            let cutoff = state.meta.cutoff((self.config.clock)());
            let active = state.active.as_ref().filter(|active| active.contents.length > 0)?;
            let verdict = judge(state, active.contents.summaries.iter(), cutoff);
            Some((verdict, active.contents.length))
        };
        let verdict = active(&group.lock());
        if let Some((verdict, length)) = verdict
            && (verdict == Verdict::Remove || verdict == Verdict::Rewrite && length >= SEAL_BYTES_MIN)
        {
            self.seal(group);
        }
        let sealed: Vec<_> = {
            let state = group.lock();
            let cutoff = state.meta.cutoff((self.config.clock)());
            let judged = state.sealed.iter().map(|s| (s.clone(), judge(&state, s.summaries.iter(), cutoff)));
            judged.filter(|(_, verdict)| *verdict != Verdict::Keep).collect()
        };
        let before = group.lock().total_bytes();
        let swept = !sealed.is_empty();
        for (segment, verdict) in sealed {
            let done = match verdict {
                Verdict::Remove => remove(group, &segment).map(|()| report.segments_removed += 1),
                Verdict::Rewrite => self.rewrite(group, &segment).map(|()| report.segments_rewritten += 1),
                Verdict::Keep => Ok(()),
            };
            if let Err(error) = done {
                self.note_write_error("sweep", &segment.path, &error);
                report.errors += 1;
            }
        }
        if swept {
            let mut state = group.lock();
            state.recount();
            report.bytes_reclaimed += before.saturating_sub(state.total_bytes());
        }
    }

    /// Lets the writer seal the active segment of `group`, and waits for it.
    fn seal(&self, group: &Arc<Group>) {
        let (done, wait) = sync_channel(1);
        if self.queue.command(Command::Seal(group.clone(), done)) {
            // An error means that the store is closing, and then nothing is sealed.
            let _ = wait.recv();
        }
    }

    /// Removes the segments with the oldest arrivals until the store is within `limit`.
    fn evict(&self, groups: &[Arc<Group>], limit: u64, report: &mut SweepReport) {
        let total: u64 = groups.iter().map(|group| group.lock().total_bytes()).sum();
        let mut excess = total.saturating_sub(limit);
        if excess == 0 {
            return;
        }
        let mut candidates = Vec::new();
        for group in groups {
            let state = group.lock();
            candidates
                .extend(state.sealed.iter().map(|s| (s.last_ingested(), group.clone(), Some(s.clone()))));
            let newest = |s: &Contents| s.summaries.values().map(|s| s.last_ingested).max();
            if let Some(last) = state.active.as_ref().and_then(|active| newest(&active.contents)) {
                candidates.push((last, group.clone(), None));
            }
        }
        candidates.sort_by_key(|(last, ..)| *last);
        for (_, group, segment) in candidates {
            if excess == 0 {
                return;
            }
            let segment = segment.or_else(|| {
                self.seal(&group);
                group.lock().sealed.last().cloned()
            });
            let Some(segment) = segment else { continue };
            match remove(&group, &segment) {
                Ok(()) => {
                    excess = excess.saturating_sub(segment.length);
                    report.segments_removed += 1;
                    report.bytes_reclaimed += segment.length;
                    group.lock().recount();
                }
                Err(error) => {
                    self.note_write_error("sweep", &segment.path, &error);
                    report.errors += 1;
                }
            }
        }
    }

    /// Writes the live blocks of a segment to its next generation and puts that in its place.
    fn rewrite(&self, group: &Group, segment: &Arc<Segment>) -> io::Result<()> {
        let bytes = fs::read(&segment.path)?;
        let (live, cutoff) = {
            let state = group.lock();
            (
                state.by_id.keys().copied().collect::<std::collections::HashSet<_>>(),
                state.meta.cutoff((self.config.clock)()),
            )
        };
        let mut kept = Vec::new();
        let mut contents = Contents::default();
        let end = usize::try_from(segment.length).unwrap_or(usize::MAX).min(bytes.len());
        block::walk(&bytes[..end], |_, block| {
            if live.contains(&block.header.stream) && block.header.max_ts >= cutoff {
                contents.add(&block.header, kept.len() as u64, block.bytes.len() as u64);
                kept.extend_from_slice(block.bytes);
            }
        });
        let name = SegmentName { generation: segment.name.generation + 1, ..segment.name };
        let next = Arc::new(Segment::new(&group.dir, name, contents));
        write_atomically(&next.path, &kept)?;
        {
            let mut state = group.lock();
            match state.sealed.iter_mut().find(|held| held.name == segment.name) {
                Some(held) => *held = next.clone(),
                // The group was deleted meanwhile, and its directory with it.
                None => return next.remove(),
            }
        }
        self.syncer.index(next);
        segment.remove()
    }
}

/// Takes a segment from the index and from the disk.
fn remove(group: &Group, segment: &Segment) -> io::Result<()> {
    // Files first: a segment that cannot be removed stays visible, and the next sweep tries again.
    segment.remove()?;
    group.lock().sealed.retain(|held| held.name != segment.name);
    match File::open(&group.dir).and_then(|dir| dir.sync_all()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn judge<'a>(
    state: &GroupState,
    summaries: impl Iterator<Item = (&'a u32, &'a Summary)>,
    cutoff: i64,
) -> Verdict {
    let (mut live, mut dead) = (0, 0);
    for (id, summary) in summaries {
        if state.by_id.contains_key(id) && summary.max_ts >= cutoff {
            live += summary.bytes;
        } else {
            dead += summary.bytes;
        }
    }
    match (live, dead) {
        (0, _) => Verdict::Remove,
        _ if dead > live => Verdict::Rewrite,
        _ => Verdict::Keep,
    }
}

impl Core {
    /// Sums what all groups hold.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.all_groups().iter().map(|group| group.lock().total_bytes()).sum()
    }

    /// Counts lost events and remembers them for a gap.
    pub(crate) fn lose(&self, stream: &Arc<crate::group::Stream>, lost: crate::group::Lost) {
        self.counters.events_dropped.fetch_add(lost.events, Ordering::Relaxed);
        stream.dropped.fetch_add(lost.events, Ordering::Relaxed);
        self.queue.record_lost(stream, lost);
    }
}
