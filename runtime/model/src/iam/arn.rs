//! ARNs of roles and policies, which have an account and no region.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{AccountId, InvalidArn, PolicyName, RoleName};

/// Most characters of a path (IAM API reference, `CreateRole`).
const PATH_LEN_MAX: usize = 512;

/// The ARN of a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleArn {
    /// The account.
    pub account: AccountId,
    /// The path, which begins and ends with a slash.
    pub path: String,
    /// The name, which no two roles of an account share, whatever their paths.
    pub name: RoleName,
}

/// Whose a policy is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyOwner {
    /// AWS's: it is the same in every account.
    Aws,
    /// An account's.
    Account(AccountId),
}

/// The ARN of a managed policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyArn {
    /// Whose it is.
    pub owner: PolicyOwner,
    /// The path, which begins and ends with a slash.
    pub path: String,
    /// The name, which no two policies of an owner share.
    pub name: PolicyName,
}

/// Whether a text is the path of a role or policy: slashes at both ends, and printable ASCII between them.
pub(super) fn is_path(text: &str) -> bool {
    let is_wrapped = text == "/" || (text.len() > 2 && text.starts_with('/') && text.ends_with('/'));
    is_wrapped && text.len() <= PATH_LEN_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Account, path and name of `arn:aws:iam::ACCOUNT:KIND/PATH/NAME`.
fn parts<'a>(text: &'a str, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (account, resource) = text.strip_prefix("arn:aws:iam::")?.split_once(':')?;
    let path_and_name = resource.strip_prefix(kind).filter(|rest| rest.starts_with('/'))?;
    let at = path_and_name.rfind('/')? + 1;
    let (path, name) = path_and_name.split_at(at);
    is_path(path).then_some((account, path, name))
}

fn invalid(text: &str) -> InvalidArn {
    InvalidArn { value: text.chars().take(64).collect() }
}

impl RoleArn {
    /// Reads the ARN of a role.
    pub fn parse(text: &str) -> Result<Self, InvalidArn> {
        let read = || {
            let (account, path, name) = parts(text, "role")?;
            let (account, name) = (AccountId::new(account).ok()?, RoleName::new(name).ok()?);
            Some(Self { account, path: path.to_owned(), name })
        };
        read().ok_or_else(|| invalid(text))
    }
}

impl PolicyArn {
    /// Reads the ARN of a managed policy.
    pub fn parse(text: &str) -> Result<Self, InvalidArn> {
        let read = || {
            let (owner, path, name) = parts(text, "policy")?;
            let owner = match owner {
                "aws" => PolicyOwner::Aws,
                account => PolicyOwner::Account(AccountId::new(account).ok()?),
            };
            Some(Self { owner, path: path.to_owned(), name: PolicyName::new(name).ok()? })
        };
        read().ok_or_else(|| invalid(text))
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:aws:iam::{}:role{}{}", self.account, self.path, self.name)
    }
}

impl fmt::Display for PolicyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match &self.owner {
            PolicyOwner::Aws => "aws",
            PolicyOwner::Account(account) => account.as_str(),
        };
        write!(f, "arn:aws:iam::{owner}:policy{}{}", self.path, self.name)
    }
}

macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidArn;
            fn try_from(text: String) -> Result<Self, InvalidArn> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(arn: $name) -> String {
                arn.to_string()
            }
        }
    )*};
}

as_text!(RoleArn PolicyArn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_read_and_write() {
        for text in ["arn:aws:iam::123456789012:role/a", "arn:aws:iam::123456789012:role/service-role/x/a+b"]
        {
            assert_eq!(RoleArn::parse(text).unwrap().to_string(), text);
        }
        for text in ["arn:aws:iam::aws:policy/service-role/P", "arn:aws:iam::123456789012:policy/P"] {
            assert_eq!(PolicyArn::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "a",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role//a",
            "arn:aws:iam::1:role/a",
            "arn:aws:iam:us-east-1:123456789012:role/a",
            "arn:aws:iam::123456789012:user/a",
            "arn:aws:iam::aws:role/a",
            "arn:aws:iam::123456789012:roles/a",
            "arn:aws:iam::123456789012:role/a b/c",
        ] {
            assert!(RoleArn::parse(text).is_err(), "{text}");
        }
    }
}
