//! What only Wasm containers need of the node: a tenant, listening sockets, and a few refusals.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::OwnedFd;

use neargate_driver::ProcessUser;
use neargate_model::{ContainerDefinition, PortMapping, PortProtocol, TaskSpec, WasmIsolation};
use nix::sys::socket::{Backlog, listen as set_backlog};

/// Ports below this one need a privilege (ip(7), `ip_unprivileged_port_start`).
const PRIVILEGED_PORTS_BELOW: u16 = 1024;

/// The listening sockets of a container, in the order of its port mappings.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) sockets: Vec<OwnedFd>,
    pub(crate) ports: Vec<u16>,
}

/// Why a port mapping has no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error(
        "listen on port {port}: it is in use; `ss -ltnp` shows by whom; map the container to another hostPort, or to 0 for any free one"
    )]
    InUse { port: u16 },
    #[error(
        "listen on port {port}: ports below {PRIVILEGED_PORTS_BELOW} need root; map the container to another hostPort"
    )]
    Privileged { port: u16 },
    #[error("listen on {address} port {port}")]
    System {
        address: IpAddr,
        port: u16,
        #[source]
        source: io::Error,
    },
}

/// Makes the sockets of port mappings. A container that is started again listens where it did before.
pub(crate) fn listen(
    address: IpAddr,
    mappings: &[PortMapping],
    earlier: &[u16],
) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners { sockets: Vec::new(), ports: Vec::new() };
    for (index, mapping) in mappings.iter().enumerate() {
        let wanted = earlier.get(index).copied().or(mapping.host_port).unwrap_or(0);
        let (socket, port) = listen_on(address, wanted).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { port: wanted },
            io::ErrorKind::PermissionDenied if wanted < PRIVILEGED_PORTS_BELOW => {
                ListenError::Privileged { port: wanted }
            }
            _ => ListenError::System { address, port: wanted, source },
        })?;
        listeners.sockets.push(socket);
        listeners.ports.push(port);
    }
    Ok(listeners)
}

/// std sets `SO_REUSEADDR`, so that connections of an earlier life that linger do not keep the port.
fn listen_on(address: IpAddr, port: u16) -> io::Result<(OwnedFd, u16)> {
    let listener = TcpListener::bind((address, port))?;
    listener.set_nonblocking(true)?;
    // std asks for a queue of 128, which a burst of clients overflows; asking again changes it (listen(2)).
    set_backlog(&listener, Backlog::MAXCONN)?;
    let port = listener.local_addr()?.port();
    Ok((listener.into(), port))
}

/// Whose workers run the task's Wasm: its account's, or its cluster's own. No two tenants share a process.
pub(crate) fn tenant(spec: &TaskSpec) -> String {
    match spec.own_workers {
        true => format!("{}-{}-{}", spec.scope.account, spec.scope.region, spec.cluster),
        false => spec.scope.account.to_string(),
    }
}

/// Whose files a container may use: nobody's when it mounts nothing.
pub(crate) fn files_of(container: &ContainerDefinition, mounted: ProcessUser) -> ProcessUser {
    if container.mount_points.is_empty() { ProcessUser::Nobody } else { mounted }
}

/// Whether the container's isolation needs a cgroup of its own, which only a sandbox has.
pub(crate) fn needs_sandbox(container: &ContainerDefinition) -> bool {
    match container.wasm.isolation {
        WasmIsolation::Shared => false,
        WasmIsolation::Thread | WasmIsolation::Process => true,
    }
}

/// Refuses what would silently not do what it promises.
pub(crate) fn check(
    container: &ContainerDefinition,
    has_sandboxes: bool,
    has_own_network: bool,
) -> Result<(), String> {
    if needs_sandbox(container) && !has_sandboxes {
        let class = match container.wasm.isolation {
            WasmIsolation::Thread => "thread",
            WasmIsolation::Shared | WasmIsolation::Process => "process",
        };
        return Err(format!(
            "isolation {class} needs a cgroup of its own, and so root: start `neargate` as root, or use isolation shared"
        ));
    }
    // In a network of its own it can open a socket there by itself.
    let has_udp = || container.port_mappings.iter().any(|mapping| mapping.protocol == PortProtocol::Udp);
    if !has_own_network && has_udp() {
        return Err("a Wasm container listens by TCP only on the host; map no port of udp to it, or give the task an interface"
            .to_owned());
    }
    if container.port_mappings.iter().any(|mapping| mapping.more_ports > 0) {
        return Err(
            "a Wasm container listens on single ports; map each, and no containerPortRange".to_owned()
        );
    }
    if container.privileged || !container.devices.is_empty() {
        return Err("a Wasm container can neither be privileged nor have devices; take that away, or use another image"
            .to_owned());
    }
    if container.wasm.isolation == WasmIsolation::Process && container.wasm.host_network {
        return Err(
            "isolation process is in the task's own network, from which the host's cannot be reached; \
                    use isolation thread or shared, or leave the host's network away"
                .to_owned(),
        );
    }
    if container.health_check.as_ref().is_some_and(|check| needs_shell(&check.argv)) {
        return Err("its health check needs a shell, and a Wasm container has none; give the command as \
                    CMD and words instead of CMD-SHELL"
            .to_owned());
    }
    Ok(())
}

/// Whether words are for a shell, and more than a few words: the driver takes plain ones as they are.
fn needs_shell(argv: &[String]) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || " -_./:=,@%+".contains(c);
    matches!(argv, [shell, flag, text] if shell == "/bin/sh" && flag == "-c" && !text.chars().all(is_plain))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use neargate_model::HealthCheck;
    use neargate_model::lifecycle::testing::{container, spec};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn mapping(host_port: Option<u16>) -> PortMapping {
        PortMapping { protocol: PortProtocol::Tcp, container_port: 80, more_ports: 0, host_port, name: None }
    }

    #[test]
    fn ports_are_kept_and_named_when_taken() {
        let mappings = [mapping(None), mapping(Some(0))];
        let first = listen(LOOPBACK, &mappings, &[]).unwrap();
        assert_eq!(first.sockets.len(), 2);
        assert!(first.ports.iter().all(|&port| port != 0) && first.ports[0] != first.ports[1]);
        let taken = listen(LOOPBACK, &[mapping(Some(first.ports[0]))], &[]).unwrap_err();
        assert!(taken.to_string().starts_with(&format!("listen on port {}: it is in use", first.ports[0])));
        let ports = first.ports.clone();
        drop(first);
        assert_eq!(listen(LOOPBACK, &mappings, &ports).unwrap().ports, ports);
    }

    #[test]
    fn tenants_are_accounts_or_clusters() {
        let mut task = spec(vec![container("a")]);
        assert_eq!(tenant(&task), "123456789012");
        task.own_workers = true;
        assert_eq!(tenant(&task), "123456789012-us-east-1-c");
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let check_argv = |argv: &[&str]| {
            let argv = argv.iter().map(|word| (*word).to_owned()).collect();
            let check = HealthCheck { argv, interval_s: 5, timeout_s: 2, retries: 3, start_period_s: 0 };
            ContainerDefinition { health_check: Some(check), ..container("a") }
        };
        let isolated = |isolation| {
            let mut container = container("a");
            container.wasm.isolation = isolation;
            container
        };
        let expect = |container: &ContainerDefinition, has_sandboxes, expect: Option<&str>| {
            let refusal = check(container, has_sandboxes, false).err();
            match (&refusal, expect) {
                (None, None) => {}
                (Some(refusal), Some(part)) => assert!(refusal.contains(part), "{refusal}"),
                _ => panic!("{refusal:?} instead of {expect:?}"),
            }
        };
        expect(&container("a"), false, None);
        expect(&check_argv(&["healthy"]), false, None);
        expect(&check_argv(&["/bin/sh", "-c", "healthy --deep"]), true, None);
        expect(&check_argv(&["/bin/sh", "-c", "healthy || exit 1"]), true, Some("CMD-SHELL"));
        expect(&isolated(WasmIsolation::Thread), true, None);
        expect(&isolated(WasmIsolation::Thread), false, Some("isolation thread needs"));
        expect(&isolated(WasmIsolation::Process), false, Some("isolation process needs"));
        let on_the_host = |isolation| {
            let mut container = isolated(isolation);
            container.wasm.host_network = true;
            container
        };
        expect(&on_the_host(WasmIsolation::Shared), true, None);
        expect(&on_the_host(WasmIsolation::Thread), true, None);
        expect(&on_the_host(WasmIsolation::Process), true, Some("the host's cannot be reached"));
        let mut datagrams = container("a");
        datagrams.port_mappings.push(PortMapping { protocol: PortProtocol::Udp, ..mapping(None) });
        expect(&datagrams, true, Some("by TCP only"));
        assert_eq!(check(&datagrams, true, true), Ok(()));
    }

    #[test]
    fn a_container_without_mounts_has_nobodys_files() {
        let mut with_mount = container("a");
        with_mount.mount_points.push(neargate_model::MountPoint {
            volume: "v".to_owned(),
            container_path: "/v".to_owned(),
            read_only: true,
        });
        assert_eq!(files_of(&container("a"), ProcessUser::Volumes), ProcessUser::Nobody);
        assert_eq!(files_of(&with_mount, ProcessUser::Volumes), ProcessUser::Volumes);
    }
}
