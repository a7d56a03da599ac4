use std::collections::{BTreeMap, BTreeSet};

use super::instance::{ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX};
use super::*;
use crate::names::{PrivateData, PrivateRecord, RecordKind};

const KINDS: [RegistryRecord; 4] =
    [RegistryRecord::A, RegistryRecord::Aaaa, RegistryRecord::Cname, RegistryRecord::Srv];

fn namespace() -> Namespace {
    let vpc = VpcId::new("vpc-00000000000000001").unwrap();
    Namespace {
        id: namespace_id(1),
        name: "ns.local".to_owned(),
        kind: NamespaceKind::Private { vpc, missing_ttl_s: 15 },
        description: None,
        creator_request: None,
        registries: 0,
        instances: 0,
        created_at: Timestamp(0),
        tags: Tags::new(),
    }
}

fn registry(kinds: &[RegistryRecord], routing: Routing) -> Registry {
    let records = kinds.iter().map(|kind| DnsRecord { kind: *kind, ttl_s: 20 }).collect();
    Registry {
        id: registry_id(1),
        namespace: namespace_id(1),
        name: "web".to_owned(),
        description: None,
        creator_request: None,
        dns: Some(DnsConfig { routing, records }),
        has_custom_health: true,
        instances: 0,
        revision: 0,
        created_at: Timestamp(0),
        tags: Tags::new(),
    }
}

fn instance(number: u8, health: InstanceHealth) -> Instance {
    let attributes = [(ADDRESS_V4, format!("10.0.0.{number}")), (PORT, "80".to_owned())];
    Instance {
        id: InstanceId::new(format!("i{number}")).unwrap(),
        attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        creator_request: None,
        operation: operation_id(1),
        health,
        registered_at: Timestamp(0),
    }
}

/// Numbers that look random, the same in each run.
fn numbers() -> impl FnMut() -> u128 {
    let mut state = 1_u128;
    move || {
        state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
        state >> 64
    }
}

#[test]
fn records_go_together_or_not() {
    use RegistryRecord::{A, Aaaa, Cname, Srv};
    let check = |kinds: &[RegistryRecord], routing, expect: Option<Invalid>| {
        let checked = registry(kinds, routing).check(&namespace(), false);
        assert_eq!(checked.err(), expect.map(DiscoveryError::from), "{kinds:?}");
    };
    for kinds in [&[A][..], &[Aaaa], &[Aaaa, A], &[Srv]] {
        check(kinds, Routing::Multivalue, None);
        check(kinds, Routing::Weighted, None);
    }
    check(&[Cname], Routing::Weighted, None);
    check(&[Cname], Routing::Multivalue, Some(Invalid::AliasRouting));
    for kinds in [&[][..], &[A, A], &[A, Srv], &[Cname, A], &KINDS] {
        check(kinds, Routing::Weighted, Some(Invalid::Records));
    }
    let without = Registry { dns: None, ..registry(&[], Routing::Weighted) };
    assert_eq!(without.check(&namespace(), false).unwrap_err(), Invalid::NoRecords.into());
    without.check(&namespace(), true).unwrap();
    let http = Namespace { kind: NamespaceKind::Http, ..namespace() };
    without.check(&http, false).unwrap();
    let with = registry(&[A], Routing::Weighted);
    assert_eq!(with.check(&http, false).unwrap_err(), Invalid::NoZone.into());
    let named = |name: &str, is_name: bool| {
        let named = Registry { name: name.to_owned(), ..with.clone() };
        assert_eq!(named.check(&namespace(), false).is_ok(), is_name, "{name}");
    };
    for name in ["web", "Web-1", "_http._tcp", "a"] {
        named(name, true);
    }
    for name in ["", ".", "-a", "a-", "_", "a..b", "a b", "arn:x"] {
        named(name, false);
    }
    named(&"a".repeat(63), true);
    named(&"a".repeat(64), false);
    named(&["a".repeat(63), "b".repeat(64)].join("."), false);
}

#[test]
fn instances_have_what_their_records_need() {
    use RegistryRecord::{A, Aaaa, Cname, Srv};
    let check = |kinds: &[RegistryRecord], attributes: &[(&str, &str)], is_sound: bool| {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let instance = Instance { attributes: attributes.collect(), ..instance(1, InstanceHealth::Healthy) };
        let checked = instance.check(&registry(kinds, Routing::Weighted), &namespace());
        assert_eq!(checked.is_ok(), is_sound, "{kinds:?} {:?}: {checked:?}", instance.attributes);
    };
    check(&[A], &[(ADDRESS_V4, "10.0.0.1")], true);
    check(&[A], &[(ADDRESS_V4, "10.0.0.1"), ("own", "x")], true);
    check(&[A], &[], false);
    check(&[A], &[(ADDRESS_V4, "10.0.0.256")], false);
    for address in ["127.0.0.1", "169.254.170.2", "0.0.0.0", "224.0.0.1"] {
        check(&[A], &[(ADDRESS_V4, address)], false);
    }
    check(&[Aaaa], &[(ADDRESS_V6, "2001:db8::1")], true);
    check(&[Aaaa], &[(ADDRESS_V6, "::1")], false);
    check(&[Aaaa], &[(ADDRESS_V4, "10.0.0.1")], false);
    check(&[A, Aaaa], &[(ADDRESS_V4, "10.0.0.1")], false);
    check(&[Srv], &[(ADDRESS_V4, "10.0.0.1"), (PORT, "80")], true);
    check(&[Srv], &[(ADDRESS_V6, "2001:db8::1"), (PORT, "80")], true);
    check(&[Srv], &[(PORT, "80")], false);
    check(&[Srv], &[(ADDRESS_V4, "10.0.0.1")], false);
    check(&[Srv], &[(ADDRESS_V4, "10.0.0.1"), (PORT, "65536")], false);
    check(&[Cname], &[(ALIAS, "www.example.com")], true);
    check(&[Cname], &[(ALIAS, "no name")], false);
    check(&[A], &[(ADDRESS_V4, "10.0.0.1"), (HEALTH_AT_FIRST, "ILL")], false);
    check(&[A], &[(ADDRESS_V4, "10.0.0.1"), ("AWS_ALIAS_DNS_NAME", "a.b")], false);
    let long = "x".repeat(ATTRIBUTE_BYTES_MAX);
    check(&[A], &[(ADDRESS_V4, "10.0.0.1"), ("own", &long)], false);
    let many: Vec<String> = (0..=ATTRIBUTES_MAX).map(|number| format!("k{number}")).collect();
    let with: Vec<(&str, &str)> =
        many.iter().map(|key| (key.as_str(), "")).chain([(ADDRESS_V4, "10.0.0.1")]).collect();
    check(&[A], &with, false);
    check(&[A], &with[1..], true);
    // The name to which its SRV record leads has to be one.
    let slash = Instance { id: InstanceId::new("a/b").unwrap(), ..instance(1, InstanceHealth::Healthy) };
    slash.check(&registry(&[A], Routing::Weighted), &namespace()).unwrap();
    slash.check(&registry(&[Srv], Routing::Weighted), &namespace()).unwrap_err();
}

#[test]
fn eight_healthy_ones_are_told_of_or_one() {
    let mut random = numbers();
    let mut told = |routing, health: &[InstanceHealth]| {
        let instances: Vec<Instance> =
            (0..20).map(|number| instance(number, health[usize::from(number) % health.len()])).collect();
        let registry = registry(&[RegistryRecord::A], routing);
        registry.records(&namespace(), instances.iter(), RecordKind::A, &mut random)
    };
    use InstanceHealth::{Healthy, Unhealthy};
    let last = |record: &PrivateRecord| match record.data {
        PrivateData::Address(std::net::IpAddr::V4(v4)) => v4.octets()[3],
        ref other => panic!("{other:?}"),
    };
    let first = told(Routing::Multivalue, &[Healthy]);
    assert_eq!(first.iter().map(last).collect::<BTreeSet<_>>().len(), 8);
    assert_ne!(told(Routing::Multivalue, &[Healthy]), first, "in another order");
    assert!(told(Routing::Multivalue, &[Healthy, Unhealthy]).iter().all(|record| last(record) % 2 == 0));
    assert_eq!(told(Routing::Multivalue, &[Unhealthy]).len(), 8, "all, if none is healthy");
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        let one = told(Routing::Weighted, &[Healthy, Unhealthy]);
        assert_eq!(one.len(), 1);
        seen.insert(last(&one[0]));
    }
    assert_eq!(seen, (0..20).step_by(2).collect(), "each of them now and then");
}

#[test]
fn services_lead_to_names_of_instances() {
    let (registry, instance) =
        (registry(&[RegistryRecord::Srv], Routing::Multivalue), instance(7, InstanceHealth::Healthy));
    let ask = |kind| registry.records(&namespace(), [&instance].into_iter(), kind, &mut numbers());
    let target = "i7.web.ns.local".to_owned();
    let data = PrivateData::Service { priority: 1, weight: 1, port: 80, target };
    assert_eq!(ask(RecordKind::Srv), [PrivateRecord { ttl_s: 20, data }]);
    assert_eq!(ask(RecordKind::A), []);
    let own = |kind| instance.own_records(&registry, kind).len();
    assert_eq!([own(RecordKind::A), own(RecordKind::Aaaa), own(RecordKind::Srv)], [1, 0, 0]);
}

#[test]
fn health_is_asked_for() {
    use InstanceHealth::{Healthy, Unhealthy};
    let check = |health: &[InstanceHealth], wanted, expect: usize| {
        let instances: Vec<Instance> = health.iter().map(|health| instance(1, *health)).collect();
        let registry = registry(&[RegistryRecord::A], Routing::Multivalue);
        assert_eq!(discover(&registry, instances.iter().collect(), wanted).len(), expect, "{wanted:?}");
    };
    let mixed = [Healthy, Unhealthy, Healthy];
    check(&mixed, HealthWanted::All, 3);
    check(&mixed, HealthWanted::Healthy, 2);
    check(&mixed, HealthWanted::Unhealthy, 1);
    check(&mixed, HealthWanted::HealthyOrElseAll, 2);
    check(&[Unhealthy; 2], HealthWanted::HealthyOrElseAll, 2);
    check(&[Unhealthy; 2], HealthWanted::Healthy, 0);
}

#[test]
fn lifetimes_change_and_kinds_do_not() {
    let dns = registry(&[RegistryRecord::A, RegistryRecord::Aaaa], Routing::Weighted).dns.unwrap();
    let record = |kind| DnsRecord { kind, ttl_s: 99 };
    let both = [record(RegistryRecord::Aaaa), record(RegistryRecord::A)];
    assert_eq!(dns.with_ttls(&both).unwrap().record(RegistryRecord::A).unwrap().ttl_s, 99);
    dns.with_ttls(&both[..1]).unwrap_err();
    dns.with_ttls(&[record(RegistryRecord::A), record(RegistryRecord::Srv)]).unwrap_err();
}

#[test]
fn zones_have_names() {
    let check =
        |name: &str, is_name: bool| assert_eq!(Namespace::check_zone(name).is_ok(), is_name, "{name}");
    for name in ["local", "a.b.local", "_http._tcp.local", "Shop.local", "local."] {
        check(name, true);
    }
    for name in ["", ".", "a..b", "a b", "-a.local", "a-.local", "ä.local", "*.local"] {
        check(name, false);
    }
    check(&["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join("."), true);
    check(&["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join("."), false);
    let named = |name: &str| Namespace { name: name.to_owned(), kind: NamespaceKind::Http, ..namespace() };
    named("any/thing!").check_name().unwrap();
    for name in ["", "arn:aws", "a b", &"x".repeat(254)] {
        named(name).check_name().unwrap_err();
    }
}

#[test]
fn ids_are_as_they_should_be() {
    let mut random = numbers();
    let ids: BTreeSet<NamespaceId> = (0..100).map(|_| namespace_id(random())).collect();
    assert_eq!(ids.len(), 100);
    assert_eq!(registry_id(u128::MAX).as_str().len(), 20);
    assert_eq!(operation_id(u128::MAX).as_str().len(), 32);
    assert_eq!(hosted_zone_id(&namespace_id(1)), "Z1000000000000000");
    let empty = BTreeMap::new();
    let health = |has_custom_health| {
        let registry = Registry { has_custom_health, ..registry(&[], Routing::Weighted) };
        Instance::health_at_first(&registry, &empty)
    };
    assert_eq!([health(true), health(false)], [InstanceHealth::Healthy, InstanceHealth::Unknown]);
}
