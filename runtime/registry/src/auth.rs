//! Answers to challenges: basic authentication, and tokens from whom the registry names.
//!
//! A registry says itself where its tokens come from. It is followed with credentials only to its own host, to one near it
//! (`auth.docker.io` for `registry-1.docker.io`) and to those that the operator lists, and never out of TLS.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::config::Endpoint;
use crate::credentials::Credential;
use crate::error::RequestError;
use crate::reach::Reach;
use crate::target::{Origin, Target};
use crate::transport::{Call, Transport, printable};

/// Tokens that are remembered.
const TOKENS_MAX: usize = 256;
/// How long a token is good for whose server does not say (distribution's token specification).
const TOKEN_SECONDS_DEFAULT: u64 = 60;
/// A token that lasts no longer than this is not used for another request.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
const TOKEN_SECONDS_MAX: u64 = 24 * 3600;
const TOKEN_BYTES_MAX: usize = 64 << 10;
const ANSWER_BYTES_MAX: u64 = 1 << 20;
const CLIENT_ID: &str = "neargate";

/// Who asks a place for a repository. What one may have is never another's: the credential is part of the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) origin: Origin,
    pub(crate) prefix: String,
    pub(crate) repository: String,
    pub(crate) fingerprint: Option<[u8; 32]>,
}

/// Values of `Authorization`, until they end.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<HashMap<Identity, (String, Instant)>>,
}

impl Tokens {
    pub(crate) fn get(&self, identity: &Identity) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(identity).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, identity: Identity, value: String, lasts: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.retain(|_, (_, until)| *until > now);
        if known.len() >= TOKENS_MAX {
            let victim =
                known.iter().min_by_key(|(_, (_, until))| *until).map(|(identity, _)| identity.clone());
            victim.and_then(|victim| known.remove(&victim));
        }
        known.insert(identity, (value, now + lasts));
    }
}

/// What an answer to a challenge needs.
pub(crate) struct Asker<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) tokens: &'a Tokens,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) most: Reach,
    pub(crate) identity: &'a Identity,
    pub(crate) credential: Option<&'a Credential>,
}

impl Asker<'_> {
    /// The value of `Authorization` that answers `challenge`.
    pub(crate) async fn answer(&self, challenge: &Challenge) -> Result<String, RequestError> {
        let (value, lasts) = match challenge {
            Challenge::Basic => (self.basic()?, Duration::from_secs(TOKEN_SECONDS_DEFAULT)),
            Challenge::Bearer { realm, service, scope } => {
                self.bearer(realm, service.as_deref(), scope.as_deref()).await?
            }
        };
        self.tokens.put(self.identity.clone(), value.clone(), lasts);
        Ok(value)
    }

    fn basic(&self) -> Result<String, RequestError> {
        match self.credential {
            Some(credential) if !credential.is_identity_token => Ok(credential.basic()),
            Some(_) => Err(denied("the registry wants a password, and there is an identity token")),
            None => Err(denied("the registry wants a password, and there is none for it")),
        }
    }

    async fn bearer(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<(String, Duration), RequestError> {
        let target = self.token_server(realm)?;
        let own_scope = format!("repository:{}:pull", self.identity.repository);
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        parameters.extend(service.map(|service| ("service", service)));
        parameters.push(("scope", scope.unwrap_or(&own_scope)));
        let call = match self.credential {
            Some(credential) if credential.is_identity_token => {
                parameters.extend([("client_id", CLIENT_ID), ("grant_type", "refresh_token")]);
                parameters.push(("refresh_token", &credential.secret));
                let mut call = Call::new(Method::POST, target, self.most);
                call.form = Some(form(&parameters));
                call
            }
            credential => {
                let mut call = Call::new(Method::GET, target.with_query(&parameters), self.most);
                call.authorization = credential.map(Credential::basic);
                call
            }
        };
        let answer = self.transport.send(call).await?;
        let url = answer.url.clone();
        if !answer.status.is_success() {
            return Err(match answer.problem("token").await {
                RequestError::NotFound { .. } => denied("the token server does not exist"),
                problem => problem,
            });
        }
        let wrong = |what: &str| RequestError::Protocol { url: url.clone(), what: what.to_owned() };
        let bytes = answer.bytes(ANSWER_BYTES_MAX).await?;
        let granted: Granted =
            serde_json::from_slice(&bytes).map_err(|error| wrong(&printable(&error.to_string())))?;
        let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| wrong("it gives no token"))?;
        if token.len() > TOKEN_BYTES_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong("its token is none"));
        }
        let seconds = granted.expires_in.unwrap_or(TOKEN_SECONDS_DEFAULT).min(TOKEN_SECONDS_MAX);
        let lasts = Duration::from_secs(seconds).saturating_sub(TOKEN_MARGIN);
        Ok((format!("Bearer {token}"), lasts))
    }

    /// Where tokens come from, if that may be asked.
    fn token_server(&self, realm: &str) -> Result<Target, RequestError> {
        let url = self.endpoint.target("").to_string();
        let target = Target::parse(realm).ok_or_else(|| RequestError::Protocol {
            url: url.clone(),
            what: format!("its token server {:?} is no URL", printable(realm)),
        })?;
        let refused = |why| Err(RequestError::Refused { url: url.clone(), place: target.to_string(), why });
        if self.endpoint.origin.is_https && !target.origin.is_https {
            return refused("a token server may not be without TLS where the registry has it");
        }
        let (own, other) = (&self.endpoint.origin.host, &target.origin.host);
        let is_near = is_near(own, other) || self.endpoint.token_hosts.contains(other);
        if self.credential.is_some() && !is_near {
            return refused(
                "credentials for a registry are not given to a host elsewhere; if that is its token server, name the host in \
                 token_hosts of registries.json",
            );
        }
        Ok(target)
    }
}

/// Whether two hosts are one, or one is below the domain that the other is directly in.
fn is_near(own: &str, other: &str) -> bool {
    if own == other {
        return true;
    }
    let is_name = |host: &str| !host.starts_with('[') && host.parse::<std::net::IpAddr>().is_err();
    // A domain of one label is everybody's.
    let domain = |host: &str| {
        let (_, domain) = host.split_once('.')?;
        domain.contains('.').then(|| format!(".{domain}"))
    };
    let is_in = |domain: &str, host: &str| host.ends_with(domain) || format!(".{host}") == domain;
    is_name(own) && is_name(other) && domain(own).is_some_and(|domain| is_in(&domain, other))
}

fn form(parameters: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn denied(message: &str) -> RequestError {
    RequestError::Denied { message: message.to_owned() }
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_near() {
        let check =
            |own: &str, other: &str, expect: bool| assert_eq!(is_near(own, other), expect, "{own} {other}");
        check("registry-1.docker.io", "auth.docker.io", true);
        check("registry.gitlab.com", "gitlab.com", true);
        check("ghcr.io", "ghcr.io", true);
        check("ghcr.io", "quay.io", false);
        check("ghcr.io", "evil.io", false);
        check("r.example.com", "a.b.example.com", true);
        check("r.example.com", "evil-example.com", false);
        check("r.example.com", "example.com.evil.net", false);
        check("10.0.0.1", "10.0.0.2", false);
        check("127.0.0.1", "169.254.170.2", false);
        check("[::1]", "[::2]", false);
        check("localhost", "localhost", true);
    }

    #[test]
    fn tokens_are_kept_apart_and_bounded() {
        let tokens = Tokens::default();
        let identity = |repository: &str, fingerprint| Identity {
            origin: Origin::new(true, "r").unwrap(),
            prefix: String::new(),
            repository: repository.to_owned(),
            fingerprint,
        };
        let lasts = Duration::from_secs(60);
        tokens.put(identity("a", Some([1; 32])), "one".into(), lasts);
        assert_eq!(tokens.get(&identity("a", Some([1; 32]))).as_deref(), Some("one"));
        assert_eq!(tokens.get(&identity("a", Some([2; 32]))), None);
        assert_eq!(tokens.get(&identity("a", None)), None);
        assert_eq!(tokens.get(&identity("b", Some([1; 32]))), None);
        tokens.put(identity("gone", None), "x".into(), Duration::ZERO);
        assert_eq!(tokens.get(&identity("gone", None)), None);
        (0..1000).for_each(|n| tokens.put(identity(&n.to_string(), None), "x".into(), lasts));
        assert!(tokens.known.lock().unwrap().len() <= TOKENS_MAX);
    }
}
