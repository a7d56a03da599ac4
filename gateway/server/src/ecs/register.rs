//! From `RegisterTaskDefinition`'s input to the model: what is run, what is stored only, what is refused.

use neargate_model::{
    AccountId, Condition, ContainerDefinition, ContainerName, Dependency, Family, HealthCheck, IpcMode,
    LaunchType, LogConfiguration, NetworkMode, PidMode, Policy, RestartPolicy, TaskShape, UlimitSetting,
};
use neargate_wire::ecs;
use neargate_wire::ecs::{EcsError, RegisterTaskDefinitionRequest};

use super::error::{self, client};
use super::{devices, hosts, labels, ports, roles, volume_options, volumes};

/// Seconds a restarted container must have run for unless its definition says otherwise (API reference).
const RESTART_PERIOD_S_DEFAULT: i32 = 300;

/// What a task definition runs, and which launch types it must be fit for.
pub(super) fn shape(
    account: &AccountId,
    input: &RegisterTaskDefinitionRequest,
    family: &Family,
    policy: &Policy,
) -> Result<(TaskShape, Vec<LaunchType>), EcsError> {
    let requires = requires(input.requires_compatibilities.as_deref().unwrap_or_default())?;
    let is_fargate = requires.contains(&LaunchType::Fargate);
    let (pid_mode, ipc_mode) = (pid_mode(input, is_fargate)?, ipc_mode(input)?);
    let network_mode = match &input.network_mode {
        None if is_fargate => return Err(client("Fargate only supports network mode ‘awsvpc’.")),
        None | Some(ecs::NetworkMode::Bridge) => NetworkMode::Bridge,
        Some(ecs::NetworkMode::Awsvpc) => NetworkMode::Awsvpc,
        Some(ecs::NetworkMode::None) => NetworkMode::None,
        Some(ecs::NetworkMode::Host) => NetworkMode::Host,
        Some(ecs::NetworkMode::Unlisted(text)) => {
            return Err(client(format!("Invalid 'networkMode' setting: {text:.64}")));
        }
    };
    let container = |input| container(input, network_mode, policy);
    let mut containers = input.container_definitions.iter().map(container).collect::<Result<Vec<_>, _>>()?;
    let labelled =
        || input.container_definitions.iter().map(|input| input.docker_labels.as_ref()).zip(&containers);
    let timeouts = labelled().map(|(labels, c)| labels::timeout_s(labels, &c.name));
    let timeout_s = timeouts.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().min();
    let limits = labelled().map(|(labels, c)| labels::network_mbps(labels, &c.name, network_mode));
    let network_mbps = limits.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().min();
    hosts::order_by_links(&mut containers)?;
    volumes::inherit(&input.container_definitions, &mut containers)?;
    let volumes_input = input.volumes.as_deref().unwrap_or_default();
    let mut volumes = volumes::volumes(volumes_input, policy)?;
    volume_options::place(volumes::in_memory(volumes_input)?, &mut volumes, &mut containers)?;
    let shape = TaskShape {
        containers,
        volumes,
        network_mode,
        cpu_units: input.cpu.as_deref().map(cpu_units).transpose()?,
        memory_mib: input.memory.as_deref().map(memory_mib).transpose()?,
        ephemeral_storage_gib: input.ephemeral_storage.as_ref().map(ephemeral_gib).transpose()?,
        timeout_s,
        network_mbps,
        pid_mode,
        ipc_mode,
        task_role: roles::wanted(account, input.task_role_arn.as_ref())?,
    };
    ports::check_host_ports(&shape.containers)?;
    policy.check(family, &shape).map_err(|forbidden| error::forbidden(&forbidden))?;
    Ok((shape, requires))
}

fn requires(compatibilities: &[ecs::Compatibility]) -> Result<Vec<LaunchType>, EcsError> {
    let launch_type = |compatibility: &ecs::Compatibility| match compatibility {
        ecs::Compatibility::Ec2 => Ok(LaunchType::Ec2),
        ecs::Compatibility::Fargate => Ok(LaunchType::Fargate),
        ecs::Compatibility::External | ecs::Compatibility::ManagedInstances => {
            Err(client(format!("requiresCompatibilities {compatibility} is not supported by Neargate.")))
        }
        ecs::Compatibility::Unlisted(text) => {
            Err(client(format!("Invalid 'requiresCompatibilities' setting: {text:.64}")))
        }
    };
    compatibilities.iter().map(launch_type).collect()
}

/// Which processes its containers see. What Fargate refuses has words of its own there.
fn pid_mode(input: &RegisterTaskDefinitionRequest, is_fargate: bool) -> Result<PidMode, EcsError> {
    match &input.pid_mode {
        None => Ok(PidMode::Container),
        Some(ecs::PidMode::Task) => Ok(PidMode::Task),
        Some(ecs::PidMode::Host) if is_fargate => Err(client(
            "Tasks using the Fargate launch type do not support pidMode 'host'. \
             The supported value for pidMode is 'task'.",
        )),
        Some(ecs::PidMode::Host) => Ok(PidMode::Host),
        Some(ecs::PidMode::Unlisted(text)) => Err(client(format!("Invalid 'pidMode' setting: {text:.64}"))),
    }
}

/// Whose System V objects, message queues and `/dev/shm` its containers have.
fn ipc_mode(input: &RegisterTaskDefinitionRequest) -> Result<IpcMode, EcsError> {
    match &input.ipc_mode {
        None => Ok(IpcMode::Container),
        Some(ecs::IpcMode::None) => Ok(IpcMode::None),
        Some(ecs::IpcMode::Task) => Ok(IpcMode::Task),
        Some(ecs::IpcMode::Host) => Ok(IpcMode::Host),
        Some(ecs::IpcMode::Unlisted(text)) => Err(client(format!("Invalid 'ipcMode' setting: {text:.64}"))),
    }
}

/// CPU units from `"256"`, `".25 vCPU"` or `"1 vcpu"`.
pub(super) fn cpu_units(text: &str) -> Result<u32, EcsError> {
    let invalid = || client("Invalid 'cpu' setting for task.");
    let units = match strip_unit(text, "vcpu") {
        Some(cores) => cores.parse::<f64>().map_err(|_| invalid())? * 1024.0,
        None => f64::from(text.trim().parse::<u32>().map_err(|_| invalid())?),
    };
    if (1.0..=196_608.0).contains(&units) { Ok(units.round() as u32) } else { Err(invalid()) }
}

/// MiB from `"512"`, `"0.5 GB"` or `"1gb"`.
pub(super) fn memory_mib(text: &str) -> Result<u32, EcsError> {
    let invalid = || client("Invalid 'memory' setting for task.");
    let mib = match strip_unit(text, "gb") {
        Some(gib) => gib.parse::<f64>().map_err(|_| invalid())? * 1024.0,
        None => f64::from(text.trim().parse::<u32>().map_err(|_| invalid())?),
    };
    if (1.0..=f64::from(1 << 24)).contains(&mib) { Ok(mib.round() as u32) } else { Err(invalid()) }
}

fn strip_unit(text: &str, unit: &str) -> Option<String> {
    text.trim().to_ascii_lowercase().strip_suffix(unit).map(|number| number.trim().to_owned())
}

pub(super) fn ephemeral_gib(storage: &ecs::EphemeralStorage) -> Result<u32, EcsError> {
    match u32::try_from(storage.size_in_gi_b) {
        Ok(gib) if (21..=200).contains(&gib) => Ok(gib),
        _ => Err(client("Invalid 'ephemeralStorage' setting: sizeInGiB must be between 21 and 200.")),
    }
}

/// A count that the wire carries as a signed number.
pub(super) fn unsigned(value: i32, what: &str) -> Result<u32, EcsError> {
    u32::try_from(value).map_err(|_| client(format!("Invalid '{what}' setting: it cannot be negative.")))
}

pub(super) fn bounded(
    value: Option<i32>,
    what: &str,
    default: u32,
    min: u32,
    max: u32,
) -> Result<u32, EcsError> {
    let Some(value) = value else { return Ok(default) };
    match u32::try_from(value) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => Err(client(format!("Invalid '{what}' setting: it must be between {min} and {max}."))),
    }
}

fn container(
    input: &ecs::ContainerDefinition,
    network_mode: NetworkMode,
    policy: &Policy,
) -> Result<ContainerDefinition, EcsError> {
    let name = input.name.as_deref().unwrap_or_default();
    let name = ContainerName::new(name).map_err(|_| {
        client(format!(
            "Invalid setting for container '{name:.64}': the name must have 1 to 255 letters, digits, hyphens and underscores."
        ))
    })?;
    refuse_container_settings(input, &name)?;
    let mib = |value: Option<i32>, what| value.map(|mib| unsigned(mib, what)).transpose();
    let linux = input.linux_parameters.as_ref();
    let capabilities = linux.and_then(|linux| linux.capabilities.as_ref());
    let environment = input.environment.iter().flatten();
    let own_labels = input.docker_labels.clone().unwrap_or_default();
    let ports = input.port_mappings.as_deref().unwrap_or_default();
    let hosts::Names { links, hostname, extra_hosts, dns_servers, dns_search_domains } =
        hosts::names(input, &name, network_mode)?;
    Ok(ContainerDefinition {
        image: input.image.clone().unwrap_or_default(),
        cpu_units: unsigned(input.cpu.unwrap_or(0), "cpu")?,
        memory_mib: mib(input.memory, "memory")?,
        memory_reservation_mib: mib(input.memory_reservation, "memoryReservation")?,
        essential: input.essential.unwrap_or(true),
        entry_point: input.entry_point.clone(),
        command: input.command.clone(),
        environment: environment.map(variable).collect::<Result<_, _>>()?,
        working_directory: input.working_directory.clone(),
        user: input.user.clone(),
        depends_on: input.depends_on.iter().flatten().map(dependency).collect::<Result<_, _>>()?,
        health_check: input.health_check.as_ref().map(health_check).transpose()?.flatten(),
        start_timeout_s: input.start_timeout.map(|s| unsigned(s, "startTimeout")).transpose()?,
        stop_timeout_s: input.stop_timeout.map(|s| unsigned(s, "stopTimeout")).transpose()?,
        restart_policy: input.restart_policy.as_ref().map(restart_policy).transpose()?.flatten(),
        ulimits: input.ulimits.iter().flatten().map(ulimit).collect::<Result<_, _>>()?,
        read_only_root: input.readonly_root_filesystem.unwrap_or(false),
        mount_points: input
            .mount_points
            .iter()
            .flatten()
            .map(volumes::mount_point)
            .collect::<Result<_, _>>()?,
        log: input.log_configuration.as_ref().map(|log| log_configuration(log, &name)).transpose()?,
        init: linux.and_then(|linux| linux.init_process_enabled).unwrap_or(false),
        capabilities_add: capabilities.and_then(|c| c.add.clone()).unwrap_or_default(),
        capabilities_drop: capabilities.and_then(|c| c.drop.clone()).unwrap_or_default(),
        tmpfs: linux
            .and_then(|linux| linux.tmpfs.as_ref())
            .into_iter()
            .flatten()
            .map(volumes::tmpfs)
            .collect::<Result<_, _>>()?,
        shared_memory_mib: shared_memory_mib(linux)?,
        swap_mib: linux.and_then(|linux| linux.max_swap).map(|mib| unsigned(mib, "maxSwap")).transpose()?,
        swappiness: swappiness(linux)?,
        port_mappings: ports::mappings(ports, name.as_str(), network_mode)?,
        links,
        hostname,
        extra_hosts,
        dns_servers,
        dns_search_domains,
        privileged: input.privileged.unwrap_or(false),
        devices: devices::devices(linux, &name)?,
        wasm: labels::wasm_options(&own_labels, &name, policy)?,
        name,
    })
}

/// Settings that would weaken isolation, or that silently would not do what they promise.
fn refuse_container_settings(input: &ecs::ContainerDefinition, name: &ContainerName) -> Result<(), EcsError> {
    let refuse = |what: &str, why: &str| {
        Err(client(format!("Invalid setting for container '{name}'. {what} is not supported: {why}.")))
    };
    if input.secrets.iter().flatten().next().is_some() {
        return refuse("secrets", "there is no secrets manager here yet");
    }
    if input.repository_credentials.is_some() {
        let why = "there is no secrets manager here yet; keep the registry's credentials in registry-auth.json of the data \
                   directory, docs/images.md";
        return refuse("repositoryCredentials", why);
    }
    if input.environment_files.iter().flatten().next().is_some() {
        return refuse("environmentFiles", "there is no object store here");
    }
    if input.system_controls.iter().flatten().next().is_some() {
        return refuse("systemControls", "kernel settings of a task are fixed");
    }
    if input.docker_security_options.iter().flatten().next().is_some() {
        return refuse("dockerSecurityOptions", "all containers are confined alike");
    }
    if input.resource_requirements.iter().flatten().next().is_some() {
        return refuse("resourceRequirements", "there are no GPUs here");
    }
    if input.firelens_configuration.is_some() {
        return refuse("firelensConfiguration", "use the log driver awslogs");
    }
    if input.pseudo_terminal == Some(true) {
        return refuse("pseudoTerminal", "a task has no terminal");
    }
    Ok(())
}

/// The most MiB that a file system in memory may have: 1 TiB.
pub(super) const MEMORY_FILES_MIB_MAX: u32 = 1 << 20;

fn shared_memory_mib(linux: Option<&ecs::LinuxParameters>) -> Result<Option<u32>, EcsError> {
    let Some(size) = linux.and_then(|linux| linux.shared_memory_size) else { return Ok(None) };
    bounded(Some(size), "linuxParameters.sharedMemorySize", 64, 1, MEMORY_FILES_MIB_MAX).map(Some)
}

/// Swappiness counts only where `maxSwap` is set (API reference, LinuxParameters.swappiness).
fn swappiness(linux: Option<&ecs::LinuxParameters>) -> Result<Option<u32>, EcsError> {
    let Some(linux) = linux else { return Ok(None) };
    let Some(swappiness) = linux.swappiness else { return Ok(None) };
    let swappiness = bounded(Some(swappiness), "linuxParameters.swappiness", 60, 0, 100)?;
    Ok(linux.max_swap.map(|_| swappiness))
}

pub(super) fn variable(pair: &ecs::KeyValuePair) -> Result<(String, String), EcsError> {
    let name = pair.name.clone().unwrap_or_default();
    let value = pair.value.clone().unwrap_or_default();
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return Err(client(format!("Invalid 'environment' setting: {name:.64?} is not a variable's name.")));
    }
    Ok((name, value))
}

fn dependency(input: &ecs::ContainerDependency) -> Result<Dependency, EcsError> {
    let container = ContainerName::new(input.container_name.clone())
        .map_err(|error| client(format!("Invalid 'dependsOn' setting: {error}.")))?;
    let condition = match &input.condition {
        ecs::ContainerCondition::Start => Condition::Start,
        ecs::ContainerCondition::Complete => Condition::Complete,
        ecs::ContainerCondition::Success => Condition::Success,
        ecs::ContainerCondition::Healthy => Condition::Healthy,
        ecs::ContainerCondition::Unlisted(text) => {
            return Err(client(format!("Invalid 'dependsOn' condition: {text:.64}")));
        }
    };
    Ok(Dependency { container, condition })
}

fn health_check(input: &ecs::HealthCheck) -> Result<Option<HealthCheck>, EcsError> {
    let argv = match input.command.split_first() {
        Some((kind, rest)) if kind == "CMD-SHELL" && rest.len() == 1 => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), rest[0].clone()]
        }
        Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => rest.to_vec(),
        Some((kind, [])) if kind == "NONE" => return Ok(None),
        _ => {
            let message = "Invalid 'healthCheck' setting: command must begin with CMD, or with CMD-SHELL and one string.";
            return Err(client(message));
        }
    };
    Ok(Some(HealthCheck {
        argv,
        interval_s: bounded(input.interval, "healthCheck.interval", 30, 5, 300)?,
        timeout_s: bounded(input.timeout, "healthCheck.timeout", 5, 2, 60)?,
        retries: bounded(input.retries, "healthCheck.retries", 3, 1, 10)?,
        start_period_s: bounded(input.start_period, "healthCheck.startPeriod", 0, 0, 300)?,
    }))
}

fn restart_policy(input: &ecs::ContainerRestartPolicy) -> Result<Option<RestartPolicy>, EcsError> {
    let ignored_exit_codes = input.ignored_exit_codes.clone().unwrap_or_default();
    if ignored_exit_codes.len() > 50 {
        return Err(client("Invalid 'restartPolicy' setting: at most 50 ignoredExitCodes."));
    }
    let period = input.restart_attempt_period.unwrap_or(RESTART_PERIOD_S_DEFAULT);
    let attempt_period_s = bounded(Some(period), "restartPolicy.restartAttemptPeriod", 300, 60, 1800)?;
    Ok(input.enabled.then_some(RestartPolicy { ignored_exit_codes, attempt_period_s }))
}

fn ulimit(input: &ecs::Ulimit) -> Result<UlimitSetting, EcsError> {
    let (soft, hard) = (i64::from(input.soft_limit), i64::from(input.hard_limit));
    let is_above = |soft: i64, hard: i64| hard >= 0 && (soft < 0 || soft > hard);
    if is_above(soft, hard) {
        let message =
            format!("Invalid 'ulimits' setting: the soft limit of {} is above the hard one.", input.name);
        return Err(client(message));
    }
    Ok(UlimitSetting { name: input.name.to_string(), soft, hard })
}

fn log_configuration(
    input: &ecs::LogConfiguration,
    name: &ContainerName,
) -> Result<LogConfiguration, EcsError> {
    let refuse =
        |why: String| Err(client(format!("Invalid 'logConfiguration' of container '{name}': {why}.")));
    if input.log_driver != ecs::LogDriver::Awslogs {
        return refuse(format!("the log driver {} is not supported; use awslogs", input.log_driver));
    }
    let empty = std::collections::BTreeMap::new();
    let options = input.options.as_ref().unwrap_or(&empty);
    const KNOWN: [&str; 6] = [
        "awslogs-group",
        "awslogs-region",
        "awslogs-stream-prefix",
        "awslogs-create-group",
        "mode",
        "max-buffer-size",
    ];
    if let Some(unknown) = options.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        return refuse(format!("the option {unknown:.64} is not supported"));
    }
    let option = |key: &str| options.get(key).filter(|value| !value.is_empty());
    let (Some(group), Some(prefix)) = (option("awslogs-group"), option("awslogs-stream-prefix")) else {
        return refuse("the options awslogs-group and awslogs-stream-prefix are needed".to_owned());
    };
    let region = option("awslogs-region");
    if region.is_some_and(|region| neargate_model::Region::new(region.as_str()).is_err()) {
        return refuse("awslogs-region is not a region".to_owned());
    }
    let buffer_bytes_max = match option("max-buffer-size").map(|text| bytes(text)) {
        None => None,
        Some(Some(bytes)) => Some(bytes),
        Some(None) => return refuse("max-buffer-size must be a size such as 25m".to_owned()),
    };
    Ok(LogConfiguration {
        group: group.clone(),
        stream_prefix: prefix.clone(),
        region: region.cloned(),
        create_group: option("awslogs-create-group").is_some_and(|value| value == "true"),
        non_blocking: option("mode").is_some_and(|value| value == "non-blocking"),
        buffer_bytes_max,
    })
}

/// Bytes from Docker's `10`, `10k`, `10m` or `1g`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let (number, factor) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1 << 10),
        b'm' => (&text[..text.len() - 1], 1 << 20),
        b'g' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The definition as it will be shown: what came in, with ECS's defaults filled in.
pub(super) fn face(input: RegisterTaskDefinitionRequest) -> ecs::TaskDefinition {
    let is_awsvpc = input.network_mode == Some(ecs::NetworkMode::Awsvpc);
    let containers = input.container_definitions.into_iter().map(|c| container_face(c, is_awsvpc)).collect();
    let amount = |text: Option<String>, read: fn(&str) -> Result<u32, EcsError>| {
        text.map(|text| read(&text).map_or(text, |number| number.to_string()))
    };
    ecs::TaskDefinition {
        container_definitions: Some(containers),
        task_role_arn: input.task_role_arn,
        execution_role_arn: input.execution_role_arn,
        network_mode: input.network_mode,
        volumes: Some(input.volumes.unwrap_or_default()),
        placement_constraints: Some(input.placement_constraints.unwrap_or_default()),
        runtime_platform: input.runtime_platform,
        requires_compatibilities: input.requires_compatibilities,
        cpu: amount(input.cpu, cpu_units),
        memory: amount(input.memory, memory_mib),
        pid_mode: input.pid_mode,
        ipc_mode: input.ipc_mode,
        proxy_configuration: input.proxy_configuration,
        ephemeral_storage: input.ephemeral_storage,
        enable_fault_injection: input.enable_fault_injection,
        ..ecs::TaskDefinition::default()
    }
}

fn container_face(container: ecs::ContainerDefinition, is_awsvpc: bool) -> ecs::ContainerDefinition {
    let mut ports = container.port_mappings.unwrap_or_default();
    for port in &mut ports {
        port.protocol.get_or_insert(ecs::TransportProtocol::Tcp);
        if is_awsvpc {
            port.host_port = port.host_port.or(port.container_port);
        } else {
            port.host_port.get_or_insert(0);
        }
    }
    ecs::ContainerDefinition {
        cpu: Some(container.cpu.unwrap_or(0)),
        essential: Some(container.essential.unwrap_or(true)),
        environment: Some(container.environment.unwrap_or_default()),
        mount_points: Some(container.mount_points.unwrap_or_default()),
        volumes_from: Some(container.volumes_from.unwrap_or_default()),
        system_controls: Some(container.system_controls.unwrap_or_default()),
        port_mappings: Some(ports),
        ..container
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, cpu: Option<u32>, memory: Option<u32>| {
            assert_eq!((cpu_units(text).ok(), memory_mib(text).ok()), (cpu, memory), "{text}");
        };
        check("256", Some(256), Some(256));
        check(".25 vCPU", Some(256), None);
        check("1vcpu", Some(1024), None);
        check("0.5 GB", None, Some(512));
        check("30GB", None, Some(30720));
        check("0", None, None);
        check("-1", None, None);
        check("1e309", None, None);
        check("NaN vCPU", None, None);
        check("", None, None);
    }

    #[test]
    fn buffers() {
        let check = |text: &str, expect| assert_eq!(bytes(text), expect, "{text}");
        check("25m", Some(25 << 20));
        check("4k", Some(4096));
        check("1gb", Some(1 << 30));
        check("10", Some(10));
        check("m", None);
        check("", None);
        check("99999999999999999999g", None);
    }
}
