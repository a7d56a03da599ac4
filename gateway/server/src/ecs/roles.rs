//! Roles of tasks.

use neargate_model::iam::RoleArn;
use neargate_model::{AccountId, RoleName};
use neargate_wire::ErrorReply;
use neargate_wire::ecs::EcsError;

use super::error::client;
use crate::RequestContext;
use crate::rights::AccessDenied;

/// A role by name or ARN, as ECS takes either.
pub(super) fn read(account: &AccountId, text: &str) -> Result<RoleArn, EcsError> {
    let by_name = |name| RoleArn { account: account.clone(), path: "/".to_owned(), name };
    let role = RoleName::new(text).map(by_name).or_else(|_| RoleArn::parse(text));
    role.map_err(|_| client("Role is not valid"))
}

/// Refuses roles that the caller may not hand to tasks.
pub(super) fn check_pass(cx: &RequestContext, texts: &[Option<&String>]) -> Result<(), EcsError> {
    for text in texts.iter().copied().flatten().filter(|text| !text.is_empty()) {
        let role = read(&cx.scope.account, text)?;
        cx.rights.check_pass_role(&role).map_err(|denied| access_denied(&denied))?;
    }
    Ok(())
}

/// A refusal as ECS words it.
pub(super) fn access_denied(denied: &AccessDenied) -> EcsError {
    EcsError::Reply(ErrorReply::sender(400, "AccessDeniedException", denied.to_string()))
}

/// The role's own text, empty for none.
pub(super) fn wanted(account: &AccountId, text: Option<&String>) -> Result<Option<RoleArn>, EcsError> {
    text.filter(|text| !text.is_empty()).map(|text| read(account, text)).transpose()
}
