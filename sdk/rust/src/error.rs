//! Why a call or a task has no result.

use std::io;
use std::time::Duration;

use neargate_auth::sigv4::SignError;
use neargate_wire::ecs;
use thiserror::Error;

use crate::ConfigError;

/// Why a call has no answer, or a task no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no usable configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server answered with an error.
    #[error(transparent)]
    Service(Box<ServiceError>),
    /// No connection could be made, in any attempt; the server has seen nothing of the call.
    #[error("reach server at {endpoint}")]
    Connect {
        /// The URL of the server.
        endpoint: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The connection ended before the answer was complete; the server may have done what was asked.
    #[error("read answer of {operation} from {endpoint}")]
    Interrupted {
        /// The operation that was called.
        operation: &'static str,
        /// The URL of the server.
        endpoint: String,
        /// What the HTTP client says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer did not come in time; the server may have done what was asked.
    #[error("get answer of {operation} from {endpoint} within {limit:?}")]
    Timeout {
        /// The operation that was called.
        operation: &'static str,
        /// The URL of the server.
        endpoint: String,
        /// How long each attempt may take: [`Config::attempt_timeout`](crate::Config::attempt_timeout).
        limit: Duration,
    },
    /// The answer is not what the API promises, as happens when the URL is not that of a Neargate server.
    #[error("understand answer of {operation} (HTTP status {status}) from {endpoint}")]
    Answer {
        /// The operation that was called.
        operation: &'static str,
        /// The URL of the server.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        #[source]
        source: AnswerError,
    },
    /// The request could not be signed.
    #[error("sign {operation}")]
    Sign {
        /// The operation that was called.
        operation: &'static str,
        /// What is wrong.
        #[source]
        source: SignError,
    },
    /// The server accepted the call but did not take the task.
    #[error("place task: {}", Failures(.failures))]
    NotPlaced {
        /// Why, as RunTask says it.
        failures: Vec<ecs::Failure>,
    },
    /// The server does not know the task, or has forgotten it.
    #[error("find task {arn}")]
    TaskNotFound {
        /// The task.
        arn: String,
    },
    /// The text is not the ARN of a task.
    #[error("read '{text}' as the ARN of a task")]
    NotATask {
        /// The text, cut to 200 characters.
        text: String,
    },
    /// The command of an exec could not be run.
    #[error("{message}")]
    NotRun {
        /// The exit code that a shell would give: 126 for what cannot be executed, 127 for what does not exist.
        exit_code: u8,
        /// The server's explanation.
        message: String,
    },
    /// The connection of an exec ended before its command did.
    #[error("attend the command at {endpoint}")]
    ExecLost {
        /// The URL of the server.
        endpoint: String,
        /// What happened to the connection.
        #[source]
        source: io::Error,
    },
    /// The task had not stopped in time; it goes on.
    #[error("wait for task {arn}: it is {last_status} after {waited:?}")]
    StillRunning {
        /// The task.
        arn: String,
        /// Its status when waiting ended.
        last_status: String,
        /// How long was waited.
        waited: Duration,
    },
}

/// An error that the server answered with.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{operation}: {}", self.text())]
pub struct ServiceError {
    /// The operation that was called.
    pub operation: &'static str,
    /// The error's name, such as `ClusterNotFoundException`.
    pub code: String,
    /// The server's explanation; may be empty.
    pub message: String,
    /// The id under which the server logged the request, if it gave one.
    pub request_id: Option<String>,
    /// The HTTP status.
    pub status: u16,
}

impl ServiceError {
    fn text(&self) -> String {
        let Self { code, message, .. } = self;
        if message.is_empty() { code.clone() } else { format!("{message} ({code})") }
    }

    /// Whether the server asks for fewer calls; it has not done what was asked.
    pub fn is_throttling(&self) -> bool {
        const CODES: [&str; 5] = [
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "TooManyRequestsException",
            "RequestLimitExceeded",
        ];
        self.status == 429 || CODES.contains(&self.code.as_str())
    }
}

/// What is wrong with an answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The body is larger than the client accepts.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The body is not JSON of the operation's output.
    #[error("the body is not the operation's output")]
    Json(#[from] neargate_wire::json::JsonError),
    /// The XML is not the operation's output.
    #[error("the body is not the operation's output")]
    Xml(#[from] neargate_wire::shape::DecodeError),
    /// The body is not XML.
    #[error("the body is not XML: {reason}")]
    NotXml {
        /// What the parser says.
        reason: String,
    },
    /// A member that the operation always returns is absent.
    #[error("the answer has no {member}")]
    Absent {
        /// The member.
        member: &'static str,
    },
    /// A list goes on for ever.
    #[error("the list repeats a page")]
    Endless,
}

impl Error {
    /// The code of the server's error, such as `ClusterNotFoundException`; `None` for all other errors.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Service(error) => Some(&error.code),
            _ => None,
        }
    }

    /// What a person may do about it, as half a sentence without a full stop; `None` when there is nothing to say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Config(error) => error.hint(),
            Self::Connect { .. } => {
                Some("start a server with `neargate serve`, or name one with --endpoint or NEARGATE_ENDPOINT")
            }
            Self::Answer { .. } => {
                Some("check that the endpoint is a Neargate server; --endpoint or NEARGATE_ENDPOINT names it")
            }
            Self::Service(error) => match error.code.as_str() {
                "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "SignatureDoesNotMatch"
                | "InvalidSignatureException" => Some(
                    "the keys are not this server's; run `eval \"$(neargate env)\"` as the user who runs the server",
                ),
                _ => None,
            },
            _ => None,
        }
    }
}

struct Failures<'a>(&'a [ecs::Failure]);

impl std::fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the server gave neither a task nor a reason");
        }
        for (index, failure) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(failure.reason.as_deref().unwrap_or("no reason given"))?;
            if let Some(detail) = &failure.detail {
                write!(f, " ({detail})")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_was_attempted() {
        let check = |error: Error, expect: &str| assert_eq!(error.to_string(), expect);
        let service = |message: &str| ServiceError {
            operation: "RunTask",
            code: "ClientException".into(),
            message: message.into(),
            request_id: None,
            status: 400,
        };
        check(Error::Service(Box::new(service("No."))), "RunTask: No. (ClientException)");
        check(Error::Service(Box::new(service(""))), "RunTask: ClientException");
        let failure = ecs::Failure {
            reason: Some("RESOURCE:CPU".into()),
            detail: Some("too few".into()),
            ..Default::default()
        };
        check(
            Error::NotPlaced { failures: vec![failure, ecs::Failure::default()] },
            "place task: RESOURCE:CPU (too few); no reason given",
        );
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::Connect { endpoint: "http://127.0.0.1:7878".into(), source: refused };
        assert!(error.hint().is_some_and(|hint| hint.contains("neargate serve")));
        check(error, "reach server at http://127.0.0.1:7878");
    }
}
