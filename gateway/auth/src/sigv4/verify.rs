//! Verification: [`Presented`] is a request whose claim was read, [`Verified`] one whose signature is right.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::canonical::{Parts, canonical_request};
use super::parse::{claim, read_sha256, single};
use super::{
    PathStyle, Rules, Scope, SignedRequest, SigningKey, UNSIGNED_PAYLOAD, UnsignedPayload, string_to_sign,
};
use crate::error::quote;
use crate::{AuthError, Incomplete, Invalid, Place, Secret, Timestamp};

/// Headers with AWS's prefix that need no signature: the session token, which AWS's test suite also adds after signing
/// and which must be the key's own anyway, and the id that CloudFront adds on the way.
const MAY_BE_UNSIGNED: [&str; 2] = ["x-amz-security-token", "x-amz-cf-id"];

/// What a request says about its signature.
#[derive(Debug, Clone)]
pub(super) struct Claim<'a> {
    pub(super) credential: Credential<'a>,
    pub(super) signature: [u8; 32],
    pub(super) signed_headers: Cow<'a, str>,
    pub(super) signed_at: Timestamp,
    pub(super) place: Place,
    pub(super) session_token: Option<Cow<'a, [u8]>>,
    /// The query's `X-Amz-Content-Sha256`.
    pub(super) query_payload: Option<Cow<'a, [u8]>>,
}

/// `keyid/date/region/service/aws4_request` and the lengths of its first four parts.
#[derive(Debug, Clone)]
pub(super) struct Credential<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) lens: [usize; 4],
}

impl Credential<'_> {
    fn part(&self, i: usize) -> &str {
        let start = self.lens[..i].iter().sum::<usize>() + i;
        &self.text[start..start + self.lens[i]]
    }
}

/// What the signature says about the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadHash {
    /// The body has this SHA-256.
    Sha256([u8; 32]),
    /// The body may be anything.
    Unsigned,
}

impl PayloadHash {
    /// Whether `body` is the signed one; if not, [`AuthError::ContentHashMismatch`].
    pub fn check_body(&self, body: &[u8]) -> Result<(), AuthError> {
        self.check_digest(|| Sha256::digest(body).into())
    }

    /// As [`PayloadHash::check_body`], for a body that was hashed as it streamed by; `digest` is called if it matters.
    pub fn check_digest(&self, digest: impl FnOnce() -> [u8; 32]) -> Result<(), AuthError> {
        match self {
            // Both hashes are known to the client, so the comparison has nothing to leak.
            Self::Sha256(expected) if *expected != digest() => Err(AuthError::ContentHashMismatch),
            Self::Sha256(_) | Self::Unsigned => Ok(()),
        }
    }

    fn as_text(&self) -> Cow<'static, str> {
        match self {
            Self::Sha256(digest) => Cow::Owned(hex::encode(digest)),
            Self::Unsigned => Cow::Borrowed(UNSIGNED_PAYLOAD),
        }
    }
}

/// A request whose claim is well-formed, current and covers what it must. Nothing in it is proven yet.
#[derive(Debug, Clone)]
pub struct Presented<'a> {
    request: SignedRequest<'a>,
    path_style: PathStyle,
    claim: Claim<'a>,
    payload: Option<PayloadHash>,
}

impl<'a> Presented<'a> {
    /// Reads and checks everything that needs neither the secret nor the body: form, algorithm, time, the list of signed
    /// headers (`host` and every `x-amz-*`), and whether the kind of payload is allowed.
    pub fn parse(request: &SignedRequest<'a>, rules: Rules) -> Result<Self, AuthError> {
        let claim = claim(request)?;
        check_signed_headers(request, &claim.signed_headers)?;
        let payload = declared_payload(request, &claim, rules)?;
        Ok(Self { request: *request, path_style: rules.path_style, claim, payload })
    }

    /// The access key that claims to have signed.
    pub fn access_key(&self) -> &str {
        self.claim.credential.part(0)
    }

    /// The session token that came along.
    pub fn session_token(&self) -> Option<&[u8]> {
        self.claim.session_token.as_deref()
    }

    /// The scope that the signature claims; its date is the day of the request.
    pub fn scope(&self) -> Scope<'_> {
        let [date, region, service] = [1, 2, 3].map(|i| self.claim.credential.part(i));
        Scope { date, region, service }
    }

    /// Whether the scope is for `region` and `service`. Call it before looking up the key: a signature for another
    /// service must not be good here.
    pub fn check_scope(&self, region: &str, service: &str) -> Result<(), AuthError> {
        let scope = self.scope();
        if scope.region != region {
            return Err(Invalid::ScopeRegion { got: quote(scope.region.as_bytes()) }.into());
        }
        if scope.service != service {
            return Err(Invalid::ScopeService { expected: service.to_owned() }.into());
        }
        Ok(())
    }

    /// Whether the signature covers a hash that stands nowhere in the request, so that only [`Presented::verify`], with
    /// the whole body, can check it.
    pub fn needs_body(&self) -> bool {
        self.payload.is_none()
    }

    /// Verifies the signature and the body.
    ///
    /// For an access key that does not exist pass [`SigningKey::decoy`]: the work and the error are those of a wrong
    /// secret.
    pub fn verify(&self, key: &SigningKey, body: &[u8]) -> Result<Verified<'_>, AuthError> {
        let digest = Sha256::digest(body).into();
        let verified = self.verify_payload(key, self.payload.unwrap_or(PayloadHash::Sha256(digest)))?;
        verified.payload.check_digest(|| digest)?;
        Ok(verified)
    }

    /// Verifies the signature before the body has arrived; the caller then owes a [`PayloadHash::check_body`].
    ///
    /// Fails with [`Incomplete::Missing`] if the request [needs its body](Presented::needs_body).
    pub fn verify_head(&self, key: &SigningKey) -> Result<Verified<'_>, AuthError> {
        let payload = self.payload.ok_or_else(|| Incomplete::Missing {
            place: self.claim.place,
            names: vec!["X-Amz-Content-Sha256"],
        })?;
        self.verify_payload(key, payload)
    }

    /// The canonical request for a body, to explain a mismatch: it holds nothing that the client did not send.
    pub fn canonical_request(&self, body: &[u8]) -> Vec<u8> {
        let digest = || PayloadHash::Sha256(Sha256::digest(body).into());
        self.canonical(self.payload.unwrap_or_else(digest))
    }

    /// The string to sign for a body, to explain a mismatch.
    pub fn string_to_sign(&self, body: &[u8]) -> String {
        string_to_sign(self.claim.signed_at, &self.scope(), &self.canonical_request(body))
    }

    fn canonical(&self, payload: PayloadHash) -> Vec<u8> {
        let SignedRequest { method, path, query, headers, .. } = self.request;
        canonical_request(&Parts {
            method,
            path,
            path_style: self.path_style,
            query,
            headers,
            signed_headers: &self.claim.signed_headers,
            payload: &payload.as_text(),
        })
    }

    fn verify_payload(&self, key: &SigningKey, payload: PayloadHash) -> Result<Verified<'_>, AuthError> {
        let sts = string_to_sign(self.claim.signed_at, &self.scope(), &self.canonical(payload));
        if !key.verify(&sts, &self.claim.signature) {
            return Err(AuthError::SignatureDoesNotMatch);
        }
        Ok(Verified {
            access_key: self.access_key(),
            scope: self.scope(),
            signed_headers: &self.claim.signed_headers,
            signed_at: self.claim.signed_at,
            place: self.claim.place,
            session_token: self.claim.session_token.as_deref(),
            payload,
        })
    }
}

/// A request that the owner of `access_key` signed.
#[derive(Debug, Clone, Copy)]
pub struct Verified<'p> {
    /// Whose request it is.
    pub access_key: &'p str,
    /// What the signature was made for.
    pub scope: Scope<'p>,
    /// The signed headers: lower-case names, sorted, separated by `;`.
    pub signed_headers: &'p str,
    /// When it was signed, by the client's clock.
    pub signed_at: Timestamp,
    /// Whether it is a presigned URL.
    pub place: Place,
    /// The session token that came along; believe the request only after [`Verified::check_session_token`].
    pub session_token: Option<&'p [u8]>,
    /// What the signature says about the body.
    pub payload: PayloadHash,
}

impl Verified<'_> {
    /// Whether the request carries the token that belongs to its key: none for a long-term key, `expected` for a
    /// temporary one. A token need not be signed, so each temporary key must have exactly one.
    pub fn check_session_token(&self, expected: Option<&Secret>) -> Result<(), AuthError> {
        match (self.session_token, expected) {
            (None, None) => Ok(()),
            (Some(token), Some(expected)) if expected.matches(token) => Ok(()),
            _ => Err(AuthError::UnrecognizedClient),
        }
    }
}

fn check_signed_headers(request: &SignedRequest<'_>, signed: &str) -> Result<(), Invalid> {
    let is_signed = |name: &str| signed.split(';').any(|s| s.eq_ignore_ascii_case(name));
    if !is_signed("host") {
        return Err(Invalid::HeaderNotSigned { name: "host".to_owned() });
    }
    for (name, _) in request.headers {
        let is_aws = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"));
        let is_exempt = || MAY_BE_UNSIGNED.iter().any(|exempt| name.eq_ignore_ascii_case(exempt));
        if is_aws && !is_signed(name) && !is_exempt() {
            return Err(Invalid::HeaderNotSigned { name: name.to_ascii_lowercase() });
        }
    }
    let is_sent = |name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    match signed.split(';').find(|name| !is_sent(name)) {
        Some(name) => Err(Invalid::SignedHeaderAbsent { name: name.to_owned() }),
        None => Ok(()),
    }
}

/// What the request itself says about its body: the header, or the query's parameter, or S3's rule for presigned URLs.
fn declared_payload(
    request: &SignedRequest<'_>,
    claim: &Claim<'_>,
    rules: Rules,
) -> Result<Option<PayloadHash>, AuthError> {
    let from_header = single(request, "x-amz-content-sha256", "X-Amz-Content-Sha256")?;
    let declared = match (from_header, claim.query_payload.as_deref(), claim.place, rules.path_style) {
        (Some(value), ..) | (None, Some(value), ..) => value,
        (None, None, Place::Query, PathStyle::S3) => UNSIGNED_PAYLOAD.as_bytes(),
        (None, None, ..) => return Ok(None),
    };
    if declared == UNSIGNED_PAYLOAD.as_bytes() {
        return match rules.unsigned_payload {
            UnsignedPayload::Allowed => Ok(Some(PayloadHash::Unsigned)),
            UnsignedPayload::Refused => Err(Invalid::UnsignedPayload.into()),
        };
    }
    if declared.starts_with(b"STREAMING-") {
        return Err(Invalid::StreamingPayload { kind: quote(declared) }.into());
    }
    match read_sha256(declared) {
        Some(digest) => Ok(Some(PayloadHash::Sha256(digest))),
        None => Err(Incomplete::Malformed { name: "X-Amz-Content-Sha256", value: quote(declared) }.into()),
    }
}
