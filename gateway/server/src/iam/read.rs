//! From IAM's shapes to the model.

use neargate_model::iam::{PolicyArn, Role};
use neargate_model::{PolicyName, RoleName, Tags};
use neargate_wire::iam::{IamError, Tag};

use super::error::{not_found, validation};

pub(super) fn role_name(text: &str) -> Result<RoleName, IamError> {
    RoleName::new(text).map_err(|error| validation(error.to_string()))
}

pub(super) fn policy_name(text: &str) -> Result<PolicyName, IamError> {
    PolicyName::new(text).map_err(|error| validation(error.to_string()))
}

pub(super) fn policy_arn(text: &str) -> Result<PolicyArn, IamError> {
    PolicyArn::parse(text)
        .map_err(|_| not_found(format!("Policy {text:.128} does not exist or is not attachable.")))
}

/// A path, `/` where there is none.
pub(super) fn path(text: Option<&str>) -> Result<String, IamError> {
    let path = text.unwrap_or("/");
    if Role::is_path(path) {
        return Ok(path.to_owned());
    }
    let message = "The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.";
    Err(validation(message))
}

pub(super) fn tags(tags: Option<&Vec<Tag>>) -> Result<Tags, IamError> {
    let mut read = Tags::new();
    for tag in tags.into_iter().flatten() {
        if read.insert(tag.key.clone(), tag.value.clone()).is_some() {
            let message = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
            return Err(IamError::InvalidInput { message: message.to_owned() });
        }
    }
    Ok(read)
}
