//! Service discovery over the in-memory store.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use neargate_model::discovery::{
    ADDRESS_V4, DnsConfig, DnsRecord, HealthWanted, InstanceHealth, Invalid, NAMESPACE_INSTANCES_MAX,
    NAMESPACES_MAX, NamespaceKind, OPERATIONS_MAX, PORT, RegistryRecord, Routing,
};
use neargate_model::lifecycle::testing::{container, scope, shape};
use neargate_model::names::{PrivateAnswer, PrivateData, RecordKind};
use neargate_model::{Region, SubnetId, Tags, VpcId};
use neargate_store::testing::Faulty;
use neargate_store::{MemoryStore, Store};
use tokio::task::JoinSet;

use super::*;
use crate::tests::{Bench, bench_on, cluster, run};
use crate::{NewDefinition, RunTasks, WantedNetwork};

/// The scope of all requests.
static HERE: LazyLock<Scope> = LazyLock::new(scope);

struct Found {
    bench: Bench,
    vpc: VpcId,
    _following: JoinSet<()>,
}

impl Found {
    /// With a directory that follows.
    async fn on(store: Arc<dyn Store>) -> Self {
        let bench = bench_on(store);
        let vpc = loop {
            if let Ok(networks) = bench.control.networks(&HERE).await {
                break networks.default_vpc().unwrap().id.clone();
            }
        };
        let mut following = JoinSet::new();
        let control = bench.control.clone();
        following.spawn(async move { control.follow_discovery().await });
        Self { bench, vpc, _following: following }
    }

    async fn ready() -> Self {
        Self::on(Arc::new(MemoryStore::new())).await
    }

    fn control(&self) -> &Control {
        &self.bench.control
    }

    fn private(&self, name: &str) -> NewNamespace {
        let kind = NamespaceKind::Private { vpc: self.vpc.clone(), missing_ttl_s: 15 };
        NewNamespace {
            name: name.to_owned(),
            kind,
            description: None,
            creator_request: None,
            tags: Tags::new(),
        }
    }

    async fn namespace(&self, new: &NewNamespace) -> Result<NamespaceId, DiscoveryChangeError> {
        let operation = self.control().create_namespace(&HERE, new).await?;
        let operation = self.control().discovery_operation(&HERE, operation.as_str()).await?;
        Ok(operation.namespace.unwrap())
    }

    async fn registry(&self, namespace: &NamespaceId, name: &str) -> Result<Registry, DiscoveryChangeError> {
        self.control().create_registry(&HERE, &new_registry(namespace, name, RegistryRecord::A)).await
    }

    async fn register(&self, registry: &Registry, id: &str, last: u8) {
        let new = new_instance(id, last);
        self.control().register_instance(&HERE, registry.id.as_str(), &new).await.unwrap();
    }

    /// A task's address.
    async fn task(&self) -> Ipv4Addr {
        let control = self.control();
        let subnets: Vec<SubnetId> = control.networks(&HERE).await.unwrap().subnets.keys().cloned().collect();
        let _ = control.create_cluster(&HERE, &cluster(), Tags::new(), String::new()).await;
        let definition = NewDefinition { shape: shape(vec![container("a")]), ..crate::tests::definition() };
        control.register_definition(&HERE, definition).await.unwrap();
        let network = Some(WantedNetwork { subnets, ..WantedNetwork::default() });
        let accepted = control.run_tasks(&RunTasks { network, ..run(1) }).await.unwrap();
        accepted.tasks[0].spec.network.as_ref().unwrap().address
    }
}

fn new_registry(namespace: &NamespaceId, name: &str, kind: RegistryRecord) -> NewRegistry {
    NewRegistry {
        namespace: namespace.to_string(),
        name: name.to_owned(),
        description: None,
        creator_request: Some("mine".to_owned()),
        dns: Some(DnsConfig { routing: Routing::Multivalue, records: vec![DnsRecord { kind, ttl_s: 20 }] }),
        only_http: false,
        has_custom_health: true,
        tags: Tags::new(),
    }
}

fn new_instance(id: &str, last: u8) -> NewInstance {
    let attributes = [(ADDRESS_V4, format!("10.9.9.{last}")), (PORT, "80".to_owned())];
    NewInstance {
        id: InstanceId::new(id).unwrap(),
        creator_request: Some("mine".to_owned()),
        attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    }
}

/// The last bytes of the addresses that a name has, or what is said instead.
fn told(answer: PrivateAnswer) -> String {
    let records = match answer {
        PrivateAnswer::Elsewhere => return "elsewhere".to_owned(),
        PrivateAnswer::NoSuchName(zone) => return format!("no name in {}", zone.name),
        PrivateAnswer::NoSuchRecord(zone) => return format!("no record in {}", zone.name),
        PrivateAnswer::Found(records) => records,
    };
    let data = records.iter().map(|record| match &record.data {
        PrivateData::Address(address) => address.to_string().rsplit('.').next().unwrap().to_owned(),
        PrivateData::Service { port, target, .. } => format!("{target}:{port}"),
        PrivateData::Alias(name) | PrivateData::Pointer(name) => name.clone(),
    });
    data.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}

fn wanted(health: HealthWanted) -> DiscoverWanted {
    DiscoverWanted {
        namespace: "ns.local".to_owned(),
        registry: "web".to_owned(),
        health,
        attributes: BTreeMap::new(),
        preferred: BTreeMap::new(),
        most: 100,
    }
}

#[tokio::test]
async fn what_is_registered_is_answered_at_once_and_in_its_vpc_alone() {
    let found = Found::ready().await;
    let namespace = found.namespace(&found.private("NS.local")).await.unwrap();
    let registry = found.registry(&namespace, "Web").await.unwrap();
    let task = found.task().await;
    let ask = |client, name: &str, kind| told(found.control().look_up_name(client, name, kind));
    assert_eq!(ask(task, "web.ns.local", RecordKind::A), "no name in ns.local");
    for number in 1..=3 {
        found.register(&registry, &format!("i{number}"), number).await;
        assert_eq!(ask(task, "web.ns.local", RecordKind::A).split(' ').count(), usize::from(number));
    }
    assert_eq!(ask(task, "web.ns.local", RecordKind::Aaaa), "no record in ns.local");
    assert_eq!(ask(task, "ns.local", RecordKind::A), "no record in ns.local");
    assert_eq!(ask(task, "other.ns.local", RecordKind::A), "no name in ns.local");
    assert_eq!(ask(task, "i1.web.ns.local", RecordKind::A), "no name in ns.local", "of SRV records alone");
    assert_eq!(ask(task, "xns.local", RecordKind::A), "elsewhere");
    assert_eq!(
        ask(Ipv4Addr::new(10, 9, 9, 1), "web.ns.local", RecordKind::A),
        "elsewhere",
        "no task's address"
    );
    found.control().deregister_instance(&HERE, registry.id.as_str(), "i2").await.unwrap();
    assert_eq!(ask(task, "web.ns.local", RecordKind::A), "1 3");

    let made = found.control().change_networks(&HERE, |networks, ids| {
        networks.create_vpc("10.9.0.0/16".parse().unwrap(), Tags::new(), ids)
    });
    let elsewhere = Found { vpc: made.await.unwrap(), ..found };
    let other = elsewhere.namespace(&elsewhere.private("other.local")).await.unwrap();
    let there = elsewhere.registry(&other, "web").await.unwrap();
    elsewhere.register(&there, "i1", 1).await;
    let answer = elsewhere.control().look_up_name(task, "web.other.local", RecordKind::A);
    assert_eq!(told(answer), "elsewhere");
}

#[tokio::test]
async fn the_longest_zone_has_a_name() {
    let found = Found::ready().await;
    let task = found.task().await;
    let outer = found.namespace(&found.private("local")).await.unwrap();
    let inner = found.namespace(&found.private("a.local")).await.unwrap();
    for (namespace, name, last) in [(&outer, "web", 1), (&outer, "web.a", 2), (&inner, "web", 3)] {
        let registry = found.registry(namespace, name).await.unwrap();
        found.register(&registry, "i", last).await;
    }
    let ask = |name: &str| told(found.control().look_up_name(task, name, RecordKind::A));
    assert_eq!([ask("web.local"), ask("web.a.local")], ["1", "3"]);
    assert_eq!(ask("b.a.local"), "no name in a.local");
    assert_eq!(ask("a.b.local"), "no name in local");
}

#[tokio::test]
async fn srv_records_lead_to_instances() {
    let found = Found::ready().await;
    let task = found.task().await;
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let new = new_registry(&namespace, "_http._tcp", RegistryRecord::Srv);
    let registry = found.control().create_registry(&HERE, &new).await.unwrap();
    found.register(&registry, "One", 1).await;
    found.register(&registry, "two.b", 2).await;
    let ask = |name: &str, kind| told(found.control().look_up_name(task, name, kind));
    let both = "one._http._tcp.ns.local:80 two.b._http._tcp.ns.local:80";
    assert_eq!(ask("_http._tcp.ns.local", RecordKind::Srv), both);
    assert_eq!(ask("one._http._tcp.ns.local", RecordKind::A), "1");
    assert_eq!(ask("two.b._http._tcp.ns.local", RecordKind::A), "2");
    assert_eq!(ask("one._http._tcp.ns.local", RecordKind::Srv), "no record in ns.local");
    assert_eq!(ask("_tcp.ns.local", RecordKind::A), "no record in ns.local", "there is a name below it");
    assert_eq!(ask("three._http._tcp.ns.local", RecordKind::A), "no name in ns.local");
}

#[tokio::test]
async fn health_is_followed() {
    let found = Found::ready().await;
    let task = found.task().await;
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let registry = found.registry(&namespace, "web").await.unwrap();
    for number in 1..=3 {
        found.register(&registry, &format!("i{number}"), number).await;
    }
    let (control, id) = (found.control(), registry.id.as_str());
    let set = async |instance: &str, health| {
        control.set_instance_health(&HERE, id, instance, health).await.unwrap()
    };
    let ask = || told(control.look_up_name(task, "web.ns.local", RecordKind::A));
    let discover = |health| control.discover_instances(&HERE, &wanted(health)).unwrap().instances.len();
    set("i1", InstanceHealth::Unhealthy).await;
    assert_eq!(ask(), "2 3");
    assert_eq!(discover(HealthWanted::Healthy), 2);
    // Registered again it is as healthy as it was.
    let again = NewInstance { creator_request: None, ..new_instance("i1", 1) };
    control.register_instance(&HERE, id, &again).await.unwrap();
    assert_eq!(ask(), "2 3");
    set("i2", InstanceHealth::Unhealthy).await;
    set("i3", InstanceHealth::Unhealthy).await;
    assert_eq!(ask(), "1 2 3", "all, when none is healthy");
    assert_eq!(discover(HealthWanted::Healthy), 0);
    assert_eq!(discover(HealthWanted::HealthyOrElseAll), 3);
    let revision = control.registry(&HERE, id).await.unwrap().revision;
    set("i2", InstanceHealth::Healthy).await;
    assert_eq!((ask(), control.registry(&HERE, id).await.unwrap().revision), ("2".to_owned(), revision));
}

#[tokio::test]
async fn names_are_given_once_and_what_is_used_stays() {
    let found = Found::ready().await;
    let control = found.control();
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let twice = found.namespace(&found.private("NS.local.")).await.unwrap_err();
    let is_known = |error: &DiscoveryChangeError| match error {
        DiscoveryChangeError::Discovery(DiscoveryError::NamespaceExists { id, .. }) => *id == namespace,
        _ => false,
    };
    assert!(is_known(&twice), "{twice:?}");
    let http = NewNamespace { kind: NamespaceKind::Http, ..found.private("ns.local") };
    found.namespace(&http).await.unwrap();
    let registry = found.registry(&namespace, "web").await.unwrap();
    let twice = found.registry(&namespace, "WEB").await.unwrap_err();
    assert!(
        matches!(&twice, DiscoveryChangeError::Discovery(DiscoveryError::RegistryExists { id, .. }) if *id == registry.id),
        "{twice:?}"
    );
    found.register(&registry, "i", 1).await;
    let used = control.delete_registry(&HERE, registry.id.as_str()).await.unwrap_err();
    assert!(matches!(used, DiscoveryChangeError::Discovery(DiscoveryError::RegistryInUse { .. })));
    let used = control.delete_namespace(&HERE, namespace.as_str()).await.unwrap_err();
    assert!(matches!(used, DiscoveryChangeError::Discovery(DiscoveryError::NamespaceInUse { .. })));
    control.deregister_instance(&HERE, registry.id.as_str(), "i").await.unwrap();
    control.delete_registry(&HERE, registry.id.as_str()).await.unwrap();
    control.delete_namespace(&HERE, namespace.as_str()).await.unwrap();
    // Names are free again.
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    found.registry(&namespace, "web").await.unwrap();
    let elsewhere = Scope { region: Region::new("eu-west-1").unwrap(), ..HERE.clone() };
    let missing = control.namespace(&elsewhere, namespace.as_str()).await.unwrap_err();
    assert!(matches!(missing, DiscoveryChangeError::Discovery(DiscoveryError::NamespaceNotFound { .. })));
    let vpc = VpcId::new(format!("vpc-{:017x}", 7)).unwrap();
    let kind = NamespaceKind::Private { vpc, missing_ttl_s: 15 };
    let nowhere = found.namespace(&NewNamespace { kind, ..found.private("x.local") }).await.unwrap_err();
    assert!(matches!(
        nowhere,
        DiscoveryChangeError::Discovery(DiscoveryError::Invalid(Invalid::VpcNotFound { .. }))
    ));
}

#[tokio::test]
async fn a_request_made_again_does_nothing_again() {
    let found = Found::ready().await;
    let (control, new) = (found.control(), new_instance("i", 1));
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let registry = found.registry(&namespace, "web").await.unwrap();
    let register = async |new| control.register_instance(&HERE, registry.id.as_str(), new).await;
    let first = register(&new).await.unwrap();
    assert_eq!(register(&new).await.unwrap(), first);
    assert_eq!(control.registry(&HERE, registry.id.as_str()).await.unwrap().revision, 2);
    let other = NewInstance { attributes: new_instance("i", 2).attributes, ..new.clone() };
    let refused = register(&other).await.unwrap_err();
    assert!(
        matches!(&refused, DiscoveryChangeError::Discovery(DiscoveryError::DuplicateRequest { operation }) if *operation == first)
    );
    register(&NewInstance { creator_request: Some("next".to_owned()), ..other.clone() }).await.unwrap();
    let registry = control.registry(&HERE, registry.id.as_str()).await.unwrap();
    assert_eq!((registry.instances, registry.revision), (1, 3));
}

#[tokio::test]
async fn a_restart_finds_all_again() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let before = Found::on(store.clone()).await;
    let namespace = before.namespace(&before.private("ns.local")).await.unwrap();
    let registry = before.registry(&namespace, "web").await.unwrap();
    for number in 0..200 {
        before.register(&registry, &format!("i{number}"), number).await;
    }
    let task = before.task().await;
    let after = Found::on(store).await;
    after.control().recover().await.unwrap();
    after.register(&registry, "one-more", 201).await;
    let answer = after.control().look_up_name(task, "web.ns.local", RecordKind::A);
    assert_eq!(told(answer).split(' ').count(), 8);
    let wanted = DiscoverWanted { most: 1000, ..wanted(HealthWanted::All) };
    let all = after.control().discover_instances(&HERE, &wanted);
    assert_eq!(all.unwrap().instances.len(), 201);
}

#[tokio::test]
async fn instances_that_race_are_all_counted() {
    let found = Found::ready().await;
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let registry = found.registry(&namespace, "web").await.unwrap();
    let mut racers = JoinSet::new();
    for number in 0..20 {
        let (control, id) = (found.control().clone(), registry.id.to_string());
        racers.spawn(async move {
            control
                .register_instance(&HERE, &id, &new_instance(&format!("i{number}"), number))
                .await
                .unwrap();
        });
    }
    racers.join_all().await;
    let registry = found.control().registry(&HERE, registry.id.as_str()).await.unwrap();
    assert_eq!((registry.instances, registry.revision), (20, 21));
    assert_eq!(found.control().instances(&HERE, registry.id.as_str()).await.unwrap().len(), 20);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_store_lose_no_count() {
    for seed in 0..10 {
        let found = Found::on(Arc::new(Faulty::new(MemoryStore::new(), seed))).await;
        let control = found.control();
        let mut namespace = None;
        while namespace.is_none() {
            namespace = match found.namespace(&found.private("ns.local")).await {
                Err(DiscoveryChangeError::Discovery(DiscoveryError::NamespaceExists { id, .. })) => Some(id),
                made => made.ok(),
            };
        }
        let namespace = namespace.unwrap();
        let registry = loop {
            match found.registry(&namespace, "web").await {
                Ok(registry) => break registry.id,
                Err(DiscoveryChangeError::Discovery(DiscoveryError::RegistryExists { id, .. })) => break id,
                Err(_) => {}
            }
        };
        for number in 0..5 {
            let new = new_instance(&format!("i{number}"), number);
            while control.register_instance(&HERE, registry.as_str(), &new).await.is_err() {}
        }
        loop {
            match control.deregister_instance(&HERE, registry.as_str(), "i0").await {
                Ok(_) | Err(DiscoveryChangeError::Discovery(DiscoveryError::InstanceNotFound { .. })) => {
                    break;
                }
                Err(_) => {}
            }
        }
        let all = loop {
            if let Ok(all) = control.instances(&HERE, registry.as_str()).await {
                break all;
            }
        };
        let counted = loop {
            if let Ok(counted) = control.registry(&HERE, registry.as_str()).await {
                break counted.instances;
            }
        };
        assert_eq!((all.len(), counted), (4, 4), "seed {seed}");
    }
}

#[tokio::test]
async fn operations_are_forgotten() {
    let found = Found::ready().await;
    let operation = found.control().create_namespace(&HERE, &found.private("ns.local")).await.unwrap();
    let get = async || found.control().discovery_operation(&HERE, operation.as_str()).await;
    assert_eq!(get().await.unwrap().kind, OperationKind::CreateNamespace);
    found.control().sweep(&crate::RetentionConfig::default()).await.unwrap();
    assert!(get().await.is_ok());
    *found.bench.clock.0.lock().unwrap() += 25 * 3_600_000;
    assert_eq!(found.control().sweep(&crate::RetentionConfig::default()).await.unwrap().operations, 1);
    assert!(get().await.is_err());
}

#[tokio::test]
async fn limits_hold_for_those_who_come_at_once() {
    let found = Found::ready().await;
    let names: Vec<String> = (0..NAMESPACES_MAX + 10).map(|number| format!("n{number}.local")).collect();
    let mut making = JoinSet::new();
    for name in &names {
        let (control, new) = (found.control().clone(), found.private(name));
        making.spawn(async move {
            // Who is one of too many at once asks again, as a client does.
            loop {
                match control.create_namespace(&HERE, &new).await {
                    Err(DiscoveryChangeError::Store(_)) => continue,
                    made => return made.is_ok(),
                }
            }
        });
    }
    let made = making.join_all().await.into_iter().filter(|is_made| *is_made).count();
    assert_eq!(made, NAMESPACES_MAX);
    assert_eq!(found.control().namespaces(&HERE).await.unwrap().len(), NAMESPACES_MAX);
}

#[tokio::test]
async fn a_namespace_has_so_many_instances_and_no_more() {
    let found = Found::ready().await;
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let mut registries = Vec::new();
    for name in ["a", "b", "c"] {
        registries.push(found.registry(&namespace, name).await.unwrap());
    }
    for number in 0..NAMESPACE_INSTANCES_MAX {
        found.register(&registries[number as usize % 3], &format!("i{number}"), 1).await;
    }
    let one_more = |id: &'static str| {
        let (control, registry) = (found.control(), registries[0].id.to_string());
        async move { control.register_instance(&HERE, &registry, &new_instance(id, 1)).await }
    };
    let refused = one_more("more").await.unwrap_err();
    assert!(matches!(refused, DiscoveryChangeError::Discovery(DiscoveryError::InstanceLimit)), "{refused:?}");
    assert!(one_more("i0").await.is_ok(), "one that is there is registered anew");
    found.control().deregister_instance(&HERE, registries[1].id.as_str(), "i1").await.unwrap();
    assert!(one_more("more").await.is_ok());
    // Two thousand operations and more, a page at a time.
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = found.control().discovery_operations(&HERE, after.as_ref(), 100, |_| true).await.unwrap();
        seen += page.0.len();
        after = page.0.last().map(|operation| operation.id.clone());
        if !page.1 {
            break;
        }
        assert_eq!(page.0.len(), 100);
    }
    // The namespace, the instances, one removed and one that was registered anew with what it was.
    assert_eq!(seen as u32, 1 + NAMESPACE_INSTANCES_MAX + 2);
}

#[tokio::test]
async fn a_revision_is_not_told_before_its_instances() {
    let found = Found::ready().await;
    let namespace = found.namespace(&found.private("ns.local")).await.unwrap();
    let registry = found.registry(&namespace, "web").await.unwrap();
    let control = found.control().clone();
    let registering = tokio::spawn(async move {
        for number in 0..200 {
            let new = new_instance(&format!("i{number}"), 1);
            control.register_instance(&HERE, registry.id.as_str(), &new).await.unwrap();
        }
    });
    let directory = &found.control().shared.directory;
    while !registering.is_finished() {
        {
            let records = directory.read();
            let registry = records.registry(&namespace, "web").unwrap();
            let instances = records.instances(&registry.id).count();
            assert_eq!((registry.instances as usize, registry.revision as usize), (instances, 1 + instances));
        }
        tokio::task::yield_now().await;
    }
    registering.await.unwrap();
}

#[tokio::test]
async fn of_too_many_operations_the_oldest_are_forgotten() {
    let found = Found::ready().await;
    let store = found.control().store();
    let kept_at = |number: usize| Timestamp(i64::try_from(number).unwrap());
    for number in 0..OPERATIONS_MAX + 3 {
        let id = OperationId::new(format!("{number:032}")).unwrap();
        let kind = OperationKind::CreateNamespace;
        let operation =
            Operation { id, kind, namespace: None, registry: None, instance: None, at: kept_at(number) };
        let at = key(&OPERATIONS, &HERE, &[operation.id.as_str()]);
        store.commit(OPERATIONS.put(Txn::fresh(), &at, &operation).unwrap()).await.unwrap();
    }
    let over = found.control().old_operations(|at| at == kept_at(OPERATIONS_MAX)).await.unwrap();
    let expect = [0, 1, 2, OPERATIONS_MAX].map(|number| key(&OPERATIONS, &HERE, &[&format!("{number:032}")]));
    assert_eq!(over.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(expect));
}
