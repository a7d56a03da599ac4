//! Sessions: of roles, and of the root user.

use neargate_auth::{Credentials, KeyPair, Seal, Session, SessionOf, Timestamp};
use neargate_model::SessionName;
use neargate_model::iam::{Admission, Asked, Context, Role, RoleArn, SESSION_S_DEFAULT};
use neargate_wire::ErrorReply;
use neargate_wire::sts::{
    self, AssumeRoleRequest, AssumeRoleResponse, AssumedRoleUser, GetSessionTokenRequest,
    GetSessionTokenResponse, StsError,
};
use uuid::Uuid;

use super::StsApi;
use crate::RequestContext;
use crate::access::{now, session_arn, session_user_id};
use crate::rights::{AccessDenied, Rights};

const ASSUME_ROLE: &str = "sts:AssumeRole";
/// How long the root user's sessions last at most, in seconds (API reference, GetSessionToken).
const ROOT_SESSION_S_MAX: i32 = 3_600;
/// How long a session lasts at most that a session of a role has begun, in seconds (IAM User Guide, "Role chaining").
const CHAINED_S_MAX: i32 = 3_600;

pub(super) async fn assume_role(
    api: &StsApi,
    cx: &RequestContext,
    input: AssumeRoleRequest,
) -> Result<AssumeRoleResponse, StsError> {
    refuse_unsupported(&input)?;
    let arn = RoleArn::parse(&input.role_arn)
        .map_err(|_| validation(format!("{:.128} is invalid", input.role_arn)))?;
    let session =
        SessionName::new(input.role_session_name.clone()).map_err(|error| validation(error.to_string()))?;
    let role = admitted(api, cx, &arn, input.external_id.as_deref()).await?;
    let is_chained = matches!(cx.rights, Rights::Role(_));
    let default_s = i32::try_from(SESSION_S_DEFAULT).unwrap_or(i32::MAX);
    let asked_s = input.duration_seconds.unwrap_or(default_s);
    if is_chained && asked_s > CHAINED_S_MAX {
        return Err(validation(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
        ));
    }
    if asked_s > i32::try_from(role.session_s_max).unwrap_or(i32::MAX) {
        return Err(validation(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    let expires_at = Timestamp::from_unix_s(now().unix_s() + i64::from(asked_s));
    let made = issue(api.access.seal(), &role, &session, expires_at, &random());
    let user = AssumedRoleUser {
        assumed_role_id: session_user_id(&role.id, &session),
        arn: session_arn(&role.account, &role.name, &session),
    };
    Ok(AssumeRoleResponse {
        credentials: Some(to_wire(&made)),
        assumed_role_user: Some(user),
        ..AssumeRoleResponse::default()
    })
}

pub(super) fn get_session_token(
    api: &StsApi,
    cx: &RequestContext,
    input: &GetSessionTokenRequest,
) -> Result<GetSessionTokenResponse, StsError> {
    if !matches!(cx.rights, Rights::Root { is_session: false, .. }) {
        return Err(access_denied("Cannot call GetSessionToken with session credentials"));
    }
    if input.serial_number.is_some() || input.token_code.is_some() {
        return Err(validation("MFA is not supported by Neargate."));
    }
    let asked_s = input.duration_seconds.unwrap_or(ROOT_SESSION_S_MAX).min(ROOT_SESSION_S_MAX);
    let expires_at = Timestamp::from_unix_s(now().unix_s() + i64::from(asked_s));
    let session = Session {
        account: cx.scope.account.to_string(),
        of: SessionOf::Root { key: api.access.root_key() },
        expires_at,
    };
    let made = api.access.seal().issue(&session, &random());
    Ok(GetSessionTokenResponse { credentials: Some(to_wire(&made)), ..GetSessionTokenResponse::default() })
}

/// New credentials of a session of a role.
pub(crate) fn issue(
    seal: &Seal,
    role: &Role,
    session: &SessionName,
    expires_at: Timestamp,
    random: &[u8; KeyPair::RANDOM_LEN],
) -> Credentials {
    let of =
        SessionOf::Role { name: role.name.to_string(), id: role.id.clone(), session: session.to_string() };
    seal.issue(&Session { account: role.account.to_string(), of, expires_at }, random)
}

/// Bytes of the system's source of randomness.
fn random() -> [u8; KeyPair::RANDOM_LEN] {
    let mut bytes = [0; KeyPair::RANDOM_LEN];
    for chunk in bytes.chunks_mut(16) {
        chunk.copy_from_slice(&Uuid::new_v4().into_bytes()[..chunk.len()]);
    }
    bytes
}

/// The role, if the caller may take it on: it must trust the caller, and where it trusts the whole account, the
/// caller's own policies must allow it, too.
async fn admitted(
    api: &StsApi,
    cx: &RequestContext,
    arn: &RoleArn,
    external_id: Option<&str>,
) -> Result<std::sync::Arc<Role>, StsError> {
    let resource = arn.to_string();
    let denied = || access_denied(AccessDenied::new(&cx.principal, ASSUME_ROLE, &resource).to_string());
    // Whether it is there is nobody's business who may not take it on.
    let role = match arn.account == cx.scope.account {
        true => api.control.find_role(&arn.account, &arn.name).await.map_err(|error| store(&error))?,
        false => None,
    };
    let role = role.filter(|role| role.arn() == *arn).ok_or_else(denied)?;
    let know = |context: Context| match external_id {
        Some(id) => context.with("sts:ExternalId", id),
        None => context,
    };
    let context = match &cx.rights {
        Rights::Root { account, .. } => Context::default().with("aws:PrincipalAccount", account.as_str()),
        Rights::Role(rights) => rights.context.clone(),
    };
    let context = know(context);
    let asked = Asked { action: ASSUME_ROLE, resource: &resource, context: &context };
    match role.trust.admits(&cx.rights.trustee(), &asked) {
        Admission::Refused => Err(denied()),
        Admission::ByAccount => match cx.rights.check(ASSUME_ROLE, &resource, know) {
            Ok(()) => Ok(role),
            Err(denied) => Err(access_denied(denied.to_string())),
        },
        // By name it is enough that nothing denies it.
        Admission::Named if cx.rights.denies(ASSUME_ROLE, &resource, know) => Err(denied()),
        Admission::Named => Ok(role),
    }
}

/// What would narrow a session down and cannot here: to go on without it would give more than was asked for.
fn refuse_unsupported(input: &AssumeRoleRequest) -> Result<(), StsError> {
    let is_some = |list: Option<usize>| list.is_some_and(|items| items > 0);
    let given = [
        ("Policy", input.policy.is_some()),
        ("PolicyArns", is_some(input.policy_arns.as_ref().map(Vec::len))),
        ("Tags", is_some(input.tags.as_ref().map(Vec::len))),
        ("TransitiveTagKeys", is_some(input.transitive_tag_keys.as_ref().map(Vec::len))),
        ("SerialNumber", input.serial_number.is_some()),
        ("TokenCode", input.token_code.is_some()),
        ("SourceIdentity", input.source_identity.is_some()),
        ("ProvidedContexts", is_some(input.provided_contexts.as_ref().map(Vec::len))),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(validation(format!("{name} is not supported by Neargate."))),
        None => Ok(()),
    }
}

fn to_wire(made: &Credentials) -> sts::Credentials {
    sts::Credentials {
        access_key_id: made.pair.access_key.to_string(),
        secret_access_key: made.pair.secret.expose().to_owned(),
        session_token: made.token.expose().to_owned(),
        expiration: neargate_wire::Timestamp::from_millis(made.expires_at.unix_s() * 1000),
    }
}

fn validation(message: impl Into<String>) -> StsError {
    StsError::Reply(ErrorReply::sender(400, "ValidationError", message))
}

fn access_denied(message: impl Into<String>) -> StsError {
    StsError::Reply(ErrorReply::sender(403, "AccessDenied", message))
}

fn store(error: &neargate_store::StoreError) -> StsError {
    tracing::error!(error = neargate_model::chain(error), "store failed");
    let message = "The server could not reach its store; try again.";
    StsError::Reply(ErrorReply::receiver(500, "InternalFailure", message))
}
