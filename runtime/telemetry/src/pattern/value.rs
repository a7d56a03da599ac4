//! What a field or property is compared with: a text with wildcards, a number or a regular expression.

use regex::{Regex, RegexBuilder};

use super::InvalidFilterPattern;
use super::cursor::Cursor;

/// The compiled size of one regular expression, in bytes. A pattern is at most 1,024 characters, which
/// without counted repetition needs a small part of this.
const REGEX_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    pub(super) fn parse(cursor: &mut Cursor) -> Option<Self> {
        let operators = [
            ("!=", Self::NotEqual),
            ("<=", Self::LessOrEqual),
            (">=", Self::GreaterOrEqual),
            ("=", Self::Equal),
            ("<", Self::Less),
            (">", Self::Greater),
        ];
        operators.into_iter().find(|(text, _)| cursor.accept(text)).map(|(_, operator)| operator)
    }

    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

/// A text in which `*` stands for any run of characters.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    /// The literal parts between wildcards; one part means no wildcard.
    parts: Vec<String>,
}

impl Glob {
    fn new() -> Self {
        Self { parts: vec![String::new()] }
    }

    fn push(&mut self, literal: char) {
        if let Some(part) = self.parts.last_mut() {
            part.push(literal);
        }
    }

    fn push_wildcard(&mut self) {
        self.parts.push(String::new());
    }

    /// Whether the whole of `text` matches. Taking the first place for each inner part is always right,
    /// because what follows a wildcard may start anywhere later.
    pub(super) fn matches(&self, text: &str) -> bool {
        let [first, inner @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for part in inner {
            match rest.find(part.as_str()) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last.as_str())
    }
}

/// The right-hand side of a comparison.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `"text"`, with wildcards.
    Quoted(Glob),
    /// An unquoted word, address or wildcard text.
    Bare(Glob),
    /// An unquoted number, with the text it was written as.
    Number(f64, Glob),
    /// `%expression%`
    Regex(Regex),
}

/// A comparison whose sides fit together.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    operator: Operator,
    value: Value,
}

impl Comparison {
    /// Reads `operator value`; `ends` tells which characters end an unquoted value.
    pub(super) fn parse(cursor: &mut Cursor, ends: fn(char) -> bool) -> Result<Self, InvalidFilterPattern> {
        let Some(operator) = Operator::parse(cursor) else {
            return Err(cursor.error("expected one of = != < > <= >="));
        };
        cursor.skip_space();
        let start = cursor.position();
        let value = match cursor.peek() {
            Some('"') => Value::Quoted(quoted(cursor)?),
            Some('%') => Value::Regex(regex(cursor)?),
            _ => bare(cursor, ends)?,
        };
        let equality = matches!(operator, Operator::Equal | Operator::NotEqual);
        if !equality && !matches!(value, Value::Number(..)) {
            return Err(cursor.error_at(start, "< > <= >= compare with a number"));
        }
        Ok(Self { operator, value })
    }

    /// Compares a text. A text that is not a number satisfies no numeric order.
    pub(super) fn holds_for_text(&self, text: &str) -> bool {
        let negated = self.operator == Operator::NotEqual;
        match &self.value {
            Value::Quoted(glob) | Value::Bare(glob) => glob.matches(text) != negated,
            Value::Regex(regex) => regex.is_match(text) != negated,
            Value::Number(number, written) => match parse_number(text) {
                Some(left) => self.operator.holds(left, *number),
                None if negated => true,
                None => self.operator == Operator::Equal && written.matches(text),
            },
        }
    }

    /// Compares a JSON number, given as value and as text. A quoted value is a string and differs from
    /// every number.
    pub(super) fn holds_for_number(&self, number: f64, text: &str) -> bool {
        match &self.value {
            Value::Quoted(_) => self.operator == Operator::NotEqual,
            Value::Number(right, _) => self.operator.holds(number, *right),
            Value::Bare(_) | Value::Regex(_) => self.holds_for_text(text),
        }
    }
}

/// A decimal or scientific number; unlike `f64::from_str` neither `inf` nor `nan`.
fn parse_number(text: &str) -> Option<f64> {
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    if numeric { text.parse().ok() } else { None }
}

fn bare(cursor: &mut Cursor, ends: fn(char) -> bool) -> Result<Value, InvalidFilterPattern> {
    let start = cursor.position();
    let mut text = String::new();
    while let Some(c) = cursor.peek() {
        if c.is_whitespace() || ends(c) || cursor.looking_at("&&") || cursor.looking_at("||") {
            break;
        }
        if matches!(c, '"' | '=' | '<' | '>' | '!' | '%') {
            return Err(cursor.error("put a value with special characters in double quotes"));
        }
        text.push(c);
        cursor.next();
    }
    if text.is_empty() {
        return Err(cursor.error_at(start, "expected a value"));
    }
    let mut glob = Glob::new();
    for c in text.chars() {
        if c == '*' { glob.push_wildcard() } else { glob.push(c) }
    }
    Ok(match parse_number(&text) {
        Some(number) => Value::Number(number, glob),
        None => Value::Bare(glob),
    })
}

/// Reads `"…"`, where a backslash takes the next character literally and `*` is a wildcard.
pub(super) fn quoted(cursor: &mut Cursor) -> Result<Glob, InvalidFilterPattern> {
    let start = cursor.position();
    cursor.next();
    let mut glob = Glob::new();
    loop {
        match cursor.next() {
            None => return Err(cursor.error_at(start, "this double quote is not closed")),
            Some('"') => return Ok(glob),
            Some('*') => glob.push_wildcard(),
            Some('\\') => match cursor.next() {
                Some(escaped @ ('"' | '\\' | '*')) => glob.push(escaped),
                Some(other) => {
                    glob.push('\\');
                    glob.push(other);
                }
                None => return Err(cursor.error_at(start, "this double quote is not closed")),
            },
            Some(c) => glob.push(c),
        }
    }
}

/// Reads `%…%`. The guide allows letters, digits, `: _ # = @ / ; , -` and the operators
/// `^ $ ? [ ] { } | \ * + .`; no parentheses, no spaces (write `\s`), nothing outside ASCII.
pub(super) fn regex(cursor: &mut Cursor) -> Result<Regex, InvalidFilterPattern> {
    let start = cursor.position();
    cursor.next();
    let mut source = String::new();
    loop {
        let at = cursor.position();
        match cursor.next() {
            None => return Err(cursor.error_at(start, "this % is not closed")),
            Some('%') => break,
            Some('\\') => {
                source.push('\\');
                match cursor.next() {
                    Some(c) if c.is_ascii() => source.push(c),
                    _ => return Err(cursor.error_at(at, "nothing to escape here")),
                }
            }
            Some(c) if c.is_ascii_alphanumeric() || ":_#=@/;,-^$?[]{}|*+.".contains(c) => source.push(c),
            Some(_) => {
                return Err(cursor.error_at(at, "this character is not supported in a regular expression"));
            }
        }
    }
    if source.is_empty() {
        return Err(cursor.error_at(start, "this regular expression is empty"));
    }
    RegexBuilder::new(&source)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|_| cursor.error_at(start, "this regular expression is not valid or too large"))
}
