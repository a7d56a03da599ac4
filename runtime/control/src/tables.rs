//! The tables of the control state. All are written by this crate alone.

use neargate_model::iam::{CustomerPolicy, Role};
use neargate_model::vpc::{NetworkInterface, SecurityGroup, Subnet, Vpc};
use neargate_model::{
    AccountSetting, Cidr, Cluster, ClusterName, Family, Scope, Task, TaskDefinition, TaskId, TaskKey,
    TaskSpec, Timestamp,
};
use neargate_store::{
    Consistency, Key, Rev, Settled, Store, StoreError, Table, Txn, Versioned, commit_retrying,
};
use serde::{Deserialize, Serialize};

/// Reads see every acknowledged write.
pub(crate) const NOW: Consistency = Consistency::Linearizable;

/// Records a scan asks for at once.
pub(crate) const PAGE: u32 = 500;

/// How often an optimistic write is tried before its caller is told to come again.
pub(crate) const WRITE_ATTEMPTS: usize = 64;

/// Clusters, by scope and name.
pub(crate) const CLUSTERS: Table<Cluster> = Table::new("cluster", "neargate-control", 1);
/// Revisions of families, by scope, family and revision.
pub(crate) const DEFINITIONS: Table<TaskDefinition> = Table::new("definition", "neargate-control", 1);
/// Families, by scope and name.
pub(crate) const FAMILIES: Table<FamilyRecord> = Table::new("family", "neargate-control", 1);
/// Tasks that have not stopped, by scope, cluster and id.
pub(crate) const TASKS: Table<Task> = Table::new("task", "neargate-control", 1);
/// Tasks that have stopped, until they are forgotten; the same keys.
pub(crate) const STOPPED: Table<Task> = Table::new("stopped-task", "neargate-control", 1);
/// What tasks are made of; the same keys.
pub(crate) const SPECS: Table<TaskSpec> = Table::new("task-spec", "neargate-control", 1);
/// Client tokens of RunTask, by scope, cluster and token.
pub(crate) const TOKENS: Table<TokenRecord> = Table::new("client-token", "neargate-control", 1);
/// Account settings, by scope, principal and name.
pub(crate) const SETTINGS: Table<AccountSetting> = Table::new("account-setting", "neargate-control", 1);

/// One record a scope that has networks, by scope; every change of its VPCs, subnets and groups rewrites it.
pub(crate) const NETWORKS: Table<NetworkRecord> = Table::new("network", "neargate-control", 1);
/// VPCs, by scope and id.
pub(crate) const VPCS: Table<Vpc> = Table::new("vpc", "neargate-control", 1);
/// Subnets, by scope and id.
pub(crate) const SUBNETS: Table<Subnet> = Table::new("subnet", "neargate-control", 1);
/// Security groups with their rules, by scope and id.
pub(crate) const GROUPS: Table<SecurityGroup> = Table::new("security-group", "neargate-control", 1);
/// Network interfaces of tasks that have not stopped; the keys are the tasks'.
pub(crate) const INTERFACES: Table<NetworkInterface> = Table::new("network-interface", "neargate-control", 1);

/// The addresses of tasks under `bridge`, one record.
pub(crate) const BRIDGE: Table<BridgeRecord> = Table::new("bridge", "neargate-control", 1);

/// See [`BRIDGE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BridgeRecord {
    /// The block, the same as long as there are tasks that may have it.
    pub(crate) block: Cidr,
}

/// Roles, by account and name in lower case.
pub(crate) const ROLES: Table<Role> = Table::new("role", "neargate-control", 1);
/// Managed policies of accounts, by account and name in lower case.
pub(crate) const IAM_POLICIES: Table<CustomerPolicy> = Table::new("policy", "neargate-control", 1);

/// What is known of the networks of a scope as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// When they were changed last.
    pub(crate) changed_at: Timestamp,
}

/// What is known of a family besides its revisions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FamilyRecord {
    /// The highest revision ever given; revisions are never used twice.
    pub(crate) last_revision: u32,
    /// The active revisions, in order.
    pub(crate) active: Vec<u32>,
}

/// What a client token stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    /// A digest of the request that came with it.
    pub(crate) request: String,
    /// The tasks that it started.
    pub(crate) tasks: Vec<TaskId>,
    /// When that was.
    pub(crate) at: Timestamp,
}

pub(crate) fn cluster_key(scope: &Scope, name: &ClusterName) -> Key {
    CLUSTERS.key(&[scope.account.as_str(), scope.region.as_str(), name.as_str()])
}

pub(crate) fn family_key(scope: &Scope, family: &Family) -> Key {
    FAMILIES.key(&[scope.account.as_str(), scope.region.as_str(), family.as_str()])
}

pub(crate) fn definition_key(scope: &Scope, family: &Family, revision: u32) -> Key {
    let revision = format!("{revision:010}");
    DEFINITIONS.key(&[scope.account.as_str(), scope.region.as_str(), family.as_str(), &revision])
}

pub(crate) fn task_key<T>(table: &Table<T>, key: &TaskKey) -> Key {
    let Scope { account, region } = &key.scope;
    table.key(&[account.as_str(), region.as_str(), key.cluster.as_str(), key.id.as_str()])
}

pub(crate) fn token_key(scope: &Scope, cluster: &ClusterName, token: &str) -> Key {
    TOKENS.key(&[scope.account.as_str(), scope.region.as_str(), cluster.as_str(), token])
}

/// Every record of a table below a prefix.
pub(crate) async fn scan_all<T>(
    store: &dyn Store,
    table: &Table<T>,
    prefix: &Key,
) -> Result<Vec<(Key, Versioned<T>)>, StoreError>
where
    T: Serialize + serde::de::DeserializeOwned,
{
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let page = table.scan(store, prefix, after.as_ref(), PAGE, NOW).await?;
        items.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(items),
        }
    }
}

/// Commits; `false` means that somebody else was quicker and the caller should look again.
pub(crate) async fn commit(store: &dyn Store, txn: Txn) -> Result<bool, StoreError> {
    Ok(commit_at(store, txn).await?.is_some())
}

/// As [`commit`], and tells the revision.
pub(crate) async fn commit_at(store: &dyn Store, txn: Txn) -> Result<Option<Rev>, StoreError> {
    match commit_retrying(store, txn).await? {
        Settled::Done(rev) => Ok(Some(rev)),
        Settled::Conflict { .. } => Ok(None),
    }
}

/// The error of an optimistic write that lost [`WRITE_ATTEMPTS`] races in a row.
pub(crate) fn too_contended() -> StoreError {
    StoreError::unavailable(std::time::Duration::from_millis(100), Contended)
}

#[derive(Debug, thiserror::Error)]
#[error("others kept changing the same record")]
struct Contended;
