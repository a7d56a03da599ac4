//! What a driver is told, worked out purely from a task's specification and an image.

use std::net::IpAddr;
use std::path::PathBuf;

use neargate_driver::{
    BridgedContainer, ContainerNames, Device, Limits, Mount, MountSource, Privileges, Rootfs, SandboxNetwork,
    SandboxSpec, Sharing, Ulimit,
};
use neargate_model::vpc::private_dns_name;
use neargate_model::{
    BridgeEndpoint, ContainerDefinition, ContainerId, ContainerName, DeviceMapping, LaunchType, Link,
    NetworkMode, TaskSpec, UlimitSetting, capability,
};

use crate::TaskImage;

/// Processes and threads that a task may have: far above what a service needs, far below what a host can.
const TASK_PIDS_MAX: u32 = 4096;

/// Where programs are looked for when neither image nor definition says so (Docker's default).
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Scratch space of a task on Fargate whose definition does not say (API reference, EphemeralStorage).
const FARGATE_STORAGE_GIB: u32 = 20;

const MIB: u64 = 1 << 20;

/// The sandbox of a task.
pub(crate) fn sandbox(spec: &TaskSpec, linux: bool, has_root: impl Fn(usize) -> bool) -> SandboxSpec {
    let limits = Limits {
        cpu_millis: spec.shape.cpu_units.map(cpu_millis),
        cpu_shares: spec.shape.cpu_units,
        memory_bytes: spec.shape.memory_mib.map(|mib| u64::from(mib) * MIB),
        memory_reservation_bytes: None,
        swap_bytes: swap_bytes(spec.shape.containers.iter().filter_map(|container| container.swap_mib).sum()),
        swappiness: None,
        pids_max: Some(TASK_PIDS_MAX),
    };
    let (network, sharing) = (network(spec, has_root), sharing(spec));
    SandboxSpec { task: spec.id.clone(), hostname: hostname(spec), limits, linux, network, sharing }
}

/// What the containers of a task share besides the network. One `/dev/shm` for all is as large as the largest that a
/// container asks for.
fn sharing(spec: &TaskSpec) -> Sharing {
    let sizes = spec.shape.containers.iter().filter_map(|container| container.shared_memory_mib);
    let shm_bytes = sizes.max().map(|mib| u64::from(mib) * MIB);
    Sharing { pids: spec.shape.pid_mode, ipc: spec.shape.ipc_mode, shm_bytes }
}

/// Which network a task has. One that containers have power over is made only where one of them needs it.
fn network(spec: &TaskSpec, has_root: impl Fn(usize) -> bool) -> SandboxNetwork {
    let is_of_network = |name: &String| {
        name == capability::EVERY || capability::bit(name).is_some_and(|bit| bit & capability::NETWORK != 0)
    };
    let manages = |container: &ContainerDefinition| {
        container.privileged || container.capabilities_add.iter().any(is_of_network)
    };
    let managed = spec.shape.containers.iter().any(manages);
    match (spec.shape.network_mode, &spec.network) {
        (NetworkMode::Host, _) => SandboxNetwork::Host,
        (NetworkMode::Awsvpc, Some(interface)) => {
            let mbps = spec.shape.network_mbps;
            SandboxNetwork::Vpc { interface: Box::new(interface.clone()), mbps, managed }
        }
        (NetworkMode::Bridge, _) if spec.bridge.is_some() => bridge(spec, managed, has_root),
        (NetworkMode::Awsvpc | NetworkMode::Bridge | NetworkMode::None, _) if managed => {
            SandboxNetwork::Managed
        }
        (NetworkMode::Awsvpc | NetworkMode::Bridge | NetworkMode::None, _) => SandboxNetwork::Own,
    }
}

/// The network of each container that has a root; Wasm listens on the host's ports itself.
fn bridge(spec: &TaskSpec, managed: bool, has_root: impl Fn(usize) -> bool) -> SandboxNetwork {
    let Some(network) = &spec.bridge else { return SandboxNetwork::Own };
    let address = |name: &ContainerName| {
        let index = spec.shape.containers.iter().position(|container| container.name == *name)?;
        Some(network.containers.get(index)?.address)
    };
    let endpoints = network.containers.iter().zip(&spec.shape.containers).zip(&spec.container_ids);
    let container =
        |((endpoint, definition), id): ((&BridgeEndpoint, &ContainerDefinition), &ContainerId)| {
            BridgedContainer {
                id: id.clone(),
                address: endpoint.address,
                ports: endpoint.ports.iter().flat_map(|binding| binding.each()).collect(),
                links: definition.links.iter().filter_map(|link| address(&link.container)).collect(),
            }
        };
    let rooted = endpoints.enumerate().filter(|(index, _)| has_root(*index));
    let containers: Vec<_> = rooted.map(|(_, endpoint)| container(endpoint)).collect();
    SandboxNetwork::Bridge { block: network.block, containers, managed }
}

/// The names that a container knows: its own, those of `extraHosts`, and those of containers that it is linked to.
pub(crate) fn names(spec: &TaskSpec, container: &ContainerDefinition) -> ContainerNames {
    let extra = container.extra_hosts.iter().map(|host| (host.address, host.hostname.clone()));
    let linked = |link: &Link| {
        let index = spec.shape.containers.iter().position(|other| other.name == link.container)?;
        let address = spec.bridge.as_ref()?.containers.get(index)?.address;
        let names = match link.container.as_str() {
            name if name == link.alias => name.to_owned(),
            name => format!("{} {name}", link.alias),
        };
        Some((IpAddr::V4(address), names))
    };
    ContainerNames {
        hostname: container.hostname.clone(),
        hosts: extra.chain(container.links.iter().filter_map(linked)).collect(),
        dns_servers: container.dns_servers.clone(),
        dns_search_domains: container.dns_search_domains.clone(),
    }
}

/// The ports of the host that lead to a container with a root, the first for each of its port mappings, in their order.
pub(crate) fn host_ports(spec: &TaskSpec, container: usize) -> Vec<u16> {
    if spec.shape.network_mode == NetworkMode::Host {
        let mappings = &spec.shape.containers[container].port_mappings;
        return mappings.iter().map(|mapping| mapping.container_port).collect();
    }
    let endpoint = spec.bridge.as_ref().and_then(|bridge| bridge.containers.get(container));
    endpoint
        .map(|endpoint| endpoint.ports.iter().map(|binding| binding.first.host_port).collect())
        .unwrap_or_default()
}

/// What the operator has allowed a container beyond what all have.
pub(crate) fn privileges(container: &ContainerDefinition) -> Privileges {
    let device = |device: &DeviceMapping| Device {
        source: device.host_path.clone(),
        target: PathBuf::from(&device.container_path),
        read: device.read,
        write: device.write,
    };
    Privileges { privileged: container.privileged, devices: container.devices.iter().map(device).collect() }
}

/// The name of its interface, or else the first twelve digits of the id, as Docker names its containers.
fn hostname(spec: &TaskSpec) -> String {
    if let Some(network) = &spec.network {
        return private_dns_name(&spec.scope.region, network.address);
    }
    spec.id.as_str().chars().take(12).collect()
}

/// CPU units as thousandths of a core.
fn cpu_millis(units: u32) -> u32 {
    u32::try_from(u64::from(units) * 1000 / 1024).unwrap_or(u32::MAX).max(1)
}

/// How much the task may write, in bytes; `None` is as much as there is.
pub(crate) fn storage_bytes(spec: &TaskSpec) -> Option<u64> {
    let default = (spec.launch_type == LaunchType::Fargate).then_some(FARGATE_STORAGE_GIB);
    spec.shape.ephemeral_storage_gib.or(default).map(|gib| u64::from(gib) << 30)
}

/// The container's own limits.
pub(crate) fn limits(container: &ContainerDefinition) -> Limits {
    let bytes = |mib: Option<u32>| mib.map(|mib| u64::from(mib) * MIB);
    Limits {
        cpu_millis: None,
        cpu_shares: Some(container.cpu_units.max(2)),
        memory_bytes: bytes(container.memory_mib),
        memory_reservation_bytes: bytes(container.memory_reservation_mib),
        swap_bytes: container.swap_mib.and_then(swap_bytes),
        swappiness: container.swappiness,
        pids_max: None,
    }
}

/// Swap in bytes; none where there is nothing to allow.
fn swap_bytes(mib: u32) -> Option<u64> {
    (mib > 0).then(|| u64::from(mib) * MIB)
}

/// Program and arguments: a definition's entry point also replaces the image's command, as in Docker.
pub(crate) fn argv(container: &ContainerDefinition, image: &TaskImage) -> Vec<String> {
    let entry_point = container.entry_point.as_ref().filter(|words| !words.is_empty());
    let image_cmd = if entry_point.is_some() { &[][..] } else { &image.cmd[..] };
    let cmd = container.command.as_deref().unwrap_or(image_cmd);
    entry_point.unwrap_or(&image.entrypoint).iter().chain(cmd).cloned().collect()
}

/// The image's environment under the definition's. Programs expect a `HOME`: root's own, or the root
/// directory for other users, whose home only the image's passwd file knows.
///
/// What is `told` of the task itself is in between, so that a definition can lead its programs elsewhere, and an image
/// cannot.
pub(crate) fn environment(
    container: &ContainerDefinition,
    image: &TaskImage,
    told: &[(String, String)],
) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    if matches!(image.rootfs, Rootfs::Layers(_)) {
        env.push(("PATH".to_owned(), PATH_DEFAULT.to_owned()));
        let user = container.user.as_deref().or(image.user.as_deref()).unwrap_or_default();
        let is_root = matches!(user.split(':').next(), Some("" | "0" | "root"));
        env.push(("HOME".to_owned(), if is_root { "/root" } else { "/" }.to_owned()));
    }
    for (name, value) in image.env.iter().chain(told).chain(&container.environment) {
        match env.iter_mut().find(|(earlier, _)| earlier == name) {
            Some(earlier) => earlier.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    env
}

/// The definition's working directory, else the image's, else the root.
pub(crate) fn working_dir(container: &ContainerDefinition, image: &TaskImage) -> PathBuf {
    let own = container.working_directory.as_ref().filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let dir = own.unwrap_or_else(|| image.working_dir.clone());
    if dir.as_os_str().is_empty() { PathBuf::from("/") } else { dir }
}

/// The container's mounts, given where each volume of the task is on the host.
pub(crate) fn mounts(spec: &TaskSpec, container: &ContainerDefinition, volumes: &[PathBuf]) -> Vec<Mount> {
    let volume = |mount: &neargate_model::MountPoint| {
        let index = spec.shape.volumes.iter().position(|volume| volume.name == mount.volume)?;
        Some(Mount {
            source: MountSource::Host(volumes.get(index)?.clone()),
            target: PathBuf::from(&mount.container_path),
            read_only: mount.read_only,
        })
    };
    let tmpfs = container.tmpfs.iter().map(|tmpfs| Mount {
        source: MountSource::Tmpfs {
            size_bytes: u64::from(tmpfs.size_mib) * MIB,
            options: tmpfs.options.clone(),
        },
        target: PathBuf::from(&tmpfs.container_path),
        read_only: tmpfs.read_only,
    });
    container.mount_points.iter().filter_map(volume).chain(tmpfs).collect()
}

/// The container's resource limits.
pub(crate) fn ulimits(settings: &[UlimitSetting]) -> Vec<Ulimit> {
    let value = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let ulimit = |setting: &UlimitSetting| Ulimit {
        name: setting.name.clone(),
        soft: value(setting.soft),
        hard: value(setting.hard),
    };
    settings.iter().map(ulimit).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use neargate_model::lifecycle::testing::{container, spec};
    use std::net::Ipv4Addr;

    use neargate_model::{BridgeNetwork, HostPort, IpcMode, PidMode, PortBinding, PortProtocol};

    use super::*;

    fn image() -> TaskImage {
        TaskImage {
            digest: String::new(),
            rootfs: Rootfs::Layers(Vec::new()),
            entrypoint: vec!["ep".to_owned()],
            cmd: vec!["cmd".to_owned()],
            env: vec![("A".to_owned(), "image".to_owned())],
            working_dir: PathBuf::new(),
            user: None,
            stop_signal: None,
            pin: Arc::new(()),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn argv_follows_docker() {
        let check = |entry_point: Option<&str>, command: Option<&str>, expect: &str| {
            let container = ContainerDefinition {
                entry_point: entry_point.map(words),
                command: command.map(words),
                ..container("a")
            };
            assert_eq!(argv(&container, &image()), words(expect));
        };
        check(None, None, "ep cmd");
        check(None, Some("other"), "ep other");
        check(Some("own"), None, "own");
        check(Some("own"), Some("other"), "own other");
        check(Some(""), Some(""), "ep");
    }

    #[test]
    fn later_variables_win() {
        let mut definition = container("a");
        definition.environment = vec![("A".to_owned(), "1".to_owned()), ("PATH".to_owned(), "/x".to_owned())];
        let pairs = |pairs: [(&str, &str); 3]| pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec();
        let expect = pairs([("PATH", "/x"), ("HOME", "/root"), ("A", "1")]);
        assert_eq!(environment(&definition, &image(), &[]), expect);
        definition.user = Some("daemon:daemon".to_owned());
        assert_eq!(environment(&definition, &image(), &[])[1].1, "/");
    }

    #[test]
    fn the_working_directory_is_never_empty() {
        let mut image = image();
        let check = |own: Option<&str>, image: &TaskImage, expect: &str| {
            let container =
                ContainerDefinition { working_directory: own.map(str::to_owned), ..container("a") };
            assert_eq!(working_dir(&container, image), PathBuf::from(expect));
        };
        check(None, &image, "/");
        check(Some(""), &image, "/");
        check(Some("/own"), &image, "/own");
        image.working_dir = PathBuf::from("/image");
        check(None, &image, "/image");
    }

    #[test]
    fn what_a_task_is_told_of_itself_is_between_image_and_definition() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let image = TaskImage { env: vec![pair("A", "image"), pair("B", "image")], ..image() };
        let definition = ContainerDefinition { environment: vec![pair("B", "own")], ..container("a") };
        let told = [pair("A", "told"), pair("B", "told"), pair("C", "told")];
        let environment = environment(&definition, &image, &told);
        for (name, value) in [("A", "told"), ("B", "own"), ("C", "told")] {
            assert!(environment.contains(&pair(name, value)), "{environment:?}");
        }
    }

    #[test]
    fn storage_is_the_definitions_or_that_of_fargate() {
        let mut task = spec(vec![container("a")]);
        assert_eq!(storage_bytes(&task), Some(20 << 30));
        task.launch_type = LaunchType::Ec2;
        assert_eq!(storage_bytes(&task), None);
        task.shape.ephemeral_storage_gib = Some(21);
        assert_eq!(storage_bytes(&task), Some(21 << 30));
    }

    #[test]
    fn the_network_is_the_containers_where_one_manages_it() {
        let check = |change: fn(&mut TaskSpec), expect| {
            let mut task = spec(vec![container("a"), container("b")]);
            change(&mut task);
            assert_eq!(network(&task, |_| true), expect);
        };
        let adds = |task: &mut TaskSpec, name: &str| {
            task.shape.containers[1].capabilities_add.push(name.to_owned());
        };
        check(|_| {}, SandboxNetwork::Own);
        check(|task| task.shape.containers[1].privileged = true, SandboxNetwork::Managed);
        check(|task| task.shape.network_mode = NetworkMode::Host, SandboxNetwork::Host);
        for (name, expect) in [
            ("SYS_PTRACE", SandboxNetwork::Own),
            ("NET_RAW", SandboxNetwork::Managed),
            ("ALL", SandboxNetwork::Managed),
        ] {
            let mut task = spec(vec![container("a"), container("b")]);
            adds(&mut task, name);
            assert_eq!(network(&task, |_| true), expect, "{name}");
        }
    }

    #[test]
    fn under_bridge_each_container_has_its_own() {
        let mut task = spec(vec![container("a"), container("b"), container("wasm")]);
        task.shape.network_mode = NetworkMode::Bridge;
        assert_eq!(network(&task, |_| true), SandboxNetwork::Own, "loopback only where there is no router");
        let port = HostPort { protocol: PortProtocol::Udp, host_port: 61_000, container_port: 53 };
        let binding = PortBinding { first: port, more_ports: 1 };
        let endpoint =
            |last| BridgeEndpoint { address: Ipv4Addr::new(172, 30, 0, last), ports: vec![binding] };
        let containers = (16..19).map(endpoint).collect();
        task.bridge = Some(BridgeNetwork { block: "172.30.0.0/16".parse().unwrap(), containers });
        task.shape.containers[0].links =
            vec![Link { container: ContainerName::new("b").unwrap(), alias: "db".to_owned() }];
        let SandboxNetwork::Bridge { containers, managed: false, .. } = network(&task, |index| index < 2)
        else {
            panic!("a network of another kind");
        };
        assert_eq!(containers.len(), 2);
        assert_eq!(
            (&containers[0].links[..], &containers[1].links[..]),
            (&[containers[1].address][..], &[][..])
        );
        let next = HostPort { host_port: 61_001, container_port: 54, ..port };
        assert_eq!(containers[1].ports, [port, next]);
        assert_eq!(host_ports(&task, 1), [61_000]);
        let names = names(&task, &task.shape.containers[0]);
        assert_eq!(names.hosts, [(containers[1].address.into(), "db b".to_owned())]);
    }

    #[test]
    fn what_is_shared_comes_from_the_definition() {
        let mut task = spec(vec![container("a"), container("b")]);
        assert_eq!(sharing(&task), Sharing::default());
        task.shape.pid_mode = PidMode::Task;
        task.shape.ipc_mode = IpcMode::Task;
        task.shape.containers[0].shared_memory_mib = Some(8);
        task.shape.containers[1].shared_memory_mib = Some(100);
        let expect = Sharing { pids: PidMode::Task, ipc: IpcMode::Task, shm_bytes: Some(100 << 20) };
        assert_eq!(sandbox(&task, true, |_| true).sharing, expect);
    }

    #[test]
    fn limits_come_from_the_definition() {
        let spec = spec(vec![container("a")]);
        let sandbox = sandbox(&spec, true, |_| true);
        assert_eq!(sandbox.limits.cpu_millis, Some(250));
        assert_eq!(sandbox.limits.memory_bytes, Some(512 << 20));
        assert_eq!(sandbox.hostname, "000000000000");
        let small = ContainerDefinition { memory_mib: Some(6), ..container("a") };
        assert_eq!(limits(&small).memory_bytes, Some(6 << 20));
        assert_eq!(limits(&small).cpu_shares, Some(2));
        let swapping =
            |mib| ContainerDefinition { swap_mib: Some(mib), swappiness: Some(10), ..small.clone() };
        assert_eq!(limits(&swapping(0)).swap_bytes, None);
        assert_eq!(
            (limits(&swapping(3)).swap_bytes, limits(&swapping(3)).swappiness),
            (Some(3 << 20), Some(10))
        );
        let both = super::sandbox(
            &neargate_model::lifecycle::testing::spec(vec![swapping(3), swapping(4)]),
            true,
            |_| true,
        );
        assert_eq!(
            both.limits.swap_bytes,
            Some(7 << 20),
            "the task may swap what its containers may together"
        );
    }
}
