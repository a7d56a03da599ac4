//! Why a request was not believed. One variant of [`AuthError`] per AWS error code; the codes themselves are the
//! server's. The texts are those AWS answers with, so they start with a capital where AWS's do.

use std::fmt;

use crate::{SessionError, Timestamp};

/// Characters of a request that an error repeats.
const QUOTE_LEN_MAX: usize = 128;

/// Why a request could not be attributed to an access key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// AWS `MissingAuthenticationToken`: nothing in the request claims a signature.
    #[error("Request is missing Authentication Token")]
    MissingAuthenticationToken,
    /// AWS `IncompleteSignature`: a signature is claimed but cannot be read.
    #[error(transparent)]
    IncompleteSignature(#[from] Incomplete),
    /// AWS `InvalidSignature`: a signature was read and may not be used here, now or for this request.
    #[error(transparent)]
    InvalidSignature(#[from] Invalid),
    /// AWS `RequestExpired`: a presigned request outlived its `X-Amz-Expires`.
    #[error("Request has expired: {expired_at} is now earlier than {now}")]
    RequestExpired {
        /// When it stopped being good.
        expired_at: Timestamp,
        /// The time of verification.
        now: Timestamp,
    },
    /// AWS `SignatureDoesNotMatch`: wrong secret, changed request, or an access key that does not exist.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    SignatureDoesNotMatch,
    /// AWS `XAmzContentSHA256Mismatch` (S3) or `SignatureDoesNotMatch` (all others): the body is not the signed one.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    ContentHashMismatch,
    /// AWS `UnrecognizedClient` (JSON) or `InvalidClientTokenId` (Query): the session token is not the key's.
    #[error("The security token included in the request is invalid.")]
    UnrecognizedClient,
    /// AWS `ExpiredToken`: the session token was good once.
    #[error("The security token included in the request is expired")]
    ExpiredToken,
}

impl From<SessionError> for AuthError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Invalid => Self::UnrecognizedClient,
            SessionError::Expired => Self::ExpiredToken,
        }
    }
}

/// What is absent from or malformed in the part of a request that claims its signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// Authentication occurs twice, or in the header and in the query.
    #[error(
        "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter or one Authorization header should \
         be specified"
    )]
    Ambiguous,
    /// Parameters are missing.
    #[error("{}", MissingText(*.place, .names))]
    Missing {
        /// Where they should have been.
        place: Place,
        /// Their names, in the order AWS lists them.
        names: Vec<&'static str>,
    },
    /// A part of the Authorization header has no equal-sign.
    #[error("{part} not a valid key=value pair (missing equal-sign) in Authorization header.")]
    NotAPair {
        /// The part, quoted and cut to 128 characters.
        part: String,
    },
    /// A parameter occurs twice, is unknown, or has a value that it cannot have.
    #[error("'{name}' has an invalid value or is given more than once: {value}")]
    Malformed {
        /// The parameter or header.
        name: &'static str,
        /// The value, quoted and cut to 128 characters.
        value: String,
    },
    /// The algorithm is not `AWS4-HMAC-SHA256`.
    #[error("Unsupported AWS 'algorithm': {algorithm}.")]
    Algorithm {
        /// The algorithm asked for, quoted.
        algorithm: String,
    },
    /// The credential is not `keyid/date/region/service/aws4_request`.
    #[error(
        "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got {credential}"
    )]
    Credential {
        /// The credential, quoted.
        credential: String,
    },
    /// The date cannot be read.
    #[error(
        "Date must be in ISO-8601 'basic format'. Got {value}. See http://en.wikipedia.org/wiki/ISO_8601"
    )]
    Date {
        /// The date, quoted.
        value: String,
    },
    /// `X-Amz-Expires` is not a number of seconds in 1..=604800.
    #[error("X-Amz-Expires must be a number of seconds from 1 to 604800 (a week), got {value}")]
    Expires {
        /// The value, quoted.
        value: String,
    },
}

/// Why a well-formed signature is refused before its key is looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The request was signed more than 15 minutes ago.
    #[error("Signature expired: {signed_at} is now earlier than {} ({now} - 15 min.)", .now.plus_s(-900))]
    Expired {
        /// The request's own time.
        signed_at: Timestamp,
        /// The time of verification.
        now: Timestamp,
    },
    /// The request was signed more than 15 minutes in the future.
    #[error("Signature not yet current: {signed_at} is still later than {} ({now} + 15 min.)", .now.plus_s(900))]
    NotYetCurrent {
        /// The request's own time.
        signed_at: Timestamp,
        /// The time of verification.
        now: Timestamp,
    },
    /// The credential's date is not the day of the request.
    #[error(
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: {scope} != {}, from \
         '{signed_at}'.", .signed_at.date()
    )]
    ScopeDate {
        /// The credential's date, quoted.
        scope: String,
        /// The request's own time.
        signed_at: Timestamp,
    },
    /// The credential is for another region.
    #[error("Credential should be scoped to a valid region, not {got}.")]
    ScopeRegion {
        /// The credential's region, quoted.
        got: String,
    },
    /// The credential is for another service.
    #[error("Credential should be scoped to correct service: '{expected}'.")]
    ScopeService {
        /// The service that was called.
        expected: String,
    },
    /// The credential does not end in `aws4_request`.
    #[error("Credential should be scoped with a valid terminator: 'aws4_request', not {got}.")]
    ScopeTerminator {
        /// What it ended in, quoted.
        got: String,
    },
    /// A header that must be signed is not.
    #[error("'{name}' must be a 'SignedHeader' in the AWS Authorization.")]
    HeaderNotSigned {
        /// The header, in lower case.
        name: String,
    },
    /// A header was signed and did not arrive.
    #[error("'{name}' is a 'SignedHeader' in the AWS Authorization but is not in the request.")]
    SignedHeaderAbsent {
        /// The header, in lower case.
        name: String,
    },
    /// `UNSIGNED-PAYLOAD` where bodies must be signed.
    #[error("The payload must be signed: UNSIGNED-PAYLOAD is not supported here.")]
    UnsignedPayload,
    /// A `STREAMING-…` payload, whose chunks are signed one by one or followed by trailers.
    #[error("The payload must be signed as a whole: {kind} is not supported here.")]
    StreamingPayload {
        /// The kind asked for, quoted.
        kind: String,
    },
}

/// Where a signature stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The Authorization header.
    Header,
    /// The query string: a presigned URL.
    Query,
}

/// `value` in single quotes, escaped and cut so that it is safe to log and to send back.
pub(crate) fn quote(value: &[u8]) -> String {
    let cut = &value[..value.len().min(QUOTE_LEN_MAX)];
    let dots = if cut.len() < value.len() { "…" } else { "" };
    format!("'{}{dots}'", cut.escape_ascii())
}

struct MissingText<'a>(Place, &'a [&'static str]);

impl fmt::Display for MissingText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.1.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            match (self.0, *name) {
                (_, "X-Amz-Content-Sha256") => {
                    write!(f, "{gap}Missing required header for this request: {name}")?
                }
                (Place::Header, "Date") => write!(
                    f,
                    "{gap}Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
                )?,
                (Place::Header, _) => write!(f, "{gap}Authorization header requires '{name}' parameter.")?,
                (Place::Query, _) => write!(f, "{gap}AWS query-string parameters must include '{name}'.")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_aws() {
        let at = |text| Timestamp::parse_iso_basic(text).unwrap();
        let check = |error: AuthError, expect: &str| assert_eq!(error.to_string(), expect);
        check(
            Invalid::Expired { signed_at: at("20150830T123600Z"), now: at("20150830T130600Z") }.into(),
            "Signature expired: 20150830T123600Z is now earlier than 20150830T125100Z (20150830T130600Z - 15 min.)",
        );
        check(
            Invalid::NotYetCurrent { signed_at: at("20150830T130600Z"), now: at("20150830T123600Z") }.into(),
            "Signature not yet current: 20150830T130600Z is still later than 20150830T125100Z (20150830T123600Z + 15 min.)",
        );
        check(
            Incomplete::Missing { place: Place::Header, names: vec!["Signature", "Date"] }.into(),
            "Authorization header requires 'Signature' parameter. Authorization header requires existence of either a \
             'X-Amz-Date' or a 'Date' header.",
        );
        check(
            Incomplete::Missing { place: Place::Query, names: vec!["X-Amz-Date"] }.into(),
            "AWS query-string parameters must include 'X-Amz-Date'.",
        );
        check(
            Invalid::ScopeDate { scope: quote(b"20150831"), signed_at: at("20150830T123600Z") }.into(),
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20150831' != \
             20150830, from '20150830T123600Z'.",
        );
    }

    #[test]
    fn quoted_input_is_harmless_and_bounded() {
        assert_eq!(quote(b"a\n\x1b[31m'"), r"'a\n\x1b[31m\''");
        assert_eq!(quote(&[b'a'; 200]).chars().count(), QUOTE_LEN_MAX + 3);
    }
}
