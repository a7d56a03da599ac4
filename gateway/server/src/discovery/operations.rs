//! What was done. Everything is done when it is answered, so that there is no operation but of success.

use neargate_model::discovery::Operation;
use neargate_wire::servicediscovery::{
    FilterCondition, GetOperationRequest, GetOperationResponse, ListOperationsRequest,
    ListOperationsResponse, OperationFilter, OperationFilterName, OperationStatus, OperationSummary,
    ServiceDiscoveryError,
};

use super::error::{change, invalid, store};
use super::filter::{Compared, Filter};
use super::{DiscoveryApi, page, render};
use crate::RequestContext;

pub(super) async fn get(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: GetOperationRequest,
) -> Result<GetOperationResponse, ServiceDiscoveryError> {
    let found = api.control.discovery_operation(&cx.scope, &input.operation_id).await;
    let found = found.map_err(|error| change(&error))?;
    Ok(GetOperationResponse { operation: Some(render::operation(&cx.scope, &found)) })
}

pub(super) async fn list(
    api: &DiscoveryApi,
    cx: &RequestContext,
    input: ListOperationsRequest,
) -> Result<ListOperationsResponse, ServiceDiscoveryError> {
    let mut found = api.control.discovery_operations(&cx.scope).await.map_err(|error| store(&error))?;
    for filter in input.filters.iter().flatten() {
        keep(filter, &mut found)?;
    }
    let name = |operation: &Operation| operation.id.to_string();
    let (page, next_token) = page::cut(found, name, input.next_token.as_deref(), input.max_results)?;
    let summary = |operation: &Operation| OperationSummary {
        id: Some(operation.id.to_string()),
        status: Some(OperationStatus::Success),
    };
    Ok(ListOperationsResponse { operations: Some(page.iter().map(summary).collect()), next_token })
}

/// Keeps what passes a filter.
fn keep(filter: &OperationFilter, found: &mut Vec<Operation>) -> Result<(), ServiceDiscoveryError> {
    let name = &filter.name;
    if *name == OperationFilterName::UpdateDate {
        return keep_between(filter, found);
    }
    let filter = Filter { name: name.as_str(), condition: filter.condition.as_ref(), values: &filter.values };
    let compared = match name {
        OperationFilterName::Status | OperationFilterName::Type => {
            filter.compared(&[Compared::Equal, Compared::In])?
        }
        _ => filter.compared(&[Compared::Equal])?,
    };
    let passes = |value: Option<&str>| value.is_some_and(|value| filter.passes(compared, value));
    found.retain(|operation| match name {
        OperationFilterName::NamespaceId => passes(operation.namespace.as_ref().map(|id| id.as_str())),
        OperationFilterName::ServiceId => passes(operation.registry.as_ref().map(|id| id.as_str())),
        OperationFilterName::Status => passes(Some(OperationStatus::Success.as_str())),
        OperationFilterName::Type => passes(Some(render::operation_type(operation.kind).as_str())),
        OperationFilterName::UpdateDate | OperationFilterName::Unlisted(_) => false,
    });
    Ok(())
}

/// Keeps what was done between two times, in seconds since 1970.
fn keep_between(filter: &OperationFilter, found: &mut Vec<Operation>) -> Result<(), ServiceDiscoveryError> {
    let times: Vec<i64> = filter.values.iter().filter_map(|value| value.parse().ok()).collect();
    let ([first, last], Some(FilterCondition::Between)) = (&times[..], &filter.condition) else {
        return Err(invalid("The filter UPDATE_DATE has the condition BETWEEN and two values."));
    };
    found.retain(|operation| (*first..=*last).contains(&operation.at.as_millis().div_euclid(1000)));
    Ok(())
}
