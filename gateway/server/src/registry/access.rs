//! Who asks the registry, and what they may do.
//!
//! A password of `GetAuthorizationToken` says whose it is; what they may do is decided anew at each request, by the same
//! policies and names of actions as ECR's API. Where the server takes any credentials, it takes none as well.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::request::Parts;
use neargate_auth::AuthError;
use neargate_control::{NewRepository, RepositoryChangeError};
use neargate_model::image::Digest;
use neargate_model::repository::{Repository, RepositoryError};
use neargate_model::{RepositoryName, Scope, Tags};

use super::{Registry, RegistryError, repository_arn};
use crate::access::{Identity, now};
use crate::pipeline::Sender;
use crate::rights::{AccessDenied, Rights};

/// The user of every password, as with ECR.
pub(crate) const USER: &str = "AWS";
/// How long a URL for a download is good, in seconds, as with ECR.
const TICKET_S: i64 = 3600;
const DOWNLOAD: &str = "download";

/// Who asks.
pub(super) struct Asker {
    pub(super) scope: Scope,
    pub(super) rights: Rights,
}

impl Registry {
    /// Believes who asks, or says why not.
    pub(super) async fn asker(&self, head: &Parts) -> Result<Asker, RegistryError> {
        let password = password(head);
        let caller = self.access.admit(password.as_deref())?;
        let region = caller.region.clone().unwrap_or_else(|| self.config.region.clone());
        let scope = Scope { account: caller.account.clone(), region };
        let rights = match &caller.identity {
            Identity::Root { is_session } => {
                Rights::Root { account: scope.account.clone(), is_session: *is_session }
            }
            Identity::Role { name, id, session } => {
                let from = head.extensions.get::<Sender>().map(|sender| sender.address);
                let found =
                    Rights::of_session(&self.shelf.control, &scope, (name, id), session, from).await?;
                // A role that is gone takes its passwords along.
                found.ok_or(AuthError::UnrecognizedClient)?
            }
        };
        Ok(Asker { scope: self.scope(head, scope.region), rights })
    }

    /// The repository, if the caller may do all this with it. Of one that is not there, only who may do it learns that.
    pub(super) async fn allowed(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        actions: &[&str],
    ) -> Result<Repository, RegistryError> {
        let found = self.shelf.control.repository(&asker.scope, name).await;
        let policy = found.as_ref().ok().and_then(|repository| repository.policy.as_ref());
        let arn = repository_arn(&asker.scope, name);
        let check = |action: &&str| asker.rights.check_with(action, &arn, policy, |context| context);
        actions.iter().try_for_each(check)?;
        Ok(found?)
    }

    /// The same for somebody who puts something in: a repository that is not there is made, if the caller may do that.
    pub(super) async fn allowed_or_made(
        &self,
        asker: &Asker,
        name: &RepositoryName,
        actions: &[&str],
    ) -> Result<Repository, RegistryError> {
        let found = self.shelf.control.repository(&asker.scope, name).await;
        let is_missing = |error: &RepositoryChangeError| {
            matches!(error, RepositoryChangeError::Repository(RepositoryError::RepositoryNotFound { .. }))
        };
        if !found.as_ref().is_err_and(is_missing) {
            return self.allowed(asker, name, actions).await;
        }
        let arn = repository_arn(&asker.scope, name);
        let all = actions.iter().copied();
        all.clone().try_for_each(|action| asker.rights.check(action, &arn, |context| context))?;
        if asker.rights.check("ecr:CreateRepository", &arn, |context| context).is_err() {
            return Err(RegistryError::name_unknown(format!(
                "repository {name} does not exist, and you may not create it (ecr:CreateRepository)"
            )));
        }
        let new = NewRepository {
            name: name.clone(),
            mutability: Default::default(),
            tags: Tags::new(),
            face: String::new(),
        };
        match self.shelf.control.create_repository(&asker.scope, &new).await {
            // Somebody else was quicker.
            Err(RepositoryChangeError::Repository(RepositoryError::RepositoryExists { .. })) => {
                self.allowed(asker, name, actions).await
            }
            made => Ok(made?),
        }
    }

    /// Whether a blob may be read: its content, or with HEAD whether it is there.
    pub(super) async fn check_blob_read(
        &self,
        head: &Parts,
        asker: &Asker,
        name: &RepositoryName,
    ) -> Result<(), RegistryError> {
        let content = self.allowed(asker, name, &["ecr:GetDownloadUrlForLayer"]).await;
        match content {
            Err(_) if head.method == http::Method::HEAD => {
                self.allowed(asker, name, &["ecr:BatchCheckLayerAvailability"]).await.map(drop)
            }
            checked => checked.map(drop),
        }
    }

    /// A URL for a blob's content, which needs no password for an hour.
    pub(crate) fn download_url(
        &self,
        scope: &Scope,
        name: &RepositoryName,
        digest: Digest,
        host: &str,
    ) -> String {
        let expires = now().unix_s() + TICKET_S;
        let ticket = self.access.seal().ticket(DOWNLOAD, &ticket_of(scope, name, digest, expires));
        let region = &scope.region;
        format!("http://{host}/v2/{name}/blobs/{digest}?region={region}&expires={expires}&ticket={ticket}")
    }

    /// The scope in which such a URL is good; `None` if it is none.
    pub(super) fn ticket_scope(&self, head: &Parts, name: &RepositoryName, digest: Digest) -> Option<Scope> {
        let query = head.uri.query()?;
        let field = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let (region, expires) = (field("region")?, field("expires")?.parse::<i64>().ok()?);
        let region = neargate_model::Region::new(region).ok()?;
        let scope = Scope { account: self.config.account.clone(), region };
        let of = ticket_of(&scope, name, digest, expires);
        let is_good =
            self.access.seal().is_ticket(field("ticket")?, DOWNLOAD, &of) && expires > now().unix_s();
        is_good.then_some(scope)
    }

    /// Refuses what the caller may not do to no particular repository.
    pub(super) fn check_all(&self, asker: &Asker, action: &str) -> Result<(), AccessDenied> {
        asker.rights.check(action, "*", |context| context)
    }
}

fn ticket_of(scope: &Scope, name: &RepositoryName, digest: Digest, expires: i64) -> String {
    format!("{}\n{}\n{name}\n{digest}\n{expires}", scope.account, scope.region)
}

/// The password of `Authorization`: of the user AWS, or a bearer's.
fn password(head: &Parts) -> Option<String> {
    let text = head.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        // What is in an authorization token of ECR is user and password.
        return Some(basic(rest).unwrap_or_else(|| rest.to_owned()));
    }
    // A wrong user is a wrong password.
    scheme.eq_ignore_ascii_case("basic").then(|| basic(rest).unwrap_or_default())
}

fn basic(text: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(text).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    (user == USER).then(|| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords() {
        let check = |value: &str, expect: Option<&str>| {
            let request = http::Request::builder().header(AUTHORIZATION, value).body(()).unwrap();
            assert_eq!(password(&request.into_parts().0).as_deref(), expect, "{value}");
        };
        let encoded = |text: &str| STANDARD.encode(text);
        check(&format!("Basic {}", encoded("AWS:secret:x")), Some("secret:x"));
        check(&format!("basic  {}", encoded("AWS:s")), Some("s"));
        check(&format!("Basic {}", encoded("root:s")), Some(""));
        check("Basic ???", Some(""));
        check("Bearer secret", Some("secret"));
        check(&format!("Bearer {}", encoded("AWS:s")), Some("s"));
        check("AWS4-HMAC-SHA256 Credential=x", None);
        check("Basic", None);
    }
}
