//! The store: groups, streams, and everything that is asked of them.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use neargate_model::Scope;

use crate::config::LogStoreConfig;
use crate::error::{MetaError, Missing, OpenError, PutError, What};
use crate::event::{InputEvent, Rejected, StoreStats, SweepReport};
use crate::group::{Group, GroupMeta, Stream};
use crate::queue::{Command, Queue};
use crate::rules;
use crate::stream_writer::StreamWriter;
use crate::writer::{Syncer, Writer};

/// What [`LogStore::open_writer`] may create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// Nothing: both must exist.
    Nothing,
    /// The stream, as the `awslogs` driver always does.
    Stream,
    /// The group too (`awslogs-create-group`), without retention.
    GroupAndStream,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events_written: AtomicU64,
    pub(crate) events_dropped: AtomicU64,
    write_errors: AtomicU64,
    torn_bytes: AtomicU64,
    corrupt_blocks: AtomicU64,
    unreadable_groups: AtomicU64,
}

/// What the threads, writers and followers of a store share.
pub(crate) struct Core {
    dir: PathBuf,
    pub(crate) config: LogStoreConfig,
    pub(crate) queue: Queue,
    pub(crate) syncer: Syncer,
    pub(crate) counters: Counters,
    pub(crate) sweeping: Mutex<()>,
    pub(crate) groups: RwLock<BTreeMap<(Scope, String), Arc<Group>>>,
    /// The id of the next group; held while groups are created or deleted.
    next_group: Mutex<u64>,
    /// Keeps other processes out until the last [`LogStore`] is gone; writers and followers may outlive it.
    lock: File,
}

/// A log store; clones share it. When the last one is dropped, what is queued is written and synced.
///
/// All functions block on the disk unless they say otherwise: asynchronous callers use `spawn_blocking`.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LogStore {
    /// Opens the store in `dir`, which is made if needed; repairs what a crash has left.
    pub fn open(dir: impl AsRef<Path>, config: LogStoreConfig) -> Result<Self, OpenError> {
        let core = Arc::new(Core::open(dir.as_ref(), config)?);
        let shared = Shared { core: core.clone(), threads: Mutex::default() };
        let writer = Writer::new(core.clone());
        // Kept in `shared` as they start, so that a failure of the second ends the first.
        let start = |name: &str, body: Box<dyn FnOnce() + Send>| {
            let handle =
                thread::Builder::new().name(name.to_owned()).spawn(body).map_err(OpenError::Thread)?;
            shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
            Ok(())
        };
        start("log-writer", Box::new(move || writer.run()))?;
        start("log-sync", Box::new(move || core.syncer.run(&core)))?;
        Ok(Self { shared: Arc::new(shared) })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.shared.core
    }

    /// Creates a group. It is durable when this returns.
    pub fn create_group(
        &self,
        scope: &Scope,
        name: &str,
        retention_days: Option<u32>,
    ) -> Result<(), MetaError> {
        retention_days.map_or(Ok(()), rules::check_retention)?;
        self.core().create_group(scope, name, retention_days).map(|_| ())
    }

    /// Deletes a group with its streams and events.
    pub fn delete_group(&self, scope: &Scope, name: &str) -> Result<(), MetaError> {
        self.core().delete_group(scope, name)
    }

    /// Keeps events for `days` days; those already older vanish at once.
    pub fn put_retention(&self, scope: &Scope, group: &str, days: u32) -> Result<(), MetaError> {
        rules::check_retention(days)?;
        self.core().set_retention(scope, group, Some(days))
    }

    /// Keeps events for ever.
    pub fn delete_retention(&self, scope: &Scope, group: &str) -> Result<(), MetaError> {
        self.core().set_retention(scope, group, None)
    }

    /// Creates a stream. A kill of this process does not undo it; a power failure within a second may.
    pub fn create_stream(&self, scope: &Scope, group: &str, stream: &str) -> Result<(), MetaError> {
        rules::check_stream_name(stream)?;
        let group = self.core().group(scope, group)?;
        match self.core().create_stream(&group, stream)? {
            (_, true) => Ok(()),
            (_, false) => Err(MetaError::AlreadyExists { what: What::Stream, name: stream.to_owned() }),
        }
    }

    /// Deletes a stream with its events; the next sweep gives their space back.
    pub fn delete_stream(&self, scope: &Scope, group: &str, stream: &str) -> Result<(), MetaError> {
        let group = self.core().group(scope, group)?;
        let mut state = group.lock();
        let found = find_stream(state.streams.get(stream), stream)?;
        group.delete_stream(&mut state, &found).map_err(|source| MetaError::Io {
            what: What::Stream,
            name: stream.to_owned(),
            source,
        })?;
        drop(state);
        self.core().syncer.sync_stream_log(&group);
        Ok(())
    }

    /// Stores a batch by the rules of `PutLogEvents`. What was accepted is with the kernel when this
    /// returns, so it survives a kill of this process.
    pub fn put_events(
        &self,
        scope: &Scope,
        group: &str,
        stream: &str,
        events: &[InputEvent],
    ) -> Result<Rejected, PutError> {
        let core = self.core();
        let found = core.group(scope, group)?;
        let target = find_stream(found.lock().streams.get(stream), stream)?;
        let now = (core.config.clock)();
        let cutoff = found.lock().meta.cutoff(now);
        let rejected = rules::check_batch(events, now, cutoff)?;
        let valid = rejected.valid(events);
        if valid.is_empty() {
            return Ok(rejected);
        }
        let messages = valid.iter().map(|event| (event.timestamp.as_millis(), event.message.as_bytes()));
        let (done, outcome) = sync_channel(1);
        let closed = || PutError::Closed { stream: stream.to_owned() };
        if core.queue.put(&found, &target, messages, done).is_err() {
            let gone = Missing(What::Stream, stream.to_owned());
            return Err(if target.is_deleted() { gone.into() } else { closed() });
        }
        match outcome.recv() {
            Ok(Ok(())) => Ok(rejected),
            Ok(Err(source)) => Err(PutError::Unavailable { stream: stream.to_owned(), source }),
            Err(_) => Err(closed()),
        }
    }

    /// Opens a stream for a log pump, creating what `create` allows.
    pub fn open_writer(
        &self,
        scope: &Scope,
        group: &str,
        stream: &str,
        create: Create,
    ) -> Result<StreamWriter, MetaError> {
        let core = self.core();
        let found = match core.group(scope, group) {
            Err(_) if create == Create::GroupAndStream => match core.create_group(scope, group, None) {
                Err(MetaError::AlreadyExists { .. }) => core.group(scope, group)?,
                made => made?,
            },
            found => found?,
        };
        let target = if create == Create::Nothing {
            find_stream(found.lock().streams.get(stream), stream)?
        } else {
            rules::check_stream_name(stream)?;
            core.create_stream(&found, stream)?.0
        };
        Ok(StreamWriter::new(core.clone(), target))
    }

    /// Returns when everything appended before is with the kernel, or was counted as lost.
    pub fn flush(&self) {
        let (done, outcome) = sync_channel(1);
        if self.core().queue.wait_written(done) {
            // The outcome of a flush is told by the counters.
            let _ = outcome.recv();
        }
    }

    /// As [`flush`](Self::flush), without blocking; at once when nothing is queued.
    pub async fn flush_async(&self) {
        if let Some(written) = self.core().queue.written() {
            let _ = written.await;
        }
    }

    /// Gives back the space of what has expired or was deleted, and enforces the limit on the whole store.
    pub fn sweep(&self) -> SweepReport {
        self.core().sweep()
    }

    /// What the store has done and how large it is.
    pub fn stats(&self) -> StoreStats {
        let core = self.core();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            events_written: read(&core.counters.events_written),
            events_dropped: read(&core.counters.events_dropped),
            write_errors: read(&core.counters.write_errors),
            corrupt_blocks: read(&core.counters.corrupt_blocks),
            torn_bytes: read(&core.counters.torn_bytes),
            unreadable_groups: read(&core.counters.unreadable_groups),
            total_bytes: core.total_bytes(),
            queued_bytes: core.queue.queued_bytes(),
        }
    }

    /// Writes and syncs what is queued, ends followers and refuses further appends; reading goes on.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("dir", &self.core().dir).finish_non_exhaustive()
    }
}

impl Shared {
    fn close(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        self.core.queue.close();
        for (index, thread) in threads.drain(..).enumerate() {
            if index == 1 {
                self.core.syncer.close();
            }
            if thread.join().is_err() {
                tracing::error!(dir = %self.core.dir.display(), "a thread of the log store has panicked");
            }
        }
        for group in self.core.all_groups() {
            group.lock().by_id.values().for_each(|stream| stream.end());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
        if let Err(error) = self.core.lock.unlock() {
            tracing::warn!(dir = %self.core.dir.display(), %error, "unlock log store");
        }
    }
}

impl Core {
    fn open(dir: &Path, config: LogStoreConfig) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let lock_path = dir.join("LOCK");
        let lock = File::options().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(failed(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse { dir: dir.to_owned() },
            TryLockError::Error(source) => OpenError::Io { path: lock_path, source },
        })?;
        let core = Self {
            dir: dir.to_owned(),
            queue: Queue::new(config.queue_bytes, config.stream_queue_bytes),
            config,
            syncer: Syncer::default(),
            counters: Counters::default(),
            sweeping: Mutex::default(),
            groups: RwLock::default(),
            next_group: Mutex::new(1),
            lock,
        };
        core.read_groups().map_err(failed(dir))?;
        Ok(core)
    }

    /// Opens all groups. One that cannot be read is left alone: the others are worth having.
    fn read_groups(&self) -> io::Result<()> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.next_group();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".new") || name.ends_with(".deleted") {
                fs::remove_dir_all(&path)?;
                continue;
            }
            let Some(id) = name.strip_prefix('g').and_then(|id| id.parse::<u64>().ok()) else { continue };
            *next = (*next).max(id + 1);
            match Group::open(&self.dir, id) {
                Ok((group, repairs)) => {
                    self.counters.torn_bytes.fetch_add(repairs.torn_bytes, Ordering::Relaxed);
                    self.counters.corrupt_blocks.fetch_add(repairs.corrupt_blocks, Ordering::Relaxed);
                    let key = {
                        let state = group.lock();
                        (state.meta.scope.clone(), state.meta.name.clone())
                    };
                    groups.insert(key, group);
                }
                Err(error) => {
                    self.counters.unreadable_groups.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(path = %path.display(), %error, "open log group");
                }
            }
        }
        Ok(())
    }

    fn next_group(&self) -> MutexGuard<'_, u64> {
        self.next_group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all_groups(&self) -> Vec<Arc<Group>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn group(&self, scope: &Scope, name: &str) -> Result<Arc<Group>, Missing> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let found = groups.get(&(scope.clone(), name.to_owned())).cloned();
        found.ok_or_else(|| Missing(What::Group, name.to_owned()))
    }

    /// Counts a refusal of the kernel and tells about it; losses are counted where they happen.
    pub(crate) fn note_write_error(&self, attempt: &'static str, path: &Path, error: &io::Error) {
        self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(attempt, path = %path.display(), %error, "log store");
    }

    fn create_group(
        &self,
        scope: &Scope,
        name: &str,
        retention_days: Option<u32>,
    ) -> Result<Arc<Group>, MetaError> {
        rules::check_group_name(name)?;
        let mut next = self.next_group();
        if self.group(scope, name).is_ok() {
            return Err(MetaError::AlreadyExists { what: What::Group, name: name.to_owned() });
        }
        let created = (self.config.clock)();
        let meta = GroupMeta { scope: scope.clone(), name: name.to_owned(), created, retention_days };
        let group = Group::create(&self.dir, *next, meta).map_err(|source| group_io(name, source))?;
        *next += 1;
        let group = Arc::new(group);
        let key = (scope.clone(), name.to_owned());
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(key, group.clone());
        Ok(group)
    }

    fn delete_group(&self, scope: &Scope, name: &str) -> Result<(), MetaError> {
        let _next = self.next_group();
        let group = self.group(scope, name)?;
        group.deleted.store(true, Ordering::Release);
        let doomed = group.dir.with_extension("deleted");
        if let Err(source) = fs::rename(&group.dir, &doomed) {
            group.deleted.store(false, Ordering::Release);
            return Err(group_io(name, source));
        }
        let key = (scope.clone(), name.to_owned());
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        {
            let mut state = group.lock();
            for stream in state.by_id.values() {
                stream.deleted.store(true, Ordering::Release);
                stream.end();
            }
            state.by_id.clear();
            state.streams.clear();
            state.sealed.clear();
            state.active = None;
        }
        let (done, wait) = sync_channel(1);
        if self.queue.command(Command::Forget(group.id, done)) {
            // An error means that the store is closing, which closes the files too.
            let _ = wait.recv();
        }
        // Past the rename the group is gone; what cannot be removed now is removed at the next open.
        let removed = crate::segment::sync_parent(&doomed).and_then(|()| fs::remove_dir_all(&doomed));
        removed.map_err(|source| group_io(name, source))
    }

    fn set_retention(&self, scope: &Scope, name: &str, days: Option<u32>) -> Result<(), MetaError> {
        let group = self.group(scope, name)?;
        let mut state = group.lock();
        let meta = GroupMeta { retention_days: days, ..state.meta.clone() };
        group.write_meta(&meta).map_err(|source| group_io(name, source))?;
        state.meta = meta;
        Ok(())
    }

    /// Finds or creates a stream, and says whether it is new.
    fn create_stream(&self, group: &Arc<Group>, name: &str) -> Result<(Arc<Stream>, bool), MetaError> {
        let mut state = group.lock();
        if let Some(stream) = state.streams.get(name) {
            return Ok((stream.clone(), false));
        }
        if group.is_deleted() {
            return Err(Missing(What::Group, state.meta.name.clone()).into());
        }
        let made = group.create_stream(&mut state, name, (self.config.clock)());
        drop(state);
        let what = What::Stream;
        let stream = made.map_err(|source| MetaError::Io { what, name: name.to_owned(), source })?;
        self.syncer.sync_stream_log(group);
        Ok((stream, true))
    }
}

fn group_io(name: &str, source: io::Error) -> MetaError {
    MetaError::Io { what: What::Group, name: name.to_owned(), source }
}

pub(crate) fn find_stream(found: Option<&Arc<Stream>>, name: &str) -> Result<Arc<Stream>, Missing> {
    found.cloned().ok_or_else(|| Missing(What::Stream, name.to_owned()))
}
