//! Errors of the log store as CloudWatch Logs words them.

use neargate_telemetry::{MetaError, PutError, ReadError, What};
use neargate_wire::logs::LogsError;

/// An error of any family of the log store.
pub(super) enum Problem {
    /// Of groups and streams.
    Meta(MetaError),
    /// Of writing events.
    Put(PutError),
    /// Of reading events.
    Read(ReadError),
}

impl From<MetaError> for Problem {
    fn from(error: MetaError) -> Self {
        Self::Meta(error)
    }
}

impl From<PutError> for Problem {
    fn from(error: PutError) -> Self {
        Self::Put(error)
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

pub(super) fn invalid(message: impl Into<String>) -> LogsError {
    LogsError::InvalidParameter { message: message.into() }
}

fn not_found(what: What) -> LogsError {
    LogsError::ResourceNotFound { message: format!("The specified {what} does not exist.") }
}

/// A failure of ours: its details are for the log, not for the client.
fn unavailable(error: &dyn std::error::Error) -> LogsError {
    tracing::error!(error = neargate_model::chain(error), "log store failed");
    LogsError::ServiceUnavailable { message: "The service cannot complete the request.".to_owned() }
}

pub(super) fn logs(problem: Problem) -> LogsError {
    match problem {
        Problem::Meta(MetaError::NotFound { what, .. })
        | Problem::Put(PutError::NotFound { what, .. })
        | Problem::Read(ReadError::NotFound { what, .. }) => not_found(what),
        Problem::Meta(MetaError::AlreadyExists { what, .. }) => {
            LogsError::ResourceAlreadyExists { message: format!("The specified {what} already exists") }
        }
        Problem::Meta(MetaError::InvalidParameter { parameter, rule })
        | Problem::Put(PutError::InvalidParameter { parameter, rule })
        | Problem::Read(ReadError::InvalidParameter { parameter, rule }) => {
            invalid(format!("{parameter} is not valid: {rule}"))
        }
        Problem::Meta(error @ MetaError::Io { .. }) => unavailable(&error),
        Problem::Put(error @ (PutError::Unavailable { .. } | PutError::Closed { .. })) => unavailable(&error),
        Problem::Read(error @ ReadError::Io { .. }) => unavailable(&error),
    }
}
