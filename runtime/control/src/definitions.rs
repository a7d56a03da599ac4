//! Task definitions: families and their revisions.

use std::sync::Arc;

use neargate_model::{
    DefinitionStatus, Family, LaunchType, NodeCommand, Scope, Tags, TaskDefinition, TaskShape, validate,
};
use neargate_store::{StoreError, Txn, Versioned};

use crate::tables::{
    DEFINITIONS, FAMILIES, FamilyRecord, NOW, WRITE_ATTEMPTS, commit, definition_key, family_key, scan_all,
    too_contended,
};
use crate::{Control, tags};

/// Why an operation on task definitions was refused.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The family has no such revision, or no active one.
    #[error("task definition {family} does not exist or has no active revision")]
    NotFound {
        /// The family.
        family: Family,
    },
    /// The definition breaks a rule.
    #[error(transparent)]
    Shape(#[from] validate::ShapeError),
    /// It must be deregistered first.
    #[error("task definition {family}:{revision} is active; deregister it first")]
    StillActive {
        /// The family.
        family: Family,
        /// The revision.
        revision: u32,
    },
    /// Too many tags.
    #[error(transparent)]
    Tags(#[from] tags::TagError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A definition to register.
#[derive(Clone, Debug)]
pub struct NewDefinition {
    /// The family.
    pub family: Family,
    /// What its tasks are made of.
    pub shape: TaskShape,
    /// Launch types that it must be fit for.
    pub requires: Vec<LaunchType>,
    /// Tags.
    pub tags: Tags,
    /// The definition as the API writes it.
    pub face: String,
    /// Who registers it, an ARN.
    pub registered_by: String,
}

/// Which revision is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevisionWanted {
    /// The newest active one.
    Latest,
    /// This one.
    Exactly(u32),
}

/// Which definitions or families to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefinitionStatusFilter {
    /// All of them.
    All,
    /// Those of one status; a family is active when one of its revisions is.
    Only(DefinitionStatus),
}

impl Control {
    /// Registers the next revision of a family.
    pub async fn register_definition(
        &self,
        scope: &Scope,
        new: NewDefinition,
    ) -> Result<TaskDefinition, DefinitionError> {
        tags::check(&new.tags)?;
        self.check_disk()?;
        validate::check_shape(&new.shape)?;
        if new.requires.contains(&LaunchType::Fargate) {
            validate::check_fargate(&new.shape)?;
        }
        let mut compatibilities = vec![LaunchType::Ec2];
        if validate::check_fargate(&new.shape).is_ok() {
            compatibilities.push(LaunchType::Fargate);
        }
        let key = family_key(scope, &new.family);
        for _ in 0..WRITE_ATTEMPTS {
            let found = FAMILIES.get(self.store(), &key, NOW).await?;
            let (txn, mut record) = match found {
                Some(found) => (Txn::fresh().at_rev(&key, found.rev), found.value),
                None => (Txn::fresh().absent(&key), FamilyRecord::default()),
            };
            record.last_revision += 1;
            record.active.push(record.last_revision);
            let definition = TaskDefinition {
                family: new.family.clone(),
                revision: record.last_revision,
                status: DefinitionStatus::Active,
                shape: new.shape.clone(),
                compatibilities: compatibilities.clone(),
                tags: new.tags.clone(),
                registered_at: self.now(),
                registered_by: new.registered_by.clone(),
                deregistered_at: None,
                delete_requested_at: None,
                face: new.face.clone(),
            };
            let txn = FAMILIES.put(txn, &key, &record)?;
            let definition_at = definition_key(scope, &new.family, definition.revision);
            if commit(self.store(), DEFINITIONS.put(txn, &definition_at, &definition)?).await? {
                self.prepare(definition.shape.containers.iter().map(|container| container.image.clone()))
                    .await;
                return Ok(definition);
            }
        }
        Err(too_contended().into())
    }

    /// Lets the node make images ready, so that the first task of them does not wait for it.
    pub async fn prepare(&self, images: impl Iterator<Item = String>) {
        let mut images: Vec<String> = images.collect();
        images.sort();
        images.dedup();
        if let Err(error) = self.shared.node.send(NodeCommand::Prepare { images }).await {
            tracing::debug!(%error, "images are made ready at their first start");
        }
    }

    /// A definition, whatever its status; [`RevisionWanted::Latest`] finds active ones only.
    pub async fn find_definition(
        &self,
        scope: &Scope,
        family: &Family,
        revision: RevisionWanted,
    ) -> Result<Arc<TaskDefinition>, DefinitionError> {
        Ok(self.definition(scope, family, revision).await?.value)
    }

    pub(crate) async fn definition(
        &self,
        scope: &Scope,
        family: &Family,
        revision: RevisionWanted,
    ) -> Result<Versioned<Arc<TaskDefinition>>, DefinitionError> {
        let not_found = || DefinitionError::NotFound { family: family.clone() };
        let revision = match revision {
            RevisionWanted::Exactly(revision) => revision,
            RevisionWanted::Latest => {
                let record = FAMILIES.get(self.store(), &family_key(scope, family), NOW).await?;
                let last = record.and_then(|record| record.value.active.last().copied());
                last.ok_or_else(not_found)?
            }
        };
        let key = definition_key(scope, family, revision);
        self.memos().definitions.get(self.store(), &key).await?.ok_or_else(not_found)
    }

    /// Makes a revision inactive; tasks that use it go on. Doing it twice changes nothing.
    pub async fn deregister_definition(
        &self,
        scope: &Scope,
        family: &Family,
        revision: u32,
    ) -> Result<TaskDefinition, DefinitionError> {
        for _ in 0..WRITE_ATTEMPTS {
            let found = self.definition(scope, family, RevisionWanted::Exactly(revision)).await?;
            if found.value.status != DefinitionStatus::Active {
                return Ok(Arc::unwrap_or_clone(found.value));
            }
            let definition = TaskDefinition {
                status: DefinitionStatus::Inactive,
                deregistered_at: Some(self.now()),
                ..Arc::unwrap_or_clone(found.value)
            };
            let (family_at, definition_at) =
                (family_key(scope, family), definition_key(scope, family, revision));
            let Some(record) = FAMILIES.get(self.store(), &family_at, NOW).await? else {
                return Err(DefinitionError::NotFound { family: family.clone() });
            };
            let mut family_record = record.value;
            family_record.active.retain(|&active| active != revision);
            let txn = Txn::fresh().at_rev(&family_at, record.rev).at_rev(&definition_at, found.rev);
            let txn = FAMILIES.put(txn, &family_at, &family_record)?;
            if commit(self.store(), DEFINITIONS.put(txn, &definition_at, &definition)?).await? {
                return Ok(definition);
            }
        }
        Err(too_contended().into())
    }

    /// Asks for an inactive revision to go away; the sweep removes it once no task uses it.
    pub async fn delete_definition(
        &self,
        scope: &Scope,
        family: &Family,
        revision: u32,
    ) -> Result<TaskDefinition, DefinitionError> {
        let now = self.now();
        self.change_definition(scope, family, revision, |definition| match definition.status {
            DefinitionStatus::Active => {
                Err(DefinitionError::StillActive { family: family.clone(), revision })
            }
            DefinitionStatus::Inactive | DefinitionStatus::DeleteInProgress => {
                definition.status = DefinitionStatus::DeleteInProgress;
                definition.delete_requested_at.get_or_insert(now);
                Ok(())
            }
        })
        .await
    }

    pub(crate) async fn change_definition(
        &self,
        scope: &Scope,
        family: &Family,
        revision: u32,
        change: impl Fn(&mut TaskDefinition) -> Result<(), DefinitionError>,
    ) -> Result<TaskDefinition, DefinitionError> {
        let key = definition_key(scope, family, revision);
        for _ in 0..WRITE_ATTEMPTS {
            let found = self.definition(scope, family, RevisionWanted::Exactly(revision)).await?;
            let mut definition = Arc::unwrap_or_clone(found.value);
            change(&mut definition)?;
            let txn = DEFINITIONS.put(Txn::fresh().at_rev(&key, found.rev), &key, &definition)?;
            if commit(self.store(), txn).await? {
                return Ok(definition);
            }
        }
        Err(too_contended().into())
    }

    /// Families and revisions, ordered by family and revision.
    pub async fn list_definitions(
        &self,
        scope: &Scope,
        family: Option<&Family>,
        filter: DefinitionStatusFilter,
    ) -> Result<Vec<(Family, u32)>, DefinitionError> {
        let mut segments = vec![scope.account.as_str(), scope.region.as_str()];
        segments.extend(family.map(Family::as_str));
        let all = scan_all(self.store(), &DEFINITIONS, &DEFINITIONS.prefix(&segments)).await?;
        let wanted = |definition: &TaskDefinition| match filter {
            DefinitionStatusFilter::All => true,
            DefinitionStatusFilter::Only(status) => definition.status == status,
        };
        let listed = all.into_iter().map(|(_, found)| found.value).filter(wanted);
        Ok(listed.map(|definition| (definition.family, definition.revision)).collect())
    }

    /// Family names in order, of those that begin with `prefix`.
    pub async fn list_families(
        &self,
        scope: &Scope,
        prefix: &str,
        filter: DefinitionStatusFilter,
    ) -> Result<Vec<Family>, DefinitionError> {
        let below = FAMILIES.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let mut families = Vec::new();
        for (key, found) in scan_all(self.store(), &FAMILIES, &below).await? {
            let name = FAMILIES.segments(&key).and_then(|mut segments| segments.pop());
            let Some(family) = name.and_then(|name| Family::new(name).ok()) else { continue };
            let is_active = !found.value.active.is_empty();
            let is_wanted = match filter {
                DefinitionStatusFilter::All => true,
                DefinitionStatusFilter::Only(status) => is_active == (status == DefinitionStatus::Active),
            };
            if is_wanted && family.as_str().starts_with(prefix) {
                families.push(family);
            }
        }
        Ok(families)
    }
}
