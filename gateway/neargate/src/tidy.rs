//! Makes room on the disk of the data directory by images that can be pulled again.

use std::path::PathBuf;
use std::time::Duration;

use neargate_control::DiskRoom;
use neargate_image::{ImageStore, TidyOptions};
use neargate_model::chain;
use tokio_util::sync::CancellationToken;

use crate::disk::Space;

/// How often it is looked whether room is wanted.
const INTERVAL: Duration = Duration::from_secs(60);
/// Above this share of the disk in use, in percent, images are removed that were not used for [`UNUSED`], as the kubelet
/// does by default.
const USED_PERCENT: u64 = 85;
/// What ECS's agent has as the least age of an image that it removes.
const UNUSED: Duration = Duration::from_secs(3600);
/// What ECS's agent removes at a time.
const IMAGES_MAX: usize = 5;

/// What may be removed where the disk stands like this.
fn options(space: Space) -> Option<TidyOptions> {
    let used = u128::from(space.size_bytes.saturating_sub(space.free_bytes)) * 100;
    let is_high = used > u128::from(space.size_bytes) * u128::from(USED_PERCENT);
    match space.room() {
        // Tasks are refused by now, and an image takes less long to come again than a disk to be emptied by hand.
        DiskRoom::Low | DiskRoom::Full => {
            Some(TidyOptions { unused: Duration::ZERO, images_max: IMAGES_MAX })
        }
        DiskRoom::Ample if is_high => Some(TidyOptions { unused: UNUSED, images_max: IMAGES_MAX }),
        DiskRoom::Ample => None,
    }
}

/// Looks until the end.
pub(crate) async fn watch(store: ImageStore, directory: PathBuf, end: CancellationToken) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(options) = Space::of(&directory).ok().and_then(options) else { continue };
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.tidy(options)).await {
            Ok(Ok(tidied)) if tidied.names.is_empty() => {}
            Ok(Ok(tidied)) => {
                let names: Vec<_> = tidied.names.iter().map(ToString::to_string).collect();
                let mib = tidied.reclaimed.bytes >> 20;
                tracing::info!(
                    images = names.join(" "),
                    mib,
                    "images that nobody uses were removed to make room"
                );
            }
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "no room could be made by removing images")
            }
            Err(error) => tracing::error!(%error, "making room ended unexpectedly"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_the_disk_the_less_is_kept() {
        const GIB: u64 = 1 << 30;
        let check = |free_bytes, expect: Option<Duration>| {
            let space = Space { free_bytes, size_bytes: 100 * GIB };
            assert_eq!(options(space).map(|options| options.unused), expect, "{free_bytes}");
        };
        check(15 * GIB, None);
        check(15 * GIB - 1, Some(UNUSED));
        check(4 * GIB, Some(UNUSED));
        check(4 * GIB - 1, Some(Duration::ZERO));
        check(0, Some(Duration::ZERO));
    }
}
