//! Managed policies of accounts. They have one version: a changed policy is another one.

use neargate_model::iam::{CustomerPolicy, IdentityPolicy, MANAGED_LEN_MAX, PolicyArn, PolicyOwner};
use neargate_model::{AccountId, PolicyName, Tags};
use neargate_store::{Txn, Versioned};

use super::roles::check_tags;
use super::{IamError, POLICIES_MAX, new_id, policy_key};
use crate::Control;
use crate::tables::{IAM_POLICIES, NOW, WRITE_ATTEMPTS, commit, scan_all, too_contended};

/// A policy to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPolicy {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub name: PolicyName,
    /// Its path.
    pub path: String,
    /// For people.
    pub description: Option<String>,
    /// What it says.
    pub document: IdentityPolicy,
    /// Tags.
    pub tags: Tags,
}

impl Control {
    /// Makes a policy.
    pub async fn create_policy(&self, new: &NewPolicy) -> Result<CustomerPolicy, IamError> {
        self.check_disk()?;
        check_tags(&new.tags)?;
        if new.document.len() > MANAGED_LEN_MAX {
            return Err(IamError::Limit { what: "the size of a policy", limit: MANAGED_LEN_MAX });
        }
        if self.policies(&new.account).await?.len() >= POLICIES_MAX {
            return Err(IamError::Limit { what: "the number of policies", limit: POLICIES_MAX });
        }
        let policy = CustomerPolicy {
            account: new.account.clone(),
            name: new.name.clone(),
            path: new.path.clone(),
            id: new_id("ANPA"),
            description: new.description.clone(),
            document: new.document.clone(),
            tags: new.tags.clone(),
            created_at: self.now(),
            attachments: 0,
        };
        let key = policy_key(&new.account, &new.name);
        if commit(self.store(), IAM_POLICIES.put(Txn::fresh().absent(&key), &key, &policy)?).await? {
            return Ok(policy);
        }
        Err(IamError::Exists { kind: "Policy", name: new.name.to_string() })
    }

    /// A policy of an account, by its ARN.
    pub async fn policy(&self, account: &AccountId, arn: &PolicyArn) -> Result<CustomerPolicy, IamError> {
        Ok(self.read_policy(account, arn).await?.value)
    }

    /// The policies of an account, by name.
    pub async fn policies(&self, account: &AccountId) -> Result<Vec<CustomerPolicy>, IamError> {
        let found = scan_all(self.store(), &IAM_POLICIES, &IAM_POLICIES.prefix(&[account.as_str()])).await?;
        Ok(found.into_iter().map(|(_, found)| found.value).collect())
    }

    /// Removes a policy that no role has.
    pub async fn delete_policy(&self, account: &AccountId, arn: &PolicyArn) -> Result<(), IamError> {
        if arn.owner == PolicyOwner::Aws {
            return Err(IamError::NotOurs { arn: arn.clone() });
        }
        let key = policy_key(account, &arn.name);
        for _ in 0..WRITE_ATTEMPTS {
            let Versioned { value: policy, rev } = self.read_policy(account, arn).await?;
            if policy.attachments > 0 {
                return Err(IamError::PolicyAttached { arn: arn.clone(), roles: policy.attachments });
            }
            if commit(self.store(), Txn::fresh().at_rev(&key, rev).delete(&key)).await? {
                return Ok(());
            }
        }
        Err(too_contended().into())
    }

    async fn read_policy(
        &self,
        account: &AccountId,
        arn: &PolicyArn,
    ) -> Result<Versioned<CustomerPolicy>, IamError> {
        let found = IAM_POLICIES.get(self.store(), &policy_key(account, &arn.name), NOW).await?;
        let found = found.filter(|found| found.value.arn() == *arn);
        found.ok_or_else(|| IamError::PolicyNotFound { arn: arn.clone() })
    }
}
