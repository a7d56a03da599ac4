//! Reads what a request claims about its signature, from the Authorization header or from the query.

use std::borrow::Cow;

use super::canonical::decode;
use super::verify::{Claim, Credential};
use super::{ALGORITHM, CLOCK_SKEW_S_MAX, EXPIRES_S_MAX, SignedRequest, TERMINATOR};
use crate::credentials::is_access_key_id;
use crate::error::quote;
use crate::{AuthError, Incomplete, Invalid, Place, Timestamp};

/// Characters of a region or service name; AWS's longest are below 40.
const SCOPE_NAME_LEN_MAX: usize = 64;

/// The one place where `request` claims a signature, or why there is none.
pub(super) fn claim<'a>(request: &SignedRequest<'a>) -> Result<Claim<'a>, AuthError> {
    let query = QueryParameters::read(request.query)?;
    match (single(request, "authorization", "Authorization")?, query.is_present()) {
        (Some(_), true) => Err(Incomplete::Ambiguous.into()),
        (Some(value), false) => from_header(request, value),
        (None, true) => query.claim(request),
        (None, false) => Err(AuthError::MissingAuthenticationToken),
    }
}

/// The value of a header that may occur once.
pub(super) fn single<'a>(
    request: &SignedRequest<'a>,
    name: &str,
    label: &'static str,
) -> Result<Option<&'a [u8]>, Incomplete> {
    let mut values =
        request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
    match (values.next(), values.next()) {
        (_, Some(_)) if label == "Authorization" => Err(Incomplete::Ambiguous),
        (_, Some(second)) => Err(Incomplete::Malformed { name: label, value: quote(second) }),
        (first, None) => Ok(first.map(<[u8]>::trim_ascii)),
    }
}

fn from_header<'a>(request: &SignedRequest<'a>, value: &'a [u8]) -> Result<Claim<'a>, AuthError> {
    let (scheme, rest) = match value.iter().position(|b| matches!(b, b' ' | b'\t')) {
        Some(end) => value.split_at(end),
        None => (value, &b""[..]),
    };
    check_algorithm(scheme)?;
    let text = str::from_utf8(rest)
        .map_err(|_| Incomplete::Malformed { name: "Authorization", value: quote(rest) })?;
    let [mut credential, mut signed_headers, mut signature] = [None; 3];
    for part in text.split(',').map(|part| part.trim_matches([' ', '\t'])).filter(|part| !part.is_empty()) {
        let (name, value) =
            part.split_once('=').ok_or_else(|| Incomplete::NotAPair { part: quote(part.as_bytes()) })?;
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            _ => return Err(malformed("Authorization", part.as_bytes()).into()),
        };
        if slot.replace(value).is_some() {
            return Err(malformed("Authorization", part.as_bytes()).into());
        }
    }
    let signed_at = header_time(request)?;
    let (Some(credential), Some(signature), Some(signed_headers), Some(signed_at)) =
        (credential, signature, signed_headers, signed_at)
    else {
        let names = [
            ("Credential", credential.is_none()),
            ("Signature", signature.is_none()),
            ("SignedHeaders", signed_headers.is_none()),
            ("Date", signed_at.is_none()),
        ];
        return Err(missing(Place::Header, &names).into());
    };
    let claim = Claim {
        credential: read_credential(Cow::Borrowed(credential), signed_at)?,
        signature: read_signature("Signature", signature.as_bytes())?,
        signed_headers: read_signed_headers("SignedHeaders", Cow::Borrowed(signed_headers))?,
        signed_at,
        place: Place::Header,
        session_token: single(request, "x-amz-security-token", "X-Amz-Security-Token")?.map(Cow::Borrowed),
        query_payload: None,
    };
    check_clock(signed_at, request.now)?;
    Ok(claim)
}

/// `X-Amz-Date`, or else `Date` in either of its forms.
fn header_time(request: &SignedRequest<'_>) -> Result<Option<Timestamp>, Incomplete> {
    let unreadable = |value| Incomplete::Date { value: quote(value) };
    if let Some(value) = single(request, "x-amz-date", "X-Amz-Date")? {
        let time = str::from_utf8(value).ok().and_then(Timestamp::parse_iso_basic);
        return time.map(Some).ok_or_else(|| unreadable(value));
    }
    let Some(value) = single(request, "date", "Date")? else { return Ok(None) };
    let either = |text| Timestamp::parse_iso_basic(text).or_else(|| Timestamp::parse_http(text));
    str::from_utf8(value).ok().and_then(either).map(Some).ok_or_else(|| unreadable(value))
}

fn check_clock(signed_at: Timestamp, now: Timestamp) -> Result<(), Invalid> {
    match signed_at.unix_s() - now.unix_s() {
        ahead if ahead > CLOCK_SKEW_S_MAX => Err(Invalid::NotYetCurrent { signed_at, now }),
        ahead if ahead < -CLOCK_SKEW_S_MAX => Err(Invalid::Expired { signed_at, now }),
        _ => Ok(()),
    }
}

/// The authentication parameters of a query, decoded, in the order of [`QueryParameters::NAMES`].
struct QueryParameters<'a> {
    values: [Option<Cow<'a, [u8]>>; 8],
}

impl<'a> QueryParameters<'a> {
    const NAMES: [&'static str; 8] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
        "X-Amz-Content-Sha256",
    ];
    /// How many of the names every presigned request has.
    const REQUIRED: usize = 6;

    fn read(query: &'a str) -> Result<Self, Incomplete> {
        let mut values = [const { None }; 8];
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key);
            let Some(i) = Self::NAMES.iter().position(|name| name.as_bytes() == &*key) else { continue };
            if values[i].replace(decode(value)).is_some() {
                return Err(malformed(Self::NAMES[i], value.as_bytes()));
            }
        }
        Ok(Self { values })
    }

    fn is_present(&self) -> bool {
        self.values[..3].iter().any(Option::is_some)
    }

    fn claim(self, request: &SignedRequest<'a>) -> Result<Claim<'a>, AuthError> {
        if let Some(algorithm) = &self.values[0]
            && &**algorithm != ALGORITHM.as_bytes()
        {
            return Err(Incomplete::Algorithm { algorithm: quote(algorithm) }.into());
        }
        let absent = Self::NAMES.into_iter().zip(self.values.iter().map(Option::is_none));
        let absent: Vec<_> = absent.take(Self::REQUIRED).collect();
        let [
            Some(_),
            Some(credential),
            Some(signature),
            Some(signed_headers),
            Some(date),
            Some(expires),
            token,
            payload,
        ] = self.values
        else {
            return Err(missing(Place::Query, &absent).into());
        };
        let signed_at = str::from_utf8(&date)
            .ok()
            .and_then(Timestamp::parse_iso_basic)
            .ok_or_else(|| Incomplete::Date { value: quote(&date) })?;
        let expires_s = read_expires(&expires)?;
        let claim = Claim {
            credential: read_credential(text("X-Amz-Credential", credential)?, signed_at)?,
            signature: read_signature("X-Amz-Signature", &signature)?,
            signed_headers: read_signed_headers(
                "X-Amz-SignedHeaders",
                text("X-Amz-SignedHeaders", signed_headers)?,
            )?,
            signed_at,
            place: Place::Query,
            session_token: token,
            query_payload: payload,
        };
        check_lifetime(signed_at, expires_s, request.now)?;
        Ok(claim)
    }
}

fn check_lifetime(signed_at: Timestamp, expires_s: u32, now: Timestamp) -> Result<(), AuthError> {
    let expired_at = signed_at.plus_s(i64::from(expires_s));
    if signed_at > now.plus_s(CLOCK_SKEW_S_MAX) {
        return Err(Invalid::NotYetCurrent { signed_at, now }.into());
    }
    if expired_at < now { Err(AuthError::RequestExpired { expired_at, now }) } else { Ok(()) }
}

fn read_expires(value: &[u8]) -> Result<u32, Incomplete> {
    // Without the digit check `+5` would be a number.
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    str::from_utf8(value)
        .ok()
        .filter(|_| is_number)
        .and_then(|text| text.parse().ok())
        .filter(|expires_s| (1..=EXPIRES_S_MAX).contains(expires_s))
        .ok_or_else(|| Incomplete::Expires { value: quote(value) })
}

fn check_algorithm(scheme: &[u8]) -> Result<(), AuthError> {
    if scheme == ALGORITHM.as_bytes() {
        Ok(())
    } else if scheme.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"AWS")) {
        Err(Incomplete::Algorithm { algorithm: quote(scheme) }.into())
    } else {
        Err(AuthError::MissingAuthenticationToken)
    }
}

/// Splits `keyid/date/region/service/aws4_request` and compares its date with the request's.
fn read_credential(text: Cow<'_, str>, signed_at: Timestamp) -> Result<Credential<'_>, AuthError> {
    let refuse = || Incomplete::Credential { credential: quote(text.as_bytes()) };
    let parts: Vec<&str> = text.splitn(6, '/').collect();
    let &[access_key, date, region, service, terminator] = &*parts else { return Err(refuse().into()) };
    if !is_access_key_id(access_key) || !is_scope_name(region) || !is_scope_name(service) {
        return Err(refuse().into());
    }
    if terminator != TERMINATOR {
        return Err(Invalid::ScopeTerminator { got: quote(terminator.as_bytes()) }.into());
    }
    if date != signed_at.date() {
        return Err(Invalid::ScopeDate { scope: quote(date.as_bytes()), signed_at }.into());
    }
    let lens = [access_key, date, region, service].map(str::len);
    Ok(Credential { text, lens })
}

fn is_scope_name(text: &str) -> bool {
    (1..=SCOPE_NAME_LEN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// 64 lower-case hex digits: AWS compares the text, so upper case is another signature.
fn read_signature(name: &'static str, value: &[u8]) -> Result<[u8; 32], Incomplete> {
    read_sha256(value).ok_or_else(|| malformed(name, value))
}

/// The 32 bytes that 64 lower-case hex digits write.
pub(super) fn read_sha256(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_lower = !text.iter().any(u8::is_ascii_uppercase);
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// Lower-case header names, each once, in order: the only spelling that AWS's canonical request can contain.
fn read_signed_headers<'a>(name: &'static str, text: Cow<'a, str>) -> Result<Cow<'a, str>, Incomplete> {
    let is_token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    let are_names = text.split(';').all(|name| !name.is_empty() && name.bytes().all(is_token));
    if are_names && text.split(';').is_sorted_by(|a, b| a < b) {
        Ok(text)
    } else {
        Err(malformed(name, text.as_bytes()))
    }
}

fn text<'a>(name: &'static str, value: Cow<'a, [u8]>) -> Result<Cow<'a, str>, Incomplete> {
    match value {
        Cow::Borrowed(bytes) => str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| malformed(name, bytes)),
        Cow::Owned(bytes) => {
            String::from_utf8(bytes).map(Cow::Owned).map_err(|error| malformed(name, error.as_bytes()))
        }
    }
}

fn malformed(name: &'static str, value: &[u8]) -> Incomplete {
    Incomplete::Malformed { name, value: quote(value) }
}

fn missing(place: Place, names: &[(&'static str, bool)]) -> Incomplete {
    let names = names.iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| *name).collect();
    Incomplete::Missing { place, names }
}
