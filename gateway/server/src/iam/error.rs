//! Errors of roles and policies as IAM words them. Every variant is named; nothing unexpected is shown to a client.

use neargate_control::IamError as Refusal;
use neargate_model::iam::MalformedDocument;
use neargate_store::StoreError;
use neargate_wire::ErrorReply;
use neargate_wire::iam::IamError;

pub(super) fn validation(message: impl Into<String>) -> IamError {
    IamError::Reply(ErrorReply::sender(400, "ValidationError", message))
}

pub(super) fn not_found(message: impl Into<String>) -> IamError {
    IamError::NoSuchEntity { message: message.into() }
}

pub(super) fn malformed(error: &MalformedDocument) -> IamError {
    IamError::MalformedPolicyDocument { message: error.to_string() }
}

/// A failure of ours: its details are for the log, not for the client.
pub(super) fn store(error: &StoreError) -> IamError {
    if let StoreError::TooLarge { what, size, limit } = error {
        let message = format!("The request is too large to be stored: {what} of {size} is over {limit}.");
        return IamError::LimitExceeded { message };
    }
    tracing::error!(error = neargate_model::chain(error), "store failed");
    let message = match error {
        StoreError::Full { .. } => "The server's disk is full; nothing was accepted.",
        _ => "The server could not reach its store; try again.",
    };
    IamError::ServiceFailure { message: message.to_owned() }
}

pub(super) fn refused(error: &Refusal) -> IamError {
    match error {
        Refusal::RoleNotFound { name } => not_found(format!("The role with name {name} cannot be found.")),
        Refusal::PolicyNotFound { arn } => {
            not_found(format!("Policy {arn} does not exist or is not attachable."))
        }
        Refusal::InlineNotFound { policy, .. } => {
            not_found(format!("The role policy with name {policy} cannot be found."))
        }
        Refusal::NotAttached { arn, .. } => not_found(format!("Policy {arn} was not found.")),
        Refusal::Exists { kind, name } => {
            IamError::EntityAlreadyExists { message: format!("{kind} with name {name} already exists.") }
        }
        Refusal::RoleHasPolicies { .. } => IamError::DeleteConflict {
            message: "Cannot delete entity, must detach all policies first.".to_owned(),
        },
        Refusal::PolicyAttached { .. } => {
            IamError::DeleteConflict { message: "Cannot delete a policy attached to entities.".to_owned() }
        }
        Refusal::NotOurs { arn } => IamError::Reply(ErrorReply::sender(
            403,
            "AccessDenied",
            format!("Policy {arn} is AWS's and cannot be changed."),
        )),
        Refusal::Limit { what, limit } => {
            IamError::LimitExceeded { message: format!("Cannot exceed quota of {limit} for {what}.") }
        }
        Refusal::Store(error) => store(error),
    }
}
