//! AWS's published `aws-sig-v4-test-suite`: every case is signed, verified, and refused after every change. [88]

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{SECRET, Wire, at, signer};
use neargate_auth::sigv4::{PathStyle, Rules};
use neargate_auth::{AuthError, Secret};

const NOW: &str = "20150830T123600Z";

struct Case {
    name: String,
    /// The request before signing.
    request: Wire,
    /// The request as it is sent: with the token and the published Authorization header.
    sent: Wire,
    /// The token that is part of the signature but not of the request before signing.
    token: Option<Secret>,
    canonical_request: String,
    string_to_sign: String,
    authorization: String,
}

#[test]
fn signing_gives_the_published_signatures() {
    for case in cases() {
        let secret = Secret::new(SECRET);
        let signer = neargate_auth::sigv4::Signer {
            session_token: case.token.as_ref(),
            ..signer(&secret, PathStyle::Normalized)
        };
        let mut signed = case.request.clone();
        signed.sign(&signer, at(NOW));
        let authorization = signed.header("authorization").unwrap().escape_ascii().to_string();
        assert_eq!(authorization, case.authorization, "{}", case.name);
        assert_eq!(signed.verify(Rules::SERVICE, at(NOW)), Ok(()), "{}", case.name);
    }
}

#[test]
fn verification_accepts_the_published_requests() {
    for case in cases() {
        let token = case.sent.header("x-amz-security-token").map(|t| Secret::new(String::from_utf8_lossy(t)));
        let see = |presented: &neargate_auth::sigv4::Presented<'_>,
                   verified: &neargate_auth::sigv4::Verified<'_>| {
            let canonical = String::from_utf8(presented.canonical_request(&case.sent.body)).unwrap();
            assert_eq!(canonical, case.canonical_request, "{}", case.name);
            assert_eq!(presented.string_to_sign(&case.sent.body), case.string_to_sign, "{}", case.name);
            assert_eq!(verified.access_key, "AKIDEXAMPLE");
            assert_eq!(verified.scope.to_string(), "20150830/us-east-1/service/aws4_request");
            assert_eq!(verified.check_session_token(token.as_ref()), Ok(()));
            assert_eq!(
                verified.check_session_token(Some(&Secret::new("other"))),
                Err(AuthError::UnrecognizedClient)
            );
        };
        let result = case.sent.verify_with(Rules::SERVICE, at(NOW), &Secret::new(SECRET), see);
        assert_eq!(result, Ok(()), "{}", case.name);
    }
}

#[test]
fn verification_refuses_every_change() {
    let mut refused = 0;
    for case in cases() {
        for (what, changed) in changes(&case) {
            assert_ne!(changed, case.sent, "{}: {what} changed nothing", case.name);
            let result = changed.verify(Rules::SERVICE, at(NOW));
            assert!(result.is_err(), "{}: accepted with {what}: {changed:?}", case.name);
            refused += 1;
        }
        let other = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEz");
        let result = case.sent.verify_with(Rules::SERVICE, at(NOW), &other, |_, _| ());
        assert_eq!(result, Err(AuthError::SignatureDoesNotMatch), "{}", case.name);
    }
    assert!(refused > 34 * 500, "only {refused} changes were tried");
}

/// One changed request per bit of the signature, byte of the Authorization header and part of the request.
fn changes(case: &Case) -> Vec<(String, Wire)> {
    let mut all = Vec::new();
    let mut push = |what: String, change: &dyn Fn(&mut Wire)| {
        let mut changed = case.sent.clone();
        change(&mut changed);
        all.push((what, changed));
    };
    let authorization = case.authorization.as_bytes();
    let signature_at = authorization.len() - 64;
    let signature = hex::decode(&authorization[signature_at..]).unwrap();
    for bit in 0..256 {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let text = [&authorization[..signature_at], hex::encode(flipped).as_bytes()].concat();
        push(format!("signature bit {bit}"), &|wire| wire.set("authorization", &text));
    }
    for i in 0..authorization.len() {
        let mut text = authorization.to_vec();
        text[i] ^= 1;
        push(format!("authorization byte {i}"), &|wire| wire.set("authorization", &text));
        push(format!("authorization cut at {i}"), &|wire| wire.set("authorization", &authorization[..i]));
    }
    push("upper-case signature".into(), &|wire| {
        wire.set(
            "authorization",
            [&authorization[..signature_at], &authorization[signature_at..].to_ascii_uppercase()].concat(),
        );
    });
    let signed =
        case.authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap().to_owned();
    for name in signed.split(';') {
        push(format!("more in {name}"), &|wire| {
            let value = [wire.header(name).unwrap(), b"x"].concat();
            wire.set(name, value);
        });
        push(format!("no {name}"), &|wire| wire.remove(name));
        push(format!("another {name}"), &|wire| wire.add(name, "x"));
        push(format!("{name} not signed"), &|wire| {
            let rest: Vec<_> = signed.split(';').filter(|n| *n != name).collect();
            wire.edit_authorization(&signed, &rest.join(";"));
        });
    }
    push("signed headers turned".into(), &|wire| {
        let turned: Vec<_> = signed.split(';').rev().collect();
        wire.edit_authorization(&signed, &turned.join(";"));
    });
    push("later date".into(), &|wire| wire.set("x-amz-date", "20150830T123601Z"));
    push("scope date".into(), &|wire| wire.edit_authorization("/20150830/", "/20150831/"));
    push("region".into(), &|wire| wire.edit_authorization("us-east-1", "us-east-2"));
    push("service".into(), &|wire| wire.edit_authorization("/service/", "/services/"));
    push("unsigned x-amz header".into(), &|wire| wire.add("X-Amz-Target", "Run"));
    push("method".into(), &|wire| wire.method = "PUT".into());
    push("path".into(), &|wire| wire.path.push('x'));
    push("query".into(), &|wire| wire.query.push_str("&x"));
    push("body".into(), &|wire| wire.body.push(b'x'));
    all
}

fn cases() -> Vec<Case> {
    let mut folders =
        vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/aws-sig-v4-test-suite"))];
    let mut cases = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "req") {
                cases.push(read_case(&path));
            }
        }
    }
    assert_eq!(cases.len(), 34, "the suite is complete");
    cases
}

fn read_case(path: &Path) -> Case {
    let read = |ext| fs::read_to_string(path.with_extension(ext)).unwrap();
    let (request, authorization, canonical_request) =
        (read_request(&read("req")), read("authz"), read("creq"));
    let mut sent = request.clone();
    let published = read_request(&read("sreq"));
    let mut token = None;
    if let (None, Some(value)) =
        (request.header("x-amz-security-token"), published.header("x-amz-security-token"))
    {
        sent.set("X-Amz-Security-Token", value);
        // In post-sts-header-after the token is added after signing.
        token = canonical_request
            .contains("x-amz-security-token")
            .then(|| Secret::new(String::from_utf8(value.to_vec()).unwrap()));
    }
    sent.set("Authorization", &authorization);
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    Case { name, request, sent, token, canonical_request, string_to_sign: read("sts"), authorization }
}

fn read_request(text: &str) -> Wire {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let (line, headers) = head.split_once('\n').unwrap();
    // The target may contain a space (get-space).
    let (method, rest) = line.split_once(' ').unwrap();
    let (target, _version) = rest.rsplit_once(' ').unwrap();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut wire = Wire {
        method: method.into(),
        path: path.into(),
        query: query.into(),
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    };
    for line in headers.lines() {
        match line.strip_prefix(' ') {
            // Obsolete line folding (RFC 9112 §5.2).
            Some(_) => wire.headers.last_mut().unwrap().1.extend_from_slice(format!("\n{line}").as_bytes()),
            None => {
                let (name, value) = line.split_once(':').unwrap();
                wire.add(name, value);
            }
        }
    }
    wire
}
