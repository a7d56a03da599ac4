//! AWS STS: who am I.

use neargate_wire::sts::{GetCallerIdentityRequest, GetCallerIdentityResponse, Sts, StsError};

use crate::RequestContext;

/// The STS API; it keeps nothing.
pub(crate) struct StsApi;

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
}
