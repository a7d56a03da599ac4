//! Whether policies allow something (IAM User Guide, "How AWS enforcement code logic evaluates requests").

use super::condition::Context;
use super::document::{Effect, IdentityPolicy, Matching, Statement};
use super::pattern::{matches, matches_ignoring_case};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The action, for example `ecs:RunTask`.
    pub action: &'a str,
    /// The ARN of the resource, or `*` where an action has none.
    pub resource: &'a str,
    /// What else is known.
    pub context: &'a Context,
}

/// What policies say to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// One allows it and none denies it.
    Allowed,
    /// One denies it.
    Denied,
    /// None says anything.
    NotAllowed,
}

/// What these policies together say to it.
pub fn decide<'a>(policies: impl IntoIterator<Item = &'a IdentityPolicy>, asked: &Asked<'_>) -> Decision {
    let mut decision = Decision::NotAllowed;
    for statement in policies.into_iter().flat_map(|policy| &policy.0.statements) {
        if statement.applies(asked) {
            match statement.effect {
                Effect::Deny => return Decision::Denied,
                Effect::Allow => decision = Decision::Allowed,
            }
        }
    }
    decision
}

impl Statement {
    pub(super) fn applies(&self, asked: &Asked<'_>) -> bool {
        // Names of actions have no case, ARNs have.
        self.actions.admits(|action| matches_ignoring_case(action, asked.action))
            && self.resources.admits(|resource| matches(resource, asked.resource))
            && self.conditions.iter().all(|condition| condition.holds(asked.context))
    }
}

impl Matching {
    fn admits(&self, is_match: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Any(patterns) => patterns.iter().any(|pattern| is_match(pattern)),
            Self::NoneOf(patterns) => !patterns.iter().any(|pattern| is_match(pattern)),
        }
    }
}
