//! Pulls beside peers: from one registry of Debian's on this machine to files that a container can start from.
//!
//! Each way begins without anything and ends with the image unpacked, because that is what a task waits for. Memory is the
//! most anonymous memory that the processes of a way had together, its daemon's too; files in the page cache are not
//! counted, as they can be given up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use neargate_tests::server::scratch_directory;
use neargate_tests::{binary, eventually, fixtures, is_root};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::is_present;
use crate::shell::{run, shown};
use crate::statistics::{Figures, median};

/// Counted rounds of each way; one more comes before, to warm caches of programs.
const ROUNDS: usize = 5;
/// Small files of the image that has many, over its layers.
const FILES: usize = 24_000;
const FILE_LAYERS: usize = 4;
/// What the large file has before it is compressed; half of it does not compress.
const LARGE_BYTES: usize = 400 << 20;
/// Between two looks at the memory of processes.
const LOOK: Duration = Duration::from_millis(10);
const OCI: &str = "application/vnd.oci.image.";

/// The most memory and the median of time for each way and image, and the time until a container of it has run.
pub(super) fn pull() -> Result<Figures> {
    ensure!(is_root(), "pulls can be measured as root only");
    ensure!(
        is_present("docker-registry") && is_present("skopeo"),
        "`cargo xtask setup` installs the registry and skopeo"
    );
    let scratch = scratch_directory()?;
    let bench = Bench::start(scratch.path())?;
    let mut rows = Vec::new();
    for (what, name) in [("many files", many_files(&bench)?), ("one large file", large_file(&bench)?)] {
        rows.extend(bench.measure(what, &bench.pulls(&name))?);
        rows.extend(bench.measure(&format!("{what}, to the end of `true`"), &bench.runs(&name))?);
    }
    let columns = vec!["median s", "best s", "ratio", "memory MiB"];
    Ok(Figures { columns, rows })
}

/// Ends its process.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One way to do the work: its steps, and the daemon of it that is there before.
struct Way {
    name: &'static str,
    steps: Vec<Command>,
    daemon: Option<u32>,
    /// Brings the daemon back to where it has nothing.
    forget: Vec<Command>,
}

struct Bench {
    scratch: PathBuf,
    registry: String,
    containerd: Option<Daemon>,
    _registry: Daemon,
}

impl Bench {
    fn start(scratch: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let registry = format!("127.0.0.1:{port}");
        let configuration = scratch.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nhttp: {{addr: {registry}}}\n\
             storage: {{filesystem: {{rootdirectory: {}/registry}}}}\n",
            scratch.display()
        );
        fs::write(&configuration, text).context("configure the registry")?;
        let mut command = Command::new("docker-registry");
        let started =
            quiet(command.arg("serve").arg(configuration)).spawn().context("start docker-registry")?;
        let _registry = Daemon(started);
        eventually(Duration::from_secs(20), || std::net::TcpStream::connect(&registry).ok())
            .context("await docker-registry")?;
        let containerd = (is_present("containerd") && is_present("ctr")).then(|| start_containerd(scratch));
        Ok(Self { scratch: scratch.to_owned(), registry, containerd: containerd.transpose()?, _registry })
    }

    fn at(&self, name: &str) -> String {
        self.scratch.join(name).display().to_string()
    }

    /// From nothing to the image unpacked.
    fn pulls(&self, image: &str) -> Vec<Way> {
        let reference = format!("{}/{image}", self.registry);
        let docker = format!("docker://{reference}");
        let mut ways = vec![Way::new(
            "neargate image pull",
            vec![command(
                binary(),
                &["image", "pull", &reference, "--quiet", "--data", &self.at("fresh/data")],
            )],
        )];
        if is_present("umoci") {
            let layout = self.at("fresh/layout");
            let copy = ["copy", "--quiet", "--src-tls-verify=false", &docker, &format!("oci:{layout}:x")];
            let unpack = ["unpack", "--image", &format!("{layout}:x"), &self.at("fresh/bundle")];
            ways.push(Way::new(
                "skopeo copy, umoci unpack",
                vec![command("skopeo", &copy), command("umoci", &unpack)],
            ));
        }
        if is_present("podman") {
            let pull = ["pull", "--quiet", "--tls-verify=false", &reference];
            ways.push(Way::new("podman pull", vec![self.podman(&pull)]));
        }
        if let Some(Daemon(child)) = &self.containerd {
            let pull = self.ctr(&["images", "pull", "--plain-http", &reference]);
            let remove = self.ctr(&["images", "remove", "--sync", &reference]);
            ways.push(Way {
                daemon: Some(child.id()),
                forget: vec![remove],
                ..Way::new("ctr images pull", vec![pull])
            });
        }
        ways
    }

    /// From nothing to the end of a container's program.
    fn runs(&self, image: &str) -> Vec<Way> {
        let reference = format!("{}/{image}", self.registry);
        let mut ways = vec![Way::new(
            "neargate run",
            vec![command(
                binary(),
                &["run", "--quiet", "--data", &self.at("fresh/data"), &reference, "--", "true"],
            )],
        )];
        if is_present("podman") {
            let network = ["--network=none", "--ulimit=host"];
            let run =
                [&["run", "--rm", "--quiet", "--tls-verify=false"], &network[..], &[&reference, "true"]]
                    .concat();
            ways.push(Way::new("podman run, no network", vec![self.podman(&run)]));
        }
        if let Some(Daemon(child)) = &self.containerd {
            let pull = self.ctr(&["images", "pull", "--plain-http", &reference]);
            let run = self.ctr(&["run", "--rm", &reference, "bench", "/bin/busybox", "true"]);
            let remove = self.ctr(&["images", "remove", "--sync", &reference]);
            let way = Way::new("ctr images pull, ctr run, no network", vec![pull, run]);
            ways.push(Way { daemon: Some(child.id()), forget: vec![remove], ..way });
        }
        ways
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        let (root, runroot) = (self.at("fresh/podman"), self.at("fresh/podman-run"));
        command(
            "podman",
            &[&["--root", &root, "--runroot", &runroot, "--storage-driver", "overlay"], arguments].concat(),
        )
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        command("ctr", &[&["--address", &self.at("containerd.sock")], arguments].concat())
    }

    /// Runs all ways alternately, so that drift of the machine meets them alike.
    fn measure(&self, what: &str, ways: &[Way]) -> Result<Vec<(String, Vec<f64>)>> {
        let mut seen: Vec<(Vec<f64>, f64)> = vec![(Vec::new(), 0.0); ways.len()];
        for round in 0..=ROUNDS {
            for (way, seen) in ways.iter().zip(&mut seen) {
                let fresh = self.scratch.join("fresh");
                forget(&fresh)?;
                fs::create_dir(&fresh).context("make a fresh directory")?;
                // What others have written is not to be waited for in the name of this one.
                rustix::fs::sync();
                let (seconds, bytes) = way.run()?;
                if round > 0 {
                    seen.0.push(seconds);
                }
                seen.1 = seen.1.max(bytes as f64 / (1 << 20) as f64);
                for command in &way.forget {
                    run(&mut again(command))?;
                }
            }
        }
        let _ = forget(&self.scratch.join("fresh"));
        let base = median(seen.first().map(|(seconds, _)| seconds.clone()).unwrap_or_default());
        let row = |(way, (seconds, memory)): (&Way, &(Vec<f64>, f64))| {
            let (middle, best) =
                (median(seconds.clone()), seconds.iter().copied().fold(f64::INFINITY, f64::min));
            (format!("{what}: {}", way.name), vec![middle, best, middle / base, *memory])
        };
        Ok(ways.iter().zip(&seen).map(row).collect())
    }
}

impl Way {
    fn new(name: &'static str, steps: Vec<Command>) -> Self {
        Self { name, steps, daemon: None, forget: Vec::new() }
    }

    /// How long all steps took, and the most memory of its processes together.
    fn run(&self) -> Result<(f64, u64)> {
        let done = AtomicBool::new(false);
        let own = std::process::id();
        thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    let roots = self.daemon.iter().copied().chain([own]);
                    most = most.max(memory_of(&roots.collect(), own));
                    thread::sleep(LOOK);
                }
                most
            });
            let started = Instant::now();
            let ended = self.steps.iter().try_for_each(|step| run(&mut again(step)));
            let seconds = started.elapsed().as_secs_f64();
            done.store(true, Ordering::Relaxed);
            let most = watching.join().expect("watching does not fail");
            ended.map(|()| (seconds, most))
        })
    }
}

/// Anonymous memory of all that descends from `roots`, in bytes, without the process `own` and the registry.
fn memory_of(roots: &BTreeSet<u32>, own: u32) -> u64 {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let is_registry = status.starts_with("Name:\tdocker-registry");
        let is_idle_daemon = status.starts_with("Name:\tcontainerd\n") && !roots.contains(&id);
        if let (Some(parent), false, false) = (field("PPid:"), is_registry, is_idle_daemon) {
            parents.insert(id, (parent as u32, field("RssAnon:").unwrap_or(0) << 10));
        }
    }
    let descends = |id: &u32| {
        let mut at = *id;
        for _ in 0..64 {
            if roots.contains(&at) {
                return true;
            }
            match parents.get(&at) {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
        false
    };
    let counted = parents.iter().filter(|(id, _)| **id != own && descends(id));
    counted.map(|(_, (_, bytes))| bytes).sum()
}

fn start_containerd(scratch: &Path) -> Result<Daemon> {
    let at = |name: &str| scratch.join(name).display().to_string();
    let mut command = Command::new("containerd");
    command.args([
        "--root",
        &at("containerd"),
        "--state",
        &at("containerd-run"),
        "--address",
        &at("containerd.sock"),
    ]);
    command.args(["--log-level", "error"]);
    let configuration = scratch.join("containerd.toml");
    // The plugin of Kubernetes would look for networks.
    fs::write(&configuration, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")
        .context("configure containerd")?;
    let started = quiet(command.arg("--config").arg(configuration)).spawn().context("start containerd")?;
    let daemon = Daemon(started);
    eventually(Duration::from_secs(20), || scratch.join("containerd.sock").exists().then_some(()))
        .context("await containerd")?;
    Ok(daemon)
}

fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// The same command once more.
fn again(template: &Command) -> Command {
    let mut command = Command::new(template.get_program());
    command.args(template.get_args());
    command
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Removes what a way has left, mounts of Podman's included.
fn forget(fresh: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let below = mounts.lines().filter_map(|line| line.split_whitespace().nth(4));
    for mount in below.filter(|mount| Path::new(mount).starts_with(fresh)) {
        let _ = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
    }
    match fs::remove_dir_all(fresh) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("remove {}", fresh.display())),
    }
}

/// Layers of small files in many directories, as packages of a language have them.
fn many_files(bench: &Bench) -> Result<String> {
    let mut random = Random(7);
    let layer = |layer: usize, random: &mut Random| -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for n in 0..FILES / FILE_LAYERS {
            let size = 512 + random.next() as usize % 8192;
            let path = format!("usr/lib/l{layer}/p{}/d{}/f{n}.txt", n / 400, n / 20 % 20);
            append(&mut archive, &path, &random.text(size))?;
        }
        archive.into_inner().context("finish a layer")
    };
    let layers = (0..FILE_LAYERS).map(|n| layer(n, &mut random)).collect::<Result<Vec<_>>>()?;
    push(bench, "many", layers)
}

/// One file, half of which does not compress, as a model or a library has it.
fn large_file(bench: &Bench) -> Result<String> {
    let mut random = Random(11);
    let mut content = random.bytes(LARGE_BYTES / 2);
    content.extend(random.text(LARGE_BYTES / 2));
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "opt/model.bin", &content)?;
    push(bench, "large", vec![archive.into_inner().context("finish a layer")?])
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, content).with_context(|| format!("add {path}"))
}

/// Pushes an image of these layers above one with busybox, compressed with gzip, and answers its name.
fn push(bench: &Bench, name: &str, layers: Vec<Vec<u8>>) -> Result<String> {
    let busybox = fs::read(fixtures::busybox_root()?.join("bin/busybox")).context("read busybox")?;
    let mut base = tar::Builder::new(Vec::new());
    append(&mut base, "bin/busybox", &busybox)?;
    append(&mut base, "bin/true", &busybox)?;
    let mut all = vec![base.into_inner().context("finish the base")?];
    all.extend(layers);
    let layout = bench.scratch.join(format!("layout-{name}"));
    fs::create_dir_all(layout.join("blobs/sha256")).context("make a layout")?;
    let blob = |bytes: &[u8], media_type: &str| -> Result<Value> {
        let hex = hex::encode(Sha256::digest(bytes));
        fs::write(layout.join("blobs/sha256").join(&hex), bytes).context("write a blob")?;
        Ok(
            json!({"mediaType": format!("{OCI}{media_type}"), "digest": format!("sha256:{hex}"), "size": bytes.len()}),
        )
    };
    let diff_ids: Vec<String> =
        all.iter().map(|layer| format!("sha256:{}", hex::encode(Sha256::digest(layer)))).collect();
    let layers = all.iter().map(|layer| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(layer).context("compress a layer")?;
        blob(&encoder.finish().context("compress a layer")?, "layer.v1.tar+gzip")
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/true"]}
    });
    let config = blob(config.to_string().as_bytes(), "config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": format!("{OCI}manifest.v1+json"), "config": config, "layers": layers
    });
    let manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json")?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).context("write a layout")?;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).context("write a layout")?;
    let target = format!("docker://{}/{name}:1", bench.registry);
    let source = format!("oci:{}", layout.display());
    let mut copy = command("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &source, &target]);
    run(&mut copy).with_context(|| shown(&copy))?;
    fs::remove_dir_all(&layout).context("remove a layout")?;
    Ok(format!("{name}:1"))
}

/// xorshift64: the same images in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count / 8 + 1).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }

    /// Words, which compress to about a third as programs do.
    fn text(&mut self, count: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(count + 16);
        while text.len() < count {
            text.extend(format!("{:x} line {} ", self.next() >> 44, self.next() % 1000).bytes());
        }
        text.truncate(count);
        text
    }
}
