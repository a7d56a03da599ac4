//! The directory: all namespaces, services and instances in memory, as the store has them.
//!
//! ```text
//!  load ──▶ follow ──▶ follow ──▶ …
//!   ▲         │ the store has forgotten what comes next
//!   └─────────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use neargate_model::discovery::{DiscoveryError, Instance, Namespace, Registry};
use neargate_model::{AccountId, InstanceId, NamespaceId, Region, RegistryId, Scope, VpcId};
use neargate_store::{Entry, Key, Rev, Store, StoreError, Table, WatchItem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{INSTANCES, NAMESPACES, REGISTRIES, TABLES};
use crate::tables::{NOW, PAGE};

/// How long a change waits to be seen in the directory. It is committed already; whoever asks sees it a little later.
const SEEN_PATIENCE: Duration = Duration::from_secs(2);
/// How long is waited before the store is read again after it failed.
const PAUSE: Duration = Duration::from_millis(200);

/// The directory.
pub(crate) struct Directory {
    records: RwLock<Records>,
    /// The revision up to which it is as the store.
    reached: watch::Sender<Rev>,
}

/// What the directory holds.
#[derive(Default)]
pub(crate) struct Records {
    namespaces: HashMap<NamespaceId, Found>,
    registries: HashMap<RegistryId, Arc<Registry>>,
    instances: HashMap<RegistryId, BTreeMap<InstanceId, Arc<Instance>>>,
    /// Namespaces that are zones, by their VPC and name.
    zones: HashMap<VpcId, BTreeMap<String, NamespaceId>>,
    /// Services by their namespace and name.
    names: HashMap<NamespaceId, BTreeMap<String, RegistryId>>,
}

/// A namespace, and whose it is.
struct Found {
    scope: Scope,
    namespace: Arc<Namespace>,
}

impl Default for Directory {
    fn default() -> Self {
        Self { records: RwLock::default(), reached: watch::Sender::new(Rev::ZERO) }
    }
}

impl Directory {
    /// What it holds now.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Records> {
        self.records.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has what was committed at a revision.
    pub(crate) async fn wait_for(&self, rev: Rev) {
        let mut reached = self.reached.subscribe();
        if tokio::time::timeout(SEEN_PATIENCE, reached.wait_for(|reached| *reached >= rev)).await.is_err() {
            tracing::warn!(%rev, "a change of service discovery is not to be seen yet");
        }
    }

    /// Does as the store does, for ever.
    pub(crate) async fn follow(&self, store: &dyn Store) {
        loop {
            match self.load(store).await {
                Ok(rev) => self.follow_from(store, rev).await,
                Err(error) => {
                    tracing::warn!(error = neargate_model::chain(&error), "service discovery cannot be read");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads everything, as it was at one moment; gives the revision from which to follow.
    pub(crate) async fn load(&self, store: &dyn Store) -> Result<Rev, StoreError> {
        loop {
            let mut records = Records::default();
            let (first, last) = records.read_all(store).await?;
            // Later pages are of later revisions: what has changed meanwhile is told from the first one on.
            let Some(rev) = records.catch_up(store, first, last).await else { continue };
            *self.write() = records;
            self.reached.send_replace(rev);
            return Ok(rev);
        }
    }

    /// Follows until the store has forgotten what comes next. Changes are seen when all of their transaction are there:
    /// nobody is told of a service's revision without the instance that has made it.
    async fn follow_from(&self, store: &dyn Store, rev: Rev) {
        let mut watch = store.watch(Key::from(TABLES), rev);
        let mut changes = Vec::new();
        loop {
            match watch.next().await {
                WatchItem::Gone { .. } => return,
                WatchItem::Progress(rev) => {
                    let mut records = self.write();
                    changes.drain(..).for_each(|change| records.apply(&change));
                    drop(records);
                    self.reached.send_replace(rev);
                }
                change @ (WatchItem::Put(_) | WatchItem::Delete(..)) => changes.push(change),
            }
        }
    }
}

impl Records {
    /// A service of a scope by its name and that of its namespace. Zones of two VPCs may have the same name; the older
    /// one is meant.
    pub(crate) fn registry_named(
        &self,
        scope: &Scope,
        namespace: &str,
        name: &str,
    ) -> Result<&Arc<Registry>, DiscoveryError> {
        let is_meant = |found: &&Found| found.scope == *scope && found.namespace.name == namespace;
        let found = self.namespaces.values().filter(is_meant).map(|found| &found.namespace);
        let found = found.min_by_key(|found| (found.created_at, &found.id));
        let missing = || DiscoveryError::NamespaceNameNotFound { name: namespace.to_owned() };
        let id = &found.ok_or_else(missing)?.id;
        // As it is written, or, of one in DNS, in lower case.
        let found = self.registry(id, name).or_else(|| {
            self.registry(id, &name.to_ascii_lowercase()).filter(|registry| registry.dns.is_some())
        });
        found.ok_or_else(|| DiscoveryError::RegistryNameNotFound { name: name.to_owned() })
    }

    /// The zone of a VPC with this name.
    pub(crate) fn zone(&self, vpc: &VpcId, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(self.zones.get(vpc)?.get(name)?).map(|found| &found.namespace)
    }

    /// The service of a namespace with this name, as [`Registry::key_name`] has it.
    pub(crate) fn registry(&self, namespace: &NamespaceId, name: &str) -> Option<&Arc<Registry>> {
        self.registries.get(self.names.get(namespace)?.get(name)?)
    }

    /// Whether there is a name below this one in a namespace: then this one is there, too, without a record (RFC 8020).
    pub(crate) fn has_below(&self, namespace: &NamespaceId, name: &str) -> bool {
        let suffix = format!(".{name}");
        self.names.get(namespace).is_some_and(|names| names.keys().any(|other| other.ends_with(&suffix)))
    }

    pub(crate) fn instances(&self, registry: &RegistryId) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.get(registry).into_iter().flat_map(BTreeMap::values)
    }

    /// The instance whose id is this in lower case, as names in DNS are.
    pub(crate) fn instance_of_host(&self, registry: &RegistryId, host: &str) -> Option<&Arc<Instance>> {
        self.instances(registry).find(|instance| instance.id.as_str().eq_ignore_ascii_case(host))
    }

    /// Reads every page; gives the revisions of the first and of the last one.
    async fn read_all(&mut self, store: &dyn Store) -> Result<(Rev, Rev), StoreError> {
        let (mut after, mut first) = (None, None);
        loop {
            let page = store.scan(&Key::from(TABLES), after.as_ref(), PAGE, NOW).await?;
            let first = *first.get_or_insert(page.rev);
            page.entries.iter().for_each(|entry| self.put(entry));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok((first, page.rev)),
            }
        }
    }

    /// Takes in what has changed from one revision to another; gives the one that it has come to, or none if the store has
    /// forgotten them.
    async fn catch_up(&mut self, store: &dyn Store, from: Rev, to: Rev) -> Option<Rev> {
        if from == to {
            return Some(to);
        }
        let mut watch = store.watch(Key::from(TABLES), from);
        loop {
            match watch.next().await {
                WatchItem::Progress(rev) if rev >= to => return Some(rev),
                WatchItem::Gone { .. } => return None,
                change => self.apply(&change),
            }
        }
    }

    fn apply(&mut self, change: &WatchItem) {
        match change {
            WatchItem::Put(entry) => self.put(entry),
            WatchItem::Delete(key, _) => self.delete(key),
            WatchItem::Progress(_) | WatchItem::Gone { .. } => {}
        }
    }

    fn put(&mut self, entry: &Entry) {
        if let Some(namespace) = decode(&NAMESPACES, entry) {
            if let Some(scope) = scope_of(&entry.key) {
                self.put_namespace(scope, namespace);
            }
        } else if let Some(registry) = decode(&REGISTRIES, entry) {
            self.put_registry(registry);
        } else if let Some(instance) = decode(&INSTANCES, entry)
            && let Some((registry, _)) = instance_ids(&entry.key)
        {
            self.instances.entry(registry).or_default().insert(instance.id.clone(), Arc::new(instance));
        }
    }

    fn put_namespace(&mut self, scope: Scope, namespace: Namespace) {
        if let Some((vpc, _)) = namespace.zone() {
            let zones = self.zones.entry(vpc.clone()).or_default();
            zones.insert(zone_name(&namespace.name), namespace.id.clone());
        }
        self.namespaces.insert(namespace.id.clone(), Found { scope, namespace: Arc::new(namespace) });
    }

    fn put_registry(&mut self, registry: Registry) {
        let names = self.names.entry(registry.namespace.clone()).or_default();
        names.insert(registry.key_name(), registry.id.clone());
        self.registries.insert(registry.id.clone(), Arc::new(registry));
    }

    fn delete(&mut self, key: &Key) {
        let last = |table: Option<Vec<String>>| table.and_then(|segments| segments.into_iter().next_back());
        if let Some(id) = last(NAMESPACES.segments(key)).and_then(|id| NamespaceId::new(id).ok()) {
            self.delete_namespace(&id);
        } else if let Some(id) = last(REGISTRIES.segments(key)).and_then(|id| RegistryId::new(id).ok()) {
            self.delete_registry(&id);
        } else if let Some((registry, id)) = instance_ids(key)
            && let Some(instances) = self.instances.get_mut(&registry)
        {
            instances.remove(&id);
        }
    }

    fn delete_namespace(&mut self, id: &NamespaceId) {
        self.names.remove(id);
        let Some(Found { namespace, .. }) = self.namespaces.remove(id) else { return };
        if let Some((vpc, _)) = namespace.zone()
            && let Some(zones) = self.zones.get_mut(vpc)
        {
            zones.remove(&zone_name(&namespace.name));
            if zones.is_empty() {
                self.zones.remove(vpc);
            }
        }
    }

    fn delete_registry(&mut self, id: &RegistryId) {
        self.instances.remove(id);
        let Some(registry) = self.registries.remove(id) else { return };
        if let Some(names) = self.names.get_mut(&registry.namespace) {
            names.remove(&registry.key_name());
        }
    }
}

/// The name of a zone as it is looked up.
pub(super) fn zone_name(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// A record of this table; one that cannot be read is as if it were not there, which the API says of it as well.
fn decode<T: Serialize + DeserializeOwned>(table: &Table<T>, entry: &Entry) -> Option<T> {
    table.segments(&entry.key)?;
    match table.decode(entry) {
        Ok(found) => Some(found.value),
        Err(error) => {
            tracing::error!(
                error = neargate_model::chain(&error),
                "a record of service discovery is left out"
            );
            None
        }
    }
}

/// The scope of a namespace's key.
fn scope_of(key: &Key) -> Option<Scope> {
    let [account, region, _] = NAMESPACES.segments(key)?.try_into().ok()?;
    Some(Scope { account: AccountId::new(account).ok()?, region: Region::new(region).ok()? })
}

fn instance_ids(key: &Key) -> Option<(RegistryId, InstanceId)> {
    let [_, _, registry, instance] = INSTANCES.segments(key)?.try_into().ok()?;
    Some((RegistryId::new(registry).ok()?, InstanceId::new(instance).ok()?))
}
