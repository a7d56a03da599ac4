//! Properties of arbitrary requests: parsing never panics, and what was signed verifies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod common;

use common::{ACCESS_KEY, SECRET, Wire, at, signer};
use neargate_auth::sigv4::{PathStyle, Presented, Rules, Signer};
use neargate_auth::{AuthError, Secret};
use proptest::prelude::*;

const NOW: &str = "20150830T123600Z";

/// Words that authentication is made of, so that random text gets past the first check.
fn fragment() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 ",
        "Credential=",
        "SignedHeaders=",
        "Signature=",
        ", ",
        ",",
        "=",
        "/",
        "AKIDEXAMPLE",
        "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request",
        "host",
        "host;x-amz-date",
        ";",
        "%",
        "&",
        "20150830T123600Z",
        "X-Amz-Algorithm=AWS4-HMAC-SHA256&",
        "X-Amz-Credential=",
        "X-Amz-Date=20150830T123600Z&",
        "X-Amz-Expires=60&",
        "X-Amz-SignedHeaders=host&",
        "X-Amz-Signature=",
        "-1",
        "é",
        "UNSIGNED-PAYLOAD",
        "STREAMING-",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2Fservice%2Faws4_request&",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn soup() -> impl Strategy<Value = String> {
    prop::collection::vec(fragment(), 0..12).prop_map(|parts| parts.concat())
}

fn header_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Authorization",
        "X-Amz-Date",
        "Date",
        "Host",
        "X-Amz-Security-Token",
        "X-Amz-Content-Sha256",
        "x-amz-é",
        "",
    ]);
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

fn request() -> impl Strategy<Value = Wire> {
    let header = ("[xX]-[a-cA-C]{1,2}|x-amz-[a-z]{3}", "[ -~\\t]{0,12}|é +ü");
    (
        prop::sample::select(vec!["GET", "POST", "PUT", "DELETE"]),
        "(/[a-cé .%~$+-]{0,4}){0,4}/?",
        "([a-cé%+=.]{0,4}&?){0,5}",
        prop::collection::vec(header, 0..5),
        prop::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(method, path, query, headers, body)| {
            let mut wire = Wire { method: method.into(), path, query, headers: vec![], body };
            wire.add("Host", "localhost:9000");
            for (name, value) in headers {
                wire.add(&name, value);
            }
            wire
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn parse_never_panics(
        path in "\\PC{0,12}",
        query in soup(),
        headers in prop::collection::vec((header_name(), prop_oneof![
            3 => soup().prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ]), 0..6),
        body in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let wire = Wire { method: "POST".into(), path, query, headers, body };
        for rules in [Rules::SERVICE, Rules::S3] {
            let result = wire.verify(rules, at(NOW));
            prop_assert!(result.is_err(), "a forged request was accepted: {wire:?}");
            let _printable = result.unwrap_err().to_string();
        }
    }

    #[test]
    fn what_was_signed_verifies(wire in request(), is_s3 in any::<bool>(), is_temporary in any::<bool>()) {
        let (secret, token) = (Secret::new(SECRET), Secret::new("token+/="));
        let (style, rules) = if is_s3 { (PathStyle::S3, Rules::S3) } else { (PathStyle::Normalized, Rules::SERVICE) };
        let session_token = is_temporary.then_some(&token);
        let signer = Signer { session_token, ..signer(&secret, style) };
        let mut by_header = wire.clone();
        by_header.sign(&signer, at(NOW));
        let mut by_query = wire;
        by_query.presign(&signer, 60, at(NOW));
        for signed in [&by_header, &by_query] {
            let result = signed.verify_with(rules, at(NOW), &secret, |_, verified| {
                assert_eq!(verified.access_key, ACCESS_KEY);
                assert_eq!(verified.check_session_token(session_token), Ok(()));
            });
            prop_assert_eq!(result, Ok(()), "{:?}", signed);
            let mut tampered = signed.clone();
            tampered.path.push('x');
            prop_assert_eq!(tampered.verify(rules, at(NOW)), Err(AuthError::SignatureDoesNotMatch));
        }
        // A changed body is an error wherever the body is signed.
        by_header.body.push(0);
        prop_assert!(by_header.verify(rules, at(NOW)).is_err());
        by_query.body.push(0);
        prop_assert_eq!(by_query.verify(rules, at(NOW)).is_err(), !is_s3);
    }

    /// The head alone suffices exactly when the request declares its payload.
    #[test]
    fn heads_verify_without_their_body(wire in request(), is_s3 in any::<bool>()) {
        let secret = Secret::new(SECRET);
        let (style, rules) = if is_s3 { (PathStyle::S3, Rules::S3) } else { (PathStyle::Normalized, Rules::SERVICE) };
        let mut signed = wire;
        signed.sign(&signer(&secret, style), at(NOW));
        let headers = signed.borrowed();
        let presented = Presented::parse(&signed.signed(&headers, at(NOW)), rules).unwrap();
        let key = neargate_auth::sigv4::SigningKey::derive(&secret, &presented.scope());
        prop_assert_eq!(presented.needs_body(), !is_s3);
        match presented.verify_head(&key) {
            Ok(verified) => {
                prop_assert!(is_s3);
                prop_assert_eq!(verified.payload.check_body(&signed.body), Ok(()));
                prop_assert_eq!(verified.payload.check_body(b"another body"), Err(AuthError::ContentHashMismatch));
            }
            Err(error) => prop_assert!(!is_s3 && matches!(error, AuthError::IncompleteSignature(_))),
        }
    }
}
