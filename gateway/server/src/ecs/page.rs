//! Pages: `maxResults` and an opaque `nextToken`.

use neargate_wire::ecs::EcsError;

use super::error::invalid_parameter;
use crate::page::{self, BadToken};

/// The most that one page holds (API reference: "up to 100 results").
pub(super) const PAGE_MAX: usize = 100;

/// How many results a page may hold.
pub(super) fn limit(max_results: Option<i32>) -> Result<usize, EcsError> {
    match max_results.map(usize::try_from) {
        None => Ok(PAGE_MAX),
        Some(Ok(limit)) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(invalid_parameter("MaxResults must be between 1 and 100.")),
    }
}

/// A token for what comes after this.
pub(super) fn token(last: &str) -> String {
    page::write(last)
}

/// What a token stands for.
pub(super) fn after(token: Option<&str>) -> Result<Option<String>, EcsError> {
    token.map(page::read).transpose().map_err(|BadToken| invalid_parameter("Invalid token"))
}

/// Cuts a page out of a whole list whose items are named by `name`, in the list's own order.
pub(super) fn cut<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> String,
    next_token: Option<&str>,
    max_results: Option<i32>,
) -> Result<(Vec<T>, Option<String>), EcsError> {
    let limit = limit(max_results)?;
    let after = after(next_token)?;
    let start = match &after {
        None => 0,
        Some(last) => {
            let at = items.iter().position(|item| name(item) == *last);
            at.ok_or_else(|| invalid_parameter("Invalid token"))? + 1
        }
    };
    let has_more = items.len() > start + limit;
    let page: Vec<T> = items.into_iter().skip(start).take(limit).collect();
    let next = page.last().filter(|_| has_more).map(|item| token(&name(item)));
    Ok((page, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_the_list_once() {
        let items: Vec<String> = (0..7).map(|i| format!("i{i}")).collect();
        let (mut seen, mut next) = (Vec::new(), None);
        loop {
            let (page, token) = cut(items.clone(), String::clone, next.as_deref(), Some(3)).unwrap();
            seen.extend(page);
            match token {
                Some(token) => next = Some(token),
                None => break,
            }
        }
        assert_eq!(seen, items);
    }

    #[test]
    fn bad_pages_are_refused() {
        let items = || vec!["a".to_owned()];
        assert!(cut(items(), String::clone, Some("%%%"), None).is_err());
        assert!(cut(items(), String::clone, Some(&token("b")), None).is_err());
        assert!(cut(items(), String::clone, None, Some(0)).is_err());
        assert!(cut(items(), String::clone, None, Some(101)).is_err());
    }
}
