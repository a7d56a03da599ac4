//! Resources of Amazon ECR: repositories, which may have policies of their own.

use neargate_control::Control;
use neargate_model::{Arn, RepositoryName, Scope};

use super::{Fields, Target};
use crate::registry::repository_arn;

pub(super) async fn target(control: &Control, scope: &Scope, operation: &str, fields: &Fields<'_>) -> Target {
    let (names, tagged) = names(scope, operation, fields);
    let mut target = Target::default();
    for name in names {
        let arn = repository_arn(scope, &name);
        // Of one that is not there, nothing is known.
        if let Ok(repository) = control.repository(scope, &name).await {
            target.policies.extend(repository.policy.map(|policy| (arn.clone(), policy)));
        }
        target.resources.push(arn);
    }
    target.resources.extend(tagged);
    target
}

/// The repositories that a request is about, and the resource of another kind.
fn names(scope: &Scope, operation: &str, fields: &Fields<'_>) -> (Vec<RepositoryName>, Option<String>) {
    let name = |text: &str| RepositoryName::new(text).ok();
    match operation {
        "GetAuthorizationToken" | "DescribeRegistry" => (Vec::new(), None),
        "DescribeRepositories" => {
            (fields.list("repositoryNames").into_iter().filter_map(name).collect(), None)
        }
        "TagResource" | "UntagResource" | "ListTagsForResource" => {
            let arn = fields.text("resourceArn").and_then(|text| Arn::parse(text).ok());
            let own = arn.as_ref().filter(|arn| arn.service == "ecr" && arn.scope == *scope);
            let own = own.and_then(|arn| arn.resource.strip_prefix("repository/")).and_then(name);
            match own {
                Some(own) => (vec![own], None),
                // Written anew, since it can be written in several ways.
                None => (Vec::new(), arn.map(|arn| arn.to_string())),
            }
        }
        _ => (fields.text("repositoryName").and_then(name).into_iter().collect(), None),
    }
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::scope;

    use super::*;

    #[test]
    fn repositories_by_the_member_that_the_operation_reads() {
        let check = |operation: &str, body: &str, expect: &[&str], other: Option<&str>| {
            let (names, tagged) = names(&scope(), operation, &Fields::of(None, body.as_bytes()));
            let names: Vec<&str> = names.iter().map(RepositoryName::as_str).collect();
            assert_eq!((names.as_slice(), tagged.as_deref()), (expect, other), "{operation} {body}");
        };
        check("PutImage", r#"{"repositoryName":"a/b","repositoryNames":["c"]}"#, &["a/b"], None);
        check(
            "DescribeRepositories",
            r#"{"repositoryNames":["a","b"],"repositoryName":"c"}"#,
            &["a", "b"],
            None,
        );
        check("DescribeRepositories", "{}", &[], None);
        check("GetAuthorizationToken", r#"{"repositoryName":"a"}"#, &[], None);
        check(
            "TagResource",
            r#"{"resourceArn":"arn:aws-cn:ecr:us-east-1:123456789012:repository/a"}"#,
            &["a"],
            None,
        );
        let other = r#"{"resourceArn":"arn:aws:ecr:eu-west-1:123456789012:repository/a"}"#;
        check("TagResource", other, &[], Some("arn:aws:ecr:eu-west-1:123456789012:repository/a"));
    }
}
