//! AWS Query: a form in, XML out (the Smithy specification `aws-query-protocol`).
//!
//! Names in a form are paths: `Tags.member.1.Key=a` is the key of the first tag. [`Form`] is that tree.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use thiserror::Error;

use crate::error::ErrorReply;
use crate::shape::{DecodeError, PLAIN, Shape};
use crate::source::Source;
use crate::violation::Violations;
use crate::xml::XmlWriter;

/// Most fields in a form: far above what any documented list limit needs, low enough to bound memory.
const FIELDS_MAX: usize = 16_384;

/// Most segments in a field's name, so that reading nested values cannot exhaust the stack.
const SEGMENTS_MAX: usize = 64;

/// A parsed form, from a body or from a query string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Form {
    root: Node,
}

/// A form that cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FormError {
    /// The text or a percent-decoded part of it is not UTF-8.
    #[error("decode form field {field} as UTF-8")]
    Encoding {
        /// Which field, counted from zero.
        field: usize,
    },
    /// A name occurs twice.
    #[error("read form field '{name}' once")]
    Duplicate {
        /// The name, cut to 64 characters.
        name: String,
    },
    /// A name has more than 64 segments.
    #[error("read form field {field} within 64 segments")]
    Deep {
        /// Which field, counted from zero.
        field: usize,
    },
    /// There are more than 16,384 fields.
    #[error("read form within 16384 fields")]
    Fields,
}

impl Form {
    /// Parses `application/x-www-form-urlencoded` text. Fields with an empty name are skipped.
    pub fn parse(text: &[u8]) -> Result<Self, FormError> {
        let mut root = Node::default();
        let fields = text.split(|byte| *byte == b'&').filter(|field| !field.is_empty());
        for (index, field) in fields.enumerate() {
            if index == FIELDS_MAX {
                return Err(FormError::Fields);
            }
            let encoding = || FormError::Encoding { field: index };
            let field = str::from_utf8(field).map_err(|_| encoding())?.replace('+', " ");
            let (name, value) = field.split_once('=').unwrap_or((&field, ""));
            let name = percent_decode_str(name).decode_utf8().map_err(|_| encoding())?;
            let value = percent_decode_str(value).decode_utf8().map_err(|_| encoding())?;
            if name.is_empty() {
                continue;
            }
            if name.split('.').count() > SEGMENTS_MAX {
                return Err(FormError::Deep { field: index });
            }
            let node = name.split('.').fold(&mut root, Node::child_mut);
            if node.text.replace(value.into_owned()).is_some() {
                return Err(FormError::Duplicate { name: name.chars().take(64).collect() });
            }
        }
        Ok(Self { root })
    }

    /// The value of a field at the top.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.root.child(name)?.text()
    }

    /// The root of the tree of names.
    pub fn root(&self) -> &Node {
        &self.root
    }
}

/// A name in a form, with its value and the names below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    text: Option<String>,
    children: BTreeMap<String, Node>,
}

impl Node {
    /// The value of the field of exactly this name.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// The node one segment below.
    pub fn child(&self, segment: &str) -> Option<&Node> {
        self.children.get(segment)
    }

    /// The segments that go on one below.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.children.keys().map(String::as_str)
    }

    /// Whether no name goes on below.
    pub fn is_leaf(&self) -> bool {
        self.children.is_empty()
    }

    /// The children of a list in the order of their numbers, which may have gaps; `None` unless all are numbers.
    pub fn numbered(&self) -> Option<Vec<&Node>> {
        let number = |(segment, node): (&String, _)| Some((segment.parse::<u32>().ok()?, node));
        let mut items: Vec<(u32, &Node)> = self.children.iter().map(number).collect::<Option<_>>()?;
        items.sort_by_key(|(number, _)| *number);
        (!items.is_empty()).then(|| items.into_iter().map(|(_, node)| node).collect())
    }

    fn child_mut<'a>(self: &'a mut Node, segment: &str) -> &'a mut Node {
        self.children.entry(segment.to_owned()).or_default()
    }
}

/// Reads a value; absent required members are noted in the violations.
pub fn decode<T: Shape>(form: &Form) -> Result<(T, Violations), DecodeError> {
    let mut violations = Violations::default();
    let value = T::decode(Source::Form(form.root()), &PLAIN, &mut violations)?;
    Ok((value, violations))
}

/// The response of an operation; `output` is `None` for an operation without output.
pub fn encode<T: Shape>(
    operation: &str,
    namespace: Option<&str>,
    output: Option<&T>,
    request_id: &str,
) -> Vec<u8> {
    let mut xml = XmlWriter::default();
    let response = format!("{operation}Response");
    xml.open_root(&response, namespace);
    if let Some(output) = output {
        xml.value(format!("{operation}Result"), output, &PLAIN);
    }
    xml.open("ResponseMetadata");
    xml.leaf("RequestId", request_id);
    xml.close("ResponseMetadata");
    xml.close(&response);
    xml.into_bytes()
}

/// The body of an error.
pub fn encode_error(reply: &ErrorReply, namespace: Option<&str>, request_id: &str) -> Vec<u8> {
    let mut xml = XmlWriter::default();
    xml.open_root("ErrorResponse", namespace);
    xml.open("Error");
    xml.leaf("Type", if reply.sender_fault { "Sender" } else { "Receiver" });
    xml.leaf("Code", reply.query_code.unwrap_or(reply.code));
    if !reply.message.is_empty() {
        xml.leaf("Message", &reply.message);
    }
    for (name, value) in &reply.members {
        xml.json(name, value);
    }
    xml.close("Error");
    xml.leaf("RequestId", request_id);
    xml.close("ErrorResponse");
    xml.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths() {
        let form = Form::parse(b"Action=X&a.b=1&a.c.2=y%20z&a.c.10=+w&&empty=&novalue").unwrap();
        assert_eq!(
            (form.get("Action"), form.get("empty"), form.get("novalue")),
            (Some("X"), Some(""), Some(""))
        );
        let list = form.root().child("a").and_then(|a| a.child("c")).and_then(Node::numbered).unwrap();
        assert_eq!(list.iter().map(|node| node.text()).collect::<Vec<_>>(), [Some("y z"), Some(" w")]);
        assert!(form.root().child("a").and_then(Node::numbered).is_none());
    }

    #[test]
    fn hostile_forms_are_refused() {
        let check = |text: &[u8], error| assert_eq!(Form::parse(text), Err(error));
        check(b"a=1&a=2", FormError::Duplicate { name: "a".into() });
        check(b"a=%ff", FormError::Encoding { field: 0 });
        check(b"a=1&\xff=2", FormError::Encoding { field: 1 });
        check("a.".repeat(64).as_bytes(), FormError::Deep { field: 0 });
        let many: String = (0..=FIELDS_MAX).map(|index| format!("a{index}=&")).collect();
        check(many.as_bytes(), FormError::Fields);
    }
}
