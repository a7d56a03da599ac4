//! What a verification costs: `cargo bench -p neargate-auth`. A known and an unknown access key must cost the same.

use std::hint::black_box;
use std::time::Instant;

use neargate_auth::sigv4::{
    KeyCache, Outgoing, PathStyle, Payload, Presented, Rules, SignedRequest, Signer, SigningKey,
};
use neargate_auth::{Secret, Timestamp};

const ROUNDS: u32 = 20_000;

fn main() {
    let body = vec![b'x'; 2048];
    let now = Timestamp::from_unix_s(1_440_938_160);
    let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    let signer = Signer {
        access_key: "AKIDEXAMPLE",
        secret: &secret,
        session_token: None,
        region: "us-east-1",
        service: "ecs",
        path_style: PathStyle::Normalized,
    };
    let mut headers: Vec<(&str, &[u8])> = vec![
        ("host", b"localhost:9000"),
        ("content-type", b"application/x-amz-json-1.1"),
        ("x-amz-target", b"AmazonEC2ContainerServiceV20141113.RunTask"),
        ("user-agent", b"aws-cli/2.31.0 md/awscrt#0.27.6 ua/2.1 os/linux#6.1"),
        ("amz-sdk-invocation-id", b"0a7b2a4e-8f0d-4f63-a7a1-2b1a8a4d3c11"),
        ("amz-sdk-request", b"attempt=1"),
        ("content-length", b"2048"),
    ];
    let outgoing =
        Outgoing { method: "POST", path: "/", query: "", headers: &headers, payload: Payload::Bytes(&body) };
    measure("sign 2 KiB", || signer.sign_header(&outgoing, now).is_ok());
    let added = signer.sign_header(&outgoing, now).expect("the request has a host");
    headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
    let request = SignedRequest { method: "POST", path: "/", query: "", headers: &headers, now };
    let presented = Presented::parse(&request, Rules::SERVICE).expect("the request is well-formed");
    let scope = presented.scope();
    let cache = KeyCache::new(16);
    let verify = |known: Option<&Secret>| {
        let presented = Presented::parse(&request, Rules::SERVICE).expect("the request is well-formed");
        let key = cache.signing_key(presented.access_key(), known, &presented.scope());
        presented.verify(&key, &body).is_ok()
    };
    let wrong = Secret::new("wrong");
    measure("derive a signing key", || {
        black_box(SigningKey::derive(&secret, &scope));
        true
    });
    measure("parse", || Presented::parse(&request, Rules::SERVICE).is_ok());
    for _ in 0..3 {
        measure("parse, look up, verify 2 KiB", || verify(Some(&secret)));
        measure("the same with an unknown key", || !verify(None));
    }
    measure("the same with a wrong secret", || !verify(Some(&wrong)));
}

fn measure(what: &str, mut run: impl FnMut() -> bool) {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        assert!(black_box(run()));
    }
    println!("{what:34} {:>8.2} µs", start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}
