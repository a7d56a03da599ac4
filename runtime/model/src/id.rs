//! Identifiers. Each is a newtype that is valid by construction, so that a name from a client never
//! reaches a path, a cgroup or a log line unchecked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What was being read, for example `cluster name`.
    pub kind: &'static str,
    /// The offending text, cut to 64 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

fn invalid(kind: &'static str, value: &str, rule: &'static str) -> InvalidId {
    InvalidId { kind, value: value.chars().take(64).collect(), rule }
}

fn is_name(value: &str) -> bool {
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=255).contains(&value.len()) && value.bytes().all(is_name_byte)
}

fn is_hex(value: &str, length: usize) -> bool {
    value.len() == length && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The form that EC2 gives its resources.
fn is_resource(value: &str, prefix: &str) -> bool {
    value.strip_prefix(prefix).is_some_and(|digits| is_hex(digits, 17))
}

fn is_base36(value: &str, prefix: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    value.strip_prefix(prefix).is_some_and(|rest| rest.len() == 16 && rest.bytes().all(is_digit))
}

/// The characters of names in IAM (IAM User Guide, "IAM and STS quotas": `[\w+=,.@-]`).
fn is_iam_name(value: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    lengths.contains(&value.len()) && value.bytes().all(is_name_byte)
}

fn is_account(value: &str) -> bool {
    value.len() == 12 && value.bytes().all(|b| b.is_ascii_digit())
}

fn is_region(value: &str) -> bool {
    let is_region_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=32).contains(&value.len()) && value.bytes().all(is_region_byte)
}

fn is_uuid(value: &str) -> bool {
    let dash_at = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    value.len() == 36
        && value.bytes().enumerate().all(|(i, b)| {
            if dash_at(i) { b == b'-' } else { b.is_ascii_digit() || (b'a'..=b'f').contains(&b) }
        })
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Reads the identifier, refusing text that breaks its rule.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                let check: fn(&str) -> bool = $check;
                if check(&value) { Ok(Self(value)) } else { Err(invalid($kind, &value, $rule)) }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// An account, twelve digits; the unit of tenancy.
    AccountId, "account id", "an account id is 12 digits", is_account
);
id!(
    /// A region, for example `us-east-1`.
    Region, "region", "a region has 1 to 32 lower-case letters, digits and hyphens", is_region
);
id!(
    /// The name of a repository of the registry, for example `team/app`.
    RepositoryName,
    "repository name",
    "a repository name has 1 to 255 lower-case letters and digits, joined by one of . _ __ / or by hyphens",
    |value| value.len() <= 255 && crate::image::check_repository(value).is_ok()
);
id!(
    /// The tag of an image.
    ImageTag,
    "tag",
    "a tag has 1 to 128 letters, digits, _ . and -, and starts with none of . and -",
    |value| crate::image::check_tag(value).is_ok()
);
id!(
    /// The name of a cluster.
    ClusterName, "cluster name", "a name has 1 to 255 letters, digits, hyphens and underscores", is_name
);
id!(
    /// The name of a task definition family.
    Family, "family", "a name has 1 to 255 letters, digits, hyphens and underscores", is_name
);
id!(
    /// The name of a container within its task definition.
    ContainerName, "container name", "a name has 1 to 255 letters, digits, hyphens and underscores", is_name
);
id!(
    /// A task, 32 hexadecimal digits.
    TaskId, "task id", "a task id is 32 hexadecimal digits", |v| is_hex(v, 32)
);
id!(
    /// A container of a task, a UUID.
    ContainerId, "container id", "a container id is a lower-case UUID", is_uuid
);

id!(
    /// A VPC, `vpc-` and 17 hexadecimal digits.
    VpcId, "VPC id", "a VPC id is vpc- and 17 hexadecimal digits", |v| is_resource(v, "vpc-")
);
id!(
    /// A subnet, `subnet-` and 17 hexadecimal digits.
    SubnetId, "subnet id", "a subnet id is subnet- and 17 hexadecimal digits", |v| is_resource(v, "subnet-")
);
id!(
    /// A security group, `sg-` and 17 hexadecimal digits.
    SecurityGroupId, "security group id", "a security group id is sg- and 17 hexadecimal digits",
    |v| is_resource(v, "sg-")
);
id!(
    /// A rule of a security group, `sgr-` and 17 hexadecimal digits.
    SecurityGroupRuleId, "security group rule id", "a security group rule id is sgr- and 17 hexadecimal digits",
    |v| is_resource(v, "sgr-")
);
id!(
    /// A network interface, `eni-` and 17 hexadecimal digits.
    NetworkInterfaceId, "network interface id", "a network interface id is eni- and 17 hexadecimal digits",
    |v| is_resource(v, "eni-")
);

id!(
    /// That a VPC or a subnet has a block of addresses: `vpc-cidr-assoc-` or `subnet-cidr-assoc-` and 17 hexadecimal
    /// digits.
    BlockAssociationId, "block association id",
    "a block association id is vpc-cidr-assoc- or subnet-cidr-assoc- and 17 hexadecimal digits",
    |v| is_resource(v, "vpc-cidr-assoc-") || is_resource(v, "subnet-cidr-assoc-")
);

id!(
    /// A namespace of service discovery, `ns-` and 16 lower-case letters and digits.
    NamespaceId, "namespace id", "a namespace id is ns- and 16 lower-case letters and digits",
    |v| is_base36(v, "ns-")
);
id!(
    /// A service that is registered for discovery, `srv-` and 16 lower-case letters and digits. It is no ECS service.
    RegistryId, "discovery service id", "a discovery service id is srv- and 16 lower-case letters and digits",
    |v| is_base36(v, "srv-")
);
id!(
    /// An instance of a service that is registered for discovery; its owner names it.
    InstanceId, "instance id", "an instance id has 1 to 64 letters, digits and characters of _/:.@-", |v| {
        (1..=64).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/:.@-".contains(&b))
    }
);
id!(
    /// An operation of service discovery, 32 lower-case letters and digits.
    OperationId, "operation id", "an operation id is 32 lower-case letters and digits",
    |v| v.len() == 32 && v.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
);
id!(
    /// The name of a role.
    RoleName, "role name", "a role's name has 1 to 64 letters, digits and _+=,.@-", |v| is_iam_name(v, 1..=64)
);
id!(
    /// The name of a policy.
    PolicyName, "policy name", "a policy's name has 1 to 128 letters, digits and _+=,.@-", |v| is_iam_name(v, 1..=128)
);
id!(
    /// The name of a session of a role.
    SessionName, "session name", "a session's name has 2 to 64 letters, digits and _+=,.@-",
    |v| is_iam_name(v, 2..=64)
);

/// Where a resource lives: resources of two accounts or two regions never meet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// The owning account.
    pub account: AccountId,
    /// The region, taken from the request's credential scope.
    pub region: Region,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(read: fn(String) -> Result<T, InvalidId>, value: &str, valid: bool) {
        assert_eq!(read(value.to_owned()).is_ok(), valid, "{value:?}");
    }

    #[test]
    fn names() {
        check(ClusterName::new, "default", true);
        check(ClusterName::new, "A_b-9", true);
        check(ClusterName::new, "", false);
        check(ClusterName::new, "a/b", false);
        check(ClusterName::new, "..", false);
        check(ClusterName::new, "a\n", false);
        check(ClusterName::new, "ａ", false);
        check(ClusterName::new, &"a".repeat(255), true);
        check(ClusterName::new, &"a".repeat(256), false);
    }

    #[test]
    fn ids() {
        check(AccountId::new, "123456789012", true);
        check(AccountId::new, "12345678901", false);
        check(AccountId::new, "12345678901a", false);
        check(TaskId::new, "0123456789abcdef0123456789abcdef", true);
        check(TaskId::new, "0123456789ABCDEF0123456789abcdef", false);
        check(ContainerId::new, "0a1b2c3d-0000-4000-8000-0123456789ab", true);
        check(ContainerId::new, "0a1b2c3d-0000-4000-8000-0123456789aB", false);
        check(Region::new, "eu-west-3", true);
        check(Region::new, "eu west", false);
    }

    #[test]
    fn stored_ids_are_checked_again() {
        assert!(serde_json::from_str::<TaskId>("\"../../etc\"").is_err());
    }
}
