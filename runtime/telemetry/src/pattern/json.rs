//! Conditions on events that are JSON: `{ $.selector operator value && … }`.
//!
//! `&&` binds tighter than `||`. A selector that leads nowhere, to an object or to an array makes every
//! comparison false, `!=` included; `NOT EXISTS` is the way to ask for absence. `[*]` stands for any
//! element. An event that is not JSON matches nothing.

use serde_json::Value as Json;

use super::InvalidFilterPattern;
use super::cursor::Cursor;
use super::value::Comparison;

/// How deep parentheses may nest; readable patterns use two or three.
const DEPTH_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) enum Expression {
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Condition { selector: Vec<Step>, test: Test },
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Property(String),
    Index(usize),
    AnyElement,
}

#[derive(Clone, Debug)]
pub(super) enum Test {
    Compare(Comparison),
    IsNull,
    IsBool(bool),
    NotExists,
}

impl Expression {
    pub(super) fn matches(&self, message: &str) -> bool {
        serde_json::from_str(message).is_ok_and(|event| self.holds(&event))
    }

    fn holds(&self, event: &Json) -> bool {
        match self {
            Self::And(all) => all.iter().all(|each| each.holds(event)),
            Self::Or(any) => any.iter().any(|each| each.holds(event)),
            Self::Condition { selector, test: Test::NotExists } => !any_at(event, selector, &|_| true),
            Self::Condition { selector, test } => any_at(event, selector, &|found| test.holds(found)),
        }
    }
}

impl Test {
    fn holds(&self, found: &Json) -> bool {
        match (self, found) {
            (Self::IsNull, _) => found.is_null(),
            (Self::IsBool(wanted), _) => found.as_bool() == Some(*wanted),
            (Self::Compare(comparison), Json::String(text)) => comparison.holds_for_text(text),
            (Self::Compare(comparison), Json::Bool(flag)) => comparison.holds_for_text(&flag.to_string()),
            (Self::Compare(comparison), Json::Number(number)) => {
                comparison.holds_for_number(number.as_f64().unwrap_or(f64::NAN), &number.to_string())
            }
            (Self::Compare(_), Json::Null | Json::Array(_) | Json::Object(_)) | (Self::NotExists, _) => false,
        }
    }
}

/// Whether `test` holds for some value that `selector` leads to from `value`.
fn any_at(value: &Json, selector: &[Step], test: &dyn Fn(&Json) -> bool) -> bool {
    let Some((step, rest)) = selector.split_first() else { return test(value) };
    match step {
        Step::Property(name) => value.get(name).is_some_and(|inner| any_at(inner, rest, test)),
        Step::Index(index) => value.get(index).is_some_and(|inner| any_at(inner, rest, test)),
        Step::AnyElement => {
            value.as_array().is_some_and(|all| all.iter().any(|inner| any_at(inner, rest, test)))
        }
    }
}

pub(super) fn parse(cursor: &mut Cursor) -> Result<Expression, InvalidFilterPattern> {
    cursor.expect("{", "expected {")?;
    let expression = disjunction(cursor, 0)?;
    cursor.expect("}", "expected &&, || or }")?;
    Ok(expression)
}

fn disjunction(cursor: &mut Cursor, depth: usize) -> Result<Expression, InvalidFilterPattern> {
    let first = conjunction(cursor, depth)?;
    let mut any = vec![first];
    while cursor.accept("||") {
        any.push(conjunction(cursor, depth)?);
    }
    Ok(if any.len() == 1 { any.remove(0) } else { Expression::Or(any) })
}

fn conjunction(cursor: &mut Cursor, depth: usize) -> Result<Expression, InvalidFilterPattern> {
    let first = primary(cursor, depth)?;
    let mut all = vec![first];
    while cursor.accept("&&") {
        all.push(primary(cursor, depth)?);
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
}

/// Reads one condition or parenthesis and the space around it.
fn primary(cursor: &mut Cursor, depth: usize) -> Result<Expression, InvalidFilterPattern> {
    cursor.skip_space();
    let expression = if cursor.looking_at("(") {
        if depth == DEPTH_MAX {
            return Err(cursor.error("parentheses nest too deeply"));
        }
        cursor.next();
        let inner = disjunction(cursor, depth + 1)?;
        cursor.expect(")", "expected &&, || or )")?;
        inner
    } else {
        condition(cursor)?
    };
    cursor.skip_space();
    Ok(expression)
}

fn condition(cursor: &mut Cursor) -> Result<Expression, InvalidFilterPattern> {
    let selector = selector(cursor)?;
    cursor.skip_space();
    let word_at = cursor.position();
    let word = cursor.take_while(|c| c.is_ascii_alphabetic());
    let test = match word.as_str() {
        "" => Test::Compare(Comparison::parse(cursor, |c| matches!(c, ')' | '}' | '('))?),
        "IS" => is_what(cursor)?,
        "NOT" => {
            cursor.skip_space();
            cursor.expect("EXISTS", "expected EXISTS")?;
            Test::NotExists
        }
        _ => return Err(cursor.error_at(word_at, "expected a comparison, IS or NOT EXISTS")),
    };
    Ok(Expression::Condition { selector, test })
}

fn is_what(cursor: &mut Cursor) -> Result<Test, InvalidFilterPattern> {
    cursor.skip_space();
    let at = cursor.position();
    match cursor.take_while(|c| c.is_ascii_alphabetic()).as_str() {
        "NULL" => Ok(Test::IsNull),
        "TRUE" => Ok(Test::IsBool(true)),
        "FALSE" => Ok(Test::IsBool(false)),
        _ => Err(cursor.error_at(at, "expected NULL, TRUE or FALSE")),
    }
}

/// Reads `$.a.b[0]['c.d'][*]`.
fn selector(cursor: &mut Cursor) -> Result<Vec<Step>, InvalidFilterPattern> {
    cursor.expect("$", "expected a selector, which starts with $")?;
    let mut steps = Vec::new();
    loop {
        if cursor.accept("[") || cursor.accept(".[") {
            steps.push(bracketed(cursor)?);
        } else if cursor.accept(".") {
            let name = cursor.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '@' | ':'));
            if name.is_empty() {
                return Err(cursor.error("expected a property name"));
            }
            steps.push(Step::Property(name));
        } else if steps.is_empty() {
            return Err(cursor.error("expected . or [ after $"));
        } else {
            return Ok(steps);
        }
    }
}

fn bracketed(cursor: &mut Cursor) -> Result<Step, InvalidFilterPattern> {
    let at = cursor.position();
    let step = match cursor.peek() {
        Some('*') => {
            cursor.next();
            Step::AnyElement
        }
        Some(quote @ ('\'' | '"')) => {
            cursor.next();
            let name = cursor.take_while(|c| c != quote);
            cursor.next();
            Step::Property(name)
        }
        _ => match cursor.take_while(|c| c.is_ascii_digit()).parse() {
            Ok(index) => Step::Index(index),
            Err(_) => return Err(cursor.error_at(at, "expected an index, * or a quoted property name")),
        },
    };
    cursor.expect("]", "expected ]")?;
    Ok(step)
}
