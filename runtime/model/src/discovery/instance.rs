//! Instances: what is known of each, and which of them are told of.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{DiscoveryError, Invalid, Namespace, Registry, RegistryRecord, Routing};
use crate::address::{is_loopback_name, leads_astray};
use crate::names::{PrivateData, PrivateRecord, RecordKind};
use crate::{InstanceId, OperationId, Timestamp};

/// The attribute with an address of IPv4.
pub const ADDRESS_V4: &str = "AWS_INSTANCE_IPV4";
/// The attribute with an address of IPv6.
pub const ADDRESS_V6: &str = "AWS_INSTANCE_IPV6";
/// The attribute with a port.
pub const PORT: &str = "AWS_INSTANCE_PORT";
/// The attribute with the name that an instance stands for.
pub const ALIAS: &str = "AWS_INSTANCE_CNAME";
/// The attribute with the health that an instance has at first.
pub const HEALTH_AT_FIRST: &str = "AWS_INIT_HEALTH_STATUS";
/// Attributes that an instance may have besides those that Cloud Map knows (API reference, RegisterInstance).
pub(super) const ATTRIBUTES_MAX: usize = 30;
/// Characters of all keys and values together.
pub(super) const ATTRIBUTE_BYTES_MAX: usize = 5_000;
/// What attributes that Cloud Map knows begin with.
const KNOWN_PREFIX: &str = "AWS_";
/// Attributes that lead to what there is not: load balancers, and instances of EC2.
const UNSUPPORTED: [&str; 2] = ["AWS_ALIAS_DNS_NAME", "AWS_EC2_INSTANCE_ID"];

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id, its owner's word.
    pub id: InstanceId,
    /// What is known of it.
    pub attributes: BTreeMap<String, String>,
    /// What its owner calls the request that registered it.
    pub creator_request: Option<String>,
    /// The operation that registered it.
    pub operation: OperationId,
    /// What was said last of its health.
    pub health: InstanceHealth,
    /// When it was registered.
    pub registered_at: Timestamp,
}

/// What is known of an instance's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InstanceHealth {
    /// Nobody says anything.
    Unknown,
    /// It is said to be healthy.
    Healthy,
    /// It is said to be unhealthy.
    Unhealthy,
}

/// Which instances somebody wants to be told of by their health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthWanted {
    /// Those that are healthy.
    Healthy,
    /// Those that are not.
    Unhealthy,
    /// All.
    All,
    /// Those that are healthy, or all if none is.
    HealthyOrElseAll,
}

impl Instance {
    /// The health of a new one, by its attributes; it keeps what was said of it before.
    pub fn health_at_first(registry: &Registry, attributes: &BTreeMap<String, String>) -> InstanceHealth {
        match attributes.get(HEALTH_AT_FIRST).map(String::as_str) {
            _ if !registry.has_custom_health => InstanceHealth::Unknown,
            Some("UNHEALTHY") => InstanceHealth::Unhealthy,
            _ => InstanceHealth::Healthy,
        }
    }

    /// Refuses attributes that an instance of this service cannot have, or that it lacks.
    pub fn check(&self, registry: &Registry, namespace: &Namespace) -> Result<(), DiscoveryError> {
        let own = self.attributes.keys().filter(|key| !key.starts_with(KNOWN_PREFIX)).count();
        if own > ATTRIBUTES_MAX {
            return Err(Invalid::TooManyAttributes.into());
        }
        if self.attributes.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
            > ATTRIBUTE_BYTES_MAX
        {
            return Err(Invalid::AttributesTooLong.into());
        }
        self.attributes.iter().try_for_each(|(name, value)| check_attribute(name, value))?;
        let Some(dns) = &registry.dns else { return Ok(()) };
        dns.records.iter().try_for_each(|record| self.check_record(record.kind))?;
        if registry.has_own_names() {
            Namespace::check_zone(&self.host_name(registry, namespace))
                .map_err(|_| Invalid::InstanceName { id: self.id.clone() })?;
        }
        Ok(())
    }

    fn check_record(&self, kind: RegistryRecord) -> Result<(), Invalid> {
        let needs = |name: &'static str| match self.attributes.contains_key(name) {
            true => Ok(()),
            false => Err(Invalid::MissingAttribute { name }),
        };
        match kind {
            RegistryRecord::A => needs(ADDRESS_V4),
            RegistryRecord::Aaaa => needs(ADDRESS_V6),
            RegistryRecord::Cname => needs(ALIAS),
            RegistryRecord::Srv => {
                needs(PORT)?;
                needs(ADDRESS_V4).or_else(|_| needs(ADDRESS_V6)).map_err(|_| Invalid::MissingAddress)
            }
        }
    }

    /// The name of its own, to which an SRV record leads.
    fn host_name(&self, registry: &Registry, namespace: &Namespace) -> String {
        format!("{}.{}.{}", self.id, registry.name, namespace.name).to_ascii_lowercase()
    }

    /// Its records of a kind under the name of its own.
    pub fn own_records(&self, registry: &Registry, kind: RecordKind) -> Vec<PrivateRecord> {
        let ttl_s =
            registry.dns.as_ref().and_then(|dns| dns.record(RegistryRecord::Srv)).map(|record| record.ttl_s);
        let wanted = match kind {
            RecordKind::A => self.address(ADDRESS_V4),
            RecordKind::Aaaa => self.address(ADDRESS_V6),
            _ => None,
        };
        let record = ttl_s.zip(wanted).map(|(ttl_s, data)| PrivateRecord { ttl_s, data });
        record.into_iter().collect()
    }

    fn address(&self, attribute: &str) -> Option<PrivateData> {
        self.attributes.get(attribute)?.parse().ok().map(PrivateData::Address)
    }

    /// What its record of a kind says.
    fn data(&self, kind: RegistryRecord, registry: &Registry, namespace: &Namespace) -> Option<PrivateData> {
        match kind {
            RegistryRecord::A => self.address(ADDRESS_V4),
            RegistryRecord::Aaaa => self.address(ADDRESS_V6),
            RegistryRecord::Cname => self.attributes.get(ALIAS).cloned().map(PrivateData::Alias),
            RegistryRecord::Srv => {
                let port = self.attributes.get(PORT)?.parse().ok()?;
                // Neither can be changed (API reference, DnsRecord).
                let (priority, weight) = (1, 1);
                let target = self.host_name(registry, namespace);
                Some(PrivateData::Service { priority, weight, port, target })
            }
        }
    }

    /// Whether it has all of these attributes.
    pub fn has(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(key, value)| self.attributes.get(key) == Some(value))
    }
}

impl Registry {
    /// Its records of a kind: of instances drawn at random among those that are healthy, or among all if none is (API
    /// reference, DnsConfig, "RoutingPolicy").
    pub fn records<'a>(
        &self,
        namespace: &Namespace,
        instances: impl Iterator<Item = &'a Instance>,
        kind: RecordKind,
        random: &mut dyn FnMut() -> u128,
    ) -> Vec<PrivateRecord> {
        let record = self.dns.as_ref().and_then(|dns| {
            dns.records
                .iter()
                .find(|record| record.kind.is_asked_for_by(kind))
                .map(|record| (dns.routing, record))
        });
        let Some((routing, record)) = record else { return Vec::new() };
        let mut drawn = discover(self, instances.collect(), HealthWanted::HealthyOrElseAll);
        draw(&mut drawn, Routing::answers_max(routing), random);
        let data = drawn.iter().filter_map(|instance| instance.data(record.kind, self, namespace));
        data.map(|data| PrivateRecord { ttl_s: record.ttl_s, data }).collect()
    }
}

/// The instances of a wanted health. Where nobody says anything of their health, it is not asked for.
pub fn discover<'a>(
    registry: &Registry,
    mut instances: Vec<&'a Instance>,
    wanted: HealthWanted,
) -> Vec<&'a Instance> {
    if !registry.has_custom_health {
        return instances;
    }
    let is_healthy = |instance: &&Instance| instance.health == InstanceHealth::Healthy;
    match wanted {
        HealthWanted::All => {}
        HealthWanted::Unhealthy => instances.retain(|instance| !is_healthy(instance)),
        HealthWanted::HealthyOrElseAll if !instances.iter().any(is_healthy) => {}
        HealthWanted::Healthy | HealthWanted::HealthyOrElseAll => instances.retain(is_healthy),
    }
    instances
}

/// Leaves some, drawn at random, in a random order (Fisher and Yates).
pub fn draw<T>(items: &mut Vec<T>, most: usize, random: &mut dyn FnMut() -> u128) {
    let kept = most.min(items.len());
    for at in 0..kept {
        let left = items.len() - at;
        items.swap(at, at + (random() % left as u128) as usize);
    }
    items.truncate(kept);
}

fn check_attribute(name: &str, value: &str) -> Result<(), DiscoveryError> {
    if UNSUPPORTED.contains(&name) {
        return Err(Invalid::UnsupportedAttribute { name: name.to_owned() }.into());
    }
    let is_sound = match name {
        ADDRESS_V4 => value.parse::<Ipv4Addr>().is_ok_and(|address| !leads_astray(address.into())),
        ADDRESS_V6 => value.parse::<Ipv6Addr>().is_ok_and(|address| !leads_astray(address.into())),
        PORT => value.parse::<u16>().is_ok_and(|port| port > 0),
        ALIAS => Namespace::check_zone(value).is_ok() && !is_loopback_name(value),
        HEALTH_AT_FIRST => ["HEALTHY", "UNHEALTHY"].contains(&value),
        _ => true,
    };
    let (name, value) = (name.to_owned(), value.to_owned());
    if is_sound { Ok(()) } else { Err(Invalid::Attribute { name, value }.into()) }
}
