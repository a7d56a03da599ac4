//! Who sent this request: AWS Signature Version 4, signed and verified.
//!
//! The crate is pure: it does no I/O, reads no clock and draws no randomness; the time and the random bytes are
//! arguments. The server verifies with it and the Rust client signs with it, so that one canonical form serves both.
//!
//! ```text
//! request head ──Presented::parse──▶ Presented ──(caller looks up the key)──▶ Presented::verify(key, body) ──▶ Verified
//!                     │                                                            │
//!                     └── malformed, stale, unsigned headers: AuthError            └── wrong secret, unknown key: AuthError
//! ```
//!
//! What a caller may do with its identity (IAM policies) is not decided here, and HTTP statuses and AWS error codes are
//! the server's: [`AuthError`] has one variant for each code, and its text is the explanation AWS gives.
//!
//! Source of the algorithm: the IAM User Guide, "Create a signed AWS API request", and the S3 API reference,
//! "Authenticating Requests (AWS Signature Version 4)".

#![forbid(unsafe_code)]

mod credentials;
mod error;
mod session;
pub mod sigv4;
mod timestamp;

pub use credentials::{AccessKeyId, KeyKind, KeyPair, MalformedKeyId, Secret};
pub use error::{AuthError, Incomplete, Invalid, Place};
pub use session::{Credentials, Pass, SEAL_LEN, Seal, Session, SessionError, SessionOf};
pub use timestamp::Timestamp;
