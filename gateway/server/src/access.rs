//! Who may call: access keys, session tokens, and what each stands for.

use neargate_auth::sigv4::{KeyCache, Presented, Rules, SignedRequest};
use neargate_auth::{AuthError, KeyPair, Pass, Seal, Secret, Session, SessionOf, Timestamp};
use neargate_model::{AccountId, Region, RoleName, SessionName};

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
pub struct Access {
    account: AccountId,
    /// None where any credentials will do, for development on one's own machine.
    root: Option<KeyPair>,
    seal: Seal,
    cache: KeyCache,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The host, or who reaches the address that the server listens on.
    Host,
    /// A task: its credentials count, however open the server is to its host.
    Task,
}

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) account: AccountId,
    pub(crate) region: Option<Region>,
    pub(crate) identity: Identity,
}

/// Who a caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The account's root user, who may do everything.
    Root {
        /// Whether it has come with a token.
        is_session: bool,
    },
    /// A session of a role.
    Role {
        name: RoleName,
        /// The role's id.
        id: String,
        session: SessionName,
    },
}

impl Access {
    /// Requests must be signed by one of these keys, or with a token of this seal.
    pub fn signed(keys: AccountKeys, seal: Seal) -> Self {
        let AccountKeys { account, root } = keys;
        Self { account, root: Some(root), seal, cache: KeyCache::new(KEY_CACHE) }
    }

    /// Everybody is the root user of this account, but for who comes with a token of this seal.
    pub fn open(account: AccountId, seal: Seal) -> Self {
        Self { account, root: None, seal, cache: KeyCache::new(KEY_CACHE) }
    }

    /// What makes session tokens.
    pub(crate) fn seal(&self) -> &Seal {
        &self.seal
    }

    /// Believes a request, or says why not. `service` is the scope that the request must be signed for.
    pub(crate) fn authenticate(
        &self,
        request: &SignedRequest<'_>,
        service: &str,
        body: &[u8],
        origin: Origin,
    ) -> Result<Caller, AuthError> {
        if self.root.is_none() && origin == Origin::Host {
            let presented = Presented::parse(request, Rules::SERVICE).ok();
            let has_session = |presented: &Presented<'_>| self.session(presented, request.now).is_ok();
            if !presented.as_ref().is_some_and(has_session) {
                let region = presented.and_then(|presented| region(presented.scope().region));
                return Ok(self.root_user(region));
            }
        }
        self.verify(request, service, body)
    }

    /// Believes the password of the registry, or says why not. The region is the one that it was asked for in.
    pub(crate) fn admit(&self, password: Option<&str>) -> Result<Caller, AuthError> {
        let opened = password.map(|password| self.seal.open_pass(password.as_bytes(), now()));
        match (opened, self.root.is_some()) {
            // Where everybody is the root user, a role is still what it may be.
            (Some(Ok(pass)), _) => self.of_session(pass.session, region(&pass.region)),
            (_, false) => Ok(self.root_user(None)),
            (Some(Err(error)), true) => Err(error.into()),
            (None, true) => Err(AuthError::MissingAuthenticationToken),
        }
    }

    /// The session that stands for a caller.
    pub(crate) fn session_of(&self, caller: &Caller) -> SessionOf {
        match &caller.identity {
            Identity::Root { .. } => SessionOf::Root { key: self.root_key() },
            Identity::Role { name, id, session } => {
                SessionOf::Role { name: name.to_string(), id: id.clone(), session: session.to_string() }
            }
        }
    }

    /// The registry's password of a caller, good until then.
    pub(crate) fn password(&self, caller: &SessionOf, region: &Region, expires_at: Timestamp) -> Secret {
        let session = Session { account: self.account.to_string(), of: caller.clone(), expires_at };
        self.seal.pass(&Pass { session, region: region.to_string() })
    }

    fn verify(&self, request: &SignedRequest<'_>, service: &str, body: &[u8]) -> Result<Caller, AuthError> {
        let presented = Presented::parse(request, Rules::SERVICE)?;
        let scope = presented.scope();
        // The region is the caller's choice; the service is not. Both are checked before the key cache, so
        // that nobody fills it with scopes of their own making.
        let region = region(scope.region);
        let wanted = region.as_ref().map_or("a valid region", Region::as_str);
        presented.check_scope(wanted, service)?;
        let Some(token) = presented.session_token() else {
            let root = self.root.as_ref().filter(|root| root.access_key.as_str() == presented.access_key());
            let key = self.cache.signing_key(presented.access_key(), root.map(|root| &root.secret), &scope);
            presented.verify(&key, body)?.check_session_token(None)?;
            return Ok(self.root_user(region));
        };
        let token = Secret::new(String::from_utf8_lossy(token));
        let (session, secret) = self.session(&presented, request.now)?;
        let key = self.cache.signing_key(presented.access_key(), Some(&secret), &scope);
        presented.verify(&key, body)?.check_session_token(Some(&token))?;
        self.of_session(session, region)
    }

    fn of_session(&self, session: Session, region: Option<Region>) -> Result<Caller, AuthError> {
        // A session of the root user ends with the key that began it.
        match &session.of {
            SessionOf::Root { key } if *key != self.root_key() => Err(AuthError::UnrecognizedClient),
            _ => caller(session, region),
        }
    }

    fn root_user(&self, region: Option<Region>) -> Caller {
        let identity = Identity::Root { is_session: false };
        Caller { account: self.account.clone(), region, identity }
    }

    /// Whether everybody is the root user.
    pub(crate) fn is_open(&self) -> bool {
        self.root.is_none()
    }

    /// The root user's access key; none where everybody is the root user.
    pub(crate) fn root_key(&self) -> String {
        self.root.as_ref().map(|root| root.access_key.to_string()).unwrap_or_default()
    }

    /// The session of the token that came along, which the signature has still to prove.
    fn session(&self, presented: &Presented<'_>, now: Timestamp) -> Result<(Session, Secret), AuthError> {
        let token = presented.session_token().ok_or(AuthError::UnrecognizedClient)?;
        Ok(self.seal.open(token, presented.access_key(), now)?)
    }
}

impl Caller {
    /// The caller's ARN.
    pub(crate) fn principal(&self) -> String {
        let account = &self.account;
        match &self.identity {
            Identity::Root { .. } => format!("arn:aws:iam::{account}:root"),
            Identity::Role { name, session, .. } => session_arn(account, name, session),
        }
    }

    /// The caller's unique id, as STS shows it.
    pub(crate) fn user_id(&self) -> String {
        match &self.identity {
            Identity::Root { .. } => self.account.to_string(),
            Identity::Role { id, session, .. } => session_user_id(id, session),
        }
    }
}

/// The ARN of a session of a role, which leaves the role's path out.
pub(crate) fn session_arn(account: &AccountId, role: &RoleName, session: &SessionName) -> String {
    format!("arn:aws:sts::{account}:assumed-role/{role}/{session}")
}

/// The unique id of a session of the role with this id.
pub(crate) fn session_user_id(role_id: &str, session: &SessionName) -> String {
    format!("{role_id}:{session}")
}

fn caller(session: Session, region: Option<Region>) -> Result<Caller, AuthError> {
    // What this server has issued it can read.
    let read = || {
        let account = AccountId::new(session.account).ok()?;
        let identity = match session.of {
            SessionOf::Root { .. } => Identity::Root { is_session: true },
            SessionOf::Role { name, id, session } => Identity::Role {
                name: RoleName::new(name).ok()?,
                id,
                session: SessionName::new(session).ok()?,
            },
        };
        Some(Caller { account, region, identity })
    };
    read().ok_or(AuthError::UnrecognizedClient)
}

fn region(text: &str) -> Option<Region> {
    Region::new(text).ok()
}

/// The time now, for signatures.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}
