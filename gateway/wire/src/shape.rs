//! What every value of a model can do, whatever the protocol: be decoded, encoded and checked.
//!
//! ```text
//! JSON text ─► serde_json::Value ─┐                          ┌─► json::Writer
//!                                 ├─► Source ─► T ─► Sink ───┤
//! form body ─► query::Node ───────┘                          └─► xml::Writer
//! ```
//!
//! Generated types get their [`Shape`] from [`structure!`](crate::structure) and [`string_enum!`](crate::string_enum),
//! so that generated code is only tables. One implementation serves all protocols, and a missing member is reported
//! with its full path, which derived deserialisers cannot do.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;
use thiserror::Error;

use crate::source::Source;
use crate::value::{Blob, TimeFormat, Timestamp};
use crate::violation::{Constraint, Violations};

/// A value of a model's shape.
pub trait Shape: Sized {
    /// Reads the value, noting absent required members in `at`.
    fn decode(source: Source<'_>, traits: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError>;
    /// Writes the value.
    fn encode(&self, traits: &'static Traits, out: &mut dyn Sink);
    /// Notes in `at` every constraint that the value or a value inside it breaks.
    fn check(&self, traits: &'static Traits, at: &mut Violations);

    /// Checks a whole input.
    fn validate(&self, violations: &mut Violations) {
        self.check(&PLAIN, violations);
    }
}

/// A value has another type than the model's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("expected {expected} at '{path}', found {found}")]
pub struct DecodeError {
    /// Where, as in [`Violation::path`](crate::Violation::path).
    pub path: String,
    /// What the model wants.
    pub expected: &'static str,
    /// What the request has.
    pub found: &'static str,
}

/// What a model says of a shape or of a member beyond its type.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Least length (characters, bytes, items) or value.
    pub min: Option<i64>,
    /// Greatest length or value.
    pub max: Option<i64>,
    /// What the whole text must match.
    pub pattern: Option<&'static Pattern>,
    /// The value must not appear in error texts.
    pub sensitive: bool,
    /// Items follow the member's name without a wrapper (query protocol).
    pub flattened: bool,
    /// Name of a list's item in the query protocol.
    pub item_name: &'static str,
    /// Name of a map entry's key in the query protocol.
    pub key_name: &'static str,
    /// Name of a map entry's value in the query protocol.
    pub value_name: &'static str,
    /// Traits of a map's keys.
    pub key: Option<&'static Traits>,
    /// Traits of a list's items or a map's values.
    pub item: Option<&'static Traits>,
    /// The timestamp format, where it is not the protocol's own.
    pub time: Option<TimeFormat>,
}

/// A shape about which the model says nothing.
pub static PLAIN: Traits = Traits::new();

impl Traits {
    /// Nothing but the protocols' defaults.
    pub const fn new() -> Self {
        Self {
            min: None,
            max: None,
            pattern: None,
            sensitive: false,
            flattened: false,
            item_name: "member",
            key_name: "key",
            value_name: "value",
            key: None,
            item: None,
            time: None,
        }
    }

    fn item(&self) -> &'static Traits {
        self.item.unwrap_or(&PLAIN)
    }

    fn check_length(&self, length: usize, value: Option<&str>, at: &mut Violations) {
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let value = if self.sensitive { None } else { value };
        match (self.min, self.max) {
            (Some(min), _) if length < min => at.report(Constraint::LengthMin(min), value),
            (_, Some(max)) if length > max => at.report(Constraint::LengthMax(max), value),
            _ => {}
        }
    }

    fn check_value(&self, number: f64, text: &str, at: &mut Violations) {
        let value = if self.sensitive { None } else { Some(text) };
        match (self.min, self.max) {
            // NaN is in no range.
            (Some(min), _) if number.is_nan() || number < min as f64 => {
                at.report(Constraint::ValueMin(min), value)
            }
            (_, Some(max)) if number.is_nan() || number > max as f64 => {
                at.report(Constraint::ValueMax(max), value)
            }
            _ => {}
        }
    }

    fn check_text(&self, text: &str, at: &mut Violations) {
        if self.min.is_some() || self.max.is_some() {
            self.check_length(text.chars().count(), Some(text), at);
        }
        if let Some(pattern) = self.pattern.filter(|pattern| !pattern.matches(text)) {
            at.report(Constraint::Pattern(pattern.model), (!self.sensitive).then_some(text));
        }
    }
}

impl Default for Traits {
    fn default() -> Self {
        Self::new()
    }
}

/// A regular expression of a model; it must match the whole text, as AWS's servers have it.
#[derive(Debug)]
pub struct Pattern {
    model: &'static str,
    rust: &'static str,
    compiled: OnceLock<Regex>,
}

impl Pattern {
    /// A pattern as the model spells it, and the same in the syntax of the `regex` crate.
    pub const fn new(model: &'static str, rust: &'static str) -> Self {
        Self { model, rust, compiled: OnceLock::new() }
    }

    fn matches(&self, text: &str) -> bool {
        let compile = || Regex::new(self.rust).expect("the generator has compiled this pattern");
        self.compiled.get_or_init(compile).is_match(text)
    }
}

/// Where values go: a writer of one protocol.
///
/// Calls nest: `begin_structure (member value)* end_structure`, `begin_list (item value)* end_list`,
/// `begin_map (entry value end_entry)* end_map`.
pub trait Sink {
    /// Opens a structure.
    fn begin_structure(&mut self);
    /// Names the member whose value follows.
    fn member(&mut self, name: &'static str);
    /// Closes a structure.
    fn end_structure(&mut self);
    /// Opens a list.
    fn begin_list(&mut self, traits: &'static Traits);
    /// Announces the next item.
    fn item(&mut self);
    /// Closes a list.
    fn end_list(&mut self);
    /// Opens a map.
    fn begin_map(&mut self, traits: &'static Traits);
    /// Writes a key, and announces its value.
    fn entry(&mut self, key: &str, traits: &'static Traits);
    /// Follows each value of a map.
    fn end_entry(&mut self);
    /// Closes a map.
    fn end_map(&mut self);
    /// Writes a string.
    fn text(&mut self, text: &str);
    /// Writes a boolean or a finite number, given as text.
    fn literal(&mut self, literal: &str);
    /// Writes a timestamp, in the protocol's own format unless another is given.
    fn timestamp(&mut self, timestamp: Timestamp, format: Option<TimeFormat>);
    /// Writes free-form JSON.
    fn document(&mut self, document: &Value);
}

impl Shape for String {
    fn decode(source: Source<'_>, _: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        source.text(at)
    }

    fn encode(&self, _: &'static Traits, out: &mut dyn Sink) {
        out.text(self);
    }

    fn check(&self, traits: &'static Traits, at: &mut Violations) {
        traits.check_text(self, at);
    }
}

impl Shape for bool {
    fn decode(source: Source<'_>, _: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        source.number("a boolean", at, Value::as_bool, |text| text.parse().ok())
    }

    fn encode(&self, _: &'static Traits, out: &mut dyn Sink) {
        out.literal(if *self { "true" } else { "false" });
    }

    fn check(&self, _: &'static Traits, _: &mut Violations) {}
}

macro_rules! integer {
    ($type:ty, $expected:literal) => {
        impl Shape for $type {
            fn decode(
                source: Source<'_>,
                _: &'static Traits,
                at: &mut Violations,
            ) -> Result<Self, DecodeError> {
                let json = |value: &Value| value.as_i64().and_then(|number| number.try_into().ok());
                source.number($expected, at, json, |text| text.parse().ok())
            }

            fn encode(&self, _: &'static Traits, out: &mut dyn Sink) {
                out.literal(&self.to_string());
            }

            fn check(&self, traits: &'static Traits, at: &mut Violations) {
                traits.check_value(*self as f64, &self.to_string(), at);
            }
        }
    };
}
integer!(i32, "a 32-bit integer");
integer!(i64, "a 64-bit integer");

macro_rules! float {
    ($type:ty) => {
        impl Shape for $type {
            fn decode(
                source: Source<'_>,
                _: &'static Traits,
                at: &mut Violations,
            ) -> Result<Self, DecodeError> {
                let named = |text: &str| match text {
                    "NaN" => Some(<$type>::NAN),
                    "Infinity" => Some(<$type>::INFINITY),
                    "-Infinity" => Some(<$type>::NEG_INFINITY),
                    _ => None,
                };
                let json = |value: &Value| match value {
                    Value::String(text) => named(text),
                    number => number.as_f64().map(|number| number as $type),
                };
                let finite = |text: &str| text.parse().ok().filter(|number: &$type| number.is_finite());
                source.number("a number", at, json, |text| named(text).or_else(|| finite(text)))
            }

            fn encode(&self, _: &'static Traits, out: &mut dyn Sink) {
                match self {
                    number if number.is_nan() => out.text("NaN"),
                    number if number.is_finite() => out.literal(&format!("{number:?}")),
                    number if *number > 0.0 => out.text("Infinity"),
                    _ => out.text("-Infinity"),
                }
            }

            fn check(&self, traits: &'static Traits, at: &mut Violations) {
                traits.check_value(f64::from(*self), &self.to_string(), at);
            }
        }
    };
}
float!(f32);
float!(f64);

impl Shape for Timestamp {
    fn decode(source: Source<'_>, traits: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        let json = |value: &Value| match traits.time {
            None | Some(TimeFormat::EpochSeconds) => value.as_f64().and_then(Self::from_seconds),
            Some(format) => value.as_str().and_then(|text| Self::parse(text, format)),
        };
        let format = traits.time.unwrap_or(TimeFormat::Iso8601);
        source.number("a timestamp", at, json, |text| Self::parse(text, format))
    }

    fn encode(&self, traits: &'static Traits, out: &mut dyn Sink) {
        out.timestamp(*self, traits.time);
    }

    fn check(&self, _: &'static Traits, _: &mut Violations) {}
}

impl Shape for Blob {
    fn decode(source: Source<'_>, _: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        let json = |value: &Value| value.as_str().and_then(Self::from_base64);
        source.number("base64", at, json, Self::from_base64)
    }

    fn encode(&self, _: &'static Traits, out: &mut dyn Sink) {
        out.text(&self.to_base64());
    }

    fn check(&self, traits: &'static Traits, at: &mut Violations) {
        traits.check_length(self.0.len(), None, at);
    }
}

impl Shape for Value {
    fn decode(source: Source<'_>, _: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        match source {
            Source::Json(document) => Ok(document),
            other => Err(other.error("a document", at)),
        }
    }

    fn encode(&self, _: &'static Traits, out: &mut dyn Sink) {
        out.document(self);
    }

    fn check(&self, _: &'static Traits, _: &mut Violations) {}
}

impl<T: Shape> Shape for Box<T> {
    fn decode(source: Source<'_>, traits: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        T::decode(source, traits, at).map(Box::new)
    }

    fn encode(&self, traits: &'static Traits, out: &mut dyn Sink) {
        (**self).encode(traits, out);
    }

    fn check(&self, traits: &'static Traits, at: &mut Violations) {
        (**self).check(traits, at);
    }
}

impl<T: Shape + Default> Shape for Vec<T> {
    fn decode(source: Source<'_>, traits: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        let items = source.items(traits, at)?;
        let decode = |(index, item)| {
            at.in_item(index, |at| match item {
                Source::Json(Value::Null) => {
                    at.report(Constraint::Required, None);
                    Ok(T::default())
                }
                item => T::decode(item, traits.item(), at),
            })
        };
        items.into_iter().enumerate().map(decode).collect()
    }

    fn encode(&self, traits: &'static Traits, out: &mut dyn Sink) {
        out.begin_list(traits);
        for item in self {
            out.item();
            item.encode(traits.item(), out);
        }
        out.end_list();
    }

    fn check(&self, traits: &'static Traits, at: &mut Violations) {
        traits.check_length(self.len(), None, at);
        for (index, item) in self.iter().enumerate() {
            at.in_item(index, |at| item.check(traits.item(), at));
        }
    }
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn decode(source: Source<'_>, traits: &'static Traits, at: &mut Violations) -> Result<Self, DecodeError> {
        let entries = source.entries(traits, at)?.into_iter();
        let present = entries.filter(|(_, value)| !matches!(value, Source::Json(Value::Null)));
        let decode = |(key, value): (String, Source<'_>)| {
            let value = at.in_entry(&key, |at| T::decode(value, traits.item(), at))?;
            Ok((key, value))
        };
        present.map(decode).collect()
    }

    fn encode(&self, traits: &'static Traits, out: &mut dyn Sink) {
        out.begin_map(traits);
        for (key, value) in self {
            out.entry(key, traits);
            value.encode(traits.item(), out);
            out.end_entry();
        }
        out.end_map();
    }

    fn check(&self, traits: &'static Traits, at: &mut Violations) {
        traits.check_length(self.len(), None, at);
        for (key, value) in self {
            at.in_entry(key, |at| {
                traits.key.unwrap_or(&PLAIN).check_text(key, at);
                value.check(traits.item(), at);
            });
        }
    }
}

/// Writes a member that may be absent.
#[doc(hidden)]
pub fn encode_optional<T: Shape>(
    value: &Option<T>,
    name: &'static str,
    traits: &'static Traits,
    out: &mut dyn Sink,
) {
    if let Some(value) = value {
        encode_required(value, name, traits, out);
    }
}

/// Writes a member.
#[doc(hidden)]
pub fn encode_required<T: Shape>(value: &T, name: &'static str, traits: &'static Traits, out: &mut dyn Sink) {
    out.member(name);
    value.encode(traits, out);
}

/// Checks a member that may be absent.
#[doc(hidden)]
pub fn check_optional<T: Shape>(
    value: &Option<T>,
    name: &'static str,
    traits: &'static Traits,
    at: &mut Violations,
) {
    if let Some(value) = value {
        check_required(value, name, traits, at);
    }
}

/// Checks a member.
#[doc(hidden)]
pub fn check_required<T: Shape>(value: &T, name: &'static str, traits: &'static Traits, at: &mut Violations) {
    at.in_member(name, |at| value.check(traits, at));
}

/// Implements [`Shape`] for a structure, from the table of its members.
///
/// `union` before the name adds the check that exactly one member is set.
#[macro_export]
macro_rules! structure {
    (union $name:ident { $($field:ident: $kind:ident($wire:literal, $traits:expr)),* $(,)? }) => {
        $crate::structure!(@implement $name { $($field: $kind($wire, $traits),)* } |value: &$name, at: &mut $crate::Violations| {
            let set = [$(value.$field.is_some()),*].into_iter().filter(|set| *set).count();
            if set != 1 {
                at.report($crate::Constraint::Union, None);
            }
        });
    };
    ($name:ident { $($field:ident: $kind:ident($wire:literal, $traits:expr)),* $(,)? }) => {
        $crate::structure!(@implement $name { $($field: $kind($wire, $traits),)* } |_: &$name, _: &mut $crate::Violations| {});
    };
    (@implement $name:ident { $($field:ident: $kind:ident($wire:literal, $traits:expr)),* $(,)? } $whole:expr) => {
        #[allow(unused_mut, unused_variables, clippy::redundant_closure_call)]
        impl $crate::shape::Shape for $name {
            fn decode(
                source: $crate::source::Source<'_>,
                _: &'static $crate::shape::Traits,
                at: &mut $crate::Violations,
            ) -> ::std::result::Result<Self, $crate::shape::DecodeError> {
                let mut fields = source.fields(at)?;
                let value = Self { $($field: fields.$kind($wire, $traits, at)?,)* };
                fields.finish(at);
                Ok(value)
            }

            fn encode(&self, _: &'static $crate::shape::Traits, out: &mut dyn $crate::shape::Sink) {
                out.begin_structure();
                $($crate::structure!(@encode $kind)(&self.$field, $wire, $traits, out);)*
                out.end_structure();
            }

            fn check(&self, _: &'static $crate::shape::Traits, at: &mut $crate::Violations) {
                $whole(self, at);
                $($crate::structure!(@check $kind)(&self.$field, $wire, $traits, at);)*
            }
        }
    };
    (@encode optional) => { $crate::shape::encode_optional };
    (@encode required) => { $crate::shape::encode_required };
    (@check optional) => { $crate::shape::check_optional };
    (@check required) => { $crate::shape::check_required };
}

/// Defines an enum of strings that keeps values it does not know, for the constraints to report.
#[macro_export]
macro_rules! string_enum {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
            /// A value that the model does not list.
            Unlisted(String),
        }

        impl $name {
            /// The values that the model lists.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// The value as it is written on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unlisted(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)*
                    other => Self::Unlisted(other.to_owned()),
                }
            }
        }

        impl Default for $name {
            /// The empty value, which no model lists.
            fn default() -> Self {
                Self::Unlisted(String::new())
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::shape::Shape for $name {
            fn decode(
                source: $crate::source::Source<'_>,
                traits: &'static $crate::shape::Traits,
                at: &mut $crate::Violations,
            ) -> ::std::result::Result<Self, $crate::shape::DecodeError> {
                let text = <String as $crate::shape::Shape>::decode(source, traits, at)?;
                Ok(Self::from(text.as_str()))
            }

            fn encode(&self, _: &'static $crate::shape::Traits, out: &mut dyn $crate::shape::Sink) {
                out.text(self.as_str());
            }

            fn check(&self, _: &'static $crate::shape::Traits, at: &mut $crate::Violations) {
                if let Self::Unlisted(text) = self {
                    at.report($crate::Constraint::Enum(Self::NAMES), Some(text));
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDED: Traits = Traits { min: Some(2), max: Some(3), item: Some(&SECRET), ..Traits::new() };
    static SECRET: Traits = Traits { max: Some(1), sensitive: true, ..Traits::new() };

    fn check(value: &impl Shape, expected: &[(&str, Option<&str>, Constraint)]) {
        let mut at = Violations::default();
        value.check(&BOUNDED, &mut at);
        let found = at.as_slice().iter();
        let found: Vec<_> =
            found.map(|broken| (broken.path.as_str(), broken.value.as_deref(), broken.constraint)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn bounds_are_of_characters_bytes_items_and_values() {
        check(&"äöü".to_owned(), &[]);
        check(&"äöüß".to_owned(), &[("", Some("äöüß"), Constraint::LengthMax(3))]);
        check(&Blob("ä".into()), &[]);
        check(&Blob("ää".into()), &[("", None, Constraint::LengthMax(3))]);
        check(&2, &[]);
        check(&1_i64, &[("", Some("1"), Constraint::ValueMin(2))]);
        check(&3.5_f32, &[("", Some("3.5"), Constraint::ValueMax(3))]);
        check(&f64::NAN, &[("", Some("NaN"), Constraint::ValueMin(2))]);
        check(&vec![true], &[("", None, Constraint::LengthMin(2))]);
    }

    #[test]
    fn sensitive_values_are_not_repeated() {
        let secrets = vec!["x".to_owned(), "hunter2".to_owned()];
        check(&secrets, &[("[1]", None, Constraint::LengthMax(1))]);
        let secrets =
            BTreeMap::from([("a".to_owned(), "x".to_owned()), ("b".to_owned(), "hunter2".to_owned())]);
        check(&secrets, &[("[\"b\"]", None, Constraint::LengthMax(1))]);
    }

    #[test]
    fn a_union_has_one_member() {
        #[derive(Default)]
        struct Choice {
            left: Option<bool>,
            right: Option<bool>,
        }
        structure!(union Choice { left: optional("left", &PLAIN), right: optional("right", &PLAIN) });
        check(&Choice { left: Some(true), right: None }, &[]);
        check(&Choice::default(), &[("", None, Constraint::Union)]);
        check(&Choice { left: Some(true), right: Some(true) }, &[("", None, Constraint::Union)]);
    }
}
