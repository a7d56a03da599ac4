//! What should happen: the use cases behind every API.
//!
//! Control decides and commits; it runs nothing itself. An accepted task is one transaction, after which
//! the node is told through a [`NodeLink`] and answers with whole statuses that [`Control::apply_report`]
//! commits. Control may be killed at any point: [`Control::recover`] reads the intent again and tells the
//! node once more.

#![forbid(unsafe_code)]

mod clusters;
mod definitions;
mod discovery;
mod environment;
mod iam;
mod memo;
mod network;
mod place;
mod recover;
mod reports;
mod repositories;
mod settings;
mod tables;
mod tags;
mod tasks;
#[cfg(test)]
mod tests;
mod waiters;

use std::sync::Arc;

use neargate_model::iam::{CustomerPolicy, Role};
use neargate_model::vpc::{SecurityGroup, Subnet, Vpc};
use neargate_model::{Cluster, Task, TaskDefinition, TaskSpec};
use neargate_store::{Store, StoreError};

use memo::Memo;

pub use clusters::{ClusterCounts, ClusterError};
pub use definitions::{DefinitionError, DefinitionStatusFilter, NewDefinition, RevisionWanted};
pub use discovery::{
    DiscoverWanted, Discovered, DiscoveryChangeError, DiscoveryResource, NewInstance, NewNamespace,
    NewRegistry, RegistryChange,
};
pub use environment::{Clock, Disk, DiskRoom, Host, NodeLink, NodeLinkError, Ports, SystemClock};
pub use iam::{IamError, NewPolicy, NewRole, RoleUpdate};
pub use network::{NetworkChangeError, WantedNetwork};
pub use place::{Capacity, Refusal};
pub use recover::{Recovered, RetentionConfig, Swept};
pub use reports::ReportError;
pub use repositories::{ImageWanted, NewImage, NewRepository, Put, RepositoryChangeError};
pub use settings::{DUAL_STACK, SettingError};
pub use tags::{TAGS_MAX, TagError, Taggable};
pub use tasks::{
    Accepted, ContainerChange, DescribedTask, NewTask, RunError, RunTasks, TaskError, TaskFilter, TaskPage,
    TaskWait,
};

/// The use cases; clones share everything.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    node: Arc<dyn NodeLink>,
    host: Host,
    ledger: place::Ledger,
    networks: network::NetworkState,
    directory: discovery::Directory,
    memos: Memos,
    waiters: waiters::Waiters,
}

/// What is read at every start or again and again.
struct Memos {
    clusters: Memo<Cluster>,
    definitions: Memo<TaskDefinition>,
    /// Running and stopped.
    tasks: Memo<Task>,
    specs: Memo<TaskSpec>,
    vpcs: Memo<Vpc>,
    subnets: Memo<Subnet>,
    groups: Memo<SecurityGroup>,
    roles: Memo<Role>,
    policies: Memo<CustomerPolicy>,
}

impl Default for Memos {
    fn default() -> Self {
        Self {
            clusters: Memo::new(tables::CLUSTERS),
            definitions: Memo::new(tables::DEFINITIONS),
            tasks: Memo::new(tables::TASKS),
            specs: Memo::new(tables::SPECS),
            vpcs: Memo::new(tables::VPCS),
            subnets: Memo::new(tables::SUBNETS),
            groups: Memo::new(tables::GROUPS),
            roles: Memo::new(tables::ROLES),
            policies: Memo::new(tables::IAM_POLICIES),
        }
    }
}

impl Control {
    /// Control over a store and one node with this capacity.
    pub fn new(store: Arc<dyn Store>, node: Arc<dyn NodeLink>, host: Host, capacity: Capacity) -> Self {
        let ledger = place::Ledger::new(capacity);
        let networks = network::NetworkState::default();
        let directory = discovery::Directory::default();
        let (memos, waiters) = (Memos::default(), waiters::Waiters::default());
        let shared = Shared { store, node, host, ledger, networks, directory, memos, waiters };
        Self { shared: Arc::new(shared) }
    }

    /// Refuses what makes the store larger while its disk is full.
    fn check_disk(&self) -> Result<(), StoreError> {
        match self.shared.host.disk.room() {
            DiskRoom::Ample | DiskRoom::Low => Ok(()),
            DiskRoom::Full => Err(StoreError::Full { source: Arc::new(OutOfRoom) }),
        }
    }

    fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    fn memos(&self) -> &Memos {
        &self.shared.memos
    }

    fn now(&self) -> neargate_model::Timestamp {
        self.shared.host.clock.now()
    }
}

/// What is left of the disk is for the ends of what there is.
#[derive(Debug, thiserror::Error)]
#[error("the file system of the data directory is full")]
struct OutOfRoom;
