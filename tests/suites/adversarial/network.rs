//! Rows 72, 81, 86 and 87: tasks that make packets of their own, that have as many connections as they can or leave them
//! behind, and that send much.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::eventually;
use neargate_tests::router::Router;
use serde_json::{Value, json};

use crate::expect::expect;
use crate::lab::{Lab, TASK_LIMIT, Task, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_72_tracked_connections", Needs::Root, row_72_tracked_connections),
    ("row_81_packets_of_ipv6", Needs::Root, row_81_packets_of_ipv6),
    ("row_86_connections_to_dead_peers", Needs::Root, row_86_connections_to_dead_peers),
    ("row_87_large_transfers", Needs::Root, row_87_large_transfers),
    ("row_87_limit_of_bandwidth", Needs::Root, row_87_limit_of_bandwidth),
];

/// Connections of one task that the router keeps: what is documented, and what may have begun at the same time.
const TRACKED: std::ops::RangeInclusive<u64> = 8_000..=8_300;
/// What a forged router advertisement offers.
const FORGED_PREFIX: &str = "2001:db8:bad";
/// Tasks that are ended while their connections have something to send to a peer that is gone.
const HOLDERS: usize = 8;
/// How long what they had may take to be given back. A connection that nobody ends is retried for minutes.
const FREED: Duration = Duration::from_secs(10);
/// What is sent in one piece, in MiB.
const TRANSFER_MIB: u64 = 8;

/// Whoever has all the connections that a task may have gets no other, and everybody else does.
fn row_72_tracked_connections() -> Result<()> {
    let lab = lab()?;
    let server = lab.start(&shell(&lab, "echo ready; exec busybox nc -ll -p 81 -e echo hello"))?;
    server.until_printed("ready")?;
    let address = address_of(&server)?;
    let flooder = lab.start(&lab.definition(&["track", &address.to_string()]))?;
    let said = flooder.until_printed("held")?;
    expect("connect once more: ETIMEDOUT", said.trim())?;
    let router = Router::of(&lab.server)?;
    let tracked = router.run(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"])?;
    ensure!(TRACKED.contains(&tracked.trim().parse()?), "the router keeps {tracked} connections");
    let said = lab.start(&shell(&lab, &format!("nc -w 5 {address} 81")))?.finish()?;
    ensure!(said.trim() == "hello", "a neighbour beside the flood: {said:?}");
    flooder.stop()?;
    server.stop()?;
    Ok(())
}

fn row_81_packets_of_ipv6() -> Result<()> {
    let lab = Lab::open_allowing(&["NET_ADMIN", "NET_RAW"])?;
    let neighbour = lab.start(&shell(&lab, "echo ready; exec sleep 1000"))?;
    neighbour.until_printed("ready")?;
    let router = Router::of(&lab.server)?;
    let host = || -> Result<String> { addresses_and_routes(&mut Command::new("ip")) };
    let inside = |task: &Task<'_>| -> Result<String> {
        let pid = task.host_pids().into_iter().next().context("a process of the task")?.to_string();
        addresses_and_routes(Command::new("nsenter").args(["-t", &pid, "-n", "ip"]))
    };
    let before = (inside(&neighbour)?, router.run(&["ip", "-6", "neigh"])?);
    let mut definition = lab.definition(&["neighbours"]);
    definition["requiresCompatibilities"] = json!(["EC2"]);
    definition["containerDefinitions"][0]["linuxParameters"] =
        json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    let said = lab.start(&definition)?.finish()?;
    ensure!(said.lines().any(|line| line == "sent"), "{said}");
    for line in said.lines().filter(|line| line.starts_with("connect to ")) {
        ensure!(!line.ends_with(": success"), "{line}");
    }
    // Somebody who is believed is believed at once.
    let after = (inside(&neighbour)?, router.run(&["ip", "-6", "neigh"])?);
    ensure!(after == before, "a neighbour or the router has changed: {before:?}, {after:?}");
    for seen in [after.0, host()?, router.run(&["ip", "-6", "addr"])?, router.run(&["ip", "-6", "route"])?] {
        ensure!(!seen.contains(FORGED_PREFIX), "somebody believes a task that says it is a router: {seen}");
    }
    neighbour.stop()?;
    Ok(())
}

/// Addresses and routes of IPv6, of the network in which `ip` is run, without how long they are still good.
fn addresses_and_routes(ip: &mut Command) -> Result<String> {
    let script = ["-6", "-brief", "addr", "show"];
    let (program, arguments) =
        (ip.get_program().to_owned(), ip.get_args().map(ToOwned::to_owned).collect::<Vec<_>>());
    let mut routes = Command::new(program);
    routes.args(arguments).args(["-6", "route", "show", "table", "all"]);
    let addresses = ip.args(script).output().context("list addresses")?;
    let routes = routes.output().context("list routes")?;
    ensure!(addresses.status.success() && routes.status.success(), "{addresses:?} {routes:?}");
    Ok(String::from_utf8_lossy(&[addresses.stdout, routes.stdout].concat()).into_owned())
}

/// A definition of a task with an interface whose container runs a script.
fn shell(lab: &Lab, script: &str) -> Value {
    let mut definition = lab.definition(&[]);
    definition["containerDefinitions"][0]["entryPoint"] = json!(["sh", "-c", script]);
    definition["containerDefinitions"][0]["stopTimeout"] = json!(1);
    definition
}

fn row_86_connections_to_dead_peers() -> Result<()> {
    let (lab, ()) = Lab::open_on(|_: &Path| Ok(()))?;
    let first = lab.start(&lab.definition(&["deaf-peer"]))?;
    first.until_printed("ready")?;
    let router = Router::of(&lab.server)?;
    let counted = || -> Result<[usize; 2]> {
        let elements = router.run(&["nft", "list", "map", "inet", "neargate", "policies"])?;
        Ok([router.lines(&["ip", "route", "show"])?, elements.matches(" : 0x").count()])
    };
    let before = counted()?;
    let peer = lab.start(&lab.definition(&["deaf-peer"]))?;
    peer.until_printed("ready")?;
    let to = format!("{}:80", address_of(&peer)?);
    let holders: Vec<Task<'_>> =
        (0..HOLDERS).map(|_| lab.start(&lab.definition(&["hold-peer", &to]))).collect::<Result<_>>()?;
    for holder in &holders {
        let said = holder.until_printed("held")?;
        ensure!(said == "connections: 4", "{said}");
    }
    // It goes without a word, and so do they: nobody answers what they have not sent yet.
    for task in std::iter::once(&peer).chain(&holders) {
        for pid in task.host_pids() {
            let pid =
                i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    for task in std::iter::once(&peer).chain(&holders) {
        task.until_stopped()?;
    }
    let is_free = || (counted().ok()? == before).then_some(());
    let free = eventually(FREED, is_free);
    ensure!(free.is_some(), "before {before:?}, {FREED:?} after their end {:?}", counted()?);
    // A network that is used again has nothing of who had it before.
    for _ in 0..HOLDERS {
        let next = lab.start(&lab.definition(&["deaf-peer"]))?;
        next.until_printed("ready")?;
        let sockets = sockets_beside(&next)?;
        ensure!(sockets == 1, "a task that listens has {sockets} sockets in its network");
        next.stop()?;
    }
    first.stop()?;
    Ok(())
}

/// How many sockets of TCP are in a task's network (proc(5), `/proc/net/tcp`).
fn sockets_beside(task: &Task<'_>) -> Result<usize> {
    let pid = task.host_pids().into_iter().next().context("a process of the task")?;
    let path = format!("/proc/{pid}/net/tcp");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // Below a line of titles.
    Ok(text.lines().count() - 1)
}

/// The address of a task's interface.
fn address_of(task: &Task<'_>) -> Result<Ipv4Addr> {
    let shown = task.describe()?;
    let address = shown["containers"][0]["networkInterfaces"][0]["privateIpv4Address"].as_str();
    address.and_then(|address| address.parse().ok()).with_context(|| format!("find the address in {shown}"))
}

/// What is sent in full packets arrives, also where the way gets narrower beyond the host: the task hears of it.
fn row_87_large_transfers() -> Result<()> {
    let lab = lab()?;
    let count = "busybox nc -ll -p 81 -e busybox wc -c";
    let server = lab.start(&shell(&lab, &format!("echo ready; exec {count}")))?;
    server.until_printed("ready")?;
    let beyond = Beyond::open()?;
    for address in [address_of(&server)?, Beyond::ADDRESS] {
        let send = format!(
            "for i in 1 2 3 4 5; do dd if=/dev/zero bs=1M count={TRANSFER_MIB} 2>/dev/null | nc -w 20 {address} 81 && exit; sleep 0.2; done"
        );
        let said = lab.start(&shell(&lab, &send))?.finish()?;
        ensure!(said.trim() == (TRANSFER_MIB << 20).to_string(), "to {address}: {said:?}");
    }
    drop(beyond);
    server.stop()?;
    Ok(())
}

/// A task that may send a megabyte a second sends no tenth more, but for the second's worth that passes at once.
fn row_87_limit_of_bandwidth() -> Result<()> {
    const SENT_BYTES: u32 = 6_000_000;
    const BYTES_PER_S: f64 = 1_000_000.0;
    let lab = lab()?;
    let server = lab.start(&shell(&lab, "echo ready; exec busybox nc -ll -p 81 -e busybox wc -c"))?;
    server.until_printed("ready")?;
    let now = "cut -d ' ' -f 1 /proc/uptime";
    let send = format!("head -c {SENT_BYTES} /dev/zero | nc -w 30 {} 81", address_of(&server)?);
    let mut definition = shell(&lab, &format!("{now}; {send}; {now}"));
    definition["containerDefinitions"][0]["dockerLabels"] = json!({"neargate.network-mbps": "8"});
    let said = lab.start(&definition)?.finish()?;
    let numbers: Vec<f64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let [begun, counted, ended] = numbers[..] else { anyhow::bail!("{said:?}") };
    ensure!(counted == f64::from(SENT_BYTES), "{said:?}");
    let seconds = ended - begun;
    let least = (f64::from(SENT_BYTES) - BYTES_PER_S) / (1.1 * BYTES_PER_S);
    ensure!(seconds > least, "{SENT_BYTES} bytes in {seconds} s instead of {least:.1} at least");
    ensure!(seconds < 4.0 * least, "{SENT_BYTES} bytes took {seconds} s: the task gets far less than it may");
    server.stop()?;
    Ok(())
}

/// A network beyond the host, behind a link that takes no packet of full size, and somebody there who counts bytes.
struct Beyond(Child);

impl Beyond {
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    const LINK: &str = "ngnarrow";

    fn open() -> Result<Self> {
        let server = ["busybox", "nc", "-ll", "-p", "81", "-e", "busybox", "wc", "-c"];
        let child = Command::new("unshare").arg("-n").args(server).stdout(Stdio::null()).spawn();
        let beyond = Self(child.context("run a server in a network of its own")?);
        let pid = beyond.0.id().to_string();
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let has_left = || (network(&pid)? != network("self")?).then_some(());
        eventually(TASK_LIMIT, has_left).context("the server has no network of its own")?;
        let link = Self::LINK;
        ip(&format!("link add {link} mtu 1280 type veth peer name eth0 mtu 1280 netns {pid}"), None)?;
        ip(&format!("addr add 203.0.113.1/30 dev {link}"), None)?;
        ip(&format!("link set {link} up"), None)?;
        ip("addr add 203.0.113.2/30 dev eth0", Some(&pid))?;
        ip("link set eth0 up", Some(&pid))?;
        Ok(beyond)
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        // Gone with the other end a moment later otherwise.
        let _ = Command::new("ip").args(["link", "del", Self::LINK]).stderr(Stdio::null()).status();
    }
}

/// Runs `ip`, in the network of a process if one is named.
fn ip(arguments: &str, inside: Option<&str>) -> Result<()> {
    let mut command = Command::new(if inside.is_some() { "nsenter" } else { "ip" });
    if let Some(pid) = inside {
        command.args(["-t", pid, "-n", "ip"]);
    }
    let status =
        command.args(arguments.split(' ')).status().with_context(|| format!("run ip {arguments}"))?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}
