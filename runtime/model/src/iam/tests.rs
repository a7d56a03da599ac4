use super::*;
use crate::AccountId;

const ACCOUNT: &str = "123456789012";

fn policy(statements: &str) -> IdentityPolicy {
    IdentityPolicy::parse(&format!(r#"{{"Version":"2012-10-17","Statement":{statements}}}"#)).unwrap()
}

fn ask(policies: &[&str], action: &str, resource: &str, context: &Context) -> Decision {
    let policies: Vec<IdentityPolicy> = policies.iter().map(|text| policy(text)).collect();
    decide(&policies, &Asked { action, resource, context })
}

#[test]
fn a_denial_wins_and_silence_refuses() {
    const ALLOW: &str = r#"{"Effect":"Allow","Action":"ecs:*","Resource":"*"}"#;
    const DENY: &str = r#"[{"Effect":"Deny","Action":["ecs:Stop*","ecs:deletecluster"],"Resource":"arn:aws:ecs:*:*:task/c/*"}]"#;
    let check = |policies: &[&str], action: &str, resource: &str, expect| {
        assert_eq!(ask(policies, action, resource, &Context::default()), expect, "{action} {resource}");
    };
    let task = "arn:aws:ecs:us-east-1:123456789012:task/c/0";
    check(&[], "ecs:RunTask", "*", Decision::NotAllowed);
    check(&[ALLOW], "ecs:RunTask", "*", Decision::Allowed);
    check(&[ALLOW], "ECS:runtask", "*", Decision::Allowed);
    check(&[ALLOW], "ec2:RunTask", "*", Decision::NotAllowed);
    check(&[ALLOW, DENY], "ecs:StopTask", task, Decision::Denied);
    check(&[DENY, ALLOW], "ecs:StopTask", task, Decision::Denied);
    check(&[ALLOW, DENY], "ecs:StopTask", "arn:aws:ecs:us-east-1:1:task/d/0", Decision::Allowed);
    check(&[DENY], "ecs:RunTask", task, Decision::NotAllowed);
    let but = r#"{"Effect":"Allow","NotAction":"iam:*","NotResource":"arn:aws:ecs:*:*:cluster/secret"}"#;
    check(&[but], "iam:GetRole", "*", Decision::NotAllowed);
    check(&[but], "ecs:DeleteCluster", "arn:aws:ecs:r:1:cluster/secret", Decision::NotAllowed);
    check(&[but], "ecs:DeleteCluster", "arn:aws:ecs:r:1:cluster/other", Decision::Allowed);
}

#[test]
fn conditions_hold() {
    let check = |condition: &str, context: &[(&str, &str)], expect: bool| {
        let text = format!(r#"{{"Effect":"Allow","Action":"*","Resource":"*","Condition":{condition}}}"#);
        let context =
            context.iter().fold(Context::default(), |context, (key, value)| context.with(key, *value));
        let decision = ask(&[&text], "ecs:RunTask", "*", &context);
        assert_eq!(decision == Decision::Allowed, expect, "{condition} {context:?}");
    };
    let text = r#"{"StringEquals":{"aws:PrincipalAccount":["1","2"]}}"#;
    check(text, &[("aws:principalaccount", "2")], true);
    check(text, &[("AWS:PrincipalAccount", "3")], false);
    check(text, &[], false);
    let not = r#"{"StringNotEquals":{"aws:userid":["1","2"]}}"#;
    check(not, &[("aws:userid", "2")], false);
    check(not, &[("aws:userid", "3")], true);
    check(not, &[], true);
    check(r#"{"StringEqualsIfExists":{"aws:userid":"1"}}"#, &[], true);
    check(r#"{"StringEqualsIfExists":{"aws:userid":"1"}}"#, &[("aws:userid", "2")], false);
    check(r#"{"StringLike":{"aws:userid":"a*c?"}}"#, &[("aws:userid", "abbcd")], true);
    check(r#"{"StringEquals":{"aws:userid":"a*"}}"#, &[("aws:userid", "ab")], false);
    check(r#"{"StringEqualsIgnoreCase":{"aws:userid":"AB"}}"#, &[("aws:userid", "ab")], true);
    check(r#"{"ArnNotLike":{"aws:userid":"arn:aws:ecs:*"}}"#, &[("aws:userid", "arn:aws:ecs:x")], false);
    check(r#"{"NumericLessThanEquals":{"aws:userid":10}}"#, &[("aws:userid", "10")], true);
    check(r#"{"NumericLessThanEquals":{"aws:userid":10}}"#, &[("aws:userid", "ten")], false);
    check(r#"{"NumericNotEquals":{"aws:userid":"10"}}"#, &[("aws:userid", "11")], true);
    check(
        r#"{"DateGreaterThan":{"aws:userid":"2024-01-01T00:00:00Z"}}"#,
        &[("aws:userid", "1709208001")],
        true,
    );
    check(r#"{"DateLessThan":{"aws:userid":"2024-01-01"}}"#, &[("aws:userid", "1709208001")], false);
    check(r#"{"Bool":{"aws:userid":false}}"#, &[("aws:userid", "false")], true);
    check(r#"{"IpAddress":{"aws:userid":["10.0.0.0/8","::1"]}}"#, &[("aws:userid", "10.1.2.3")], true);
    check(r#"{"NotIpAddress":{"aws:userid":"10.0.0.0/8"}}"#, &[("aws:userid", "10.1.2.3")], false);
    check(r#"{"Null":{"aws:userid":"true"}}"#, &[], true);
    check(r#"{"Null":{"aws:userid":true}}"#, &[("aws:userid", "")], false);
    check(
        r#"{"ForAnyValue:StringEquals":{"aws:userid":"a"}}"#,
        &[("aws:userid", "a"), ("aws:userid", "b")],
        true,
    );
    check(
        r#"{"ForAllValues:StringEquals":{"aws:userid":"a"}}"#,
        &[("aws:userid", "a"), ("aws:userid", "b")],
        false,
    );
    check(r#"{"ForAllValues:StringEquals":{"aws:userid":"a"}}"#, &[], true);
    // All of them must hold.
    let both = r#"{"StringEquals":{"aws:userid":"1","aws:SourceArn":"2"}}"#;
    check(both, &[("aws:userid", "1"), ("aws:SourceArn", "2")], true);
    check(both, &[("aws:userid", "1")], false);
}

#[test]
fn what_is_not_understood_is_refused() {
    let check = |statement: &str| {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":{statement}}}"#);
        assert!(IdentityPolicy::parse(&text).is_err(), "{text}");
    };
    check("[]");
    check(r#"{"Effect":"Allow","Action":"*"}"#);
    check(r#"{"Effect":"Maybe","Action":"*","Resource":"*"}"#);
    check(r#"{"Effect":"Allow","Action":"*","NotAction":"*","Resource":"*"}"#);
    check(r#"{"Effect":"Allow","Action":"RunTask","Resource":"*"}"#);
    check(r#"{"Effect":"Allow","Action":[],"Resource":"*"}"#);
    check(r#"{"Effect":"Allow","Action":"*","Resource":"task/c"}"#);
    check(r#"{"Effect":"Allow","Action":"*","Resource":"*","Principal":"*"}"#);
    check(r#"{"Effect":"Allow","Action":"*","Resource":"*","Colour":"red"}"#);
    check(r#"{"Effect":"Deny","Action":"*","Resource":"arn:aws:ecs:*:*:task/${aws:username}"}"#);
    check(
        r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringMatches":{"aws:userid":"b"}}}"#,
    );
    check(
        r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"NullIfExists":{"aws:userid":"true"}}}"#,
    );
    check(
        r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"NumericEquals":{"aws:userid":"b"}}}"#,
    );
    check(
        r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"IpAddress":{"aws:userid":"10.0.0.0/99"}}}"#,
    );
    check(r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"Bool":{"aws:userid":[]}}}"#);
    check(
        r#"{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:ResourceTag/a":"b"}}}"#,
    );
    check(
        r#"[{"Sid":"a","Effect":"Deny","Action":"*","Resource":"*"},{"Sid":"a","Effect":"Deny","Action":"*","Resource":"*"}]"#,
    );
    assert!(IdentityPolicy::parse("").is_err() && IdentityPolicy::parse("{}").is_err());
    assert!(IdentityPolicy::parse(r#"{"Version":"2020-01-01","Statement":[]}"#).is_err());
    let deep = "[".repeat(100_000);
    assert!(IdentityPolicy::parse(&deep).is_err());
}

#[test]
fn who_may_take_on_a_role() {
    let account = || AccountId::new(ACCOUNT).unwrap();
    let role = RoleArn::parse("arn:aws:iam::123456789012:role/r").unwrap();
    let session = Trustee::Session { role, session: "arn:aws:sts::123456789012:assumed-role/r/s".to_owned() };
    let root = Trustee::Root(account());
    let tasks = Trustee::Service(TASKS_SERVICE.to_owned());
    let check = |principal: &str, trustee: &Trustee, expect| {
        let text = format!(
            r#"{{"Statement":{{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{principal}}}}}"#
        );
        let context = Context::default();
        let asked = Asked { action: "sts:AssumeRole", resource: "*", context: &context };
        assert_eq!(TrustPolicy::parse(&text).unwrap().admits(trustee, &asked), expect, "{principal}");
    };
    let services = r#"{"Service":["lambda.amazonaws.com","ecs-tasks.amazonaws.com"]}"#;
    check(services, &tasks, Admission::Named);
    check(services, &root, Admission::Refused);
    check(r#"{"Service":"ecs.amazonaws.com"}"#, &tasks, Admission::Refused);
    check(r#""*""#, &tasks, Admission::Refused);
    check(r#""*""#, &session, Admission::ByAccount);
    check(r#"{"AWS":"arn:aws:iam::123456789012:root"}"#, &root, Admission::Named);
    check(r#"{"AWS":"123456789012"}"#, &session, Admission::ByAccount);
    check(r#"{"AWS":"210987654321"}"#, &session, Admission::Refused);
    check(r#"{"AWS":"arn:aws:iam::123456789012:role/r"}"#, &session, Admission::Named);
    check(r#"{"AWS":"arn:aws:iam::123456789012:role/R"}"#, &session, Admission::Refused);
    for text in [
        r#"{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole"}}"#,
        r#"{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"AWS":"arn:aws:iam::*:root"}}}"#,
        r#"{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"Robot":"x"}}}"#,
        r#"{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":"*","Resource":"*"}}"#,
    ] {
        assert!(TrustPolicy::parse(text).is_err(), "{text}");
    }
}

#[test]
fn limits_do_not_count_white_space() {
    let text = "{ \"Statement\" :\n {\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\"}}";
    let policy = IdentityPolicy::parse(text).unwrap();
    assert_eq!((policy.text(), policy.len()), (text, text.split_whitespace().map(str::len).sum()));
}

#[test]
fn a_resource_says_who_may_use_it() {
    let role = RoleArn::parse("arn:aws:iam::123456789012:role/r").unwrap();
    let session = "arn:aws:sts::123456789012:assumed-role/r/s".to_owned();
    let who = Trustee::Session { role, session };
    let check = |statements: &str, action: &str, expect: Decision| {
        let policy =
            ResourcePolicy::parse(&format!(r#"{{"Version":"2008-10-17","Statement":{statements}}}"#))
                .unwrap();
        let context = Context::default();
        let asked =
            Asked { action, resource: "arn:aws:ecr:us-east-1:123456789012:repository/a", context: &context };
        assert_eq!(policy.decide(&who, &asked), expect, "{statements} {action}");
    };
    let by = |effect: &str, principal: &str| {
        format!(r#"[{{"Effect":"{effect}","Principal":{principal},"Action":"ecr:Batch*"}}]"#)
    };
    let role = r#"{"AWS":"arn:aws:iam::123456789012:role/r"}"#;
    check(&by("Allow", role), "ecr:BatchGetImage", Decision::Allowed);
    check(&by("Allow", role), "ecr:PutImage", Decision::NotAllowed);
    check(&by("Deny", role), "ecr:BatchGetImage", Decision::Denied);
    check(&by("Allow", r#""*""#), "ecr:BatchGetImage", Decision::Allowed);
    check(&by("Allow", r#"{"AWS":"123456789012"}"#), "ecr:BatchGetImage", Decision::NotAllowed);
    check(&by("Deny", r#"{"AWS":"123456789012"}"#), "ecr:BatchGetImage", Decision::Denied);
    check(
        &by("Allow", r#"{"AWS":"arn:aws:iam::123456789012:role/x"}"#),
        "ecr:BatchGetImage",
        Decision::NotAllowed,
    );
    let without = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ecr:*"}]}"#;
    assert!(ResourcePolicy::parse(without).is_err());
}
