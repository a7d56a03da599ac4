//! Services.

use neargate_model::discovery::{
    DiscoveryError, DnsConfig, DnsRecord, OperationKind, REGISTRIES_MAX, Registry, operation_id, registry_id,
};
use neargate_model::{NamespaceId, OperationId, RegistryId, Scope, Tags};
use neargate_store::{Key, StoreError, Txn, Versioned};

use super::namespaces::check_tags;
use super::{DiscoveryChangeError, NAMES, NAMESPACES, NameRecord, REGISTRIES, Target, contended, key};
use crate::Control;
use crate::network::random;
use crate::tables::{NOW, WRITE_ATTEMPTS, scan_all};

/// A service to be made.
#[derive(Clone, Debug)]
pub struct NewRegistry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What its maker calls the request.
    pub creator_request: Option<String>,
    /// The records of its instances.
    pub dns: Option<DnsConfig>,
    /// Whether it is not to be found by DNS though its namespace has DNS.
    pub only_http: bool,
    /// Whether somebody tells of its instances that they are healthy or not.
    pub has_custom_health: bool,
    /// Tags.
    pub tags: Tags,
}

/// What is to be changed of a service.
#[derive(Clone, Debug, Default)]
pub struct RegistryChange {
    /// What it is for.
    pub description: Option<String>,
    /// The same records with other lifetimes.
    pub records: Option<Vec<DnsRecord>>,
}

impl Control {
    /// Makes a service.
    pub async fn create_registry(
        &self,
        scope: &Scope,
        new: &NewRegistry,
    ) -> Result<Registry, DiscoveryChangeError> {
        self.check_disk()?;
        check_tags(&new.tags)?;
        for _ in 0..WRITE_ATTEMPTS {
            let (namespace_key, found) = self.find_namespace(scope, &new.namespace).await?;
            let mut namespace = found.value;
            let registry = self.new_registry(&namespace.id, new);
            registry.check(&namespace, new.only_http)?;
            let name_key = name_key(scope, &registry);
            if let Some(found) = NAMES.get(self.store(), &name_key, NOW).await? {
                match self.find_registry(scope, &found.value.id).await {
                    Ok((_, found)) => return Err(exists(found.value).into()),
                    // Just deleted.
                    Err(DiscoveryChangeError::Discovery(_)) => continue,
                    Err(error) => return Err(error),
                }
            }
            if namespace.registries >= REGISTRIES_MAX {
                return Err(DiscoveryError::RegistryLimit.into());
            }
            namespace.registries += 1;
            let txn = Txn::fresh().at_rev(&namespace_key, found.rev).absent(&name_key);
            let txn = NAMESPACES.put(txn, &namespace_key, &namespace)?;
            let txn = NAMES.put(txn, &name_key, &NameRecord { id: registry.id.to_string() })?;
            let txn = REGISTRIES.put(txn, &key(&REGISTRIES, scope, &[registry.id.as_str()]), &registry)?;
            if self.commit_followed(txn).await? {
                return Ok(registry);
            }
        }
        Err(contended())
    }

    fn new_registry(&self, namespace: &NamespaceId, new: &NewRegistry) -> Registry {
        Registry {
            id: registry_id(random()),
            namespace: namespace.clone(),
            name: new.name.clone(),
            description: new.description.clone(),
            creator_request: new.creator_request.clone(),
            dns: new.dns.clone(),
            has_custom_health: new.has_custom_health,
            instances: 0,
            revision: 1,
            created_at: self.now(),
            tags: new.tags.clone(),
        }
    }

    /// The services of a scope, in the order of their ids.
    pub async fn registries(&self, scope: &Scope) -> Result<Vec<Registry>, StoreError> {
        let prefix = REGISTRIES.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), &REGISTRIES, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| found.value).collect())
    }

    /// A service.
    pub async fn registry(&self, scope: &Scope, id: &str) -> Result<Registry, DiscoveryChangeError> {
        Ok(self.find_registry(scope, id).await?.1.value)
    }

    /// Changes a service.
    pub async fn update_registry(
        &self,
        scope: &Scope,
        id: &str,
        change: &RegistryChange,
    ) -> Result<OperationId, DiscoveryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_registry(scope, id).await?;
            let mut registry = found.value;
            if let Some(description) = &change.description {
                registry.description = Some(description.clone());
            }
            if let Some(records) = &change.records {
                let dns = registry.dns.as_ref().ok_or(neargate_model::discovery::Invalid::RecordsChanged)?;
                registry.dns = Some(dns.with_ttls(records)?);
            }
            let txn = REGISTRIES.put(Txn::fresh().at_rev(&at, found.rev), &at, &registry)?;
            let target = Target { registry: Some(&registry.id), ..Target::default() };
            let (id, kind) = (operation_id(random()), OperationKind::UpdateService);
            if let Some(id) = self.commit_operation(scope, txn, &id, kind, target).await? {
                return Ok(id);
            }
        }
        Err(contended())
    }

    /// Removes a service that has no instance.
    pub async fn delete_registry(&self, scope: &Scope, id: &str) -> Result<(), DiscoveryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_registry(scope, id).await?;
            let registry = found.value;
            if registry.instances > 0 {
                return Err(DiscoveryError::RegistryInUse { id: registry.id }.into());
            }
            let (namespace_key, namespace) = self.find_namespace(scope, registry.namespace.as_str()).await?;
            let (mut changed, rev) = (namespace.value, namespace.rev);
            changed.registries = changed.registries.saturating_sub(1);
            let txn = Txn::fresh().at_rev(&at, found.rev).at_rev(&namespace_key, rev);
            let txn = NAMESPACES.put(txn, &namespace_key, &changed)?;
            if self.commit_followed(txn.delete(&at).delete(name_key(scope, &registry))).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// A service with its key and revision.
    pub(super) async fn find_registry(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<(Key, Versioned<Registry>), DiscoveryChangeError> {
        let missing = || DiscoveryError::RegistryNotFound { id: id.to_owned() };
        let at = key(&REGISTRIES, scope, &[RegistryId::new(id).map_err(|_| missing())?.as_str()]);
        let found = REGISTRIES.get(self.store(), &at, NOW).await?;
        Ok((at, found.ok_or_else(missing)?))
    }
}

fn name_key(scope: &Scope, registry: &Registry) -> Key {
    key(&NAMES, scope, &[registry.namespace.as_str(), &registry.key_name()])
}

fn exists(registry: Registry) -> DiscoveryError {
    let Registry { id, name, creator_request, .. } = registry;
    DiscoveryError::RegistryExists { name, id, creator_request }
}
