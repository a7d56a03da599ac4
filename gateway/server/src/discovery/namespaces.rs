//! Namespaces.

use neargate_control::NewNamespace;
use neargate_model::discovery::{Invalid, Namespace, NamespaceKind};
use neargate_model::{Scope, VpcId};
use neargate_wire::servicediscovery::{
    CreateHttpNamespaceRequest, CreateHttpNamespaceResponse, CreatePrivateDnsNamespaceRequest,
    CreatePrivateDnsNamespaceResponse, DeleteNamespaceRequest, DeleteNamespaceResponse, GetNamespaceRequest,
    GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse, NamespaceFilter,
    NamespaceFilterName, ServiceDiscoveryError,
};

use super::error::{change, store};
use super::filter::{Compared, Filter};
use super::{DiscoveryApi, ids, page, render, tags};
use crate::RequestContext;

/// For how many seconds it may be kept that a name is not there, where a namespace does not say (Cloud Map's default).
const MISSING_TTL_S: u32 = 15;

pub(super) async fn create_http(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: CreateHttpNamespaceRequest,
) -> Result<CreateHttpNamespaceResponse, ServiceDiscoveryError> {
    let new = NewNamespace {
        name: input.name,
        kind: NamespaceKind::Http,
        description: input.description,
        creator_request: input.creator_request_id,
        tags: tags::to_model(input.tags)?,
    };
    let operation = api.control.create_namespace(&cx.scope, &new).await.map_err(|error| change(&error))?;
    Ok(CreateHttpNamespaceResponse { operation_id: Some(operation.to_string()) })
}

pub(super) async fn create_private(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: CreatePrivateDnsNamespaceRequest,
) -> Result<CreatePrivateDnsNamespaceResponse, ServiceDiscoveryError> {
    let unknown = |_| change(&Invalid::VpcNotFound { id: input.vpc.clone() }.into());
    let vpc = VpcId::new(input.vpc.clone()).map_err(unknown)?;
    let ttl = input.properties.map(|properties| properties.dns_properties.soa.ttl);
    // The model has checked that it is a number of seconds.
    let missing_ttl_s = ttl.and_then(|ttl| u32::try_from(ttl).ok()).unwrap_or(MISSING_TTL_S);
    let new = NewNamespace {
        name: input.name,
        kind: NamespaceKind::Private { vpc, missing_ttl_s },
        description: input.description,
        creator_request: input.creator_request_id,
        tags: tags::to_model(input.tags)?,
    };
    let operation = api.control.create_namespace(&cx.scope, &new).await.map_err(|error| change(&error))?;
    Ok(CreatePrivateDnsNamespaceResponse { operation_id: Some(operation.to_string()) })
}

pub(super) async fn get(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: GetNamespaceRequest,
) -> Result<GetNamespaceResponse, ServiceDiscoveryError> {
    let id = ids::namespace(&cx.scope, &input.id);
    let found = api.control.namespace(&cx.scope, &id).await.map_err(|error| change(&error))?;
    Ok(GetNamespaceResponse { namespace: Some(render::namespace(&cx.scope, &found)) })
}

pub(super) async fn list(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: ListNamespacesRequest,
) -> Result<ListNamespacesResponse, ServiceDiscoveryError> {
    let mut found = api.control.namespaces(&cx.scope).await.map_err(|error| store(&error))?;
    for filter in input.filters.iter().flatten() {
        keep(&cx.scope, filter, &mut found)?;
    }
    let name = |namespace: &Namespace| namespace.id.to_string();
    let (page, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    let namespaces = page.iter().map(|one| render::namespace_summary(&cx.scope, one)).collect();
    Ok(ListNamespacesResponse { namespaces: Some(namespaces), next_token })
}

/// Keeps what passes a filter.
fn keep(
    scope: &Scope,
    filter: &NamespaceFilter,
    found: &mut Vec<Namespace>,
) -> Result<(), ServiceDiscoveryError> {
    let name = &filter.name;
    let filter = Filter { name: name.as_str(), condition: filter.condition.as_ref(), values: &filter.values };
    let compared = match name {
        NamespaceFilterName::ResourceOwner => filter.compared(&[Compared::Equal])?,
        _ => filter.compared(&[Compared::Equal, Compared::BeginsWith])?,
    };
    found.retain(|namespace| match name {
        NamespaceFilterName::Type => filter.passes(compared, render::namespace_type(namespace).as_str()),
        NamespaceFilterName::Name | NamespaceFilterName::HttpName => filter.passes(compared, &namespace.name),
        NamespaceFilterName::ResourceOwner => is_own(scope, &filter),
        NamespaceFilterName::Unlisted(_) => false,
    });
    Ok(())
}

/// Whether the caller's own are asked for: there are no others.
pub(super) fn is_own(scope: &Scope, filter: &Filter<'_>) -> bool {
    filter.passes(Compared::Equal, "SELF") || filter.passes(Compared::Equal, scope.account.as_str())
}

pub(super) async fn delete(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: DeleteNamespaceRequest,
) -> Result<DeleteNamespaceResponse, ServiceDiscoveryError> {
    let id = ids::namespace(&cx.scope, &input.id);
    let operation = api.control.delete_namespace(&cx.scope, &id).await.map_err(|error| change(&error))?;
    Ok(DeleteNamespaceResponse { operation_id: Some(operation.to_string()) })
}
