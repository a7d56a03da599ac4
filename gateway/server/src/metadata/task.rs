//! What a task and its containers are, in the words of the metadata endpoint.

use neargate_control::DescribedTask;
use neargate_model::vpc::{private_dns_name, subnet_block_of};
use neargate_model::{
    Arn, Cidr, ContainerLast, ContainerStatus, Health, LastStatus, LaunchType, TaskNetwork, Timestamp,
};
use neargate_wire::Timestamp as WireTimestamp;
use serde_json::{Map, Value, json};

use super::stats::now_ms;
use super::{ClockError, Metadata, StorageUsage};

/// Where tasks ask for names.
const RESOLVER: &str = "169.254.169.253";

impl Metadata {
    pub(super) async fn describe_task(&self, task: &DescribedTask, with_tags: bool) -> Value {
        let mut containers = Vec::new();
        for index in 0..task.spec.shape.containers.len() {
            containers.push(self.describe_container(task, index).await);
        }
        let DescribedTask { task, spec } = task;
        let cluster = match spec.launch_type {
            LaunchType::Fargate => Arn::cluster(&spec.scope, &spec.cluster).to_string(),
            LaunchType::Ec2 => spec.cluster.to_string(),
        };
        let zone = spec.network.as_ref().map(|network| network.zone.clone());
        let mut told = object(json!({
            "Cluster": cluster,
            "TaskARN": Arn::task(&spec.scope, &spec.cluster, &spec.id).to_string(),
            "Family": spec.family.as_str(),
            "Revision": spec.revision.to_string(),
            "DesiredStatus": if task.is_wanted() { "RUNNING" } else { "STOPPED" },
            "KnownStatus": task_status(task.status.last),
            "PullStartedAt": time(task.status.pull_started_at),
            "PullStoppedAt": time(task.status.pull_stopped_at),
            "ExecutionStoppedAt": time(task.status.execution_stopped_at),
            "AvailabilityZone": zone,
            "LaunchType": match spec.launch_type {
                LaunchType::Fargate => "FARGATE",
                LaunchType::Ec2 => "EC2",
            },
            "VPCID": spec.network.as_ref().map(|network| network.vpc.as_str()),
            "ServiceName": task.group.strip_prefix("service:"),
            "Containers": containers,
            "FaultInjectionEnabled": false,
        }));
        // In cores, as CPU units are in a definition.
        let cpu = task.cpu_units.map(|units| f64::from(units) / 1024.0);
        let limits = object(json!({ "CPU": cpu, "Memory": task.memory_mib }));
        if !limits.is_empty() {
            told.insert("Limits".to_owned(), limits.into());
        }
        if let Some(clock) = self.usage.clock() {
            told.insert("ClockDrift".to_owned(), clock_drift(clock, now_ms()));
        }
        if let Some(storage) = self.usage.storage(&spec.id) {
            told.insert("EphemeralStorageMetrics".to_owned(), ephemeral_storage(storage));
        }
        if with_tags && !task.tags.is_empty() {
            told.insert("TaskTags".to_owned(), json!(task.tags));
        }
        told.into()
    }

    pub(super) async fn describe_container(&self, task: &DescribedTask, index: usize) -> Value {
        let networks = match &task.spec.network {
            Some(network) => vec![self.describe_network(task, network).await],
            None => Vec::new(),
        };
        let DescribedTask { task, spec } = task;
        let Some(definition) = spec.shape.containers.get(index) else { return Value::Null };
        let status = task.status.containers.get(index);
        let id = &spec.container_ids[index];
        let task_arn = Arn::task(&spec.scope, &spec.cluster, &spec.id).to_string();
        let log = definition.log.as_ref().map(|log| {
            json!({ "awslogs-group": log.group, "awslogs-stream-prefix": log.stream_prefix, "awslogs-region": log.region })
        });
        let told = object(json!({
            "DockerId": docker_id(status),
            "Name": definition.name.as_str(),
            "DockerName": definition.name.as_str(),
            "Image": definition.image,
            "ImageID": status.and_then(|status| status.image_digest.as_ref()),
            "Labels": {
                "com.amazonaws.ecs.cluster": Arn::cluster(&spec.scope, &spec.cluster).to_string(),
                "com.amazonaws.ecs.container-name": definition.name.as_str(),
                "com.amazonaws.ecs.task-arn": task_arn,
                "com.amazonaws.ecs.task-definition-family": spec.family.as_str(),
                "com.amazonaws.ecs.task-definition-version": spec.revision.to_string(),
            },
            "DesiredStatus": if task.is_wanted() { "RUNNING" } else { "STOPPED" },
            "KnownStatus": status.map_or("PENDING", container_status),
            "ExitCode": status.and_then(|status| status.exit_code),
            "Limits": object(json!({ "CPU": definition.cpu_units, "Memory": definition.memory_mib })),
            "CreatedAt": time(status.and_then(|status| status.started_at)),
            "StartedAt": time(status.and_then(|status| status.started_at)),
            "FinishedAt": time(status.and_then(|status| status.finished_at)),
            "Type": "NORMAL",
            "Health": status.and_then(|status| health(status.health)),
            "LogDriver": log.as_ref().map(|_| "awslogs"),
            "LogOptions": log.map(object),
            "ContainerARN": Arn::container(&spec.scope, &spec.cluster, &spec.id, id).to_string(),
            "RestartCount": status.map(|status| status.restart_count).filter(|_| definition.restart_policy.is_some()),
            "Snapshotter": "overlayfs",
            "Networks": networks,
        }));
        told.into()
    }

    async fn describe_network(&self, task: &DescribedTask, network: &TaskNetwork) -> Value {
        let scope = &task.spec.scope;
        let subnet = self.control.subnet(scope, &network.subnet).await.ok().flatten();
        let block: Option<Cidr> = subnet.map(|subnet| subnet.block);
        let told = object(json!({
            "NetworkMode": "awsvpc",
            "IPv4Addresses": [network.address.to_string()],
            "IPv6Addresses": network.address_v6.map(|address| [address.to_string()]),
            "AttachmentIndex": 0,
            "MACAddress": network.mac.to_string(),
            "IPv4SubnetCIDRBlock": block.map(|block| block.to_string()),
            "IPv6SubnetCIDRBlock": network.address_v6.map(|address| subnet_block_of(address).to_string()),
            "DomainNameServers": [RESOLVER],
            "PrivateDNSName": private_dns_name(&scope.region, network.address),
            "SubnetGatewayIpv4Address": block.as_ref().and_then(gateway),
        }));
        told.into()
    }
}

/// The bound is the kernel's own, which grows from one correction of the clock to the next (adjtimex(2), `maxerror`), so
/// that the time at which it was read is the one that it refers to.
fn clock_drift(clock: ClockError, now_ms: i64) -> Value {
    json!({
        "ClockErrorBound": clock.bound_us as f64 / 1000.0,
        "ReferenceTimestamp": WireTimestamp::from_millis(now_ms).to_string(),
        "ClockSynchronizationStatus": if clock.is_synchronised { "SYNCHRONIZED" } else { "NOT_SYNCHRONIZED" },
    })
}

/// In MiB.
fn ephemeral_storage(storage: StorageUsage) -> Value {
    json!({ "Utilized": storage.used_bytes >> 20, "Reserved": storage.limit_bytes >> 20 })
}

/// The address of a subnet's router, which is its second one, as VPCs reserve it, and the subnet's size.
fn gateway(block: &Cidr) -> Option<String> {
    match block.first() {
        std::net::IpAddr::V4(first) => {
            let router = std::net::Ipv4Addr::from_bits(first.to_bits() + 1);
            Some(format!("{router}/{}", block.prefix()))
        }
        std::net::IpAddr::V6(_) => None,
    }
}

/// The runtime's id of a container; empty before it has one.
pub(super) fn docker_id(status: Option<&ContainerStatus>) -> String {
    status.and_then(|status| status.runtime_id.clone()).unwrap_or_default()
}

/// An object without what is not known.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(mut map) => {
            map.retain(|_, value| !value.is_null());
            map
        }
        _ => Map::new(),
    }
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| WireTimestamp::from_millis(at.as_millis()).to_string())
}

fn task_status(last: LastStatus) -> &'static str {
    match last {
        LastStatus::Provisioning | LastStatus::Pending => "PENDING",
        LastStatus::Running => "RUNNING",
        LastStatus::Stopping | LastStatus::Deprovisioning | LastStatus::Stopped => "STOPPED",
    }
}

fn container_status(status: &ContainerStatus) -> &'static str {
    match status.last {
        ContainerLast::Pending => "PENDING",
        ContainerLast::Running => "RUNNING",
        ContainerLast::Stopped => "STOPPED",
    }
}

fn health(health: Health) -> Option<Value> {
    match health {
        Health::Unknown => None,
        Health::Healthy => Some(json!({ "status": "HEALTHY" })),
        Health::Unhealthy => Some(json!({ "status": "UNHEALTHY" })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_disks_are_told_of_in_the_units_of_ecs() {
        let told = clock_drift(ClockError { bound_us: 1_500, is_synchronised: true }, 1_000);
        assert_eq!(
            told,
            json!({ "ClockErrorBound": 1.5, "ReferenceTimestamp": "1970-01-01T00:00:01Z", "ClockSynchronizationStatus": "SYNCHRONIZED" })
        );
        let told = clock_drift(ClockError { bound_us: 16_000_000, is_synchronised: false }, 0);
        assert_eq!(told["ClockSynchronizationStatus"], "NOT_SYNCHRONIZED");
        let told = ephemeral_storage(StorageUsage { used_bytes: 3 << 20, limit_bytes: 20 << 30 });
        assert_eq!(told, json!({ "Utilized": 3, "Reserved": 20_480 }));
    }
}
