//! Service discovery as Cloud Map shows it.

use neargate_model::discovery::{
    self, DnsRecord, InstanceHealth, Namespace, NamespaceKind, OperationKind, Registry, RegistryRecord,
    Routing, hosted_zone_id,
};
use neargate_model::{Scope, Timestamp};
use neargate_wire::Timestamp as WireTimestamp;
use neargate_wire::servicediscovery as wire;

use super::ids;

pub(super) fn time(at: Timestamp) -> WireTimestamp {
    WireTimestamp::from_millis(at.as_millis())
}

pub(super) fn namespace(scope: &Scope, namespace: &Namespace) -> wire::Namespace {
    let summary = namespace_summary(scope, namespace);
    wire::Namespace {
        id: summary.id,
        arn: summary.arn,
        resource_owner: summary.resource_owner,
        name: summary.name,
        r#type: summary.r#type,
        description: summary.description,
        service_count: summary.service_count,
        properties: summary.properties,
        create_date: summary.create_date,
        creator_request_id: namespace.creator_request.clone(),
    }
}

pub(super) fn namespace_summary(scope: &Scope, namespace: &Namespace) -> wire::NamespaceSummary {
    wire::NamespaceSummary {
        id: Some(namespace.id.to_string()),
        arn: Some(ids::arn(scope, "namespace", namespace.id.as_str())),
        resource_owner: Some(scope.account.to_string()),
        name: Some(namespace.name.clone()),
        r#type: Some(namespace_type(namespace)),
        description: namespace.description.clone(),
        service_count: i32::try_from(namespace.registries).ok(),
        properties: Some(properties(namespace)),
        create_date: Some(time(namespace.created_at)),
    }
}

pub(super) fn namespace_type(namespace: &Namespace) -> wire::NamespaceType {
    match namespace.kind {
        NamespaceKind::Http => wire::NamespaceType::Http,
        NamespaceKind::Private { .. } => wire::NamespaceType::DnsPrivate,
    }
}

fn properties(namespace: &Namespace) -> wire::NamespaceProperties {
    let dns_properties = namespace.zone().map(|(_, ttl_s)| wire::DnsProperties {
        hosted_zone_id: Some(hosted_zone_id(&namespace.id)),
        soa: Some(wire::SOA { ttl: ttl_s.into() }),
    });
    let http_properties = Some(wire::HttpProperties { http_name: Some(namespace.name.clone()) });
    wire::NamespaceProperties { dns_properties, http_properties }
}

pub(super) fn registry(scope: &Scope, registry: &Registry) -> wire::Service {
    let summary = registry_summary(scope, registry);
    wire::Service {
        id: summary.id,
        arn: summary.arn,
        resource_owner: summary.resource_owner,
        name: summary.name,
        namespace_id: Some(registry.namespace.to_string()),
        description: summary.description,
        instance_count: summary.instance_count,
        dns_config: summary.dns_config,
        r#type: summary.r#type,
        health_check_config: None,
        health_check_custom_config: summary.health_check_custom_config,
        create_date: summary.create_date,
        creator_request_id: registry.creator_request.clone(),
        created_by_account: summary.created_by_account,
    }
}

pub(super) fn registry_summary(scope: &Scope, registry: &Registry) -> wire::ServiceSummary {
    let dns_config = registry.dns.as_ref().map(|dns| wire::DnsConfig {
        namespace_id: Some(registry.namespace.to_string()),
        routing_policy: Some(match dns.routing {
            Routing::Multivalue => wire::RoutingPolicy::Multivalue,
            Routing::Weighted => wire::RoutingPolicy::Weighted,
        }),
        dns_records: dns.records.iter().map(record).collect(),
    });
    let kind = if registry.dns.is_some() { wire::ServiceType::DnsHttp } else { wire::ServiceType::Http };
    let custom = registry.has_custom_health;
    wire::ServiceSummary {
        id: Some(registry.id.to_string()),
        arn: Some(ids::arn(scope, "service", registry.id.as_str())),
        resource_owner: Some(scope.account.to_string()),
        name: Some(registry.name.clone()),
        r#type: Some(kind),
        description: registry.description.clone(),
        instance_count: i32::try_from(registry.instances).ok(),
        dns_config,
        health_check_config: None,
        // Always 1 (API reference, HealthCheckCustomConfig).
        health_check_custom_config: custom
            .then_some(wire::HealthCheckCustomConfig { failure_threshold: Some(1) }),
        create_date: Some(time(registry.created_at)),
        created_by_account: Some(scope.account.to_string()),
    }
}

fn record(record: &DnsRecord) -> wire::DnsRecord {
    let kind = match record.kind {
        RegistryRecord::A => wire::RecordType::A,
        RegistryRecord::Aaaa => wire::RecordType::Aaaa,
        RegistryRecord::Cname => wire::RecordType::Cname,
        RegistryRecord::Srv => wire::RecordType::Srv,
    };
    wire::DnsRecord { r#type: kind, ttl: record.ttl_s.into() }
}

pub(super) fn health(health: InstanceHealth) -> wire::HealthStatus {
    match health {
        InstanceHealth::Unknown => wire::HealthStatus::Unknown,
        InstanceHealth::Healthy => wire::HealthStatus::Healthy,
        InstanceHealth::Unhealthy => wire::HealthStatus::Unhealthy,
    }
}

pub(super) fn operation_type(kind: OperationKind) -> wire::OperationType {
    match kind {
        OperationKind::CreateNamespace => wire::OperationType::CreateNamespace,
        OperationKind::DeleteNamespace => wire::OperationType::DeleteNamespace,
        OperationKind::UpdateService => wire::OperationType::UpdateService,
        OperationKind::RegisterInstance => wire::OperationType::RegisterInstance,
        OperationKind::DeregisterInstance => wire::OperationType::DeregisterInstance,
    }
}

pub(super) fn operation(scope: &Scope, operation: &discovery::Operation) -> wire::Operation {
    let target = |kind: &str, id: Option<String>| id.map(|id| (kind.to_owned(), id));
    let targets = [
        target("NAMESPACE", operation.namespace.as_ref().map(ToString::to_string)),
        target("SERVICE", operation.registry.as_ref().map(ToString::to_string)),
        target("INSTANCE", operation.instance.as_ref().map(ToString::to_string)),
    ];
    wire::Operation {
        id: Some(operation.id.to_string()),
        owner_account: Some(scope.account.to_string()),
        r#type: Some(operation_type(operation.kind)),
        status: Some(wire::OperationStatus::Success),
        error_message: None,
        error_code: None,
        create_date: Some(time(operation.at)),
        update_date: Some(time(operation.at)),
        targets: Some(targets.into_iter().flatten().collect()),
    }
}
