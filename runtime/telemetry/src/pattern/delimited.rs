//! Conditions on the space-delimited fields of an event: `[ip, user, ..., status = 4*, bytes > 1000]`.
//!
//! Text between double quotes or square brackets is one field. `...` stands for any number of fields.
//! Without `...` the pattern describes the first fields and the event may go on: the guide's own
//! `[w1=ERROR, w2]` is "events whose first word is ERROR", and `[]` matches every event in the examples of
//! `TestMetricFilter`. With `...` the pattern describes the whole event.

use super::InvalidFilterPattern;
use super::cursor::Cursor;
use super::value::Comparison;

#[derive(Clone, Debug)]
pub(super) struct Fields {
    fields: Vec<Field>,
}

#[derive(Clone, Debug)]
enum Field {
    Ellipsis,
    /// Alternatives (`||`) of conditions that hold together (`&&`); no alternative means no condition.
    One(Vec<Vec<Comparison>>),
}

impl Field {
    fn holds(&self, word: &str) -> bool {
        match self {
            Self::Ellipsis => true,
            Self::One(any) => {
                any.is_empty() || any.iter().any(|all| all.iter().all(|each| each.holds_for_text(word)))
            }
        }
    }
}

impl Fields {
    pub(super) fn matches(&self, message: &str) -> bool {
        let words = split(message);
        if !self.fields.iter().any(|field| matches!(field, Field::Ellipsis)) {
            return self.fields.len() <= words.len() && hold(&self.fields, &words);
        }
        let mut runs = self.fields.split(|field| matches!(field, Field::Ellipsis));
        let head = runs.next().unwrap_or_default();
        let tail = runs.next_back().unwrap_or_default();
        if words.len() < head.len() + tail.len() || !hold(head, &words) {
            return false;
        }
        let (mut rest, last) = words[head.len()..].split_at(words.len() - head.len() - tail.len());
        if !hold(tail, last) {
            return false;
        }
        for run in runs {
            let found = (0..=rest.len().saturating_sub(run.len()))
                .find(|&at| rest.len() >= at + run.len() && hold(run, &rest[at..]));
            match found {
                Some(at) => rest = &rest[at + run.len()..],
                None => return false,
            }
        }
        true
    }
}

/// Whether each field holds for the word at its place.
fn hold(fields: &[Field], words: &[&str]) -> bool {
    fields.iter().zip(words).all(|(field, word)| field.holds(word))
}

/// Splits an event into its fields; an unclosed quote or bracket is an ordinary character.
fn split(message: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = message.trim_start();
    // Once a closing character is missing it is missing for the whole rest: remember, to stay linear.
    let (mut quotes, mut brackets) = (true, true);
    while let Some(first) = rest.chars().next() {
        let close = match first {
            '"' if quotes => Some('"'),
            '[' if brackets => Some(']'),
            _ => None,
        };
        let closed = close.and_then(|close| rest[1..].find(close).map(|at| (&rest[1..=at], &rest[at + 2..])));
        let (word, after) = match closed {
            Some(found) => found,
            None => {
                quotes &= close != Some('"');
                brackets &= close != Some(']');
                rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

pub(super) fn parse(cursor: &mut Cursor) -> Result<Fields, InvalidFilterPattern> {
    cursor.expect("[", "expected [")?;
    let mut fields = Vec::new();
    cursor.skip_space();
    if cursor.accept("]") {
        return Ok(Fields { fields });
    }
    loop {
        cursor.skip_space();
        fields.push(if cursor.accept("...") { Field::Ellipsis } else { field(cursor)? });
        cursor.skip_space();
        if cursor.accept("]") {
            return Ok(Fields { fields });
        }
        cursor.expect(",", "expected a comparison, && , ||, a comma or ]")?;
    }
}

/// Reads `name`, or conditions on it: `name = a || name = b && name != c`.
fn field(cursor: &mut Cursor) -> Result<Field, InvalidFilterPattern> {
    let name = field_name(cursor)?;
    cursor.skip_space();
    if matches!(cursor.peek(), None | Some(',' | ']')) {
        return Ok(Field::One(Vec::new()));
    }
    let ends = |c| matches!(c, ',' | ']');
    let mut any = vec![vec![Comparison::parse(cursor, ends)?]];
    loop {
        cursor.skip_space();
        let and = cursor.accept("&&");
        if !and && !cursor.accept("||") {
            return Ok(Field::One(any));
        }
        cursor.skip_space();
        let at = cursor.position();
        if field_name(cursor)? != name {
            return Err(cursor.error_at(at, "the conditions of one field use one name"));
        }
        cursor.skip_space();
        let comparison = Comparison::parse(cursor, ends)?;
        match any.last_mut() {
            Some(all) if and => all.push(comparison),
            _ => any.push(vec![comparison]),
        }
    }
}

fn field_name(cursor: &mut Cursor) -> Result<String, InvalidFilterPattern> {
    let name = cursor.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'));
    if name.is_empty() { Err(cursor.error("expected a field name or ...")) } else { Ok(name) }
}
