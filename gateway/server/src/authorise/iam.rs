//! Resources of AWS IAM.

use neargate_control::Control;
use neargate_model::{RoleName, Scope};

use super::{Fields, Target};

pub(super) async fn target(control: &Control, scope: &Scope, operation: &str, fields: &Fields<'_>) -> Target {
    let account = &scope.account;
    let path = fields.text("Path").unwrap_or("/");
    // Lists of everything heed no name, whoever sends one.
    let named = fields.text("RoleName").filter(|_| !["ListRoles", "ListPolicies"].contains(&operation));
    let role = match (named, operation) {
        (Some(name), "CreateRole") => Some(format!("arn:aws:iam::{account}:role{path}{name}")),
        (Some(name), _) => Some(role_arn(control, scope, name).await),
        (None, _) => None,
    };
    let policy = match operation {
        "CreatePolicy" => {
            fields.text("PolicyName").map(|name| format!("arn:aws:iam::{account}:policy{path}{name}"))
        }
        // A policy that is attached is a condition on the role.
        "GetPolicy" | "GetPolicyVersion" | "DeletePolicy" => fields.text("PolicyArn").map(str::to_owned),
        _ => None,
    };
    let attached = fields.text("PolicyArn").filter(|_| role.is_some()).map(str::to_owned);
    Target::of(role.into_iter().chain(policy).collect()).with("iam:PolicyARN", attached)
}

/// The ARN of a role; one that does not exist has no path.
async fn role_arn(control: &Control, scope: &Scope, name: &str) -> String {
    let account = &scope.account;
    if let Ok(known) = RoleName::new(name)
        && let Ok(Some(role)) = control.find_role(account, &known).await
    {
        return role.arn().to_string();
    }
    format!("arn:aws:iam::{account}:role/{name}")
}
