//! Pages: `MaxResults` and an opaque `NextToken`.

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
    // The model has checked that it is between 1 and 100.
    let limit = max_results.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE_MAX);
    page::cut(items, name, next_token, limit).map_err(|BadToken| invalid("The NextToken is invalid."))
}
