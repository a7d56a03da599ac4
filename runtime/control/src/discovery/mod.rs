//! Service discovery: namespaces, services and instances.
//!
//! A service counts the instances it has and a namespace its services, in their own records, which every change below
//! them rewrites: so nothing is removed that something was just put into, and no limit is passed by two at once.
//! Whoever asks for names or instances is answered from the [`Directory`], a copy in memory that follows the store, and
//! a change is acknowledged when it is in there.

mod directory;
mod instances;
mod lookup;
mod namespaces;
mod operations;
mod registries;
mod tags;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use neargate_model::discovery::{
    DiscoveryError, Instance, Namespace, OPERATIONS_MAX, Operation, OperationKind, Registry,
};
use neargate_model::{InstanceId, NamespaceId, OperationId, RegistryId, Scope, Timestamp};
use neargate_store::{Key, StoreError, Table, Txn};
use serde::{Deserialize, Serialize};

use crate::Control;
use crate::tables::{commit_at, too_contended};

pub(crate) use directory::Directory;
pub use instances::{DiscoverWanted, Discovered, NewInstance};
pub use namespaces::NewNamespace;
pub use registries::{NewRegistry, RegistryChange};
pub use tags::DiscoveryResource;

/// What the names of all tables here begin with, so that one watch follows them.
const TABLES: &str = "discovery-";
/// Namespaces, by scope and id.
pub(crate) const NAMESPACES: Table<Namespace> = Table::new("discovery-namespace", "neargate-control", 1);
/// Services, by scope and id.
pub(crate) const REGISTRIES: Table<Registry> = Table::new("discovery-registry", "neargate-control", 1);
/// Instances, by scope, service and id.
pub(crate) const INSTANCES: Table<Instance> = Table::new("discovery-instance", "neargate-control", 1);
/// Who has a name, by scope, what the name is in, and the name: so that it is given once.
pub(crate) const NAMES: Table<NameRecord> = Table::new("discovery-name", "neargate-control", 1);
/// How many namespaces a scope had when the last one was made, so that no two are made at once.
pub(crate) const COUNTS: Table<CountRecord> = Table::new("discovery-count", "neargate-control", 1);
/// What was done, by scope and id, until it is forgotten. Not among what is followed.
pub(crate) const OPERATIONS: Table<Operation> = Table::new("past-discovery", "neargate-control", 1);

/// See [`COUNTS`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CountRecord {
    /// With the one that was made.
    pub(crate) namespaces: usize,
}

/// Who has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRecord {
    /// A namespace or a service.
    pub(crate) id: String,
}

/// Why service discovery was not changed, or has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryChangeError {
    /// It breaks a rule, or is about what does not exist.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<neargate_model::discovery::Invalid> for DiscoveryChangeError {
    fn from(invalid: neargate_model::discovery::Invalid) -> Self {
        Self::Discovery(invalid.into())
    }
}

/// What an operation was about.
#[derive(Default)]
struct Target<'a> {
    namespace: Option<&'a NamespaceId>,
    registry: Option<&'a RegistryId>,
    instance: Option<&'a InstanceId>,
}

impl Control {
    /// Commits a change together with a note of it; `None` if somebody else was quicker.
    async fn commit_operation(
        &self,
        scope: &Scope,
        txn: Txn,
        id: &OperationId,
        kind: OperationKind,
        target: Target<'_>,
    ) -> Result<Option<OperationId>, StoreError> {
        let operation = Operation {
            id: id.clone(),
            kind,
            namespace: target.namespace.cloned(),
            registry: target.registry.cloned(),
            instance: target.instance.cloned(),
            at: self.now(),
        };
        let txn = OPERATIONS.put(txn, &key(&OPERATIONS, scope, &[id.as_str()]), &operation)?;
        Ok(self.commit_followed(txn).await?.then(|| id.clone()))
    }

    /// Commits a change and waits until the directory has it; `false` if somebody else was quicker.
    async fn commit_followed(&self, txn: Txn) -> Result<bool, StoreError> {
        let Some(rev) = commit_at(self.store(), txn).await? else { return Ok(false) };
        self.shared.directory.wait_for(rev).await;
        Ok(true)
    }

    /// Reads the directory, so that whoever asks first is told.
    pub(crate) async fn recover_discovery(&self) -> Result<(), StoreError> {
        self.shared.directory.load(self.store()).await.map(drop)
    }

    /// Keeps the directory as the store is. Runs as long as the server.
    pub async fn follow_discovery(&self) {
        self.shared.directory.follow(self.store()).await;
    }

    /// Forgets operations that nobody asks for any more, and of a scope that has too many the oldest.
    pub(crate) async fn old_operations(
        &self,
        is_over: impl Fn(Timestamp) -> bool,
    ) -> Result<Vec<Key>, StoreError> {
        let all = crate::tables::scan_all(self.store(), &OPERATIONS, &OPERATIONS.prefix(&[])).await?;
        let mut by_scope: HashMap<Vec<String>, Vec<(Timestamp, Key)>> = HashMap::new();
        for (key, found) in all {
            let mut scope = OPERATIONS.segments(&key).unwrap_or_default();
            scope.pop();
            by_scope.entry(scope).or_default().push((found.value.at, key));
        }
        let over = |mut operations: Vec<(Timestamp, Key)>| {
            operations.sort_unstable();
            let too_many = operations.len().saturating_sub(OPERATIONS_MAX);
            let is_forgotten = |(index, (at, key))| (index < too_many || is_over(at)).then_some(key);
            operations.into_iter().enumerate().filter_map(is_forgotten).collect::<Vec<_>>()
        };
        Ok(by_scope.into_values().flat_map(over).collect())
    }
}

/// The key of a record of a scope.
fn key<T>(table: &Table<T>, scope: &Scope, rest: &[&str]) -> Key {
    let segments = [&[scope.account.as_str(), scope.region.as_str()], rest].concat();
    table.key(&segments)
}

fn contended() -> DiscoveryChangeError {
    too_contended().into()
}
