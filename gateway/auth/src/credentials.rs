//! Access keys: their form, how a new one is made from random bytes, and secrets that never print themselves.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

/// Characters of an access key id; AWS documents 16..=128, older and test keys are shorter.
const ACCESS_KEY_ID_LEN_MAX: usize = 128;

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The public half of an access key, such as `AKIAIOSFODNN7EXAMPLE`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccessKeyId(String);

/// An access key id was empty, longer than 128 characters, or had a character other than ASCII letters, digits, `-`, `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("parse access key id: it must be 1 to 128 ASCII letters, digits, '-' or '_'")]
pub struct MalformedKeyId;

impl AccessKeyId {
    /// Accepts 1 to 128 ASCII letters, digits, `-` and `_`.
    pub fn parse(text: &str) -> Result<Self, MalformedKeyId> {
        if is_access_key_id(text) { Ok(Self(text.to_owned())) } else { Err(MalformedKeyId) }
    }

    /// The id as it stands in a credential.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` has the form of an access key id, known or not.
pub(crate) fn is_access_key_id(text: &str) -> bool {
    (1..=ACCESS_KEY_ID_LEN_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A secret access key or session token: compares in constant time and shows itself only through [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes any text; AWS's own secret keys have 40 characters.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for storing it or for handing it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this secret, in time that depends on the lengths only.
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// What a new key is for; AWS marks it in the first four characters of the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A key that lives until it is deleted: `AKIA…`.
    LongTerm,
    /// A key that comes with a session token and expires: `ASIA…`.
    Temporary,
}

impl KeyKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::LongTerm => "AKIA",
            Self::Temporary => "ASIA",
        }
    }
}

/// An access key id and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The public half.
    pub access_key: AccessKeyId,
    /// The half that signs.
    pub secret: Secret,
}

impl KeyPair {
    /// Random bytes that one pair takes: 80 bits of id and 240 bits of secret.
    pub const RANDOM_LEN: usize = 40;

    /// Makes a pair of AWS's form (20-character id, 40-character secret) from bytes of a cryptographic random source.
    pub fn generate(kind: KeyKind, random: &[u8; Self::RANDOM_LEN]) -> Self {
        let (id, secret) = random.split_at(10);
        let mut access_key = kind.prefix().to_owned();
        for five in id.chunks_exact(5) {
            let bits = five.iter().fold(0_u64, |bits, b| bits << 8 | u64::from(*b));
            access_key.extend((0..8).rev().map(|i| char::from(BASE32[(bits >> (5 * i) & 31) as usize])));
        }
        Self { access_key: AccessKeyId(access_key), secret: Secret(STANDARD.encode(secret)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generates_keys_of_the_aws_form() {
        let zeros = KeyPair::generate(KeyKind::LongTerm, &[0; 40]);
        assert_eq!(zeros.access_key.as_str(), "AKIAAAAAAAAAAAAAAAAA");
        assert_eq!(zeros.secret.expose(), "A".repeat(40));
        let ones = KeyPair::generate(KeyKind::Temporary, &[0xff; 40]);
        assert_eq!(ones.access_key.as_str(), "ASIA7777777777777777");
        assert_eq!(ones.secret.expose(), "/".repeat(40));
        // The base32 of RFC 4648 §10: "fooba" is MZXW6YTB.
        let mut random = [0; 40];
        random[..5].copy_from_slice(b"fooba");
        assert_eq!(KeyPair::generate(KeyKind::LongTerm, &random).access_key.as_str(), "AKIAMZXW6YTBAAAAAAAA");
    }

    #[test]
    fn every_random_byte_counts() {
        let base = KeyPair::generate(KeyKind::LongTerm, &[0; 40]);
        for i in 0..40 {
            let mut random = [0; 40];
            random[i] = 1;
            assert_ne!(KeyPair::generate(KeyKind::LongTerm, &random), base, "byte {i}");
        }
    }

    #[test]
    fn checks_the_form_of_ids() {
        for text in ["AKIDEXAMPLE", "test", "a", "minio-root_1", &"A".repeat(128)] {
            assert_eq!(AccessKeyId::parse(text).map(|id| id.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "A/B", "A B", "A\nB", "É", "A,B", &"A".repeat(129)] {
            assert_eq!(AccessKeyId::parse(text), Err(MalformedKeyId), "{text:?}");
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let pair = KeyPair::generate(KeyKind::LongTerm, &[7; 40]);
        assert!(!format!("{pair:?} {pair:#?}").contains(pair.secret.expose()));
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(redacted)");
        assert!(
            Secret::new("a").matches(b"a")
                && !Secret::new("a").matches(b"b")
                && !Secret::new("a").matches(b"ab")
        );
    }
}
