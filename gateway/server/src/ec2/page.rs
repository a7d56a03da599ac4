//! Pages: `MaxResults` and an opaque `NextToken`.

use neargate_wire::ec2::Ec2Error;

use super::error::{invalid, refuse};
use crate::page::{self, BadToken};

/// The most that one page holds (API reference, MaxResults).
const PAGE_MAX: usize = 1_000;

/// Cuts a page out of a list that is sorted by `name`.
pub(super) fn cut<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> String,
    next_token: Option<&str>,
    max_results: Option<i32>,
) -> Result<(Vec<T>, Option<String>), Ec2Error> {
    let limit = match max_results.map(usize::try_from) {
        None => PAGE_MAX,
        Some(Ok(limit)) if limit >= 1 => limit.min(PAGE_MAX),
        Some(_) => return Err(invalid("MaxResults must be between 5 and 1000.")),
    };
    page::cut(items, name, next_token, limit).map_err(|BadToken| invalid("The token is invalid"))
}

/// Pages and lists of ids exclude each other.
pub(super) fn check_ids(ids: usize, parameter: &str, max_results: Option<i32>) -> Result<(), Ec2Error> {
    if ids > 0 && max_results.is_some() {
        let message = format!("The parameter {parameter} cannot be used with the parameter MaxResults");
        return Err(refuse("InvalidParameterCombination", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_a_size() {
        let items = || (0_u32..2_000).collect();
        let cut = |most: Option<i32>| cut(items(), u32::to_string, None, most);
        let size = |most| cut(most).unwrap().0.len();
        assert_eq!([size(None), size(Some(3)), size(Some(5_000))], [1_000, 3, 1_000]);
        assert!(cut(Some(0)).is_err() && cut(Some(-1)).is_err());
    }
}
