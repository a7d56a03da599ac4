//! Images of repositories, and their tags.

use std::collections::BTreeSet;

use neargate_model::image::Digest;
use neargate_model::repository::{
    IMAGES_MAX, Mutability, Repository, RepositoryError, StoredImage, TAGS_PER_IMAGE_MAX,
};
use neargate_model::{ImageTag, RepositoryName, Scope, Timestamp};
use neargate_store::{Key, StoreError, Txn, Versioned};

use super::{
    IMAGES, REFERRERS, REPOSITORIES, ReferrerRecord, RepositoryChangeError, TAGS, TagRecord, image_key,
    referrer_key, tag_key,
};
use crate::Control;
use crate::tables::{NOW, PAGE, WRITE_ATTEMPTS, commit, scan_all, too_contended};

/// Tags taken from an image by one transaction.
const TAGS_CHUNK: usize = 40;
/// How exactly it is known when an image was pulled last.
const PULLED_MS: u64 = 3600 * 1000;

/// An image whose bytes the repository has.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The media type of its manifest.
    pub media_type: String,
    /// What it is, of an artifact.
    pub artifact_type: Option<String>,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
    /// Bytes of what its manifest names.
    pub content_bytes: u64,
    /// The image that it is about.
    pub subject: Option<Digest>,
    /// The images that it is an index of.
    pub children: Vec<Digest>,
}

/// What became of an image that was put into a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The repository did not have it.
    New,
    /// It had it, and the tag was given to it.
    Tagged,
    /// It had it, under this tag.
    Same,
}

/// Which image is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageWanted {
    /// The one with this tag.
    Tag(ImageTag),
    /// The one with this digest.
    Digest(Digest),
}

impl std::fmt::Display for ImageWanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl Control {
    /// Puts an image into a repository, and gives it a tag. Another image that has the tag loses it.
    pub async fn put_image(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        new: &NewImage,
        tag: Option<&ImageTag>,
    ) -> Result<Put, RepositoryChangeError> {
        self.check_disk()?;
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_repository(scope, name).await?;
            let (repository, rev) = (found.value, found.rev);
            let (txn, put) = self.put_image_txn(scope, &repository, new, tag).await?;
            if put == Put::Same {
                return Ok(put);
            }
            let mut txn = txn.at_rev(&at, rev);
            if put == Put::New {
                if repository.images >= IMAGES_MAX {
                    let what = "images of a repository";
                    return Err(RepositoryError::Limit { what, limit: IMAGES_MAX }.into());
                }
                let repository = Repository { images: repository.images + 1, ..repository };
                txn = REPOSITORIES.put(txn, &at, &repository)?;
            }
            if commit(self.store(), txn).await? {
                return Ok(put);
            }
        }
        Err(too_contended().into())
    }

    async fn put_image_txn(
        &self,
        scope: &Scope,
        repository: &Repository,
        new: &NewImage,
        tag: Option<&ImageTag>,
    ) -> Result<(Txn, Put), RepositoryChangeError> {
        let name = &repository.name;
        let at = image_key(scope, name, new.digest);
        let found = IMAGES.get(self.store(), &at, NOW).await?;
        let (mut txn, mut put) = match &found {
            Some(found) => (Txn::fresh().at_rev(&at, found.rev), Put::Same),
            None => (Txn::fresh().absent(&at), Put::New),
        };
        let mut image = found.map_or_else(|| self.stored(new), |found| found.value);
        if let Some(tag) = tag {
            let tag_at = tag_key(scope, name, tag);
            let holder = TAGS.get(self.store(), &tag_at, NOW).await?;
            txn = match &holder {
                Some(holder) => txn.at_rev(&tag_at, holder.rev),
                None => txn.absent(&tag_at),
            };
            if holder.as_ref().is_none_or(|holder| holder.value.digest != new.digest) {
                if holder.is_some() && repository.mutability == Mutability::Immutable {
                    return Err(RepositoryError::TagImmutable { tag: tag.clone() }.into());
                }
                if image.tags.len() >= TAGS_PER_IMAGE_MAX {
                    let limit = TAGS_PER_IMAGE_MAX;
                    return Err(RepositoryError::Limit { what: "tags of an image", limit }.into());
                }
                if let Some(holder) = holder {
                    txn = self.untag(scope, name, holder.value.digest, tag, txn).await?;
                }
                image.tags.insert(tag.clone());
                image.pushed_at = self.now();
                txn = TAGS.put(txn, &tag_at, &TagRecord { digest: new.digest })?;
                put = if put == Put::Same { Put::Tagged } else { put };
            }
        }
        if let (Some(subject), Put::New) = (new.subject, put) {
            txn = REFERRERS.put(txn, &referrer_key(scope, name, subject, new.digest), &ReferrerRecord {})?;
        }
        Ok((IMAGES.put(txn, &at, &image)?, put))
    }

    fn stored(&self, new: &NewImage) -> StoredImage {
        let NewImage { digest, media_type, artifact_type, manifest_bytes, content_bytes, subject, children } =
            new.clone();
        let (pushed_at, pulled_at, tags) = (self.now(), None, BTreeSet::new());
        StoredImage {
            digest,
            media_type,
            artifact_type,
            manifest_bytes,
            content_bytes,
            pushed_at,
            pulled_at,
            tags,
            subject,
            children,
        }
    }

    /// Takes a tag from the record of the image that has it.
    async fn untag(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
        tag: &ImageTag,
        txn: Txn,
    ) -> Result<Txn, RepositoryChangeError> {
        let at = image_key(scope, name, digest);
        let Some(found) = IMAGES.get(self.store(), &at, NOW).await? else { return Ok(txn) };
        let mut image = found.value;
        image.tags.remove(tag);
        Ok(IMAGES.put(txn.at_rev(&at, found.rev), &at, &image)?)
    }

    /// An image.
    pub async fn image(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        wanted: &ImageWanted,
    ) -> Result<StoredImage, RepositoryChangeError> {
        let missing = || RepositoryError::ImageNotFound { reference: wanted.to_string() };
        let digest = match wanted {
            ImageWanted::Digest(digest) => *digest,
            ImageWanted::Tag(tag) => {
                let found = TAGS.get(self.store(), &tag_key(scope, name, tag), NOW).await?;
                found.ok_or_else(missing)?.value.digest
            }
        };
        let found = IMAGES.get(self.store(), &image_key(scope, name, digest), NOW).await?;
        Ok(found.ok_or_else(missing)?.value)
    }

    /// The images of a repository, in the order of their digests.
    pub async fn images(&self, scope: &Scope, name: &RepositoryName) -> Result<Vec<StoredImage>, StoreError> {
        let prefix = IMAGES.prefix(&[scope.account.as_str(), scope.region.as_str(), name.as_str()]);
        let all = scan_all(self.store(), &IMAGES, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| found.value).collect())
    }

    /// At most `limit` tags of a repository behind `after`, in order, and whether there are more.
    pub async fn image_tags(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        after: Option<&ImageTag>,
        limit: usize,
    ) -> Result<(Vec<ImageTag>, bool), StoreError> {
        let prefix = TAGS.prefix(&[scope.account.as_str(), scope.region.as_str(), name.as_str()]);
        let mut after = after.map(|tag| tag_key(scope, name, tag));
        let mut tags = Vec::new();
        loop {
            let page = TAGS.scan(self.store(), &prefix, after.as_ref(), PAGE, NOW).await?;
            let tag = |key: &Key| ImageTag::new(TAGS.segments(key)?.pop()?).ok();
            tags.extend(page.items.iter().filter_map(|(key, _)| tag(key)));
            after = page.next;
            if after.is_none() || tags.len() > limit {
                break;
            }
        }
        let has_more = tags.len() > limit;
        tags.truncate(limit);
        Ok((tags, has_more))
    }

    /// The images of a repository that are about this one, at most `limit` behind `after`, and whether there are more.
    pub async fn referrers(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        subject: Digest,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<(Vec<StoredImage>, bool), StoreError> {
        let Scope { account, region } = scope;
        let of_subject = [account.as_str(), region.as_str(), name.as_str(), &subject.hex()];
        let prefix = REFERRERS.prefix(&of_subject);
        let after = after.map(|digest| referrer_key(scope, name, subject, digest));
        let limit = limit.min(PAGE as usize);
        let page = REFERRERS.scan(self.store(), &prefix, after.as_ref(), limit as u32, NOW).await?;
        let digest = |key: &Key| format!("sha256:{}", REFERRERS.segments(key)?.pop()?).parse().ok();
        let digests: Vec<Digest> = page.items.iter().filter_map(|(key, _)| digest(key)).collect();
        let keys: Vec<Key> = digests.iter().map(|digest| image_key(scope, name, *digest)).collect();
        let found = IMAGES.get_many(self.store(), &keys, NOW).await?;
        Ok((found.into_iter().flatten().map(|found| found.value).collect(), page.next.is_some()))
    }

    /// Takes a tag from its image, which stays. Tells which image that was.
    pub async fn remove_tag(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        tag: &ImageTag,
    ) -> Result<StoredImage, RepositoryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let at = tag_key(scope, name, tag);
            let missing = || RepositoryError::ImageNotFound { reference: tag.to_string() };
            let found = TAGS.get(self.store(), &at, NOW).await?.ok_or_else(missing)?;
            let image = self.image(scope, name, &ImageWanted::Digest(found.value.digest)).await?;
            let txn = Txn::fresh().at_rev(&at, found.rev).delete(&at);
            let txn = self.untag(scope, name, found.value.digest, tag, txn).await?;
            if commit(self.store(), txn).await? {
                return Ok(image);
            }
        }
        Err(too_contended().into())
    }

    /// Removes an image with all its tags. One that an index of the repository leads to is not removed.
    pub async fn delete_image(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<StoredImage, RepositoryChangeError> {
        let removed = self.image(scope, name, &ImageWanted::Digest(digest)).await?;
        self.check_not_in_index(scope, name, digest).await?;
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_repository(scope, name).await?;
            let image_at = image_key(scope, name, digest);
            let Some(image) = IMAGES.get(self.store(), &image_at, NOW).await? else { return Ok(removed) };
            let txn = Txn::fresh().at_rev(&image_at, image.rev);
            let Versioned { value: mut image, .. } = image;
            // A transaction does not hold all the tags that an image may have.
            let tags: Vec<ImageTag> = image.tags.iter().take(TAGS_CHUNK).cloned().collect();
            let mut txn = tags.iter().fold(txn, |txn, tag| txn.delete(tag_key(scope, name, tag)));
            image.tags.retain(|tag| !tags.contains(tag));
            let is_last = image.tags.is_empty();
            if is_last {
                let images = found.value.images.saturating_sub(1);
                let repository = Repository { images, ..found.value };
                txn = REPOSITORIES.put(txn.at_rev(&at, found.rev).delete(&image_at), &at, &repository)?;
                if let Some(subject) = image.subject {
                    txn = txn.delete(referrer_key(scope, name, subject, digest));
                }
            } else {
                txn = IMAGES.put(txn, &image_at, &image)?;
            }
            if commit(self.store(), txn).await? && is_last {
                return Ok(removed);
            }
        }
        Err(too_contended().into())
    }

    async fn check_not_in_index(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
    ) -> Result<(), RepositoryChangeError> {
        let images = self.images(scope, name).await?;
        match images.iter().find(|image| image.children.contains(&digest)) {
            Some(index) => Err(RepositoryError::InIndex { digest, index: index.digest }.into()),
            None => Ok(()),
        }
    }

    /// Notes that an image was pulled, unless that was noted within the hour.
    pub async fn note_pull(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        image: &StoredImage,
    ) -> Result<(), StoreError> {
        let now: Timestamp = self.now();
        if image.pulled_at.is_some_and(|pulled_at| now.millis_since(pulled_at) < PULLED_MS) {
            return Ok(());
        }
        let at = image_key(scope, name, image.digest);
        let Some(found) = IMAGES.get(self.store(), &at, NOW).await? else { return Ok(()) };
        let image = StoredImage { pulled_at: Some(now), ..found.value };
        // Whoever was quicker has noted it, or something that matters more.
        commit(self.store(), IMAGES.put(Txn::fresh().at_rev(&at, found.rev), &at, &image)?).await.map(drop)
    }
}
