//! AWS STS: who am I, and credentials that end by themselves.

mod sessions;

use std::sync::Arc;

use neargate_control::Control;
use neargate_wire::sts::{
    AssumeRoleRequest, AssumeRoleResponse, GetCallerIdentityRequest, GetCallerIdentityResponse,
    GetSessionTokenRequest, GetSessionTokenResponse, Sts, StsError,
};

use crate::RequestContext;
use crate::access::Access;

pub(crate) use sessions::issue;

/// The STS API; it keeps nothing.
pub struct StsApi {
    control: Control,
    access: Arc<Access>,
}

impl StsApi {
    /// The STS API over control's roles, for those who have access.
    pub fn new(control: Control, access: Arc<Access>) -> Self {
        Self { control, access }
    }
}

impl Sts for StsApi {
    type Context = RequestContext;

    async fn get_caller_identity(
        &self,
        cx: &RequestContext,
        _input: GetCallerIdentityRequest,
    ) -> Result<GetCallerIdentityResponse, StsError> {
        Ok(GetCallerIdentityResponse {
            user_id: Some(cx.user_id.clone()),
            account: Some(cx.scope.account.to_string()),
            arn: Some(cx.principal.clone()),
        })
    }

    async fn assume_role(
        &self,
        cx: &RequestContext,
        input: AssumeRoleRequest,
    ) -> Result<AssumeRoleResponse, StsError> {
        sessions::assume_role(self, cx, input).await
    }

    async fn get_session_token(
        &self,
        cx: &RequestContext,
        input: GetSessionTokenRequest,
    ) -> Result<GetSessionTokenResponse, StsError> {
        sessions::get_session_token(self, cx, &input)
    }
}
