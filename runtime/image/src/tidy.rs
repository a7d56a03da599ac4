//! Making room: names of pulled images that nobody has used for long are removed, with what no other name needs.
//!
//! Only what was pulled can be pulled again, so that images that were imported or packed stay until somebody removes them.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use neargate_model::image::ImageReference;
use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, futimens};

use crate::error::{RemoveError, at};
use crate::gc::Reclaimed;
use crate::record;
use crate::store::ImageStore;

/// How much may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TidyOptions {
    /// What was used within this time stays.
    pub unused: Duration,
    /// The most names that are removed at a time, so that one look does not hold up imports for long.
    pub images_max: usize,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Names.
    pub names: Vec<ImageReference>,
    /// Blobs and layers, with those that were left by others before.
    pub reclaimed: Reclaimed,
}

/// Notes that the image of a record is used.
pub(crate) fn touch(record: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    // Of a record that cannot be touched the last use is earlier, which costs another pull at worst.
    let touched = File::open(record).and_then(|file| Ok(futimens(file, &times)?));
    if let Err(error) = touched {
        tracing::debug!(record = %record.display(), %error, "use of an image is not noted");
    }
}

impl ImageStore {
    /// Removes names of pulled images whose last use is long ago, the longest first, and never one that a task holds.
    pub fn tidy(&self, options: TidyOptions) -> Result<Tidied, RemoveError> {
        let shared = &self.shared;
        let lock = shared.lock(FlockOperation::LockExclusive)?;
        let held: HashSet<_> = shared.live_pins()?.into_iter().collect();
        let now = SystemTime::now();
        let mut unused = Vec::new();
        for (path, record) in record::read_all(&shared.refs)? {
            let used =
                std::fs::metadata(&path).and_then(|meta| meta.modified()).map_err(at("read", &path))?;
            let age = now.duration_since(used).unwrap_or_default();
            let is_held = held.contains(&record.manifest) || held.contains(&record.digest);
            if record.pulled && !is_held && age >= options.unused {
                unused.push((used, path, record.name));
            }
        }
        unused.sort();
        let mut names = Vec::new();
        for (_, path, name) in unused.into_iter().take(options.images_max) {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
            names.push(name);
        }
        record::sync_directory(&shared.refs)?;
        let reclaimed = if names.is_empty() { Reclaimed::default() } else { shared.collect(&lock)? };
        Ok(Tidied { names, reclaimed })
    }
}
