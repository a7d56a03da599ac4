use std::sync::Arc;

use neargate_model::iam::{IdentityPolicy, PolicyArn, Role, RoleArn, TrustPolicy};
use neargate_model::lifecycle::testing::scope;
use neargate_model::{PolicyName, RoleName, Tags};
use neargate_store::MemoryStore;

use super::{IamError, NewPolicy, NewRole, RoleUpdate};
use crate::Control;
use crate::tests::bench_on;

const TASKS: &str = r#"{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"Service":"ecs-tasks.amazonaws.com"}}}"#;
const LAMBDA: &str = r#"{"Statement":{"Effect":"Allow","Action":"sts:AssumeRole","Principal":{"Service":"lambda.amazonaws.com"}}}"#;
const ALLOW: &str = r#"{"Statement":{"Effect":"Allow","Action":"ecs:*","Resource":"*"}}"#;

fn name() -> RoleName {
    RoleName::new("r").unwrap()
}

fn inline() -> PolicyName {
    PolicyName::new("p").unwrap()
}

async fn with_role() -> (Control, Role) {
    let control = bench_on(Arc::new(MemoryStore::new())).control;
    let new = NewRole {
        account: scope().account,
        name: name(),
        path: "/".to_owned(),
        description: None,
        trust: TrustPolicy::parse(TASKS).unwrap(),
        session_s_max: 3600,
        tags: Tags::new(),
    };
    let role = control.create_role(&new).await.unwrap();
    let again = NewRole { name: RoleName::new("R").unwrap(), ..new };
    assert!(matches!(control.create_role(&again).await, Err(IamError::Exists { .. })));
    (control, role)
}

#[tokio::test]
async fn a_role_has_its_own_policies_and_those_attached() {
    let (control, role) = with_role().await;
    let account = scope().account;
    let document = || IdentityPolicy::parse(ALLOW).unwrap();
    let new = NewPolicy {
        account: account.clone(),
        name: inline(),
        path: "/x/".to_owned(),
        description: None,
        document: document(),
        tags: Tags::new(),
    };
    let arn = control.create_policy(&new).await.unwrap().arn();
    let aws = PolicyArn::parse("arn:aws:iam::aws:policy/AdministratorAccess").unwrap();
    let update = RoleUpdate::PutInline(inline(), document());
    control.update_role(&account, &name(), &update).await.unwrap();
    control.attach_policy(&account, &name(), &aws).await.unwrap();
    for _ in 0..2 {
        control.attach_policy(&account, &name(), &arn).await.unwrap();
    }
    assert_eq!(control.policy(&account, &arn).await.unwrap().attachments, 1);
    let count = |rights: Option<(RoleArn, Vec<IdentityPolicy>)>| rights.map(|(_, policies)| policies.len());
    assert_eq!(count(control.role_rights(&account, &name(), &role.id).await.unwrap()), Some(3));
    assert_eq!(count(control.role_rights(&account, &name(), "AROAOTHER").await.unwrap()), None);

    // Nothing goes that is in use.
    assert!(matches!(control.delete_policy(&account, &arn).await, Err(IamError::PolicyAttached { .. })));
    assert!(matches!(control.delete_role(&account, &name()).await, Err(IamError::RoleHasPolicies { .. })));
    control.update_role(&account, &name(), &RoleUpdate::DeleteInline(inline())).await.unwrap();
    for arn in [&arn, &aws] {
        control.detach_policy(&account, &name(), arn).await.unwrap();
        let again = control.detach_policy(&account, &name(), arn).await;
        assert!(matches!(again, Err(IamError::NotAttached { .. })));
    }
    control.delete_policy(&account, &arn).await.unwrap();
    assert!(matches!(
        control.attach_policy(&account, &name(), &arn).await,
        Err(IamError::PolicyNotFound { .. })
    ));
    control.delete_role(&account, &name()).await.unwrap();
    assert!(matches!(control.role(&account, &name()).await, Err(IamError::RoleNotFound { .. })));
}

#[tokio::test]
async fn tasks_have_roles_that_trust_ecs() {
    let (control, role) = with_role().await;
    let account = scope().account;
    assert_eq!(
        control.task_role(&scope(), &role.arn()).await.unwrap().map(|role| role.id.clone()),
        Some(role.id.clone())
    );
    let elsewhere = RoleArn { path: "/x/".to_owned(), ..role.arn() };
    assert_eq!(control.task_role(&scope(), &elsewhere).await.unwrap(), None);
    let shouted = RoleArn { name: RoleName::new("R").unwrap(), ..role.arn() };
    assert_eq!(control.task_role(&scope(), &shouted).await.unwrap(), None);
    let of_ecs = TASKS.replace(
        "\"Principal\"",
        r#""Condition":{"StringEquals":{"aws:SourceAccount":"123456789012"},"ArnLike":{"aws:SourceArn":"arn:aws:ecs:*:123456789012:*"}},"Principal""#,
    );
    let trust = RoleUpdate::Trust(TrustPolicy::parse(&of_ecs).unwrap());
    control.update_role(&account, &name(), &trust).await.unwrap();
    assert!(control.task_role(&scope(), &role.arn()).await.unwrap().is_some());
    let trust = RoleUpdate::Trust(TrustPolicy::parse(LAMBDA).unwrap());
    control.update_role(&account, &name(), &trust).await.unwrap();
    assert_eq!(control.task_role(&scope(), &role.arn()).await.unwrap(), None);
}

#[tokio::test]
async fn limits_hold() {
    let (control, _) = with_role().await;
    let padding = "a".repeat(6_000);
    let long = format!(
        r#"{{"Statement":{{"Effect":"Allow","Action":"ecs:*","Resource":"arn:aws:ecs:::{padding}"}}}}"#
    );
    for (policy, fits) in [("a", true), ("b", false), ("a", true)] {
        let (policy, document) = (PolicyName::new(policy).unwrap(), IdentityPolicy::parse(&long).unwrap());
        let put =
            control.update_role(&scope().account, &name(), &RoleUpdate::PutInline(policy, document)).await;
        assert_eq!(put.is_ok(), fits, "{put:?}");
    }
}
