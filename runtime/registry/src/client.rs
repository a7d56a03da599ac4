//! What is asked of one registry for one repository (OCI distribution-spec v1.1, §Pull).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use neargate_image::DOCUMENT_BYTES_MAX;
use neargate_model::image::{Digest, ImageReference};

use crate::auth::{Asker, Identity, Tokens};
use crate::challenge;
use crate::config::{Endpoint, RegistryConfig};
use crate::credentials::{Credential, CredentialFiles};
use crate::error::RequestError;
use crate::reach::{Reach, reach_of};
use crate::target::Origin;
use crate::transport::{Answer, Call, Patience, Transport, printable};

/// What may be a manifest; what is understood of them is `neargate-image`'s matter.
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
const DIGEST_HEADER: HeaderName = HeaderName::from_static("docker-content-digest");

/// Speaks to registries. Connections and tokens are shared by all sessions.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) transport: Transport,
    tokens: Tokens,
    config: RegistryConfig,
    credentials: CredentialFiles,
}

/// One repository at one place, for one who asks.
#[derive(Debug)]
pub(crate) struct Session {
    client: Arc<Client>,
    endpoint: Endpoint,
    most: Reach,
    identity: Identity,
    credential: Option<Credential>,
    /// The value of `Authorization` that was accepted last.
    authorization: Mutex<Option<String>>,
}

/// A manifest or an index as it came.
#[derive(Debug)]
pub(crate) struct RawManifest {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: Option<String>,
    /// What the registry says that its digest is.
    pub(crate) told: Option<Digest>,
}

impl Client {
    pub(crate) fn new(config: RegistryConfig, credentials: CredentialFiles, patience: Patience) -> Self {
        let ca_files = config.ca_files().map(ToOwned::to_owned).collect();
        Self { transport: Transport::new(patience, ca_files), tokens: Tokens::default(), config, credentials }
    }

    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        self.config.endpoints(registry)
    }

    /// A session for a reference's repository at one of its places; with `given`, or with what is configured.
    pub(crate) async fn session(
        self: &Arc<Self>,
        endpoint: Endpoint,
        reference: &ImageReference,
        given: Option<Credential>,
    ) -> Result<Session, RequestError> {
        let credential = match given {
            Some(given) => Some(given).filter(|_| !endpoint.is_mirror),
            None => self.configured(&endpoint, reference).await?,
        };
        let most = match self.config.names(&endpoint, reference.registry()) {
            true => Reach::Loopback,
            false => {
                let Transport { private, patience, .. } = &self.transport;
                reach_of(&endpoint.origin.host, private, patience.connect).await
            }
        };
        let identity = Identity {
            origin: endpoint.origin.clone(),
            prefix: endpoint.prefix.clone(),
            repository: reference.repository().to_owned(),
            fingerprint: credential.as_ref().map(Credential::fingerprint),
        };
        let authorization = Mutex::new(self.tokens.get(&identity));
        let client = self.clone();
        Ok(Session { client, endpoint, most, identity, credential, authorization })
    }

    async fn configured(
        &self,
        endpoint: &Endpoint,
        reference: &ImageReference,
    ) -> Result<Option<Credential>, RequestError> {
        let registry = match endpoint.is_mirror {
            true => authority(&endpoint.origin),
            false => reference.registry().to_owned(),
        };
        let (files, repository) = (self.credentials.clone(), reference.repository().to_owned());
        let asked = registry.clone();
        let found = tokio::task::spawn_blocking(move || files.find(&asked, &repository)).await;
        match found {
            Ok(found) => found.map_err(|source| RequestError::Credentials { registry, source }),
            // Only a panic or the end of the program.
            Err(_) => Ok(None),
        }
    }
}

/// Host and, where it is not the usual one, port.
fn authority(origin: &Origin) -> String {
    let text = origin.to_string();
    text.split_once("://").map_or(text.clone(), |(_, authority)| authority.to_owned())
}

impl Session {
    pub(crate) fn patience(&self) -> Patience {
        self.client.transport.patience
    }

    fn repository(&self) -> &str {
        &self.identity.repository
    }

    /// The manifest under a tag or a digest, at most 4 MiB.
    pub(crate) async fn manifest(&self, name: &str) -> Result<RawManifest, RequestError> {
        let answer = self.call(Method::GET, &format!("manifests/{name}"), Some(MANIFEST_TYPES), None).await?;
        let what = format!("{}/{}:{name}", authority(&self.endpoint.origin), self.repository());
        if answer.status != StatusCode::OK {
            return Err(answer.problem(&what).await);
        }
        let told = self.told_digest(&answer)?;
        let media_type = answer.header(&CONTENT_TYPE).and_then(manifest_type);
        let bytes = answer.bytes(DOCUMENT_BYTES_MAX).await?;
        Ok(RawManifest { bytes, media_type, told })
    }

    /// The digest under a tag, if the registry tells it without the manifest.
    pub(crate) async fn manifest_digest(&self, name: &str) -> Result<Option<Digest>, RequestError> {
        let answer =
            self.call(Method::HEAD, &format!("manifests/{name}"), Some(MANIFEST_TYPES), None).await?;
        let what = format!("{}/{}:{name}", authority(&self.endpoint.origin), self.repository());
        match answer.status {
            StatusCode::OK => self.told_digest(&answer),
            _ => Err(answer.problem(&what).await),
        }
    }

    fn told_digest(&self, answer: &Answer) -> Result<Option<Digest>, RequestError> {
        let Some(told) = answer.header(&DIGEST_HEADER) else { return Ok(None) };
        let wrong = |_| RequestError::Protocol {
            url: answer.url.clone(),
            what: format!("its digest is {:?}", printable(told)),
        };
        told.parse().map(Some).map_err(wrong)
    }

    /// Whether the registry gives a blob to whoever asks.
    pub(crate) async fn has_blob(&self, digest: Digest) -> Result<bool, RequestError> {
        let answer = self.call(Method::HEAD, &format!("blobs/{digest}"), None, None).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(answer.problem(&digest.to_string()).await),
        }
    }

    /// A blob of `size` bytes, or the bytes of a range of it. The answer begins at the offset that is returned: 0 from a
    /// registry that knows no ranges.
    pub(crate) async fn blob(
        &self,
        digest: Digest,
        size: u64,
        range: Option<(u64, u64)>,
    ) -> Result<(u64, Answer), RequestError> {
        let answer = self.call(Method::GET, &format!("blobs/{digest}"), None, range).await?;
        let wrong = |answer: &Answer, what: String| RequestError::Protocol { url: answer.url.clone(), what };
        match (answer.status, range) {
            (StatusCode::OK, _) => match answer.length() {
                Some(length) if length != size => {
                    Err(wrong(&answer, format!("it has {length} bytes, and the manifest says {size}")))
                }
                _ => Ok((0, answer)),
            },
            (StatusCode::PARTIAL_CONTENT, Some((first, last))) => {
                let told = answer.header(&CONTENT_RANGE).unwrap_or_default().to_owned();
                match told == format!("bytes {first}-{last}/{size}")
                    || told == format!("bytes {first}-{last}/*")
                {
                    true => Ok((first, answer)),
                    false => Err(wrong(
                        &answer,
                        format!("asked for {first}-{last}/{size}, it sends {:?}", printable(&told)),
                    )),
                }
            }
            _ => Err(answer.problem(&digest.to_string()).await),
        }
    }

    /// A request, with an answer to one challenge if there is one. A second 401 is the answer.
    async fn call(
        &self,
        method: Method,
        path: &str,
        accept: Option<&'static str>,
        range: Option<(u64, u64)>,
    ) -> Result<Answer, RequestError> {
        let target = self.endpoint.target(&format!("{}/{path}", self.repository()));
        let mut call = Call::new(method, target, self.most);
        (call.accept, call.range) = (accept, range);
        call.authorization = self.authorization();
        let mut answer = self.client.transport.send(call.clone()).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        answer.drain().await;
        let current = self.authorization();
        call.authorization = match current == call.authorization {
            true => Some(self.answer(&answer).await?),
            // Another request of the session has answered meanwhile.
            false => current,
        };
        self.client.transport.send(call).await
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn answer(&self, answer: &Answer) -> Result<String, RequestError> {
        let headers = answer.headers.get_all(WWW_AUTHENTICATE);
        let challenge = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let unknown =
            || RequestError::Denied { message: "the registry asks for an unknown authentication".to_owned() };
        let challenge = challenge.ok_or_else(unknown)?;
        let asker = Asker {
            transport: &self.client.transport,
            tokens: &self.client.tokens,
            endpoint: &self.endpoint,
            most: self.most,
            identity: &self.identity,
            credential: self.credential.as_ref(),
        };
        let value = asker.answer(&challenge).await?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        Ok(value)
    }
}

/// The media type of a manifest; types that say nothing, such as `text/plain`, are none.
fn manifest_type(header: &str) -> Option<String> {
    let media_type = header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.starts_with("application/vnd.").then_some(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_manifests() {
        let check = |header: &str, expect: Option<&str>| assert_eq!(manifest_type(header).as_deref(), expect);
        let oci = "application/vnd.oci.image.manifest.v1+json";
        check(oci, Some(oci));
        check(&format!("{oci}; charset=utf-8"), Some(oci));
        check("application/json", None);
        check("text/plain", None);
        check("", None);
    }
}
