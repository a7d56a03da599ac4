//! What the network of tasks bears, beside a bare pair of links and the bridges of others, and what changes to it take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use neargate_model::{Cidr, Peer, SecurityGroupId, SecurityGroupRules, SecurityRule, Traffic};
use neargate_network::rules::{Picture, Policy, PolicyId};
use neargate_tests::client::Api;
use neargate_tests::leaks::descendants;
use neargate_tests::{Client, Server, eventually, fixtures, is_root};
use serde_json::json;

use super::floor::Binary;
use super::{CLUSTER, PEER_LIMITS, engine, is_present, prepare, prepare_with};
use crate::shell::run;
use crate::statistics::Figures;

const SOURCE: &str = include_str!("netload.c");
/// Where the program listens.
const PORT: &str = "7900";
/// Round trips, and MiB that are sent.
const ROUND_TRIPS: &str = "5000";
const MIB: &str = "512";
/// Answers of the metadata and of the resolver that are waited for.
const ASKED: &str = "500";
/// Tasks of the group whose rule changes.
const MEMBERS: u32 = 10_000;
/// Changes of it.
const CHANGES: usize = 10;
/// How long a task may take to run, and a server to listen.
const LIMIT: Duration = Duration::from_secs(30);
/// Tasks that use up what is made ahead.
const BURST: u32 = 10;
const BURSTS: u32 = 6;

/// Round trips and throughput between tasks, from the host, and where nothing is between two ends.
pub(super) fn traffic() -> Result<Figures> {
    ensure!(is_root(), "a network of tasks is made by root only");
    let program = Binary::build("netload", SOURCE)?;
    let server = Server::start()?;
    let tasks = Tasks::start(&server, &program)?;
    let inside = |arguments: &[&str]| -> Result<String> {
        let command = [&["exec", &tasks.asker, "--", "/bin/netload"], arguments].concat();
        output(&mut server.command(&command))
    };
    let outside = |arguments: &[&str]| output(Command::new(program.path()).args(arguments));
    let mut rows = vec![
        figures("task to task", &tasks.address, &inside)?,
        figures("host to task", &tasks.address, &outside)?,
    ];
    for (name, kind, address, port) in
        [("the metadata", "get", "169.254.170.2", "80"), ("the resolver", "name", "169.254.169.253", "53")]
    {
        // Half of the round trips of a start: who asks faster is throttled.
        match inside(&[kind, address, port, ASKED]) {
            Ok(text) => rows.push((format!("task to {name}"), [numbers(&text)?, vec![f64::NAN]].concat())),
            Err(error) => println!("{name} is left out: {error:#}"),
        }
    }
    rows.push(bare_veth(&program)?);
    for peer in ["podman", "docker"] {
        if is_present(peer) {
            rows.extend(
                bridge(peer, &program).inspect_err(|error| println!("{peer} is left out: {error:#}")),
            );
        }
    }
    Ok(Figures { columns: vec!["rtt p50 us", "rtt p99 us", "MiB/s"], rows })
}

/// What a changed rule takes with many tasks in its group, and how fast what tasks have used up is made anew.
pub(super) fn changes() -> Result<Figures> {
    ensure!(is_root(), "rules are made by root only");
    let rule = ("a rule of a group with 10,000 members changes".to_owned(), rule_change()?);
    let cells = ("cells made after a burst".to_owned(), vec![f64::NAN, f64::NAN, refill_rate()?]);
    Ok(Figures { columns: vec!["median ms", "max ms", "per s"], rows: vec![rule, cells] })
}

/// A task that answers and one that asks.
struct Tasks {
    asker: String,
    address: String,
}

impl Tasks {
    fn start(server: &Server, program: &Binary) -> Result<Self> {
        let root = tempfile::tempdir().context("make a root for the tasks")?;
        run(Command::new("cp").args(["-a", "--"]).arg(fixtures::busybox_root()?.join(".")).arg(root.path()))?;
        fs::copy(program.path(), root.path().join("bin/netload")).context("copy the program")?;
        server.pack(root.path(), "netload", "/bin/netload")?;
        // As much of the machine as a peer without limits takes.
        let size = json!({"cpu": "1024", "memory": "2048"});
        prepare_with(server, ("netload", "netload", &["serve", PORT]), &size)?;
        let mut client = server.client();
        let form = |text: &str| format!("Version=2016-11-15&{text}");
        let groups = client.post(
            Api::Ec2,
            "DescribeSecurityGroups",
            form("Action=DescribeSecurityGroups").as_bytes(),
        )?;
        let groups = String::from_utf8_lossy(&groups.body).into_owned();
        let group = groups.split("<groupId>").nth(1).and_then(|rest| rest.split('<').next());
        // The host needs a rule like everybody else.
        let allow = form(&format!(
            "Action=AuthorizeSecurityGroupIngress&GroupId={}&IpPermissions.1.IpProtocol=-1&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0",
            group.context("find the default group")?
        ));
        let allowed = client.post(Api::Ec2, "AuthorizeSecurityGroupIngress", allow.as_bytes())?;
        ensure!(allowed.status == 200, "{}", String::from_utf8_lossy(&allowed.body));
        let (_, address) = start_task(&mut client)?;
        let (asker, _) = start_task(&mut client)?;
        Ok(Self { asker, address })
    }
}

/// Starts a task; its ARN and its address once it runs.
fn start_task(client: &mut Client) -> Result<(String, String)> {
    let network = client.network()?;
    let request = json!({"cluster": CLUSTER, "taskDefinition": "netload", "launchType": "FARGATE", "networkConfiguration": network});
    let accepted = client.ecs("RunTask", &request)?;
    let arn = accepted["tasks"][0]["taskArn"].as_str().with_context(|| accepted.to_string())?.to_owned();
    let describe = json!({"cluster": CLUSTER, "tasks": [arn]});
    let address = eventually(LIMIT, || {
        let task = client.ecs("DescribeTasks", &describe).ok()?["tasks"][0].take();
        let address =
            task["containers"][0]["networkInterfaces"][0]["privateIpv4Address"].as_str()?.to_owned();
        (task["lastStatus"] == "RUNNING").then_some(address)
    });
    Ok((arn, address.context("a task does not run")?))
}

/// Round trips and throughput to an address, by a program that is given its arguments.
fn figures(name: &str, address: &str, ask: &dyn Fn(&[&str]) -> Result<String>) -> Result<(String, Vec<f64>)> {
    // The program may not listen yet.
    let ready = eventually(LIMIT, || ask(&["echo", address, PORT, "1"]).ok());
    ready.with_context(|| format!("{name}: nobody answers"))?;
    let trips = numbers(&ask(&["echo", address, PORT, ROUND_TRIPS])?)?;
    let sent = numbers(&ask(&["send", address, PORT, MIB])?)?;
    Ok((name.to_owned(), [trips, sent].concat()))
}

/// Two network namespaces with a pair of links between them and nothing else.
fn bare_veth(program: &Binary) -> Result<(String, Vec<f64>)> {
    let (near, far) = (Namespace::new()?, Namespace::new()?);
    let far_pid = far.pid();
    near.run(&["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &far_pid])?;
    for (namespace, link, address) in [(&near, "v0", "192.0.2.1/30"), (&far, "v1", "192.0.2.2/30")] {
        namespace.run(&["ip", "address", "add", address, "dev", link])?;
        namespace.run(&["ip", "link", "set", link, "up"])?;
    }
    let _server = Running(far.command(&[&program.path().display().to_string(), "serve", PORT]).spawn()?);
    let path = program.path().display().to_string();
    figures("two namespaces, one pair of links", "192.0.2.2", &|arguments| {
        output(&mut near.command(&[&[path.as_str()], arguments].concat()))
    })
}

/// Two containers on the bridge of another engine.
fn bridge(name: &str, program: &Binary) -> Result<(String, Vec<f64>)> {
    let image = "localhost/neargate-netload:latest";
    let root = tempfile::tempdir().context("make a root for a peer")?;
    fs::copy(program.path(), root.path().join("netload")).context("copy the program")?;
    let archive = root.path().join("root.tar");
    run(Command::new("tar").arg("-C").arg(root.path()).arg("-cf").arg(&archive).arg("netload"))?;
    run(engine(name).arg("import").arg(&archive).arg(image))?;
    let start = |arguments: &[&str]| {
        let mut command = engine(name);
        command.args(["run", "--detach", "--rm"]).args(PEER_LIMITS).arg(image);
        output(command.args(arguments))
    };
    let answering =
        Container { engine: name.to_owned(), id: start(&["/netload", "serve", PORT])?.trim().to_owned() };
    let asking =
        Container { engine: name.to_owned(), id: start(&["/netload", "serve", PORT])?.trim().to_owned() };
    let inspect = ["inspect", "--format", "{{.NetworkSettings.IPAddress}}", &answering.id];
    let address = output(engine(name).args(inspect))?.trim().to_owned();
    figures(&format!("container to container, {name}'s bridge"), &address, &|arguments| {
        output(engine(name).args(["exec", &asking.id, "/netload"]).args(arguments))
    })
}

/// A container of another engine, removed when dropped.
struct Container {
    engine: String,
    id: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = engine(&self.engine).args(["kill", &self.id]).stdout(Stdio::null()).status();
    }
}

/// A process, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace, which goes with its process.
struct Namespace(Running);

impl Namespace {
    fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 600"]);
        let mut child = command.stdout(Stdio::piped()).spawn().context("make a network namespace")?;
        let mut ready = [0; 6];
        let said = child.stdout.as_mut().map(|stdout| std::io::Read::read_exact(stdout, &mut ready));
        let namespace = Self(Running(child));
        said.context("read from a network namespace")?.context("set up a network namespace")?;
        Ok(namespace)
    }

    fn pid(&self) -> String {
        self.0.0.id().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid(), "--net"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        output(&mut self.command(arguments)).map(drop)
    }

    /// Has `nft` carry out a text; milliseconds.
    fn load(&self, text: &str) -> Result<f64> {
        let begun = Instant::now();
        let mut nft = self.command(&["nft", "-f", "-"]).stdin(Stdio::piped()).spawn().context("run nft")?;
        nft.stdin.take().context("write to nft")?.write_all(text.as_bytes()).context("write to nft")?;
        let status = nft.wait().context("run nft")?;
        ensure!(status.success(), "nft ended with {status}");
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }
}

/// Median and longest time to apply a changed rule, in milliseconds.
fn rule_change() -> Result<Vec<f64>> {
    let group = SecurityGroupId::new(format!("sg-{}", "a".repeat(17)))?;
    let vpc: Cidr = "10.0.0.0/8".parse()?;
    let policy = PolicyId::of(std::slice::from_ref(&group));
    let rules = |port: u16| {
        let rule = SecurityRule { traffic: Traffic::Tcp(port, port), peer: Peer::Group(group.clone()) };
        SecurityGroupRules { group: group.clone(), ingress: vec![rule], egress: Vec::new() }
    };
    let mut picture = Picture::default();
    picture.groups.insert(group.clone(), rules(1));
    picture.policies.insert(policy, Policy { groups: vec![group.clone()], vpc });
    picture.vpcs.insert(vpc);
    let first = Ipv4Addr::new(10, 0, 1, 0).to_bits();
    let members: BTreeMap<IpAddr, PolicyId> =
        (0..MEMBERS).map(|n| (Ipv4Addr::from_bits(first + n).into(), policy)).collect();
    let namespace = Namespace::new()?;
    namespace.load(&picture.render(&members))?;
    let mut times = Vec::new();
    for port in (2..).take(CHANGES) {
        picture.groups.insert(group.clone(), rules(port));
        let text = picture.render_change(&BTreeSet::from([policy]), &BTreeSet::new(), &members);
        times.push(namespace.load(&text)?);
    }
    times.sort_by(f64::total_cmp);
    Ok(vec![times[CHANGES / 2], times[CHANGES - 1], f64::NAN])
}

/// Cells that the supervisor has made in a second after a burst of starts.
fn refill_rate() -> Result<f64> {
    let server = Server::start()?;
    server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
    prepare(&server, "burst", "busybox", &["true"])?;
    let mut client = server.client();
    let network = client.network()?;
    let request = json!({
        "cluster": CLUSTER, "taskDefinition": "burst", "launchType": "FARGATE", "count": BURST, "networkConfiguration": network,
    });
    for _ in 0..BURSTS {
        client.ecs("RunTask", &request)?;
    }
    let ready = || descendants(server.pid(), "ng-parked").len();
    // All were taken, and the first of the next are made.
    let least = eventually(LIMIT, || Some(ready()).filter(|ready| *ready < BURST as usize));
    let (least, begun) = (least.context("a burst of tasks takes no cells")?, Instant::now());
    let mut last = (least, begun);
    while last.1.elapsed() < Duration::from_millis(500) {
        let now = ready();
        if now > last.0 {
            last = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((last.0 - least) as f64 / (last.1 - begun).as_secs_f64())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    // Its environment may hold keys.
    let program = command.get_program().display();
    let output = output.with_context(|| format!("run {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} ended with {}: {}", output.status, complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn numbers(text: &str) -> Result<Vec<f64>> {
    let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
    numbers.with_context(|| format!("read {text:?}"))
}
