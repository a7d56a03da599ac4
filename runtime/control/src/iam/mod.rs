//! Roles and managed policies of accounts, and who may take on a role.
//!
//! They have no region. A managed policy counts the roles that it is attached to, in the transaction that changes the
//! role, so that none can be removed while it is in use.

mod policies;
mod roles;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use neargate_model::iam::{Admission, Context};
use neargate_model::iam::{
    Asked, CustomerPolicy, IdentityPolicy, PolicyArn, PolicyOwner, Role, RoleArn, TASKS_SERVICE, Trustee,
    aws_managed_by_name,
};
use neargate_model::{AccountId, PolicyName, RoleName, Scope};
use neargate_store::{Key, StoreError};
use uuid::Uuid;

use crate::Control;
use crate::tables::{IAM_POLICIES, ROLES};

pub use policies::NewPolicy;
pub use roles::{NewRole, RoleUpdate};

/// Most roles of an account, and most policies (IAM User Guide, "IAM and STS quotas").
const ROLES_MAX: usize = 1_000;
const POLICIES_MAX: usize = 1_500;
/// Letters and digits of ids.
const ID_LEN: usize = 17;
const ID_DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Why roles and policies were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum IamError {
    /// There is no such role.
    #[error("role {name} does not exist")]
    RoleNotFound {
        /// The name.
        name: RoleName,
    },
    /// There is no such managed policy.
    #[error("policy {arn} does not exist")]
    PolicyNotFound {
        /// Its ARN.
        arn: PolicyArn,
    },
    /// The role has no such policy of its own.
    #[error("role {role} has no policy {policy}")]
    InlineNotFound {
        /// The role.
        role: RoleName,
        /// The policy.
        policy: PolicyName,
    },
    /// The policy is not attached to the role.
    #[error("policy {arn} is not attached to role {role}")]
    NotAttached {
        /// The role.
        role: RoleName,
        /// The policy.
        arn: PolicyArn,
    },
    /// The name is taken.
    #[error("{kind} {name} exists already")]
    Exists {
        /// What.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A role still has policies.
    #[error("role {name} still has policies")]
    RoleHasPolicies {
        /// The role.
        name: RoleName,
    },
    /// A policy is still attached.
    #[error("policy {arn} is attached to {roles} roles")]
    PolicyAttached {
        /// The policy.
        arn: PolicyArn,
        /// To how many.
        roles: u32,
    },
    /// AWS's own policies cannot be changed.
    #[error("policy {arn} is AWS's")]
    NotOurs {
        /// The policy.
        arn: PolicyArn,
    },
    /// Over a limit.
    #[error("{what} is limited to {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Control {
    /// A role's ARN and what it may do: its own policies and those attached to it. None where it is gone, or another one
    /// has its name.
    pub async fn role_rights(
        &self,
        account: &AccountId,
        name: &RoleName,
        id: &str,
    ) -> Result<Option<(RoleArn, Vec<IdentityPolicy>)>, StoreError> {
        let Some(role) = self.find_role(account, name).await?.filter(|role| role.id == id) else {
            return Ok(None);
        };
        let mut policies: Vec<IdentityPolicy> = role.inline.values().cloned().collect();
        for arn in &role.attached {
            match (&arn.owner, aws_managed_by_name(arn)) {
                (PolicyOwner::Aws, managed) => {
                    policies.extend(managed.map(|managed| managed.document.clone()))
                }
                (PolicyOwner::Account(_), _) => {
                    let found = self.find_policy(arn).await?;
                    policies.extend(found.map(|found| found.document.clone()));
                }
            }
        }
        Ok(Some((role.arn(), policies)))
    }

    /// The role that tasks of a scope are to have, if it may be theirs: it exists, and trusts ECS to take it on for them.
    pub async fn task_role(&self, scope: &Scope, arn: &RoleArn) -> Result<Option<Arc<Role>>, StoreError> {
        let Scope { account, region } = scope;
        let role = self.find_role(account, &arn.name).await?.filter(|role| role.arn() == *arn);
        // What ECS says of itself (ECS Developer Guide, "Amazon ECS task IAM role").
        let context = Context::default()
            .with("aws:SourceAccount", account.as_str())
            .with("aws:SourceArn", format!("arn:aws:ecs:{region}:{account}:*"));
        let asked = Asked { action: "sts:AssumeRole", resource: "*", context: &context };
        let trustee = Trustee::Service(TASKS_SERVICE.to_owned());
        Ok(role.filter(|role| role.trust.admits(&trustee, &asked) != Admission::Refused))
    }

    /// A role, from memory where it has not changed.
    pub async fn find_role(
        &self,
        account: &AccountId,
        name: &RoleName,
    ) -> Result<Option<Arc<Role>>, StoreError> {
        let found = self.memos().roles.get(self.store(), &role_key(account, name)).await?;
        // Two names that differ in case alone cannot both be, and each is its own.
        Ok(found.map(|found| found.value).filter(|role| role.name == *name))
    }

    async fn find_policy(&self, arn: &PolicyArn) -> Result<Option<Arc<CustomerPolicy>>, StoreError> {
        let PolicyOwner::Account(account) = &arn.owner else { return Ok(None) };
        let found = self.memos().policies.get(self.store(), &policy_key(account, &arn.name)).await?;
        Ok(found.map(|found| found.value).filter(|policy| policy.arn() == *arn))
    }
}

fn role_key(account: &AccountId, name: &RoleName) -> Key {
    // No two names differ in case alone (IAM API reference, CreateRole).
    ROLES.key(&[account.as_str(), &name.as_str().to_ascii_lowercase()])
}

fn policy_key(account: &AccountId, name: &PolicyName) -> Key {
    IAM_POLICIES.key(&[account.as_str(), &name.as_str().to_ascii_lowercase()])
}

/// A new id that begins with a prefix.
fn new_id(prefix: &str) -> String {
    let random = Uuid::new_v4().into_bytes().into_iter().chain(Uuid::new_v4().into_bytes());
    let digits = random.map(|byte| char::from(ID_DIGITS[usize::from(byte % 32)])).take(ID_LEN);
    prefix.chars().chain(digits).collect()
}
