//! Botocore's protocol test vectors, run through the code that the generator writes for AWS services.
//!
//! Values are compared by their `Debug` text, in which NaN equals itself.
#![forbid(unsafe_code)]

mod generated;
mod tree;

use std::fmt::Debug;

use neargate_wire::shape::{DecodeError, Shape};
use neargate_wire::{DispatchError, ErrorReply, Form, Protocol, ec2_query, json, query};

use tree::{Element, same_json};

/// What generated suites import.
#[allow(unused_imports)]
mod prelude {
    pub(crate) use std::collections::BTreeMap;
    pub(crate) use std::fmt;

    pub(crate) use neargate_wire as wire;
    pub(crate) use neargate_wire::shape::{PLAIN, Pattern, Traits};

    pub(crate) use super::{
        check_ec2_error, check_ec2_input, check_ec2_output, check_json_error, check_json_input,
        check_json_output, check_json_reads, check_query_error, check_query_input, check_query_output,
    };
}

fn check_json_input<T: Shape + Debug>(body: &str, expected: T) {
    check_json_reads(body, expected);
}

fn check_json_reads<T: Shape + Debug>(body: &str, expected: T) {
    let read = |body: &[u8]| {
        let (value, violations) = json::decode::<T>(body).expect("the vector has the model's types");
        assert!(violations.is_empty(), "{violations}");
        value
    };
    assert_eq!(format!("{:?}", read(body.as_bytes())), format!("{expected:?}"));
    assert_eq!(format!("{:?}", read(&json::encode(&expected))), format!("{expected:?}"));
}

fn check_json_output<T: Shape + Debug>(body: &str, value: T) {
    same_json(&json::encode(&value), body.as_bytes());
    check_json_reads(body, value);
}

fn check_json_error(status: u16, body: &str, error: impl Into<DispatchError>) {
    let rendered = reply(error).render(Protocol::Json11, None, "id");
    assert_eq!(rendered.status, status);
    same_json(&rendered.body, body.as_bytes());
}

fn check_query_input<T: Shape + Debug>(body: &str, expected: T) {
    let form = Form::parse(body.as_bytes()).expect("the vector is a form");
    let (value, violations) = query::decode::<T>(&form).expect("the vector has the model's types");
    assert!(violations.is_empty(), "{violations}");
    assert_eq!(format!("{value:?}"), format!("{expected:?}"));
}

fn check_query_output<T: Shape + Debug>(operation: &str, body: &str, value: T) {
    let written = query::encode(operation, Some("https://example.com/"), Some(&value), "requestid");
    let mut written = Element::parse(&written);
    let expected = Element::parse(body.as_bytes());
    // Most vectors leave out what every response carries.
    if !body.contains("ResponseMetadata") {
        written.children.retain(|child| child.name != "ResponseMetadata");
    }
    assert_eq!(written, expected);
}

fn check_query_error(status: u16, body: &str, error: impl Into<DispatchError>) {
    let rendered = reply(error).render(Protocol::Query, None, "foo-id");
    assert_eq!(rendered.status, status);
    assert_eq!(Element::parse(&rendered.body), Element::parse(body.as_bytes()));
}

fn check_ec2_input<T: Shape + Debug>(body: &str, expected: T) {
    let form = Form::parse(body.as_bytes()).expect("the vector is a form");
    let (value, violations) = ec2_query::decode::<T>(&form).expect("the vector has the model's types");
    assert!(violations.is_empty(), "{violations}");
    assert_eq!(format!("{value:?}"), format!("{expected:?}"));
}

fn check_ec2_output<T: Shape + Debug>(operation: &str, body: &str, value: T) {
    let written = ec2_query::encode(operation, Some("https://example.com/"), Some(&value), "requestid");
    let mut written = Element::parse(&written);
    // Some vectors leave out what every response carries.
    if !body.contains("requestId") {
        written.children.retain(|child| child.name != "requestId");
    }
    assert_eq!(written, Element::parse(body.as_bytes()));
}

fn check_ec2_error(status: u16, body: &str, error: impl Into<DispatchError>) {
    let rendered = reply(error).render(Protocol::Ec2, None, "foo-id");
    assert_eq!(rendered.status, status);
    assert_eq!(Element::parse(&rendered.body), Element::parse(body.as_bytes()));
}

fn reply(error: impl Into<DispatchError>) -> ErrorReply {
    error.into().reply()
}

#[test]
fn a_type_error_fails_a_vector() {
    let result: Result<(Vec<i32>, _), DecodeError> =
        query::decode(&Form::parse(b"member.1=x").expect("a form"));
    assert_eq!(
        result.expect_err("x is no number").to_string(),
        "expected a 32-bit integer at '[0]', found other text"
    );
}
