//! Which AWS service and operation a request is for. All share one port, so the request itself has to tell.
//!
//! | sign | protocol |
//! |---|---|
//! | `X-Amz-Target: Prefix.Operation` | AWS JSON; the prefix names the AWS service |
//! | `Action` and `Version` in a form body or query string | Query or EC2's dialect of it; version and credential scope name the service |
//! | `/service/{Service}/operation/{Operation}` | RPC v2 CBOR, refused in its own encoding |
//! | none of these | not ours: [`RouteError::NotAws`] |

use thiserror::Error;

use crate::SERVICES;
use crate::error::ErrorReply;
use crate::query::{Form, FormError};
use crate::service::{Protocol, Service};

/// What of a request's head routing looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestHead<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path, still percent-encoded.
    pub path: &'a str,
    /// The query string, still percent-encoded, without its `?`.
    pub query: Option<&'a str>,
    /// The service in the SigV4 credential scope; `None` for unsigned requests.
    pub scope: Option<&'a str>,
    /// The header `X-Amz-Target`.
    pub target: Option<&'a str>,
    /// The header `Content-Type`.
    pub content_type: Option<&'a str>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// The AWS service.
    pub service: &'static Service,
    /// The operation's name as the client gave it; the AWS service may not have it.
    pub operation: String,
    /// The protocol of request and answer.
    pub protocol: Protocol,
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RouteError {
    /// Nothing in the request is AWS's: another API on the same port may want it.
    #[error("find an AWS operation in the request")]
    NotAws,
    /// `X-Amz-Target` names no AWS service that we know.
    #[error("find target {target}")]
    Target {
        /// The header, cut to 128 characters.
        target: String,
    },
    /// `Action` and `Version` name no AWS service that we know.
    #[error("find action {action} of version {version:?}")]
    Action {
        /// The action, cut to 128 characters.
        action: String,
        /// The version, cut to 32 characters.
        version: Option<String>,
    },
    /// The request is signed for another AWS service than the one it addresses.
    #[error("accept a request for {service} that is signed for {scope}")]
    Scope {
        /// The scope that the addressed AWS service has.
        service: &'static str,
        /// The scope of the signature, cut to 64 characters.
        scope: String,
        /// The protocol of the request.
        protocol: Protocol,
    },
    /// The client speaks RPC v2 CBOR.
    #[error("answer {operation} of {service} in RPC v2 CBOR")]
    Cbor {
        /// The service segment of the path, cut to 128 characters.
        service: String,
        /// The operation segment of the path, cut to 128 characters.
        operation: String,
    },
    /// The method is not one that the protocol uses.
    #[error("accept method {method}")]
    Method {
        /// The method, cut to 16 characters.
        method: String,
        /// The protocol of the request.
        protocol: Protocol,
    },
}

impl RouteError {
    /// The answer and its protocol; `None` when the request is not AWS's to answer.
    pub fn reply(&self) -> Option<(ErrorReply, Protocol)> {
        match self {
            Self::NotAws => None,
            Self::Target { target } => {
                let message = format!("no service has the target {target}");
                Some((ErrorReply::sender(400, "UnknownOperationException", message), Protocol::Json11))
            }
            Self::Action { action, version } => {
                let version = version.as_deref().unwrap_or("(none)");
                let message = format!("Could not find operation {action} for version {version}");
                Some((ErrorReply::sender(400, "InvalidAction", message), Protocol::Query))
            }
            Self::Scope { service, protocol, .. } => {
                let (status, code) = match protocol {
                    Protocol::Query | Protocol::Ec2 => (403, "SignatureDoesNotMatch"),
                    _ => (400, "InvalidSignatureException"),
                };
                let message = format!("Credential should be scoped to correct service: '{service}'.");
                Some((ErrorReply::sender(status, code, message), *protocol))
            }
            Self::Cbor { .. } => {
                let message = "Neargate does not speak rpc-v2-cbor yet; use a JSON or query protocol";
                Some((ErrorReply::sender(400, "UnknownOperationException", message), Protocol::RpcV2Cbor))
            }
            Self::Method { method, protocol } => {
                let message = format!("method {method} is not allowed here");
                Some((ErrorReply::sender(405, "UnknownOperationException", message), *protocol))
            }
        }
    }
}

/// The form of a request of the query protocol: the body of a form POST, else a query string that has an `Action`.
pub fn request_form(head: &RequestHead<'_>, body: &[u8]) -> Result<Option<Form>, FormError> {
    let media_type = head.content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if head.method == "POST" && media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Form::parse(body).map(Some);
    }
    match head.query {
        Some(query)
            if head.target.is_none() && query.split('&').any(|field| field.starts_with("Action=")) =>
        {
            Form::parse(query.as_bytes()).map(Some)
        }
        _ => Ok(None),
    }
}

/// Finds the AWS service and the operation. `form` is what [`request_form`] gave.
pub fn identify(head: &RequestHead<'_>, form: Option<&Form>) -> Result<Route, RouteError> {
    if let Some((service, operation)) = rpc_path(head.path) {
        return Err(RouteError::Cbor { service: cut(service, 128), operation: cut(operation, 128) });
    }
    if head.path != "/" && !head.path.is_empty() {
        return Err(RouteError::NotAws);
    }
    let route = match (head.target, form.and_then(|form| Some((form, form.get("Action")?)))) {
        (Some(target), _) => by_target(head, target)?,
        (None, Some((form, action))) => by_action(head, action, form.get("Version"))?,
        (None, None) => return Err(RouteError::NotAws),
    };
    match head.scope {
        Some(scope) if scope != route.service.scope => Err(RouteError::Scope {
            service: route.service.scope,
            scope: cut(scope, 64),
            protocol: route.protocol,
        }),
        _ => Ok(route),
    }
}

fn by_target(head: &RequestHead<'_>, target: &str) -> Result<Route, RouteError> {
    let unknown = || RouteError::Target { target: cut(target, 128) };
    let (prefix, operation) = target.rsplit_once('.').ok_or_else(unknown)?;
    let of_prefix = |service: &&&Service| service.target_prefix == Some(prefix);
    let service: &'static Service = SERVICES.iter().find(of_prefix).ok_or_else(unknown)?;
    let protocol = service.json_protocol().ok_or_else(unknown)?;
    allow(head, &["POST"], protocol)?;
    Ok(Route { service, operation: operation.to_owned(), protocol })
}

fn by_action(head: &RequestHead<'_>, action: &str, version: Option<&str>) -> Result<Route, RouteError> {
    allow(head, &["POST", "GET"], Protocol::Query)?;
    let candidates = || {
        let query = SERVICES.iter().copied().filter_map(|service| Some((service, service.form_protocol()?)));
        query.filter(|(service, _)| version.is_none_or(|version| version == service.api_version))
    };
    let signed_for = candidates().find(|(service, _)| head.scope == Some(service.scope));
    // Without a matching scope the version has to be there, and to name one AWS service alone.
    let by_version = || version.and_then(|_| candidates().next().filter(|_| candidates().count() == 1));
    let service = signed_for.or_else(by_version);
    let (service, protocol) = service.ok_or_else(|| RouteError::Action {
        action: cut(action, 128),
        version: version.map(|version| cut(version, 32)),
    })?;
    Ok(Route { service, operation: action.to_owned(), protocol })
}

fn allow(head: &RequestHead<'_>, methods: &[&str], protocol: Protocol) -> Result<(), RouteError> {
    if methods.contains(&head.method) {
        return Ok(());
    }
    Err(RouteError::Method { method: cut(head.method, 16), protocol })
}

fn rpc_path(path: &str) -> Option<(&str, &str)> {
    let (service, operation) = path.strip_prefix("/service/")?.split_once("/operation/")?;
    let segment = |text: &str| !text.is_empty() && !text.contains('/');
    (segment(service) && segment(operation)).then_some((service, operation))
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: RequestHead<'_> = RequestHead {
        method: "POST",
        path: "/",
        query: None,
        scope: None,
        target: None,
        content_type: Some("application/x-www-form-urlencoded; charset=utf-8"),
    };
    const RUN_TASK: &str = "AmazonEC2ContainerServiceV20141113.RunTask";
    const CALLER: &str = "Action=GetCallerIdentity&Version=2011-06-15";

    fn route(head: RequestHead<'_>, body: &str) -> Result<String, RouteError> {
        let form = request_form(&head, body.as_bytes()).unwrap();
        let route = identify(&head, form.as_ref())?;
        Ok(format!("{} {} {:?}", route.service.name, route.operation, route.protocol))
    }

    fn check(head: RequestHead<'_>, body: &str, expected: &str) {
        assert_eq!(route(head, body).as_deref(), Ok(expected), "{head:?}");
    }

    #[test]
    fn a_target_names_service_and_operation() {
        let json = Some("application/x-amz-json-1.1");
        let head = RequestHead { target: Some(RUN_TASK), content_type: json, ..POST };
        check(head, "{}", "ecs RunTask Json11");
        check(RequestHead { scope: Some("ecs"), ..head }, "{}", "ecs RunTask Json11");
        check(RequestHead { path: "", ..head }, "{}", "ecs RunTask Json11");
        check(RequestHead { target: Some("Logs_20140328.NoSuch"), ..head }, "{}", "logs NoSuch Json11");
        // A target wins over a form, whatever the body claims to be.
        check(RequestHead { target: Some(RUN_TASK), ..POST }, CALLER, "ecs RunTask Json11");
    }

    #[test]
    fn an_action_is_found_in_body_and_query_string() {
        check(POST, CALLER, "sts GetCallerIdentity Query");
        check(RequestHead { scope: Some("sts"), ..POST }, "Action=AssumeRole", "sts AssumeRole Query");
        check(POST, "Action=DescribeVpcs&Version=2016-11-15", "ec2 DescribeVpcs Ec2");
        let get = RequestHead { method: "GET", query: Some(CALLER), content_type: None, ..POST };
        check(get, "", "sts GetCallerIdentity Query");
        check(RequestHead { method: "POST", ..get }, "", "sts GetCallerIdentity Query");
    }

    #[test]
    fn requests_that_go_nowhere_say_why() {
        let check =
            |head, body: &str, expected: RouteError| assert_eq!(route(head, body), Err(expected), "{head:?}");
        check(POST, "x=1", RouteError::NotAws);
        check(RequestHead { path: "/v1/functions", ..POST }, CALLER, RouteError::NotAws);
        check(RequestHead { path: "/v2/", target: Some(RUN_TASK), ..POST }, "", RouteError::NotAws);
        let target = |target: &str| RouteError::Target { target: target.into() };
        check(RequestHead { target: Some("Nope.RunTask"), ..POST }, "", target("Nope.RunTask"));
        check(RequestHead { target: Some("RunTask"), ..POST }, "", target("RunTask"));
        let long = "x".repeat(1000);
        check(RequestHead { target: Some(&long), ..POST }, "", target(&long[..128]));
        let action = |version: Option<&str>| RouteError::Action {
            action: "X".into(),
            version: version.map(Into::into),
        };
        check(POST, "Action=X", action(None));
        check(POST, "Action=X&Version=1999-01-01", action(Some("1999-01-01")));
        let method = |protocol| RouteError::Method { method: "PUT".into(), protocol };
        check(RequestHead { method: "PUT", target: Some(RUN_TASK), ..POST }, "", method(Protocol::Json11));
        check(RequestHead { method: "PUT", query: Some(CALLER), ..POST }, "", method(Protocol::Query));
    }

    #[test]
    fn a_signature_for_another_service_is_refused() {
        let head = RequestHead { scope: Some("logs"), target: Some(RUN_TASK), ..POST };
        let error = route(head, "").unwrap_err();
        let (reply, protocol) = error.reply().unwrap();
        assert_eq!(
            (reply.status, reply.code, protocol),
            (400, "InvalidSignatureException", Protocol::Json11)
        );
        assert_eq!(reply.message, "Credential should be scoped to correct service: 'ecs'.");
        let (reply, _) =
            route(RequestHead { scope: Some("iam"), ..POST }, CALLER).unwrap_err().reply().unwrap();
        assert_eq!((reply.status, reply.code), (403, "SignatureDoesNotMatch"));
    }

    #[test]
    fn cbor_is_refused_in_cbor() {
        let path = "/service/GraniteServiceVersion20100801/operation/PutMetricData";
        let error = route(RequestHead { path, ..POST }, "").unwrap_err();
        let (reply, protocol) = error.reply().unwrap();
        assert_eq!((reply.status, protocol), (400, Protocol::RpcV2Cbor));
        for path in
            ["/service//operation/X", "/service/A/operation/", "/service/A/operation/B/C", "/service/A"]
        {
            assert_eq!(route(RequestHead { path, ..POST }, ""), Err(RouteError::NotAws), "{path}");
        }
    }
}
