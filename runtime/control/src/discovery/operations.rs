//! What was done.

use neargate_model::discovery::{DiscoveryError, Operation};
use neargate_model::{OperationId, Scope};
use neargate_store::StoreError;

use super::{DiscoveryChangeError, OPERATIONS, key};
use crate::Control;
use crate::tables::{NOW, PAGE};

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

    /// What was done in a scope and is not forgotten yet, in the order of ids, behind one of them: as many as `most` of
    /// those that are wanted, and whether there may be more.
    pub async fn discovery_operations(
        &self,
        scope: &Scope,
        after: Option<&OperationId>,
        most: usize,
        is_wanted: impl Fn(&Operation) -> bool,
    ) -> Result<(Vec<Operation>, bool), StoreError> {
        let prefix = OPERATIONS.prefix(&[scope.account.as_str(), scope.region.as_str()]);
        let mut after = after.map(|id| key(&OPERATIONS, scope, &[id.as_str()]));
        let mut found = Vec::new();
        loop {
            let page = OPERATIONS.scan(self.store(), &prefix, after.as_ref(), PAGE, NOW).await?;
            let wanted = page.items.into_iter().map(|(_, found)| found.value).filter(&is_wanted);
            found.extend(wanted);
            let is_full = found.len() > most;
            match page.next {
                Some(next) if !is_full => after = Some(next),
                _ => {
                    found.truncate(most);
                    return Ok((found, is_full));
                }
            }
        }
    }
}
