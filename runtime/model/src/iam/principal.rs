//! Who may take on a role.

use super::document::{Effect, MalformedDocument, ResourcePolicy, TrustPolicy, refuse_variables};
use super::{Asked, Decision, RoleArn};
use crate::AccountId;

/// One principal of a trust policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PrincipalPattern {
    Everyone,
    Service(String),
    Account(AccountId),
    /// A role, or a session of one.
    Arn(String),
}

/// Who wants to take on a role.
#[derive(Clone, Debug, PartialEq)]
pub enum Trustee {
    /// A service of AWS, for what it runs.
    Service(String),
    /// An account's root user.
    Root(AccountId),
    /// A session of a role.
    Session {
        /// The role.
        role: RoleArn,
        /// The ARN of the session.
        session: String,
    },
}

/// Whether somebody may take on a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// They are named themselves.
    Named,
    /// Their account is: it decides by its own policies.
    ByAccount,
    /// They are not.
    Refused,
}

impl PrincipalPattern {
    pub(super) fn read(kind: &str, text: &str) -> Result<Self, MalformedDocument> {
        refuse_variables(text)?;
        let unknown = || MalformedDocument::Principal { principal: text.chars().take(128).collect() };
        let root = |text: &str| text.strip_prefix("arn:aws:iam::")?.strip_suffix(":root").map(str::to_owned);
        match kind {
            "Service" if text.contains('.') && !text.contains('*') => Ok(Self::Service(text.to_owned())),
            "AWS" if text == "*" => Ok(Self::Everyone),
            "AWS" => match AccountId::new(root(text).unwrap_or_else(|| text.to_owned())) {
                Ok(account) => Ok(Self::Account(account)),
                // AWS takes no other wildcard here.
                Err(_) if text.starts_with("arn:aws:") && !text.contains('*') => {
                    Ok(Self::Arn(text.to_owned()))
                }
                Err(_) => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }

    fn admits(&self, trustee: &Trustee) -> Admission {
        match (self, trustee) {
            (Self::Service(service), Trustee::Service(asks)) if service == asks => Admission::Named,
            (Self::Everyone, Trustee::Root(_) | Trustee::Session { .. }) => Admission::ByAccount,
            (Self::Account(account), Trustee::Root(asks)) if account == asks => Admission::Named,
            (Self::Account(account), Trustee::Session { role, .. }) if *account == role.account => {
                Admission::ByAccount
            }
            (Self::Arn(arn), Trustee::Session { role, session })
                if *arn == role.to_string() || arn == session =>
            {
                Admission::Named
            }
            _ => Admission::Refused,
        }
    }
}

impl TrustPolicy {
    /// Whether somebody may take on the role, by its own policy.
    pub fn admits(&self, trustee: &Trustee, asked: &Asked<'_>) -> Admission {
        let mut best = Admission::Refused;
        for statement in self.0.statements.iter().filter(|statement| statement.applies(asked)) {
            for principal in &statement.principals {
                match (principal.admits(trustee), statement.effect) {
                    (Admission::Refused, _) => {}
                    (_, Effect::Deny) => return Admission::Refused,
                    (Admission::Named, Effect::Allow) => best = Admission::Named,
                    (Admission::ByAccount, Effect::Allow) if best == Admission::Refused => {
                        best = Admission::ByAccount;
                    }
                    (Admission::ByAccount, Effect::Allow) => {}
                }
            }
        }
        best
    }
}

impl ResourcePolicy {
    /// What it says to somebody of the resource's own account. One who is named, or everybody, needs no other policy;
    /// naming the account leaves it to the account's own policies (IAM User Guide, "Policy evaluation logic").
    pub fn decide(&self, who: &Trustee, asked: &Asked<'_>) -> Decision {
        let mut decision = Decision::NotAllowed;
        for statement in self.0.statements.iter().filter(|statement| statement.applies(asked)) {
            for principal in &statement.principals {
                let is_everyone = matches!(principal, PrincipalPattern::Everyone);
                match (principal.admits(who), statement.effect) {
                    (Admission::Refused, _) => {}
                    (_, Effect::Deny) => return Decision::Denied,
                    (Admission::Named, Effect::Allow) => decision = Decision::Allowed,
                    (Admission::ByAccount, Effect::Allow) if is_everyone => decision = Decision::Allowed,
                    (Admission::ByAccount, Effect::Allow) => {}
                }
            }
        }
        decision
    }
}
