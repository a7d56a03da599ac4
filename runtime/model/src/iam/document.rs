//! Policy documents: from their text to what they say.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::condition::{Condition, Scalar};
use super::principal::PrincipalPattern;

/// Most statements of a document: far more than fit into what IAM takes.
const STATEMENTS_MAX: usize = 1_000;

/// Why a text is no policy document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedDocument {
    /// It is no JSON, or has members that no document has.
    #[error("Syntax errors in policy: {why}")]
    Syntax {
        /// What is wrong where.
        why: String,
    },
    /// Its version is unknown.
    #[error("The policy's Version {version} is not 2012-10-17 or 2008-10-17")]
    Version {
        /// The version.
        version: String,
    },
    /// It has no statement, or too many.
    #[error("The policy must have 1 to 1000 statements")]
    Statements,
    /// Two statements share an id.
    #[error("Statement IDs (SID) in a single policy must be unique: {sid}")]
    SameSid {
        /// The id.
        sid: String,
    },
    /// A member is missing, or there beside the one that means the opposite.
    #[error("Each statement must have either {one} or {other}")]
    OneOf {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A member that this kind of document cannot have.
    #[error("This kind of policy has no {member}")]
    Misplaced {
        /// The member.
        member: &'static str,
    },
    /// An action is not `service:Name`.
    #[error("Actions must be prefixed by a vendor, such as ecs: {action}")]
    Action {
        /// The action.
        action: String,
    },
    /// A resource is neither `*` nor an ARN.
    #[error("Resource {resource} must be in ARN format or \"*\"")]
    Resource {
        /// The resource.
        resource: String,
    },
    /// A principal is of no known kind.
    #[error("Invalid principal in policy: {principal}")]
    Principal {
        /// The principal.
        principal: String,
    },
    /// A condition has an operator that is not understood, or a value that the operator cannot compare.
    #[error("Invalid condition in policy: {why}")]
    Condition {
        /// What is wrong with it.
        why: String,
    },
    /// Policy variables.
    #[error("Policy variables such as ${{aws:username}} are not supported by Neargate: {text}")]
    Variable {
        /// Where one is.
        text: String,
    },
}

/// What a statement does to what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// Patterns of which one must match, or none.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Matching {
    Any(Vec<String>),
    NoneOf(Vec<String>),
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) effect: Effect,
    pub(super) actions: Matching,
    pub(super) resources: Matching,
    pub(super) principals: Vec<PrincipalPattern>,
    pub(super) conditions: Vec<Condition>,
}

/// What a document says, beside its text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    text: String,
    pub(super) statements: Vec<Statement>,
}

/// A document that says what whoever has it may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdentityPolicy(pub(super) Document);

/// A document that says who may take on a role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustPolicy(pub(super) Document);

/// A document of a resource that says who may do what with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourcePolicy(pub(super) Document);

/// What differs between the kinds of documents.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Identity,
    Trust,
    Resource,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct RawDocument {
    version: Option<String>,
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: OneOrMany<RawStatement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct RawStatement {
    sid: Option<String>,
    effect: Effect,
    principal: Option<RawPrincipal>,
    action: Option<OneOrMany<String>>,
    not_action: Option<OneOrMany<String>>,
    resource: Option<OneOrMany<String>>,
    not_resource: Option<OneOrMany<String>>,
    condition: Option<BTreeMap<String, BTreeMap<String, OneOrMany<Scalar>>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawPrincipal {
    Everyone(String),
    Kinds(BTreeMap<String, OneOrMany<String>>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Document {
    fn parse(text: &str, kind: Kind) -> Result<Self, MalformedDocument> {
        let syntax = |error: serde_json::Error| MalformedDocument::Syntax { why: error.to_string() };
        let raw: RawDocument = serde_json::from_str(text).map_err(syntax)?;
        if let Some(version) =
            raw.version.filter(|version| version != "2012-10-17" && version != "2008-10-17")
        {
            return Err(MalformedDocument::Version { version: version.chars().take(32).collect() });
        }
        let raw = raw.statement.into_vec();
        if raw.is_empty() || raw.len() > STATEMENTS_MAX {
            return Err(MalformedDocument::Statements);
        }
        let mut sids = BTreeSet::new();
        if let Some(sid) =
            raw.iter().filter_map(|one| one.sid.as_ref()).find(|sid| !sids.insert(sid.as_str()))
        {
            return Err(MalformedDocument::SameSid { sid: sid.clone() });
        }
        let statements = raw.into_iter().map(|raw| raw.read(kind)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), statements })
    }
}

impl RawStatement {
    fn read(self, kind: Kind) -> Result<Statement, MalformedDocument> {
        let actions = matching(self.action, self.not_action, ("Action", "NotAction"))?;
        actions.patterns().iter().try_for_each(|action| check_action(action))?;
        let has_resource = self.resource.is_some() || self.not_resource.is_some();
        let resources = match kind {
            Kind::Identity => matching(self.resource, self.not_resource, ("Resource", "NotResource"))?,
            Kind::Trust if has_resource => return Err(MalformedDocument::Misplaced { member: "Resource" }),
            Kind::Resource if has_resource => {
                matching(self.resource, self.not_resource, ("Resource", "NotResource"))?
            }
            // It is the one that has the document.
            Kind::Trust | Kind::Resource => Matching::Any(vec!["*".to_owned()]),
        };
        resources.patterns().iter().try_for_each(|resource| check_resource(resource))?;
        let principals = match (kind, self.principal) {
            (Kind::Trust | Kind::Resource, Some(principal)) => principal.read()?,
            (Kind::Trust | Kind::Resource, None) => {
                return Err(MalformedDocument::Misplaced { member: "statement without Principal" });
            }
            (Kind::Identity, None) => Vec::new(),
            (Kind::Identity, Some(_)) => return Err(MalformedDocument::Misplaced { member: "Principal" }),
        };
        let mut conditions = Vec::new();
        for (operator, keys) in self.condition.into_iter().flatten() {
            for (key, values) in keys {
                conditions.push(Condition::read(&operator, &key, values.into_vec())?);
            }
        }
        Ok(Statement { effect: self.effect, actions, resources, principals, conditions })
    }
}

impl RawPrincipal {
    fn read(self) -> Result<Vec<PrincipalPattern>, MalformedDocument> {
        match self {
            Self::Everyone(text) => PrincipalPattern::read("AWS", &text).map(|principal| vec![principal]),
            Self::Kinds(kinds) => {
                let all = kinds.into_iter().flat_map(|(kind, texts)| {
                    texts.into_vec().into_iter().map(move |text| PrincipalPattern::read(&kind, &text))
                });
                all.collect()
            }
        }
    }
}

impl Matching {
    fn patterns(&self) -> &[String] {
        match self {
            Self::Any(patterns) | Self::NoneOf(patterns) => patterns,
        }
    }
}

fn matching(
    any: Option<OneOrMany<String>>,
    none_of: Option<OneOrMany<String>>,
    (one, other): (&'static str, &'static str),
) -> Result<Matching, MalformedDocument> {
    let matching = match (any, none_of) {
        (Some(any), None) => Matching::Any(any.into_vec()),
        (None, Some(none_of)) => Matching::NoneOf(none_of.into_vec()),
        _ => return Err(MalformedDocument::OneOf { one, other }),
    };
    if matching.patterns().is_empty() { Err(MalformedDocument::OneOf { one, other }) } else { Ok(matching) }
}

fn check_action(action: &str) -> Result<(), MalformedDocument> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'*' | b'?');
    let is_sound = |(service, name): (&str, &str)| {
        !service.is_empty() && !name.is_empty() && service.bytes().chain(name.bytes()).all(is_known)
    };
    if action == "*" || action.split_once(':').is_some_and(is_sound) {
        return Ok(());
    }
    Err(MalformedDocument::Action { action: action.chars().take(128).collect() })
}

fn check_resource(resource: &str) -> Result<(), MalformedDocument> {
    refuse_variables(resource)?;
    if resource == "*" || resource.starts_with("arn:") || resource.starts_with("*:") {
        return Ok(());
    }
    Err(MalformedDocument::Resource { resource: resource.chars().take(128).collect() })
}

/// Refuses `${…}`: taken literally, it would match nothing, and deny nothing.
pub(super) fn refuse_variables(text: &str) -> Result<(), MalformedDocument> {
    if !text.contains("${") {
        return Ok(());
    }
    Err(MalformedDocument::Variable { text: text.chars().take(128).collect() })
}

macro_rules! kinds {
    ($($name:ident $kind:ident)*) => {$(
        impl $name {
            /// Reads a document.
            pub fn parse(text: &str) -> Result<Self, MalformedDocument> {
                Document::parse(text, Kind::$kind).map(Self)
            }

            /// The text that it was read from.
            pub fn text(&self) -> &str {
                &self.0.text
            }

            /// Its characters, white space excepted: what IAM's limits count.
            pub fn len(&self) -> usize {
                self.0.text.chars().filter(|one| !one.is_whitespace()).count()
            }

            /// Whether it says nothing, which no document does.
            pub fn is_empty(&self) -> bool {
                self.0.statements.is_empty()
            }
        }

        impl TryFrom<String> for $name {
            type Error = MalformedDocument;
            fn try_from(text: String) -> Result<Self, MalformedDocument> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(document: $name) -> String {
                document.0.text
            }
        }
    )*};
}

kinds!(IdentityPolicy Identity TrustPolicy Trust ResourcePolicy Resource);
