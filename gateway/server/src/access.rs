//! Who may call: access keys, and what each stands for.

use neargate_auth::sigv4::{KeyCache, Presented, Rules, SignedRequest};
use neargate_auth::{AuthError, KeyPair, Timestamp};
use neargate_model::{AccountId, Region};

/// Signing keys kept; one an access key, day, region and service.
const KEY_CACHE: usize = 1024;

/// The keys of the one account that a server has.
pub struct AccountKeys {
    /// The account.
    pub account: AccountId,
    /// The root key.
    pub root: KeyPair,
}

/// How callers are told apart.
pub enum Access {
    /// Every request carries a signature by a known key.
    Signed(Box<SignedAccess>),
    /// Any credentials will do, for development on one's own machine.
    Open {
        /// The account that everybody is.
        account: AccountId,
    },
}

/// Verification of signatures.
pub struct SignedAccess {
    keys: AccountKeys,
    cache: KeyCache,
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) account: AccountId,
    pub(crate) region: Option<Region>,
    pub(crate) principal: String,
    pub(crate) user_id: String,
}

impl Access {
    /// Requests must be signed by one of these keys.
    pub fn signed(keys: AccountKeys) -> Self {
        Self::Signed(Box::new(SignedAccess { keys, cache: KeyCache::new(KEY_CACHE) }))
    }

    /// Believes a request, or says why not. `service` is the scope that the request must be signed for.
    pub(crate) fn authenticate(
        &self,
        request: &SignedRequest<'_>,
        service: &str,
        body: &[u8],
    ) -> Result<Caller, AuthError> {
        match self {
            Self::Signed(access) => access.verify(request, service, body),
            Self::Open { account } => {
                let presented = Presented::parse(request, Rules::SERVICE).ok();
                let region = presented.and_then(|presented| region(presented.scope().region));
                Ok(root(account, region))
            }
        }
    }
}

impl SignedAccess {
    fn verify(&self, request: &SignedRequest<'_>, service: &str, body: &[u8]) -> Result<Caller, AuthError> {
        let presented = Presented::parse(request, Rules::SERVICE)?;
        let scope = presented.scope();
        // The region is the caller's choice; the service is not. Both are checked before the key cache, so
        // that nobody fills it with scopes of their own making.
        let region = region(scope.region);
        let wanted = region.as_ref().map_or("a valid region", Region::as_str);
        presented.check_scope(wanted, service)?;
        let is_root = presented.access_key() == self.keys.root.access_key.as_str();
        let secret = is_root.then_some(&self.keys.root.secret);
        let key = self.cache.signing_key(presented.access_key(), secret, &scope);
        let verified = presented.verify(&key, body)?;
        verified.check_session_token(None)?;
        Ok(root(&self.keys.account, region))
    }
}

fn region(text: &str) -> Option<Region> {
    Region::new(text).ok()
}

fn root(account: &AccountId, region: Option<Region>) -> Caller {
    Caller {
        account: account.clone(),
        region,
        principal: format!("arn:aws:iam::{account}:root"),
        user_id: account.to_string(),
    }
}

/// The time now, for signatures.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
