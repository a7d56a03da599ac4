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
    let filters: Vec<Wanted<'_>> =
        input.filters.iter().flatten().map(Wanted::read).collect::<Result<_, ServiceDiscoveryError>>()?;
    let passes = |operation: &Operation| filters.iter().all(|filter| filter.passes(operation));
    let (after, most) = (page::after(input.next_token.as_deref())?, page::limit(input.max_results));
    let found = api.control.discovery_operations(&cx.scope, after.as_ref(), most, passes).await;
    let (page, has_more) = found.map_err(|error| store(&error))?;
    let next_token = page.last().filter(|_| has_more).map(|last| page::token(last.id.as_str()));
    let summary = |operation: &Operation| OperationSummary {
        id: Some(operation.id.to_string()),
        status: Some(OperationStatus::Success),
    };
    Ok(ListOperationsResponse { operations: Some(page.iter().map(summary).collect()), next_token })
}

/// A filter that was found to make sense.
enum Wanted<'a> {
    /// One of these values, of what the name says.
    Value { name: &'a OperationFilterName, filter: Filter<'a>, compared: Compared },
    /// Done between two times, in seconds since 1970.
    Between { first: i64, last: i64 },
}

impl<'a> Wanted<'a> {
    fn read(filter: &'a OperationFilter) -> Result<Self, ServiceDiscoveryError> {
        let name = &filter.name;
        if *name == OperationFilterName::UpdateDate {
            let times: Vec<i64> = filter.values.iter().filter_map(|value| value.parse().ok()).collect();
            let ([first, last], Some(FilterCondition::Between)) = (&times[..], &filter.condition) else {
                return Err(invalid("The filter UPDATE_DATE has the condition BETWEEN and two values."));
            };
            return Ok(Self::Between { first: *first, last: *last });
        }
        let filter =
            Filter { name: name.as_str(), condition: filter.condition.as_ref(), values: &filter.values };
        let compared = match name {
            OperationFilterName::Status | OperationFilterName::Type => {
                filter.compared(&[Compared::Equal, Compared::In])?
            }
            _ => filter.compared(&[Compared::Equal])?,
        };
        Ok(Self::Value { name, filter, compared })
    }

    fn passes(&self, operation: &Operation) -> bool {
        let (name, filter, compared) = match self {
            Self::Between { first, last } => {
                return (*first..=*last).contains(&operation.at.as_millis().div_euclid(1000));
            }
            Self::Value { name, filter, compared } => (*name, filter, *compared),
        };
        let passes = |value: Option<&str>| value.is_some_and(|value| filter.passes(compared, value));
        match name {
            OperationFilterName::NamespaceId => passes(operation.namespace.as_ref().map(|id| id.as_str())),
            OperationFilterName::ServiceId => passes(operation.registry.as_ref().map(|id| id.as_str())),
            OperationFilterName::Status => passes(Some(OperationStatus::Success.as_str())),
            OperationFilterName::Type => passes(Some(render::operation_type(operation.kind).as_str())),
            OperationFilterName::UpdateDate | OperationFilterName::Unlisted(_) => false,
        }
    }
}
