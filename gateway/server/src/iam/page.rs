//! Pages of lists: a marker is the name that the page before ended with.

use crate::page;

/// Items of a page where nobody says (API reference, `MaxItems`).
const ITEMS_DEFAULT: i32 = 100;

/// A page of a list.
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Where the next one begins, if there is one.
    pub(super) marker: Option<String>,
}

/// The page after a marker of a list that is sorted by the names of its items.
pub(super) fn cut<T>(
    items: Vec<T>,
    name: impl Fn(&T) -> &str,
    marker: Option<&str>,
    items_max: Option<i32>,
) -> Page<T> {
    let limit = usize::try_from(items_max.unwrap_or(ITEMS_DEFAULT).max(1)).unwrap_or(1);
    let (items, marker) = page::behind(items, |item| name(item).to_owned(), marker, limit);
    Page { items, marker }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_every_item_once() {
        let all: Vec<String> = (0..25).map(|n| format!("{n:02}")).collect();
        let (mut seen, mut marker) = (Vec::new(), None);
        loop {
            let page = cut(all.clone(), String::as_str, marker.as_deref(), Some(10));
            assert!(page.items.len() <= 10);
            seen.extend(page.items);
            marker = page.marker;
            if marker.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }
}
