//! A request that owns its parts, so that tests can change one and verify again.

#![allow(dead_code, missing_docs, unreachable_pub)]

use neargate_auth::sigv4::{
    Outgoing, PathStyle, Payload, Presented, Rules, SignedRequest, Signer, SigningKey,
};
use neargate_auth::{AuthError, Secret, Timestamp};

pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
pub const REGION: &str = "us-east-1";
pub const SERVICE: &str = "service";

#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Wire {
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.add(name, value);
    }

    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// Replaces text in the Authorization header; panics if there was none, so that no edit is void.
    pub fn edit_authorization(&mut self, from: &str, to: &str) {
        let text = String::from_utf8(self.header("authorization").unwrap().to_vec()).unwrap();
        assert!(text.contains(from), "{from:?} is not in {text:?}");
        self.set("authorization", text.replacen(from, to, 1));
    }

    /// Replaces text in the query; panics if there was none.
    pub fn edit_query(&mut self, from: &str, to: &str) {
        assert!(self.query.contains(from), "{from:?} is not in {:?}", self.query);
        self.query = self.query.replacen(from, to, 1);
    }

    pub fn borrowed(&self) -> Vec<(&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    pub fn sign(&mut self, signer: &Signer<'_>, now: Timestamp) {
        let headers = self.borrowed();
        for (name, value) in signer.sign_header(&self.outgoing(&headers), now).unwrap() {
            self.set(name, value);
        }
    }

    pub fn presign(&mut self, signer: &Signer<'_>, expires_s: u32, now: Timestamp) {
        let headers = self.borrowed();
        self.query = signer.presign(&self.outgoing(&headers), expires_s, now).unwrap();
    }

    pub fn outgoing<'a>(&'a self, headers: &'a [(&'a str, &'a [u8])]) -> Outgoing<'a> {
        let payload = Payload::Bytes(&self.body);
        Outgoing { method: &self.method, path: &self.path, query: &self.query, headers, payload }
    }

    /// Verifies with `SECRET` if the access key is `ACCESS_KEY`, else with a decoy.
    pub fn verify(&self, rules: Rules, now: Timestamp) -> Result<(), AuthError> {
        self.verify_with(rules, now, &Secret::new(SECRET), |_, _| ())
    }

    pub fn verify_with(
        &self,
        rules: Rules,
        now: Timestamp,
        secret: &Secret,
        see: impl FnOnce(&Presented<'_>, &neargate_auth::sigv4::Verified<'_>),
    ) -> Result<(), AuthError> {
        let headers = self.borrowed();
        let presented = Presented::parse(&self.signed(&headers, now), rules)?;
        let key = match presented.access_key() {
            ACCESS_KEY => SigningKey::derive(secret, &presented.scope()),
            _ => SigningKey::decoy(&presented.scope()),
        };
        let verified = presented.verify(&key, &self.body)?;
        see(&presented, &verified);
        Ok(())
    }

    pub fn signed<'a>(&'a self, headers: &'a [(&'a str, &'a [u8])], now: Timestamp) -> SignedRequest<'a> {
        SignedRequest { method: &self.method, path: &self.path, query: &self.query, headers, now }
    }
}

pub fn at(text: &str) -> Timestamp {
    Timestamp::parse_iso_basic(text).unwrap()
}

pub fn signer(secret: &Secret, path_style: PathStyle) -> Signer<'_> {
    Signer {
        access_key: ACCESS_KEY,
        secret,
        session_token: None,
        region: REGION,
        service: SERVICE,
        path_style,
    }
}
