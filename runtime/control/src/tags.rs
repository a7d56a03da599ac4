//! Tags, on whatever can have them.

use neargate_model::{ClusterName, Family, Scope, Tags, Task, TaskKey};
use neargate_store::{StoreError, Txn};

use crate::tables::{NOW, STOPPED, TASKS, WRITE_ATTEMPTS, commit, task_key, too_contended};
use crate::{ClusterError, Control, DefinitionError, RevisionWanted};

/// At most this many tags a resource (API reference, TagResource).
pub const TAGS_MAX: usize = 50;

/// Why tags were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// There is no such resource.
    #[error("resource does not exist")]
    NotFound,
    /// It would have too many tags.
    #[error("a resource has at most {TAGS_MAX} tags")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What can have tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taggable {
    /// A cluster.
    Cluster(ClusterName),
    /// A revision of a family.
    Definition(Family, u32),
    /// A task.
    Task(TaskKey),
}

pub(crate) fn check(tags: &Tags) -> Result<(), TagError> {
    if tags.len() > TAGS_MAX { Err(TagError::TooMany) } else { Ok(()) }
}

impl From<ClusterError> for TagError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::NotFound { .. } | ClusterError::HasTasks { .. } => Self::NotFound,
            ClusterError::Tags(error) => error,
            ClusterError::Store(error) => Self::Store(error),
        }
    }
}

impl From<DefinitionError> for TagError {
    fn from(error: DefinitionError) -> Self {
        match error {
            DefinitionError::NotFound { .. }
            | DefinitionError::Shape(_)
            | DefinitionError::StillActive { .. } => Self::NotFound,
            DefinitionError::Tags(error) => error,
            DefinitionError::Store(error) => Self::Store(error),
        }
    }
}

impl Control {
    /// The tags of a resource.
    pub async fn list_tags(&self, scope: &Scope, resource: &Taggable) -> Result<Tags, TagError> {
        match resource {
            Taggable::Cluster(name) => {
                let cluster = self.active_cluster(scope, name).await?;
                Ok(cluster.ok_or(TagError::NotFound)?.value.tags.clone())
            }
            Taggable::Definition(family, revision) => {
                let revision = RevisionWanted::Exactly(*revision);
                Ok(self.find_definition(scope, family, revision).await?.tags.clone())
            }
            Taggable::Task(key) => Ok(self.task_record(key).await?.ok_or(TagError::NotFound)?.tags.clone()),
        }
    }

    /// Adds tags, and removes those of the named keys.
    pub async fn change_tags(
        &self,
        scope: &Scope,
        resource: &Taggable,
        add: &Tags,
        remove: &[String],
    ) -> Result<(), TagError> {
        let apply = |tags: &Tags| {
            let mut tags = tags.clone();
            tags.extend(add.clone());
            tags.retain(|key, _| !remove.contains(key));
            tags
        };
        if !add.is_empty() {
            self.check_disk()?;
        }
        check(&apply(&self.list_tags(scope, resource).await?))?;
        match resource {
            Taggable::Cluster(name) => {
                self.change_cluster(scope, name, |cluster| cluster.tags = apply(&cluster.tags)).await?;
            }
            Taggable::Definition(family, revision) => {
                self.change_definition(scope, family, *revision, |definition| {
                    definition.tags = apply(&definition.tags);
                    Ok(())
                })
                .await?;
            }
            Taggable::Task(key) => self.change_task(key, |task| task.tags = apply(&task.tags)).await?,
        }
        Ok(())
    }

    async fn change_task(&self, key: &TaskKey, change: impl Fn(&mut Task)) -> Result<(), TagError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (live_at, stopped_at) = (task_key(&TASKS, key), task_key(&STOPPED, key));
            let keys = [live_at.clone(), stopped_at.clone()];
            let mut found = TASKS.get_many(self.store(), &keys, NOW).await?;
            let (stopped, live) = (found.pop().flatten(), found.pop().flatten());
            let (at, mut record) = match (live, stopped) {
                (Some(live), _) => (live_at, live),
                (None, Some(stopped)) => (stopped_at, stopped),
                (None, None) => return Err(TagError::NotFound),
            };
            change(&mut record.value);
            let txn = TASKS.put(Txn::fresh().at_rev(&at, record.rev), &at, &record.value)?;
            if commit(self.store(), txn).await? {
                return Ok(());
            }
        }
        Err(too_contended().into())
    }
}
