//! The registry's password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use neargate_auth::Timestamp;
use neargate_wire::ecr::{
    AuthorizationData, EcrError, GetAuthorizationTokenRequest, GetAuthorizationTokenResponse,
};

use super::EcrApi;
use super::error::invalid;
use crate::RequestContext;
use crate::access::now;

/// How long a password is good, in seconds (ECR User Guide, "Private registry authentication").
const LIFETIME_S: i64 = 12 * 3600;

pub(super) async fn get(
    api: &EcrApi,
    cx: &RequestContext,
    input: GetAuthorizationTokenRequest,
) -> Result<GetAuthorizationTokenResponse, EcrError> {
    let asked = input.registry_ids.unwrap_or_default();
    if let Some(other) = asked.iter().find(|registry| registry.as_str() != cx.scope.account.as_str()) {
        return Err(invalid(format!("There is no registry {other:.16} here.")));
    }
    let expires_at = Timestamp::from_unix_s(now().unix_s() + LIFETIME_S);
    let password = api.registry.access().password(&cx.session, &cx.scope.region, expires_at);
    let data = AuthorizationData {
        authorization_token: Some(STANDARD.encode(format!("AWS:{}", password.expose()))),
        expires_at: Some(neargate_wire::Timestamp::from_millis(expires_at.unix_s() * 1000)),
        proxy_endpoint: Some(format!("http://{}", api.registry.host(cx.host.as_deref()))),
    };
    Ok(GetAuthorizationTokenResponse { authorization_data: Some(vec![data]) })
}
