//! Amazon ECS through the AWS SDK for Rust: the flows of a user, and what multi-container tasks promise.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod containers;
mod refusals;
#[path = "../suite.rs"]
mod suite;
mod tasks;

use std::process::ExitCode;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ecs::types::{
    AwsVpcConfiguration, Compatibility, ContainerDefinition, LaunchType, NetworkConfiguration, NetworkMode,
    Task,
};
use neargate_tests::{Server, fixtures, is_root};
use suite::Case;
use tokio::runtime::Runtime;

/// The cluster that every case may use.
const CLUSTER: &str = "suite";
const STOP_LIMIT: Duration = Duration::from_secs(60);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads can be started"));
/// All cases share one server, as the users of a team do.
static SERVER: Mutex<Option<Server>> = Mutex::new(None);

fn main() -> ExitCode {
    let cases: Vec<Case> = [tasks::CASES, containers::CASES, refusals::CASES].concat();
    let code = suite::main(&cases, None);
    // Ending the server here, not in a case, also checks its log.
    drop(SERVER.lock().unwrap_or_else(PoisonError::into_inner).take());
    code
}

/// A client of the suite's server, which the first call starts.
fn client() -> Result<Client> {
    let mut server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    if server.is_none() {
        *server = Some(start_server()?);
    }
    Ok(sdk(server.as_ref().context("it was just started")?))
}

fn start_server() -> Result<Server> {
    let server = Server::start()?;
    if let Some(probe) = fixtures::module() {
        server.import(&probe, "probe")?;
    }
    if is_root() {
        server.pack(&fixtures::busybox_root()?, "busybox", "/bin/busybox")?;
    }
    server.client().ecs("CreateCluster", &serde_json::json!({"clusterName": CLUSTER}))?;
    Ok(server)
}

/// The SDK as a user sets it up, without TLS because the endpoint has none.
fn sdk(server: &Server) -> Client {
    let key = &server.credentials;
    let config = aws_sdk_ecs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(key.region.clone()))
        .endpoint_url(&server.endpoint)
        .credentials_provider(Credentials::new(&key.access_key, &key.secret, None, None, "suite"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// Runs an SDK call to its end.
fn wait<T>(call: impl Future<Output = T>) -> T {
    RUNTIME.block_on(call)
}

/// A container of the probe or of busybox.
fn container(
    name: &str,
    image: &str,
    command: &[&str],
) -> aws_sdk_ecs::types::builders::ContainerDefinitionBuilder {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    ContainerDefinition::builder().name(name).image(image).set_command(Some(command))
}

/// A busybox shell.
fn shell(name: &str, script: &str) -> aws_sdk_ecs::types::builders::ContainerDefinitionBuilder {
    container(name, "busybox", &["sh", "-c", script])
}

/// Registers a Fargate task definition of these containers under its own family.
fn register(client: &Client, family: &str, containers: Vec<ContainerDefinition>) -> Result<()> {
    let call = client
        .register_task_definition()
        .family(family)
        .requires_compatibilities(Compatibility::Fargate)
        .network_mode(NetworkMode::Awsvpc)
        .cpu("256")
        .memory("512")
        .set_container_definitions(Some(containers));
    wait(call.send()).with_context(|| format!("register {family}"))?;
    Ok(())
}

/// A subnet of the default VPC of the suite's server, of which there is a client already.
fn network() -> Result<NetworkConfiguration> {
    let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    network_of(server.as_ref().context("find the server")?)
}

/// A subnet of the default VPC of a server.
fn network_of(server: &Server) -> Result<NetworkConfiguration> {
    let network = server.client().network()?;
    let subnet = network["awsvpcConfiguration"]["subnets"][0].as_str().context("find a subnet")?;
    let vpc = AwsVpcConfiguration::builder().subnets(subnet).build()?;
    Ok(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
}

/// Asks the native API of the suite's server, of which there is a client already.
fn native(path: &str, query: &str) -> Result<serde_json::Value> {
    let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    let mut client = server.as_ref().context("find the server")?.client();
    drop(server);
    client.native(path, query)
}

/// Runs one task of a family and returns its ARN.
fn start(client: &Client, family: &str) -> Result<String> {
    let call = client
        .run_task()
        .cluster(CLUSTER)
        .task_definition(family)
        .launch_type(LaunchType::Fargate)
        .network_configuration(network()?);
    let answer = wait(call.send()).with_context(|| format!("run {family}"))?;
    let task = answer.tasks().first().with_context(|| format!("run {family}: {:?}", answer.failures()))?;
    Ok(task.task_arn().context("a task has an ARN")?.to_owned())
}

fn describe(client: &Client, arn: &str) -> Result<Task> {
    let answer = wait(client.describe_tasks().cluster(CLUSTER).tasks(arn).send()).context("describe task")?;
    answer.tasks().first().cloned().with_context(|| format!("describe {arn}: {:?}", answer.failures()))
}

/// Waits until a task is as wanted.
fn until(client: &Client, arn: &str, wanted: &str, is_so: impl Fn(&Task) -> bool) -> Result<Task> {
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        let task = describe(client, arn)?;
        if is_so(&task) {
            return Ok(task);
        }
        if Instant::now() > deadline {
            bail!("the task is not {wanted} within {STOP_LIMIT:?}: {task:#?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_stopped(client: &Client, arn: &str) -> Result<Task> {
    until(client, arn, "stopped", |task| task.last_status() == Some("STOPPED"))
}

/// Registers, runs, and waits for the end.
fn run(client: &Client, family: &str, containers: Vec<ContainerDefinition>) -> Result<Task> {
    register(client, family, containers)?;
    until_stopped(client, &start(client, family)?)
}

/// The exit code of a container; `None` if it never ran.
fn exit_code(task: &Task, name: &str) -> Option<i32> {
    task.containers().iter().find(|container| container.name() == Some(name))?.exit_code()
}
