//! Amazon Resource Names: `arn:aws:SERVICE:REGION:ACCOUNT:RESOURCE`.
//!
//! Source: IAM User Guide, "Identify AWS resources with Amazon Resource Names (ARNs)".

use std::fmt;

use crate::{AccountId, ClusterName, ContainerId, Family, Region, Scope, TaskId};

/// A parsed ARN of a resource that lives in an account and a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arn {
    /// The service, for example `ecs`.
    pub service: String,
    /// Account and region.
    pub scope: Scope,
    /// What follows the account, for example `task/cluster/id`.
    pub resource: String,
}

/// A text that is no ARN of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not an ARN of the form arn:aws:service:region:account:resource")]
pub struct InvalidArn {
    /// The text, cut to 64 characters.
    pub value: String,
}

impl Arn {
    /// Reads an ARN.
    pub fn parse(value: &str) -> Result<Self, InvalidArn> {
        let invalid = || InvalidArn { value: value.chars().take(64).collect() };
        let mut parts = value.splitn(6, ':');
        let mut part = || parts.next().ok_or_else(invalid);
        if part()? != "arn" || !part()?.starts_with("aws") {
            return Err(invalid());
        }
        let service = part()?.to_owned();
        let region = Region::new(part()?).map_err(|_| invalid())?;
        let account = AccountId::new(part()?).map_err(|_| invalid())?;
        let resource = part()?.to_owned();
        if service.is_empty() || resource.is_empty() {
            return Err(invalid());
        }
        Ok(Self { service, scope: Scope { account, region }, resource })
    }

    fn ecs(scope: &Scope, resource: String) -> Self {
        Self { service: "ecs".to_owned(), scope: scope.clone(), resource }
    }

    /// `cluster/NAME`
    pub fn cluster(scope: &Scope, name: &ClusterName) -> Self {
        Self::ecs(scope, format!("cluster/{name}"))
    }

    /// `task-definition/FAMILY:REVISION`
    pub fn task_definition(scope: &Scope, family: &Family, revision: u32) -> Self {
        Self::ecs(scope, format!("task-definition/{family}:{revision}"))
    }

    /// `task/CLUSTER/ID`
    pub fn task(scope: &Scope, cluster: &ClusterName, id: &TaskId) -> Self {
        Self::ecs(scope, format!("task/{cluster}/{id}"))
    }

    /// `container/CLUSTER/TASK/ID`
    pub fn container(scope: &Scope, cluster: &ClusterName, task: &TaskId, id: &ContainerId) -> Self {
        Self::ecs(scope, format!("container/{cluster}/{task}/{id}"))
    }
}

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scope { account, region } = &self.scope;
        write!(f, "arn:aws:{}:{region}:{account}:{}", self.service, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, resource: Option<&str>) {
        let parsed = Arn::parse(value);
        assert_eq!(parsed.as_ref().ok().map(|arn| arn.resource.as_str()), resource, "{value}");
        if let Ok(arn) = parsed {
            assert_eq!(arn.to_string(), value);
        }
    }

    #[test]
    fn arns() {
        check("arn:aws:ecs:us-east-1:123456789012:cluster/c", Some("cluster/c"));
        check("arn:aws:ecs:eu-west-1:123456789012:task-definition/f:3", Some("task-definition/f:3"));
        check("arn:aws:ecs:us-east-1:12345678901:cluster/c", None);
        check("arn:aws:ecs::123456789012:cluster/c", None);
        check("arn:aws:ecs:us-east-1:123456789012:", None);
        check("arn:aws:ecs:us-east-1:123456789012", None);
        check("cluster/c", None);
        check("", None);
    }
}
