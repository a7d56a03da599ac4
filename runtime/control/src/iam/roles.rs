//! Roles.

use neargate_model::iam::{
    ATTACHED_MAX, INLINE_LEN_MAX, IdentityPolicy, PolicyArn, PolicyOwner, Role, TRUST_LEN_MAX, TrustPolicy,
    aws_managed_by_name,
};
use neargate_model::{AccountId, PolicyName, RoleName, Tags};
use neargate_store::{Txn, Versioned};

use super::{IamError, ROLES_MAX, new_id, policy_key, role_key};
use crate::tables::{IAM_POLICIES, NOW, ROLES, WRITE_ATTEMPTS, commit, scan_all, too_contended};
use crate::{Control, TAGS_MAX};

/// A role to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRole {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub name: RoleName,
    /// Its path.
    pub path: String,
    /// For people.
    pub description: Option<String>,
    /// Who may take it on.
    pub trust: TrustPolicy,
    /// How long a session of it may last, in seconds.
    pub session_s_max: u32,
    /// Tags.
    pub tags: Tags,
}

/// What is changed of a role by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum RoleUpdate {
    /// Who may take it on.
    Trust(TrustPolicy),
    /// A policy of its own is put in the place of what had its name.
    PutInline(PolicyName, IdentityPolicy),
    /// A policy of its own goes.
    DeleteInline(PolicyName),
    /// Tags are put in the place of those with the same keys.
    Tag(Tags),
    /// Tags of these keys go.
    Untag(Vec<String>),
}

impl Control {
    /// Makes a role.
    pub async fn create_role(&self, new: &NewRole) -> Result<Role, IamError> {
        self.check_disk()?;
        check_trust(&new.trust)?;
        check_tags(&new.tags)?;
        if self.roles(&new.account).await?.len() >= ROLES_MAX {
            return Err(IamError::Limit { what: "the number of roles", limit: ROLES_MAX });
        }
        let key = role_key(&new.account, &new.name);
        let role = Role {
            account: new.account.clone(),
            name: new.name.clone(),
            path: new.path.clone(),
            id: new_id("AROA"),
            description: new.description.clone(),
            trust: new.trust.clone(),
            session_s_max: new.session_s_max,
            tags: new.tags.clone(),
            created_at: self.now(),
            inline: Default::default(),
            attached: Default::default(),
        };
        if commit(self.store(), ROLES.put(Txn::fresh().absent(&key), &key, &role)?).await? {
            return Ok(role);
        }
        Err(IamError::Exists { kind: "Role", name: new.name.to_string() })
    }

    /// A role.
    pub async fn role(&self, account: &AccountId, name: &RoleName) -> Result<Role, IamError> {
        Ok(self.read_role(account, name).await?.value)
    }

    /// The roles of an account, by name.
    pub async fn roles(&self, account: &AccountId) -> Result<Vec<Role>, IamError> {
        let found = scan_all(self.store(), &ROLES, &ROLES.prefix(&[account.as_str()])).await?;
        Ok(found.into_iter().map(|(_, found)| found.value).collect())
    }

    /// Changes a role.
    pub async fn update_role(
        &self,
        account: &AccountId,
        name: &RoleName,
        update: &RoleUpdate,
    ) -> Result<(), IamError> {
        if !matches!(update, RoleUpdate::DeleteInline(_) | RoleUpdate::Untag(_)) {
            self.check_disk()?;
        }
        let key = role_key(account, name);
        for _ in 0..WRITE_ATTEMPTS {
            let Versioned { value: before, rev } = self.read_role(account, name).await?;
            let after = apply(&before, update)?;
            if commit(self.store(), ROLES.put(Txn::fresh().at_rev(&key, rev), &key, &after)?).await? {
                return Ok(());
            }
        }
        Err(too_contended().into())
    }

    /// Removes a role that has no policies.
    pub async fn delete_role(&self, account: &AccountId, name: &RoleName) -> Result<(), IamError> {
        let key = role_key(account, name);
        for _ in 0..WRITE_ATTEMPTS {
            let Versioned { value: role, rev } = self.read_role(account, name).await?;
            if !role.inline.is_empty() || !role.attached.is_empty() {
                return Err(IamError::RoleHasPolicies { name: name.clone() });
            }
            if commit(self.store(), Txn::fresh().at_rev(&key, rev).delete(&key)).await? {
                return Ok(());
            }
        }
        Err(too_contended().into())
    }

    /// Attaches a managed policy to a role; the second time it does nothing.
    pub async fn attach_policy(
        &self,
        account: &AccountId,
        name: &RoleName,
        arn: &PolicyArn,
    ) -> Result<(), IamError> {
        self.check_disk()?;
        self.change_attachment(account, name, arn, |role| {
            if role.attached.len() >= ATTACHED_MAX && !role.attached.contains(arn) {
                return Err(IamError::Limit {
                    what: "the number of policies of a role",
                    limit: ATTACHED_MAX,
                });
            }
            Ok(i32::from(role.attached.insert(arn.clone())))
        })
        .await
    }

    /// Takes a managed policy from a role.
    pub async fn detach_policy(
        &self,
        account: &AccountId,
        name: &RoleName,
        arn: &PolicyArn,
    ) -> Result<(), IamError> {
        self.change_attachment(account, name, arn, |role| match role.attached.remove(arn) {
            true => Ok(-1),
            false => Err(IamError::NotAttached { role: name.clone(), arn: arn.clone() }),
        })
        .await
    }

    /// Changes a role and, by what `change` tells, how often a policy is attached, at once.
    async fn change_attachment(
        &self,
        account: &AccountId,
        name: &RoleName,
        arn: &PolicyArn,
        change: impl Fn(&mut Role) -> Result<i32, IamError>,
    ) -> Result<(), IamError> {
        let role_at = role_key(account, name);
        for _ in 0..WRITE_ATTEMPTS {
            let Versioned { value: mut role, rev } = self.read_role(account, name).await?;
            let difference = change(&mut role)?;
            if difference == 0 {
                return Ok(());
            }
            let txn = ROLES.put(Txn::fresh().at_rev(&role_at, rev), &role_at, &role)?;
            if commit(self.store(), self.count_attachment(txn, account, arn, difference).await?).await? {
                return Ok(());
            }
        }
        Err(too_contended().into())
    }

    async fn count_attachment(
        &self,
        txn: Txn,
        account: &AccountId,
        arn: &PolicyArn,
        difference: i32,
    ) -> Result<Txn, IamError> {
        let not_found = || IamError::PolicyNotFound { arn: arn.clone() };
        match &arn.owner {
            PolicyOwner::Aws => aws_managed_by_name(arn).map(|_| txn).ok_or_else(not_found),
            PolicyOwner::Account(owner) if owner == account => {
                let key = policy_key(account, &arn.name);
                let found = IAM_POLICIES.get(self.store(), &key, NOW).await?;
                let found = found.filter(|found| found.value.arn() == *arn);
                let Versioned { value: mut policy, rev } = found.ok_or_else(not_found)?;
                policy.attachments = policy.attachments.saturating_add_signed(difference);
                Ok(IAM_POLICIES.put(txn.at_rev(&key, rev), &key, &policy)?)
            }
            PolicyOwner::Account(_) => Err(not_found()),
        }
    }

    async fn read_role(&self, account: &AccountId, name: &RoleName) -> Result<Versioned<Role>, IamError> {
        let found = ROLES.get(self.store(), &role_key(account, name), NOW).await?;
        let found = found.filter(|found| found.value.name == *name);
        found.ok_or_else(|| IamError::RoleNotFound { name: name.clone() })
    }
}

/// The role after a change.
fn apply(role: &Role, update: &RoleUpdate) -> Result<Role, IamError> {
    let mut role = role.clone();
    match update {
        RoleUpdate::Trust(trust) => {
            check_trust(trust)?;
            role.trust = trust.clone();
        }
        RoleUpdate::PutInline(name, policy) => {
            role.inline.insert(name.clone(), policy.clone());
            if role.inline.values().map(IdentityPolicy::len).sum::<usize>() > INLINE_LEN_MAX {
                return Err(IamError::Limit {
                    what: "the size of a role's own policies",
                    limit: INLINE_LEN_MAX,
                });
            }
        }
        RoleUpdate::DeleteInline(name) => {
            let gone = role.inline.remove(name);
            gone.ok_or_else(|| IamError::InlineNotFound { role: role.name.clone(), policy: name.clone() })?;
        }
        RoleUpdate::Tag(tags) => {
            role.tags.extend(tags.clone());
            check_tags(&role.tags)?;
        }
        RoleUpdate::Untag(keys) => role.tags.retain(|key, _| !keys.contains(key)),
    }
    Ok(role)
}

fn check_trust(trust: &TrustPolicy) -> Result<(), IamError> {
    if trust.len() <= TRUST_LEN_MAX {
        return Ok(());
    }
    Err(IamError::Limit { what: "the size of a trust policy", limit: TRUST_LEN_MAX })
}

pub(super) fn check_tags(tags: &Tags) -> Result<(), IamError> {
    if tags.len() <= TAGS_MAX {
        return Ok(());
    }
    Err(IamError::Limit { what: "the number of tags", limit: TAGS_MAX })
}
