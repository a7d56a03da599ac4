//! `cargo xtask bench`: Neargate beside its peers, in turn on one machine in one run, because only ratios travel.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use neargate_tests::{Client, Server, binary, fixtures, is_root};
use serde_json::{Value, json};

use crate::setup;
use crate::shell::{is_installed, run};
use crate::statistics::{Row, table};

const ROWS: [&str; 2] = ["container-start", "wasm-run"];
const CONCURRENCY: [usize; 2] = [1, 8];
/// Runs that warm caches and are not counted.
const WARM_UP: usize = 5;
/// Counted runs of each way at each concurrency; the 99th percentile is then the worst but one of a hundred.
const SAMPLES: usize = 200;
/// A task that has not stopped by then never will.
const TASK_LIMIT: Duration = Duration::from_secs(60);
const CLUSTER: &str = "bench";

/// Runs the rows that are named, or all, and writes them as JSON if a file is given.
pub(crate) fn bench(arguments: &[&str]) -> Result<()> {
    let (names, file) = match arguments {
        [names @ .., "--json", file] => (names, Some(*file)),
        names => (names, None),
    };
    if let Some(unknown) = names.iter().find(|name| !ROWS.contains(name)) {
        bail!("there is no row {unknown}; the rows are {}", ROWS.join(", "));
    }
    setup::setup()?;
    if let Some(mut build) = setup::build_command() {
        run(&mut build)?;
    }
    let is_wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut results = serde_json::Map::new();
    for (name, measure) in
        [("container-start", container_start as fn() -> Result<Vec<Row>>), ("wasm-run", wasm_run)]
    {
        if is_wanted(name) {
            let rows = measure().with_context(|| name.to_owned())?;
            println!("{name}\n{}", table(&rows));
            results.insert(name.to_owned(), rows.iter().map(Row::to_json).collect());
        }
    }
    let Some(file) = file else { return Ok(()) };
    fs::write(file, Value::from(results).to_string()).with_context(|| format!("write {file}"))
}

/// One way of doing the work once; what it returns is in milliseconds, one value for each thing seen.
type Way<'w> = (Vec<String>, Box<dyn Fn(&mut Worker) -> Result<Vec<f64>> + Sync + 'w>);

/// What each thread of a measurement has of its own.
struct Worker {
    client: Option<Client>,
    shells: BTreeMap<&'static str, PeerShell>,
}

/// A shell that runs a peer again and again, in a mount namespace without the hybrid layout's cgroup v2 mount:
/// crun 1.8 refuses to run where both versions of cgroups have controllers. Where there is only one version it
/// changes nothing. Starting the peer from a resident shell costs it less than starting it from here.
struct PeerShell {
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

fn container_start() -> Result<Vec<Row>> {
    ensure!(is_root(), "containers can be measured as root only");
    let root = fixtures::busybox_root()?;
    let server = Server::start()?;
    server.pack(&root, "busybox", "/bin/busybox")?;
    prepare(&server, "true", "busybox", &["true"])?;
    let mut ways: Vec<Way<'_>> = vec![(
        vec!["neargate API, submit to exec".to_owned(), "neargate API, submit to exit seen".to_owned()],
        Box::new(|worker| through_api(worker, "true")),
    )];
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
    measure(&ways, Some(&server))
}

fn wasm_run() -> Result<Vec<Row>> {
    let probe = fixtures::module().context("build the Wasm probe; is the target wasm32-wasip1 installed?")?;
    let server = Server::start()?;
    server.import(&probe, "probe")?;
    prepare(&server, "probe", "probe", &["echo", "hello"])?;
    let ran = Command::new(binary());
    let program = ran.get_program().to_owned();
    let whole = {
        let probe = probe.clone();
        move |_: &mut Worker| {
            timed(Command::new(&program).arg("run").arg(&probe).args(["--", "echo", "hello"]))
        }
    };
    let mut ways: Vec<Way<'_>> = vec![
        (vec!["neargate run, whole process".to_owned()], Box::new(whole)),
        (
            vec!["neargate API, submit to start".to_owned(), "neargate API, submit to exit seen".to_owned()],
            Box::new(|worker| through_api(worker, "probe")),
        ),
    ];
    let compiled = tempfile::tempdir().context("create directory for compiled code")?;
    let module = compiled.path().join("probe.cwasm");
    if is_present("wasmtime") {
        run(Command::new("wasmtime").arg("compile").arg(&probe).arg("-o").arg(&module))?;
        let way = move |_: &mut Worker| {
            timed(
                Command::new("wasmtime")
                    .args(["run", "--allow-precompiled"])
                    .arg(&module)
                    .args(["echo", "hello"]),
            )
        };
        ways.push((vec!["wasmtime run, precompiled, whole process".to_owned()], Box::new(way)));
    }
    measure(&ways, Some(&server))
}

fn is_present(peer: &str) -> bool {
    let is_present = is_installed(peer);
    if !is_present {
        println!("{peer} is not installed and is left out");
    }
    is_present
}

/// Runs all ways alternately at each concurrency, so that drift of the machine meets them alike.
fn measure(ways: &[Way<'_>], server: Option<&Server>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for concurrency in CONCURRENCY {
        let mut samples: Vec<Vec<Vec<f64>>> =
            ways.iter().map(|(names, _)| vec![Vec::new(); names.len()]).collect();
        let rounds = 10;
        for round in 0..=rounds {
            for ((_, way), samples) in ways.iter().zip(&mut samples) {
                let count = if round == 0 { WARM_UP * concurrency } else { SAMPLES / rounds };
                let seen = at_once(way, server, concurrency, count)?;
                // The first round warms up.
                for values in seen.into_iter().filter(|_| round > 0) {
                    samples.iter_mut().zip(values).for_each(|(samples, value)| samples.push(value));
                }
            }
        }
        for ((names, _), samples) in ways.iter().zip(samples) {
            rows.extend(
                names.iter().zip(samples).map(|(name, samples)| Row::new(name, concurrency, samples)),
            );
        }
    }
    Ok(rows)
}

/// Does the work `count` times on `concurrency` threads.
fn at_once(
    way: &(dyn Fn(&mut Worker) -> Result<Vec<f64>> + Sync),
    server: Option<&Server>,
    concurrency: usize,
    count: usize,
) -> Result<Vec<Vec<f64>>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut worker = Worker { client: server.map(Server::client), shells: BTreeMap::new() };
        let mut seen = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            seen.push(way(&mut worker)?);
        }
        Ok(seen)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..concurrency).map(|_| scope.spawn(work)).collect();
        let mut seen = Vec::new();
        for thread in threads {
            let values: Result<Vec<Vec<f64>>> = thread.join().expect("workers return their errors");
            seen.extend(values?);
        }
        Ok(seen)
    })
}

fn prepare(server: &Server, family: &str, image: &str, command: &[&str]) -> Result<()> {
    let mut client = server.client();
    client.ecs("CreateCluster", &json!({"clusterName": CLUSTER}))?;
    let definition = json!({
        "family": family, "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "cpu": "256", "memory": "512",
        "containerDefinitions": [{"name": "main", "image": image, "command": command, "essential": true}],
    });
    client.ecs("RegisterTaskDefinition", &definition).map(drop)
}

/// Submits a task and asks until it has stopped: when it started, by the server's clock against ours, and when its
/// end was seen over HTTP. Both clocks are this machine's.
fn through_api(worker: &mut Worker, family: &str) -> Result<Vec<f64>> {
    let client = worker.client.as_mut().context("this way needs a server")?;
    let started = Instant::now();
    let started_unix =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("read clock")?;
    let network = json!({"awsvpcConfiguration": {"subnets": ["subnet-bench"]}});
    let request = json!({"cluster": CLUSTER, "taskDefinition": family, "launchType": "FARGATE", "networkConfiguration": network});
    let accepted = client.ecs("RunTask", &request)?;
    let arn = accepted["tasks"][0]["taskArn"].as_str().with_context(|| format!("run task: {accepted}"))?;
    let describe = json!({"cluster": CLUSTER, "tasks": [arn]});
    while started.elapsed() < TASK_LIMIT {
        let task = client.ecs("DescribeTasks", &describe)?["tasks"][0].take();
        if task["lastStatus"] == "STOPPED" {
            let exit_seen = started.elapsed().as_secs_f64() * 1e3;
            ensure!(task["containers"][0]["exitCode"] == 0, "the task failed: {task}");
            let start = task["startedAt"].as_f64().with_context(|| format!("find startedAt in {task}"))?;
            return Ok(vec![(start - started_unix.as_secs_f64()) * 1e3, exit_seen]);
        }
    }
    bail!("task {arn} did not stop within {TASK_LIMIT:?}")
}

/// Runs a command to its end.
fn timed(command: &mut Command) -> Result<Vec<f64>> {
    let started = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let elapsed = started.elapsed().as_secs_f64() * 1e3;
    let status = status.with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(vec![elapsed])
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
