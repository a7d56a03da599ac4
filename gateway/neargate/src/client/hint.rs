//! Errors that say what to do next.

use std::fmt;

use neargate_sdk::{ConfigError, Error};

/// The server does not answer (`EX_UNAVAILABLE` of sysexits.h).
const UNREACHABLE: u8 = 69;
const NOT_FOUND: u8 = 3;
const DENIED: u8 = 4;
const TIMED_OUT: u8 = 8;

/// An error with what to do about it.
#[derive(Debug)]
pub(crate) struct Hinted {
    pub(crate) message: String,
    pub(crate) hint: String,
    pub(crate) exit_code: u8,
}

impl Hinted {
    /// Nothing fits what was asked for.
    pub(crate) fn not_found(message: String, hint: impl Into<String>) -> Self {
        Self { message, hint: hint.into(), exit_code: NOT_FOUND }
    }

    /// What was asked for cannot be done as it was asked.
    pub(crate) fn refused(message: String, hint: impl Into<String>) -> Self {
        Self { message, hint: hint.into(), exit_code: 1 }
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// What a person may do about an error, for a line that starts with `hint: `.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            return Some(hinted.hint.clone());
        }
        let of_config = || cause.downcast_ref::<ConfigError>().and_then(ConfigError::hint);
        cause.downcast_ref::<Error>().and_then(Error::hint).or_else(of_config).map(str::to_owned)
    })
}

/// The exit code of a failed command: 1, or one that scripts can tell apart.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    let known = error.chain().find_map(|cause| {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            return Some(hinted.exit_code);
        }
        Some(match cause.downcast_ref::<Error>()? {
            Error::Connect { .. } => UNREACHABLE,
            Error::Timeout { .. } | Error::StillRunning { .. } => TIMED_OUT,
            Error::TaskNotFound { .. } => NOT_FOUND,
            Error::Service(error) if error.code.ends_with("NotFoundException") => NOT_FOUND,
            Error::Service(error) if error.status == 404 => NOT_FOUND,
            Error::Service(error) if error.status == 403 => DENIED,
            Error::Service(error) if error.code == "UnrecognizedClientException" => DENIED,
            _ => 1,
        })
    });
    known.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    use super::*;

    #[test]
    fn hints_and_codes_are_found_below_context() {
        let check = |error: anyhow::Error, code: u8, text: Option<&str>| {
            let error = Err::<(), _>(error).context("list tasks").unwrap_err();
            assert_eq!(exit_code(&error), code, "{error:#}");
            let found = hint(&error);
            assert_eq!(found.is_some(), text.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(text.unwrap_or_default()));
        };
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let endpoint = "http://127.0.0.1:1".to_owned();
        check(Error::Connect { endpoint, source }.into(), 69, Some("neargate serve"));
        check(Error::TaskNotFound { arn: "a".into() }.into(), 3, None);
        let none = || ConfigError::NoCredentials { profile: "default".into(), root_key: None };
        check(none().into(), 1, Some("neargate serve"));
        check(Error::from(none()).into(), 1, Some("neargate serve"));
        check(Hinted::not_found("find it".into(), "look there").into(), 3, Some("look there"));
        check(anyhow::anyhow!("other"), 1, None);
    }
}
