//! Signing keys: derived from a secret for one scope, and remembered for a while.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use super::{Scope, TERMINATOR};
use crate::Secret;

/// Stands in for the secret of an access key that does not exist. It is public, so its signatures never count.
const DECOY_SECRET: &str = "0000000000000000000000000000000000000000";

/// The key that signs all requests of one access key in one [`Scope`].
#[derive(Clone)]
pub struct SigningKey {
    mac: Hmac<Sha256>,
    is_known: bool,
}

impl SigningKey {
    /// Derives the key: four HMACs, a microsecond or two.
    pub fn derive(secret: &Secret, scope: &Scope<'_>) -> Self {
        Self { mac: derive(secret.expose(), scope), is_known: true }
    }

    /// The key for a request whose access key does not exist: verification takes as long as with a real key and always
    /// ends in [`SignatureDoesNotMatch`](crate::AuthError::SignatureDoesNotMatch).
    pub fn decoy(scope: &Scope<'_>) -> Self {
        Self { mac: derive(DECOY_SECRET, scope), is_known: false }
    }

    /// The signature of `string_to_sign`.
    pub(super) fn sign(&self, string_to_sign: &str) -> [u8; 32] {
        self.mac.clone().chain_update(string_to_sign).finalize().into_bytes().into()
    }

    /// Whether `signature` is this key's of `string_to_sign`, in constant time.
    pub(super) fn verify(&self, string_to_sign: &str, signature: &[u8; 32]) -> bool {
        (self.sign(string_to_sign).ct_eq(signature) & Choice::from(u8::from(self.is_known))).into()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

fn derive(secret: &str, scope: &Scope<'_>) -> Hmac<Sha256> {
    let root = keyed(format!("AWS4{secret}").as_bytes());
    [scope.date, scope.region, scope.service, TERMINATOR]
        .iter()
        .fold(root, |mac, part| keyed(&mac.chain_update(part).finalize().into_bytes()))
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Signing keys by access key and scope, so that a busy client costs one derivation a day and service.
///
/// All unknown access keys share one entry per scope: after its first request of the day an unknown key is answered as
/// fast as a known one. Callers check the scope's region and service before they come here, as
/// [`Presented::check_scope`](super::Presented::check_scope) does, so that clients cannot invent scopes. A key whose
/// secret changed or which was deleted is derived anew, because the secret is compared on every use.
pub struct KeyCache {
    capacity: usize,
    entries: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    secret: Option<Secret>,
    key: SigningKey,
}

impl KeyCache {
    /// Keeps at most `capacity` keys of about 300 bytes. A full cache is emptied: deriving a key again takes microseconds.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::default() }
    }

    /// The signing key of `access_key` in `scope`, or a decoy if `secret` is `None` because there is no such key.
    pub fn signing_key(&self, access_key: &str, secret: Option<&Secret>, scope: &Scope<'_>) -> SigningKey {
        // No part of a scope and no id contains a slash, and ids are never empty: the decoy's name is its own.
        let id = format!("{scope}/{}", if secret.is_some() { access_key } else { "" });
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&id).filter(|entry| entry.secret.as_ref() == secret) {
            return entry.key.clone();
        }
        let key = secret.map_or_else(|| SigningKey::decoy(scope), |secret| SigningKey::derive(secret, scope));
        if entries.len() >= self.capacity {
            entries.clear();
        }
        if self.capacity > 0 {
            entries.insert(id, Entry { secret: secret.cloned(), key: key.clone() });
        }
        key
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope<'_> = Scope { date: "20150830", region: "us-east-1", service: "iam" };

    /// The example of the IAM User Guide: signing key and signature of its ListUsers request.
    #[test]
    fn derives_the_documented_key() {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let sts = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
                   f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
        let key = SigningKey::derive(&secret, &SCOPE);
        let signature = key.sign(sts);
        assert_eq!(
            hex::encode(signature),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        assert!(key.verify(sts, &signature));
        assert!(!key.verify("AWS4", &signature));
    }

    #[test]
    fn a_decoy_never_verifies() {
        let decoy = SigningKey::decoy(&SCOPE);
        assert!(!decoy.verify("x", &decoy.sign("x")));
        let same_secret = SigningKey::derive(&Secret::new(DECOY_SECRET), &SCOPE);
        assert_eq!(same_secret.sign("x"), decoy.sign("x"), "the work is the same");
        assert!(same_secret.verify("x", &decoy.sign("x")), "only being unknown makes it a decoy");
    }

    #[test]
    fn the_cache_follows_secrets_and_stays_small() {
        let cache = KeyCache::new(2);
        let (old, new) = (Secret::new("old"), Secret::new("new"));
        let sign = |id: &str, secret: Option<&Secret>| cache.signing_key(id, secret, &SCOPE).sign("x");
        assert_eq!(sign("A", Some(&old)), SigningKey::derive(&old, &SCOPE).sign("x"));
        assert_eq!(sign("A", Some(&old)), SigningKey::derive(&old, &SCOPE).sign("x"));
        assert_eq!(sign("A", Some(&new)), SigningKey::derive(&new, &SCOPE).sign("x"));
        let deleted = cache.signing_key("A", None, &SCOPE);
        assert!(!deleted.verify("x", &deleted.sign("x")));
        for i in 0..10 {
            sign(&format!("K{i}"), Some(&old));
            sign(&format!("unknown{i}"), None);
            assert!(cache.entries.lock().unwrap().len() <= 2);
        }
        assert_eq!(KeyCache::new(0).signing_key("A", Some(&old), &SCOPE).sign("x"), sign("A", Some(&old)));
        assert!(!format!("{cache:?} {deleted:?}").contains("old"));
    }
}
