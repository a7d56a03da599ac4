//! Requests that must be refused, each with the explanation AWS gives. [88, 89, 90, 91]

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod common;

use common::{SECRET, Wire, at, signer};
use neargate_auth::sigv4::{PathStyle, Presented, Rules, SignError, Signer, SigningKey};
use neargate_auth::{AuthError, Secret, Timestamp};

const NOW: &str = "20150830T123600Z";
const MISMATCH: &str = "The request signature we calculated does not match the signature you provided.";

/// A RunTask call as an SDK sends it, not signed yet.
fn run_task() -> Wire {
    let mut wire = Wire {
        method: "POST".into(),
        path: "/".into(),
        query: String::new(),
        headers: vec![],
        body: br#"{"taskDefinition":"web:1"}"#.to_vec(),
    };
    wire.add("Host", "localhost:9000");
    wire.add("X-Amz-Target", "AmazonEC2ContainerServiceV20141113.RunTask");
    wire.add("Content-Type", "application/x-amz-json-1.1");
    wire.add("User-Agent", "aws-cli/2");
    wire
}

/// Signs `run_task()` as `style`, applies `edit`, verifies at `now`, and expects an error text that starts so.
fn check(rules: Rules, edit: impl FnOnce(&mut Wire), now: Timestamp, expect: &str) {
    let secret = Secret::new(SECRET);
    let mut wire = run_task();
    wire.sign(&signer(&secret, rules.path_style), at(NOW));
    edit(&mut wire);
    expect_start(wire.verify(rules, now), expect);
}

fn check_presigned(rules: Rules, edit: impl FnOnce(&mut Wire), now: Timestamp, expect: &str) {
    let secret = Secret::new(SECRET);
    let mut wire = Wire {
        method: "GET".into(),
        path: "/a".into(),
        query: "Action=x".into(),
        headers: vec![],
        body: vec![],
    };
    wire.add("Host", "localhost:9000");
    wire.presign(&signer(&secret, rules.path_style), 3600, at(NOW));
    edit(&mut wire);
    expect_start(wire.verify(rules, now), expect);
}

fn expect_start(result: Result<(), AuthError>, expect: &str) {
    let text = match result {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(text.starts_with(expect) && !expect.is_empty(), "\n  got: {text}\nwant: {expect}");
}

fn moved(seconds: i64) -> Timestamp {
    Timestamp::from_unix_s(at(NOW).unix_s() + seconds)
}

#[test]
fn malformed_authorization_headers() {
    let check = |edit: &dyn Fn(&mut Wire), expect| check(Rules::SERVICE, edit, at(NOW), expect);
    check(&|_| (), "ok");
    check(&|w| w.remove("authorization"), "Request is missing Authentication Token");
    check(&|w| w.set("authorization", ""), "Request is missing Authentication Token");
    check(&|w| w.set("authorization", "Bearer abc"), "Request is missing Authentication Token");
    check(&|w| w.set("authorization", "Basic YTpi"), "Request is missing Authentication Token");
    check(&|w| w.set("authorization", "AWS AKID:c2ln"), "Unsupported AWS 'algorithm': 'AWS'.");
    let algorithm = |to: &'static str| move |w: &mut Wire| w.edit_authorization("AWS4-HMAC-SHA256", to);
    check(&algorithm("AWS4-HMAC-SHA1"), "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA1'.");
    check(&algorithm("AWS4-ECDSA-P256-SHA256"), "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.");
    check(&algorithm("aws4-hmac-sha256"), "Unsupported AWS 'algorithm': 'aws4-hmac-sha256'.");
    check(&algorithm("AWS4-HMAC-SHA256-PAYLOAD"), "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA256-PAYLOAD'.");
    check(
        &|w| {
            w.set("authorization", "AWS4-HMAC-SHA256");
            w.remove("x-amz-date");
        },
        "Authorization header requires 'Credential' parameter. Authorization header requires 'Signature' parameter. \
         Authorization header requires 'SignedHeaders' parameter. Authorization header requires existence of either a \
         'X-Amz-Date' or a 'Date' header.",
    );
    check(&|w| w.edit_authorization("Signature=", "Sig="), "'Authorization' has an invalid value");
    check(&|w| w.edit_authorization("Signature=", "Signature"), "'Signature");
    check(
        &|w| w.edit_authorization("Signature=", "Signature=00, Signature="),
        "'Authorization' has an invalid value",
    );
    check(&|w| w.edit_authorization("Signature=", "Signature=0"), "'Signature' has an invalid value");
    check(
        &|w| w.edit_authorization("AKIDEXAMPLE", ""),
        "Credential must have exactly 5 slash-delimited elements",
    );
    check(
        &|w| w.edit_authorization("AKIDEXAMPLE", "AK/ID"),
        "Credential must have exactly 5 slash-delimited elements",
    );
    check(
        &|w| w.edit_authorization("/aws4_request", ""),
        "Credential must have exactly 5 slash-delimited elements",
    );
    check(
        &|w| w.edit_authorization("us-east-1", ""),
        "Credential must have exactly 5 slash-delimited elements",
    );
    check(
        &|w| w.edit_authorization("aws4_request", "aws5_request"),
        "Credential should be scoped with a valid terminator: 'aws4_request', not 'aws5_request'.",
    );
    check(&|w| w.edit_authorization("/20150830/", "/20150829/"), "Date in Credential scope does not match");
    check(&|w| w.edit_authorization("host;", "Host;"), "'SignedHeaders' has an invalid value");
    check(&|w| w.edit_authorization("host;", "host;host;"), "'SignedHeaders' has an invalid value");
    check(&|w| w.edit_authorization("host;", "host;;"), "'SignedHeaders' has an invalid value");
    check(
        &|w| w.edit_authorization("content-type;host", "host;content-type"),
        "'SignedHeaders' has an invalid value",
    );
    check(&|w| w.add("authorization", "AWS4-HMAC-SHA256 x=y"), "Only one auth mechanism allowed");
    check(&|w| w.query = "X-Amz-Algorithm=AWS4-HMAC-SHA256".into(), "Only one auth mechanism allowed");
    check(
        &|w| w.set("authorization", b"AWS4-HMAC-SHA256 Credential=\xff"),
        "'Authorization' has an invalid value",
    );
    // Spaces around the commas are the client's choice.
    check(&|w| w.edit_authorization(", SignedHeaders", ",SignedHeaders"), "ok");
    check(&|w| w.edit_authorization(", SignedHeaders", " ,\t SignedHeaders"), "ok");
}

#[test]
fn headers_that_must_be_signed() {
    let check = |edit: &dyn Fn(&mut Wire), expect| check(Rules::SERVICE, edit, at(NOW), expect);
    check(
        &|w| w.edit_authorization("host;", ""),
        "'host' must be a 'SignedHeader' in the AWS Authorization.",
    );
    check(&|w| w.edit_authorization(";x-amz-target", ""), "'x-amz-target' must be a 'SignedHeader'");
    check(&|w| w.edit_authorization("x-amz-date;", ""), "'x-amz-date' must be a 'SignedHeader'");
    check(&|w| w.add("X-AMZ-Acl", "public-read"), "'x-amz-acl' must be a 'SignedHeader'");
    check(
        &|w| w.edit_authorization("host;", "host;x-a;"),
        "'x-a' is a 'SignedHeader' in the AWS Authorization but",
    );
    check(&|w| w.add("X-Amz-Cf-Id", "edge"), "ok");
    check(&|w| w.set("User-Agent", "proxy"), "ok");
    check(&|w| w.add("X-Amzn-Trace-Id", "Root=1"), "ok");
    check(&|w| w.add("X-Amz-Target", "x"), MISMATCH);
    check(&|w| w.set("Host", "evil.example"), MISMATCH);
    check(&|w| w.set("Host", "  localhost:9000  "), "ok");
}

#[test]
fn clock_skew_of_headers() {
    let check =
        |edit: &dyn Fn(&mut Wire), seconds, expect| check(Rules::SERVICE, edit, moved(seconds), expect);
    for seconds in [-900, -300, 0, 300, 900] {
        check(&|_| (), seconds, "ok");
    }
    check(
        &|_| (),
        901,
        "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T125101Z - 15 min.)",
    );
    check(
        &|_| (),
        -901,
        "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T122059Z + 15 min.)",
    );
    check(
        &|w| w.set("x-amz-date", "Sun, 30 Aug 2015 12:36:00 GMT"),
        0,
        "Date must be in ISO-8601 'basic format'.",
    );
    check(&|w| w.add("x-amz-date", NOW), 0, "'X-Amz-Date' has an invalid value or is given more than once");
    check(&|w| w.remove("x-amz-date"), 0, "Authorization header requires existence of either a 'X-Amz-Date'");
    // The time is signed even when its header is not: an unsigned Date cannot move it.
    let unsigned_date = |date: &'static str| {
        move |w: &mut Wire| {
            w.remove("x-amz-date");
            w.edit_authorization("x-amz-date;", "");
            w.set("Date", date);
        }
    };
    check(&unsigned_date("Sun, 30 Aug 2015 12:36:01 GMT"), 0, MISMATCH);
    check(&unsigned_date("Sun, 30 Feb 2015 12:36:01 GMT"), 0, "Date must be in ISO-8601 'basic format'.");
}

#[test]
fn presigned_requests() {
    let check = |edit: &dyn Fn(&mut Wire), seconds, expect| {
        check_presigned(Rules::SERVICE, edit, moved(seconds), expect)
    };
    for seconds in [-900, 0, 3600] {
        check(&|_| (), seconds, "ok");
    }
    check(&|_| (), 3601, "Request has expired: 20150830T133600Z is now earlier than 20150830T133601Z");
    check(&|_| (), -901, "Signature not yet current: 20150830T123600Z is still later than");
    let expires = |to: &'static str| move |w: &mut Wire| w.edit_query("Expires=3600", to);
    for bad in [
        "Expires=0",
        "Expires=-1",
        "Expires=604801",
        "Expires=",
        "Expires=1.5",
        "Expires=%2B60",
        "Expires=99999999999",
    ] {
        check(&expires(bad), 0, "X-Amz-Expires must be a number of seconds from 1 to 604800 (a week), got '");
    }
    check(&expires("Expires=604800"), 0, MISMATCH);
    check(
        &|w| w.edit_query("&X-Amz-Expires=3600", ""),
        0,
        "AWS query-string parameters must include 'X-Amz-Expires'.",
    );
    check(
        &|w| w.query = "X-Amz-Credential=a".into(),
        0,
        "AWS query-string parameters must include 'X-Amz-Algorithm'. AWS query-string parameters must include \
         'X-Amz-Signature'. AWS query-string parameters must include 'X-Amz-SignedHeaders'.",
    );
    check(&|w| w.edit_query("HMAC-SHA256", "HMAC-SHA1"), 0, "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA1'.");
    check(
        &|w| w.edit_query("HMAC", "ECDSA-P256"),
        0,
        "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'.",
    );
    check(
        &|w| w.query.push_str("&X-Amz-Expires=1"),
        0,
        "'X-Amz-Expires' has an invalid value or is given more than once",
    );
    check(
        &|w| w.query.push_str("&X%2DAmz-Date=1"),
        0,
        "'X-Amz-Date' has an invalid value or is given more than once",
    );
    check(&|w| w.query.push_str("&more"), 0, MISMATCH);
    check(&|w| w.edit_query("Action=x", "Action=y"), 0, MISMATCH);
    check(&|w| w.body.push(b'x'), 0, MISMATCH);
    check(&|w| w.add("X-Amz-Acl", "x"), 0, "'x-amz-acl' must be a 'SignedHeader'");
    // The order of parameters and their escapes are not part of the signature.
    check(&|w| w.query = w.query.split('&').rev().collect::<Vec<_>>().join("&"), 0, "ok");
    check(&|w| w.edit_query("Action", "%41ction"), 0, "ok");
}

#[test]
fn payloads() {
    let service = |edit: &dyn Fn(&mut Wire), expect| check(Rules::SERVICE, edit, at(NOW), expect);
    let s3 = |edit: &dyn Fn(&mut Wire), expect| check(Rules::S3, edit, at(NOW), expect);
    service(&|w| w.body.push(b' '), MISMATCH);
    s3(
        &|w| w.body.push(b' '),
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    );
    s3(&|w| w.set("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), MISMATCH);
    s3(
        &|w| w.set("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        "The payload must be signed as a whole",
    );
    s3(&|w| w.set("x-amz-content-sha256", "E3"), "'X-Amz-Content-Sha256' has an invalid value");
    s3(&|w| w.add("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), "'X-Amz-Content-Sha256' has an invalid value");
    service(
        &|w| w.set("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        "'x-amz-content-sha256' must be a 'SignedHeader'",
    );

    // A well-signed UNSIGNED-PAYLOAD counts only where the service allows it.
    let secret = Secret::new(SECRET);
    let mut wire = run_task();
    let headers = wire.borrowed();
    let outgoing = neargate_auth::sigv4::Outgoing {
        payload: neargate_auth::sigv4::Payload::Unsigned,
        ..wire.outgoing(&headers)
    };
    let added = signer(&secret, PathStyle::Normalized).sign_header(&outgoing, at(NOW)).unwrap();
    for (name, value) in added {
        wire.set(name, value);
    }
    expect_start(
        wire.verify(Rules::SERVICE, at(NOW)),
        "The payload must be signed: UNSIGNED-PAYLOAD is not supported here.",
    );
    let lenient =
        Rules { unsigned_payload: neargate_auth::sigv4::UnsignedPayload::Allowed, ..Rules::SERVICE };
    wire.body.clear();
    expect_start(wire.verify(lenient, at(NOW)), "ok");
    // S3's presigned URLs do not sign the body.
    check_presigned(Rules::S3, |w| w.body.push(b'x'), at(NOW), "ok");
}

#[test]
fn unknown_keys_look_like_wrong_secrets() {
    check(Rules::SERVICE, |w| w.edit_authorization("AKIDEXAMPLE", "AKIDNOBODY"), at(NOW), MISMATCH);
    check(Rules::SERVICE, |w| w.edit_authorization("AKIDEXAMPLE", "None"), at(NOW), MISMATCH);
    // Not even a signature made with the decoy's own secret counts: it is in the source for everyone to read.
    let secret = Secret::new("0".repeat(40));
    let mut wire = run_task();
    wire.sign(&Signer { access_key: "AKIDNOBODY", ..signer(&secret, PathStyle::Normalized) }, at(NOW));
    assert_eq!(wire.verify(Rules::SERVICE, at(NOW)), Err(AuthError::SignatureDoesNotMatch));
}

#[test]
fn scopes_and_session_tokens() {
    let (secret, token) = (Secret::new(SECRET), Secret::new("token"));
    let mut wire = run_task();
    wire.sign(&Signer { session_token: Some(&token), ..signer(&secret, PathStyle::Normalized) }, at(NOW));
    let headers = wire.borrowed();
    let presented = Presented::parse(&wire.signed(&headers, at(NOW)), Rules::SERVICE).unwrap();
    assert_eq!(presented.check_scope("us-east-1", "service"), Ok(()));
    let text = |result: Result<(), AuthError>| result.unwrap_err().to_string();
    assert_eq!(
        text(presented.check_scope("eu-west-1", "service")),
        "Credential should be scoped to a valid region, not 'us-east-1'."
    );
    assert_eq!(
        text(presented.check_scope("us-east-1", "ecs")),
        "Credential should be scoped to correct service: 'ecs'."
    );
    let key = SigningKey::derive(&secret, &presented.scope());
    let verified = presented.verify(&key, &wire.body).unwrap();
    assert_eq!(verified.check_session_token(Some(&token)), Ok(()));
    for wrong in [None, Some(&secret)] {
        assert_eq!(verified.check_session_token(wrong), Err(AuthError::UnrecognizedClient));
    }
}

#[test]
fn what_cannot_be_signed() {
    let secret = Secret::new(SECRET);
    let signer = signer(&secret, PathStyle::Normalized);
    let mut wire = run_task();
    let presign = |wire: &Wire, expires_s| {
        let headers = wire.borrowed();
        signer.presign(&wire.outgoing(&headers), expires_s, at(NOW))
    };
    for expires_s in [0, 604_801] {
        assert_eq!(presign(&wire, expires_s), Err(SignError::Expires { expires_s }));
    }
    wire.query = presign(&wire, 604_800).unwrap();
    assert_eq!(presign(&wire, 60), Err(SignError::AlreadyPresigned { name: "X-Amz-Algorithm".into() }));
    wire.query.clear();
    wire.remove("host");
    assert_eq!(presign(&wire, 60), Err(SignError::NoHost));
    let headers = wire.borrowed();
    assert_eq!(signer.sign_header(&wire.outgoing(&headers), at(NOW)), Err(SignError::NoHost));
}
