//! Instances.

use std::collections::BTreeMap;

use neargate_model::discovery::{
    DiscoveryError, HealthWanted, INSTANCES_MAX, Instance, InstanceHealth, NAMESPACE_INSTANCES_MAX,
    OperationKind, Registry, discover, draw, operation_id,
};
use neargate_model::{InstanceId, OperationId, Scope};
use neargate_store::{StoreError, Txn};

use super::{DiscoveryChangeError, INSTANCES, NAMESPACES, REGISTRIES, Target, contended, key};
use crate::Control;
use crate::network::random;
use crate::tables::{NOW, WRITE_ATTEMPTS, scan_all};

/// An instance to be registered, or to take the place of the one with its id.
#[derive(Clone, Debug)]
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// What its owner calls the request.
    pub creator_request: Option<String>,
    /// What is known of it.
    pub attributes: BTreeMap<String, String>,
}

/// Which instances somebody wants to be told of.
#[derive(Clone, Debug)]
pub struct DiscoverWanted {
    /// The name of the namespace.
    pub namespace: String,
    /// The name of the service.
    pub registry: String,
    /// Their health.
    pub health: HealthWanted,
    /// Attributes that all of them have.
    pub attributes: BTreeMap<String, String>,
    /// Attributes that those have besides which are told of, if any has.
    pub preferred: BTreeMap<String, String>,
    /// How many at most.
    pub most: usize,
}

/// Instances that were found, in a random order.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// Their service.
    pub registry: Registry,
    /// They themselves.
    pub instances: Vec<Instance>,
}

impl Control {
    /// Registers an instance.
    pub async fn register_instance(
        &self,
        scope: &Scope,
        registry: &str,
        new: &NewInstance,
    ) -> Result<OperationId, DiscoveryChangeError> {
        self.check_disk()?;
        for _ in 0..WRITE_ATTEMPTS {
            let (registry_key, found) = self.find_registry(scope, registry).await?;
            let mut changed = found.value;
            let (namespace_key, namespace) = self.find_namespace(scope, changed.namespace.as_str()).await?;
            let at = key(&INSTANCES, scope, &[changed.id.as_str(), new.id.as_str()]);
            let before = INSTANCES.get(self.store(), &at, NOW).await?.map(|before| before.value);
            if let Some(operation) = repeated(before.as_ref(), new)? {
                return Ok(operation);
            }
            let instance = self.new_instance(&changed, new, before.as_ref());
            instance.check(&changed, &namespace.value)?;
            let mut txn = Txn::fresh();
            if before.is_none() {
                let mut counted = namespace.value;
                if changed.instances >= INSTANCES_MAX || counted.instances >= NAMESPACE_INSTANCES_MAX {
                    return Err(DiscoveryError::InstanceLimit.into());
                }
                changed.instances += 1;
                counted.instances += 1;
                txn = NAMESPACES.put(txn.at_rev(&namespace_key, namespace.rev), &namespace_key, &counted)?;
            }
            changed.revision += 1;
            // Whoever changes the instance rewrites its service, so that its revision tells of both.
            let txn = REGISTRIES.put(txn.at_rev(&registry_key, found.rev), &registry_key, &changed)?;
            let txn = INSTANCES.put(txn, &at, &instance)?;
            let (id, kind) = (&instance.operation, OperationKind::RegisterInstance);
            let target = instance_target(&changed, &instance.id);
            if let Some(id) = self.commit_operation(scope, txn, id, kind, target).await? {
                return Ok(id);
            }
        }
        Err(contended())
    }

    fn new_instance(&self, registry: &Registry, new: &NewInstance, before: Option<&Instance>) -> Instance {
        let at_first = Instance::health_at_first(registry, &new.attributes);
        let now = self.now();
        Instance {
            id: new.id.clone(),
            attributes: new.attributes.clone(),
            creator_request: new.creator_request.clone(),
            operation: operation_id(random()),
            health: before.map_or(at_first, |before| before.health),
            registered_at: before.map_or(now, |before| before.registered_at),
        }
    }

    /// Removes an instance.
    pub async fn deregister_instance(
        &self,
        scope: &Scope,
        registry: &str,
        id: &str,
    ) -> Result<OperationId, DiscoveryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (registry_key, found) = self.find_registry(scope, registry).await?;
            let mut changed = found.value;
            let instance = self.find_instance(scope, &changed, id).await?;
            let (namespace_key, namespace) = self.find_namespace(scope, changed.namespace.as_str()).await?;
            let mut counted = namespace.value;
            counted.instances = counted.instances.saturating_sub(1);
            changed.instances = changed.instances.saturating_sub(1);
            changed.revision += 1;
            let txn = Txn::fresh().at_rev(&namespace_key, namespace.rev).at_rev(&registry_key, found.rev);
            let txn = NAMESPACES.put(txn, &namespace_key, &counted)?;
            let txn = REGISTRIES.put(txn, &registry_key, &changed)?;
            let txn = txn.delete(key(&INSTANCES, scope, &[changed.id.as_str(), instance.id.as_str()]));
            let target = instance_target(&changed, &instance.id);
            let (id, kind) = (operation_id(random()), OperationKind::DeregisterInstance);
            if let Some(id) = self.commit_operation(scope, txn, &id, kind, target).await? {
                return Ok(id);
            }
        }
        Err(contended())
    }

    /// Says of an instance that it is healthy or not.
    pub async fn set_instance_health(
        &self,
        scope: &Scope,
        registry: &str,
        id: &str,
        health: InstanceHealth,
    ) -> Result<(), DiscoveryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (registry_key, found) = self.find_registry(scope, registry).await?;
            let registry = found.value;
            if !registry.has_custom_health {
                return Err(DiscoveryError::NoCustomHealth { id: registry.id }.into());
            }
            let before = self.find_instance(scope, &registry, id).await?;
            let at = key(&INSTANCES, scope, &[registry.id.as_str(), before.id.as_str()]);
            let instance = Instance { health, ..before };
            // The service is rewritten as it is: its revision counts instances, not their health.
            let txn =
                REGISTRIES.put(Txn::fresh().at_rev(&registry_key, found.rev), &registry_key, &registry)?;
            if self.commit_followed(INSTANCES.put(txn, &at, &instance)?).await? {
                return Ok(());
            }
        }
        Err(contended())
    }

    /// An instance of a service, and the service.
    pub async fn instance(
        &self,
        scope: &Scope,
        registry: &str,
        id: &str,
    ) -> Result<(Registry, Instance), DiscoveryChangeError> {
        let registry = self.registry(scope, registry).await?;
        let instance = self.find_instance(scope, &registry, id).await?;
        Ok((registry, instance))
    }

    /// The instances of a service, in the order of their ids.
    pub async fn instances(
        &self,
        scope: &Scope,
        registry: &str,
    ) -> Result<Vec<Instance>, DiscoveryChangeError> {
        let registry = self.registry(scope, registry).await?;
        Ok(self.instances_of(scope, &registry).await?)
    }

    async fn instances_of(&self, scope: &Scope, registry: &Registry) -> Result<Vec<Instance>, StoreError> {
        let prefix = INSTANCES.prefix(&[scope.account.as_str(), scope.region.as_str(), registry.id.as_str()]);
        let all = scan_all(self.store(), &INSTANCES, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| found.value).collect())
    }

    async fn find_instance(
        &self,
        scope: &Scope,
        registry: &Registry,
        id: &str,
    ) -> Result<Instance, DiscoveryChangeError> {
        let missing = || DiscoveryError::InstanceNotFound { id: id.to_owned() };
        let id = InstanceId::new(id).map_err(|_| missing())?;
        let at = key(&INSTANCES, scope, &[registry.id.as_str(), id.as_str()]);
        Ok(INSTANCES.get(self.store(), &at, NOW).await?.ok_or_else(missing)?.value)
    }

    /// The instances that somebody wants to be told of, from memory.
    pub fn discover_instances(
        &self,
        scope: &Scope,
        wanted: &DiscoverWanted,
    ) -> Result<Discovered, DiscoveryError> {
        let directory = self.shared.directory.read();
        let registry = directory.registry_named(scope, &wanted.namespace, &wanted.registry)?;
        let found = directory.instances(&registry.id).map(|instance| &**instance);
        let found = found.filter(|instance| instance.has(&wanted.attributes)).collect();
        let mut found = discover(registry, found, wanted.health);
        if found.iter().any(|instance| instance.has(&wanted.preferred)) {
            found.retain(|instance| instance.has(&wanted.preferred));
        }
        draw(&mut found, wanted.most, &mut random);
        let instances = found.into_iter().cloned().collect();
        Ok(Discovered { registry: Registry::clone(registry), instances })
    }

    /// The revision of a service by its name and that of its namespace, from memory.
    pub fn discovery_revision(
        &self,
        scope: &Scope,
        namespace: &str,
        registry: &str,
    ) -> Result<u64, DiscoveryError> {
        let directory = self.shared.directory.read();
        Ok(directory.registry_named(scope, namespace, registry)?.revision)
    }
}

fn instance_target<'a>(registry: &'a Registry, instance: &'a InstanceId) -> Target<'a> {
    Target { namespace: Some(&registry.namespace), registry: Some(&registry.id), instance: Some(instance) }
}

/// The operation of a request that was made before; refuses one that was made before with something else in it.
fn repeated(before: Option<&Instance>, new: &NewInstance) -> Result<Option<OperationId>, DiscoveryError> {
    let is_again = |before: &&Instance| {
        before.creator_request.is_some() && before.creator_request == new.creator_request
    };
    match before.filter(is_again) {
        None => Ok(None),
        Some(before) if before.attributes == new.attributes => Ok(Some(before.operation.clone())),
        Some(before) => Err(DiscoveryError::DuplicateRequest { operation: before.operation.clone() }),
    }
}
