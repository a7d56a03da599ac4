//! What a caller may do.

use std::net::IpAddr;
use std::time::SystemTime;

use neargate_control::Control;
use neargate_model::iam::{
    Asked, Context, Decision, IdentityPolicy, ResourcePolicy, RoleArn, Trustee, decide,
};
use neargate_model::{AccountId, RoleName, Scope, SessionName, Timestamp};
use neargate_store::StoreError;

use crate::access::{session_arn, session_user_id};

/// What a caller may do.
#[derive(Clone, Debug)]
pub enum Rights {
    /// Everything: it is the account's root user.
    Root {
        /// The account.
        account: AccountId,
        /// Whether it has come with a token and not with the root key itself.
        is_session: bool,
    },
    /// What the policies of a role allow.
    Role(Box<RoleRights>),
}

/// What a session of a role may do.
#[derive(Clone, Debug)]
pub struct RoleRights {
    pub(crate) role: RoleArn,
    /// The ARN of the session.
    pub(crate) session: String,
    pub(crate) policies: Vec<IdentityPolicy>,
    /// What is known of its request.
    pub(crate) context: Context,
}

/// A caller may not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("User: {session} is not authorized to perform: {action} on resource: {resource} {}", why(*.is_explicit, .action))]
pub(crate) struct AccessDenied {
    session: String,
    action: String,
    resource: String,
    is_explicit: bool,
}

impl AccessDenied {
    pub(crate) fn new(session: &str, action: &str, resource: &str) -> Self {
        let (session, action, resource) = (session.to_owned(), action.to_owned(), resource.to_owned());
        Self { session, action, resource, is_explicit: false }
    }
}

fn why(is_explicit: bool, action: &str) -> String {
    match is_explicit {
        true => "with an explicit deny in an identity-based policy".to_owned(),
        false => format!("because no identity-based policy allows the {action} action"),
    }
}

impl Rights {
    /// What a session of a role may do now, of which the role's id is known; `None` if the role is gone.
    pub(crate) async fn of_session(
        control: &Control,
        scope: &Scope,
        (name, id): (&RoleName, &str),
        session: &SessionName,
        from: Option<IpAddr>,
    ) -> Result<Option<Self>, StoreError> {
        let found = control.role_rights(&scope.account, name, id).await?;
        Ok(found.map(|(role, policies)| {
            let user_id = session_user_id(id, session);
            let context = context(scope, &role, &user_id, from, SystemTime::now().into());
            let session = session_arn(&scope.account, name, session);
            Self::Role(Box::new(RoleRights { role, session, policies, context }))
        }))
    }

    /// Refuses what the caller may not do to a resource, of which `more` is known.
    pub(crate) fn check(
        &self,
        action: &str,
        resource: &str,
        more: impl FnOnce(Context) -> Context,
    ) -> Result<(), AccessDenied> {
        self.check_with(action, resource, None, more)
    }

    /// The same for a resource that has a policy of its own: either may allow it, and neither may deny it.
    pub(crate) fn check_with(
        &self,
        action: &str,
        resource: &str,
        policy: Option<&ResourcePolicy>,
        more: impl FnOnce(Context) -> Context,
    ) -> Result<(), AccessDenied> {
        let Self::Role(rights) = self else { return Ok(()) };
        let context = more(rights.context.clone());
        let asked = Asked { action, resource, context: &context };
        let by_resource = policy.map(|policy| policy.decide(&self.trustee(), &asked));
        let decision = match (decide(&rights.policies, &asked), by_resource) {
            (Decision::Denied, _) | (_, Some(Decision::Denied)) => Decision::Denied,
            (Decision::Allowed, _) | (_, Some(Decision::Allowed)) => return Ok(()),
            (Decision::NotAllowed, _) => Decision::NotAllowed,
        };
        let denied = AccessDenied::new(&rights.session, action, resource);
        Err(AccessDenied { is_explicit: decision == Decision::Denied, ..denied })
    }

    /// Whether a policy of the caller denies something itself.
    pub(crate) fn denies(&self, action: &str, resource: &str, more: impl FnOnce(Context) -> Context) -> bool {
        self.check(action, resource, more).is_err_and(|denied| denied.is_explicit)
    }

    /// Refuses a role that the caller may not hand to tasks.
    pub(crate) fn check_pass_role(&self, role: &RoleArn) -> Result<(), AccessDenied> {
        let passed_to =
            |context: Context| context.with("iam:PassedToService", neargate_model::iam::TASKS_SERVICE);
        self.check("iam:PassRole", &role.to_string(), passed_to)
    }

    /// Who wants to take on a role.
    pub(crate) fn trustee(&self) -> Trustee {
        match self {
            Self::Root { account, .. } => Trustee::Root(account.clone()),
            Self::Role(rights) => {
                Trustee::Session { role: rights.role.clone(), session: rights.session.clone() }
            }
        }
    }
}

/// What is known of every request of a session of a role (IAM User Guide, "AWS global condition context keys").
fn context(scope: &Scope, role: &RoleArn, user_id: &str, from: Option<IpAddr>, now: Timestamp) -> Context {
    let now_s = (now.as_millis() / 1000).to_string();
    let context = Context::default()
        .with("aws:PrincipalArn", role.to_string())
        .with("aws:PrincipalAccount", scope.account.as_str())
        .with("aws:PrincipalType", "AssumedRole")
        .with("aws:userid", user_id)
        .with("aws:RequestedRegion", scope.region.as_str())
        .with("aws:SecureTransport", "false")
        .with("aws:CurrentTime", &*now_s)
        .with("aws:EpochTime", &*now_s);
    match from {
        Some(from) => context.with("aws:SourceIp", from.to_string()),
        None => context,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(statement: &str) -> Rights {
        let policy = IdentityPolicy::parse(&format!(r#"{{"Statement":{statement}}}"#)).unwrap();
        let role = RoleArn::parse("arn:aws:iam::123456789012:role/r").unwrap();
        let session = "arn:aws:sts::123456789012:assumed-role/r/s".to_owned();
        Rights::Role(Box::new(RoleRights {
            role,
            session,
            policies: vec![policy],
            context: Context::default(),
        }))
    }

    #[test]
    fn refusals_say_what_and_why() {
        let deny = r#"[{"Effect":"Allow","Action":"*","Resource":"*"},{"Effect":"Deny","Action":"ecs:*","Resource":"*"}]"#;
        let check =
            |rights: &Rights| rights.check("ecs:RunTask", "*", |context| context).unwrap_err().to_string();
        assert_eq!(
            check(&rights(deny)),
            "User: arn:aws:sts::123456789012:assumed-role/r/s is not authorized to perform: ecs:RunTask on resource: * \
             with an explicit deny in an identity-based policy"
        );
        let other = rights(r#"{"Effect":"Allow","Action":"ec2:*","Resource":"*"}"#);
        assert!(check(&other).ends_with("because no identity-based policy allows the ecs:RunTask action"));
        let account = AccountId::new("123456789012").unwrap();
        assert!(
            Rights::Root { account, is_session: false }.check("ecs:RunTask", "*", |context| context).is_ok()
        );
    }

    #[test]
    fn roles_are_passed_to_tasks_alone() {
        let role = RoleArn::parse("arn:aws:iam::123456789012:role/x").unwrap();
        let to = |service: &str| {
            rights(&format!(
                r#"{{"Effect":"Allow","Action":"iam:PassRole","Resource":"*","Condition":{{"StringEquals":{{"iam:PassedToService":"{service}"}}}}}}"#
            ))
        };
        assert!(to("ecs-tasks.amazonaws.com").check_pass_role(&role).is_ok());
        assert!(to("lambda.amazonaws.com").check_pass_role(&role).is_err());
    }
}
