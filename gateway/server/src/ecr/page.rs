//! Pages: `maxResults` and an opaque `nextToken`.

use neargate_wire::ecr::EcrError;

use super::error::invalid;
use crate::page;

/// What a page holds unless a request says otherwise (ECR API reference, maxResults).
const PAGE_DEFAULT: usize = 100;

/// Cuts a page out of a list, which is sorted by name here.
pub(super) fn cut<T>(
    mut items: Vec<T>,
    name: impl Fn(&T) -> String,
    token: Option<&str>,
    limit: Option<i32>,
) -> Result<(Vec<T>, Option<String>), EcrError> {
    items.sort_by_cached_key(&name);
    // The model has checked that it is between 1 and 1000.
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(PAGE_DEFAULT);
    page::cut(items, name, token, limit).map_err(|_| invalid("Invalid parameter: nextToken is not valid."))
}
