//! From the model to ECS's shapes.

use neargate_control::DescribedTask;
use neargate_model::vpc::private_dns_name;
use neargate_model::{
    Arn, ContainerDefinition, ContainerLast, ContainerStatus, DefinitionStatus, Health, LastStatus,
    LaunchType, Phases, PortMapping, PortProtocol, Scope, StopCode, TaskDefinition, TaskNetwork, Timestamp,
};
use neargate_wire::ecs;
use neargate_wire::{Timestamp as WireTimestamp, ecs::Attribute};

use super::tags;
use crate::face;

fn time(at: Timestamp) -> WireTimestamp {
    WireTimestamp::from_millis(at.as_millis())
}

fn text(value: &impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// A task definition, without its tags.
pub(super) fn definition(scope: &Scope, definition: &TaskDefinition) -> ecs::TaskDefinition {
    let kept: ecs::TaskDefinition = face::read(&definition.face);
    let compatibility = |launch_type: &LaunchType| match launch_type {
        LaunchType::Ec2 => ecs::Compatibility::Ec2,
        LaunchType::Fargate => ecs::Compatibility::Fargate,
    };
    let status = match definition.status {
        DefinitionStatus::Active => ecs::TaskDefinitionStatus::Active,
        DefinitionStatus::Inactive => ecs::TaskDefinitionStatus::Inactive,
        DefinitionStatus::DeleteInProgress => ecs::TaskDefinitionStatus::DeleteInProgress,
    };
    ecs::TaskDefinition {
        task_definition_arn: text(&Arn::task_definition(scope, &definition.family, definition.revision)),
        family: text(&definition.family),
        revision: Some(i32::try_from(definition.revision).unwrap_or(i32::MAX)),
        status: Some(status),
        compatibilities: Some(definition.compatibilities.iter().map(compatibility).collect()),
        registered_at: Some(time(definition.registered_at)),
        registered_by: Some(definition.registered_by.clone()),
        deregistered_at: definition.deregistered_at.map(time),
        delete_requested_at: definition.delete_requested_at.map(time),
        ..kept
    }
}

/// A task. One that was only just accepted shows what RunTask answers on AWS.
pub(super) fn task(described: &DescribedTask, with_tags: bool) -> ecs::Task {
    let DescribedTask { task, spec } = described;
    let kept: ecs::Task = face::read(&spec.face);
    let status = &task.status;
    let is_new = status.version <= 1;
    let arn = Arn::task(&task.scope, &task.cluster, &task.id).to_string();
    let containers = (0..spec.shape.containers.len()).map(|index| container(described, index, &arn, is_new));
    let stop = status.stop.as_ref().or(task.stop_requested.as_ref());
    ecs::Task {
        attachments: Some(attachments(described, kept.attachments.unwrap_or_default(), is_new)),
        attributes: Some(attributes(status.phases, status.started_at.is_some())),
        availability_zone: Some(match &spec.network {
            Some(network) => network.zone.clone(),
            None => format!("{}a", task.scope.region),
        }),
        capacity_provider_name: task.capacity_provider.clone(),
        cluster_arn: text(&Arn::cluster(&task.scope, &task.cluster)),
        connectivity: status.connectivity_at.map(|_| ecs::Connectivity::Connected),
        connectivity_at: status.connectivity_at.map(time),
        containers: Some(containers.collect()),
        cpu: task.cpu_units.as_ref().and_then(text),
        created_at: Some(time(task.created_at)),
        desired_status: Some(if task.is_wanted() { "RUNNING" } else { "STOPPED" }.to_owned()),
        execution_stopped_at: status.execution_stopped_at.map(time),
        group: Some(task.group.clone()),
        health_status: (!is_new).then(|| health(status.health)),
        last_status: Some(last_status(status.last).to_owned()),
        launch_type: task.capacity_provider.is_none().then(|| launch_type(task.launch_type)),
        memory: task.memory_mib.as_ref().and_then(text),
        pull_started_at: status.pull_started_at.map(time),
        pull_stopped_at: status.pull_stopped_at.map(time),
        started_at: status.started_at.map(time),
        started_by: task.started_by.clone(),
        stop_code: stop.map(|stop| stop_code(stop.code)),
        stopped_at: status.stopped_at.map(time),
        stopped_reason: stop.map(|stop| stop.reason.clone()),
        stopping_at: status.stopping_at.map(time),
        tags: Some(if with_tags { tags::to_wire(&task.tags) } else { Vec::new() }),
        task_definition_arn: text(&Arn::task_definition(&task.scope, &task.family, task.revision)),
        version: Some(i64::try_from(status.version).unwrap_or(i64::MAX)),
        task_arn: Some(arn),
        ..kept
    }
}

fn last_status(last: LastStatus) -> &'static str {
    match last {
        LastStatus::Provisioning => "PROVISIONING",
        LastStatus::Pending => "PENDING",
        LastStatus::Running => "RUNNING",
        LastStatus::Stopping => "STOPPING",
        LastStatus::Deprovisioning => "DEPROVISIONING",
        LastStatus::Stopped => "STOPPED",
    }
}

fn launch_type(launch_type: LaunchType) -> ecs::LaunchType {
    match launch_type {
        LaunchType::Fargate => ecs::LaunchType::Fargate,
        LaunchType::Ec2 => ecs::LaunchType::Ec2,
    }
}

fn health(health: Health) -> ecs::HealthStatus {
    match health {
        Health::Unknown => ecs::HealthStatus::Unknown,
        Health::Healthy => ecs::HealthStatus::Healthy,
        Health::Unhealthy => ecs::HealthStatus::Unhealthy,
    }
}

fn stop_code(code: StopCode) -> ecs::TaskStopCode {
    match code {
        StopCode::TaskFailedToStart => ecs::TaskStopCode::TaskFailedToStart,
        StopCode::EssentialContainerExited => ecs::TaskStopCode::EssentialContainerExited,
        StopCode::UserInitiated => ecs::TaskStopCode::UserInitiated,
        StopCode::InfrastructureHealth => ecs::TaskStopCode::InfrastructureHealth,
    }
}

/// A task's network interface, with the status that ECS gives it at each point of the task's life. Tasks of versions
/// without networks kept an attachment that stood for one.
fn attachments(described: &DescribedTask, kept: Vec<ecs::Attachment>, is_new: bool) -> Vec<ecs::Attachment> {
    let DescribedTask { task, spec } = described;
    let status = match task.status.last {
        LastStatus::Provisioning => "PRECREATED",
        LastStatus::Pending if task.status.connectivity_at.is_none() => "ATTACHING",
        LastStatus::Pending | LastStatus::Running | LastStatus::Stopping => "ATTACHED",
        LastStatus::Deprovisioning => "DETACHING",
        LastStatus::Stopped => "DELETED",
    };
    let with = |id: String, attachment| ecs::Attachment {
        id: Some(id),
        status: Some(status.to_owned()),
        ..attachment
    };
    match &spec.network {
        Some(network) => {
            let attachment = ecs::Attachment {
                r#type: Some("ElasticNetworkInterface".to_owned()),
                details: Some(interface_details(&task.scope, network, is_new)),
                ..ecs::Attachment::default()
            };
            vec![with(network.attachment.clone(), attachment)]
        }
        None => {
            let id = || attachment_id(task.id.as_str());
            kept.into_iter().map(|attachment| with(id(), attachment)).collect()
        }
    }
}

/// What is told of an interface. The answer of RunTask names the subnet alone, as AWS was recorded to do.
fn interface_details(scope: &Scope, network: &TaskNetwork, is_new: bool) -> Vec<ecs::KeyValuePair> {
    let detail =
        |name: &str, value: String| ecs::KeyValuePair { name: Some(name.to_owned()), value: Some(value) };
    let mut details = vec![detail("subnetId", network.subnet.to_string())];
    if !is_new {
        details.extend([
            detail("networkInterfaceId", network.interface.to_string()),
            detail("macAddress", network.mac.to_string()),
            detail("privateDnsName", private_dns_name(&scope.region, network.address)),
            detail("privateIPv4Address", network.address.to_string()),
        ]);
        details.extend(network.address_v6.map(|address| detail("ipv6Address", address.to_string())));
    }
    details
}

/// The id of an attachment of a version without networks: the task's own digits in the form of a UUID.
fn attachment_id(task: &str) -> String {
    let part = |from: usize, to: usize| task.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// ECS's own attribute, and where the time until RUNNING went.
fn attributes(phases: Phases, has_started: bool) -> Vec<Attribute> {
    let attribute = |name: &str, value: String| Attribute {
        name: name.to_owned(),
        value: Some(value),
        ..Attribute::default()
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    let mut attributes = vec![attribute("ecs.cpu-architecture", architecture.to_owned())];
    if has_started {
        let Phases { queue_us, image_us, network_us, create_us, start_us } = phases;
        attributes.extend([
            attribute("neargate.queue-us", queue_us.to_string()),
            attribute("neargate.image-us", image_us.to_string()),
            attribute("neargate.network-us", network_us.to_string()),
            attribute("neargate.create-us", create_us.to_string()),
            attribute("neargate.start-us", start_us.to_string()),
        ]);
    }
    attributes
}

fn container(described: &DescribedTask, index: usize, task_arn: &str, is_new: bool) -> ecs::Container {
    let DescribedTask { task, spec } = described;
    let definition = &spec.shape.containers[index];
    let id = &spec.container_ids[index];
    let status: Option<&ContainerStatus> = task.status.containers.get(index);
    let last = status.map_or("PENDING", |status| match status.last {
        ContainerLast::Pending => "PENDING",
        ContainerLast::Running => "RUNNING",
        ContainerLast::Stopped => "STOPPED",
    });
    ecs::Container {
        container_arn: text(&Arn::container(&task.scope, &task.cluster, &task.id, id)),
        task_arn: Some(task_arn.to_owned()),
        name: text(&definition.name),
        image: Some(definition.image.clone()),
        image_digest: status.and_then(|status| status.image_digest.clone()),
        runtime_id: status.and_then(|status| status.runtime_id.clone()),
        last_status: Some(last.to_owned()),
        exit_code: status.and_then(|status| status.exit_code),
        reason: status.and_then(|status| status.reason.clone()),
        network_bindings: Some(status.map_or_else(Vec::new, |status| bindings(definition, status))),
        network_interfaces: Some(spec.network.iter().filter(|_| !is_new).map(interface).collect()),
        health_status: status.filter(|_| !is_new).map(|status| health(status.health)),
        managed_agents: is_new.then(Vec::new),
        cpu: text(&definition.cpu_units),
        memory: definition.memory_mib.as_ref().and_then(text),
        memory_reservation: definition.memory_reservation_mib.as_ref().and_then(text),
        gpu_ids: is_new.then(Vec::new),
        ..ecs::Container::default()
    }
}

/// The task's interface as each of its containers shows it.
fn interface(network: &TaskNetwork) -> ecs::NetworkInterface {
    ecs::NetworkInterface {
        attachment_id: Some(network.attachment.clone()),
        private_ipv4_address: Some(network.address.to_string()),
        ipv6_address: network.address_v6.map(|address| address.to_string()),
    }
}

/// Where the ports of a container can be reached, once that is known.
fn bindings(definition: &ContainerDefinition, status: &ContainerStatus) -> Vec<ecs::NetworkBinding> {
    let binding = |(mapping, host_port): (&PortMapping, &u16)| {
        let one = |port: u16| (mapping.more_ports == 0).then_some(i32::from(port));
        let range = |first: u16| {
            let last = first.saturating_add(mapping.more_ports);
            (mapping.more_ports > 0).then(|| format!("{first}-{last}"))
        };
        ecs::NetworkBinding {
            bind_ip: Some("0.0.0.0".to_owned()),
            container_port: one(mapping.container_port),
            host_port: one(*host_port),
            container_port_range: range(mapping.container_port),
            host_port_range: range(*host_port),
            protocol: Some(match mapping.protocol {
                PortProtocol::Tcp => ecs::TransportProtocol::Tcp,
                PortProtocol::Udp => ecs::TransportProtocol::Udp,
            }),
        }
    };
    definition.port_mappings.iter().zip(&status.host_ports).map(binding).collect()
}
