//! Services that are registered for discovery.

use serde::{Deserialize, Serialize};

use super::{DiscoveryError, Invalid, Namespace};
use crate::names::RecordKind;
use crate::{NamespaceId, RegistryId, Tags, Timestamp};

/// A service whose instances are found by its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    /// Its id.
    pub id: RegistryId,
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What its maker calls the request that made it.
    pub creator_request: Option<String>,
    /// The records by which its instances are found; `None` of one that is found by the API alone.
    pub dns: Option<DnsConfig>,
    /// Whether somebody tells of each instance that it is healthy or not.
    pub has_custom_health: bool,
    /// How many instances it has.
    pub instances: u32,
    /// Counts up with every instance that is registered, changed or deregistered.
    pub revision: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Tags.
    pub tags: Tags,
}

/// The records of each instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Which instances are told of.
    pub routing: Routing,
    /// One of each kind.
    pub records: Vec<DnsRecord>,
}

/// Which instances are told of to somebody who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Routing {
    /// Up to eight.
    #[default]
    Multivalue,
    /// One.
    Weighted,
}

/// A record that each instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// Its kind.
    pub kind: RegistryRecord,
    /// For how many seconds it may be kept.
    pub ttl_s: u32,
}

/// The kinds of records that instances have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum RegistryRecord {
    A,
    Aaaa,
    Cname,
    Srv,
}

impl Routing {
    /// How many instances are told of.
    pub(crate) fn answers_max(self) -> usize {
        match self {
            Self::Multivalue => 8,
            Self::Weighted => 1,
        }
    }
}

impl RegistryRecord {
    /// What is asked for to get it.
    pub(crate) fn is_asked_for_by(self, kind: RecordKind) -> bool {
        match self {
            Self::A => kind == RecordKind::A,
            Self::Aaaa => kind == RecordKind::Aaaa,
            Self::Srv => kind == RecordKind::Srv,
            // An alias is told of whatever is asked for (RFC 1034 §3.6.2).
            Self::Cname => true,
        }
    }
}

impl DnsConfig {
    /// Refuses what the API reference does (DnsRecord, "Type").
    fn check(&self) -> Result<(), DiscoveryError> {
        use RegistryRecord::{A, Aaaa, Cname, Srv};
        let mut kinds: Vec<RegistryRecord> = self.records.iter().map(|record| record.kind).collect();
        kinds.sort_unstable();
        match kinds[..] {
            [Cname] if self.routing != Routing::Weighted => Err(Invalid::AliasRouting.into()),
            [A] | [Aaaa] | [A, Aaaa] | [Srv] | [Cname] => Ok(()),
            _ => Err(Invalid::Records.into()),
        }
    }

    /// Its record of a kind, if it has one.
    pub fn record(&self, kind: RegistryRecord) -> Option<&DnsRecord> {
        self.records.iter().find(|record| record.kind == kind)
    }

    /// The same records with other lifetimes.
    pub fn with_ttls(&self, records: &[DnsRecord]) -> Result<Self, DiscoveryError> {
        let changed = Self { routing: self.routing, records: records.to_vec() };
        let has_both = |record: &DnsRecord| changed.record(record.kind).is_some();
        if records.len() != self.records.len() || !self.records.iter().all(has_both) {
            return Err(Invalid::RecordsChanged.into());
        }
        Ok(changed)
    }
}

impl Registry {
    /// Refuses one that its namespace cannot have. `only_http` says that it is not to be found by DNS.
    pub fn check(&self, namespace: &Namespace, only_http: bool) -> Result<(), DiscoveryError> {
        let invalid_name = || Invalid::RegistryName { name: self.name.clone() };
        if !is_registry_name(&self.name) {
            return Err(invalid_name().into());
        }
        match (&self.dns, namespace.zone()) {
            (None, None) => Ok(()),
            (None, Some(_)) if only_http => Ok(()),
            (None, Some(_)) => Err(Invalid::NoRecords.into()),
            (Some(_), None) => Err(Invalid::NoZone.into()),
            (Some(_), Some(_)) if only_http => Err(Invalid::NoZone.into()),
            (Some(dns), Some(_)) => {
                dns.check()?;
                Namespace::check_zone(&format!("{}.{}", self.name, namespace.name))
                    .map_err(|_| invalid_name().into())
            }
        }
    }

    /// Whether each of its instances has a name of its own, to which an SRV record leads.
    pub fn has_own_names(&self) -> bool {
        self.dns.as_ref().is_some_and(|dns| dns.record(RegistryRecord::Srv).is_some())
    }

    /// Its name among those of its namespace. In DNS, names that differ in the case of letters are the same.
    pub fn key_name(&self) -> String {
        if self.dns.is_some() { self.name.to_ascii_lowercase() } else { self.name.clone() }
    }
}

/// Whether a service can have a name: labels of letters, digits, hyphens and underscores, of which a longer one neither
/// begins nor ends with a hyphen (API reference, CreateService, "Name").
fn is_registry_name(name: &str) -> bool {
    const NAME_BYTES_MAX: usize = 127;
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        match bytes {
            [] => false,
            [one] => one.is_ascii_alphanumeric(),
            [first, inner @ .., last] => {
                bytes.len() <= 63
                    && is_word(first)
                    && is_word(last)
                    && inner.iter().all(|b| is_word(b) || *b == b'-')
            }
        }
    };
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)
}
