//! Clusters.

use std::sync::Arc;

use neargate_model::{Cluster, ClusterName, ClusterStatus, LastStatus, Scope, Tags};
use neargate_store::{StoreError, Txn, Versioned};

use crate::tables::{CLUSTERS, NOW, TASKS, WRITE_ATTEMPTS, cluster_key, commit, scan_all, too_contended};
use crate::{Control, tags};

/// Why a cluster operation was refused.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no such cluster, or it was deleted.
    #[error("cluster {name} does not exist")]
    NotFound {
        /// The name.
        name: ClusterName,
    },
    /// It still has tasks.
    #[error("cluster {name} has {tasks} active tasks")]
    HasTasks {
        /// The name.
        name: ClusterName,
        /// How many.
        tasks: usize,
    },
    /// Too many tags.
    #[error(transparent)]
    Tags(#[from] tags::TagError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How many tasks a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterCounts {
    /// Tasks that run.
    pub running: u32,
    /// Tasks on their way to running.
    pub pending: u32,
}

impl Control {
    /// Creates a cluster. Creating one that exists returns it unchanged (API reference, CreateCluster);
    /// one that was deleted comes back empty.
    pub async fn create_cluster(
        &self,
        scope: &Scope,
        name: &ClusterName,
        tags: Tags,
        face: String,
    ) -> Result<Cluster, ClusterError> {
        tags::check(&tags)?;
        self.check_disk()?;
        let key = cluster_key(scope, name);
        for _ in 0..WRITE_ATTEMPTS {
            let txn = match CLUSTERS.get(self.store(), &key, NOW).await? {
                Some(found) if found.value.status == ClusterStatus::Active => return Ok(found.value),
                Some(found) => Txn::fresh().at_rev(&key, found.rev),
                None => Txn::fresh().absent(&key),
            };
            let cluster = Cluster {
                name: name.clone(),
                status: ClusterStatus::Active,
                tags: tags.clone(),
                created_at: self.now(),
                face: face.clone(),
            };
            if commit(self.store(), CLUSTERS.put(txn, &key, &cluster)?).await? {
                return Ok(cluster);
            }
        }
        Err(too_contended().into())
    }

    /// A cluster as it stands, deleted ones included.
    pub async fn find_cluster(
        &self,
        scope: &Scope,
        name: &ClusterName,
    ) -> Result<Option<Cluster>, ClusterError> {
        let found = CLUSTERS.get(self.store(), &cluster_key(scope, name), NOW).await?;
        Ok(found.map(|found| found.value))
    }

    pub(crate) async fn active_cluster(
        &self,
        scope: &Scope,
        name: &ClusterName,
    ) -> Result<Option<Versioned<Arc<Cluster>>>, StoreError> {
        let found = self.memos().clusters.get(self.store(), &cluster_key(scope, name)).await?;
        Ok(found.filter(|found| found.value.status == ClusterStatus::Active))
    }

    /// The names of the active clusters, in order.
    pub async fn list_clusters(&self, scope: &Scope) -> Result<Vec<ClusterName>, ClusterError> {
        let prefix = CLUSTERS.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), &CLUSTERS, &prefix).await?;
        let active = all.into_iter().filter(|(_, found)| found.value.status == ClusterStatus::Active);
        Ok(active.map(|(_, found)| found.value.name).collect())
    }

    /// Replaces what the API stores with a cluster.
    pub async fn update_cluster(
        &self,
        scope: &Scope,
        name: &ClusterName,
        change: impl Fn(&str) -> String,
    ) -> Result<Cluster, ClusterError> {
        self.change_cluster(scope, name, |cluster| cluster.face = change(&cluster.face)).await
    }

    /// Deletes a cluster that has no tasks.
    pub async fn delete_cluster(&self, scope: &Scope, name: &ClusterName) -> Result<Cluster, ClusterError> {
        let counts = self.count_tasks(scope, name).await?;
        let tasks = (counts.running + counts.pending) as usize;
        if tasks > 0 && self.active_cluster(scope, name).await?.is_some() {
            return Err(ClusterError::HasTasks { name: name.clone(), tasks });
        }
        self.change_cluster(scope, name, |cluster| {
            cluster.status = ClusterStatus::Inactive;
            cluster.tags = Tags::new();
        })
        .await
    }

    /// How many tasks a cluster has.
    pub async fn count_tasks(&self, scope: &Scope, name: &ClusterName) -> Result<ClusterCounts, StoreError> {
        let prefix = TASKS.prefix(&[scope.account.as_str(), scope.region.as_str(), name.as_str()]);
        let mut counts = ClusterCounts::default();
        for (_, task) in scan_all(self.store(), &TASKS, &prefix).await? {
            match task.value.status.last {
                LastStatus::Provisioning | LastStatus::Pending => counts.pending += 1,
                LastStatus::Running | LastStatus::Stopping | LastStatus::Deprovisioning => {
                    counts.running += 1
                }
                LastStatus::Stopped => {}
            }
        }
        Ok(counts)
    }

    pub(crate) async fn change_cluster(
        &self,
        scope: &Scope,
        name: &ClusterName,
        change: impl Fn(&mut Cluster),
    ) -> Result<Cluster, ClusterError> {
        let key = cluster_key(scope, name);
        for _ in 0..WRITE_ATTEMPTS {
            let Some(found) = self.active_cluster(scope, name).await? else {
                return Err(ClusterError::NotFound { name: name.clone() });
            };
            let mut cluster = Arc::unwrap_or_clone(found.value);
            change(&mut cluster);
            let txn = CLUSTERS.put(Txn::fresh().at_rev(&key, found.rev), &key, &cluster)?;
            if commit(self.store(), txn).await? {
                return Ok(cluster);
            }
        }
        Err(too_contended().into())
    }
}
