//! Words, phrases and regular expressions anywhere in an event.
//!
//! A term matches as a substring. Optional terms (`?term`) count only when they stand alone: the guide
//! says that the question mark is ignored beside included or excluded terms, and so those terms are.

use regex::Regex;

use super::InvalidFilterPattern;
use super::cursor::Cursor;
use super::value;

#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    required: Vec<Term>,
    optional: Vec<Term>,
    excluded: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Term {
    Text(String),
    Regex(Regex),
}

impl Term {
    fn is_in(&self, message: &str) -> bool {
        match self {
            // `" "` is documented as the pattern that matches every event.
            Self::Text(text) => text.trim().is_empty() || message.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(message),
        }
    }
}

impl Terms {
    pub(super) fn matches(&self, message: &str) -> bool {
        let alone = self.required.is_empty() && self.excluded.is_empty();
        self.required.iter().all(|term| term.is_in(message))
            && !self.excluded.iter().any(|term| term.is_in(message))
            && (!alone || self.optional.iter().any(|term| term.is_in(message)))
    }
}

pub(super) fn parse(cursor: &mut Cursor) -> Result<Terms, InvalidFilterPattern> {
    let mut terms = Terms::default();
    loop {
        cursor.skip_space();
        let into = match cursor.peek() {
            None => return Ok(terms),
            Some('?') => &mut terms.optional,
            Some('-') => &mut terms.excluded,
            Some(_) => &mut terms.required,
        };
        if matches!(cursor.peek(), Some('?' | '-')) {
            cursor.next();
        }
        into.push(term(cursor)?);
        if cursor.peek().is_some_and(|c| !c.is_whitespace()) {
            return Err(
                cursor.error("put a term with characters other than letters, digits and _ in double quotes")
            );
        }
    }
}

fn term(cursor: &mut Cursor) -> Result<Term, InvalidFilterPattern> {
    match cursor.peek() {
        Some('"') => Ok(Term::Text(phrase(cursor)?)),
        Some('%') => Ok(Term::Regex(value::regex(cursor)?)),
        _ => {
            let word = cursor.take_while(|c| c.is_alphanumeric() || c == '_');
            if word.is_empty() { Err(cursor.error("expected a term")) } else { Ok(Term::Text(word)) }
        }
    }
}

/// Reads `"…"` without wildcards: in a phrase `*` is an asterisk.
fn phrase(cursor: &mut Cursor) -> Result<String, InvalidFilterPattern> {
    let start = cursor.position();
    cursor.next();
    let mut text = String::new();
    loop {
        match cursor.next() {
            None => return Err(cursor.error_at(start, "this double quote is not closed")),
            Some('"') => return Ok(text),
            Some('\\') if matches!(cursor.peek(), Some('"' | '\\')) => text.extend(cursor.next()),
            Some(c) => text.push(c),
        }
    }
}
