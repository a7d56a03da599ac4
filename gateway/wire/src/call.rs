//! One call of an operation: what generated `dispatch` functions decode, and what they answer when they cannot.

use thiserror::Error;

use crate::error::ErrorReply;
use crate::json::JsonError;
use crate::query::Form;
use crate::service::{Protocol, Service};
use crate::shape::{DecodeError, Shape};
use crate::violation::Violations;
use crate::{ec2_query, json, query};

/// A call of one operation.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The operation's name as the client gave it.
    pub operation: &'a str,
    /// The id that the answer names.
    pub request_id: &'a str,
    /// What the client sent; the answer takes the same protocol.
    pub input: Input<'a>,
}

/// What a client sent, by protocol.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A body of AWS JSON 1.0 or 1.1.
    Json(&'a [u8]),
    /// A form of the query protocol.
    Form(&'a Form),
    /// A form of EC2's dialect.
    Ec2(&'a Form),
}

/// Why a call has no output.
#[derive(Debug, Error)]
pub enum DispatchError {
    /// The model has no such operation.
    #[error("find operation {operation} of {}", service.name)]
    Unknown {
        /// The AWS service.
        service: &'static Service,
        /// The name the client gave, cut to 128 characters.
        operation: String,
        /// Whether the client spoke a query protocol.
        query: bool,
    },
    /// The model has the operation, but Neargate does not implement it.
    #[error("call refused operation {operation} of {}", service.name)]
    Unsupported {
        /// The AWS service.
        service: &'static Service,
        /// The operation's name.
        operation: &'static str,
        /// Whether the client spoke a query protocol.
        query: bool,
    },
    /// The body is not JSON of the model's types.
    #[error("decode JSON input")]
    Json(#[from] JsonError),
    /// The form does not have the model's types.
    #[error("decode form input")]
    Form(#[from] DecodeError),
    /// The input breaks constraints of the model.
    #[error("check input of {}: {violations}", service.name)]
    Constraint {
        /// The AWS service.
        service: &'static Service,
        /// What it breaks; services that word an error themselves look here.
        violations: Violations,
    },
    /// The operation itself failed.
    #[error("run operation: {}", _0.code)]
    Service(ErrorReply),
}

impl Call<'_> {
    /// Reads the input and checks the model's constraints.
    pub fn decode<T: Shape>(&self, service: &'static Service) -> Result<T, DispatchError> {
        let (input, mut violations): (T, _) = match self.input {
            Input::Json(body) => json::decode(body)?,
            Input::Form(form) => query::decode(form)?,
            Input::Ec2(form) => ec2_query::decode(form)
                .map_err(|error| DispatchError::Service(ec2_query::type_reply(&error)))?,
        };
        input.validate(&mut violations);
        match violations.is_empty() {
            true => Ok(input),
            false => Err(DispatchError::Constraint { service, violations }),
        }
    }

    /// Writes the output.
    pub fn encode<T: Shape>(&self, service: &Service, output: &T) -> Vec<u8> {
        match self.input {
            Input::Json(_) => json::encode(output),
            Input::Form(_) => {
                query::encode(self.operation, service.xml_namespace, Some(output), self.request_id)
            }
            Input::Ec2(_) => {
                ec2_query::encode(self.operation, service.xml_namespace, Some(output), self.request_id)
            }
        }
    }

    /// Writes the answer of an operation without output, which in JSON is an empty body.
    pub fn encode_nothing(&self, service: &Service) -> Vec<u8> {
        match self.input {
            Input::Json(_) => Vec::new(),
            Input::Form(_) => {
                query::encode::<String>(self.operation, service.xml_namespace, None, self.request_id)
            }
            Input::Ec2(_) => {
                ec2_query::encode::<String>(self.operation, service.xml_namespace, None, self.request_id)
            }
        }
    }

    /// The error for an operation that has no implementation.
    pub fn refuse(&self, service: &'static Service) -> DispatchError {
        let query = matches!(self.input, Input::Form(_) | Input::Ec2(_));
        match service.operation(self.operation) {
            Some(operation) => DispatchError::Unsupported { service, operation: operation.name, query },
            None => {
                let operation = self.operation.chars().take(128).collect();
                DispatchError::Unknown { service, operation, query }
            }
        }
    }
}

impl DispatchError {
    /// The answer as AWS would give it.
    pub fn reply(&self) -> ErrorReply {
        match self {
            Self::Unknown { service, operation, query } => unknown_operation(service, operation, *query),
            Self::Unsupported { service, operation, query } => {
                let own = if *query { "InvalidAction" } else { "UnknownOperationException" };
                let message =
                    format!("operation {operation} is not supported by Neargate; see the fidelity ledger");
                ErrorReply::sender(400, service.unsupported_code.unwrap_or(own), message)
            }
            Self::Json(error) => ErrorReply::sender(400, "SerializationException", error.to_string()),
            Self::Form(error) => ErrorReply::sender(400, "MalformedInput", error.to_string()),
            Self::Constraint { service, violations } if service.protocols.contains(&Protocol::Ec2) => {
                ec2_query::constraint_reply(violations)
            }
            Self::Constraint { service, violations } => {
                ErrorReply::sender(400, service.invalid_code, violations.to_string())
            }
            Self::Service(reply) => reply.clone(),
        }
    }
}

fn unknown_operation(service: &Service, operation: &str, query: bool) -> ErrorReply {
    if query {
        let message = format!("Could not find operation {operation} for version {}", service.api_version);
        return ErrorReply::sender(400, "InvalidAction", message);
    }
    ErrorReply::sender(
        400,
        "UnknownOperationException",
        format!("{} has no operation {operation}", service.title),
    )
}
