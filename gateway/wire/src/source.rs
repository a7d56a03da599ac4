//! Values that come in, whatever the protocol: a node of a JSON document, or one of a form.

use serde_json::{Map, Value};

use crate::ec2_query;
use crate::query::Node;
use crate::shape::{DecodeError, Shape, Traits};
use crate::violation::{Constraint, Violations};

/// A value that came in: a node of a JSON document or of a form.
#[derive(Debug)]
pub enum Source<'a> {
    /// Part of a JSON document.
    Json(Value),
    /// Part of a form; everything is text.
    Form(&'a Node),
    /// Part of a form of EC2's own dialect; everything is text.
    Ec2(&'a Node),
}

impl<'a> Source<'a> {
    pub(crate) fn error(&self, expected: &'static str, at: &Violations) -> DecodeError {
        let found = match self {
            Self::Json(Value::Null) => "null",
            Self::Json(Value::Bool(_)) => "a boolean",
            Self::Json(Value::Number(_)) => "a number",
            Self::Json(Value::String(_)) => "a string",
            Self::Json(Value::Array(_)) => "a list",
            Self::Json(Value::Object(_)) => "a structure",
            Self::Form(node) | Self::Ec2(node) if node.text().is_some() => "other text",
            Self::Form(_) | Self::Ec2(_) => "a structure",
        };
        DecodeError { path: at.path(), expected, found }
    }

    /// The members of a structure.
    pub fn fields(self, at: &Violations) -> Result<Fields<'a>, DecodeError> {
        match self {
            Self::Json(Value::Object(members)) => Ok(Fields::Json(members)),
            Self::Form(node) if node.text().is_none_or(str::is_empty) => Ok(Fields::Form(node)),
            Self::Ec2(node) if node.text().is_none_or(str::is_empty) => {
                Ok(Fields::Ec2 { node, taken: Vec::new() })
            }
            other => Err(other.error("a structure", at)),
        }
    }

    pub(crate) fn text(self, at: &Violations) -> Result<String, DecodeError> {
        match self {
            Self::Json(Value::String(text)) => Ok(text),
            Self::Form(node) | Self::Ec2(node) if node.text().is_some() => {
                Ok(node.text().unwrap_or_default().to_owned())
            }
            other => Err(other.error("a string", at)),
        }
    }

    /// A number, from a JSON number or from form text.
    pub(crate) fn number<T>(
        self,
        expected: &'static str,
        at: &Violations,
        json: impl FnOnce(&Value) -> Option<T>,
        text: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let number = match &self {
            Self::Json(value) => json(value),
            Self::Form(node) | Self::Ec2(node) => node.text().and_then(text),
        };
        number.ok_or_else(|| self.error(expected, at))
    }

    pub(crate) fn items(self, traits: &Traits, at: &Violations) -> Result<Vec<Source<'a>>, DecodeError> {
        match self {
            Self::Json(Value::Array(items)) => Ok(items.into_iter().map(Source::Json).collect()),
            Self::Form(node) => {
                let list = if traits.flattened { Some(node) } else { node.child(traits.item_name) };
                let numbered = list.and_then(Node::numbered);
                match numbered {
                    Some(items) => Ok(items.into_iter().map(Source::Form).collect()),
                    None if node.text() == Some("") && node.is_leaf() => Ok(Vec::new()),
                    None => Err(Self::Form(node).error("a list", at)),
                }
            }
            // In EC2's dialect every list is flat, whatever it is in answers.
            Self::Ec2(node) => match node.numbered() {
                Some(items) if node.text().is_none() => Ok(items.into_iter().map(Source::Ec2).collect()),
                None if node.text() == Some("") && node.is_leaf() => Ok(Vec::new()),
                Some(_) | None => Err(Self::Ec2(node).error("a list", at)),
            },
            other => Err(other.error("a list", at)),
        }
    }

    pub(crate) fn entries(
        self,
        traits: &Traits,
        at: &Violations,
    ) -> Result<Vec<(String, Source<'a>)>, DecodeError> {
        match self {
            Self::Json(Value::Object(entries)) => {
                Ok(entries.into_iter().map(|(key, value)| (key, Source::Json(value))).collect())
            }
            Self::Form(node) if node.text() == Some("") && node.is_leaf() => Ok(Vec::new()),
            Self::Form(node) => {
                let map = if traits.flattened { Some(node) } else { node.child("entry") };
                let read = |entry: &'a Node| {
                    let key = entry.child(traits.key_name)?.text()?.to_owned();
                    Some((key, Source::Form(entry.child(traits.value_name)?)))
                };
                let entries = map.and_then(Node::numbered);
                let entries = entries.and_then(|entries| entries.into_iter().map(read).collect());
                entries.ok_or_else(|| Self::Form(node).error("a map", at))
            }
            other => Err(other.error("a map", at)),
        }
    }
}

/// The members of a structure that came in. Unknown ones are ignored, except in EC2's dialect.
#[derive(Debug)]
pub enum Fields<'a> {
    /// The members of a JSON object.
    Json(Map<String, Value>),
    /// The children of a form node.
    Form(&'a Node),
    /// The children of a node of EC2's dialect.
    Ec2 {
        /// The node.
        node: &'a Node,
        /// The names that were asked for so far.
        taken: Vec<String>,
    },
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str) -> Option<Source<'a>> {
        match self {
            Self::Json(members) => members.remove(name).filter(|value| !value.is_null()).map(Source::Json),
            Self::Form(node) => node.child(name).map(Source::Form),
            Self::Ec2 { node, taken } => {
                let name = ec2_query::parameter(name);
                let child = node.child(&name).map(Source::Ec2);
                taken.push(name);
                child
            }
        }
    }

    /// Notes in `at` what was sent and not asked for, in EC2's dialect: EC2 refuses parameters that it does not know, and
    /// what the generator leaves out of a structure must not be ignored.
    pub fn finish(self, at: &mut Violations) {
        let Self::Ec2 { node, taken } = self else { return };
        let is_root = at.is_at_root();
        for name in node.names() {
            let is_protocols = is_root && ec2_query::is_protocols(name);
            if !is_protocols && !taken.iter().any(|taken| taken == name) {
                at.report_unknown(name);
            }
        }
    }

    /// Reads a member that may be absent or null.
    pub fn optional<T: Shape>(
        &mut self,
        name: &'static str,
        traits: &'static Traits,
        at: &mut Violations,
    ) -> Result<Option<T>, DecodeError> {
        let Some(source) = self.take(name) else { return Ok(None) };
        at.in_member(name, |at| T::decode(source, traits, at)).map(Some)
    }

    /// Reads a member that must be there; when it is not, notes that and stands in the type's default.
    pub fn required<T: Shape + Default>(
        &mut self,
        name: &'static str,
        traits: &'static Traits,
        at: &mut Violations,
    ) -> Result<T, DecodeError> {
        let member = self.optional(name, traits, at)?;
        if member.is_none() {
            at.in_member(name, |at| at.report(Constraint::Required, None));
        }
        Ok(member.unwrap_or_default())
    }
}
