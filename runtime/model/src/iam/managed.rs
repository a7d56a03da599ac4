//! The policies of AWS that exist here: those whose whole meaning is about what Neargate serves.
//!
//! Others are unknown, which is said when they are attached: a policy of the same name that says less or more would be
//! worse.

use std::sync::LazyLock;

use super::{IdentityPolicy, PolicyArn};
use crate::PolicyName;

/// A managed policy of AWS.
#[derive(Debug)]
pub struct AwsManaged {
    /// Its ARN.
    pub arn: PolicyArn,
    /// AWS's own id.
    pub id: &'static str,
    /// Which version of it this is.
    pub version: &'static str,
    /// What AWS says of it.
    pub description: &'static str,
    /// What it says.
    pub document: IdentityPolicy,
}

struct Source {
    path: &'static str,
    id: &'static str,
    version: &'static str,
    description: &'static str,
    text: &'static str,
}

/// AWS Managed Policy Reference.
const SOURCES: [Source; 3] = [
    Source {
        path: "/AdministratorAccess",
        id: "ANPAIWMBCKSKIEE64ZLYK",
        version: "v1",
        description: "Provides full access to AWS services and resources.",
        text: r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    },
    Source {
        path: "/AWSDenyAll",
        id: "ANPAZKAPJZG4P43IUQ5E5",
        version: "v1",
        description: "Deny all access.",
        text: r#"{"Version":"2012-10-17","Statement":[{"Sid":"DenyAll","Effect":"Deny","Action":["*"],"Resource":"*"}]}"#,
    },
    Source {
        path: "/service-role/AmazonECSTaskExecutionRolePolicy",
        id: "ANPAJG4T4G4PV56DE72PY",
        version: "v1",
        description: "Provides access to other AWS service resources that are required to run Amazon ECS tasks",
        text: r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:GetAuthorizationToken","ecr:BatchCheckLayerAvailability","ecr:GetDownloadUrlForLayer","ecr:BatchGetImage","logs:CreateLogStream","logs:PutLogEvents"],"Resource":"*"}]}"#,
    },
];

static MANAGED: LazyLock<Vec<AwsManaged>> = LazyLock::new(|| {
    let read = |source: &Source| {
        let Source { path, id, version, description, text } = *source;
        let arn = PolicyArn::parse(&format!("arn:aws:iam::aws:policy{path}")).ok()?;
        let document = IdentityPolicy::parse(text).ok()?;
        Some(AwsManaged { arn, id, version, description, document })
    };
    SOURCES.iter().filter_map(read).collect()
});

/// Those that exist here.
pub fn aws_managed() -> &'static [AwsManaged] {
    &MANAGED
}

/// The one of an ARN.
pub fn aws_managed_by_name(arn: &PolicyArn) -> Option<&'static AwsManaged> {
    aws_managed().iter().find(|managed| managed.arn == *arn)
}

impl AwsManaged {
    /// Its name.
    pub fn name(&self) -> &PolicyName {
        &self.arn.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_can_be_read() {
        assert_eq!(aws_managed().len(), SOURCES.len());
    }
}
