//! The options of `neargate run`, and the task that they describe.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use neargate_model::{
    ContainerDefinition, ContainerName, IpcMode, MountPoint, NetworkMode, PidMode, PortMapping, PortProtocol,
    TaskShape, Volume, WasmIsolation, WasmOptions,
};

use super::container::ContainerArgs;
use super::image::RunPull;

/// How long a task without `--timeout` may run.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Seconds that the task has to end after it was asked to.
const STOP_TIMEOUT_S: u32 = 10;

/// What a handler behind `--http` calls its own port, which nobody sees. It is another one than the host's, for
/// `--http` is not for programs that listen by themselves.
const HTTP_PORTS: [u16; 2] = [80, 8080];

/// Options of `neargate run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// A Wasm file, or the name of an image: one in the store, or else of a registry.
    pub(crate) image: String,
    /// When the image is pulled from its registry.
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: RunPull,
    /// Arguments of the task, after `--`.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// A variable of its environment; may be repeated. NAME alone takes this environment's value.
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A directory it may use; may be repeated.
    #[arg(long, value_name = "HOST:GUEST[:ro]")]
    dir: Vec<String>,
    /// CPU units it may use, 1024 a core.
    #[arg(long, value_name = "UNITS")]
    cpu: Option<u32>,
    /// Memory it may use, in MiB.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Seconds it may run; after that it is killed and the exit code is 124.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// The program to run instead of the image's.
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// The user to run as, `user[:group]`.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Its working directory.
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// Make its root file system read-only.
    #[arg(long)]
    read_only: bool,
    /// Its network: `task` is one of its own with the loopback device alone; `host` is for Wasm.
    #[arg(long, value_enum, default_value = "task")]
    net: Net,
    /// Say nothing but what the task says.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// When it has ended, write one line of JSON about it to stderr.
    #[arg(long)]
    pub(crate) json: bool,
    /// Data directory, for its images and compiled code.
    #[arg(long, env = "NEARGATE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    pub(crate) wasm: WasmArgs,
}

/// Options that only Wasm images have.
#[derive(Args, Debug)]
#[command(next_help_heading = "Wasm")]
pub(crate) struct WasmArgs {
    /// Answer HTTP requests (wasi:http) at this address until interrupted; port 0 takes any free one.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) http: Option<SocketAddr>,
    /// Call this exported function; the arguments after `--` are JSON values, and so is its result.
    #[arg(long, value_name = "NAME", conflicts_with = "http")]
    invoke: Option<String>,
    /// How far from others it runs.
    #[arg(long, value_enum)]
    isolation: Option<Isolation>,
    /// An interface beyond the usual that it may use; may be repeated.
    #[arg(long, value_name = "NAME", value_parser = WasmOptions::GRANTS)]
    grant: Vec<String>,
    /// What wasi:config tells it; may be repeated. Grants wasi:config.
    #[arg(long, value_name = "NAME=VALUE")]
    config: Vec<String>,
    /// Let an instance answer up to this many requests; each gets a fresh one otherwise.
    #[arg(long, value_name = "COUNT", requires = "http", value_parser = clap::value_parser!(u32).range(1..=i64::from(WasmOptions::REUSE_MAX)))]
    reuse: Option<u32>,
    /// Seconds of CPU time after which it is ended.
    #[arg(long, value_name = "SECONDS")]
    cpu_budget: Option<f64>,
    /// Write a profile for the Firefox Profiler to this file.
    #[arg(long, value_name = "FILE", conflicts_with = "http")]
    pub(crate) profile: Option<PathBuf>,
    /// If it traps, write a core dump to this file; with --http that of the first request that trapped.
    #[arg(long, value_name = "FILE")]
    pub(crate) core_dump: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Net {
    Task,
    None,
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Isolation {
    /// Beside other tasks in one process.
    Shared,
    /// On a thread of its own, in a cgroup of its own; needs root.
    Thread,
    /// In a process of its own, in a cgroup of its own; needs root.
    Process,
}

impl RunArgs {
    /// Refuses what does not go together, as far as it can be told before the task runs.
    pub(crate) fn check(&self, is_wasm: bool) -> Result<()> {
        if !is_wasm {
            return self.check_layers();
        }
        if let Some(option) = self.container.given() {
            bail!("{option} is for containers, and {} is Wasm", self.image);
        }
        if self.wasm.invoke.is_some() {
            check_values(&self.args)?;
        }
        for (option, path) in [("--profile", &self.wasm.profile), ("--core-dump", &self.wasm.core_dump)] {
            if let Some(path) = path {
                check_target(option, path)?;
            }
        }
        Ok(())
    }

    fn check_layers(&self) -> Result<()> {
        if self.net == Net::Host {
            bail!(
                "--net host is not supported for containers: a container has a network namespace of its own"
            );
        }
        let wasm = &self.wasm;
        let given = [
            ("--http", wasm.http.is_some()),
            ("--invoke", wasm.invoke.is_some()),
            ("--isolation", wasm.isolation.is_some()),
            ("--grant", !wasm.grant.is_empty()),
            ("--config", !wasm.config.is_empty()),
            ("--cpu-budget", wasm.cpu_budget.is_some()),
            ("--profile", wasm.profile.is_some()),
            ("--core-dump", wasm.core_dump.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => bail!("{option} is for Wasm images, and {} is none", self.image),
            None => Ok(()),
        }
    }

    /// How long the task may run.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>> {
        self.timeout.map(|seconds| duration("--timeout", seconds)).transpose()
    }

    /// Whether it needs a sandbox although it is Wasm.
    pub(crate) fn needs_sandbox(&self) -> bool {
        matches!(self.wasm.isolation, Some(Isolation::Thread | Isolation::Process))
    }

    /// Whether the task runs in a worker of its tenant that has neither directories nor the host's network.
    pub(crate) fn shares_worker(&self) -> bool {
        self.dir.is_empty() && self.net != Net::Host && !self.needs_sandbox()
    }

    /// Whether a container runs although nothing enforces its limits.
    pub(crate) fn without_limits(&self) -> bool {
        self.container.without_limits()
    }

    /// The task of this command; what is only about Wasm is left out of a container's.
    pub(crate) fn shape(&self, is_wasm: bool) -> Result<TaskShape> {
        let dirs = self.dir.iter().enumerate().map(|(index, text)| directory(index, text));
        let (volumes, mount_points) = dirs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(TaskShape {
            containers: vec![self.container(mount_points, is_wasm)?],
            volumes,
            network_mode: if self.net == Net::None { NetworkMode::None } else { NetworkMode::Bridge },
            cpu_units: self.cpu,
            memory_mib: Some(self.memory.unwrap_or_else(memory_mib_default)),
            ephemeral_storage_gib: self.container.storage_gib(),
            timeout_s: None,
            network_mbps: None,
            pid_mode: PidMode::default(),
            ipc_mode: IpcMode::default(),
            task_role: None,
        })
    }

    fn container(&self, mount_points: Vec<MountPoint>, is_wasm: bool) -> Result<ContainerDefinition> {
        let mut definition = ContainerDefinition {
            name: ContainerName::new("task")?,
            image: self.image.clone(),
            cpu_units: 0,
            memory_mib: None,
            memory_reservation_mib: None,
            essential: true,
            entry_point: self.entrypoint.clone().map(|program| vec![program]),
            command: (!self.args.is_empty()).then(|| self.args.clone()),
            environment: self.env.iter().map(|text| variable(text)).collect::<Result<Vec<_>>>()?,
            working_directory: self.workdir.clone(),
            user: self.user.clone(),
            depends_on: Vec::new(),
            health_check: None,
            start_timeout_s: None,
            stop_timeout_s: Some(STOP_TIMEOUT_S),
            restart_policy: None,
            ulimits: Vec::new(),
            read_only_root: self.read_only,
            mount_points,
            log: None,
            init: false,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            privileged: false,
            devices: Vec::new(),
            tmpfs: Vec::new(),
            shared_memory_mib: None,
            swap_mib: None,
            swappiness: None,
            port_mappings: self.wasm.http.iter().map(mapping).collect(),
            links: Vec::new(),
            hostname: None,
            extra_hosts: Vec::new(),
            dns_servers: Vec::new(),
            dns_search_domains: Vec::new(),
            wasm: if is_wasm { self.wasm_options()? } else { WasmOptions::default() },
        };
        self.container.apply(&mut definition)?;
        Ok(definition)
    }

    fn wasm_options(&self) -> Result<WasmOptions> {
        let args = &self.wasm;
        let config = args.config.iter().map(|text| pair("--config", text)).collect::<Result<Vec<_>>>()?;
        let mut grants = args.grant.clone();
        if !config.is_empty() {
            grants.push("wasi:config".to_owned());
        }
        grants.sort();
        grants.dedup();
        Ok(WasmOptions {
            isolation: match args.isolation {
                None | Some(Isolation::Shared) => WasmIsolation::Shared,
                Some(Isolation::Thread) => WasmIsolation::Thread,
                Some(Isolation::Process) => WasmIsolation::Process,
            },
            export: args.invoke.clone(),
            reuse: args.reuse,
            grants,
            config,
            cpu_budget_ms: args.cpu_budget.map(cpu_budget_ms).transpose()?,
            host_network: self.net == Net::Host,
            no_network: false,
            no_core_dump: args.core_dump.is_none(),
            profile: args.profile.is_some(),
        })
    }
}

fn mapping(address: &SocketAddr) -> PortMapping {
    let [usual, other] = HTTP_PORTS;
    let container_port = if address.port() == usual { other } else { usual };
    PortMapping {
        protocol: PortProtocol::Tcp,
        container_port,
        more_ports: 0,
        host_port: Some(address.port()),
        name: None,
    }
}

fn duration(option: &str, seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && duration < FOR_EVER => Ok(duration),
        _ => bail!("{option} must be a number of seconds above 0, not {seconds}"),
    }
}

/// Milliseconds; a budget below one is one.
fn cpu_budget_ms(seconds: f64) -> Result<u64> {
    let ms = duration("--cpu-budget", seconds)?.as_millis();
    Ok(u64::try_from(ms).unwrap_or(u64::MAX).clamp(1, WasmOptions::CPU_BUDGET_MS_MAX))
}

/// The arguments of a called function are JSON; a word that is none is most often text without its quotes.
fn check_values(values: &[String]) -> Result<()> {
    for (index, value) in values.iter().enumerate() {
        if let Err(error) = serde_json::from_str::<serde_json::Value>(value) {
            bail!(
                "argument {} of the function, {value:?}, is not JSON: {error}; write text with its quotes, '\"text\"'",
                index + 1
            );
        }
    }
    Ok(())
}

/// A file that is written only after the task has ended must not fail for its directory then.
fn check_target(option: &str, path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        bail!("{option} {}: the directory {} does not exist", path.display(), dir.display());
    }
    if path.is_dir() {
        bail!("{option} {}: it is a directory; name a file", path.display());
    }
    Ok(())
}

/// Memory a task may use when `--memory` says nothing: the machine's, because someone waits for it here.
fn memory_mib_default() -> u32 {
    let mib = rustix::system::sysinfo().totalram as u64 / (1 << 20);
    u32::try_from(mib).unwrap_or(u32::MAX)
}

fn pair(option: &str, text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => bail!("{option} {text}: say NAME=VALUE"),
    }
}

fn variable(text: &str) -> Result<(String, String)> {
    if text.is_empty() || text.contains('=') {
        return pair("--env", text);
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(_) => bail!("--env {text}: this environment has no such variable; say NAME=VALUE"),
    }
}

fn directory(index: usize, text: &str) -> Result<(Volume, MountPoint)> {
    let (rest, read_only) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let Some((host, guest)) =
        rest.split_once(':').filter(|(host, guest)| !host.is_empty() && guest.starts_with('/'))
    else {
        bail!("--dir {text}: say HOST:GUEST or HOST:GUEST:ro, GUEST being an absolute path");
    };
    let host = std::fs::canonicalize(host).with_context(|| format!("use --dir {text}"))?;
    let name = format!("dir-{index}");
    let volume =
        Volume { name: name.clone(), host_path: Some(host.to_string_lossy().into_owned()), shared: None };
    Ok((volume, MountPoint { volume: name, container_path: guest.to_owned(), read_only }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(words: &str) -> Result<RunArgs, String> {
        let words = std::iter::once("run").chain(words.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    fn wasm(words: &str) -> Result<ContainerDefinition, String> {
        let args = parse(words)?;
        args.check(true).map_err(|error| error.to_string())?;
        let shape = args.shape(true).map_err(|error| error.to_string())?;
        Ok(shape.containers.into_iter().next().unwrap())
    }

    #[test]
    fn directories() {
        let check = |text: &str, expect: Option<(&str, bool)>| {
            let found = directory(0, text).ok();
            let found = found.as_ref().map(|(_, mount)| (mount.container_path.as_str(), mount.read_only));
            assert_eq!(found, expect, "{text}");
        };
        check("/tmp:/data", Some(("/data", false)));
        check("/tmp:/data:ro", Some(("/data", true)));
        check("/tmp", None);
        check(":/data", None);
        check("/tmp:data", None);
        check("/does/not/exist:/data", None);
    }

    #[test]
    fn seconds() {
        let check = |seconds, expect| assert_eq!(duration("--timeout", seconds).is_ok(), expect, "{seconds}");
        check(0.5, true);
        check(0.0, false);
        check(-1.0, false);
        check(f64::NAN, false);
        check(1e300, false);
        assert_eq!(cpu_budget_ms(0.0001).unwrap(), 1);
        assert_eq!(cpu_budget_ms(1.5).unwrap(), 1500);
    }

    #[test]
    fn a_container_has_no_options_for_wasm() {
        let shape = parse("busybox -- true").unwrap().shape(false).unwrap();
        assert_eq!(shape.containers[0].wasm, WasmOptions::default());
    }

    #[test]
    fn options_for_containers() {
        let args = parse("busybox --shm-size 8 --tmpfs /t:2 --ulimit nofile=9 -- true").unwrap();
        let container = args.shape(false).unwrap().containers.remove(0);
        assert_eq!((container.shared_memory_mib, container.tmpfs[0].size_mib), (Some(8), 2));
        assert_eq!((container.ulimits[0].soft, container.ulimits[0].hard), (9, 9));
    }

    #[test]
    fn options_for_wasm() {
        let check = |words: &str, expect: WasmOptions| {
            let expect = WasmOptions { no_core_dump: expect.no_core_dump, ..expect };
            assert_eq!(wasm(words).unwrap().wasm, expect, "{words}");
        };
        let plain = || WasmOptions { no_core_dump: true, ..WasmOptions::default() };
        check("x.wasm", plain());
        check("x.wasm --isolation thread", WasmOptions { isolation: WasmIsolation::Thread, ..plain() });
        check("x.wasm --net host", WasmOptions { host_network: true, ..plain() });
        check("x.wasm --core-dump core", WasmOptions { no_core_dump: false, ..plain() });
        check("x.wasm --profile p.json", WasmOptions { profile: true, ..plain() });
        check("x.wasm --invoke add -- 1 2", WasmOptions { export: Some("add".to_owned()), ..plain() });
        let grants = vec!["wasi:config".to_owned(), "wasi:keyvalue".to_owned()];
        check(
            "x.wasm --grant wasi:keyvalue --config a=b=c",
            WasmOptions { grants, config: vec![("a".to_owned(), "b=c".to_owned())], ..plain() },
        );
        check("x.wasm --http 127.0.0.1:0 --reuse 9", WasmOptions { reuse: Some(9), ..plain() });
        check("x.wasm --cpu-budget 2", WasmOptions { cpu_budget_ms: Some(2000), ..plain() });
    }

    #[test]
    fn an_address_is_a_port_mapping() {
        let check = |address: &str, expect: (u16, u16)| {
            let container = wasm(&format!("x.wasm --http {address}")).unwrap();
            let mapping = &container.port_mappings[0];
            assert_eq!((mapping.container_port, mapping.host_port), (expect.0, Some(expect.1)));
        };
        check("127.0.0.1:0", (80, 0));
        check("[::1]:8080", (80, 8080));
        check("127.0.0.1:80", (8080, 80));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let check = |words: &str, expect: &str| {
            let message = wasm(words).unwrap_err();
            assert!(message.contains(expect), "{words}: {message}");
        };
        check("x.wasm --http 127.0.0.1:0 --invoke add", "cannot be used with");
        check("x.wasm --reuse 5", "--http");
        check("x.wasm --http 127.0.0.1:0 --reuse 0", "0 is not in 1..=1000000");
        check("x.wasm --http localhost", "invalid socket address");
        check("x.wasm --grant wasi:nn", "wasi:keyvalue");
        check("x.wasm --config novalue", "say NAME=VALUE");
        check("x.wasm --isolation vm", "possible values");
        check("x.wasm --invoke greet -- world", "write text with its quotes");
        check("x.wasm --cpu-budget 0", "--cpu-budget must be");
        check("x.wasm --core-dump /does/not/exist/core", "the directory /does/not/exist does not exist");
        check("x.wasm --profile /tmp", "it is a directory");
        check("x.wasm --shm-size 8", "--shm-size is for containers");
        check("x.wasm --ulimit nofile=9", "--ulimit is for containers");
        for option in
            ["--http 127.0.0.1:0", "--invoke f", "--isolation shared", "--grant wasi:p3", "--net host"]
        {
            let error = parse(&format!("busybox {option}")).unwrap().check(false).unwrap_err();
            assert!(error.to_string().starts_with(option.split(' ').next().unwrap()), "{error}");
        }
    }
}
