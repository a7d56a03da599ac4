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
}

impl Error {
    /// An error without a code.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: None }
    }

    /// The same error with a code, a short name such as `EmptyOrder` that callers may compare.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }
}

impl<E: Display> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
