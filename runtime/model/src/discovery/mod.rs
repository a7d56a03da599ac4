//! Service discovery: which instances a service has, and under which names they are found.
//!
//! The words and rules are those of AWS Cloud Map. A *namespace* holds services; a *service* here is a name under which
//! instances are registered, and has nothing to do with a service of ECS, wherefore its type is [`Registry`].

mod instance;
mod registry;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{InstanceId, NamespaceId, OperationId, RegistryId, Tags, Timestamp, VpcId};

pub use instance::{
    ADDRESS_V4, ADDRESS_V6, ALIAS, HEALTH_AT_FIRST, HealthWanted, Instance, InstanceHealth, PORT, discover,
    draw,
};
pub use registry::{DnsConfig, DnsRecord, Registry, RegistryRecord, Routing};

/// Namespaces of an account and region (Cloud Map Developer Guide, "Quotas").
pub const NAMESPACES_MAX: usize = 50;
/// Characters of a namespace's name. Amazon lets one without DNS have 1,024, which no key of the store takes.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 253;
/// Services of a namespace. Amazon names no number; each costs a record and its place in memory.
pub const REGISTRIES_MAX: u32 = 1_000;
/// Instances of a service, Amazon's quota.
pub const INSTANCES_MAX: u32 = 1_000;
/// Instances of all services of a namespace, Amazon's quota.
pub const NAMESPACE_INSTANCES_MAX: u32 = 2_000;
/// Operations of an account and region that are remembered. Amazon names no number.
pub const OPERATIONS_MAX: usize = 10_000;
/// Tags of one resource, as everywhere at Amazon.
pub const TAGS_MAX: usize = 50;

/// A namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// Its name; of one with DNS, the zone in which its services are.
    pub name: String,
    /// How its instances are found.
    pub kind: NamespaceKind,
    /// What it is for.
    pub description: Option<String>,
    /// What its maker calls the request that made it.
    pub creator_request: Option<String>,
    /// How many services it has.
    pub registries: u32,
    /// How many instances these have together.
    #[serde(default)]
    pub instances: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Tags.
    pub tags: Tags,
}

/// How the instances of a namespace are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// By asking the API.
    Http,
    /// By asking the API, and by DNS inside a VPC.
    Private {
        /// The VPC.
        vpc: VpcId,
        /// For how many seconds it may be kept that a name is not there.
        missing_ttl_s: u32,
    },
}

impl Namespace {
    /// The VPC in which it is a zone, and for how long it may be kept that a name is not there.
    pub fn zone(&self) -> Option<(&VpcId, u32)> {
        match &self.kind {
            NamespaceKind::Http => None,
            NamespaceKind::Private { vpc, missing_ttl_s } => Some((vpc, *missing_ttl_s)),
        }
    }

    /// Refuses a name that no namespace can have.
    pub fn check_name(&self) -> Result<(), DiscoveryError> {
        if self.name.len() > NAMESPACE_NAME_BYTES_MAX {
            return Err(Invalid::NamespaceNameTooLong.into());
        }
        let is_name = self.name.bytes().all(|b| b.is_ascii_graphic()) && !self.name.starts_with("arn:");
        if !is_name || self.name.is_empty() {
            return Err(Invalid::NamespaceName { name: self.name.clone() }.into());
        }
        if self.zone().is_some() { Self::check_zone(&self.name) } else { Ok(()) }
    }

    /// Refuses a name that is none, of one that is a zone.
    pub(crate) fn check_zone(name: &str) -> Result<(), DiscoveryError> {
        let is_label = |label: &str| {
            let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=63).contains(&label.len())
                && label.bytes().all(is_inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_name = name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(is_label);
        if is_name { Ok(()) } else { Err(Invalid::NamespaceName { name: name.to_owned() }.into()) }
    }
}

/// What was done, kept for a while for those who ask how it went. Everything is done when it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it did.
    pub kind: OperationKind,
    /// The namespace that it was about.
    pub namespace: Option<NamespaceId>,
    /// The service.
    pub registry: Option<RegistryId>,
    /// The instance.
    pub instance: Option<InstanceId>,
    /// When.
    pub at: Timestamp,
}

/// What an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum OperationKind {
    CreateNamespace,
    DeleteNamespace,
    UpdateService,
    RegisterInstance,
    DeregisterInstance,
}

/// What service discovery refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DiscoveryError {
    #[error("namespace {id} does not exist")]
    NamespaceNotFound { id: String },
    #[error("there is no namespace {name}")]
    NamespaceNameNotFound { name: String },
    #[error("service {id} does not exist")]
    RegistryNotFound { id: String },
    #[error("there is no service {name}")]
    RegistryNameNotFound { name: String },
    #[error("instance {id} is not registered")]
    InstanceNotFound { id: String },
    #[error("operation {id} is not known")]
    OperationNotFound { id: String },
    #[error("there is no such resource")]
    ResourceNotFound,
    #[error("the service has no custom health check")]
    NoCustomHealth { id: RegistryId },
    #[error("there is a namespace {name} already")]
    NamespaceExists { name: String, id: NamespaceId, creator_request: Option<String> },
    #[error("there is a service {name} already")]
    RegistryExists { name: String, id: RegistryId, creator_request: Option<String> },
    #[error("namespace {id} has services")]
    NamespaceInUse { id: NamespaceId },
    #[error("service {id} has instances")]
    RegistryInUse { id: RegistryId },
    #[error("the request was made before, for something else")]
    DuplicateRequest { operation: OperationId },
    #[error("an account has at most {NAMESPACES_MAX} namespaces in a region")]
    NamespaceLimit,
    #[error("a namespace has at most {REGISTRIES_MAX} services")]
    RegistryLimit,
    #[error(
        "a service has at most {INSTANCES_MAX} instances, and all of a namespace {NAMESPACE_INSTANCES_MAX}"
    )]
    InstanceLimit,
    #[error("a resource has at most {TAGS_MAX} tags")]
    TagLimit,
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Invalid {
    #[error("{name:?} is no name of a namespace, or, of one with DNS, no domain name")]
    NamespaceName { name: String },
    #[error("the name of a namespace has at most {NAMESPACE_NAME_BYTES_MAX} characters here")]
    NamespaceNameTooLong,
    #[error("VPC {id} does not exist")]
    VpcNotFound { id: String },
    #[error("the records of a service are A, AAAA, A and AAAA, SRV, or CNAME")]
    Records,
    #[error("a service with a CNAME record has the routing policy WEIGHTED")]
    AliasRouting,
    #[error("a service in an HTTP namespace has no DNS records")]
    NoZone,
    #[error("a service in a DNS namespace has DNS records, unless its type is HTTP")]
    NoRecords,
    #[error("{name:?} is no name of a service, or with that of its namespace no domain name")]
    RegistryName { name: String },
    #[error("the records of a service keep their types; only their TTL changes")]
    RecordsChanged,
    #[error("an instance of this service has the attribute {name}")]
    MissingAttribute { name: &'static str },
    #[error("an instance of a service with an SRV record has {ADDRESS_V4}, {ADDRESS_V6}, or both")]
    MissingAddress,
    #[error("{value:?} is no value of the attribute {name}")]
    Attribute { name: String, value: String },
    #[error("the attribute {name} is not supported here")]
    UnsupportedAttribute { name: String },
    #[error("an instance has at most {} attributes of its own", instance::ATTRIBUTES_MAX)]
    TooManyAttributes,
    #[error("the attributes of an instance have at most {} characters", instance::ATTRIBUTE_BYTES_MAX)]
    AttributesTooLong,
    #[error("with the names of its service and namespace, {id} is no domain name")]
    InstanceName { id: InstanceId },
}

/// A random id with 16 digits of base 36 after a prefix.
fn resource(prefix: &str, random: u128) -> String {
    format!("{prefix}{}", base36(random, 16))
}

fn base36(mut random: u128, digits: usize) -> String {
    let digit = || {
        let digit = (random % 36) as u32;
        random /= 36;
        char::from_digit(digit, 36).unwrap_or('0')
    };
    std::iter::repeat_with(digit).take(digits).collect()
}

/// A namespace's id from a random number.
pub fn namespace_id(random: u128) -> NamespaceId {
    NamespaceId::new(resource("ns-", random)).expect("16 digits")
}

/// A service's id from a random number.
pub fn registry_id(random: u128) -> RegistryId {
    RegistryId::new(resource("srv-", random)).expect("16 digits")
}

/// An operation's id from a random number. Of its last digits, most are zero.
pub fn operation_id(random: u128) -> OperationId {
    OperationId::new(base36(random, 32)).expect("32 digits")
}

/// The Route 53 hosted zone that a namespace would have; there is none, and some clients want to see its id.
pub fn hosted_zone_id(namespace: &NamespaceId) -> String {
    let digits = namespace.as_str().trim_start_matches("ns-");
    format!("Z{}", digits.to_ascii_uppercase())
}
