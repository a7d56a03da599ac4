//! Services.

use neargate_control::{NewRegistry, RegistryChange};
use neargate_model::Scope;
use neargate_model::discovery::{DnsConfig, DnsRecord, Registry, RegistryRecord, Routing};
use neargate_wire::servicediscovery::{
    self as wire, CreateServiceRequest, CreateServiceResponse, DeleteServiceRequest, DeleteServiceResponse,
    GetServiceRequest, GetServiceResponse, ListServicesRequest, ListServicesResponse, RecordType,
    RoutingPolicy, ServiceDiscoveryError, ServiceFilter, ServiceFilterName, UpdateServiceRequest,
    UpdateServiceResponse,
};

use super::error::{change, invalid, store};
use super::filter::{Compared, Filter};
use super::{DiscoveryApi, ids, namespaces, page, render, tags};
use crate::RequestContext;

pub(super) async fn create(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: CreateServiceRequest,
) -> Result<CreateServiceResponse, ServiceDiscoveryError> {
    if input.health_check_config.is_some() {
        return Err(invalid("HealthCheckConfig is not supported: nothing here does what Route 53 would."));
    }
    let in_dns = input.dns_config.as_ref().and_then(|dns| dns.namespace_id.clone());
    let namespace = input.namespace_id.or(in_dns).ok_or_else(|| invalid("NamespaceId is required."))?;
    let new = NewRegistry {
        namespace: ids::namespace(&cx.scope, &namespace),
        name: input.name,
        description: input.description,
        creator_request: input.creator_request_id,
        dns: input.dns_config.map(dns).transpose()?,
        only_http: input.r#type.is_some(),
        has_custom_health: input.health_check_custom_config.is_some(),
        tags: tags::to_model(input.tags)?,
    };
    let made = api.control.create_registry(&cx.scope, &new).await.map_err(|error| change(&error))?;
    Ok(CreateServiceResponse { service: Some(render::registry(&cx.scope, &made)) })
}

fn dns(dns: wire::DnsConfig) -> Result<DnsConfig, ServiceDiscoveryError> {
    let routing = match dns.routing_policy {
        None | Some(RoutingPolicy::Multivalue) => Routing::Multivalue,
        Some(RoutingPolicy::Weighted) => Routing::Weighted,
        Some(RoutingPolicy::Unlisted(other)) => {
            return Err(invalid(format!("No routing policy {other:.64}.")));
        }
    };
    Ok(DnsConfig { routing, records: records(dns.dns_records)? })
}

fn records(records: Vec<wire::DnsRecord>) -> Result<Vec<DnsRecord>, ServiceDiscoveryError> {
    let record = |record: wire::DnsRecord| {
        let kind = match record.r#type {
            RecordType::A => RegistryRecord::A,
            RecordType::Aaaa => RegistryRecord::Aaaa,
            RecordType::Cname => RegistryRecord::Cname,
            RecordType::Srv => RegistryRecord::Srv,
            RecordType::Unlisted(other) => return Err(invalid(format!("No record type {other:.64}."))),
        };
        let ttl_s = u32::try_from(record.ttl).map_err(|_| invalid("A TTL is a number of seconds."))?;
        Ok(DnsRecord { kind, ttl_s })
    };
    records.into_iter().map(record).collect()
}

pub(super) async fn get(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: GetServiceRequest,
) -> Result<GetServiceResponse, ServiceDiscoveryError> {
    let id = ids::registry(&cx.scope, &input.id);
    let found = api.control.registry(&cx.scope, &id).await.map_err(|error| change(&error))?;
    Ok(GetServiceResponse { service: Some(render::registry(&cx.scope, &found)) })
}

pub(super) async fn update(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: UpdateServiceRequest,
) -> Result<UpdateServiceResponse, ServiceDiscoveryError> {
    if input.service.health_check_config.is_some() {
        return Err(invalid("HealthCheckConfig is not supported: nothing here does what Route 53 would."));
    }
    let id = ids::registry(&cx.scope, &input.id);
    let wanted = input.service.dns_config.map(|dns| records(dns.dns_records)).transpose()?;
    let changes = RegistryChange { description: input.service.description, records: wanted };
    let updated = api.control.update_registry(&cx.scope, &id, &changes).await;
    let operation = updated.map_err(|error| change(&error))?;
    Ok(UpdateServiceResponse { operation_id: Some(operation.to_string()) })
}

pub(super) async fn list(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: ListServicesRequest,
) -> Result<ListServicesResponse, ServiceDiscoveryError> {
    let mut found = api.control.registries(&cx.scope).await.map_err(|error| store(&error))?;
    for filter in input.filters.iter().flatten() {
        keep(&cx.scope, filter, &mut found)?;
    }
    let name = |registry: &Registry| registry.id.to_string();
    let (page, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    let services = page.iter().map(|one| render::registry_summary(&cx.scope, one)).collect();
    Ok(ListServicesResponse { services: Some(services), next_token })
}

/// Keeps what passes a filter.
fn keep(
    scope: &Scope,
    filter: &ServiceFilter,
    found: &mut Vec<Registry>,
) -> Result<(), ServiceDiscoveryError> {
    let name = &filter.name;
    let values: Vec<String> = filter.values.iter().map(|value| ids::namespace(scope, value)).collect();
    let filter = Filter { name: name.as_str(), condition: filter.condition.as_ref(), values: &values };
    let compared = filter.compared(&[Compared::Equal])?;
    found.retain(|registry| match name {
        ServiceFilterName::NamespaceId => filter.passes(compared, registry.namespace.as_str()),
        ServiceFilterName::ResourceOwner => namespaces::is_own(scope, &filter),
        ServiceFilterName::Unlisted(_) => false,
    });
    Ok(())
}

pub(super) async fn delete(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: DeleteServiceRequest,
) -> Result<DeleteServiceResponse, ServiceDiscoveryError> {
    let id = ids::registry(&cx.scope, &input.id);
    api.control.delete_registry(&cx.scope, &id).await.map_err(|error| change(&error))?;
    Ok(DeleteServiceResponse {})
}
