//! Row 85: ports of the host that several want, or all of them at once.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use neargate_tests::eventually;
use serde_json::{Value, json};

use crate::lab::{CLUSTER, Lab, TASK_LIMIT, Task, lab};
use crate::suite::{Case, Needs};

pub(crate) const CASES: &[Case] = &[
    ("row_85_ports_that_others_have", Needs::Root, row_85_ports_that_others_have),
    ("row_85_all_ports_at_once", Needs::Root, row_85_all_ports_at_once),
    ("row_85_ports_after_a_crash", Needs::Root, row_85_ports_after_a_crash),
];

/// Answers each connection to port 80 with a word.
const ANSWER: &str = "nc -ll -p 80 -e echo hello";
/// A name is asked for at this address: what comes to loopback is led to no container.
const PROBE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// A definition under `bridge` of containers with these port mappings.
fn mapped(lab: &Lab, mappings: &[Value]) -> Value {
    let mut definition = lab.definition(&[]);
    definition["networkMode"] = json!("bridge");
    definition["requiresCompatibilities"] = json!(["EC2"]);
    let container = |(index, ports): (usize, &Value)| {
        json!({
            "name": format!("c{index}"), "image": crate::lab::IMAGE, "entryPoint": ["sh", "-c", ANSWER],
            "memory": 32, "stopTimeout": 1, "portMappings": ports,
        })
    };
    definition["containerDefinitions"] = mappings.iter().enumerate().map(container).collect();
    definition
}

/// Asks for a task of a definition: it, or the reasons why there is none.
fn ask<'a>(lab: &'a Lab, definition: &Value) -> Result<Result<Task<'a>, Vec<String>>> {
    let mut client = lab.client();
    client.ecs("RegisterTaskDefinition", definition)?;
    let request = json!({"cluster": CLUSTER, "taskDefinition": definition["family"]});
    let answer = client.ecs("RunTask", &request)?;
    let reason = |failure: &Value| failure["reason"].as_str().unwrap_or_default().to_owned();
    let reasons: Vec<String> = answer["failures"].as_array().into_iter().flatten().map(reason).collect();
    Ok(match answer["tasks"][0]["taskArn"].as_str() {
        Some(arn) => Ok(lab.task(arn)),
        None => Err(reasons),
    })
}

fn taken(lab: &Lab, definition: &Value) -> Result<()> {
    match ask(lab, definition)? {
        Err(reasons) => ensure!(reasons == ["RESOURCE:PORTS"], "{reasons:?}"),
        Ok(task) => anyhow::bail!("{} has a port that is taken", task.arn),
    }
    Ok(())
}

fn run<'a>(lab: &'a Lab, definition: &Value) -> Result<Task<'a>> {
    ask(lab, definition)?.map_err(|reasons| anyhow::anyhow!("the task is refused: {reasons:?}"))
}

/// An address of this machine by which others reach it.
fn host_address() -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent.
    socket.connect(PROBE).context("a way out of this machine")?;
    match socket.local_addr()?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(address) => anyhow::bail!("{address} is no address of IPv4"),
    }
}

/// Whether a container answers at a port of the host.
fn is_answered(port: u16) -> Option<()> {
    let to = SocketAddr::from((host_address().ok()?, port));
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut said = String::new();
    stream.read_to_string(&mut said).ok()?;
    (said == "hello\n").then_some(())
}

/// Waits until a port is anybody's again.
fn until_free(port: u16) -> Result<()> {
    let bound = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok().map(drop);
    eventually(TASK_LIMIT, bound).with_context(|| format!("port {port} is not given back"))
}

/// A port that nobody has, below or above the first that needs no right.
fn free_port(is_low: bool) -> Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    let found = if is_low { (200..1024).find(is_free) } else { (20_000..30_000).find(is_free) };
    found.context("find a free port")
}

fn row_85_ports_that_others_have() -> Result<()> {
    let lab = lab()?;
    let low = free_port(true)?;
    let tcp = |port: u16| json!([{"containerPort": 80, "hostPort": port}]);
    // Twice in one definition.
    let twice = lab.client().ecs("RegisterTaskDefinition", &mapped(&lab, &[tcp(low), tcp(low)]));
    ensure!(twice.is_err_and(|error| error.to_string().contains("ClientException")), "one port for two");
    // Ports below 1024 are the supervisor's to give.
    let first = run(&lab, &mapped(&lab, &[tcp(low)]))?;
    eventually(TASK_LIMIT, || is_answered(low)).context("nobody answers")?;
    taken(&lab, &mapped(&lab, &[tcp(low)]))?;
    taken(&lab, &mapped(&lab, &[json!([{"containerPort": 80}]), tcp(low)]))?;
    // The same number of the other protocol is another port.
    let udp = json!([{"containerPort": 80, "hostPort": low, "protocol": "udp"}]);
    let second = run(&lab, &mapped(&lab, std::slice::from_ref(&udp)))?;
    taken(&lab, &mapped(&lab, &[udp]))?;
    // What programs of the host listen on, the server's own port too.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    taken(&lab, &mapped(&lab, &[tcp(listener.local_addr()?.port())]))?;
    let own = lab.server.endpoint.rsplit(':').next().and_then(|port| port.trim_end_matches('/').parse().ok());
    taken(&lab, &mapped(&lab, &[tcp(own.context("find the server's port")?)]))?;
    // A program of the host does not get a port that a container has.
    ensure!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, low)).is_err(), "port {low} is had twice");
    first.stop()?;
    second.stop()?;
    until_free(low)?;
    let again = run(&lab, &mapped(&lab, &[tcp(low)]))?;
    eventually(TASK_LIMIT, || is_answered(low)).context("nobody answers at a port that was given back")?;
    again.stop()?;
    Ok(())
}

/// As many as there are, by tasks that want a thousand each: the rest is refused, and all come back.
fn row_85_all_ports_at_once() -> Result<()> {
    let lab = lab()?;
    let greedy = mapped(&lab, &[json!([{"containerPortRange": "1001-2000"}])]);
    let mut tasks = Vec::new();
    for _ in 0..5 {
        match ask(&lab, &greedy)? {
            Ok(task) => tasks.push(task),
            Err(reasons) => ensure!(reasons == ["RESOURCE:PORTS"], "{reasons:?}"),
        }
    }
    ensure!((3..=4).contains(&tasks.len()), "{} tasks have a thousand ports each", tasks.len());
    taken(&lab, &greedy)?;
    // A neighbour that wants one still gets it: what is left are fewer than a thousand in a row.
    let neighbour = run(&lab, &mapped(&lab, &[json!([{"containerPort": 80}])]))?;
    let binding = || neighbour.describe().ok()?["containers"][0]["networkBindings"][0]["hostPort"].as_u64();
    let port = eventually(TASK_LIMIT, binding).context("no port is shown")?;
    eventually(TASK_LIMIT, || is_answered(u16::try_from(port).ok()?)).context("nobody answers")?;
    for task in &tasks {
        task.stop()?;
    }
    neighbour.stop()?;
    let tasks: Vec<Task<'_>> = (0..3).map(|_| run(&lab, &greedy)).collect::<Result<_>>()?;
    tasks.iter().try_for_each(|task| task.stop().map(drop))
}

/// The processes of a container and then the supervisor are killed: ports go with the task, and with nothing else.
fn row_85_ports_after_a_crash() -> Result<()> {
    let lab = Lab::open_to_be_harmed()?;
    let port = free_port(false)?;
    let definition = mapped(&lab, &[json!([{"containerPort": 80, "hostPort": port}])]);
    let task = run(&lab, &definition)?;
    eventually(TASK_LIMIT, || is_answered(port)).context("nobody answers")?;
    lab.server.kill_supervisor()?;
    ensure!(
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() || is_answered(port).is_some(),
        "the port is lost"
    );
    eventually(TASK_LIMIT, || is_answered(port)).context("nobody answers after the crash")?;
    for pid in task.host_pids() {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
        // One may have ended with another.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let ended = task.until_stopped()?;
    ensure!(ended["containers"][0]["exitCode"] == json!(137), "{ended}");
    until_free(port)?;
    let again = run(&lab, &definition)?;
    eventually(TASK_LIMIT, || is_answered(port)).context("nobody answers at a port that was given back")?;
    again.stop()?;
    until_free(port)
}
