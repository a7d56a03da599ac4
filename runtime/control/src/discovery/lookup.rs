//! What a task is told of private names: those of its VPC's tasks, and those of the namespaces in its VPC.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use neargate_model::VpcId;
use neargate_model::discovery::{Namespace, Registry};
use neargate_model::names::{PrivateAnswer, PrivateData, PrivateRecord, PrivateZone, RecordKind};
use neargate_model::vpc::{address_of_private_name, private_dns_domain, private_dns_name};

use super::directory::Records;
use crate::Control;
use crate::network::{Whereabouts, random};

/// For how many seconds the name of a task's address may be kept. The address rests as long before another task has it.
const TASK_TTL_S: u32 = 60;
/// For how many seconds it may be kept that no task has an address: soon one may.
const NO_TASK_TTL_S: u32 = 5;

impl Control {
    /// Whether a task, or a container under `bridge`, has this address.
    pub fn is_task_address(&self, address: Ipv4Addr) -> bool {
        let networks = &self.shared.networks;
        networks.addresses.is_held(address) || networks.bridge.has(address)
    }

    /// What the task of an address is told of a name in lower case. A container under `bridge` is in no VPC, and sees no
    /// private name.
    pub fn look_up_name(&self, client: Ipv4Addr, name: &str, kind: RecordKind) -> PrivateAnswer {
        let Some(asker) = self.shared.networks.addresses.whereabouts(client) else {
            return PrivateAnswer::Elsewhere;
        };
        let directory = self.shared.directory.read();
        if let Some((namespace, below)) = find_zone(&directory, &asker.vpc, name) {
            return look_up_in(&directory, namespace, below, kind);
        }
        let is_held = |address| {
            let other = self.shared.networks.addresses.whereabouts(address);
            other.is_some_and(|other| other.vpc == asker.vpc)
        };
        look_up_task(&asker, name, kind, is_held)
    }
}

/// The zone with the longest name that a name is in, and what is before it; the zone itself is in itself.
fn find_zone<'d, 'n>(
    directory: &'d Records,
    vpc: &VpcId,
    name: &'n str,
) -> Option<(&'d Namespace, Option<&'n str>)> {
    let mut starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
    starts.find_map(|start| {
        let zone = directory.zone(vpc, &name[start..])?;
        Some((&**zone, name[..start].strip_suffix('.')))
    })
}

/// A name in a namespace: a service's, or an instance's before a service's.
fn look_up_in(
    directory: &Records,
    namespace: &Namespace,
    below: Option<&str>,
    kind: RecordKind,
) -> PrivateAnswer {
    let ttl_s = namespace.zone().map_or(0, |(_, ttl_s)| ttl_s);
    let zone = || PrivateZone { name: namespace.name.to_ascii_lowercase(), ttl_s };
    let Some(below) = below else { return PrivateAnswer::NoSuchRecord(zone()) };
    let found = |records: Vec<PrivateRecord>| match records.is_empty() {
        true => PrivateAnswer::NoSuchRecord(zone()),
        false => PrivateAnswer::Found(records),
    };
    let is_found = |registry: &&Arc<Registry>| registry.dns.is_some() && registry.instances > 0;
    if let Some(registry) = directory.registry(&namespace.id, below).filter(is_found) {
        let instances = directory.instances(&registry.id).map(|instance| &**instance);
        return found(registry.records(namespace, instances, kind, &mut random));
    }
    // An instance's id may have dots, and so may the name of its service.
    let host = below.match_indices('.').find_map(|(dot, _)| {
        let registry = directory.registry(&namespace.id, &below[dot + 1..])?;
        registry.has_own_names().then_some(())?;
        Some((registry, directory.instance_of_host(&registry.id, &below[..dot])?))
    });
    match host {
        Some((registry, instance)) => found(instance.own_records(registry, kind)),
        None if directory.has_below(&namespace.id, below) => PrivateAnswer::NoSuchRecord(zone()),
        None => PrivateAnswer::NoSuchName(zone()),
    }
}

/// The name of a task's address, and the address of such a name.
fn look_up_task(
    asker: &Whereabouts,
    name: &str,
    kind: RecordKind,
    is_held: impl Fn(Ipv4Addr) -> bool,
) -> PrivateAnswer {
    let region = &asker.region;
    let domain = private_dns_domain(region);
    let zone = |name: &str| PrivateZone { name: name.to_owned(), ttl_s: NO_TASK_TTL_S };
    let record = |data| PrivateAnswer::Found(vec![PrivateRecord { ttl_s: TASK_TTL_S, data }]);
    if let Some(host) = name.strip_suffix(&domain).and_then(|host| host.strip_suffix('.')) {
        return match address_of_private_name(host).filter(|address| is_held(*address)) {
            None => PrivateAnswer::NoSuchName(zone(&domain)),
            Some(address) if kind == RecordKind::A => record(PrivateData::Address(IpAddr::V4(address))),
            Some(_) => PrivateAnswer::NoSuchRecord(zone(&domain)),
        };
    }
    match address_of_pointer(name).filter(|address| asker.vpc_block.contains(IpAddr::V4(*address))) {
        None => PrivateAnswer::Elsewhere,
        Some(address) if !is_held(address) => PrivateAnswer::NoSuchName(zone(POINTERS)),
        Some(address) if kind == RecordKind::Ptr => {
            record(PrivateData::Pointer(private_dns_name(region, address)))
        }
        Some(_) => PrivateAnswer::NoSuchRecord(zone(POINTERS)),
    }
}

/// Where the names of addresses are (RFC 1035 §3.5).
const POINTERS: &str = "in-addr.arpa";

fn address_of_pointer(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_suffix(POINTERS)?.strip_suffix('.')?;
    let [a, b, c, d] = digits.parse::<Ipv4Addr>().ok()?.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

#[cfg(test)]
mod tests {
    use neargate_model::{Cidr, Region};

    use super::*;

    fn asker() -> Whereabouts {
        Whereabouts {
            vpc: VpcId::new("vpc-00000000000000001").unwrap(),
            vpc_block: "172.31.0.0/16".parse::<Cidr>().unwrap(),
            region: Region::new("eu-west-1").unwrap(),
        }
    }

    #[test]
    fn tasks_have_names_and_addresses() {
        let check = |name: &str, kind, expect: &str| {
            let is_held = |address| address == Ipv4Addr::new(172, 31, 0, 5);
            let told = match look_up_task(&asker(), name, kind, is_held) {
                PrivateAnswer::Elsewhere => "elsewhere".to_owned(),
                PrivateAnswer::NoSuchName(zone) => format!("no name in {}", zone.name),
                PrivateAnswer::NoSuchRecord(zone) => format!("no record in {}", zone.name),
                PrivateAnswer::Found(records) => format!("{:?}", records[0].data),
            };
            assert_eq!(told, expect, "{name}");
        };
        use RecordKind::{A, Aaaa, Ptr};
        check("ip-172-31-0-5.eu-west-1.compute.internal", A, "Address(172.31.0.5)");
        check("ip-172-31-0-5.eu-west-1.compute.internal", Aaaa, "no record in eu-west-1.compute.internal");
        check("ip-172-31-0-6.eu-west-1.compute.internal", A, "no name in eu-west-1.compute.internal");
        check("x.eu-west-1.compute.internal", A, "no name in eu-west-1.compute.internal");
        check("ip-172-31-0-5.us-west-2.compute.internal", A, "elsewhere");
        check("ip-172-31-0-5.xeu-west-1.compute.internal", A, "elsewhere");
        check("5.0.31.172.in-addr.arpa", Ptr, "Pointer(\"ip-172-31-0-5.eu-west-1.compute.internal\")");
        check("5.0.31.172.in-addr.arpa", A, "no record in in-addr.arpa");
        check("6.0.31.172.in-addr.arpa", Ptr, "no name in in-addr.arpa");
        check("5.0.32.172.in-addr.arpa", Ptr, "elsewhere");
        check("www.example.com", A, "elsewhere");
    }
}
