//! Resources of AWS Cloud Map: namespaces and services, by whichever of their names a request has.
//!
//! What is done to an instance is done to its service. Lists, operations and what is found by names have none.

use neargate_model::{Arn, Scope};

use super::{Fields, Target};
use crate::discovery::ids;

pub(super) fn target(scope: &Scope, operation: &str, fields: &Fields<'_>) -> Target {
    let namespace = |text: &str| ids::arn(scope, "namespace", &ids::namespace(scope, text));
    let registry = |text: &str| ids::arn(scope, "service", &ids::registry(scope, text));
    let resource = match operation {
        "CreateService" => fields.text("NamespaceId").map(namespace),
        "GetNamespace" | "DeleteNamespace" => fields.text("Id").map(namespace),
        "GetService" | "UpdateService" | "DeleteService" => fields.text("Id").map(registry),
        "RegisterInstance"
        | "DeregisterInstance"
        | "GetInstance"
        | "ListInstances"
        | "GetInstancesHealthStatus"
        | "UpdateInstanceCustomHealthStatus" => fields.text("ServiceId").map(registry),
        "TagResource" | "UntagResource" | "ListTagsForResource" => {
            // Written anew, since it can be written in several ways.
            fields.text("ResourceARN").and_then(|text| Arn::parse(text).ok()).map(|arn| arn.to_string())
        }
        _ => None,
    };
    Target::of(resource.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::scope;

    use super::*;

    #[test]
    fn what_an_operation_heeds_is_what_it_is_about() {
        let check = |operation: &str, body: &str, expect: Option<&str>| {
            let target = target(&scope(), operation, &Fields::of(None, body.as_bytes()));
            let expect = expect.map(|rest| format!("arn:aws:servicediscovery:us-east-1:123456789012:{rest}"));
            assert_eq!(target.resources, Vec::from_iter(expect), "{operation} {body}");
        };
        check("CreateService", r#"{"NamespaceId":"ns-1","Id":"ns-2"}"#, Some("namespace/ns-1"));
        check("DeleteNamespace", r#"{"Id":"ns-1"}"#, Some("namespace/ns-1"));
        let by_arn = r#"{"Id":"arn:aws:servicediscovery:us-east-1:123456789012:service/srv-1"}"#;
        check("GetService", by_arn, Some("service/srv-1"));
        check("RegisterInstance", r#"{"ServiceId":"srv-1","InstanceId":"i"}"#, Some("service/srv-1"));
        let tagged = r#"{"ResourceARN":"arn:aws-cn:servicediscovery:us-east-1:123456789012:service/srv-1"}"#;
        check("TagResource", tagged, Some("service/srv-1"));
        check("ListServices", r#"{"Id":"srv-1"}"#, None);
        check("DiscoverInstances", r#"{"NamespaceName":"a","ServiceName":"b"}"#, None);
    }
}
