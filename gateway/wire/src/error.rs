//! Errors as clients see them, rendered for each protocol.

use serde_json::Value;

use crate::service::{Protocol, Service};
use crate::{ec2_query, json, query};

/// An error answer, before it takes the form of a protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorReply {
    /// The HTTP status.
    pub status: u16,
    /// The error's name in JSON protocols, for example `ClusterNotFoundException`.
    pub code: &'static str,
    /// The error's name in the query protocol, where it differs.
    pub query_code: Option<&'static str>,
    /// Text for people.
    pub message: String,
    /// Whether the client is at fault, rather than us.
    pub sender_fault: bool,
    /// Members beyond the message, by their names on the wire.
    pub members: Vec<(&'static str, Value)>,
}

impl ErrorReply {
    /// An error that the client can mend. `status` is between 400 and 499.
    pub fn sender(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            query_code: None,
            message: message.into(),
            sender_fault: true,
            members: Vec::new(),
        }
    }

    /// An error of ours. `status` is 500 or above.
    pub fn receiver(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { sender_fault: false, ..Self::sender(status, code, message) }
    }

    /// The answer in the form of `protocol`; `service` is `None` when it could not be told.
    pub fn render(&self, protocol: Protocol, service: Option<&Service>, request_id: &str) -> Rendered {
        let mut headers = response_headers(protocol, request_id);
        let body = match protocol {
            Protocol::Json10 | Protocol::Json11 => {
                if service.is_some_and(|service| service.query_compatible) {
                    headers.push(("x-amzn-query-error", json::query_error_header(self)));
                }
                json::encode_error(self)
            }
            Protocol::Query => {
                query::encode_error(self, service.and_then(|service| service.xml_namespace), request_id)
            }
            Protocol::Ec2 => ec2_query::encode_error(self, request_id),
            Protocol::RpcV2Cbor => cbor_error(self),
        };
        Rendered { status: self.status, headers, body }
    }
}

/// An answer ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The HTTP status.
    pub status: u16,
    /// Headers, with lower-case names.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The headers that every answer of `protocol` carries.
pub fn response_headers(protocol: Protocol, request_id: &str) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("content-type", protocol.content_type().to_owned()),
        ("x-amzn-requestid", request_id.to_owned()),
    ];
    if protocol == Protocol::RpcV2Cbor {
        headers.push(("smithy-protocol", "rpc-v2-cbor".to_owned()));
    }
    headers
}

/// `{"__type": code, "message": message}` in CBOR (RFC 8949 §3), all that refusing that protocol needs.
fn cbor_error(reply: &ErrorReply) -> Vec<u8> {
    const MAP_OF_TWO: u8 = 0xa2;
    let mut body = vec![MAP_OF_TWO];
    for text in ["__type", reply.code, "message", &reply.message] {
        const TEXT_WITH_32_BIT_LENGTH: u8 = 0x7a;
        body.push(TEXT_WITH_32_BIT_LENGTH);
        let text = &text.as_bytes()[..text.len().min(u32::MAX as usize)];
        body.extend_from_slice(&(text.len() as u32).to_be_bytes());
        body.extend_from_slice(text);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ec2, ecs, sts};

    fn check(rendered: Rendered, content_type: &str, body: &str) {
        assert_eq!(rendered.status, 400);
        assert_eq!(rendered.headers[0], ("content-type", content_type.to_owned()));
        assert_eq!(rendered.headers[1], ("x-amzn-requestid", "id-1".to_owned()));
        assert_eq!(String::from_utf8(rendered.body).unwrap(), body);
    }

    #[test]
    fn json_errors_carry_type_message_and_members() {
        let error = ecs::EcsError::Conflict {
            message: "taken".into(),
            resource_ids: Some(vec!["arn:aws:ecs:us-east-1:1:task/c/t".into()]),
        };
        check(
            ErrorReply::from(error).render(Protocol::Json11, Some(&ecs::SERVICE), "id-1"),
            "application/x-amz-json-1.1",
            r#"{"__type":"ConflictException","message":"taken","resourceIds":["arn:aws:ecs:us-east-1:1:task/c/t"]}"#,
        );
    }

    #[test]
    fn query_errors_are_xml_in_the_namespace_of_the_service() {
        let mut reply = ErrorReply::sender(400, "ValidationError", "1 < 2");
        reply.members.push(("Detail", serde_json::json!({"a": [1, true]})));
        check(
            reply.render(Protocol::Query, Some(&sts::SERVICE), "id-1"),
            "text/xml",
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
             <Code>ValidationError</Code><Message>1 &lt; 2</Message>\
             <Detail><a><member>1</member><member>true</member></a></Detail></Error>\
             <RequestId>id-1</RequestId></ErrorResponse>",
        );
    }

    #[test]
    fn ec2_errors_are_a_list() {
        let reply = ErrorReply::sender(400, "InvalidGroup.NotFound", "a & b");
        check(
            reply.render(Protocol::Ec2, Some(&ec2::SERVICE), "id-1"),
            "text/xml;charset=UTF-8",
            "<Response><Errors><Error><Code>InvalidGroup.NotFound</Code><Message>a &amp; b</Message></Error></Errors>\
             <RequestID>id-1</RequestID></Response>",
        );
    }

    #[test]
    fn cbor_errors_are_a_map_of_two_texts() {
        let reply = ErrorReply::sender(400, "A", "é");
        let body = reply.render(Protocol::RpcV2Cbor, None, "id-1").body;
        let expected = b"\xa2\x7a\0\0\0\x06__type\x7a\0\0\0\x01A\x7a\0\0\0\x07message\x7a\0\0\0\x02\xc3\xa9";
        assert_eq!(body, expected);
    }

    #[test]
    fn the_query_error_header_names_code_and_fault() {
        let mut reply = ErrorReply::receiver(500, "InternalFailure", "");
        assert_eq!(json::query_error_header(&reply), "InternalFailure;Receiver");
        reply.query_code = Some("InternalError");
        assert_eq!(json::query_error_header(&reply), "InternalError;Receiver");
    }
}
