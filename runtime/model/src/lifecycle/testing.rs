//! Small definitions for tests of this and other crates.

use crate::{
    AccountId, ClusterName, Condition, ContainerDefinition, ContainerId, ContainerName, Dependency, Family,
    IpcMode, LaunchType, NetworkMode, PidMode, Region, Scope, TaskId, TaskShape, TaskSpec,
};

/// The scope that tests use.
pub fn scope() -> Scope {
    Scope {
        account: AccountId::new("123456789012").expect("twelve digits"),
        region: Region::new("us-east-1").expect("a region"),
    }
}

/// A container name.
pub fn name(text: &str) -> ContainerName {
    ContainerName::new(text).expect("a name")
}

/// An essential container that runs `image:latest`.
pub fn container(text: &str) -> ContainerDefinition {
    ContainerDefinition {
        name: name(text),
        image: "image:latest".to_owned(),
        cpu_units: 0,
        memory_mib: None,
        memory_reservation_mib: None,
        essential: true,
        entry_point: None,
        command: None,
        environment: Vec::new(),
        working_directory: None,
        user: None,
        depends_on: Vec::new(),
        health_check: None,
        start_timeout_s: None,
        stop_timeout_s: None,
        restart_policy: None,
        ulimits: Vec::new(),
        read_only_root: false,
        mount_points: Vec::new(),
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
        port_mappings: Vec::new(),
        links: Vec::new(),
        hostname: None,
        extra_hosts: Vec::new(),
        dns_servers: Vec::new(),
        dns_search_domains: Vec::new(),
        wasm: Default::default(),
    }
}

/// The container, waiting for another.
pub fn depends(mut container: ContainerDefinition, on: &str, condition: Condition) -> ContainerDefinition {
    container.depends_on.push(Dependency { container: name(on), condition });
    container
}

/// A shape of 512 MiB around containers.
pub fn shape(containers: Vec<ContainerDefinition>) -> TaskShape {
    TaskShape {
        containers,
        volumes: Vec::new(),
        network_mode: NetworkMode::Awsvpc,
        cpu_units: Some(256),
        memory_mib: Some(512),
        ephemeral_storage_gib: None,
        timeout_s: None,
        network_mbps: None,
        pid_mode: PidMode::default(),
        ipc_mode: IpcMode::default(),
        task_role: None,
    }
}

/// A task of these containers.
pub fn spec(containers: Vec<ContainerDefinition>) -> TaskSpec {
    let id = |i: usize| ContainerId::new(format!("00000000-0000-4000-8000-{i:012}")).expect("a UUID");
    TaskSpec {
        id: TaskId::new("0".repeat(32)).expect("32 digits"),
        scope: scope(),
        cluster: ClusterName::new("c").expect("a name"),
        family: Family::new("f").expect("a name"),
        revision: 1,
        container_ids: (0..containers.len()).map(id).collect(),
        shape: shape(containers),
        launch_type: LaunchType::Fargate,
        own_workers: false,
        deadline: None,
        network: None,
        bridge: None,
        face: String::new(),
    }
}
