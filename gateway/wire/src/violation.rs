//! Violations of a model's constraints, each with the path of the member, worded as AWS words them.

use std::fmt::{self, Write as _};

/// Violations kept with path and value. A hostile body can hold millions; the rest are only counted.
const KEPT_MAX: usize = 32;

/// Longest part of an offending value that an error text repeats, in characters.
const VALUE_MAX: usize = 256;

/// A constraint that a member broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// The member is required and absent, or an item of a list is null.
    Required,
    /// Fewer characters, bytes or items than this.
    LengthMin(i64),
    /// More characters, bytes or items than this.
    LengthMax(i64),
    /// A number below this.
    ValueMin(i64),
    /// A number above this.
    ValueMax(i64),
    /// The text does not match this pattern, given as the model spells it.
    Pattern(&'static str),
    /// The text is none of these.
    Enum(&'static [&'static str]),
    /// A union has no member set, or more than one.
    Union,
    /// The operation has no such parameter.
    Unknown,
}

/// One member that broke a constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where it is, for example `containerDefinitions[0].name`; the names are those on the wire.
    pub path: String,
    /// The offending value as text, cut to 256 characters; `None` when absent or not printable.
    pub value: Option<String>,
    /// What it broke.
    pub constraint: Constraint,
}

/// All violations of one input, and the path of the member being looked at.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    path: Vec<Segment>,
    kept: Vec<Violation>,
    total: usize,
}

#[derive(Clone, Debug)]
enum Segment {
    Member(&'static str),
    Index(usize),
    Key(String),
    Name(String),
}

impl Violations {
    /// The violations in the order in which they were found; at most 32 are kept.
    pub fn as_slice(&self) -> &[Violation] {
        &self.kept
    }

    /// How many violations were found, kept or not.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Whether the input satisfies its model.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The first violation of a required member, for AWS services that word this case differently.
    pub fn first_missing(&self) -> Option<&Violation> {
        self.kept.iter().find(|violation| violation.constraint == Constraint::Required)
    }

    /// Whether the input itself is being looked at, rather than something in it.
    pub fn is_at_root(&self) -> bool {
        self.path.is_empty()
    }

    /// Notes that the structure being looked at was sent with a member that it does not have.
    pub fn report_unknown(&mut self, name: &str) {
        self.within(Segment::Name(clip(name)), |at| at.report(Constraint::Unknown, None));
    }

    /// Runs `look` with the path extended by a member.
    pub fn in_member<T>(&mut self, name: &'static str, look: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Segment::Member(name), look)
    }

    /// Runs `look` with the path extended by an index.
    pub fn in_item<T>(&mut self, index: usize, look: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Segment::Index(index), look)
    }

    /// Runs `look` with the path extended by a key of a map.
    pub fn in_entry<T>(&mut self, key: &str, look: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Segment::Key(clip(key)), look)
    }

    /// Notes that the member at the current path breaks `constraint`.
    ///
    /// A member that is already known to be absent is not reported again for its placeholder value.
    pub fn report(&mut self, constraint: Constraint, value: Option<&str>) {
        let path = self.path();
        let is_absent = |known: &Violation| known.constraint == Constraint::Required && known.path == path;
        if constraint != Constraint::Unknown && self.kept.iter().any(is_absent) {
            return;
        }
        self.total += 1;
        if self.kept.len() < KEPT_MAX {
            self.kept.push(Violation { path, value: value.map(clip), constraint });
        }
    }

    /// The path of the member being looked at; empty for the input itself.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for segment in &self.path {
            let written = match segment {
                Segment::Member(name) if path.is_empty() => write!(path, "{name}"),
                Segment::Member(name) => write!(path, ".{name}"),
                Segment::Index(index) => write!(path, "[{index}]"),
                Segment::Key(key) => write!(path, "[{key:?}]"),
                Segment::Name(name) if path.is_empty() => write!(path, "{name}"),
                Segment::Name(name) => write!(path, ".{name}"),
            };
            written.expect("writing to a string");
        }
        path
    }

    fn within<T>(&mut self, segment: Segment, look: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(segment);
        let result = look(self);
        self.path.pop();
        result
    }
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(VALUE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.total == 1 { "" } else { "s" };
        write!(f, "{} validation error{plural} detected: ", self.total)?;
        for (index, violation) in self.kept.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{violation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "Value '{value}' at ")?,
            None if self.constraint == Constraint::Required => f.write_str("Value null at ")?,
            None => f.write_str("Value at ")?,
        }
        write!(f, "'{}' failed to satisfy constraint: {}", self.path, self.constraint)
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("Member must not be null"),
            Self::LengthMin(min) => write!(f, "Member must have length greater than or equal to {min}"),
            Self::LengthMax(max) => write!(f, "Member must have length less than or equal to {max}"),
            Self::ValueMin(min) => write!(f, "Member must have value greater than or equal to {min}"),
            Self::ValueMax(max) => write!(f, "Member must have value less than or equal to {max}"),
            Self::Pattern(pattern) => write!(f, "Member must satisfy regular expression pattern: {pattern}"),
            Self::Enum(names) => write!(f, "Member must satisfy enum value set: [{}]", names.join(", ")),
            Self::Union => f.write_str("Member must have exactly one of its members set"),
            Self::Unknown => f.write_str("Member must be one that the operation has"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(report: impl FnOnce(&mut Violations), text: &str) {
        let mut violations = Violations::default();
        report(&mut violations);
        assert_eq!(violations.to_string(), text);
    }

    #[test]
    fn texts_are_those_of_aws() {
        check(
            |at| at.in_member("clusterName", |at| at.report(Constraint::LengthMax(255), Some("x"))),
            "1 validation error detected: Value 'x' at 'clusterName' failed to satisfy constraint: \
             Member must have length less than or equal to 255",
        );
        check(
            |at| {
                at.in_member("family", |at| at.report(Constraint::Required, None));
                at.in_member("cpu", |at| at.report(Constraint::ValueMin(1), Some("0")));
            },
            "2 validation errors detected: Value null at 'family' failed to satisfy constraint: \
             Member must not be null; Value '0' at 'cpu' failed to satisfy constraint: \
             Member must have value greater than or equal to 1",
        );
        check(
            |at| {
                let report =
                    |at: &mut Violations| at.report(Constraint::Enum(&["EC2", "FARGATE"]), Some("MARS"));
                at.in_member("a", |at| {
                    at.in_item(3, |at| at.in_entry("k\"", |at| at.in_member("b", report)))
                });
            },
            "1 validation error detected: Value 'MARS' at 'a[3][\"k\\\"\"].b' failed to satisfy constraint: \
             Member must satisfy enum value set: [EC2, FARGATE]",
        );
    }

    #[test]
    fn an_absent_member_is_reported_once() {
        let mut violations = Violations::default();
        violations.in_member("name", |at| at.report(Constraint::Required, None));
        violations.in_member("name", |at| at.report(Constraint::LengthMin(1), Some("")));
        assert_eq!(violations.total(), 1);
        assert_eq!(violations.first_missing().map(|missing| missing.path.as_str()), Some("name"));
    }

    #[test]
    fn hostile_input_cannot_make_a_long_text() {
        let mut violations = Violations::default();
        let long = "ü".repeat(10_000);
        for index in 0..10_000 {
            violations.in_item(index, |at| at.report(Constraint::LengthMax(1), Some(&long)));
        }
        assert_eq!((violations.total(), violations.as_slice().len()), (10_000, 32));
        assert!(violations.to_string().starts_with("10000 validation errors detected: "));
        assert!(violations.to_string().len() < 32 * 1024);
    }
}
