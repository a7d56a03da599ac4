//! How much a task has written, and when it has written too much.
//!
//! What containers write to their roots and to volumes of their task lies below the task's scratch directory.
//! It is measured there, because most file systems that a machine comes with have no quota to ask for:
//! `ARCHITECTURE.md` says what was weighed. Between two measurements a task may go over its limit by as much
//! as it can write, so they come the faster the less is left.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use neargate_model::TaskId;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::files::TaskFiles;
use crate::scratch::Scratch;

/// What a disk may take up in a second, as far as the next measurement is concerned.
const WRITTEN_PER_S: u64 = 1 << 30;

/// The shortest and the longest time between two measurements, in seconds.
const PAUSE_S: (u64, u64) = (1, 10);

/// A measurement may take one part in so many of the time.
const EFFORT: u32 = 20;

/// What an entry of a directory counts at least, so that empty files are bounded, too, and with them the time
/// that a measurement takes.
const ENTRY_BYTES_MIN: u64 = 4096;

/// Directories below one another that are followed, each with a descriptor that is held meanwhile.
const DEPTH_MAX: usize = 256;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// What containers have nested cannot be followed to its end.
    #[error("directories are nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// A directory could not be read.
    #[error("look at what the task has written")]
    System {
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What tasks were last seen to have written, for those who tell of it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StorageUsage(Arc<Mutex<HashMap<TaskId, StorageUse>>>);

/// What a task has written, and how much it may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageUse {
    /// Bytes that it had written when it was last looked at, at most ten seconds ago.
    pub used_bytes: u64,
    /// Bytes that it may write.
    pub limit_bytes: u64,
}

impl StorageUsage {
    fn known(&self) -> MutexGuard<'_, HashMap<TaskId, StorageUse>> {
        // Every critical section is one call, so a panic elsewhere spoils nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a task that runs, is limited and was looked at.
    pub fn of(&self, task: &TaskId) -> Option<StorageUse> {
        self.known().get(task).copied()
    }

    /// Where measurements of a task are noted until it is dropped.
    pub(crate) fn note(&self, task: TaskId) -> StorageNote {
        StorageNote { usage: self.clone(), task }
    }
}

/// See [`StorageUsage::note`].
pub(crate) struct StorageNote {
    usage: StorageUsage,
    task: TaskId,
}

impl StorageNote {
    fn put(&self, used_bytes: u64, limit_bytes: u64) {
        self.usage.known().insert(self.task.clone(), StorageUse { used_bytes, limit_bytes });
    }
}

impl Drop for StorageNote {
    fn drop(&mut self) {
        self.usage.known().remove(&self.task);
    }
}

/// Returns once the task has written more than `limit` bytes, or what cannot be measured; the text is for people.
/// `turn` is held while something is measured, which goes to `note`.
pub(crate) async fn exceeds(
    scratch: Scratch,
    limit: u64,
    files: Arc<dyn TaskFiles>,
    turn: Arc<Semaphore>,
    note: StorageNote,
) -> String {
    let mut pause = pause(limit, Duration::ZERO);
    loop {
        tokio::time::sleep(pause).await;
        // Never closed.
        let turn = turn.acquire().await;
        let begun = Instant::now();
        let measured = measure(&scratch, limit, &files).await;
        drop(turn);
        pause = match measured {
            Ok(used) if used > limit => {
                return format!("Task used more than its ephemeral storage of {} GiB", limit >> 30);
            }
            Ok(used) => {
                note.put(used, limit);
                self::pause(limit - used, begun.elapsed())
            }
            Err(UsageError::TooDeep) => {
                return format!(
                    "Task nests directories deeper than {DEPTH_MAX}, so that its ephemeral storage cannot be measured"
                );
            }
            Err(error @ UsageError::System { .. }) => {
                tracing::warn!(error = neargate_model::chain(&error), "ephemeral storage was not measured");
                self::pause(limit, begun.elapsed())
            }
        };
    }
}

async fn measure(scratch: &Scratch, limit: u64, files: &Arc<dyn TaskFiles>) -> Result<u64, UsageError> {
    let (dir, files) = (scratch.dir().to_owned(), files.clone());
    let measured = tokio::task::spawn_blocking(move || files.usage(&dir, limit)).await;
    measured.unwrap_or_else(|panic| Err(UsageError::System { source: io::Error::other(panic) }))
}

fn pause(left: u64, took: Duration) -> Duration {
    let (shortest, longest) = PAUSE_S;
    Duration::from_secs((left / WRITTEN_PER_S).clamp(shortest, longest)).max(took * EFFORT)
}

/// Bytes on the disk of everything below a directory; stops counting above `enough`. No link is followed.
///
/// Containers go on writing meanwhile: what vanishes before it was looked at counts nothing. A file that was
/// removed and is still open is not seen.
pub(crate) fn usage(dir: &Path, enough: u64) -> Result<u64, UsageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::empty()) {
        Ok(dir) => usage_below(&dir, enough, 0),
        Err(Errno::NOENT) => Ok(0),
        Err(error) => Err(UsageError::System { source: error.into() }),
    }
}

fn usage_below(dir: &OwnedFd, enough: u64, depth: usize) -> Result<u64, UsageError> {
    if depth > DEPTH_MAX {
        return Err(UsageError::TooDeep);
    }
    let failed = |error: Errno| UsageError::System { source: error.into() };
    let mut used: u64 = 0;
    let entries = match Dir::read_from(dir) {
        Err(Errno::NOENT) => return Ok(0),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = match entry {
            // The directory itself was removed meanwhile.
            Err(Errno::NOENT) => break,
            entry => entry.map_err(failed)?,
        };
        let name = entry.file_name();
        if used > enough || matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => continue,
            stat => stat.map_err(failed)?,
        };
        let is_dir = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        // Blocks of 512 bytes (statx(2)). A file of several names counts once: a share at each.
        let names = if is_dir { 1 } else { stat.stx_nlink.max(1) };
        used += (stat.stx_blocks * 512 / u64::from(names)).max(ENTRY_BYTES_MIN);
        if is_dir {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            used += match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => 0,
                below => usage_below(&below.map_err(failed)?, enough.saturating_sub(used), depth + 1)?,
            };
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn only_what_takes_up_the_disk_counts() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(usage(&root.path().join("absent"), u64::MAX).unwrap(), 0);
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("file"), vec![1; MIB as usize]).unwrap();
        fs::hard_link(inner.join("file"), root.path().join("again")).unwrap();
        fs::File::create(root.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/", root.path().join("host")).unwrap();
        std::os::unix::fs::symlink("..", inner.join("up")).unwrap();
        let used = usage(root.path(), u64::MAX).unwrap();
        assert!((MIB..MIB + MIB / 2).contains(&used), "{used}");
        assert!(usage(root.path(), 1000).unwrap() > 1000);
    }

    #[test]
    fn nesting_without_end_is_told() {
        let root = tempfile::tempdir().unwrap();
        let nested = |depth: usize| root.path().join("d/".repeat(depth));
        fs::create_dir_all(nested(DEPTH_MAX)).unwrap();
        assert!(usage(root.path(), u64::MAX).is_ok());
        fs::create_dir_all(nested(DEPTH_MAX + 1)).unwrap();
        assert!(matches!(usage(root.path(), u64::MAX), Err(UsageError::TooDeep)));
    }

    #[test]
    fn the_less_is_left_the_sooner() {
        let check = |left_gib: u64, took_ms, expect_ms| {
            let pause = pause(left_gib << 30, Duration::from_millis(took_ms));
            assert_eq!(pause, Duration::from_millis(expect_ms), "{left_gib} GiB left");
        };
        check(200, 0, 10_000);
        check(10, 0, 10_000);
        check(4, 0, 4_000);
        check(0, 0, 1_000);
        check(0, 200, 4_000);
    }
}
