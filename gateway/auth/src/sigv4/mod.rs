//! AWS Signature Version 4 with HMAC-SHA256: the only algorithm Neargate signs with or accepts.
//!
//! SigV4a (`AWS4-ECDSA-P256-SHA256`), SHA-1 and chunk-signed (`STREAMING-…`) payloads are refused by name.

mod canonical;
mod key;
mod parse;
mod sign;
mod verify;

use std::fmt;

pub use canonical::normalize_path;
pub use key::{KeyCache, SigningKey};
pub use sign::{Outgoing, Payload, SignError, Signer};
pub use verify::{PayloadHash, Presented, Verified};

use crate::Timestamp;

/// How far the clock of a signer may be from ours, in seconds: AWS's 15 minutes.
pub const CLOCK_SKEW_S_MAX: i64 = 900;

/// The longest life of a presigned request, in seconds: a week.
pub const EXPIRES_S_MAX: u32 = 604_800;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// A received request without its body, exactly as it stood on the wire.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// The path before the `?`, still percent-encoded.
    pub path: &'a str,
    /// The query after the `?`, still percent-encoded; empty if there is none.
    pub query: &'a str,
    /// Names (in any case) and values in the order of arrival. Over HTTP/2 the caller adds `:authority` as `host`.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The time of verification.
    pub now: Timestamp,
}

/// How the path of a request enters its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStyle {
    /// Every service but S3: dot segments and repeated slashes removed, then the path as sent is encoded once more.
    Normalized,
    /// S3: the path is decoded and encoded once, and nothing is removed, because `a//b` and `a/../b` are object names.
    S3,
}

/// Whether a request may leave its body out of its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsignedPayload {
    /// `UNSIGNED-PAYLOAD` is honoured.
    Allowed,
    /// `UNSIGNED-PAYLOAD` is an error.
    Refused,
}

/// What the service that receives a request demands of its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How the path is signed.
    pub path_style: PathStyle,
    /// Whether the body must be signed.
    pub unsigned_payload: UnsignedPayload,
}

impl Rules {
    /// The rules of every service but S3.
    pub const SERVICE: Self =
        Self { path_style: PathStyle::Normalized, unsigned_payload: UnsignedPayload::Refused };
    /// The rules of S3.
    pub const S3: Self = Self { path_style: PathStyle::S3, unsigned_payload: UnsignedPayload::Allowed };
}

/// What a signing key is good for: one service in one region on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope<'a> {
    /// The day, as `YYYYMMDD` of UTC.
    pub date: &'a str,
    /// The region, such as `us-east-1`.
    pub region: &'a str,
    /// The service's signing name, such as `ecs`.
    pub service: &'a str,
}

/// Writes `date/region/service/aws4_request`.
impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}

/// What the signing key signs: the algorithm, the time, the scope and the hash of the canonical request.
fn string_to_sign(signed_at: Timestamp, scope: &Scope<'_>, canonical_request: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let hash = hex::encode(Sha256::digest(canonical_request));
    format!("{ALGORITHM}\n{signed_at}\n{scope}\n{hash}")
}
