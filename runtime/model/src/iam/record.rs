//! Roles and managed policies as they are kept.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::arn::is_path;
use super::{IdentityPolicy, PolicyArn, PolicyOwner, RoleArn, TrustPolicy};
use crate::{AccountId, PolicyName, RoleName, Tags, Timestamp};

/// Most characters of a role's inline policies together, without white space (IAM User Guide, "IAM and STS quotas").
pub const INLINE_LEN_MAX: usize = 10_240;
/// Most characters of a managed policy, as that.
pub const MANAGED_LEN_MAX: usize = 6_144;
/// Most characters of a trust policy, as that; what AWS allows at most on request.
pub const TRUST_LEN_MAX: usize = 8_192;
/// Most managed policies of a role, as that; what AWS allows at most on request.
pub const ATTACHED_MAX: usize = 20;
/// The shortest session of a role, in seconds (STS API reference, `AssumeRole`).
pub const SESSION_S_MIN: u32 = 900;
/// The longest, as that.
pub const SESSION_S_MAX: u32 = 43_200;
/// How long a session lasts where nobody says.
pub const SESSION_S_DEFAULT: u32 = 3_600;

/// A role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub name: RoleName,
    /// Its path.
    pub path: String,
    /// `AROA` and 17 letters and digits; another role of the same name has another one.
    pub id: String,
    /// For people.
    pub description: Option<String>,
    /// Who may take it on.
    pub trust: TrustPolicy,
    /// How long a session of it may last, in seconds.
    pub session_s_max: u32,
    /// Tags.
    pub tags: Tags,
    /// When it was made.
    pub created_at: Timestamp,
    /// Policies of its own.
    pub inline: BTreeMap<PolicyName, IdentityPolicy>,
    /// Managed policies.
    pub attached: BTreeSet<PolicyArn>,
}

impl Role {
    /// Its ARN.
    pub fn arn(&self) -> RoleArn {
        RoleArn { account: self.account.clone(), path: self.path.clone(), name: self.name.clone() }
    }

    /// Whether a text can be the path of a role or policy.
    pub fn is_path(text: &str) -> bool {
        is_path(text)
    }
}

/// A managed policy of an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CustomerPolicy {
    /// The account.
    pub account: AccountId,
    /// Its name.
    pub name: PolicyName,
    /// Its path.
    pub path: String,
    /// `ANPA` and 17 letters and digits.
    pub id: String,
    /// For people.
    pub description: Option<String>,
    /// What it says.
    pub document: IdentityPolicy,
    /// Tags.
    pub tags: Tags,
    /// When it was made.
    pub created_at: Timestamp,
    /// To how many roles it is attached: changed together with the role, so that none keeps a policy that is gone.
    pub attachments: u32,
}

impl CustomerPolicy {
    /// Its ARN.
    pub fn arn(&self) -> PolicyArn {
        let owner = PolicyOwner::Account(self.account.clone());
        PolicyArn { owner, path: self.path.clone(), name: self.name.clone() }
    }
}
