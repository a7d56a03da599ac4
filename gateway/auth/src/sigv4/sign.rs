//! Signing: the client's half.

use hex::encode as hex;
use sha2::{Digest, Sha256};

use super::canonical::{Parts, canonical_request, decode, push_encoded};
use super::{ALGORITHM, EXPIRES_S_MAX, PathStyle, Scope, SigningKey, UNSIGNED_PAYLOAD, string_to_sign};
use crate::{Secret, Timestamp};

/// Headers that are not signed, because proxies and HTTP libraries set or change them; all others are.
const NOT_SIGNED: [&str; 14] = [
    "authorization",
    "cache-control",
    "connection",
    "expect",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-amzn-trace-id",
];

/// Query parameters that [`Signer::presign`] adds itself.
const PRESIGN_PARAMETERS: [&[u8]; 8] = [
    b"X-Amz-Content-Sha256",
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    b"X-Amz-Date",
    b"X-Amz-Expires",
    b"X-Amz-SignedHeaders",
    b"X-Amz-Security-Token",
    b"X-Amz-Signature",
];

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The `host` header is what keeps a signature from being used elsewhere.
    #[error("sign request: it has no host header")]
    NoHost,
    /// Presigned requests live from a second to a week.
    #[error("presign request: {expires_s} s is not within 1 to 604800")]
    Expires {
        /// The life that was asked for, in seconds.
        expires_s: u32,
    },
    /// The query already has a parameter that presigning adds.
    #[error("presign request: its query has {name} already")]
    AlreadyPresigned {
        /// The parameter.
        name: String,
    },
}

/// The body of a request to be signed.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Bytes that the signature does not cover; few services accept it.
    Unsigned,
}

/// A request about to be sent, exactly as it will stand on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The path before the `?`, percent-encoded.
    pub path: &'a str,
    /// The query after the `?`, percent-encoded; empty if there is none.
    pub query: &'a str,
    /// The headers, `host` among them.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body.
    pub payload: Payload<'a>,
}

/// Who signs, and for which service.
#[derive(Debug, Clone, Copy)]
pub struct Signer<'a> {
    /// The access key id.
    pub access_key: &'a str,
    /// Its secret.
    pub secret: &'a Secret,
    /// The session token of a temporary key.
    pub session_token: Option<&'a Secret>,
    /// The region the request goes to.
    pub region: &'a str,
    /// The service's signing name.
    pub service: &'a str,
    /// How the service signs paths.
    pub path_style: PathStyle,
}

impl Signer<'_> {
    /// The headers to set so that `request` is signed: `authorization`, `x-amz-date`, and where they apply
    /// `x-amz-security-token` and `x-amz-content-sha256`. Values of the same names in the request are superseded.
    pub fn sign_header(
        &self,
        request: &Outgoing<'_>,
        now: Timestamp,
    ) -> Result<Vec<(&'static str, String)>, SignError> {
        let payload = payload_text(request.payload);
        let mut added = vec![("x-amz-date", now.to_string())];
        if let Some(token) = self.session_token {
            added.push(("x-amz-security-token", token.expose().to_owned()));
        }
        if self.path_style == PathStyle::S3 || matches!(request.payload, Payload::Unsigned) {
            added.push(("x-amz-content-sha256", payload.clone()));
        }
        let is_kept =
            |name: &str| is_signed(name) && !added.iter().any(|(a, _)| a.eq_ignore_ascii_case(name));
        let kept = request.headers.iter().copied().filter(|(name, _)| is_kept(name));
        let ours = added.iter().map(|(name, value)| (*name, value.as_bytes()));
        let headers: Vec<_> = kept.chain(ours).collect();
        let signed_headers = signed_headers(&headers)?;
        let signature = self.signature(request, now, request.query, &headers, &signed_headers, &payload);
        let credential = self.credential(&now.date());
        added.push((
            "authorization",
            format!(
                "{ALGORITHM} Credential={credential}, SignedHeaders={signed_headers}, Signature={}",
                hex(signature)
            ),
        ));
        Ok(added)
    }

    /// The query that makes `request` a presigned one, good for `expires_s` seconds (1..=604800) from `now`.
    ///
    /// All headers of the request are signed and must be sent with it; usually that is `host` alone.
    pub fn presign(
        &self,
        request: &Outgoing<'_>,
        expires_s: u32,
        now: Timestamp,
    ) -> Result<String, SignError> {
        if !(1..=EXPIRES_S_MAX).contains(&expires_s) {
            return Err(SignError::Expires { expires_s });
        }
        let keys = request.query.split('&').map(|pair| decode(pair.split('=').next().unwrap_or_default()));
        if let Some(key) = keys.into_iter().find(|key| PRESIGN_PARAMETERS.contains(&&**key)) {
            return Err(SignError::AlreadyPresigned { name: String::from_utf8_lossy(&key).into_owned() });
        }
        let headers: Vec<_> = request.headers.iter().copied().filter(|(name, _)| is_signed(name)).collect();
        let signed_headers = signed_headers(&headers)?;
        let mut query = request.query.as_bytes().to_vec();
        let mut push = |name: &str, value: &str| {
            if !query.is_empty() {
                query.push(b'&');
            }
            query.extend_from_slice(name.as_bytes());
            query.push(b'=');
            push_encoded(&mut query, value.as_bytes(), b"");
        };
        push("X-Amz-Algorithm", ALGORITHM);
        push("X-Amz-Credential", &self.credential(&now.date()));
        push("X-Amz-Date", &now.to_string());
        push("X-Amz-Expires", &expires_s.to_string());
        push("X-Amz-SignedHeaders", &signed_headers);
        if let Some(token) = self.session_token {
            push("X-Amz-Security-Token", token.expose());
        }
        let mut query =
            String::from_utf8(query).expect("the request's query is text and what was added is ASCII");
        let payload = match (content_hash(&headers), self.path_style) {
            (Some(given), _) => given,
            (None, PathStyle::S3) => UNSIGNED_PAYLOAD.to_owned(),
            (None, PathStyle::Normalized) => payload_text(request.payload),
        };
        let signature = self.signature(request, now, &query, &headers, &signed_headers, &payload);
        query.push_str("&X-Amz-Signature=");
        query.push_str(&hex(signature));
        Ok(query)
    }

    fn credential(&self, date: &str) -> String {
        format!("{}/{}", self.access_key, self.scope(date))
    }

    fn scope<'s>(&'s self, date: &'s str) -> Scope<'s> {
        Scope { date, region: self.region, service: self.service }
    }

    fn signature(
        &self,
        request: &Outgoing<'_>,
        now: Timestamp,
        query: &str,
        headers: &[(&str, &[u8])],
        signed_headers: &str,
        payload: &str,
    ) -> [u8; 32] {
        let canonical = canonical_request(&Parts {
            method: request.method,
            path: request.path,
            path_style: self.path_style,
            query,
            headers,
            signed_headers,
            payload,
        });
        let date = now.date();
        let scope = self.scope(&date);
        SigningKey::derive(self.secret, &scope).sign(&string_to_sign(now, &scope, &canonical))
    }
}

fn payload_text(payload: Payload<'_>) -> String {
    match payload {
        Payload::Bytes(body) => hex(Sha256::digest(body)),
        Payload::Unsigned => UNSIGNED_PAYLOAD.to_owned(),
    }
}

/// The `x-amz-content-sha256` that the sender of a presigned request will send.
fn content_hash(headers: &[(&str, &[u8])]) -> Option<String> {
    let given = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("x-amz-content-sha256"));
    given.map(|(_, value)| String::from_utf8_lossy(value).trim().to_owned())
}

fn is_signed(name: &str) -> bool {
    !NOT_SIGNED.iter().any(|skipped| name.eq_ignore_ascii_case(skipped))
}

/// The names of `headers`: lower-case, sorted, each once, separated by `;`.
fn signed_headers(headers: &[(&str, &[u8])]) -> Result<String, SignError> {
    let mut names: Vec<_> = headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    names.dedup();
    if names.iter().any(|name| name == "host") { Ok(names.join(";")) } else { Err(SignError::NoHost) }
}
