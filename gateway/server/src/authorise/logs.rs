//! Resources of Amazon CloudWatch Logs.

use neargate_model::Scope;

use super::{Fields, Target};

pub(super) fn target(scope: &Scope, operation: &str, fields: &Fields<'_>) -> Target {
    let Scope { account, region } = scope;
    let of = |group: &str, stream: &str| {
        format!("arn:aws:logs:{region}:{account}:log-group:{group}:log-stream:{stream}")
    };
    let identifier =
        || fields.text("logGroupIdentifier").map(|text| text.rsplit("log-group:").next().unwrap_or(text));
    // Only members that the operation heeds: others tell nothing of what it does.
    let group = match operation {
        "DescribeLogGroups" => fields.text("logGroupNamePrefix"),
        "DescribeLogStreams" | "FilterLogEvents" | "GetLogEvents" => {
            fields.text("logGroupName").or_else(identifier)
        }
        _ => fields.text("logGroupName"),
    };
    let stream = match operation {
        // Of others the stream is a filter, or does not exist yet.
        "PutLogEvents" | "GetLogEvents" | "DeleteLogStream" => {
            fields.text("logStreamName").unwrap_or_default()
        }
        _ => "",
    };
    match (operation, group) {
        (_, Some(group)) => Target::of(vec![of(group.trim_end_matches(":*"), stream)]),
        // All that there are.
        ("DescribeLogGroups", None) => Target::of(vec![of("", "")]),
        (_, None) => Target::default(),
    }
}

#[cfg(test)]
mod tests {
    use neargate_model::{AccountId, Region};

    use super::*;

    #[test]
    fn groups_and_streams() {
        let scope = Scope {
            account: AccountId::new("123456789012").unwrap(),
            region: Region::new("us-east-1").unwrap(),
        };
        let check = |operation: &str, body: &str, expect: &str| {
            let target = target(&scope, operation, &Fields::of(None, body.as_bytes()));
            assert_eq!(target.resources, [format!("arn:aws:logs:us-east-1:123456789012:log-group:{expect}")]);
        };
        let both = r#"{"logGroupName":"/a","logStreamName":"s"}"#;
        check("PutLogEvents", both, "/a:log-stream:s");
        check("CreateLogStream", both, "/a:log-stream:");
        check("DescribeLogGroups", "{}", ":log-stream:");
        let arn = r#"{"logGroupIdentifier":"arn:aws:logs:us-east-1:123456789012:log-group:/a:*"}"#;
        check("FilterLogEvents", arn, "/a:log-stream:");
        check("DescribeLogGroups", both, ":log-stream:");
        check("DescribeLogGroups", r#"{"logGroupNamePrefix":"/b","logGroupName":"/a"}"#, "/b:log-stream:");
        let mixed = r#"{"logGroupName":"/b","logGroupIdentifier":"/a"}"#;
        check("DeleteLogGroup", mixed, "/b:log-stream:");
    }
}
