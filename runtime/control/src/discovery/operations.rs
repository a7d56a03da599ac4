//! What was done.

use neargate_model::discovery::{DiscoveryError, Operation};
use neargate_model::{OperationId, Scope};
use neargate_store::StoreError;

use super::{DiscoveryChangeError, OPERATIONS, key};
use crate::Control;
use crate::tables::{NOW, scan_all};

impl Control {
    /// What an operation did.
    pub async fn discovery_operation(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Operation, DiscoveryChangeError> {
        let missing = || DiscoveryError::OperationNotFound { id: id.to_owned() };
        let at = key(&OPERATIONS, scope, &[OperationId::new(id).map_err(|_| missing())?.as_str()]);
        Ok(OPERATIONS.get(self.store(), &at, NOW).await?.ok_or_else(missing)?.value)
    }

    /// What was done in a scope and is not forgotten yet, in the order of ids.
    pub async fn discovery_operations(&self, scope: &Scope) -> Result<Vec<Operation>, StoreError> {
        let prefix = OPERATIONS.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let all = scan_all(self.store(), &OPERATIONS, &prefix).await?;
        Ok(all.into_iter().map(|(_, found)| found.value).collect())
    }
}
