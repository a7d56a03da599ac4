//! Repositories of the registry: their records. The bytes of images are the image store's, and who brings them there
//! gives them to the repository first; what is committed here is then complete and durable.
//!
//! A repository counts its images in its own record, which every change of an image either rewrites or expects
//! unchanged: so no image is put into a repository that is being removed, and none is removed that was just filled.

mod images;
#[cfg(test)]
mod tests;

use neargate_model::image::Digest;
use neargate_model::repository::{Mutability, REPOSITORIES_MAX, Repository, RepositoryError, StoredImage};
use neargate_model::{AccountId, ImageTag, Region, RepositoryName, Scope, Tags};
use neargate_store::{Key, StoreError, Table, Txn, Versioned};
use serde::{Deserialize, Serialize};

use crate::Control;
use crate::tables::{NOW, WRITE_ATTEMPTS, commit, scan_all, too_contended};

pub use images::{ImageWanted, NewImage, Put};

/// Repositories, by scope and name.
const REPOSITORIES: Table<Repository> = Table::new("repository", "neargate-control", 1);
/// Images, by scope, repository and digest.
const IMAGES: Table<StoredImage> = Table::new("repository-image", "neargate-control", 1);
/// Which image has a tag, by scope, repository and tag.
const TAGS: Table<TagRecord> = Table::new("repository-tag", "neargate-control", 1);
/// Images that are about another one, by scope, repository, that one's digest and their own.
const REFERRERS: Table<ReferrerRecord> = Table::new("repository-referrer", "neargate-control", 1);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TagRecord {
    digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReferrerRecord {}

/// Why repositories were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryChangeError {
    /// It breaks a rule, or is about what does not exist.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A repository to be made.
#[derive(Clone, Debug)]
pub struct NewRepository {
    /// Its name.
    pub name: RepositoryName,
    /// Whether its tags may move.
    pub mutability: Mutability,
    /// Tags of its own.
    pub tags: Tags,
    /// What the API wants to show again.
    pub face: String,
}

impl Control {
    /// Makes a repository.
    pub async fn create_repository(
        &self,
        scope: &Scope,
        new: &NewRepository,
    ) -> Result<Repository, RepositoryChangeError> {
        self.check_disk()?;
        let at = repository_key(scope, &new.name);
        if REPOSITORIES.get(self.store(), &at, NOW).await?.is_none()
            && self.repositories(scope).await?.len() >= REPOSITORIES_MAX
        {
            return Err(RepositoryError::Limit { what: "repositories", limit: REPOSITORIES_MAX }.into());
        }
        let repository = Repository {
            name: new.name.clone(),
            created_at: self.now(),
            mutability: new.mutability,
            images: 0,
            tags: new.tags.clone(),
            policy: None,
            lifecycle: None,
            preview: None,
            swept_at: None,
            face: new.face.clone(),
        };
        let txn = REPOSITORIES.put(Txn::fresh().absent(&at), &at, &repository)?;
        match commit(self.store(), txn).await? {
            true => Ok(repository),
            false => Err(RepositoryError::RepositoryExists { name: new.name.clone() }.into()),
        }
    }

    /// A repository.
    pub async fn repository(
        &self,
        scope: &Scope,
        name: &RepositoryName,
    ) -> Result<Repository, RepositoryChangeError> {
        Ok(self.find_repository(scope, name).await?.1.value)
    }

    /// The repositories of a scope, in the order of their names.
    pub async fn repositories(&self, scope: &Scope) -> Result<Vec<Repository>, StoreError> {
        let prefix = REPOSITORIES.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), &REPOSITORIES, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| found.value).collect())
    }

    /// All repositories there are, with their scopes.
    pub async fn all_repositories(&self) -> Result<Vec<(Scope, Repository)>, StoreError> {
        let all = scan_all(self.store(), &REPOSITORIES, &REPOSITORIES.prefix(&[])).await?;
        let of = |(key, found): (Key, Versioned<Repository>)| {
            let segments = REPOSITORIES.segments(&key)?;
            let account = AccountId::new(segments.first()?.clone()).ok()?;
            let region = Region::new(segments.get(1)?.clone()).ok()?;
            Some((Scope { account, region }, found.value))
        };
        Ok(all.into_iter().filter_map(of).collect())
    }

    /// Changes a repository's settings by `change`, which may be called several times.
    pub async fn change_repository(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        change: impl Fn(&mut Repository) -> Result<(), RepositoryError>,
    ) -> Result<Repository, RepositoryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_repository(scope, name).await?;
            let mut repository = found.value;
            change(&mut repository)?;
            let txn = REPOSITORIES.put(Txn::fresh().at_rev(&at, found.rev), &at, &repository)?;
            if commit(self.store(), txn).await? {
                return Ok(repository);
            }
        }
        Err(too_contended().into())
    }

    /// Removes a repository; with `force` also one that has images.
    pub async fn delete_repository(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        force: bool,
    ) -> Result<Repository, RepositoryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_repository(scope, name).await?;
            if found.value.images > 0 && !force {
                return Err(RepositoryError::RepositoryNotEmpty { name: name.clone() }.into());
            }
            let below = [scope.account.as_str(), scope.region.as_str(), name.as_str()];
            let txn = Txn::fresh().at_rev(&at, found.rev).delete(&at);
            let txn = txn.delete_prefix(IMAGES.prefix(&below)).delete_prefix(TAGS.prefix(&below));
            let txn = txn.delete_prefix(REFERRERS.prefix(&below));
            if commit(self.store(), txn).await? {
                return Ok(found.value);
            }
        }
        Err(too_contended().into())
    }

    /// Refuses what would make the image store larger while its disk is full.
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.check_disk()
    }

    async fn find_repository(
        &self,
        scope: &Scope,
        name: &RepositoryName,
    ) -> Result<(Key, Versioned<Repository>), RepositoryChangeError> {
        let at = repository_key(scope, name);
        let found = REPOSITORIES.get(self.store(), &at, NOW).await?;
        let missing = || RepositoryError::RepositoryNotFound { name: name.clone() };
        Ok((at, found.ok_or_else(missing)?))
    }
}

fn repository_key(scope: &Scope, name: &RepositoryName) -> Key {
    REPOSITORIES.key(&[scope.account.as_str(), scope.region.as_str(), name.as_str()])
}

fn image_key(scope: &Scope, name: &RepositoryName, digest: Digest) -> Key {
    IMAGES.key(&[scope.account.as_str(), scope.region.as_str(), name.as_str(), &digest.hex()])
}

fn tag_key(scope: &Scope, name: &RepositoryName, tag: &ImageTag) -> Key {
    TAGS.key(&[scope.account.as_str(), scope.region.as_str(), name.as_str(), tag.as_str()])
}

fn referrer_key(scope: &Scope, name: &RepositoryName, subject: Digest, digest: Digest) -> Key {
    let Scope { account, region } = scope;
    REFERRERS.key(&[account.as_str(), region.as_str(), name.as_str(), &subject.hex(), &digest.hex()])
}
