//! What Neargate knows of each AWS service: names, protocols and operations, and how far each operation goes.

use std::fmt;

use crate::SERVICES;

/// An AWS service; the generator writes one row for each.
#[derive(Debug)]
pub struct Service {
    /// Our name for it, which is also its module's: `ecs`.
    pub name: &'static str,
    /// The name AWS shows to people: `Amazon ECS`.
    pub title: &'static str,
    /// The service part of a SigV4 credential scope.
    pub scope: &'static str,
    /// The protocols it speaks, the preferred one first.
    pub protocols: &'static [Protocol],
    /// What stands before the dot in `X-Amz-Target`, for JSON protocols.
    pub target_prefix: Option<&'static str>,
    /// The version of the API, which the query protocols send as `Version`.
    pub api_version: &'static str,
    /// Namespace of responses in the query protocols.
    pub xml_namespace: Option<&'static str>,
    /// Whether JSON errors also carry `x-amzn-query-error`.
    pub query_compatible: bool,
    /// Code of the error for input that breaks a constraint of the model.
    pub invalid_code: &'static str,
    /// Code of the error for an operation that the model has and Neargate has not; `None` for the protocol's own.
    pub unsupported_code: Option<&'static str>,
    /// All operations of the model, in the order of their names.
    pub operations: &'static [Operation],
}

impl Service {
    /// Finds an operation by its exact name.
    pub fn operation(&self, name: &str) -> Option<&'static Operation> {
        let index = self.operations.binary_search_by_key(&name, |operation| operation.name).ok()?;
        Some(&self.operations[index])
    }

    /// The protocol of forms that it speaks, if any.
    pub fn form_protocol(&self) -> Option<Protocol> {
        self.protocols.iter().copied().find(|protocol| matches!(protocol, Protocol::Query | Protocol::Ec2))
    }

    /// The JSON protocol it speaks, if any.
    pub fn json_protocol(&self) -> Option<Protocol> {
        self.protocols
            .iter()
            .copied()
            .find(|protocol| matches!(protocol, Protocol::Json10 | Protocol::Json11))
    }
}

/// A way of writing requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// AWS JSON 1.0.
    Json10,
    /// AWS JSON 1.1.
    Json11,
    /// AWS Query: a form in, XML out.
    Query,
    /// EC2's dialect of AWS Query.
    Ec2,
    /// Smithy RPC v2 CBOR: recognised, and refused in its own encoding.
    RpcV2Cbor,
}

impl Protocol {
    /// The media type of its answers.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json10 => "application/x-amz-json-1.0",
            Self::Json11 => "application/x-amz-json-1.1",
            Self::Query => "text/xml",
            Self::Ec2 => "text/xml;charset=UTF-8",
            Self::RpcV2Cbor => "application/cbor",
        }
    }
}

/// An operation of an AWS service.
#[derive(Debug)]
pub struct Operation {
    /// Its name in the model.
    pub name: &'static str,
    /// How far it goes.
    pub mark: Mark,
    /// What the mark alone does not say; may be empty.
    pub note: &'static str,
    /// The HTTP method of the model.
    pub method: &'static str,
    /// The URI template of the model; `/` except for REST protocols.
    pub uri: &'static str,
}

impl Operation {
    /// An operation that is refused, of a service without REST.
    pub const fn refused(name: &'static str) -> Self {
        Self { name, mark: Mark::Refused, note: "", method: "POST", uri: "/" }
    }
}

/// How far an operation goes: nothing is silently ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// It does what AWS documents.
    Real,
    /// It records what it is given and returns it, but nothing acts on it.
    Stored,
    /// It answers that it is not supported.
    Refused,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Real => "real",
            Self::Stored => "stored only",
            Self::Refused => "refused",
        })
    }
}

/// One row of the fidelity ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fidelity {
    /// The AWS service's name: `ecs`.
    pub service: &'static str,
    /// The operation.
    pub operation: &'static str,
    /// How far it goes.
    pub mark: Mark,
    /// What the mark alone does not say; may be empty.
    pub note: &'static str,
}

/// The fidelity ledger: every operation of every AWS service with its mark.
pub fn fidelity() -> impl Iterator<Item = Fidelity> {
    SERVICES.iter().flat_map(|service| {
        service.operations.iter().map(|operation| Fidelity {
            service: service.name,
            operation: operation.name,
            mark: operation.mark,
            note: operation.note,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_so_that_every_operation_is_found() {
        for service in SERVICES {
            for operation in service.operations {
                let found = service.operation(operation.name).map(|found| found.name);
                assert_eq!(found, Some(operation.name), "{}", service.name);
            }
            assert!(service.operation("NoSuchOperation").is_none());
        }
    }

    #[test]
    fn the_ledger_has_every_operation_with_its_mark() {
        let mark = |service: &str, operation: &str| {
            let row = fidelity().find(|row| row.service == service && row.operation == operation);
            row.map(|row| row.mark)
        };
        assert_eq!(mark("ecs", "RunTask"), Some(Mark::Real));
        assert_eq!(mark("ecs", "CreateService"), Some(Mark::Refused));
        assert_eq!(mark("sts", "AssumeRole"), Some(Mark::Real));
        assert_eq!(mark("sts", "GetFederationToken"), Some(Mark::Refused));
        assert_eq!(mark("ec2", "RunInstances"), Some(Mark::Refused));
        assert_eq!(fidelity().filter(|row| row.service == "ecs").count(), 88);
        assert!(
            fidelity().all(|row| row.mark != Mark::Stored || !row.note.is_empty()),
            "say what is only stored"
        );
    }
}
