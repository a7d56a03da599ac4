//! What goes by itself: images by lifecycle policies, uploads that nobody finishes, and blobs that nobody needs.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use neargate_image::Holder;
use neargate_model::image::Digest;
use neargate_model::repository::Repository;
use neargate_model::{Scope, Timestamp};
use tokio_util::sync::CancellationToken;

use super::shelf::{ShelfError, holder};
use super::{Registry, Shelf};

/// How often it is looked for what can go.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// How long a blob is kept that no image names: a push sends blobs first.
const GRACE: Duration = Duration::from_secs(3600);
/// How long an upload is kept to which nothing comes.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(24 * 3600);

impl Registry {
    /// Removes what can go, now and again, until it is told to end. What fails is tried again with the next sweep.
    pub async fn sweep(&self, end: CancellationToken) {
        let mut tick = tokio::time::interval(SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                _ = tick.tick() => {}
                () = self.wanted.notified() => {}
            }
            if let Err(error) = self.shelf.sweep(GRACE).await {
                let error = neargate_model::chain(&error);
                tracing::warn!(error, "what the registry needs no more stays for now");
            }
        }
    }

    /// Has a sweep come now.
    pub(crate) fn sweep_soon(&self) {
        self.wanted.notify_one();
    }
}

impl Shelf {
    pub(super) async fn sweep(&self, grace: Duration) -> Result<(), ShelfError> {
        let repositories = self.control.all_repositories().await?;
        for (scope, repository) in &repositories {
            self.expire(scope, repository, SystemTime::now().into()).await?;
        }
        let expired = self.with_images(|images| images.expire_uploads(UPLOAD_LIFETIME)).await??;
        let mut released = 0;
        for (scope, repository) in &repositories {
            released += self.release_unneeded(scope, repository, grace).await?;
        }
        released += self.dismiss_unknown(&repositories).await?;
        if released > 0 {
            tracing::info!(blobs = released, uploads = expired, "the registry let go of what no image needs");
            // Waits for nobody: whoever adds to the store just now is waited for by the next sweep.
            let reclaimed = self.with_images(|images| images.try_prune()).await?;
            if let Err(error) = reclaimed {
                tracing::warn!(
                    error = neargate_model::chain(&error),
                    "what nobody needs stays in the image store"
                );
            }
        }
        Ok(())
    }

    /// Removes the images that a repository's lifecycle policy says are of no use any more.
    async fn expire(&self, scope: &Scope, repository: &Repository, now: Timestamp) -> Result<(), ShelfError> {
        let Some(policy) = &repository.lifecycle else { return Ok(()) };
        let images = self.control.images(scope, &repository.name).await?;
        for expiry in policy.expired(&images, now) {
            match self.delete(scope, &repository.name, expiry.digest).await {
                Ok(image) => tracing::info!(
                    repository = %repository.name,
                    digest = %image.digest,
                    rule = expiry.priority,
                    "image expired by lifecycle policy"
                ),
                // It was removed by somebody else, or has become part of an index.
                Err(ShelfError::Change(neargate_control::RepositoryChangeError::Repository(_))) => {}
                Err(error) => return Err(error),
            }
        }
        let swept = self.control.change_repository(scope, &repository.name, |repository| {
            repository.swept_at = Some(now);
            Ok(())
        });
        match swept.await {
            // Removed meanwhile.
            Err(neargate_control::RepositoryChangeError::Repository(_)) => Ok(()),
            changed => Ok(changed.map(drop)?),
        }
    }

    async fn release_unneeded(
        &self,
        scope: &Scope,
        repository: &Repository,
        grace: Duration,
    ) -> Result<usize, ShelfError> {
        if self.unneeded(scope, repository, grace).await?.is_empty() {
            return Ok(0);
        }
        // From here on nothing is put in until it is done.
        let _alone = self.sweeping.write().await;
        let unneeded = self.unneeded(scope, repository, grace).await?;
        let holder = holder(scope, &repository.name);
        self.with_images(move |images| {
            let mut released = 0;
            for digest in unneeded {
                released += usize::from(images.release(&holder, digest)?);
            }
            Ok(released)
        })
        .await?
    }

    /// Blobs of a repository that no image of it needs, and that nobody has sent or asked for lately.
    async fn unneeded(
        &self,
        scope: &Scope,
        repository: &Repository,
        grace: Duration,
    ) -> Result<Vec<Digest>, ShelfError> {
        let holder = holder(scope, &repository.name);
        let mut held = self.with_images(move |images| images.held(&holder)).await??;
        held.retain(|blob| blob.since.elapsed().is_ok_and(|age| age >= grace));
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let needed = self.needed(scope, &repository.name).await?;
        Ok(held.iter().map(|blob| blob.digest).filter(|digest| !needed.contains(digest)).collect())
    }

    /// Takes everything from repositories that there are no more, for example because the server was killed while it removed
    /// one.
    async fn dismiss_unknown(&self, repositories: &[(Scope, Repository)]) -> Result<usize, ShelfError> {
        let holders = |repositories: &[(Scope, Repository)]| -> HashSet<Holder> {
            repositories.iter().map(|(scope, repository)| holder(scope, &repository.name)).collect()
        };
        let mut unknown: Vec<Holder> = self.with_images(|images| images.holders()).await??;
        let known = holders(repositories);
        unknown.retain(|holder| !known.contains(holder));
        if unknown.is_empty() {
            return Ok(0);
        }
        // One that was made since the list was read is known now.
        let _alone = self.sweeping.write().await;
        let known = holders(&self.control.all_repositories().await?);
        unknown.retain(|holder| !known.contains(holder));
        self.with_images(move |images| {
            for holder in &unknown {
                images.dismiss(holder)?;
            }
            Ok(unknown.len())
        })
        .await?
    }
}
