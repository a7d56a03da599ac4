//! Temporary credentials: keys that come with a token, which says all that is known of them.
//!
//! ```text
//! token  = base64url(tag ‖ claims)      tag    = HMAC(seal, "token" ‖ claims)
//!                                       secret = HMAC(seal, "secret" ‖ claims)
//! pass   = base64url(tag ‖ claims)      tag    = HMAC(seal, "pass" ‖ claims)
//! ticket = base64url(HMAC(seal, "ticket" ‖ purpose ‖ what))
//! ```
//!
//! Nothing is kept of what was issued, so that nothing has to be cleaned up, and a restart ends no session: whoever has
//! the seal's key can tell the secret of a token, and nobody else can make either. Claims are no secret; the tag keeps
//! them from being changed. A pass stands for its session by itself, as the password of the registry has to; a token,
//! which every signed request shows, is none.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::credentials::{KeyKind, KeyPair, Secret};
use crate::timestamp::Timestamp;

/// Bytes of a seal's key.
pub const SEAL_LEN: usize = 32;
/// Bytes of an HMAC-SHA256.
const TAG_LEN: usize = 32;
/// Most characters of a token: more are none of ours and not decoded.
const TOKEN_LEN_MAX: usize = 2048;
/// The form of the claims.
const VERSION: &str = "1";
/// Bytes of a secret access key before it is written as text of 40 characters.
const SECRET_LEN: usize = 30;

/// Issues and opens tokens; whoever has its key can be anybody.
#[derive(Clone)]
pub struct Seal {
    key: [u8; SEAL_LEN],
}

/// Whose a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOf {
    /// The account's root user.
    Root {
        /// The id of the access key that began it; empty where there was none.
        key: String,
    },
    /// A role.
    Role {
        /// The role's name.
        name: String,
        /// Its id, which another role of the same name does not have.
        id: String,
        /// The name of the session.
        session: String,
    },
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The account.
    pub account: String,
    /// Who.
    pub of: SessionOf,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a pass says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// Whose it is.
    pub session: Session,
    /// The region that it was asked for in.
    pub region: String,
}

/// New credentials.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The key.
    pub pair: KeyPair,
    /// What must come with it.
    pub token: Secret,
    /// When they end.
    pub expires_at: Timestamp,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It is none of ours, or of another key.
    #[error("The security token included in the request is invalid.")]
    Invalid,
    /// Its time is over.
    #[error("The security token included in the request is expired")]
    Expired,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(redacted)")
    }
}

impl Seal {
    /// The seal of a key of a cryptographic random source.
    pub fn new(key: [u8; SEAL_LEN]) -> Self {
        Self { key }
    }

    /// New credentials of a session; `random` is of a cryptographic random source.
    pub fn issue(&self, session: &Session, random: &[u8; KeyPair::RANDOM_LEN]) -> Credentials {
        let access_key = KeyPair::generate(KeyKind::Temporary, random).access_key;
        let claims = write(access_key.as_str(), session);
        let token = self.sealed("token", &claims);
        let pair = KeyPair { access_key, secret: self.secret(&claims) };
        Credentials { pair, token: Secret::new(token), expires_at: session.expires_at }
    }

    /// What a token says, and the secret of the key that it came with.
    pub fn open(
        &self,
        token: &[u8],
        access_key: &str,
        now: Timestamp,
    ) -> Result<(Session, Secret), SessionError> {
        let claims = self.opened("token", token)?;
        let (of_key, session) = read(&claims).ok_or(SessionError::Invalid)?;
        if of_key != access_key {
            return Err(SessionError::Invalid);
        }
        if session.expires_at <= now {
            return Err(SessionError::Expired);
        }
        let secret = self.secret(&claims);
        Ok((session, secret))
    }

    /// A password that stands for a session by itself.
    pub fn pass(&self, pass: &Pass) -> Secret {
        Secret::new(self.sealed("pass", &write(&pass.region, &pass.session)))
    }

    /// What a pass says.
    pub fn open_pass(&self, pass: &[u8], now: Timestamp) -> Result<Pass, SessionError> {
        let claims = self.opened("pass", pass)?;
        let (region, session) = read(&claims).ok_or(SessionError::Invalid)?;
        if session.expires_at <= now {
            return Err(SessionError::Expired);
        }
        Ok(Pass { region: region.to_owned(), session })
    }

    /// Text that lets whoever has it do one thing: `what` says all that matters of it, its end included.
    pub fn ticket(&self, purpose: &str, what: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(&format!("ticket\n{purpose}"), what).finalize().into_bytes())
    }

    /// Whether it is the ticket for this.
    pub fn is_ticket(&self, ticket: &str, purpose: &str, what: &str) -> bool {
        let Ok(tag) = URL_SAFE_NO_PAD.decode(ticket) else { return false };
        // In constant time.
        self.mac(&format!("ticket\n{purpose}"), what).verify_slice(&tag).is_ok()
    }

    /// Claims with a tag that is good for one purpose.
    fn sealed(&self, purpose: &str, claims: &str) -> String {
        let mut sealed = self.mac(purpose, claims).finalize().into_bytes().to_vec();
        sealed.extend_from_slice(claims.as_bytes());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    fn opened(&self, purpose: &str, sealed: &[u8]) -> Result<String, SessionError> {
        if sealed.len() > TOKEN_LEN_MAX {
            return Err(SessionError::Invalid);
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| SessionError::Invalid)?;
        let (tag, claims) = bytes.split_at_checked(TAG_LEN).ok_or(SessionError::Invalid)?;
        let claims = str::from_utf8(claims).map_err(|_| SessionError::Invalid)?;
        // In constant time.
        self.mac(purpose, claims).verify_slice(tag).map_err(|_| SessionError::Invalid)?;
        Ok(claims.to_owned())
    }

    /// A name of something that nobody else can guess: the same each time, another one for each purpose.
    pub fn name(&self, purpose: &str, of: &str) -> [u8; 16] {
        let mac = self.mac(&format!("name\n{purpose}"), of).finalize().into_bytes();
        let mut name = [0; 16];
        name.copy_from_slice(&mac[..16]);
        name
    }

    fn secret(&self, claims: &str) -> Secret {
        let mac = self.mac("secret", claims).finalize().into_bytes();
        Secret::new(STANDARD.encode(&mac[..SECRET_LEN]))
    }

    /// No purpose is the beginning of another one with its separator.
    fn mac(&self, purpose: &str, text: &str) -> Hmac<Sha256> {
        let mac: Hmac<Sha256> = Hmac::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.chain_update(purpose).chain_update([0]).chain_update(text)
    }
}

/// The claims of a session, and of what it came with: an access key, or a region. Lines, none of whose parts has a line
/// break.
fn write(with: &str, session: &Session) -> String {
    let (kind, name, id, of_role) = match &session.of {
        SessionOf::Root { key } => ("root", key.as_str(), "", ""),
        SessionOf::Role { name, id, session } => ("role", name.as_str(), id.as_str(), session.as_str()),
    };
    let expires = session.expires_at.unix_s().to_string();
    [VERSION, with, &session.account, &expires, kind, name, id, of_role].join("\n")
}

fn read(claims: &str) -> Option<(&str, Session)> {
    let [VERSION, access_key, account, expires, kind, name, id, session] =
        claims.split('\n').collect::<Vec<_>>()[..]
    else {
        return None;
    };
    let of = match kind {
        "root" => SessionOf::Root { key: name.to_owned() },
        "role" => SessionOf::Role { name: name.to_owned(), id: id.to_owned(), session: session.to_owned() },
        _ => return None,
    };
    let expires_at = Timestamp::from_unix_s(expires.parse().ok()?);
    Some((access_key, Session { account: account.to_owned(), of, expires_at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal::new([7; SEAL_LEN])
    }

    fn session(expires_s: i64) -> Session {
        let of = SessionOf::Role { name: "r".to_owned(), id: "AROA1".to_owned(), session: "s".to_owned() };
        Session { account: "123456789012".to_owned(), of, expires_at: Timestamp::from_unix_s(expires_s) }
    }

    #[test]
    fn what_was_issued_opens() {
        for session in
            [session(100), Session { of: SessionOf::Root { key: "AKIA1".to_owned() }, ..session(100) }]
        {
            let made = seal().issue(&session, &[1; KeyPair::RANDOM_LEN]);
            assert!(made.pair.access_key.as_str().starts_with("ASIA"));
            assert_eq!(made.pair.secret.expose().len(), 40);
            let open = |at_s| {
                let token = made.token.expose().as_bytes();
                seal().open(token, made.pair.access_key.as_str(), Timestamp::from_unix_s(at_s))
            };
            assert_eq!(open(99), Ok((session, made.pair.secret.clone())));
            assert_eq!(open(100), Err(SessionError::Expired));
        }
    }

    #[test]
    fn what_was_changed_does_not() {
        let made = seal().issue(&session(100), &[1; KeyPair::RANDOM_LEN]);
        let (key, now) = (made.pair.access_key.as_str(), Timestamp::from_unix_s(0));
        let token = URL_SAFE_NO_PAD.decode(made.token.expose()).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone();
            changed[at] ^= 1;
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert_eq!(seal().open(changed.as_bytes(), key, now), Err(SessionError::Invalid), "byte {at}");
        }
        for cut in 0..made.token.expose().len() {
            assert!(seal().open(&made.token.expose().as_bytes()[..cut], key, now).is_err());
        }
        let whole = made.token.expose().as_bytes();
        assert_eq!(seal().open(whole, "ASIAAAAAAAAAAAAAAAAA", now), Err(SessionError::Invalid));
        assert_eq!(Seal::new([8; SEAL_LEN]).open(whole, key, now), Err(SessionError::Invalid));
        assert_eq!(seal().open(&[b'A'; 1 << 20], key, now), Err(SessionError::Invalid));
    }

    #[test]
    fn a_pass_is_no_token_and_a_token_no_pass() {
        let pass = Pass { session: session(100), region: "us-east-1".to_owned() };
        let text = seal().pass(&pass);
        let open = |text: &str, at_s| seal().open_pass(text.as_bytes(), Timestamp::from_unix_s(at_s));
        assert_eq!(open(text.expose(), 99), Ok(pass));
        assert_eq!(open(text.expose(), 100), Err(SessionError::Expired));
        assert_eq!(open(&text.expose()[1..], 0), Err(SessionError::Invalid));
        let made = seal().issue(&session(100), &[1; KeyPair::RANDOM_LEN]);
        assert_eq!(open(made.token.expose(), 0), Err(SessionError::Invalid));
        let (key, now) = ("us-east-1", Timestamp::from_unix_s(0));
        assert_eq!(seal().open(text.expose().as_bytes(), key, now), Err(SessionError::Invalid));
        assert!(!format!("{text:?}").contains(text.expose()));
    }

    #[test]
    fn a_ticket_is_for_one_thing() {
        let ticket = seal().ticket("download", "a\n1");
        assert!(seal().is_ticket(&ticket, "download", "a\n1"));
        for (purpose, what) in [("upload", "a\n1"), ("download", "a\n2"), ("download\na", "1")] {
            assert!(!seal().is_ticket(&ticket, purpose, what));
        }
        assert!(!Seal::new([8; SEAL_LEN]).is_ticket(&ticket, "download", "a\n1"));
        assert!(!seal().is_ticket("", "download", "a\n1"));
    }

    #[test]
    fn two_sessions_have_nothing_in_common() {
        let one = seal().issue(&session(100), &[1; KeyPair::RANDOM_LEN]);
        let other = seal().issue(&session(100), &[2; KeyPair::RANDOM_LEN]);
        assert_ne!(one.pair.access_key, other.pair.access_key);
        assert_ne!(one.pair.secret, other.pair.secret);
        assert!(!format!("{:?} {one:?}", seal()).contains(one.pair.secret.expose()));
        assert_ne!(seal().name("a", "b"), seal().name("a\nb", ""));
        assert_eq!(seal().name("a", "b"), seal().name("a", "b"));
    }
}
