//! Roles and policies: who may do what.
//!
//! ```text
//! caller ─▶ role ─▶ its policies ─┬─ a statement denies  ─▶ refused
//!                                 ├─ a statement allows  ─▶ allowed
//!                                 └─ none says anything  ─▶ refused
//! ```
//!
//! Documents are in the language of AWS IAM (IAM User Guide, "Grammar of the IAM JSON policy language" and "Policy
//! evaluation logic"). What of the language is not understood is refused when a document is kept, never later: a
//! condition that is passed over would allow too much.

mod arn;
mod condition;
mod document;
mod evaluate;
mod managed;
mod pattern;
mod principal;
mod record;
#[cfg(test)]
mod tests;

pub use arn::{PolicyArn, PolicyOwner, RoleArn};
pub use condition::Context;
pub use document::{IdentityPolicy, MalformedDocument, ResourcePolicy, TrustPolicy};
pub use evaluate::{Asked, Decision, decide};
pub use managed::{AwsManaged, aws_managed, aws_managed_by_name};
pub use principal::{Admission, Trustee};
pub use record::{
    ATTACHED_MAX, CustomerPolicy, INLINE_LEN_MAX, MANAGED_LEN_MAX, Role, SESSION_S_DEFAULT, SESSION_S_MAX,
    SESSION_S_MIN, TRUST_LEN_MAX,
};

/// The service that takes roles on for tasks.
pub const TASKS_SERVICE: &str = "ecs-tasks.amazonaws.com";
