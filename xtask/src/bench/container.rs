//! Starting a container, beside other runtimes and beside no runtime at all.

use std::collections::btree_map::Entry;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::{Server, fixtures, is_root};
use serde_json::json;

use super::floor::{Binary, Floor};
use super::{
    Course, PEER_LIMITS, See, Way, Worker, engine, is_present, measure, prepare, run_task, through_api, timed,
};
use crate::statistics::Row;

/// A shell that runs a peer again and again, in a mount namespace without the hybrid layout's cgroup v2 mount:
/// crun 1.8 refuses to run where both versions of cgroups have controllers. Where there is only one version it
/// changes nothing. Starting the peer from a resident shell costs it less than starting it from here.
pub(super) struct PeerShell {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl PeerShell {
    fn start(peer: &str, bundle: &Path) -> Result<Self> {
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; \
                      while read -r id; do $0 run --bundle \"$1\" \"$id\" >/dev/null 2>&1 </dev/null; echo $?; done";
        let mut process = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, peer])
            .arg(bundle)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a shell for peers")?;
        let requests = process.stdin.take().context("write to the shell for peers")?;
        let answers = BufReader::new(process.stdout.take().context("read from the shell for peers")?);
        Ok(Self { process, requests, answers })
    }

    /// Runs the peer once; milliseconds.
    fn run(&mut self) -> Result<f64> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("peer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let started = Instant::now();
        writeln!(self.requests, "{id}").context("ask the shell for peers")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("ask the shell for peers")?;
        let elapsed = started.elapsed().as_secs_f64() * 1e3;
        ensure!(answer.trim() == "0", "the peer ended with exit status {}", answer.trim());
        Ok(elapsed)
    }
}

impl Drop for PeerShell {
    fn drop(&mut self) {
        // It ends with its input; one that hangs in a peer is ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn container_start() -> Result<Vec<Row>> {
    ensure!(is_root(), "containers can be measured as root only");
    let root = fixtures::busybox_root()?;
    let server = Server::start()?;
    server.pack(&root, "busybox", "/bin/busybox")?;
    prepare(&server, "true", "busybox", &["true"])?;
    let from = |from: &str, how: &str| {
        ["exec", "exit seen"].map(|end| format!("neargate API, {from} to {end}, {how}"))
    };
    let waiting = |worker: &mut Worker| {
        let Course { accepted, start, seen } = run_task(worker, "true", See::ByWaiting)?;
        Ok(vec![start, seen, start - accepted, seen - accepted])
    };
    let mut ways: Vec<Way<'_>> = vec![
        ([from("submit", "waiting"), from("accepted", "waiting")].concat(), Box::new(waiting)),
        (from("submit", "asking").to_vec(), Box::new(|worker| through_api(worker, "true", See::ByAsking))),
    ];
    let bundles = tempfile::tempdir().context("create directory for bundles")?;
    for peer in ["crun", "runc"].into_iter().filter(|peer| is_present(peer)) {
        let bundle = write_bundle(&bundles.path().join(peer), &root)?;
        if let Err(error) = PeerShell::start(peer, &bundle).and_then(|mut shell| shell.run()) {
            println!("{peer} is left out: {error:#}");
            continue;
        }
        let way = move |worker: &mut Worker| {
            let shell = match worker.shells.entry(peer) {
                Entry::Occupied(shell) => shell.into_mut(),
                Entry::Vacant(place) => place.insert(PeerShell::start(peer, &bundle)?),
            };
            Ok(vec![shell.run()?])
        };
        ways.push((vec![format!("{peer} run, whole process")], Box::new(way)));
    }
    if is_present("bwrap") {
        let root = root.clone();
        let way = move |_: &mut Worker| timed(&mut bubblewrap(&root));
        ways.push((vec!["bwrap, whole process, no network or limits".to_owned()], Box::new(way)));
    }
    for name in ["podman", "docker"].into_iter().filter(|name| is_present(name)) {
        if let Err(error) = import(name, &root).and_then(|()| timed(&mut engine_run(name))) {
            println!("{name} is left out: {error:#}");
            continue;
        }
        let way = move |_: &mut Worker| timed(&mut engine_run(name));
        ways.push((vec![format!("{name} run --rm --network none")], Box::new(way)));
    }
    let floor = Binary::floor()?;
    let way = move |worker: &mut Worker| {
        let floor = match &mut worker.floor {
            Some(floor) => floor,
            empty => empty.insert(Floor::start(&floor, &root)?),
        };
        floor.run()
    };
    ways.push((
        vec!["floor, start to exec".to_owned(), "floor, start to exit seen".to_owned()],
        Box::new(way),
    ));
    measure(&ways, Some(&server))
}

/// What bubblewrap can do of the same work: no cgroup, no network set-up, no overlay.
fn bubblewrap(root: &Path) -> Command {
    let mut command = Command::new("bwrap");
    command.arg("--unshare-all").arg("--ro-bind").arg(root).arg("/");
    command.args(["--proc", "/proc", "--dev", "/dev", "--", "/bin/busybox", "true"]);
    command
}

/// The name of the image that podman and docker run.
const IMAGE: &str = "localhost/neargate-bench:latest";

/// Gives the root to podman or docker as an image.
fn import(engine: &str, root: &Path) -> Result<()> {
    let archive = tempfile::NamedTempFile::new().context("make archive for peers")?;
    let mut tar = Command::new("tar");
    timed(tar.arg("-C").arg(root).arg("-cf").arg(archive.path()).arg("."))?;
    timed(Command::new(engine).arg("import").arg(archive.path()).arg(IMAGE)).map(drop)
}

fn engine_run(name: &str) -> Command {
    let mut command = engine(name);
    command.args(["run", "--rm", "--network", "none", "--memory", "512m", "--cpus", "0.25"]);
    command.args(PEER_LIMITS).arg(IMAGE);
    command.args(["/bin/busybox", "true"]);
    command
}

/// The same work as an OCI bundle: the same root, namespaces and limits, an empty network namespace.
fn write_bundle(directory: &Path, root: &Path) -> Result<PathBuf> {
    fs::create_dir(directory).with_context(|| format!("create {}", directory.display()))?;
    let namespaces = ["pid", "mount", "ipc", "uts", "network", "cgroup"].map(|kind| json!({"type": kind}));
    let resources = json!({
        "memory": {"limit": 512 << 20}, "cpu": {"quota": 25_000, "period": 100_000}, "pids": {"limit": 1024},
    });
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/busybox", "true"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true,
            "env": ["PATH=/bin"],
        },
        "root": {"path": root, "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": resources,
        },
    });
    let path = directory.join("config.json");
    fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(directory.to_owned())
}
