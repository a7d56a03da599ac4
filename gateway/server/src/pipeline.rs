//! From a request's head and body to its answer: identify, authenticate, authorise, dispatch.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use neargate_auth::AuthError;
use neargate_auth::sigv4::SignedRequest;
use neargate_control::Control;
use neargate_model::{Region, Scope};
use neargate_wire::error::response_headers;
use neargate_wire::route::request_form;
use neargate_wire::{
    Call, ErrorReply, Form, Input, Protocol, Rendered, RequestHead, Route, Service, identify,
};
use tracing::Instrument;
use uuid::Uuid;

use crate::access::{Access, Caller, Identity, Origin, now};
use crate::authorise;
use crate::body::Body;
use crate::native::{Native, Problem};
use crate::registry::Registry;
use crate::rights::{AccessDenied, Rights};
use crate::{Apis, RequestContext, native};

/// Answers requests.
pub struct Gateway {
    /// The AWS services.
    pub apis: Apis,
    /// What is no AWS service's.
    pub native: Native,
    /// Images.
    pub registry: Arc<Registry>,
    /// Who may call them.
    pub access: Arc<Access>,
    /// What says what roles may do.
    pub control: Control,
    /// The region of requests that name none, which only unsigned ones can.
    pub region: Region,
}

/// Who has sent a request, as an extension of its head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) address: IpAddr,
    pub(crate) origin: Origin,
}

/// An error answer in the making.
struct Refusal {
    reply: ErrorReply,
    protocol: Protocol,
    service: Option<&'static Service>,
}

impl Gateway {
    /// The answer to one request.
    pub(crate) async fn answer(&self, head: &Parts, body: Bytes) -> Response<Body> {
        if self.access.is_open() && is_of_a_page(head) {
            let detail = "with --dev the server answers programs on this machine, not pages in a browser";
            return Problem::new(StatusCode::FORBIDDEN, detail).response();
        }
        match self.answer_service(head, &body).await {
            Some(response) => response,
            None => self.answer_native(head, &body).await,
        }
    }

    /// The answer of an AWS service; `None` for a request that is for none.
    pub(crate) async fn answer_service(&self, head: &Parts, body: &[u8]) -> Option<Response<Body>> {
        let request_id = Uuid::new_v4().to_string();
        let span = tracing::info_span!("request", request = %request_id);
        match self.answer_aws(head, body, &request_id).instrument(span).await {
            Ok(response) => response.map(|response| response.map(Body::from)),
            Err(refusal) => {
                let rendered = refusal.reply.render(refusal.protocol, refusal.service, &request_id);
                Some(to_http(rendered).map(Body::from))
            }
        }
    }

    async fn answer_native(&self, head: &Parts, body: &[u8]) -> Response<Body> {
        let path = head.uri.path();
        if let Some(response) = native::open(&head.method, path) {
            return response;
        }
        if !native::is_served(path) {
            return native::nothing(path);
        }
        match self.authenticate_for(head, native::SERVICE, body) {
            Ok(caller) if !matches!(caller.identity, Identity::Root { .. }) => {
                let detail = "credentials of roles are for AWS services; this API is the root user's";
                Problem::new(StatusCode::FORBIDDEN, detail).response()
            }
            Ok(caller) => {
                let region = caller.region.unwrap_or_else(|| self.region.clone());
                let scope = Scope { account: caller.account, region };
                self.native.answer(&scope, head, body).await
            }
            Err(error) => Problem::new(StatusCode::FORBIDDEN, error.to_string()).response(),
        }
    }

    /// `None` for a request that is no AWS service's.
    async fn answer_aws(
        &self,
        head: &Parts,
        body: &[u8],
        request_id: &str,
    ) -> Result<Option<Response<Bytes>>, Refusal> {
        let scope = credential_service(head);
        let request_head = RequestHead {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query(),
            scope: scope.as_deref(),
            target: header(head, "x-amz-target"),
            content_type: header(head, "content-type"),
        };
        let form = request_form(&request_head, body).map_err(|error| Refusal {
            reply: ErrorReply::sender(400, "MalformedQueryString", error.to_string()),
            protocol: Protocol::Query,
            service: None,
        })?;
        let route = match identify(&request_head, form.as_ref()) {
            Ok(route) => route,
            Err(error) => match error.reply() {
                None => return Ok(None),
                Some((reply, protocol)) => return Err(Refusal { reply, protocol, service: None }),
            },
        };
        let refuse = |reply| Refusal { reply, protocol: route.protocol, service: Some(route.service) };
        let caller = self.authenticate_for(head, route.service.scope, body);
        let caller = caller.map_err(|error| refuse(auth_reply(&error, route.protocol)))?;
        let cx = self.context(head, caller, &route, request_id).await.map_err(refuse)?;
        let members = (form.as_ref(), body);
        let allowed = authorise::check(&self.control, &cx.scope, &cx.rights, &route, members).await;
        allowed.map_err(|denied| refuse(denied_reply(&denied, route.protocol)))?;
        self.dispatch(&cx, &route, form.as_ref(), body).await.map(Some)
    }

    /// What is known of a request whose caller is known.
    async fn context(
        &self,
        head: &Parts,
        caller: Caller,
        route: &Route,
        request_id: &str,
    ) -> Result<RequestContext, ErrorReply> {
        let (principal, user_id) = (caller.principal(), caller.user_id());
        let session = self.access.session_of(&caller);
        let region = caller.region.unwrap_or_else(|| self.region.clone());
        let scope = Scope { account: caller.account, region };
        let rights = match caller.identity {
            Identity::Root { is_session } => Rights::Root { account: scope.account.clone(), is_session },
            Identity::Role { name, id, session } => {
                let from = head.extensions.get::<Sender>().map(|sender| sender.address);
                let found = Rights::of_session(&self.control, &scope, (&name, &id), &session, from).await;
                let found = found.map_err(|error| {
                    tracing::error!(error = neargate_model::chain(&error), "rights of a role cannot be read");
                    ErrorReply::receiver(
                        500,
                        "InternalFailure",
                        "The server could not reach its store; try again.",
                    )
                })?;
                // A role that is gone takes its sessions along.
                found.ok_or_else(|| auth_reply(&AuthError::UnrecognizedClient, route.protocol))?
            }
        };
        // Tasks reach the server at an address that only they have.
        let is_of_host = head.extensions.get::<Sender>().is_none_or(|sender| sender.origin == Origin::Host);
        let host = header(head, "host").or_else(|| head.uri.authority().map(|authority| authority.as_str()));
        let host = host.filter(|_| is_of_host).map(str::to_owned);
        Ok(RequestContext {
            scope,
            principal,
            user_id,
            request_id: request_id.to_owned(),
            rights,
            session,
            host,
        })
    }

    /// Believes a request that is signed for this service, or says why not.
    fn authenticate_for(&self, head: &Parts, service: &str, body: &[u8]) -> Result<Caller, AuthError> {
        let headers = signed_headers(head);
        let request = SignedRequest {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            headers: &headers,
            now: now(),
        };
        let origin = head.extensions.get::<Sender>().map_or(Origin::Host, |sender| sender.origin);
        self.access.authenticate(&request, service, body, origin).inspect_err(|error| {
            tracing::debug!(%error, "request refused");
        })
    }

    async fn dispatch(
        &self,
        cx: &RequestContext,
        route: &Route,
        form: Option<&Form>,
        body: &[u8],
    ) -> Result<Response<Bytes>, Refusal> {
        let input = match (route.protocol, form) {
            (Protocol::Query, Some(form)) => Input::Form(form),
            (Protocol::Ec2, Some(form)) => Input::Ec2(form),
            _ => Input::Json(body),
        };
        let call = Call { operation: &route.operation, request_id: &cx.request_id, input };
        let protocol = route.protocol;
        let result = self.apis.dispatch(route.service, cx, &call).await;
        tracing::debug!(
            service = route.service.name,
            operation = route.operation,
            ok = result.is_ok(),
            "request served"
        );
        match result {
            Ok(body) => {
                let headers = response_headers(protocol, &cx.request_id);
                Ok(to_http(Rendered { status: 200, headers, body }))
            }
            Err(error) => Err(Refusal { reply: error.reply(), protocol, service: Some(route.service) }),
        }
    }
}

/// Whether a page of another site may have sent a request, by way of somebody's browser: then it says where it comes from
/// (Fetch Metadata Request Headers, RFC 6454), or takes this server for its own by a name that leads here.
pub(crate) fn is_of_a_page(head: &Parts) -> bool {
    let is_local = |host: &str| {
        let host =
            host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        address.map_or(host == "localhost" || host.ends_with(".localhost"), |address| address.is_loopback())
    };
    let host = header(head, "host").or_else(|| head.uri.authority().map(|authority| authority.as_str()));
    let origin = header(head, "origin").map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    matches!(header(head, "sec-fetch-site"), Some("cross-site" | "same-site"))
        || host.is_some_and(|host| !is_local(host))
        || origin.is_some_and(|origin| !is_local(origin))
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// The service in the credential scope of the header or the query, which need not be true yet.
fn credential_service(head: &Parts) -> Option<String> {
    let from_header = header(head, "authorization").and_then(|text| text.split("Credential=").nth(1));
    let credential = match from_header {
        Some(rest) => rest.split([',', ' ']).next().unwrap_or_default().to_owned(),
        None => {
            let query = head.uri.query()?;
            let pair = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?;
            pair.replace("%2F", "/").replace("%2f", "/")
        }
    };
    credential.rsplit('/').nth(1).map(str::to_owned)
}

/// The headers as they are signed; HTTP/2 carries the host as the authority of the request's target.
fn signed_headers(head: &Parts) -> Vec<(&str, &[u8])> {
    let mut headers: Vec<(&str, &[u8])> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    if !head.headers.contains_key(http::header::HOST)
        && let Some(authority) = head.uri.authority()
    {
        headers.push(("host", authority.as_str().as_bytes()));
    }
    headers
}

/// An unbelieved request as AWS answers it: JSON services with 400, query services with 403.
fn auth_reply(error: &AuthError, protocol: Protocol) -> ErrorReply {
    let is_query = matches!(protocol, Protocol::Query | Protocol::Ec2);
    let pick = |json: &'static str, query: &'static str| if is_query { query } else { json };
    let code = match error {
        AuthError::MissingAuthenticationToken => {
            pick("MissingAuthenticationTokenException", "MissingAuthenticationToken")
        }
        AuthError::IncompleteSignature(_) => pick("IncompleteSignatureException", "IncompleteSignature"),
        AuthError::RequestExpired { .. } => pick("RequestExpired", "RequestExpired"),
        AuthError::UnrecognizedClient if protocol == Protocol::Ec2 => {
            let message = "AWS was not able to validate the provided access credentials";
            return ErrorReply::sender(401, "AuthFailure", message);
        }
        AuthError::ExpiredToken if protocol == Protocol::Ec2 => "RequestExpired",
        AuthError::ExpiredToken => pick("ExpiredTokenException", "ExpiredToken"),
        AuthError::UnrecognizedClient => pick("UnrecognizedClientException", "InvalidClientTokenId"),
        AuthError::InvalidSignature(_)
        | AuthError::SignatureDoesNotMatch
        | AuthError::ContentHashMismatch => pick("InvalidSignatureException", "SignatureDoesNotMatch"),
    };
    ErrorReply::sender(if is_query { 403 } else { 400 }, code, error.to_string())
}

/// What a caller may not do, as AWS answers it.
fn denied_reply(denied: &AccessDenied, protocol: Protocol) -> ErrorReply {
    match protocol {
        Protocol::Ec2 => {
            let message = format!("You are not authorized to perform this operation. {denied}");
            ErrorReply::sender(403, "UnauthorizedOperation", message)
        }
        Protocol::Query => ErrorReply::sender(403, "AccessDenied", denied.to_string()),
        Protocol::Json10 | Protocol::Json11 | Protocol::RpcV2Cbor => {
            ErrorReply::sender(400, "AccessDeniedException", denied.to_string())
        }
    }
}

/// The answer to a body over the limit, in the protocol that the head speaks of.
pub(crate) fn too_large(head: &Parts, limit: usize) -> Response<Bytes> {
    let protocol = match head.headers.contains_key("x-amz-target") {
        true => Protocol::Json11,
        false => Protocol::Query,
    };
    let message = format!("the request's body is over the limit of {limit} bytes");
    let reply = ErrorReply::sender(413, "RequestEntityTooLargeException", message);
    let mut response = to_http(reply.render(protocol, None, &Uuid::new_v4().to_string()));
    // What is left of the body is not read, so nothing else can come over this connection.
    response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn to_http(rendered: Rendered) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(rendered.body));
    *response.status_mut() =
        StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in rendered.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    response
}
