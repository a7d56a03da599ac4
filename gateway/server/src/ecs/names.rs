//! Names and ARNs in requests: every input that names a thing takes either.

use neargate_control::RevisionWanted;
use neargate_model::{Arn, ClusterName, Family, Scope, TaskId, TaskKey};
use neargate_wire::ecs::EcsError;

use super::error::invalid_parameter;

/// The cluster that is meant when a request names none.
const DEFAULT_CLUSTER: &str = "default";

/// The resource of an ECS ARN in this scope, or `None` when the text is no ARN. An ARN of another account
/// or region is not found here: resources of two scopes never meet.
fn resource<'a>(scope: &Scope, text: &'a str, kind: &str) -> Result<Option<&'a str>, EcsError> {
    if !text.starts_with("arn:") {
        return Ok(None);
    }
    let arn = Arn::parse(text).map_err(|_| invalid_parameter(format!("Invalid identifier: {text:.128}")))?;
    if arn.service != "ecs" || arn.scope != *scope {
        let message = format!("Invalid identifier: the ARN is not of this account and region: {text:.128}");
        return Err(invalid_parameter(message));
    }
    let resource = &text[text.len() - arn.resource.len()..];
    match resource.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) => Ok(Some(rest)),
        None => {
            Err(invalid_parameter(format!("Invalid identifier: the ARN is not of a {kind}: {text:.128}")))
        }
    }
}

/// A cluster by short name or ARN.
pub(crate) fn cluster(scope: &Scope, text: Option<&str>) -> Result<ClusterName, EcsError> {
    let text = text.unwrap_or(DEFAULT_CLUSTER);
    let name = resource(scope, text, "cluster")?.unwrap_or(text);
    ClusterName::new(name).map_err(|error| invalid_parameter(format!("Invalid identifier: {error}")))
}

/// A task by id or ARN; an ARN must be of the cluster.
pub(crate) fn task(scope: &Scope, cluster: &ClusterName, text: &str) -> Result<TaskId, EcsError> {
    let id = match resource(scope, text, "task")? {
        None => text,
        Some(rest) => match rest.split_once('/') {
            Some((of, id)) if of == cluster.as_str() => id,
            Some(_) => {
                let message = "The task's cluster is not the one that the request names.";
                return Err(invalid_parameter(message.to_owned()));
            }
            None => rest,
        },
    };
    TaskId::new(id).map_err(|error| invalid_parameter(format!("Invalid identifier: {error}")))
}

/// A task by ARN alone, as tags name it.
pub(super) fn task_key(scope: &Scope, rest: &str) -> Option<TaskKey> {
    let (cluster, id) = rest.split_once('/')?;
    let (cluster, id) = (ClusterName::new(cluster).ok()?, TaskId::new(id).ok()?);
    Some(TaskKey { scope: scope.clone(), cluster, id })
}

/// A task definition as `family`, `family:revision` or ARN.
pub(crate) fn definition(scope: &Scope, text: &str) -> Result<(Family, RevisionWanted), EcsError> {
    let name = resource(scope, text, "task-definition")?.unwrap_or(text);
    family_and_revision(name)
        .ok_or_else(|| invalid_parameter(format!("Invalid identifier for a task definition: {text:.128}")))
}

fn family_and_revision(name: &str) -> Option<(Family, RevisionWanted)> {
    match name.split_once(':') {
        None => Some((Family::new(name).ok()?, RevisionWanted::Latest)),
        Some((family, revision)) => {
            let revision = revision.parse().ok().filter(|revision| *revision > 0)?;
            Some((Family::new(family).ok()?, RevisionWanted::Exactly(revision)))
        }
    }
}

/// A task definition that must name its revision.
pub(super) fn revision(scope: &Scope, text: &str) -> Result<(Family, u32), EcsError> {
    match definition(scope, text)? {
        (family, RevisionWanted::Exactly(revision)) => Ok((family, revision)),
        (_, RevisionWanted::Latest) => Err(invalid_parameter("Revision is missing.".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            account: neargate_model::AccountId::new("123456789012").unwrap(),
            region: neargate_model::Region::new("us-east-1").unwrap(),
        }
    }

    #[test]
    fn clusters() {
        let check = |text: Option<&str>, expect: Option<&str>| {
            let found = cluster(&scope(), text).ok();
            assert_eq!(found.as_ref().map(ClusterName::as_str), expect, "{text:?}");
        };
        check(None, Some("default"));
        check(Some("c"), Some("c"));
        check(Some("arn:aws:ecs:us-east-1:123456789012:cluster/c"), Some("c"));
        check(Some("arn:aws:ecs:us-east-2:123456789012:cluster/c"), None);
        check(Some("arn:aws:ecs:us-east-1:210987654321:cluster/c"), None);
        check(Some("arn:aws:ecs:us-east-1:123456789012:task/c"), None);
        check(Some("a/b"), None);
        check(Some(""), None);
    }

    #[test]
    fn definitions() {
        let check = |text: &str, expect: Option<(&str, RevisionWanted)>| {
            let found = definition(&scope(), text).ok();
            assert_eq!(
                found.as_ref().map(|(family, revision)| (family.as_str(), *revision)),
                expect,
                "{text}"
            );
        };
        check("f", Some(("f", RevisionWanted::Latest)));
        check("f:3", Some(("f", RevisionWanted::Exactly(3))));
        check("f:0", None);
        check("f:x", None);
        check("f:3:4", None);
        let arn = "arn:aws:ecs:us-east-1:123456789012:task-definition/f:12";
        check(arn, Some(("f", RevisionWanted::Exactly(12))));
    }

    #[test]
    fn tasks() {
        let id = "0123456789abcdef0123456789abcdef";
        let name = ClusterName::new("c").unwrap();
        let check = |text: &str, ok: bool| assert_eq!(task(&scope(), &name, text).is_ok(), ok, "{text}");
        check(id, true);
        check(&format!("arn:aws:ecs:us-east-1:123456789012:task/c/{id}"), true);
        check(&format!("arn:aws:ecs:us-east-1:123456789012:task/other/{id}"), false);
        check("nope", false);
    }
}
