//! Namespaces.

use neargate_model::discovery::{
    DiscoveryError, Invalid, NAMESPACES_MAX, Namespace, NamespaceKind, OperationKind, TAGS_MAX, namespace_id,
    operation_id,
};
use neargate_model::{NamespaceId, OperationId, Scope, Tags};
use neargate_store::{Key, StoreError, Txn, Versioned};

use super::directory::zone_name;
use super::{
    COUNTS, CountRecord, DiscoveryChangeError, NAMES, NAMESPACES, NameRecord, Target, contended, key,
};
use crate::Control;
use crate::network::{random, record_key};
use crate::tables::{NOW, VPCS, WRITE_ATTEMPTS, scan_all};

/// A namespace to be made.
#[derive(Clone, Debug)]
pub struct NewNamespace {
    /// Its name.
    pub name: String,
    /// How its instances are found.
    pub kind: NamespaceKind,
    /// What it is for.
    pub description: Option<String>,
    /// What its maker calls the request.
    pub creator_request: Option<String>,
    /// Tags.
    pub tags: Tags,
}

impl Control {
    /// Makes a namespace.
    pub async fn create_namespace(
        &self,
        scope: &Scope,
        new: &NewNamespace,
    ) -> Result<OperationId, DiscoveryChangeError> {
        self.check_disk()?;
        check_tags(&new.tags)?;
        self.new_namespace(new).check_name()?;
        if let NamespaceKind::Private { vpc, .. } = &new.kind {
            let vpc_key = record_key(&VPCS, scope, vpc.as_str());
            if self.memos().vpcs.get(self.store(), &vpc_key).await?.is_none() {
                return Err(Invalid::VpcNotFound { id: vpc.to_string() }.into());
            }
        }
        for _ in 0..WRITE_ATTEMPTS {
            let name_key = name_key(scope, &new.name, &new.kind);
            if let Some(found) = NAMES.get(self.store(), &name_key, NOW).await? {
                match self.find_namespace(scope, &found.value.id).await {
                    Ok((_, found)) => return Err(exists(found.value).into()),
                    // Just deleted.
                    Err(DiscoveryChangeError::Discovery(_)) => continue,
                    Err(error) => return Err(error),
                }
            }
            // Read before they are counted: who makes another one meanwhile rewrites it.
            let count_key = key(&COUNTS, scope, &[]);
            let counted = COUNTS.get(self.store(), &count_key, NOW).await?;
            let namespaces = self.namespaces(scope).await?.len();
            if namespaces >= NAMESPACES_MAX {
                return Err(DiscoveryError::NamespaceLimit.into());
            }
            let namespace = self.new_namespace(new);
            let txn = match &counted {
                Some(counted) => Txn::fresh().at_rev(&count_key, counted.rev),
                None => Txn::fresh().absent(&count_key),
            };
            let txn = COUNTS.put(txn, &count_key, &CountRecord { namespaces: namespaces + 1 })?;
            let txn = txn.absent(&name_key);
            let txn = NAMES.put(txn, &name_key, &NameRecord { id: namespace.id.to_string() })?;
            let txn = NAMESPACES.put(txn, &key(&NAMESPACES, scope, &[namespace.id.as_str()]), &namespace)?;
            let target = Target { namespace: Some(&namespace.id), ..Target::default() };
            let (id, kind) = (operation_id(random()), OperationKind::CreateNamespace);
            if let Some(id) = self.commit_operation(scope, txn, &id, kind, target).await? {
                return Ok(id);
            }
        }
        Err(contended())
    }

    fn new_namespace(&self, new: &NewNamespace) -> Namespace {
        Namespace {
            id: namespace_id(random()),
            name: new.name.clone(),
            kind: new.kind.clone(),
            description: new.description.clone(),
            creator_request: new.creator_request.clone(),
            registries: 0,
            instances: 0,
            created_at: self.now(),
            tags: new.tags.clone(),
        }
    }

    /// The namespaces of a scope, in the order of their ids.
    pub async fn namespaces(&self, scope: &Scope) -> Result<Vec<Namespace>, StoreError> {
        let prefix = NAMESPACES.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), &NAMESPACES, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| found.value).collect())
    }

    /// A namespace.
    pub async fn namespace(&self, scope: &Scope, id: &str) -> Result<Namespace, DiscoveryChangeError> {
        Ok(self.find_namespace(scope, id).await?.1.value)
    }

    /// Removes a namespace that has no service.
    pub async fn delete_namespace(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<OperationId, DiscoveryChangeError> {
        for _ in 0..WRITE_ATTEMPTS {
            let (at, found) = self.find_namespace(scope, id).await?;
            let namespace = found.value;
            if namespace.registries > 0 {
                return Err(DiscoveryError::NamespaceInUse { id: namespace.id }.into());
            }
            let name_key = name_key(scope, &namespace.name, &namespace.kind);
            let txn = Txn::fresh().at_rev(&at, found.rev).delete(&at).delete(&name_key);
            let target = Target { namespace: Some(&namespace.id), ..Target::default() };
            let (id, kind) = (operation_id(random()), OperationKind::DeleteNamespace);
            if let Some(id) = self.commit_operation(scope, txn, &id, kind, target).await? {
                return Ok(id);
            }
        }
        Err(contended())
    }

    /// A namespace with its key and revision.
    pub(super) async fn find_namespace(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<(Key, Versioned<Namespace>), DiscoveryChangeError> {
        let missing = || DiscoveryError::NamespaceNotFound { id: id.to_owned() };
        let at = key(&NAMESPACES, scope, &[NamespaceId::new(id).map_err(|_| missing())?.as_str()]);
        let found = NAMESPACES.get(self.store(), &at, NOW).await?;
        Ok((at, found.ok_or_else(missing)?))
    }
}

pub(super) fn check_tags(tags: &Tags) -> Result<(), DiscoveryError> {
    if tags.len() > TAGS_MAX { Err(DiscoveryError::TagLimit) } else { Ok(()) }
}

/// Two zones of one VPC have different names, and so have two namespaces without DNS.
fn name_key(scope: &Scope, name: &str, kind: &NamespaceKind) -> Key {
    match kind {
        NamespaceKind::Private { vpc, .. } => key(&NAMES, scope, &[vpc.as_str(), &zone_name(name)]),
        NamespaceKind::Http => key(&NAMES, scope, &["http", name]),
    }
}

fn exists(namespace: Namespace) -> DiscoveryError {
    let Namespace { id, name, creator_request, .. } = namespace;
    DiscoveryError::NamespaceExists { name, id, creator_request }
}
