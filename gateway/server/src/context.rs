//! What is known of a request beyond its input.

use neargate_auth::SessionOf;
use neargate_model::Scope;

use crate::rights::Rights;

/// Who asks, where, and under which id.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The caller's account, and the region of the request's credential scope.
    pub scope: Scope,
    /// The caller, an ARN.
    pub principal: String,
    /// The caller's unique id, as STS shows it.
    pub user_id: String,
    /// The id that the answer and the log carry.
    pub request_id: String,
    /// What the caller may do.
    pub rights: Rights,
    /// Whose sessions the caller may have made.
    pub(crate) session: SessionOf,
    /// The name by which the caller has reached the server, with its port.
    pub(crate) host: Option<String>,
}

impl RequestContext {
    /// The ARN of the account's root.
    pub fn root_arn(&self) -> String {
        format!("arn:aws:iam::{}:root", self.scope.account)
    }
}
