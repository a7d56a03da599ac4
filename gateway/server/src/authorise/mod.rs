//! Which action a request is, on which resources: what a role's policies are asked about.
//!
//! It is worked out from the request as it came, before it is decoded, so that no operation can be forgotten: one that
//! is not named here has the resource `*`, which is what AWS has for operations without resources, and which only a
//! policy for everything allows. Source: Service Authorization Reference.

mod discovery;
mod ec2;
mod ecr;
mod ecs;
mod fields;
mod iam;
mod logs;

use std::collections::BTreeMap;

use neargate_control::Control;
use neargate_model::Scope;
use neargate_model::iam::{Context, ResourcePolicy};
use neargate_wire::{Form, Protocol, Route};

use crate::rights::{AccessDenied, Rights};

use fields::Fields;

/// What an operation without resources acts on.
const EVERYTHING: &str = "*";

/// What a request acts on.
#[derive(Debug, Default, PartialEq)]
struct Target {
    /// ARNs; every one must be allowed.
    resources: Vec<String>,
    /// What is known of it: keys of conditions.
    known: Vec<(&'static str, String)>,
    /// Policies of resources that have one, by ARN.
    policies: BTreeMap<String, ResourcePolicy>,
}

impl Target {
    fn of(resources: Vec<String>) -> Self {
        Self { resources, ..Self::default() }
    }

    fn with(mut self, key: &'static str, value: Option<String>) -> Self {
        self.known.extend(value.map(|value| (key, value)));
        self
    }
}

/// Refuses a request that the caller's rights do not allow.
pub(crate) async fn check(
    control: &Control,
    scope: &Scope,
    rights: &Rights,
    route: &Route,
    (form, body): (Option<&Form>, &[u8]),
) -> Result<(), AccessDenied> {
    let service = route.service.scope;
    // STS asks the role's own policy as well, and tells everybody who they are.
    if matches!(rights, Rights::Root { .. }) || service == "sts" {
        return Ok(());
    }
    // Members are read as the operation itself reads them.
    let is_form = matches!(route.protocol, Protocol::Query | Protocol::Ec2);
    let fields = &Fields::of(form.filter(|_| is_form), body);
    let operation = route.operation.as_str();
    let target = match service {
        "ec2" => ec2::target(control, scope, operation, fields).await,
        "ecr" => ecr::target(control, scope, operation, fields).await,
        "ecs" => ecs::target(control, scope, operation, fields).await,
        "iam" => iam::target(control, scope, operation, fields).await,
        "logs" => logs::target(scope, operation, fields),
        "servicediscovery" => discovery::target(scope, operation, fields),
        _ => Target::default(),
    };
    let action = format!("{service}:{operation}");
    let know = |context: Context| {
        target.known.iter().fold(context, |context, (key, value)| context.with(key, value.as_str()))
    };
    if target.resources.is_empty() {
        return rights.check(&action, EVERYTHING, know);
    }
    target
        .resources
        .iter()
        .try_for_each(|resource| rights.check_with(&action, resource, target.policies.get(resource), know))
}
