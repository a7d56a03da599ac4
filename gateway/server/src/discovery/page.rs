//! Pages: `MaxResults` and an opaque `NextToken`.

use neargate_model::OperationId;
use neargate_wire::servicediscovery::ServiceDiscoveryError;

use super::error::invalid;
use crate::page::{self, BadToken};

/// The most that one page holds (API reference, MaxResults).
const PAGE_MAX: usize = 100;

/// Cuts a page out of a list that is sorted by `name`.
pub(super) fn cut<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> String,
    next_token: Option<&str>,
    max_results: Option<i32>,
) -> Result<(Vec<T>, Option<String>), ServiceDiscoveryError> {
    page::cut(items, name, next_token, limit(max_results)).map_err(bad_token)
}

/// How many items a page has.
pub(super) fn limit(max_results: Option<i32>) -> usize {
    // The model has checked that it is between 1 and 100.
    max_results.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE_MAX)
}

/// The operation behind which a page begins.
pub(super) fn after(next_token: Option<&str>) -> Result<Option<OperationId>, ServiceDiscoveryError> {
    let read = |token| OperationId::new(page::read(token)?).map_err(|_| BadToken);
    next_token.map(read).transpose().map_err(bad_token)
}

/// A token for what comes behind this name.
pub(super) fn token(last: &str) -> String {
    page::write(last)
}

fn bad_token(_: BadToken) -> ServiceDiscoveryError {
    invalid("The NextToken is invalid.")
}
