//! Layers of one image, unpacked side by side.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use neargate_model::image::Digest;

use crate::error::{LayerError, at};
use crate::files::LayerFiles;
use crate::stage::Staging;
use crate::unpack::{Limits, Ownership};

/// One layer that an image needs.
#[derive(Clone, Debug)]
pub(crate) struct LayerJob {
    /// The layer's blob, compressed or not.
    pub(crate) blob: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
}

/// A layer that was unpacked and verified but is not in its place yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) directory: PathBuf,
    pub(crate) diff_id: Digest,
}

/// How layers are unpacked.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) ownership: Ownership,
    pub(crate) files: Arc<dyn LayerFiles>,
}

/// Unpacks the layers that are not in `layers` yet, on as many threads as there are processors.
///
/// A layer that is there already is only verified: otherwise an image could name a layer of another that it does
/// not hold itself.
pub(crate) fn prepare(
    jobs: Vec<LayerJob>,
    layers: &Path,
    staging: &Staging,
    settings: &Settings,
) -> Result<Vec<Prepared>, LayerError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    let queue = Mutex::new(jobs.into_iter());
    let work = || {
        let mut prepared = Vec::new();
        loop {
            let job = queue.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some(job) = job else { return Ok(prepared) };
            match prepare_one(&job, layers, staging, settings) {
                Ok(one) => prepared.extend(one),
                Err(error) => {
                    // The others need not go on for nothing.
                    queue.lock().unwrap_or_else(|e| e.into_inner()).by_ref().for_each(drop);
                    return Err(error);
                }
            }
        }
    };
    if threads <= 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut prepared = Vec::new();
        for worker in workers {
            prepared.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(prepared)
    })
}

fn prepare_one(
    job: &LayerJob,
    layers: &Path,
    staging: &Staging,
    settings: &Settings,
) -> Result<Option<Prepared>, LayerError> {
    let file = File::open(&job.blob).map_err(at("open", &job.blob))?;
    let wrong = |source| LayerError::Unpack { layer: job.digest, source };
    if layers.join(job.diff_id.hex()).exists() {
        check(job, settings.files.diff_id(file, &settings.limits).map_err(wrong)?)?;
        return Ok(None);
    }
    let directory = staging.fresh();
    DirBuilder::new().mode(0o755).create(&directory).map_err(at("create", &directory))?;
    // The process's umask must not show in a container.
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).map_err(at("set mode of", &directory))?;
    let unpacked =
        settings.files.unpack(file, &directory, &settings.limits, settings.ownership).map_err(wrong)?;
    check(job, unpacked.diff_id)?;
    Ok(Some(Prepared { directory, diff_id: job.diff_id }))
}

fn check(job: &LayerJob, actual: Digest) -> Result<(), LayerError> {
    if actual == job.diff_id {
        return Ok(());
    }
    Err(LayerError::WrongDiffId { layer: job.digest, expected: job.diff_id, actual })
}

/// Moves verified layers to their places; the caller has synced them. A place that somebody else has filled
/// meanwhile holds the same.
pub(crate) fn install(
    prepared: &[Prepared],
    layers: &Path,
    files: &dyn LayerFiles,
) -> Result<(), LayerError> {
    for layer in prepared {
        let target = layers.join(layer.diff_id.hex());
        neargate_failpoint::reach("image::layer::before");
        match files.rename(&layer.directory, &target) {
            Err(error) if !target.exists() => return Err(at("create", &target)(error).into()),
            _ => {}
        }
        neargate_failpoint::reach("image::layer::after");
    }
    Ok(())
}

/// The directories of an image's layers, lowest first. Of a layer that occurs twice the upper one counts:
/// overlayfs refuses the same directory twice, and the upper one hides the lower one completely.
pub(crate) fn stack(diff_ids: &[Digest], layers: &Path) -> Vec<PathBuf> {
    let is_last = |i: usize| !diff_ids[i + 1..].contains(&diff_ids[i]);
    (0..diff_ids.len()).filter(|i| is_last(*i)).map(|i| layers.join(diff_ids[i].hex())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_counts_once_where_it_is_highest() {
        let check = |ids: &[u8], expect: &[u8]| {
            let digest = |n: &u8| Digest::from_bytes([*n; 32]);
            let paths =
                |ids: &[u8]| ids.iter().map(|n| Path::new("l").join(digest(n).hex())).collect::<Vec<_>>();
            assert_eq!(stack(&ids.iter().map(digest).collect::<Vec<_>>(), Path::new("l")), paths(expect));
        };
        check(&[], &[]);
        check(&[1, 2, 3], &[1, 2, 3]);
        check(&[1, 2, 1, 3, 3], &[2, 1, 3]);
    }
}
