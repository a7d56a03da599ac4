//! Filters of Describe operations: names that an operation documents, values with `*` and `?`.

use neargate_model::Tags;
use neargate_wire::ec2::{Ec2Error, Filter};

use super::error::{invalid, refuse};

/// Values of all filters of one request (API reference, "Filter").
const VALUES_MAX: usize = 200;

/// Characters of one value: far above those of anything that is compared with it.
const VALUE_CHARACTERS_MAX: usize = 1_024;

/// The filters of one request: what is found has to match all of them, each by one of its values.
pub(super) struct Filters(Vec<(String, Vec<String>)>);

impl Filters {
    /// Reads filters, refusing names that the operation does not have. `tag:KEY` and `tag-key` are everywhere.
    pub(super) fn read(filters: Option<Vec<Filter>>, names: &[&str]) -> Result<Self, Ec2Error> {
        let mut read = Vec::new();
        let mut count = 0;
        for filter in filters.unwrap_or_default() {
            let name = filter.name.unwrap_or_else(|| "null".to_owned());
            if !names.contains(&name.as_str()) && !name.starts_with("tag:") && name != "tag-key" {
                return Err(invalid(format!("The filter '{name:.64}' is invalid")));
            }
            let values = filter.values.unwrap_or_default();
            count += values.len();
            if count > VALUES_MAX {
                let message = "The maximum number of filter values specified on a single call is 200.";
                return Err(refuse("FilterLimitExceeded", message));
            }
            if values.iter().any(|value| value.chars().count() > VALUE_CHARACTERS_MAX) {
                return Err(invalid(format!("A value of the filter '{name:.64}' is too long")));
            }
            read.push((name, values));
        }
        Ok(Self(read))
    }

    /// Whether something with these tags and fields is wanted. `field` gives the values of a name other than those of
    /// tags.
    pub(super) fn matches(&self, tags: &Tags, field: impl Fn(&str) -> Vec<String>) -> bool {
        self.0.iter().all(|(name, wanted)| {
            let is_wanted = |value: &str| wanted.iter().any(|pattern| matches(pattern, value));
            match name.strip_prefix("tag:") {
                Some(key) => tags.get(key).is_some_and(|value| is_wanted(value)),
                None if name == "tag-key" => tags.keys().any(|key| is_wanted(key)),
                None => field(name).iter().any(|value| is_wanted(value)),
            }
        })
    }
}

/// Whether a value is a pattern's: `*` stands for any characters, `?` for one, and a backslash takes the next literally.
fn matches(pattern: &str, value: &str) -> bool {
    let pattern: Vec<Piece> = pieces(pattern);
    let value: Vec<char> = value.chars().collect();
    // Where to go on after the last star, should what follows it not fit.
    let (mut at, mut here, mut star) = (0, 0, None);
    while here < value.len() {
        match pattern.get(at) {
            Some(Piece::Any) => {
                star = Some((at, here));
                at += 1;
            }
            Some(Piece::One) => (at, here) = (at + 1, here + 1),
            Some(Piece::Literal(literal)) if *literal == value[here] => (at, here) = (at + 1, here + 1),
            _ => {
                let Some((star_at, tried)) = star else { return false };
                star = Some((star_at, tried + 1));
                (at, here) = (star_at + 1, tried + 1);
            }
        }
    }
    pattern[at..].iter().all(|piece| matches!(piece, Piece::Any))
}

enum Piece {
    Any,
    One,
    Literal(char),
}

fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        pieces.push(match character {
            '*' => Piece::Any,
            '?' => Piece::One,
            '\\' => Piece::Literal(characters.next().unwrap_or('\\')),
            other => Piece::Literal(other),
        });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, value: &str, expect: bool| {
            assert_eq!(matches(pattern, value), expect, "{pattern} {value}");
        };
        check("a", "a", true);
        check("a", "ab", false);
        check("a*", "a", true);
        check("*b*d", "abcbd", true);
        check("*b*d", "abcbde", false);
        check("?", "", false);
        check("?b", "äb", true);
        check("\\*", "*", true);
        check("\\*", "a", false);
        check("", "", true);
        check("**", "", true);
        // Many stars must not take long.
        check(&"a*".repeat(50), &"a".repeat(5_000), true);
        check(&format!("{}b", "*a".repeat(50)), &"a".repeat(5_000), false);
    }

    #[test]
    fn all_filters_have_to_match_by_one_value() {
        let filter = |name: &str, values: &[&str]| Filter {
            name: Some(name.to_owned()),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let tags = Tags::from([("env".to_owned(), "prod".to_owned())]);
        let check = |filters: Vec<Filter>, expect: bool| {
            let filters = Filters::read(Some(filters), &["state"]).unwrap();
            assert_eq!(filters.matches(&tags, |_| vec!["on".to_owned()]), expect);
        };
        check(vec![], true);
        check(vec![filter("state", &["off", "o?"])], true);
        check(vec![filter("state", &["on"]), filter("tag:env", &["dev"])], false);
        check(vec![filter("tag-key", &["e*"]), filter("tag:env", &["p*"])], true);
        check(vec![filter("state", &[])], false);
        assert!(Filters::read(Some(vec![filter("stat", &["x"])]), &["state"]).is_err());
        let many: Vec<String> = (0..201).map(|number| number.to_string()).collect();
        let many = Filter { name: Some("state".to_owned()), values: Some(many) };
        assert!(Filters::read(Some(vec![many]), &["state"]).is_err());
    }
}
