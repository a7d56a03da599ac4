//! RunTask: ECS's rules, and from its input to a request of control.

use neargate_control::{
    Accepted, ContainerChange, NewTask, Refusal, RevisionWanted, RunTasks, WantedNetwork,
};
use neargate_model::vpc::INTERFACE_GROUPS_MAX;
use neargate_model::{
    AccountId, Arn, ClusterName, ContainerName, Family, LaunchType, NetworkMode, SecurityGroupId, SubnetId,
    TaskDefinition,
};
use neargate_wire::ecs::{self, EcsError, Failure, RunTaskRequest, RunTaskResponse};
use sha2::{Digest, Sha256};

use super::error::{client, invalid_parameter};
use super::{EcsApi, definitions, error, names, register, render, roles, tags};
use crate::RequestContext;
use crate::face;

/// At most this many tasks a call (API reference, RunTask.count).
const COUNT_MAX: i32 = 10;

/// At most this many characters of overrides (API reference, TaskOverride).
const OVERRIDES_MAX: usize = 8192;

/// At most this many characters of a client token (API reference).
const TOKEN_MAX: usize = 64;

/// At most this many characters of `startedBy` (API reference).
const STARTED_BY_MAX: usize = 128;

/// At most this many subnets (API reference, AwsVpcConfiguration).
const SUBNETS_MAX: usize = 16;

pub(super) async fn run_task(
    api: &EcsApi,
    cx: &RequestContext,
    input: RunTaskRequest,
) -> Result<RunTaskResponse, EcsError> {
    let cluster = names::cluster(&cx.scope, input.cluster.as_deref())?;
    let (family, revision) = definitions::wanted(cx, &input.task_definition)?;
    let (launch_type, capacity_provider) = launch(&input)?;
    check_bounds(&input)?;
    let definition = api.control.find_definition(&cx.scope, &family, revision).await;
    let definition = definition.map_err(|error| error::run(&error.into(), &cx.scope, &cluster))?;
    check_definition(cx, &cluster, &family, definition.revision)?;
    check_roles(cx, &input, &definition)?;
    let network = network(cx, &input, definition.shape.network_mode)?;
    let allowed = api.policy.check(&family, &definition.shape);
    allowed.map_err(|forbidden| error::forbidden(&forbidden))?;
    let request = RunTasks {
        scope: cx.scope.clone(),
        cluster: cluster.clone(),
        family,
        // That of which roles and policy were checked, should there be a later one by now.
        revision: RevisionWanted::Exactly(definition.revision),
        count: usize::try_from(input.count.unwrap_or(1)).unwrap_or(1),
        launch_type,
        capacity_provider,
        group: input.group.clone(),
        started_by: input.started_by.clone(),
        tags: tags::to_model(input.tags.clone())?,
        propagate_definition_tags: input.propagate_tags == Some(ecs::PropagateTags::TaskDefinition),
        changes: changes(&cx.scope.account, input.overrides.as_ref())?,
        network,
        token: token(&input),
        deadline: None,
        face: face::write(&task_face(&input, &definition.shape, launch_type)),
    };
    let accepted = api.control.run_tasks(&request).await;
    let Accepted { tasks, refused } = accepted.map_err(|error| error::run(&error, &cx.scope, &cluster))?;
    Ok(RunTaskResponse {
        tasks: Some(tasks.iter().map(|described| render::task(described, true)).collect()),
        failures: Some(refused.iter().map(|refusal| failure(cx, &cluster, *refusal)).collect()),
    })
}

fn failure(cx: &RequestContext, cluster: &ClusterName, refusal: Refusal) -> Failure {
    let fixed = |reason: &'static str, detail: &str| (reason, detail.to_owned());
    let (reason, detail) = match refusal {
        Refusal::Cpu => fixed("RESOURCE:CPU", "the task asks for more CPU than this machine has"),
        Refusal::Memory => fixed("RESOURCE:MEMORY", "the memory promised to tasks would be above the limit"),
        Refusal::Tasks => fixed(
            "You've reached the limit on the number of tasks you can run concurrently",
            "the node holds as many tasks as it may",
        ),
        Refusal::Disk => fixed(
            "Capacity is unavailable at this time. Please try again later or in a different availability zone",
            "the disk of the data directory is nearly full; `neargate doctor` says how much has to be free",
        ),
        Refusal::Address => fixed("RESOURCE:ENI", "there is no free address for the task"),
        Refusal::Port { protocol, port } => {
            ("RESOURCE:PORTS", format!("another task has port {port}/{protocol} of the host"))
        }
        Refusal::PortInUse { protocol, port } => (
            "RESOURCE:PORTS",
            format!("another program has port {port}/{protocol} of the host; `ss -lntup` says which"),
        ),
        Refusal::NoPort => {
            fixed("RESOURCE:PORTS", "there are not as many free ports in a row that may be given")
        }
    };
    Failure {
        arn: Some(Arn::cluster(&cx.scope, cluster).to_string()),
        reason: Some(reason.to_owned()),
        detail: Some(detail),
    }
}

fn check_bounds(input: &RunTaskRequest) -> Result<(), EcsError> {
    if !(1..=COUNT_MAX).contains(&input.count.unwrap_or(1)) {
        return Err(invalid_parameter("count must be between 1 and 10."));
    }
    if input.client_token.as_ref().is_some_and(|token| token.chars().count() > TOKEN_MAX) {
        return Err(invalid_parameter("clientToken must have at most 64 characters."));
    }
    if input.started_by.as_ref().is_some_and(|by| by.chars().count() > STARTED_BY_MAX) {
        return Err(invalid_parameter("startedBy must have at most 128 characters."));
    }
    let overrides = input.overrides.as_ref().map_or(0, |overrides| face::write(overrides).chars().count());
    if overrides > OVERRIDES_MAX {
        return Err(invalid_parameter("Container Overrides length must be at most 8192"));
    }
    if input.enable_execute_command == Some(true) {
        return Err(client("enableExecuteCommand is not supported by Neargate yet; use `neargate exec`."));
    }
    if input.volume_configurations.iter().flatten().next().is_some() {
        return Err(client("volumeConfigurations are not supported by Neargate."));
    }
    Ok(())
}

/// Where to run: a launch type, or a capacity provider that stands for one; EC2 when neither is named.
fn launch(input: &RunTaskRequest) -> Result<(LaunchType, Option<String>), EcsError> {
    let strategy = input.capacity_provider_strategy.as_deref().unwrap_or_default();
    match (&input.launch_type, strategy) {
        (None, []) | (Some(ecs::LaunchType::Ec2), []) => Ok((LaunchType::Ec2, None)),
        (Some(ecs::LaunchType::Fargate), []) => Ok((LaunchType::Fargate, None)),
        (Some(other), []) => {
            Err(invalid_parameter(format!("launchType {:.32} is not supported by Neargate.", other.as_str())))
        }
        (Some(_), _) => Err(invalid_parameter(
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
        )),
        (None, [first, ..]) => match first.capacity_provider.as_str() {
            name @ ("FARGATE" | "FARGATE_SPOT") => Ok((LaunchType::Fargate, Some(name.to_owned()))),
            _ => Err(invalid_parameter("The specified capacity provider was not found.")),
        },
    }
}

/// The subnets and security groups of tasks that have an interface.
fn network(
    cx: &RequestContext,
    input: &RunTaskRequest,
    mode: NetworkMode,
) -> Result<Option<WantedNetwork>, EcsError> {
    let configuration = input.network_configuration.as_ref().and_then(|n| n.awsvpc_configuration.as_ref());
    match (mode, configuration) {
        (NetworkMode::Awsvpc, None) => Err(error::no_network()),
        (NetworkMode::Awsvpc, Some(vpc)) => wanted_network(cx, vpc).map(Some),
        (_, None) => Ok(None),
        (_, Some(_)) => Err(invalid_parameter(
            "Network Configuration is not valid for the given networkMode of this task definition.",
        )),
    }
}

fn wanted_network(cx: &RequestContext, vpc: &ecs::AwsVpcConfiguration) -> Result<WantedNetwork, EcsError> {
    let groups = vpc.security_groups.as_deref().unwrap_or_default();
    if vpc.subnets.is_empty() {
        return Err(invalid_parameter("subnets can not be empty."));
    }
    if vpc.subnets.len() > SUBNETS_MAX {
        return Err(invalid_parameter(format!("subnets can have at most {SUBNETS_MAX} items.")));
    }
    if groups.len() > INTERFACE_GROUPS_MAX {
        return Err(error::too_many_groups());
    }
    // What is no id at all names nothing either, and is answered alike.
    let subnet = |text: &String| SubnetId::new(text.clone()).map_err(|_| error::subnet_not_found(text));
    let group = |text: &String| SecurityGroupId::new(text.clone()).map_err(|_| error::group_not_found(text));
    Ok(WantedNetwork {
        subnets: vpc.subnets.iter().map(subnet).collect::<Result<_, _>>()?,
        groups: groups.iter().map(group).collect::<Result<_, _>>()?,
        principals: vec![cx.principal.clone(), cx.root_arn()],
    })
}

/// Refuses a revision that the caller may not run; the latest may be another one than when the request came.
fn check_definition(
    cx: &RequestContext,
    cluster: &ClusterName,
    family: &Family,
    revision: u32,
) -> Result<(), EcsError> {
    let arn = Arn::task_definition(&cx.scope, family, revision).to_string();
    let cluster = Arn::cluster(&cx.scope, cluster).to_string();
    cx.rights
        .check("ecs:RunTask", &arn, |context| context.with("ecs:cluster", cluster.as_str()))
        .map_err(|denied| roles::access_denied(&denied))
}

/// Refuses roles that the caller may not hand to the tasks, those of the definition included.
fn check_roles(
    cx: &RequestContext,
    input: &RunTaskRequest,
    definition: &TaskDefinition,
) -> Result<(), EcsError> {
    let kept: ecs::TaskDefinition = face::read(&definition.face);
    let overrides = input.overrides.as_ref();
    // An empty text overrides nothing.
    let or_kept = |wanted: Option<&String>, kept: Option<&String>| {
        wanted.filter(|text| !text.is_empty()).or(kept).cloned()
    };
    let task = overrides.and_then(|overrides| overrides.task_role_arn.as_ref());
    let execution = overrides.and_then(|overrides| overrides.execution_role_arn.as_ref());
    let task = or_kept(task, kept.task_role_arn.as_ref());
    let execution = or_kept(execution, kept.execution_role_arn.as_ref());
    roles::check_pass(cx, &[task.as_ref(), execution.as_ref()])
}

fn changes(account: &AccountId, overrides: Option<&ecs::TaskOverride>) -> Result<NewTask, EcsError> {
    let Some(overrides) = overrides else { return Ok(NewTask::default()) };
    let containers = overrides.container_overrides.iter().flatten().map(container_change);
    Ok(NewTask {
        cpu_units: overrides.cpu.as_deref().map(register::cpu_units).transpose()?,
        memory_mib: overrides.memory.as_deref().map(register::memory_mib).transpose()?,
        ephemeral_storage_gib: overrides
            .ephemeral_storage
            .as_ref()
            .map(register::ephemeral_gib)
            .transpose()?,
        task_role: roles::wanted(account, overrides.task_role_arn.as_ref())?,
        containers: containers.collect::<Result<_, _>>()?,
    })
}

fn container_change(input: &ecs::ContainerOverride) -> Result<ContainerChange, EcsError> {
    let name = input.name.clone().unwrap_or_default();
    let name = ContainerName::new(name)
        .map_err(|error| invalid_parameter(format!("Invalid container override: {error}")))?;
    if input.environment_files.iter().flatten().next().is_some() {
        return Err(client("environmentFiles are not supported by Neargate: there is no object store here."));
    }
    let amount = |value: Option<i32>, what| value.map(|value| register::unsigned(value, what)).transpose();
    Ok(ContainerChange {
        name,
        command: input.command.clone().filter(|words| !words.is_empty()),
        environment: input.environment.iter().flatten().map(register::variable).collect::<Result<_, _>>()?,
        cpu_units: amount(input.cpu, "cpu")?,
        memory_mib: amount(input.memory, "memory")?,
        memory_reservation_mib: amount(input.memory_reservation, "memoryReservation")?,
    })
}

/// The token, and a digest of everything else that the client sent.
fn token(input: &RunTaskRequest) -> Option<(String, String)> {
    let token = input.client_token.clone().filter(|token| !token.is_empty())?;
    let without = RunTaskRequest { client_token: None, ..input.clone() };
    Some((token, hex::encode(Sha256::digest(face::write(&without)))))
}

/// What RunTask shows of its own input, in the form that AWS was seen to give it: one override an each
/// container even where none was sent.
fn task_face(
    input: &RunTaskRequest,
    shape: &neargate_model::TaskShape,
    launch_type: LaunchType,
) -> ecs::Task {
    let sent = input.overrides.clone().unwrap_or_default();
    let of = |container: &neargate_model::ContainerDefinition| {
        let mut own = sent.container_overrides.iter().flatten();
        let own = own.find(|change| change.name.as_deref() == Some(container.name.as_str()));
        let own = own.cloned().unwrap_or_default();
        ecs::ContainerOverride {
            name: Some(container.name.to_string()),
            command: Some(own.command.unwrap_or_default()),
            environment: Some(own.environment.unwrap_or_default()),
            environment_files: Some(own.environment_files.unwrap_or_default()),
            resource_requirements: Some(own.resource_requirements.unwrap_or_default()),
            ..own
        }
    };
    let is_fargate = launch_type == LaunchType::Fargate;
    let storage_gib = shape.ephemeral_storage_gib.unwrap_or(20);
    let storage_gib = i32::try_from(storage_gib).unwrap_or(i32::MAX);
    ecs::Task {
        enable_execute_command: Some(false),
        inference_accelerators: Some(Vec::new()),
        overrides: Some(ecs::TaskOverride {
            container_overrides: Some(shape.containers.iter().map(of).collect()),
            inference_accelerator_overrides: Some(Vec::new()),
            ..sent.clone()
        }),
        platform_version: is_fargate.then(|| "1.4.0".to_owned()),
        platform_family: is_fargate.then(|| "Linux".to_owned()),
        ephemeral_storage: is_fargate.then_some(ecs::EphemeralStorage { size_in_gi_b: storage_gib }),
        fargate_ephemeral_storage: is_fargate
            .then_some(ecs::TaskEphemeralStorage { size_in_gi_b: Some(storage_gib), kms_key_id: None }),
        ..ecs::Task::default()
    }
}
