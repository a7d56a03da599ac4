//! `neargate serve`, `env` and `doctor`: starting well, and failing well.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::server::exported;
use neargate_tests::{Server, ServerOptions, binary, process};
use serde_json::{Value, json};

use crate::suite::{Case, Needs};
use crate::{Cli, assert_refused, module};

/// A server that cannot start says so within this.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
const NOBODY: u32 = 65_534;

pub(crate) const CASES: &[Case] = &[
    ("serve/is_healthy_and_ends_cleanly", Needs::Nothing, is_healthy_and_ends_cleanly),
    ("serve/says_that_the_port_is_taken", Needs::Nothing, says_that_the_port_is_taken),
    ("serve/says_that_the_data_is_in_use", Needs::Nothing, says_that_the_data_is_in_use),
    ("serve/dev_mode_stays_on_loopback", Needs::Nothing, dev_mode_stays_on_loopback),
    ("serve/keeps_its_key", Needs::Nothing, keeps_its_key),
    ("serve/gives_up_root", Needs::Root, gives_up_root),
    ("serve/takes_over_data_of_root", Needs::Root, takes_over_data_of_root),
    ("serve/says_that_its_user_cannot_reach_the_data", Needs::Root, says_that_its_user_cannot_reach_the_data),
    ("serve/works_as_nobody", Needs::RootAndWasm, works_as_nobody),
    ("serve/refuses_nonsense", Needs::Nothing, refuses_nonsense),
    ("env/prints_and_writes_profiles", Needs::Nothing, prints_and_writes_profiles),
    ("doctor/says_what_works", Needs::Nothing, says_what_works),
    ("completions/for_every_shell", Needs::Nothing, completions_for_every_shell),
    ("fidelity/lists_every_operation", Needs::Nothing, fidelity_lists_every_operation),
];

fn is_healthy_and_ends_cleanly() -> Result<()> {
    let mut server = Server::start()?;
    let mut client = server.client();
    assert_eq!(client.get("/healthz")?.status, 200);
    let fidelity = client.get("/v1/fidelity")?;
    assert_eq!(fidelity.status, 200);
    assert!(fidelity.json().to_string().contains("RunTask"), "{:?}", fidelity.json());
    assert_eq!(client.get("/no/such/path")?.status, 404);
    let status = server.stop()?;
    assert!(status.success(), "{status}{}", server.log_tail());
    Ok(())
}

fn says_that_the_port_is_taken() -> Result<()> {
    let cli = Cli::new()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let mut command = cli.command(&["serve", "--listen", &address, "--data", &cli.data()]);
    let finished = process::run(&mut command, b"", REFUSAL_LIMIT)?;
    assert_refused(&finished, finished.code.max(1), &[&address]);
    Ok(())
}

fn says_that_the_data_is_in_use() -> Result<()> {
    let cli = Cli::new()?;
    let server = Server::start()?;
    let data = server.data.to_string_lossy();
    let mut command = cli.command(&["serve", "--listen", "127.0.0.1:0", "--data", &data]);
    let finished = process::run(&mut command, b"", REFUSAL_LIMIT)?;
    assert_refused(&finished, finished.code.max(1), &[&data]);
    assert_eq!(server.client().get("/healthz")?.status, 200, "the first server was disturbed");
    Ok(())
}

fn dev_mode_stays_on_loopback() -> Result<()> {
    let cli = Cli::new()?;
    let mut command = cli.command(&["serve", "--dev", "--listen", "0.0.0.0:0", "--data", &cli.data()]);
    let finished = process::run(&mut command, b"", REFUSAL_LIMIT)?;
    assert_refused(&finished, finished.code.max(1), &["--dev"]);
    let options = ServerOptions {
        arguments: vec!["--dev".to_owned()],
        expected_log: &["dev", "credentials"],
        ..ServerOptions::default()
    };
    let server = options.start()?;
    let mut anyone = server.credentials.clone();
    anyone.access_key = "AKIAIOSFODNN7EXAMPLE".to_owned();
    anyone.secret = "anything".to_owned();
    neargate_tests::Client::new(&server.endpoint, anyone).ecs("ListClusters", &json!({}))?;
    Ok(())
}

fn keeps_its_key() -> Result<()> {
    let mut server = Server::start()?;
    let key = server.credentials.access_key.clone();
    let keys: Vec<_> = walk(&server.data)?
        .into_iter()
        .filter(|path| {
            fs::read(path)
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&server.credentials.secret))
        })
        .collect();
    assert!(!keys.is_empty(), "the secret is in no file of the data directory");
    for path in keys {
        let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    }
    server.stop()?;
    let again = ServerOptions { data: Some(server.data.clone()), ..ServerOptions::default() }.start()?;
    assert_eq!(again.credentials.access_key, key);
    Ok(())
}

/// The lines of its `/proc/<pid>/status` that say what a server may.
fn rights(server: &Server) -> Result<Vec<(String, String)>> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
}

fn gives_up_root() -> Result<()> {
    let check = |arguments: &[&str], uid: &str, gid: &str| -> Result<()> {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let server = ServerOptions { arguments, ..ServerOptions::default() }.start()?;
        let rights = rights(&server)?;
        let of = |key: &str| rights.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
        for (key, id) in [("Uid", uid), ("Gid", gid)] {
            assert_eq!(of(key), Some([id; 4].join("\t").as_str()), "{key}");
        }
        assert_eq!(of("Groups"), Some(""));
        for key in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(of(key), Some("0000000000000000"), "{key}");
        }
        assert_eq!(of("NoNewPrivs"), Some("1"));
        assert_eq!(server.client().get("/healthz")?.status, 200);
        Ok(())
    };
    check(&["--user", "4711"], "4711", "4711")?;
    check(&["--user", "4711:4712"], "4711", "4712")?;
    // As on a machine without a user of the name neargate; where there is one, it has another number, and not 0.
    let usual = ServerOptions::default().start()?;
    let uid = rights(&usual)?.into_iter().find(|(key, _)| key == "Uid").context("find Uid")?.1;
    assert!(!uid.split('\t').any(|id| id == "0"), "{uid}");
    let kept =
        ServerOptions { arguments: vec!["--user".to_owned(), "root".to_owned()], ..ServerOptions::default() };
    let kept = kept.start()?;
    assert!(kept.log().contains("--user root"), "{}", kept.log());
    assert!(rights(&kept)?.contains(&("Uid".to_owned(), "0\t0\t0\t0".to_owned())));
    Ok(())
}

/// What an earlier server left that was root, and what root imports beside a server that is not.
fn takes_over_data_of_root() -> Result<()> {
    let as_user = |data: Option<&std::path::Path>, user: &str| {
        let arguments = vec!["--user".to_owned(), user.to_owned()];
        ServerOptions { arguments, data: data.map(Into::into), ..ServerOptions::default() }.start()
    };
    let mut server = as_user(None, "root")?;
    server.import(module().as_ref(), "first")?;
    let key = server.credentials.access_key.clone();
    server.stop()?;
    for user in ["4711", "4712", "root", "4711"] {
        let mut again = as_user(Some(&server.data), user)?;
        assert_eq!(again.credentials.access_key, key, "as {user}");
        again.import(module().as_ref(), "second")?;
        assert_eq!(again.client().get("/healthz")?.status, 200, "as {user}");
        again.stop()?;
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(server.data.join("control.db"))?);
        assert_eq!(owner, user.parse().unwrap_or(0), "as {user}");
        for path in walk(&server.data.join("images"))? {
            let found = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path)?);
            assert_eq!(found, owner, "{} as {user}", path.display());
        }
    }
    Ok(())
}

fn says_that_its_user_cannot_reach_the_data() -> Result<()> {
    let cli = Cli::new()?;
    let closed = cli.path("closed");
    fs::create_dir(&closed)?;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700))?;
    let data = format!("{closed}/data");
    let mut command = cli.command(&["serve", "--listen", "127.0.0.1:0", "--data", &data]);
    let finished = process::run(&mut command, b"", REFUSAL_LIMIT)?;
    assert_refused(&finished, finished.code.max(1), &[&data, "--data", "--user"]);
    let mut command = cli.command(&["serve", "--user", "nobody-of-this-name", "--data", &cli.data()]);
    let finished = process::run(&mut command, b"", REFUSAL_LIMIT)?;
    assert_refused(&finished, finished.code.max(1), &["nobody-of-this-name", "/etc/passwd"]);
    Ok(())
}

fn walk(directory: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            files.extend(walk(&path)?);
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// The binary may lie where another user cannot go, so that nobody runs a copy.
fn works_as_nobody() -> Result<()> {
    let cli = Cli::new()?;
    let program = cli.path("neargate");
    let probe = cli.path("probe.wasm");
    fs::copy(binary(), &program)?;
    fs::copy(module(), &probe)?;
    fs::set_permissions(&probe, fs::Permissions::from_mode(0o644))?;
    let home = cli.path("nobody");
    fs::create_dir(&home)?;
    chown(&home, Some(NOBODY), Some(NOBODY))?;
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", &program]);
        command.args(arguments).env("HOME", &home).current_dir("/");
        command
    };
    let data = format!("{home}/data");
    let mut run = as_nobody(&["run", "--data", &data, &probe, "--", "echo", "hello"]);
    let finished = process::run(&mut run, b"", crate::LIMIT)?;
    assert_eq!((finished.text().as_str(), finished.code), ("hello\n", 0), "{}", finished.stderr);
    let finished = process::run(&mut as_nobody(&["doctor", "--output", "json"]), b"", crate::LIMIT)?;
    serde_json::from_str::<Value>(&finished.text()).context("read doctor's answer")?;
    let default = process::run(&mut as_nobody(&["run", &probe, "--", "echo", "hello"]), b"", crate::LIMIT)?;
    assert_eq!(default.text(), "hello\n", "without --data: {}", default.stderr);
    let forbidden = process::run(&mut as_nobody(&["serve", "--data", "/root/x"]), b"", REFUSAL_LIMIT)?;
    assert_refused(&forbidden, forbidden.code.max(1), &["/root/x"]);
    Ok(())
}

fn refuses_nonsense() -> Result<()> {
    let cli = Cli::new()?;
    let check = |arguments: &[&str], mentions: &str| -> Result<()> {
        let finished = process::run(&mut cli.command(arguments), b"", REFUSAL_LIMIT)?;
        assert_refused(&finished, finished.code.max(1), &[mentions]);
        Ok(())
    };
    check(&["serve", "--listen", "nowhere"], "nowhere")?;
    check(&["serve", "--account", "12"], "12")?;
    check(&["frobnicate"], "frobnicate")?;
    check(&["run", "--cpu", "much", "image"], "much")?;
    check(&["run"], "IMAGE")?;
    let finished = cli.any(&["--version"])?;
    assert_eq!(finished.code, 0);
    ensure!(finished.text().starts_with("neargate "), "{:?}", finished.text());
    Ok(())
}

fn prints_and_writes_profiles() -> Result<()> {
    let cli = Cli::new()?;
    let server = Server::start()?;
    let data = server.data.to_string_lossy().into_owned();
    let arguments = ["env", "--data", &data, "--endpoint", &server.endpoint];
    let text = cli.any(&arguments)?.text();
    assert_eq!(exported(&text, "AWS_ENDPOINT_URL").as_deref(), Some(server.endpoint.as_str()));
    let is_for_eval = |line: &str| ["export ", "unset ", "#"].iter().any(|start| line.starts_with(start));
    assert!(text.lines().all(is_for_eval), "not for eval: {text}");
    let finished = cli.any(&[&arguments[..], &["--profile", "near", "--yes"]].concat())?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let config = fs::read_to_string(cli.path(".aws/config"))?;
    assert!(config.contains("[profile near]") && config.contains(&server.endpoint), "{config}");
    let absent = cli.any(&["env", "--data", &cli.path("absent")])?;
    assert_refused(&absent, absent.code.max(1), &["absent"]);
    Ok(())
}

fn says_what_works() -> Result<()> {
    let cli = Cli::new()?;
    let finished = cli.any(&["doctor", "--output", "json"])?;
    let report: Value = serde_json::from_str(&finished.text()).context("read doctor's answer")?;
    assert!(report.to_string().contains("cgroup"), "{report}");
    let table = cli.any(&["doctor"])?;
    assert!(!table.text().is_empty());
    assert!(!table.text().contains('\u{1b}'), "colour without a terminal: {:?}", table.text());
    Ok(())
}

fn completions_for_every_shell() -> Result<()> {
    let cli = Cli::new()?;
    for shell in ["bash", "zsh", "fish"] {
        let finished = cli.any(&["completions", shell])?;
        assert_eq!(finished.code, 0, "{shell}: {}", finished.stderr);
        assert!(finished.text().contains("neargate") && finished.text().contains("serve"), "{shell}");
    }
    let finished = cli.any(&["completions", "csh"])?;
    assert_refused(&finished, 2, &["csh"]);
    Ok(())
}

fn fidelity_lists_every_operation() -> Result<()> {
    let cli = Cli::new()?;
    let finished = cli.any(&["fidelity"])?;
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    for name in ["RunTask", "CreateService", "GetLogEvents", "GetCallerIdentity"] {
        assert!(finished.text().contains(name), "{name} is not in the ledger");
    }
    Ok(())
}
