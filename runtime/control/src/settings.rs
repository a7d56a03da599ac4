//! Account settings. They are stored and shown; one of them changes how tasks run here.

use neargate_model::{AccountSetting, Scope};
use neargate_store::{StoreError, Txn};

use crate::Control;
use crate::tables::{NOW, SETTINGS, commit, scan_all, too_contended};

/// Why an account setting was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The setting by which tasks get IPv6 addresses where their subnet has them (Amazon ECS Developer Guide, "Account
/// settings").
pub const DUAL_STACK: &str = "dualStackIPv6";

impl Control {
    /// Whether tasks get IPv6 addresses where their subnet has them: as the first of these has it set, and if none has,
    /// they do.
    pub(crate) async fn is_dual_stack(
        &self,
        scope: &Scope,
        principals: &[String],
    ) -> Result<bool, StoreError> {
        for principal in principals {
            let key = setting_key(scope, principal, DUAL_STACK);
            if let Some(found) = SETTINGS.get(self.store(), &key, NOW).await? {
                return Ok(found.value.is_on());
            }
        }
        Ok(true)
    }

    /// Sets a setting for a principal.
    pub async fn put_setting(&self, scope: &Scope, setting: &AccountSetting) -> Result<(), SettingError> {
        self.check_disk()?;
        let key = setting_key(scope, &setting.principal, &setting.name);
        let txn = SETTINGS.put(Txn::fresh(), &key, setting)?;
        if commit(self.store(), txn).await? { Ok(()) } else { Err(too_contended().into()) }
    }

    /// Takes a setting of a principal back and returns what it was.
    pub async fn delete_setting(
        &self,
        scope: &Scope,
        principal: &str,
        name: &str,
    ) -> Result<Option<AccountSetting>, SettingError> {
        let key = setting_key(scope, principal, name);
        let found = SETTINGS.get(self.store(), &key, NOW).await?;
        if !commit(self.store(), Txn::fresh().delete(&key)).await? {
            return Err(too_contended().into());
        }
        Ok(found.map(|found| found.value))
    }

    /// The settings of a principal, by name.
    pub async fn list_settings(
        &self,
        scope: &Scope,
        principal: &str,
    ) -> Result<Vec<AccountSetting>, SettingError> {
        let prefix = SETTINGS.prefix(&[scope.account.as_str(), scope.region.as_str(), principal]);
        let found = scan_all(self.store(), &SETTINGS, &prefix).await?;
        Ok(found.into_iter().map(|(_, found)| found.value).collect())
    }
}

fn setting_key(scope: &Scope, principal: &str, name: &str) -> neargate_store::Key {
    SETTINGS.key(&[scope.account.as_str(), scope.region.as_str(), principal, name])
}
