//! The error of a task.

use std::fmt::Display;

use serde::Serialize;

/// Why a task failed: a message for people and, if wanted, a code for programs.
///
/// It is made from anything that implements `Display`, so `?` works on every error. For that reason it
/// does not implement `Display` itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    retryable: bool,
}

impl Error {
    /// An error without a code.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: None, retryable: false }
    }

    /// The same error with a code, a short name such as `EmptyOrder` that callers may compare.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// The same error, of which trying again may be the cure: a service that was busy, say.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Code, message, and whether trying again may help.
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    pub(crate) fn into_parts(self) -> (Option<String>, String, bool) {
        (self.code, self.message, self.retryable)
    }
}

impl<E: Display> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
