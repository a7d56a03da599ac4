//! Bytes that no SDK sends, and a disk without room.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result};
use neargate_auth::Timestamp;
use neargate_tests::client::{Api, now};
use neargate_tests::{Client, Server, ServerOptions, process};
use serde_json::json;

use crate::suite::{Case, Needs};
use crate::{CLUSTER, furnish, register, start, until_stopped};

pub(crate) const CASES: &[Case] = &[
    ("hostile/large_request", Needs::Nothing, large_request),
    ("hostile/malformed_json", Needs::Nothing, malformed_json),
    ("hostile/wrong_signatures", Needs::Nothing, wrong_signatures),
    ("hostile/unknown_operations", Needs::Nothing, unknown_operations),
    ("hostile/broken_http", Needs::Nothing, broken_http),
    ("hostile/slow_clients", Needs::Nothing, slow_clients),
    ("hostile/full_disk", Needs::RootAndWasm, full_disk),
    ("hostile/wasm_that_never_ends", Needs::Wasm, wasm_that_never_ends),
];

/// The server answers as before.
fn assert_well(client: &mut Client) -> Result<()> {
    client.ecs("ListClusters", &json!({})).map(drop)
}

fn large_request() -> Result<()> {
    let server = Server::start()?;
    let mut client = server.client();
    let body = json!({"clusterName": "x".repeat(10 << 20)}).to_string();
    let answer = client.post(Api::Ecs, "CreateCluster", body.as_bytes())?;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert_well(&mut server.client())?;
    // A length that is only claimed must not be believed.
    let mut stream = TcpStream::connect(server.endpoint.trim_start_matches("http://"))?;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")?;
    assert_well(&mut server.client())
}

fn malformed_json() -> Result<()> {
    let server = Server::start()?;
    let mut client = server.client();
    let deep = "[".repeat(100_000);
    let check = |client: &mut Client, body: &str, code: &str| -> Result<()> {
        let answer = client.post(Api::Ecs, "CreateCluster", body.as_bytes())?;
        assert_eq!((answer.status, answer.error_code().as_str()), (400, code), "{:.80}", body);
        Ok(())
    };
    for body in ["{", "", "[]", "\"text\"", "{\"clusterName\": }", "\u{0}", &deep, "{\"a\":1}{\"b\":2}"] {
        let answer = client.post(Api::Ecs, "CreateCluster", body.as_bytes())?;
        // An empty body is an empty request to some SDKs.
        let is_refused = answer.status == 400 && answer.error_code() == "SerializationException";
        assert!(is_refused || (body.is_empty() && answer.status == 200), "{:.40}: {answer:?}", body);
    }
    check(&mut client, r#"{"clusterName": 7}"#, "SerializationException")?;
    check(&mut client, r#"{"clusterName": ["a"]}"#, "SerializationException")?;
    let invalid = [b"{\"clusterName\": \"".as_slice(), b"\xff\xfe", b"\"}"].concat();
    assert_eq!(client.post(Api::Ecs, "CreateCluster", &invalid)?.status, 400);
    assert_well(&mut client)
}

fn wrong_signatures() -> Result<()> {
    let server = Server::start()?;
    let mut client = server.client();
    let body = b"{}";
    let check = |client: &mut Client,
                 what: &str,
                 headers: &[(String, String)],
                 body: &[u8],
                 codes: &[&str]|
     -> Result<()> {
        let answer = client.send("POST", "/", headers, body)?;
        assert!((400..=403).contains(&answer.status), "{what}: {}", answer.status);
        assert!(
            codes.contains(&&*answer.error_code()),
            "{what}: {:?}",
            String::from_utf8_lossy(&answer.body)
        );
        assert!(answer.header("x-amzn-requestid").is_some(), "{what}: no request id");
        Ok(())
    };
    let good = client.signed_headers(Api::Ecs, "ListClusters", body, now())?;
    assert_eq!(client.send("POST", "/", &good, body)?.status, 200);
    check(&mut client, "another body", &good, b"{\"maxResults\": 1}", &["InvalidSignatureException"])?;
    let without: Vec<_> = good.iter().filter(|(name, _)| name != "authorization").cloned().collect();
    check(&mut client, "no signature", &without, body, &["MissingAuthenticationTokenException"])?;
    let mut cut = good.clone();
    cut.iter_mut()
        .filter(|(name, _)| name == "authorization")
        .for_each(|(_, value)| value.truncate(value.len() - 1));
    check(
        &mut client,
        "a signature cut short",
        &cut,
        body,
        &["InvalidSignatureException", "IncompleteSignatureException"],
    )?;
    let mut moved = good.clone();
    moved.iter_mut().filter(|(name, _)| name == "x-amz-target").for_each(|(_, value)| {
        *value = value.replace("ListClusters", "CreateCluster");
    });
    check(&mut client, "another operation", &moved, body, &["InvalidSignatureException"])?;
    for skew_s in [-3_600, 3_600] {
        let skewed = Timestamp::from_unix_s(now().unix_s() + skew_s);
        let headers = client.signed_headers(Api::Ecs, "ListClusters", body, skewed)?;
        check(&mut client, "expired", &headers, body, &["InvalidSignatureException"])?;
    }
    let mut stranger = server.credentials.clone();
    stranger.access_key = "AKIAIOSFODNN7EXAMPLE".to_owned();
    let headers =
        Client::new(&server.endpoint, stranger).signed_headers(Api::Ecs, "ListClusters", body, now())?;
    check(&mut client, "unknown key", &headers, body, &["InvalidSignatureException"])?;
    let mut guesser = server.credentials.clone();
    guesser.secret = "guess".to_owned();
    let headers =
        Client::new(&server.endpoint, guesser).signed_headers(Api::Ecs, "ListClusters", body, now())?;
    check(&mut client, "wrong secret", &headers, body, &["InvalidSignatureException"])?;
    let headers = client.signed_headers(Api::Logs, "DescribeLogGroups", body, now())?;
    let swapped: Vec<_> = headers
        .into_iter()
        .map(|(name, value)| {
            if name == "x-amz-target" {
                (name, "AmazonEC2ContainerServiceV20141113.ListClusters".to_owned())
            } else {
                (name, value)
            }
        })
        .collect();
    check(&mut client, "another service's scope", &swapped, body, &["InvalidSignatureException"])?;
    assert_well(&mut client)
}

fn unknown_operations() -> Result<()> {
    let server = Server::start()?;
    let mut client = server.client();
    let answer = client.post(Api::Ecs, "NoSuchOperation", b"{}")?;
    assert_eq!(answer.status, 400);
    assert!(["UnknownOperationException", "InvalidAction"].contains(&&*answer.error_code()), "{answer:?}");
    assert_well(&mut client)
}

/// Each of these gets an error or a closed connection, never a hang or a crash.
fn broken_http() -> Result<()> {
    let server = Server::start()?;
    let address = server.endpoint.trim_start_matches("http://");
    let messages: [&[u8]; 7] = [
        b"\0\0\0\0",
        b"GET\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ];
    for message in messages {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(message)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        // A reset is as good an answer as a status.
        if stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.") {
            assert!(answer[9] == b'4', "{:?}", String::from_utf8_lossy(&answer));
        }
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // The server may close before it has read all.
    let _ = stream.write_all(long.as_bytes());
    let _ = stream.read(&mut [0; 64]);
    assert_well(&mut server.client())
}

/// Connections that say nothing keep nobody else waiting.
fn slow_clients() -> Result<()> {
    let server = Server::start()?;
    let address = server.endpoint.trim_start_matches("http://");
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\n")?;
        held.push(stream);
    }
    assert_well(&mut server.client())
}

/// On a full disk nothing is acknowledged that is not kept, and the server goes on when there is room again.
fn full_disk() -> Result<()> {
    let disk = neargate_tests::server::scratch_directory()?;
    let mounted = Tmpfs::mount(disk.path(), "48m")?;
    let data = disk.path().join("data");
    let options = ServerOptions {
        data: Some(data),
        expected_log: &["space", "full", "store", "disk", "commit"],
        ..ServerOptions::default()
    };
    let mut server = options.start()?;
    furnish(&server)?;
    let mut client = server.client();
    let ballast = disk.path().join("ballast");
    let error = fill(&ballast).expect_err("a small disk cannot be endless");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let mut kept = Vec::new();
    let mut refused = None;
    for i in 0..5_000 {
        let name = format!("{}-{i}", "c".repeat(200));
        let answer =
            client.post(Api::Ecs, "CreateCluster", json!({"clusterName": name}).to_string().as_bytes())?;
        if answer.status == 200 {
            kept.push(name);
            continue;
        }
        refused = Some(answer);
        break;
    }
    let refused = refused.context("the disk was never full")?;
    assert_eq!(refused.status, 500, "{refused:?}");
    assert_eq!(refused.error_code(), "ServerException");
    std::fs::remove_file(&ballast)?;
    client.ecs("CreateCluster", &json!({"clusterName": "after"}))?;
    register(&mut client, "after", "probe", &["exit", "0"])?;
    let arn = start(&mut client, "after", 1)?.remove(0);
    assert_eq!(until_stopped(&mut client, &arn)?["containers"][0]["exitCode"], 0);
    for name in &kept {
        let answer = client.ecs("DescribeClusters", &json!({"clusters": [name]}))?;
        assert_eq!(answer["clusters"][0]["clusterName"], json!(name), "an acknowledged cluster is lost");
    }
    server.stop()?;
    drop(mounted);
    Ok(())
}

/// Writes until there is no more room.
fn fill(path: &std::path::Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    loop {
        file.write_all(&[0; 4096])?;
    }
}

/// A mounted tmpfs; unmounted when dropped.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &std::path::Path, size: &str) -> Result<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "none"]).arg(at);
        let finished = process::run(&mut mount, b"", Duration::from_secs(10))?;
        anyhow::ensure!(finished.code == 0, "mount tmpfs: {}", finished.stderr);
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, because a failed test may still hold files in it.
        let mut umount = std::process::Command::new("umount");
        let _ = process::run(umount.arg("-l").arg(&self.0), b"", Duration::from_secs(10));
    }
}

/// Guests that spin leave room for others, and end when they are told to.
fn wasm_that_never_ends() -> Result<()> {
    let server = Server::start()?;
    furnish(&server)?;
    let mut client = server.client();
    register(&mut client, "spin", "probe", &["spin"])?;
    register(&mut client, "quick", "probe", &["exit", "0"])?;
    let spinning = start(&mut client, "spin", 4)?;
    let quick = start(&mut client, "quick", 1)?.remove(0);
    assert_eq!(until_stopped(&mut client, &quick)?["containers"][0]["exitCode"], 0);
    for arn in spinning {
        client.ecs("StopTask", &json!({"cluster": CLUSTER, "task": arn}))?;
        let task = until_stopped(&mut client, &arn)?;
        assert_eq!(task["stopCode"], "UserInitiated", "{task}");
    }
    Ok(())
}
