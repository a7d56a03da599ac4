//! Instances.

use std::collections::BTreeMap;

use neargate_control::{DiscoverWanted, NewInstance};
use neargate_model::InstanceId;
use neargate_model::discovery::{HealthWanted, Instance, InstanceHealth};
use neargate_wire::servicediscovery::{
    self as wire, CustomHealthStatus, DeregisterInstanceRequest, DeregisterInstanceResponse,
    DiscoverInstancesRequest, DiscoverInstancesResponse, DiscoverInstancesRevisionRequest,
    DiscoverInstancesRevisionResponse, GetInstanceRequest, GetInstanceResponse,
    GetInstancesHealthStatusRequest, GetInstancesHealthStatusResponse, HealthStatusFilter,
    HttpInstanceSummary, InstanceSummary, ListInstancesRequest, ListInstancesResponse,
    RegisterInstanceRequest, RegisterInstanceResponse, ServiceDiscoveryError,
    UpdateInstanceCustomHealthStatusRequest,
};

use super::error::{change, discovery, invalid};
use super::{DiscoveryApi, ids, page, render};
use crate::RequestContext;

/// Instances that are told of where nobody says how many (API reference, DiscoverInstances).
const DISCOVERED: usize = 100;

pub(super) async fn register(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: RegisterInstanceRequest,
) -> Result<RegisterInstanceResponse, ServiceDiscoveryError> {
    let registry = ids::registry(&cx.scope, &input.service_id);
    let new = NewInstance {
        id: InstanceId::new(input.instance_id).map_err(|error| invalid(error.to_string()))?,
        creator_request: input.creator_request_id,
        attributes: input.attributes,
    };
    let registered = api.control.register_instance(&cx.scope, &registry, &new).await;
    let operation = registered.map_err(|error| change(&error))?;
    Ok(RegisterInstanceResponse { operation_id: Some(operation.to_string()) })
}

pub(super) async fn deregister(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: DeregisterInstanceRequest,
) -> Result<DeregisterInstanceResponse, ServiceDiscoveryError> {
    let registry = ids::registry(&cx.scope, &input.service_id);
    let removed = api.control.deregister_instance(&cx.scope, &registry, &input.instance_id).await;
    let operation = removed.map_err(|error| change(&error))?;
    Ok(DeregisterInstanceResponse { operation_id: Some(operation.to_string()) })
}

pub(super) async fn get(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: GetInstanceRequest,
) -> Result<GetInstanceResponse, ServiceDiscoveryError> {
    let registry = ids::registry(&cx.scope, &input.service_id);
    let found = api.control.instance(&cx.scope, &registry, &input.instance_id).await;
    let (_, found) = found.map_err(|error| change(&error))?;
    let instance = wire::Instance {
        id: found.id.to_string(),
        creator_request_id: found.creator_request,
        attributes: Some(found.attributes),
        created_by_account: Some(cx.scope.account.to_string()),
    };
    Ok(GetInstanceResponse { resource_owner: Some(cx.scope.account.to_string()), instance: Some(instance) })
}

pub(super) async fn list(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: ListInstancesRequest,
) -> Result<ListInstancesResponse, ServiceDiscoveryError> {
    let registry = ids::registry(&cx.scope, &input.service_id);
    let found = api.control.instances(&cx.scope, &registry).await.map_err(|error| change(&error))?;
    let (page, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    let summary = |instance: Instance| InstanceSummary {
        id: Some(instance.id.to_string()),
        attributes: Some(instance.attributes),
        created_by_account: Some(cx.scope.account.to_string()),
    };
    let resource_owner = Some(cx.scope.account.to_string());
    let instances = Some(page.into_iter().map(summary).collect());
    Ok(ListInstancesResponse { resource_owner, instances, next_token })
}

fn name(instance: &Instance) -> String {
    instance.id.to_string()
}

pub(super) async fn set_health(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: UpdateInstanceCustomHealthStatusRequest,
) -> Result<(), ServiceDiscoveryError> {
    let registry = ids::registry(&cx.scope, &input.service_id);
    let health = match input.status {
        CustomHealthStatus::Healthy => InstanceHealth::Healthy,
        CustomHealthStatus::Unhealthy => InstanceHealth::Unhealthy,
        CustomHealthStatus::Unlisted(other) => return Err(invalid(format!("No health status {other:.64}."))),
    };
    let set = api.control.set_instance_health(&cx.scope, &registry, &input.instance_id, health).await;
    set.map_err(|error| change(&error))
}

pub(super) async fn health(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: GetInstancesHealthStatusRequest,
) -> Result<GetInstancesHealthStatusResponse, ServiceDiscoveryError> {
    let registry = ids::registry(&cx.scope, &input.service_id);
    let mut found = api.control.instances(&cx.scope, &registry).await.map_err(|error| change(&error))?;
    if let Some(wanted) = &input.instances {
        let is_known = |id: &&String| found.iter().any(|instance| instance.id.as_str() == id.as_str());
        if let Some(id) = wanted.iter().find(|id| !is_known(id)) {
            let message = format!("Can't find the instance by id: {id:.64}.");
            return Err(ServiceDiscoveryError::InstanceNotFound { message });
        }
        found.retain(|instance| wanted.iter().any(|id| instance.id.as_str() == id));
    }
    let (page, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    let status: BTreeMap<_, _> =
        page.iter().map(|instance| (name(instance), render::health(instance.health))).collect();
    Ok(GetInstancesHealthStatusResponse { status: Some(status), next_token })
}

pub(super) async fn discover(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: DiscoverInstancesRequest,
) -> Result<DiscoverInstancesResponse, ServiceDiscoveryError> {
    let health = match input.health_status {
        Some(HealthStatusFilter::Healthy) => HealthWanted::Healthy,
        Some(HealthStatusFilter::Unhealthy) => HealthWanted::Unhealthy,
        Some(HealthStatusFilter::All) => HealthWanted::All,
        // What is told of where nobody says anything (API reference, DiscoverInstances).
        None | Some(HealthStatusFilter::HealthyOrElseAll) => HealthWanted::HealthyOrElseAll,
        Some(HealthStatusFilter::Unlisted(other)) => {
            return Err(invalid(format!("No health status {other:.64}.")));
        }
    };
    let wanted = DiscoverWanted {
        namespace: input.namespace_name,
        registry: input.service_name,
        health,
        attributes: input.query_parameters.unwrap_or_default(),
        preferred: input.optional_parameters.unwrap_or_default(),
        most: input.max_results.and_then(|most| usize::try_from(most).ok()).unwrap_or(DISCOVERED),
    };
    let found = api.control.discover_instances(&cx.scope, &wanted).map_err(|error| discovery(&error))?;
    let summary = |instance: Instance| HttpInstanceSummary {
        instance_id: Some(instance.id.to_string()),
        namespace_name: Some(wanted.namespace.clone()),
        service_name: Some(found.registry.name.clone()),
        health_status: Some(render::health(instance.health)),
        attributes: Some(instance.attributes),
    };
    Ok(DiscoverInstancesResponse {
        instances: Some(found.instances.into_iter().map(summary).collect()),
        instances_revision: i64::try_from(found.registry.revision).ok(),
    })
}

pub(super) async fn revision(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: DiscoverInstancesRevisionRequest,
) -> Result<DiscoverInstancesRevisionResponse, ServiceDiscoveryError> {
    let found = api.control.discovery_revision(&cx.scope, &input.namespace_name, &input.service_name);
    let revision = found.map_err(|error| discovery(&error))?;
    Ok(DiscoverInstancesRevisionResponse { instances_revision: i64::try_from(revision).ok() })
}
