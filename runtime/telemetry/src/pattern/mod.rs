//! The filter patterns of CloudWatch Logs, as `FilterLogEvents`, metric filters and live tail use them.
//!
//! Three languages share one text field, told apart by the first character:
//!
//! ```text
//! ERROR "access denied" -DEBUG      words, phrases, exclusions: all must hold
//! ?ERROR ?WARN                      optional words: one must hold
//! %4\d\d%                           a regular expression
//! { $.a.b[0] = "x*" && $.n > 3 }    a condition on a JSON event
//! [ip, ..., status = 4*, bytes]     conditions on space-delimited fields
//! ```
//!
//! Matching is case-sensitive. A pattern is compiled once and then applied to many events; the cost of one
//! application is linear in the event, because wildcards only advance and the `regex` crate does not
//! backtrack (fields after several `...` cost fields × words).
//!
//! Source: "Filter pattern syntax for metric filters, subscription filters, filter log events, and Live Tail",
//! Amazon CloudWatch Logs user guide. Where the guide is silent the module that decides says what it chose.

mod cursor;
mod delimited;
mod json;
mod terms;
mod value;

use cursor::Cursor;

/// The longest filter pattern in characters, as the API model has it.
pub const PATTERN_CHARS_MAX: usize = 1024;

/// Why a text is not a filter pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read filter pattern at character {position}: {reason}")]
pub struct InvalidFilterPattern {
    /// Where reading stopped, in characters from 0.
    pub position: usize,
    /// What was expected or refused there.
    pub reason: String,
}

/// A compiled filter pattern.
#[derive(Clone, Debug)]
pub struct FilterPattern {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Everything,
    Terms(terms::Terms),
    Json(json::Expression),
    Delimited(delimited::Fields),
}

impl FilterPattern {
    /// Compiles `text`; the empty pattern matches every event.
    pub fn parse(text: &str) -> Result<Self, InvalidFilterPattern> {
        let mut cursor = Cursor::new(text);
        if text.chars().count() > PATTERN_CHARS_MAX {
            return Err(cursor.error_at(PATTERN_CHARS_MAX, "a filter pattern has at most 1024 characters"));
        }
        cursor.skip_space();
        let kind = match cursor.peek() {
            None => Kind::Everything,
            Some('{') => Kind::Json(json::parse(&mut cursor)?),
            Some('[') => Kind::Delimited(delimited::parse(&mut cursor)?),
            Some(_) => Kind::Terms(terms::parse(&mut cursor)?),
        };
        cursor.skip_space();
        match cursor.peek() {
            None => Ok(Self { kind }),
            Some(_) => Err(cursor.error("unexpected text after the pattern")),
        }
    }

    /// Whether `message` satisfies the pattern.
    pub fn matches(&self, message: &str) -> bool {
        match &self.kind {
            Kind::Everything => true,
            Kind::Terms(terms) => terms.matches(message),
            Kind::Json(expression) => expression.matches(message),
            Kind::Delimited(fields) => fields.matches(message),
        }
    }
}

#[cfg(test)]
mod tests;
