//! `neargate doctor`: what this machine can run, what is missing, and how to get it.

mod ordinary;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use neargate_container::{Fences, Launcher, Policy, Role, Roles};
use neargate_control::DiskRoom;
use serde::Serialize;

use crate::client::{Output, table};
use crate::data_dir;
use crate::disk::Space;
use crate::firewall;
use crate::policy;

/// How long the launcher may take to say which fences there are.
const FENCES_LIMIT: Duration = Duration::from_secs(5);

/// The oldest kernel that containers are tested on: cgroup.kill and idmapped overlay layers are older.
const KERNEL_MIN: (u32, u32) = (6, 1);

/// Options of `neargate doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// How to print.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// A policy file to check, as for `neargate serve`, and to say what it allows.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Data directory to check.
    #[arg(long, env = "NEARGATE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    found: String,
    hint: String,
}

fn check(name: &'static str, status: Status, found: impl Into<String>, hint: &str) -> Check {
    let hint = if status == Status::Ok { String::new() } else { hint.to_owned() };
    Check { check: name, status, found: found.into(), hint }
}

fn require(name: &'static str, is_there: bool, found: impl Into<String>, hint: &str) -> Check {
    check(name, if is_there { Status::Ok } else { Status::Fail }, found, hint)
}

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let data = args.data.clone().unwrap_or_else(data_dir::default_path);
    let uid = rustix::process::geteuid();
    let mut checks = if uid.is_root() { checks_of_root() } else { ordinary::checks() };
    checks.extend([
        kernel(),
        user_namespaces(),
        overlay(),
        seccomp(),
        packet_filter(),
        memory(),
        space(&data),
        loopback_port(),
    ]);
    checks.extend(wasm_fences());
    checks.extend(args.policy.as_deref().into_iter().flat_map(policy_file));
    let mut out = std::io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&checks)?)?,
        Output::Table => {
            let word = |status| match status {
                Status::Ok => "ok",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            let row = |c: &Check| {
                vec![word(c.status).to_owned(), c.check.to_owned(), c.found.clone(), c.hint.clone()]
            };
            let rows: Vec<_> = checks.iter().map(row).collect();
            write!(out, "{}", table(&["", "CHECK", "FOUND", "WHAT TO DO"], &rows))?;
            let containers = checks.iter().all(|check| check.status != Status::Fail);
            writeln!(out)?;
            writeln!(out, "Wasm tasks can run here.")?;
            let verdict = match (containers, uid.is_root()) {
                (true, true) => "can run here.",
                (true, false) => "can run here, without root: what they lack is told above.",
                (false, _) => "cannot run here; see what FAILs above.",
            };
            writeln!(out, "Container tasks {verdict}")?;
        }
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn checks_of_root() -> Vec<Check> {
    let root = check("root", Status::Ok, "uid 0", "");
    vec![root, cgroups(), cgroup_controllers(), device_fence(), forwarding()]
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    require("kernel", version >= KERNEL_MIN, release, "use Linux 6.1 or newer for container tasks")
}

fn user_namespaces() -> Check {
    let max = read_number("/proc/sys/user/max_user_namespaces").unwrap_or(0);
    let hint = "set sysctl user.max_user_namespaces to 10000 or more";
    require("user namespaces", max > 0, format!("up to {max}"), hint)
}

fn overlay() -> Check {
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let is_there = filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    let found = if is_there { "overlay" } else { "no overlay" };
    require("overlay file system", is_there, found, "load it with `modprobe overlay`")
}

fn seccomp() -> Check {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let is_there = actions.contains("kill_process") && actions.contains("errno");
    let found = if is_there { "filters" } else { "none" };
    require("seccomp", is_there, found, "use a kernel with CONFIG_SECCOMP_FILTER")
}

/// What a policy file allows, a line for each kind; a warning each, because all of it weakens isolation.
fn policy_file(path: &Path) -> Vec<Check> {
    let hint = "it weakens isolation; SECURITY.md says how far";
    match policy::read(path) {
        Ok(policy) => {
            let allowed = policy::describe(&policy);
            if allowed.is_empty() {
                return vec![check("policy", Status::Ok, "nothing beyond the usual", hint)];
            }
            allowed.into_iter().map(|one| check("policy allows", Status::Warn, one, hint)).collect()
        }
        Err(error) => vec![check("policy", Status::Fail, format!("{error:#}"), "correct the file")],
    }
}

/// `(v2 root, v1 controllers)` as mounted.
fn hierarchies() -> (Option<String>, Vec<String>) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let (mut unified, mut controllers) = (None, Vec::new());
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields.as_slice() {
            [_, path, "cgroup2", ..] => unified = Some((*path).to_owned()),
            [_, _, "cgroup", options, ..] => controllers.extend(options.split(',').map(str::to_owned)),
            _ => {}
        }
    }
    (unified, controllers)
}

fn cgroups() -> Check {
    let (unified, v1) = hierarchies();
    let found = match (&unified, v1.is_empty()) {
        (Some(path), true) => format!("v2 at {path}"),
        (Some(path), false) => format!("hybrid, v2 at {path}"),
        (None, false) => "v1".to_owned(),
        (None, true) => "none".to_owned(),
    };
    require("cgroups", unified.is_some() || !v1.is_empty(), found, "mount cgroup2 at /sys/fs/cgroup")
}

fn cgroup_controllers() -> Check {
    let (unified, mut controllers) = hierarchies();
    if let Some(path) = unified {
        let v2 = fs::read_to_string(Path::new(&path).join("cgroup.controllers")).unwrap_or_default();
        controllers.extend(v2.split_whitespace().map(str::to_owned));
    }
    let wanted = ["cpu", "memory", "pids"];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|name| !controllers.iter().any(|have| have == name)).collect();
    let found = if missing.is_empty() { wanted.join(" ") } else { format!("no {}", missing.join(", ")) };
    let hint = "enable the controllers on the kernel's command line; limits are not enforced without them";
    require("cgroup controllers", missing.is_empty(), found, hint)
}

fn device_fence() -> Check {
    let hint = "containers have no device nodes and cannot make any; a kernel with CONFIG_CGROUP_BPF, or cgroup v1's \
                devices controller, adds a second fence";
    match neargate_container::device_fence() {
        Ok(found) => check("device rules", Status::Ok, found, hint),
        Err(error) => check("device rules", Status::Warn, format!("none: {error}"), hint),
    }
}

/// Whether tasks reach what is beyond this host.
fn forwarding() -> Check {
    match firewall::drops_forwarded() {
        Some(true) => check("forwarding", Status::Warn, "iptables drops what is forwarded", firewall::HINT),
        Some(false) => check("forwarding", Status::Ok, "iptables lets packets of tasks through", ""),
        None => check("forwarding", Status::Ok, "no iptables that could be asked", ""),
    }
}

/// What tasks with an interface need.
fn packet_filter() -> Check {
    let hint = "container tasks of network modes awsvpc, which all of Fargate have, and bridge need it: install nftables";
    let places = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft", "/usr/local/sbin/nft"];
    match places.into_iter().find(|place| Path::new(place).exists()) {
        Some(place) => check("packet filter", Status::Ok, place, hint),
        None => check("packet filter", Status::Warn, "nft was not found", hint),
    }
}

/// The fences of the processes that run Wasm, asked of a launcher as `run` and `serve` have one. Those that do
/// not depend on the machine (no capabilities, seccomp, resource limits) are not told.
fn wasm_fences() -> Vec<Check> {
    let fences = match look_at_fences() {
        Ok(fences) => fences,
        Err(error) => {
            let found = format!("{error:#}");
            return vec![check("Wasm fences", Status::Warn, found, "Wasm tasks need processes of their own")];
        }
    };
    let one = |name, missing: Option<std::io::Error>, there: &str, hint| match missing {
        None => check(name, Status::Ok, there, hint),
        Some(error) => check(name, Status::Warn, format!("none: {error}"), hint),
    };
    let landlock = match fences.landlock_abi {
        0 => check(
            "Wasm: Landlock",
            Status::Warn,
            "none",
            "use a kernel with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list",
        ),
        abi => check("Wasm: Landlock", Status::Ok, format!("version {abi}"), ""),
    };
    vec![
        one(
            "Wasm: namespaces",
            fences.namespaces,
            "user, pid, mount, network, ipc, uts",
            "allow user namespaces to this user, or start `neargate` as root",
        ),
        one(
            "Wasm: cgroup",
            fences.cgroup,
            "a cgroup for each worker",
            "start `neargate` as root; without it wasmtime alone limits the memory of Wasm",
        ),
        landlock,
    ]
}

fn look_at_fences() -> Result<Fences> {
    // No process is started, so that the roles are never played.
    let nothing: Role = |_, _| 0;
    let launcher =
        Launcher::fork(Roles::new(nothing, nothing), Policy::default()).context("start the launcher")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let fences = tokio::time::timeout(FENCES_LIMIT, launcher.fences()).await;
        launcher.shut_down().await;
        fences.context("wait for the launcher")?.context("ask the launcher")
    })
}

fn memory() -> Check {
    let info = rustix::system::sysinfo();
    let mib = info.totalram as u64 / (1 << 20);
    let status = if mib >= 512 { Status::Ok } else { Status::Warn };
    check("memory", status, format!("{mib} MiB"), "512 MiB is the least that a Fargate-sized task asks for")
}

fn space(data: &Path) -> Check {
    let existing = data.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let Ok(space) = Space::of(existing) else {
        return check(
            "data directory",
            Status::Warn,
            existing.display().to_string(),
            "it cannot be looked at",
        );
    };
    let (free_mib, low_mib) = (space.free_bytes >> 20, space.low_bytes() >> 20);
    let (status, what) = match space.room() {
        DiskRoom::Ample => (Status::Ok, "tasks are accepted down to"),
        DiskRoom::Low => (Status::Warn, "no task is accepted below"),
        DiskRoom::Full => (Status::Warn, "nothing new is accepted, and no task below"),
    };
    let found = format!("{} with {free_mib} MiB free; {what} {low_mib} MiB", data.display());
    check("data directory", status, found, "free some space, or name another directory with --data")
}

fn loopback_port() -> Check {
    let address = "127.0.0.1:7878";
    match std::net::TcpListener::bind(address) {
        Ok(_) => check("port", Status::Ok, format!("{address} is free"), ""),
        Err(error) => check(
            "port",
            Status::Warn,
            format!("{address}: {error}"),
            "a server may be running already; choose another port with --listen",
        ),
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
