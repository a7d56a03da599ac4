//! Networks over the in-memory store: what every scope has at first, what tasks get, and what the node is told.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use neargate_model::lifecycle::testing::{container, scope, shape};
use neargate_model::vpc::{DEFAULT_GROUP, Direction, NewRule};
use neargate_model::{
    ContainerDefinition, NetworkMode, NodeReport, Peer, PortMapping, PortProtocol, Region, SecurityRule,
    Task, TaskNetwork, TaskShape, Traffic,
};
use neargate_store::testing::Faulty;
use neargate_store::{MemoryStore, Store};

use super::*;
use crate::tests::{Bench, bench_on, bench_with, cluster, run, stopped};
use crate::{NewDefinition, NewTask, Refusal, RunError, RunTasks};

/// The scope of all requests.
static HERE: LazyLock<Scope> = LazyLock::new(scope);

/// A definition whose tasks have interfaces.
fn definition() -> NewDefinition {
    NewDefinition { shape: shape(vec![container("a")]), ..crate::tests::definition() }
}

/// With a cluster and the definition.
async fn ready() -> Bench {
    ready_with(Vec::new()).await
}

/// The same on a host that has these blocks for tasks under `bridge`.
async fn ready_with(bridge_blocks: Vec<Cidr>) -> Bench {
    let bench = bench_with(Arc::new(MemoryStore::new()), bridge_blocks);
    bench.control.create_cluster(&HERE, &cluster(), Tags::new(), String::new()).await.unwrap();
    bench.control.register_definition(&HERE, definition()).await.unwrap();
    bench
}

/// A request in these subnets and groups.
fn run_in(count: usize, subnets: &[SubnetId], groups: &[SecurityGroupId]) -> RunTasks {
    let network =
        WantedNetwork { subnets: subnets.to_vec(), groups: groups.to_vec(), principals: Vec::new() };
    RunTasks { network: Some(network), ..run(count) }
}

/// The groups that the node was told of last.
fn told(bench: &Bench) -> Option<BTreeSet<SecurityGroupId>> {
    let commands = bench.node.0.lock().unwrap();
    commands.iter().rev().find_map(|command| match command {
        NodeCommand::Network { groups, .. } => Some(groups.iter().map(|rules| rules.group.clone()).collect()),
        _ => None,
    })
}

async fn end(bench: &Bench, task: &Task) {
    let report = NodeReport { task: task.key(), status: stopped(task) };
    bench.control.apply_report(&report).await.unwrap();
}

async fn subnet_in(bench: &Bench, vpc: &VpcId, block: &str) -> SubnetId {
    let (vpc, block) = (vpc.clone(), block.parse().unwrap());
    let region = HERE.region.clone();
    let made = bench.control.change_networks(&HERE, |networks, ids| {
        networks.create_subnet(&vpc, block, None, &region, Tags::new(), ids)
    });
    made.await.unwrap()
}

#[tokio::test]
async fn every_account_has_a_default_vpc_once() {
    let bench = ready().await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let control = bench.control.clone();
        racers.spawn(async move { control.networks(&HERE).await.unwrap() });
    }
    let seen = racers.join_all().await;
    assert!(seen.iter().all(|networks| *networks == seen[0]));
    assert_eq!((seen[0].vpcs.len(), seen[0].subnets.len(), seen[0].groups.len()), (1, 2, 1));
    let elsewhere = Scope { region: Region::new("eu-west-1").unwrap(), ..HERE.clone() };
    assert_eq!(bench.control.networks(&elsewhere).await.unwrap(), Networks::default());
    assert_eq!(
        told(&bench),
        Some(seen[0].groups.keys().cloned().collect()),
        "to look makes nothing elsewhere"
    );
    let block = bench.control.default_vpc_block(&elsewhere).await.unwrap();
    let made = bench.control.change_networks(&elsewhere, |networks, ids| {
        networks.create_default_vpc(block, &elsewhere.region, ids)
    });
    made.await.unwrap();
    let other = bench.control.networks(&elsewhere).await.unwrap();
    assert!(other.subnets.values().all(|subnet| subnet.zone.starts_with("eu-west-1")));
    let all = seen[0].groups.keys().chain(other.groups.keys()).cloned().collect();
    assert_eq!(told(&bench), Some(all), "the node knows the groups of all scopes");

    // What was deleted does not come back by itself.
    let vpc = seen[0].default_vpc().unwrap().id.clone();
    for subnet in seen[0].subnets.keys() {
        bench.control.delete_subnet(&HERE, subnet).await.unwrap();
    }
    bench.control.change_networks(&HERE, |networks, _| networks.delete_vpc(&vpc)).await.unwrap();
    assert_eq!(bench.control.networks(&HERE).await.unwrap(), Networks::default());
    assert_eq!(told(&bench), Some(other.groups.keys().cloned().collect()));
}

#[tokio::test]
async fn a_task_has_an_interface_until_it_has_stopped() {
    let bench = ready().await;
    let networks = bench.control.networks(&HERE).await.unwrap();
    let subnets: Vec<SubnetId> = networks.subnets.keys().cloned().collect();
    let accepted = bench.control.run_tasks(&run_in(2, &subnets, &[])).await.unwrap();
    let of = |index: usize| -> TaskNetwork { accepted.tasks[index].spec.network.clone().unwrap() };
    assert_ne!(of(0).subnet, of(1).subnet, "the second goes where more addresses are left");
    assert_eq!(of(0).groups, [networks.default_vpc().unwrap().default_group.clone()]);
    assert_eq!(of(0).address.octets()[3], 4, "the first four addresses are reserved");
    let free = |id: &SubnetId| bench.control.free_addresses(networks.subnet(id).unwrap());
    assert_eq!([free(&subnets[0]), free(&subnets[1])], [4090, 4090]);

    let interfaces = bench.control.network_interfaces(&HERE).await.unwrap();
    let mut shown: Vec<_> = interfaces.iter().map(|one| one.network.clone()).collect();
    shown.sort_by_key(|network| network.address);
    let mut given = vec![of(0), of(1)];
    given.sort_by_key(|network| network.address);
    assert_eq!(shown, given);

    let tag = Tags::from([("a".to_owned(), "b".to_owned())]);
    assert!(bench.control.tag_interface(&HERE, &of(0).interface, &tag, &[]).await.unwrap());
    end(&bench, &accepted.tasks[0].task).await;
    let left = bench.control.network_interfaces(&HERE).await.unwrap();
    assert_eq!(left.iter().map(|one| &one.network.interface).collect::<Vec<_>>(), [&of(1).interface]);
    assert!(!bench.control.tag_interface(&HERE, &of(0).interface, &tag, &[]).await.unwrap());
    assert_eq!(free(&of(0).subnet), 4090, "the address rests");
    *bench.clock.0.lock().unwrap() += 60_000;
    assert_eq!(free(&of(0).subnet), 4091);
    let described = bench.control.describe_task(&accepted.tasks[0].task.key()).await.unwrap();
    assert_eq!(described.spec.network, Some(of(0)), "what it had can still be told");
}

#[tokio::test]
async fn what_a_request_names_has_to_be_there_and_together() {
    let bench = ready().await;
    let networks = bench.control.networks(&HERE).await.unwrap();
    let home: Vec<SubnetId> = networks.subnets.keys().cloned().collect();
    let made = bench.control.change_networks(&HERE, |networks, ids| {
        let vpc = networks.create_vpc("10.0.0.0/16".parse().unwrap(), Tags::new(), ids)?;
        let group = networks.create_group(Some(&vpc), "far", "far", Tags::new(), ids)?;
        Ok((vpc, group))
    });
    let (vpc, far_group) = made.await.unwrap();
    let far = subnet_in(&bench, &vpc, "10.0.0.0/24").await;
    let no_subnet = SubnetId::new("subnet-00000000000000000").unwrap();
    let no_group = SecurityGroupId::new("sg-00000000000000000").unwrap();
    let fails = async |request: RunTasks| bench.control.run_tasks(&request).await.unwrap_err();

    let none = RunTasks { network: None, ..run(1) };
    assert!(matches!(fails(none).await, RunError::NoNetwork));
    assert!(matches!(fails(run_in(1, &[], &[])).await, RunError::NoNetwork));
    let missing = fails(run_in(1, &[home[0].clone(), no_subnet], &[])).await;
    assert!(matches!(missing, RunError::Network(NetworkError::SubnetNotFound { .. })));
    let missing = fails(run_in(1, &home, &[no_group])).await;
    assert!(matches!(missing, RunError::Network(NetworkError::GroupNotFound { .. })));
    let apart = fails(run_in(1, &[home[0].clone(), far.clone()], &[])).await;
    assert!(matches!(apart, RunError::Network(NetworkError::SubnetElsewhere { .. })));
    let apart = fails(run_in(1, &home, std::slice::from_ref(&far_group))).await;
    assert!(matches!(apart, RunError::Network(NetworkError::GroupElsewhere { .. })));
    let many: Vec<SecurityGroupId> =
        (0..6).map(|number| SecurityGroupId::new(format!("sg-{number:017x}")).unwrap()).collect();
    assert!(matches!(fails(run_in(1, &home, &many)).await, RunError::TooManyGroups { groups: 6 }));
    assert!(bench.control.network_interfaces(&HERE).await.unwrap().is_empty());
    let accepted = bench.control.run_tasks(&run_in(1, &[far], &[far_group.clone(), far_group.clone()])).await;
    assert_eq!(accepted.unwrap().tasks[0].spec.network.as_ref().unwrap().groups, [far_group]);
}

#[tokio::test]
async fn a_subnet_without_addresses_refuses_tasks() {
    let bench = ready().await;
    let vpc = bench.control.networks(&HERE).await.unwrap().default_vpc().unwrap().id.clone();
    let small = subnet_in(&bench, &vpc, "172.31.32.0/28").await;
    let one = |memory_mib| RunTasks {
        changes: NewTask { memory_mib: Some(memory_mib), ..Default::default() },
        ..run_in(10, std::slice::from_ref(&small), &[])
    };
    assert_eq!(bench.control.run_tasks(&one(8)).await.unwrap().tasks.len(), 10);
    let accepted = bench.control.run_tasks(&one(8)).await.unwrap();
    assert_eq!((accepted.tasks.len(), accepted.refused), (1, vec![Refusal::Address; 9]));
    // What was refused holds no memory: 11 of 8 MiB are placed, and the rest is free.
    let home: Vec<SubnetId> = bench.control.networks(&HERE).await.unwrap().subnets.keys().cloned().collect();
    let large = RunTasks {
        changes: NewTask { memory_mib: Some(4096 - 88), ..Default::default() },
        ..run_in(1, std::slice::from_ref(home.iter().find(|id| **id != small).unwrap()), &[])
    };
    assert_eq!(bench.control.run_tasks(&large).await.unwrap().tasks.len(), 1);
}

#[tokio::test]
async fn what_tasks_use_is_not_removed() {
    let bench = ready().await;
    let vpc = bench.control.networks(&HERE).await.unwrap().default_vpc().unwrap().id.clone();
    let subnet = subnet_in(&bench, &vpc, "172.31.32.0/24").await;
    let made = bench
        .control
        .change_networks(&HERE, |networks, ids| networks.create_group(None, "web", "web", Tags::new(), ids));
    let group = made.await.unwrap();
    let request = run_in(1, std::slice::from_ref(&subnet), std::slice::from_ref(&group));
    let task = bench.control.run_tasks(&request).await.unwrap().tasks.remove(0).task;
    let in_use = |result: Result<(), NetworkChangeError>| {
        matches!(
            result,
            Err(NetworkChangeError::Network(
                NetworkError::SubnetInUse { .. } | NetworkError::GroupInUse { .. }
            ))
        )
    };
    assert!(in_use(bench.control.delete_subnet(&HERE, &subnet).await));
    assert!(in_use(bench.control.delete_group(&HERE, &group).await));

    // The next server knows it as well.
    let again = bench_on(bench.store.clone());
    again.control.recover().await.unwrap();
    assert!(in_use(again.control.delete_subnet(&HERE, &subnet).await));
    let other = again.control.run_tasks(&request).await.unwrap().tasks.remove(0);
    let first = bench.control.describe_task(&task.key()).await.unwrap();
    let address = |task: &crate::DescribedTask| task.spec.network.as_ref().unwrap().address;
    assert_ne!(address(&other), address(&first));

    for task in [&task, &other.task] {
        end(&again, task).await;
    }
    again.control.delete_subnet(&HERE, &subnet).await.unwrap();
    again.control.delete_group(&HERE, &group).await.unwrap();
    assert!(matches!(again.control.run_tasks(&request).await, Err(RunError::Network(_))));
}

#[tokio::test]
async fn the_node_is_told_of_rules_before_it_is_told_of_tasks() {
    let bench = ready().await;
    let networks = bench.control.networks(&HERE).await.unwrap();
    let subnets: Vec<SubnetId> = networks.subnets.keys().cloned().collect();
    let group = networks.default_vpc().unwrap().default_group.clone();
    bench.control.run_tasks(&run_in(1, &subnets, &[])).await.unwrap();
    let rule = SecurityRule { traffic: Traffic::Tcp(80, 80), peer: Peer::Block(Cidr::ANYWHERE_V4) };
    let new = [NewRule { rule: rule.clone(), description: Some("web".to_owned()) }];
    let added = bench.control.change_networks(&HERE, |networks, ids| {
        networks.authorize(&group, Direction::Ingress, &new, &Tags::new(), ids)
    });
    added.await.unwrap();
    let again = bench_on(bench.store.clone());
    again.control.recover().await.unwrap();
    for node in [&bench.node, &again.node] {
        let commands = node.0.lock().unwrap();
        assert!(matches!(commands[0], NodeCommand::Network { .. }), "{:?}", commands[0]);
        let last = commands.iter().rev().find_map(|command| match command {
            NodeCommand::Network { groups, .. } => groups.iter().find(|rules| rules.group == group),
            _ => None,
        });
        assert!(last.unwrap().ingress.contains(&rule));
    }
}

#[tokio::test]
async fn other_modes_have_no_interface() {
    let bench = ready().await;
    for mode in [NetworkMode::Bridge, NetworkMode::Host, NetworkMode::None] {
        let shape = TaskShape { network_mode: mode, ..shape(vec![container("a")]) };
        bench.control.register_definition(&HERE, NewDefinition { shape, ..definition() }).await.unwrap();
        let accepted = bench.control.run_tasks(&run(1)).await.unwrap();
        assert_eq!(accepted.tasks[0].spec.network, None, "{mode:?}");
    }
    assert!(bench.control.network_interfaces(&HERE).await.unwrap().is_empty());
}

#[tokio::test]
async fn tasks_under_bridge_have_a_block_that_no_vpc_gets() {
    let blocks: Vec<Cidr> = ["172.31.0.0/16", "172.29.0.0/16"].map(|block| block.parse().unwrap()).to_vec();
    let bench = ready_with(blocks.clone()).await;
    let control = &bench.control;
    control.networks(&HERE).await.unwrap();
    let mapping = PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        more_ports: 0,
        host_port: Some(8080),
        name: None,
    };
    let container = ContainerDefinition { port_mappings: vec![mapping], ..container("a") };
    let shape = TaskShape { network_mode: NetworkMode::Bridge, ..shape(vec![container]) };
    control.register_definition(&HERE, NewDefinition { shape, ..definition() }).await.unwrap();
    let accepted = control.run_tasks(&run(2)).await.unwrap();
    let network = accepted.tasks[0].spec.bridge.clone().unwrap();
    assert_eq!(network.block, "172.29.0.0/16".parse().unwrap(), "not the default VPC's");
    assert_eq!(accepted.refused, [Refusal::Port { protocol: PortProtocol::Tcp, port: 8080 }]);
    let told = bench.node.0.lock().unwrap().iter().rev().find_map(|command| match command {
        NodeCommand::Network { vpcs, .. } => Some(vpcs.contains(&network.block)),
        _ => None,
    });
    assert_eq!(told, Some(true), "the node routes it");
    let taken = control.change_networks(&HERE, |networks, ids| {
        networks.create_vpc("172.29.128.0/17".parse().unwrap(), Tags::new(), ids)
    });
    assert!(matches!(taken.await, Err(NetworkChangeError::Network(NetworkError::VpcBlock { .. }))));
    // Another control over the same store knows what is held, and gives it when the task has stopped.
    let again = bench_with(bench.store.clone(), blocks);
    again.control.recover().await.unwrap();
    assert!(again.control.run_tasks(&run(1)).await.unwrap().tasks.is_empty());
    let task = &accepted.tasks[0].task;
    let report = NodeReport { task: task.key(), status: stopped(task) };
    again.control.apply_report(&report).await.unwrap();
    let next = again.control.run_tasks(&run(1)).await.unwrap();
    assert_eq!(next.tasks[0].spec.bridge.as_ref().unwrap().block, network.block);
}

#[tokio::test]
async fn changes_that_race_keep_the_rules() {
    let bench = ready().await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let control = bench.control.clone();
        racers.spawn(async move {
            let made = control.change_networks(&HERE, |networks, ids| {
                networks.create_vpc("10.0.0.0/16".parse().unwrap(), Tags::new(), ids)
            });
            made.await.is_ok()
        });
    }
    let made = racers.join_all().await;
    assert_eq!(made.iter().filter(|made| **made).count(), 1, "blocks do not overlap");
    assert_eq!(bench.control.networks(&HERE).await.unwrap().vpcs.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_store_make_nothing_twice_and_give_no_address_twice() {
    for seed in 0..20 {
        let store: Arc<dyn Store> = Arc::new(Faulty::new(MemoryStore::new(), seed));
        let bench = bench_on(store);
        let control = &bench.control;
        let networks = loop {
            if let Ok(networks) = control.networks(&HERE).await {
                break networks;
            }
        };
        assert_eq!((networks.vpcs.len(), networks.groups.len()), (1, 1), "seed {seed}");
        let subnets: Vec<SubnetId> = networks.subnets.keys().cloned().collect();
        while control.create_cluster(&HERE, &cluster(), Tags::new(), String::new()).await.is_err() {}
        while control.register_definition(&HERE, definition()).await.is_err() {}
        for number in 0..4 {
            let token = Some((format!("t{number}"), "digest".to_owned()));
            let request = RunTasks { token, ..run_in(1, &subnets, &[]) };
            while control.run_tasks(&request).await.is_err() {}
        }
        let interfaces = loop {
            if let Ok(interfaces) = control.network_interfaces(&HERE).await {
                break interfaces;
            }
        };
        let addresses: BTreeSet<_> = interfaces.iter().map(|one| one.network.address).collect();
        assert_eq!(addresses.len(), interfaces.len(), "seed {seed}");
        assert!(interfaces.len() >= 4, "seed {seed}");
        let groups = networks.groups.values().map(|group| group.name.as_str()).collect::<Vec<_>>();
        assert_eq!(groups, [DEFAULT_GROUP]);
    }
}
