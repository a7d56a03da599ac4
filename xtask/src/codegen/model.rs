//! Botocore's service models as data (`service-2.json`; the format is described in botocore's `model.py`).

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Number;

use super::services::{Change, Patch};

/// A service model, or the part of one that a suite of protocol tests has.
#[derive(Deserialize)]
pub(crate) struct Model {
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) operations: IndexMap<String, Operation>,
    pub(crate) shapes: IndexMap<String, Shape>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) api_version: Option<String>,
    #[serde(default)]
    pub(crate) endpoint_prefix: String,
    #[serde(default)]
    pub(crate) service_full_name: String,
    pub(crate) service_abbreviation: Option<String>,
    pub(crate) signing_name: Option<String>,
    pub(crate) target_prefix: Option<String>,
    pub(crate) json_version: Option<String>,
    pub(crate) xml_namespace: Option<String>,
    pub(crate) protocols: Vec<String>,
    pub(crate) aws_query_compatible: Option<serde_json::Value>,
}

#[derive(Deserialize)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) http: Http,
    pub(crate) input: Option<Reference>,
    pub(crate) output: Option<Reference>,
    #[serde(default)]
    pub(crate) errors: Vec<Reference>,
    #[serde(default)]
    pub(crate) documentation: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Http {
    pub(crate) method: String,
    pub(crate) request_uri: String,
}

/// A use of a shape: as a member, an item, an input, an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reference {
    pub(crate) shape: String,
    pub(crate) location_name: Option<String>,
    pub(crate) query_name: Option<String>,
    pub(crate) result_wrapper: Option<String>,
    #[serde(default)]
    pub(crate) flattened: bool,
    #[serde(default)]
    pub(crate) documentation: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shape {
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) members: IndexMap<String, Reference>,
    #[serde(default)]
    pub(crate) required: Vec<String>,
    pub(crate) member: Option<Reference>,
    pub(crate) key: Option<Reference>,
    pub(crate) value: Option<Reference>,
    pub(crate) min: Option<Number>,
    pub(crate) max: Option<Number>,
    pub(crate) pattern: Option<String>,
    #[serde(rename = "enum", default)]
    pub(crate) names: Vec<String>,
    #[serde(default)]
    pub(crate) flattened: bool,
    #[serde(default)]
    pub(crate) sensitive: bool,
    #[serde(default)]
    pub(crate) document: bool,
    #[serde(default)]
    pub(crate) union: bool,
    #[serde(default)]
    pub(crate) eventstream: bool,
    #[serde(default)]
    pub(crate) fault: bool,
    pub(crate) error: Option<ErrorTrait>,
    pub(crate) timestamp_format: Option<String>,
    #[serde(default)]
    pub(crate) documentation: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Structure,
    List,
    Map,
    String,
    Boolean,
    Integer,
    Long,
    Float,
    Double,
    Timestamp,
    Blob,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorTrait {
    pub(crate) code: Option<String>,
    pub(crate) http_status_code: Option<u16>,
    pub(crate) sender_fault: Option<bool>,
}

impl Model {
    /// Parses a model.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).context("parse JSON")
    }

    /// Applies a patch; fails when there is nothing to change, so that no patch outlives its reason.
    pub(crate) fn patch(&mut self, patch: &Patch) -> Result<()> {
        let stale = || format!("patch {} ({})", patch.shape, patch.reason);
        let shape = self.shapes.get_mut(patch.shape).with_context(stale)?;
        match patch.change {
            Change::SkipPattern => shape.pattern.take().map(drop).with_context(stale),
            Change::PlainText => {
                ensure!(!shape.names.is_empty(), stale());
                shape.names.clear();
                Ok(())
            }
            Change::Value(value) => {
                ensure!(!shape.names.is_empty() && !shape.names.iter().any(|known| known == value), stale());
                shape.names.push(value.to_owned());
                Ok(())
            }
            Change::Keep(members) => {
                let all = shape.members.len();
                shape.members.retain(|name, _| members.contains(&name.as_str()));
                shape.required.retain(|name| members.contains(&name.as_str()));
                ensure!(shape.members.len() == members.len() && members.len() < all, stale());
                Ok(())
            }
        }
    }

    /// The shape of a name.
    pub(crate) fn shape(&self, name: &str) -> Result<&Shape> {
        self.shapes.get(name).with_context(|| format!("find shape {name}"))
    }

    /// The operation of a name.
    pub(crate) fn operation(&self, name: &str) -> Result<&Operation> {
        self.operations.get(name).with_context(|| format!("find operation {name}"))
    }

    /// Adds the names of all shapes that `name` leads to, and its own.
    pub(crate) fn reach(&self, name: &str, reached: &mut BTreeSet<String>) -> Result<()> {
        if !reached.insert(name.to_owned()) {
            return Ok(());
        }
        for reference in self.shape(name)?.references() {
            self.reach(&reference.shape, reached)?;
        }
        Ok(())
    }

    /// Fails for a service of EC2's dialect whose names in forms are not those in answers with a capital, which is all
    /// that the codec knows.
    pub(crate) fn check_form_names(&self, shapes: &BTreeSet<String>) -> Result<()> {
        if !self.metadata.protocols.iter().any(|protocol| protocol == "ec2") {
            return Ok(());
        }
        for shape in shapes {
            for (name, member) in &self.shape(shape)?.members {
                let answer = member.location_name.as_ref().unwrap_or(name);
                let usual = super::names::type_name(answer);
                let form = member.query_name.as_ref().unwrap_or(&usual);
                ensure!(
                    *form == usual,
                    "member {name} of {shape} is {form} in a form, and {answer} in an answer"
                );
                ensure!(!member.flattened, "member {name} of {shape} is a flat list in an answer");
            }
        }
        Ok(())
    }

    /// Whether a value of `from` can hold one of `to` with nothing but structures between, so that a box is needed.
    pub(crate) fn embeds(&self, from: &str, to: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(name) = open.pop() {
            let Some(shape) = self.shapes.get(name).filter(|shape| shape.kind == Kind::Structure) else {
                continue;
            };
            if name == to {
                return true;
            }
            if seen.insert(name) {
                open.extend(shape.members.values().map(|member| member.shape.as_str()));
            }
        }
        false
    }

    /// Whether a value of the shape must not be shown.
    pub(crate) fn is_sensitive(&self, name: &str) -> bool {
        let Some(shape) = self.shapes.get(name) else { return false };
        let item = shape.member.as_ref().or(shape.value.as_ref());
        shape.sensitive || item.is_some_and(|item| self.is_sensitive(&item.shape))
    }
}

impl Shape {
    fn references(&self) -> impl Iterator<Item = &Reference> {
        self.members.values().chain(&self.member).chain(&self.key).chain(&self.value)
    }

    /// Whether the wire type is an enum of strings.
    pub(crate) fn is_enum(&self) -> bool {
        self.kind == Kind::String && !self.names.is_empty()
    }
}
