//! AWS JSON 1.0 and 1.1: one JSON object in, one out.
//!
//! Of two members with the same name the last one counts. Nesting is limited to 128 levels by `serde_json`; the size
//! of a body is the server's business. See the Smithy specifications `aws-json-1_0-protocol` and
//! `aws-json-1_1-protocol`.

use serde_json::Value;
use thiserror::Error;

use crate::error::ErrorReply;
use crate::shape::{DecodeError, PLAIN, Shape, Sink, Traits};
use crate::source::Source;
use crate::value::{TimeFormat, Timestamp};
use crate::violation::Violations;

/// A body that is not the JSON that the model wants.
#[derive(Debug, Error)]
pub enum JsonError {
    /// The body is not JSON, or is nested too deeply.
    #[error("parse JSON at line {}, column {}", source.line(), source.column())]
    Syntax {
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A value has the wrong type.
    #[error(transparent)]
    Type(#[from] DecodeError),
}

/// Reads a value; absent required members are noted in the violations. An empty body is an empty object.
pub fn decode<T: Shape>(body: &[u8]) -> Result<(T, Violations), JsonError> {
    let document = match body {
        [] => Value::Object(serde_json::Map::new()),
        body => serde_json::from_slice(body).map_err(|source| JsonError::Syntax { source })?,
    };
    let mut violations = Violations::default();
    let value = T::decode(Source::Json(document), &PLAIN, &mut violations)?;
    Ok((value, violations))
}

/// Writes a value; absent members are left out.
pub fn encode<T: Shape>(value: &T) -> Vec<u8> {
    encode_with(value, &PLAIN)
}

/// A value as a JSON document.
pub fn to_document<T: Shape>(value: &T, traits: &'static Traits) -> Value {
    serde_json::from_slice(&encode_with(value, traits)).expect("the writer writes JSON")
}

/// The body of an error: `__type`, `message` and the members the model gives it.
pub fn encode_error(reply: &ErrorReply) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.begin_structure();
    writer.member("__type");
    writer.text(reply.code);
    if !reply.message.is_empty() {
        writer.member("message");
        writer.text(&reply.message);
    }
    for (name, value) in &reply.members {
        writer.member(name);
        writer.document(value);
    }
    writer.end_structure();
    writer.text
}

/// The value of `x-amzn-query-error`, which AWS services that once spoke the query protocol send with JSON errors.
pub fn query_error_header(reply: &ErrorReply) -> String {
    let fault = if reply.sender_fault { "Sender" } else { "Receiver" };
    format!("{};{fault}", reply.query_code.unwrap_or(reply.code))
}

fn encode_with<T: Shape>(value: &T, traits: &'static Traits) -> Vec<u8> {
    let mut writer = Writer::default();
    value.encode(traits, &mut writer);
    writer.text
}

/// Writes compact JSON.
#[derive(Debug, Default)]
struct Writer {
    text: Vec<u8>,
    /// Whether the innermost open value already has a member.
    started: Vec<bool>,
}

impl Writer {
    fn open(&mut self, bracket: u8) {
        self.text.push(bracket);
        self.started.push(false);
    }

    fn close(&mut self, bracket: u8) {
        self.started.pop();
        self.text.push(bracket);
    }

    fn separate(&mut self) {
        if let Some(started) = self.started.last_mut() {
            if *started {
                self.text.push(b',');
            }
            *started = true;
        }
    }

    fn key(&mut self, key: &str) {
        self.separate();
        self.text(key);
        self.text.push(b':');
    }
}

impl Sink for Writer {
    fn begin_structure(&mut self) {
        self.open(b'{');
    }

    fn member(&mut self, name: &'static str) {
        self.key(name);
    }

    fn end_structure(&mut self) {
        self.close(b'}');
    }

    fn begin_list(&mut self, _: &'static Traits) {
        self.open(b'[');
    }

    fn item(&mut self) {
        self.separate();
    }

    fn end_list(&mut self) {
        self.close(b']');
    }

    fn begin_map(&mut self, _: &'static Traits) {
        self.open(b'{');
    }

    fn entry(&mut self, key: &str, _: &'static Traits) {
        self.key(key);
    }

    fn end_entry(&mut self) {}

    fn end_map(&mut self) {
        self.close(b'}');
    }

    fn text(&mut self, text: &str) {
        serde_json::to_writer(&mut self.text, text).expect("writing a string to memory");
    }

    fn literal(&mut self, literal: &str) {
        self.text.extend_from_slice(literal.as_bytes());
    }

    fn timestamp(&mut self, timestamp: Timestamp, format: Option<TimeFormat>) {
        match format.unwrap_or(TimeFormat::EpochSeconds) {
            TimeFormat::EpochSeconds => self.literal(&timestamp.format(TimeFormat::EpochSeconds)),
            format => self.text(&timestamp.format(format)),
        }
    }

    fn document(&mut self, document: &Value) {
        serde_json::to_writer(&mut self.text, document).expect("writing a document to memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecs::{KeyValuePair, ListTasksRequest, RunTaskRequest, Tag};

    #[test]
    fn malformed_bodies_are_told_apart() {
        let check = |body: &str, text: &str| {
            let error = decode::<RunTaskRequest>(body.as_bytes()).expect_err(body);
            assert_eq!(error.to_string(), text, "{body}");
        };
        check("{", "parse JSON at line 1, column 1");
        check("[]", "expected a structure at '', found a list");
        check("null", "expected a structure at '', found null");
        check(r#"{"count": "1"}"#, "expected a 32-bit integer at 'count', found a string");
        check(r#"{"count": 1.5}"#, "expected a 32-bit integer at 'count', found a number");
        check(r#"{"count": 2147483648}"#, "expected a 32-bit integer at 'count', found a number");
        check(r#"{"cluster": 1}"#, "expected a string at 'cluster', found a number");
        check(r#"{"tags": [{"key": []}]}"#, "expected a string at 'tags[0].key', found a list");
        check(
            r#"{"enableECSManagedTags": "true"}"#,
            "expected a boolean at 'enableECSManagedTags', found a string",
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let body = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(decode::<RunTaskRequest>(body.as_bytes()), Err(JsonError::Syntax { .. })));
    }

    #[test]
    fn null_is_absent_and_unknown_members_are_ignored() {
        let (input, violations) =
            decode::<ListTasksRequest>(br#"{"cluster":null,"family":"a","family":"b","new":{"x":[1]}}"#)
                .unwrap();
        assert_eq!(input, ListTasksRequest { family: Some("b".into()), ..Default::default() });
        assert!(violations.is_empty());
        assert_eq!(decode::<ListTasksRequest>(b"").unwrap().0, ListTasksRequest::default());
    }

    #[test]
    fn a_missing_member_is_named_with_its_path() {
        let (_, violations) = decode::<RunTaskRequest>(br#"{"tags":[{"key":"a"},null]}"#).unwrap();
        let paths: Vec<_> = violations.as_slice().iter().map(|violation| violation.path.as_str()).collect();
        assert_eq!(paths, ["tags[1]", "taskDefinition"]);
    }

    #[test]
    fn members_come_in_the_order_of_the_model_without_nulls() {
        let tag = Tag { key: Some("a\"\n\u{1}é".into()), value: None };
        assert_eq!(String::from_utf8(encode(&tag)).unwrap(), "{\"key\":\"a\\\"\\n\\u0001é\"}");
        assert_eq!(encode(&KeyValuePair::default()), b"{}");
    }
}
