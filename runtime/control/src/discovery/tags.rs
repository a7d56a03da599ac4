//! Tags of namespaces and services.

use neargate_model::discovery::DiscoveryError;
use neargate_model::{Scope, Tags};
use neargate_store::Txn;

use super::namespaces::check_tags;
use super::{DiscoveryChangeError, NAMESPACES, REGISTRIES, contended};
use crate::Control;
use crate::tables::WRITE_ATTEMPTS;

/// What of service discovery can have tags, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryResource {
    /// A namespace.
    Namespace(String),
    /// A service.
    Registry(String),
}

impl Control {
    /// The tags of a namespace or a service.
    pub async fn discovery_tags(
        &self,
        scope: &Scope,
        resource: &DiscoveryResource,
    ) -> Result<Tags, DiscoveryChangeError> {
        match resource {
            DiscoveryResource::Namespace(id) => self.namespace(scope, id).await.map(|found| found.tags),
            DiscoveryResource::Registry(id) => self.registry(scope, id).await.map(|found| found.tags),
        }
        .map_err(not_found)
    }

    /// Adds tags, and removes those of the named keys.
    pub async fn change_discovery_tags(
        &self,
        scope: &Scope,
        resource: &DiscoveryResource,
        add: &Tags,
        remove: &[String],
    ) -> Result<(), DiscoveryChangeError> {
        let apply = |tags: &mut Tags| {
            tags.extend(add.clone());
            tags.retain(|key, _| !remove.contains(key));
            check_tags(tags)
        };
        for _ in 0..WRITE_ATTEMPTS {
            let txn = match resource {
                DiscoveryResource::Namespace(id) => {
                    let (at, mut found) = self.find_namespace(scope, id).await.map_err(not_found)?;
                    apply(&mut found.value.tags)?;
                    NAMESPACES.put(Txn::fresh().at_rev(&at, found.rev), &at, &found.value)?
                }
                DiscoveryResource::Registry(id) => {
                    let (at, mut found) = self.find_registry(scope, id).await.map_err(not_found)?;
                    apply(&mut found.value.tags)?;
                    REGISTRIES.put(Txn::fresh().at_rev(&at, found.rev), &at, &found.value)?
                }
            };
            if self.commit_followed(txn).await? {
                return Ok(());
            }
        }
        Err(contended())
    }
}

/// The operations of tags have one error for whatever is not there.
fn not_found(error: DiscoveryChangeError) -> DiscoveryChangeError {
    match error {
        DiscoveryChangeError::Discovery(
            DiscoveryError::NamespaceNotFound { .. } | DiscoveryError::RegistryNotFound { .. },
        ) => DiscoveryError::ResourceNotFound.into(),
        other => other,
    }
}
