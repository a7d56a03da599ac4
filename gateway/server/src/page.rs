//! Pages of lists that are sorted by a name: a token tells the last name that was seen.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A token that is none of ours.
#[derive(Debug)]
pub(crate) struct BadToken;

/// At most `limit` items after those that the token stands for, and a token for what comes after them.
pub(crate) fn cut<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> String,
    token: Option<&str>,
    limit: usize,
) -> Result<(Vec<T>, Option<String>), BadToken> {
    let after = token.map(read).transpose()?;
    let (page, next) = behind(items, name, after.as_deref(), limit);
    Ok((page, next.map(|last| write(&last))))
}

/// The same with names in the place of tokens.
pub(crate) fn behind<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> String,
    after: Option<&str>,
    limit: usize,
) -> (Vec<T>, Option<String>) {
    let is_after = |item: &T| after.is_none_or(|after| *name(item) > *after);
    let mut rest = items.into_iter().filter(is_after);
    let page: Vec<T> = rest.by_ref().take(limit).collect();
    let has_more = rest.next().is_some();
    let next = page.last().filter(|_| has_more).map(name);
    (page, next)
}

/// A token for what comes after this name.
pub(crate) fn write(last: &str) -> String {
    URL_SAFE_NO_PAD.encode(last)
}

/// The name that a token stands for.
pub(crate) fn read(token: &str) -> Result<String, BadToken> {
    let read = || String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok();
    read().ok_or(BadToken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_every_item_once() {
        let items: Vec<u32> = (10..17).collect();
        let page = |token: Option<&str>| cut(items.clone(), u32::to_string, token, 3).unwrap();
        let (first, token) = page(None);
        let (second, token) = page(token.as_deref());
        let (third, end) = page(token.as_deref());
        assert_eq!((first, second, third, end), (vec![10, 11, 12], vec![13, 14, 15], vec![16], None));
        assert!(cut(items, u32::to_string, Some("?"), 3).is_err());
    }
}
