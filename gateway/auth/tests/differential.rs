//! Two hundred random requests signed by botocore, the signer behind the AWS CLI and boto3: all must verify, and our own
//! signer must give the same signature. Without botocore (`NEARGATE_PYTHON` names the interpreter) it is skipped loudly.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{ACCESS_KEY, SECRET, Wire};
use neargate_auth::sigv4::{PathStyle, Rules, Signer};
use neargate_auth::{AuthError, Secret, Timestamp};
use serde_json::{Value, json};

const CASES: usize = 200;
const SIGN_WITH_BOTOCORE: &str = include_str!("data/sign_with_botocore.py");

/// SplitMix64: a fixed sequence, so that a failing case fails again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn text(&mut self, from: &[&str], len_max: usize) -> String {
        (0..self.below(len_max + 1)).map(|_| self.pick(from)).collect()
    }
}

fn random_case(random: &mut Random) -> Value {
    let kind = random.pick(&["service", "service", "s3", "s3-unsigned", "service-presigned", "s3-presigned"]);
    // S3 paths arrive strictly encoded; elsewhere anything goes that is a path.
    let odd =
        ["a", "B", "7", "-", "_", ".", "~", "/", "/", "%20", "%C3%A9", "%2F", "%25", "%E1%88%B4", "..", "//"];
    let loose = ["$", "+", "!", "*", "'", "(", ")", ":", "@", "=", ",", "&", "%e9", "/./", "/../", ";"];
    let mut path = format!("/{}", random.text(&odd, 8));
    if kind.starts_with("service") {
        path.push_str(&random.text(&loose, 6));
    } else {
        path = path.replace("%2F", "%2B");
    }
    let words =
        ["a", "b", "c", "-", "~", "%20", "%2B", "%2F", "%3D", "%26", "%C3%A9", "%E1%88%B4", "Z", "0", "."];
    let pairs: Vec<String> = (0..random.below(6))
        .map(|_| match (random.pick(&["k", "K", "x-1", ""]), random.below(4)) {
            (key, 0) => format!("{key}{}=", random.text(&words, 3)),
            ("", _) => format!("={}", random.text(&words, 3)),
            (key, 1) => key.to_owned(),
            (key, _) => format!("{key}={}", random.text(&words, 5)),
        })
        .collect();
    let value = ["a", "B", " ", "  ", "\t", "\"", ",", ";", "=", "é", "1", "   "];
    let mut headers: Vec<(&str, String)> = (0..random.below(5))
        .map(|_| {
            (
                random.pick(&["X-Custom", "x-custom", "X-Amz-Target", "Content-Type", "A", "Zz"]),
                random.text(&value, 8),
            )
        })
        .collect();
    if kind == "service" && random.below(4) == 0 {
        headers.push(("Date", "replaced by botocore".into()));
    }
    let bytes: Vec<u8> = (0..random.below(200)).map(|_| random.below(256) as u8).collect();
    let body = if kind.ends_with("presigned") { Vec::new() } else { bytes };
    json!({
        "kind": kind,
        "method": random.pick(&["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]),
        "host": random.pick(&["example.amazonaws.com", "localhost:9000", "127.0.0.1:8443"]),
        "path": path,
        "query": pairs.join("&"),
        "headers": headers,
        "body": hex::encode(body),
        "token": random.pick(&[None, Some("AQoDYXdzEPT//////////wEXAMPLE==")]),
        "region": random.pick(&["us-east-1", "eu-central-1", "local"]),
        "service": random.pick(&["ecs", "logs", "s3"]),
        "expires": 1 + random.below(604_800),
    })
}

#[test]
fn botocore_and_we_agree() {
    let python = std::env::var("NEARGATE_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import botocore.auth"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("SKIPPED botocore_and_we_agree: {python} cannot import botocore; set NEARGATE_PYTHON");
        eprintln!("SKIPPED botocore_and_we_agree: {python} cannot import botocore; set NEARGATE_PYTHON");
        return;
    }
    let mut random = Random(0x6e65_6172_6761_7465);
    let cases: Vec<Value> = (0..CASES).map(|_| random_case(&mut random)).collect();
    let answers = sign_with_botocore(&python, &cases);
    assert_eq!(answers.len(), CASES);
    let same = cases.iter().zip(&answers).filter(|(case, answer)| check(case, answer)).count();
    assert!(same > CASES / 4, "only {same} signatures were compared with our own");
}

fn sign_with_botocore(python: &str, cases: &[Value]) -> Vec<Value> {
    let mut child = Command::new(python)
        .args(["-c", SIGN_WITH_BOTOCORE, ACCESS_KEY, SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(cases).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "botocore could not sign");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Verifies botocore's request, and says whether our signer could sign the same one.
fn check(case: &Value, answer: &Value) -> bool {
    let field = |name: &str| case[name].as_str().unwrap();
    let (rules, is_presigned) = (rules_of(field("kind")), field("kind").ends_with("presigned"));
    let (target, now) = (answer["target"].as_str().unwrap(), answer["now"].as_str().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let now = Timestamp::parse_iso_basic(now).unwrap();
    let mut sent = Wire {
        method: field("method").into(),
        path: path.into(),
        query: query.into(),
        headers: vec![],
        body: hex::decode(field("body")).unwrap(),
    };
    for header in answer["headers"].as_array().unwrap() {
        sent.add(header[0].as_str().unwrap(), header[1].as_str().unwrap());
    }
    sent.set("Host", field("host"));
    let token = case["token"].as_str().map(Secret::new);
    let result = sent.verify_with(rules, now, &Secret::new(SECRET), |presented, verified| {
        assert_eq!(presented.check_scope(field("region"), field("service")), Ok(()));
        assert_eq!(verified.check_session_token(token.as_ref()), Ok(()));
    });
    assert_eq!(result, Ok(()), "botocore's request was refused\ncase: {case:#}\nanswer: {answer:#}");
    let mut changed = sent.clone();
    changed.path.push('x');
    assert_eq!(changed.verify(rules, now), Err(AuthError::SignatureDoesNotMatch), "{case:#}");
    let has_date = sent.header("date").is_some();
    if is_presigned || has_date || field("kind") == "s3-unsigned" {
        return false;
    }
    let mut ours = sent.clone();
    ours.remove("authorization");
    let secret = Secret::new(SECRET);
    let signer = Signer {
        access_key: ACCESS_KEY,
        secret: &secret,
        session_token: token.as_ref(),
        region: field("region"),
        service: field("service"),
        path_style: rules.path_style,
    };
    ours.sign(&signer, now);
    assert_eq!(ours.header("authorization"), sent.header("authorization"), "{case:#}");
    true
}

fn rules_of(kind: &str) -> Rules {
    let rules = if kind.starts_with("s3") { Rules::S3 } else { Rules::SERVICE };
    assert_eq!(rules.path_style == PathStyle::S3, kind.starts_with("s3"));
    rules
}
