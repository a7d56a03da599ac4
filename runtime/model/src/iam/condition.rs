//! Conditions of statements (IAM User Guide, "IAM JSON policy elements: Condition operators").

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::document::{MalformedDocument, refuse_variables};
use super::pattern::matches;
use crate::Cidr;

/// What is known of a request, by keys in lower case, such as `aws:sourceip`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context(BTreeMap<String, Vec<String>>);

/// A value as JSON has it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Text(String),
    Bool(bool),
    Number(serde_json::Number),
}

/// One operator on one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    key: String,
    test: Test,
    /// Whether it holds for what the test does not.
    is_negated: bool,
    /// Whether it holds where nothing is known of the key.
    if_exists: bool,
    quantifier: Quantifier,
}

/// Of which of several values of a key it must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    /// The key has one.
    Single,
    Any,
    All,
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    Text(Texts, Vec<String>),
    Number(Relation, Vec<f64>),
    /// In seconds since the Unix epoch.
    Date(Relation, Vec<f64>),
    Bool(Vec<bool>),
    Address(Vec<Cidr>),
    /// Whether nothing is known of the key.
    Absent(bool),
}

/// How texts are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Texts {
    Exactly,
    IgnoringCase,
    ByPattern,
}

/// How numbers and times are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Context {
    /// Adds what is known of a key.
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.entry(key.to_ascii_lowercase()).or_default().push(value.into());
        self
    }

    fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Bool(value) => value.to_string(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// The keys of which requests are known to have a value or none, in lower case.
const KEYS: [&str; 15] = [
    "aws:currenttime",
    "aws:epochtime",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principaltype",
    "aws:requestedregion",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:userid",
    "ecs:cluster",
    "iam:passedtoservice",
    "iam:policyarn",
    "sts:externalid",
];

impl Condition {
    pub(super) fn read(operator: &str, key: &str, values: Vec<Scalar>) -> Result<Self, MalformedDocument> {
        let texts: Vec<String> = values.into_iter().map(Scalar::into_text).collect();
        texts.iter().try_for_each(|text| refuse_variables(text))?;
        let (quantifier, name) = match operator.split_once(':') {
            Some(("ForAnyValue", name)) => (Quantifier::Any, name),
            Some(("ForAllValues", name)) => (Quantifier::All, name),
            _ => (Quantifier::Single, operator),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) if name != "Null" => (name, true),
            _ => (name, false),
        };
        let malformed = |why: String| MalformedDocument::Condition { why };
        // One that is never known would make an Allow wider, or a Deny void, than whoever writes it means.
        if !KEYS.contains(&key.to_ascii_lowercase().as_str()) {
            return Err(malformed(format!("the key {key:.64} is not known to Neargate")));
        }
        let read = test(name, &texts)
            .ok_or_else(|| malformed(format!("the operator {operator:.64} is not known to Neargate")))?;
        let (test, is_negated) =
            read.map_err(|value| malformed(format!("{operator:.64} cannot compare {value:.64}")))?;
        if texts.is_empty() || key.is_empty() {
            return Err(malformed(format!("{operator:.64} has nothing to compare")));
        }
        Ok(Self { key: key.to_ascii_lowercase(), test, is_negated, if_exists, quantifier })
    }

    pub(super) fn holds(&self, context: &Context) -> bool {
        let values = context.values(&self.key);
        if let Test::Absent(wanted) = self.test {
            return values.is_empty() == wanted;
        }
        let holds = |value: &String| self.test.matches(value) != self.is_negated;
        match (self.quantifier, values) {
            (Quantifier::All, values) => values.iter().all(holds),
            (Quantifier::Any, []) => self.if_exists,
            // What is not known is not equal to anything.
            (Quantifier::Single, []) => self.if_exists || self.is_negated,
            (Quantifier::Single | Quantifier::Any, values) => values.iter().any(holds),
        }
    }
}

/// The test of an operator and whether it is negated; what an operator cannot compare is the inner error.
fn test(name: &str, values: &[String]) -> Option<Result<(Test, bool), String>> {
    let texts = |how| Ok(Test::Text(how, values.to_vec()));
    if let Some(relation) = name.strip_prefix("Numeric") {
        let (relation, is_negated) = self::relation(relation)?;
        let numbers = read_all(values, |text| text.parse().ok());
        return Some(numbers.map(|numbers| (Test::Number(relation, numbers), is_negated)));
    }
    if let Some(relation) = name.strip_prefix("Date") {
        let (relation, is_negated) = self::relation(relation)?;
        return Some(read_all(values, time).map(|times| (Test::Date(relation, times), is_negated)));
    }
    let (test, is_negated) = match name {
        "StringEquals" => (texts(Texts::Exactly), false),
        "StringNotEquals" => (texts(Texts::Exactly), true),
        "StringEqualsIgnoreCase" => (texts(Texts::IgnoringCase), false),
        "StringNotEqualsIgnoreCase" => (texts(Texts::IgnoringCase), true),
        // ArnEquals and ArnLike are the same.
        "StringLike" | "ArnEquals" | "ArnLike" => (texts(Texts::ByPattern), false),
        "StringNotLike" | "ArnNotEquals" | "ArnNotLike" => (texts(Texts::ByPattern), true),
        "Bool" => (read_all(values, boolean).map(Test::Bool), false),
        "IpAddress" => (read_all(values, block).map(Test::Address), false),
        "NotIpAddress" => (read_all(values, block).map(Test::Address), true),
        "Null" => (read_all(values, boolean).map(|wanted| Test::Absent(wanted.contains(&true))), false),
        _ => return None,
    };
    Some(test.map(|test| (test, is_negated)))
}

fn relation(name: &str) -> Option<(Relation, bool)> {
    Some(match name {
        "Equals" => (Relation::Equal, false),
        "NotEquals" => (Relation::Equal, true),
        "LessThan" => (Relation::Less, false),
        "LessThanEquals" => (Relation::LessOrEqual, false),
        "GreaterThan" => (Relation::Greater, false),
        "GreaterThanEquals" => (Relation::GreaterOrEqual, false),
        _ => return None,
    })
}

fn read_all<T>(values: &[String], read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    values.iter().map(|value| read(value).ok_or_else(|| value.clone())).collect()
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A block, or an address alone. Host bits count for nothing.
fn block(text: &str) -> Option<Cidr> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address.parse().ok()?, Some(prefix.parse().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    Cidr::containing(address, prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 }))
}

/// Seconds since the Unix epoch of such a number, or of `2024-01-31` or `2024-01-31T12:30:00Z`.
fn time(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let (date, clock) = text.trim_end_matches('Z').split_once('T').unwrap_or((text, "0:0:0"));
    let numbers = |text: &str, by| text.split(by).map(|part| part.parse().ok()).collect::<Option<Vec<i64>>>();
    let [year, month @ 1..=12, day @ 1..=31] = numbers(date, '-')?[..] else { return None };
    let [hour @ 0..24, minute @ 0..60, second @ 0..=60] = numbers(clock, ':')?[..] else { return None };
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds as f64)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl Test {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Text(how, texts) => texts.iter().any(|text| how.matches(text, value)),
            Self::Number(relation, numbers) => value
                .parse()
                .is_ok_and(|value: f64| numbers.iter().any(|number| relation.holds(value, *number))),
            Self::Date(relation, times) => {
                time(value).is_some_and(|value| times.iter().any(|time| relation.holds(value, *time)))
            }
            Self::Bool(wanted) => boolean(value).is_some_and(|value| wanted.contains(&value)),
            Self::Address(blocks) => {
                value.parse().is_ok_and(|address| blocks.iter().any(|block| block.contains(address)))
            }
            Self::Absent(_) => false,
        }
    }
}

impl Texts {
    fn matches(self, wanted: &str, value: &str) -> bool {
        match self {
            Self::Exactly => wanted == value,
            // Without wildcards, which `StringEqualsIgnoreCase` does not know.
            Self::IgnoringCase => wanted.eq_ignore_ascii_case(value),
            Self::ByPattern => matches(wanted, value),
        }
    }
}

impl Relation {
    fn holds(self, value: f64, wanted: f64) -> bool {
        match self {
            Self::Equal => value == wanted,
            Self::Less => value < wanted,
            Self::LessOrEqual => value <= wanted,
            Self::Greater => value > wanted,
            Self::GreaterOrEqual => value >= wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read() {
        for (text, expect) in [
            ("0", Some(0.0)),
            ("1970-01-01", Some(0.0)),
            ("2024-02-29T12:00:01Z", Some(1_709_208_001.0)),
            ("2000-03-01T00:00:00Z", Some(951_868_800.0)),
            ("2024-13-01", None),
            ("yesterday", None),
        ] {
            assert_eq!(time(text), expect, "{text}");
        }
    }
}
