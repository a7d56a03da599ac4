//! Pages: `MaxResults` and an opaque `NextToken`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use neargate_wire::ec2::Ec2Error;

use super::error::{invalid, refuse};

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
    let after = next_token.map(read).transpose()?;
    let is_after = |item: &T| after.as_ref().is_none_or(|after| name(item) > *after);
    let mut rest = items.into_iter().filter(is_after);
    let page: Vec<T> = rest.by_ref().take(limit).collect();
    let has_more = rest.next().is_some();
    let next = page.last().filter(|_| has_more).map(|item| URL_SAFE_NO_PAD.encode(name(item)));
    Ok((page, next))
}

/// Pages and lists of ids exclude each other.
pub(super) fn check_ids(ids: usize, parameter: &str, max_results: Option<i32>) -> Result<(), Ec2Error> {
    if ids > 0 && max_results.is_some() {
        let message = format!("The parameter {parameter} cannot be used with the parameter MaxResults");
        return Err(refuse("InvalidParameterCombination", message));
    }
    Ok(())
}

fn read(token: &str) -> Result<String, Ec2Error> {
    let read = || String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok();
    read().ok_or_else(|| invalid("The token is invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_every_item_once() {
        let items: Vec<u32> = (10..17).collect();
        let page = |token: Option<&str>| cut(items.clone(), u32::to_string, token, Some(3)).unwrap();
        let (first, token) = page(None);
        let (second, token) = page(token.as_deref());
        let (third, end) = page(token.as_deref());
        assert_eq!((first, second, third, end), (vec![10, 11, 12], vec![13, 14, 15], vec![16], None));
        assert!(cut(items.clone(), u32::to_string, Some("?"), None).is_err());
        assert!(cut(items, u32::to_string, None, Some(-1)).is_err());
    }
}
