//! Port mappings: ECS's rules for each network mode (API reference, PortMapping).

use neargate_model::{ContainerDefinition, NetworkMode, PortMapping, PortProtocol};
use neargate_wire::ecs;
use neargate_wire::ecs::EcsError;

use super::error::client;

/// At most this many for a container, as for a container instance (API reference, PortMapping).
const MAPPINGS_MAX: usize = 100;

/// The port mappings of a container. Under `awsvpc` the host's port is the container's.
pub(super) fn mappings(
    input: &[ecs::PortMapping],
    container: &str,
    mode: NetworkMode,
) -> Result<Vec<PortMapping>, EcsError> {
    let refuse = |why: &str| Err(refusal(container, why));
    if input.is_empty() {
        return Ok(Vec::new());
    }
    if mode == NetworkMode::None {
        return refuse("networkMode none has no network to map ports to");
    }
    if input.len() > MAPPINGS_MAX {
        return refuse(&format!("there are more than {MAPPINGS_MAX}"));
    }
    let mut mappings = Vec::with_capacity(input.len());
    for one in input {
        let mapping = mapping(one, mode).map_err(|why| refusal(container, &why))?;
        if let Some(name) = &mapping.name
            && mappings.iter().any(|earlier: &PortMapping| earlier.name.as_ref() == Some(name))
        {
            return refuse(&format!("the name {name:.64?} is used twice"));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn refusal(container: &str, why: &str) -> EcsError {
    client(format!("Invalid 'portMappings' of container '{container}': {why}."))
}

fn mapping(input: &ecs::PortMapping, mode: NetworkMode) -> Result<PortMapping, String> {
    let protocol = match &input.protocol {
        None | Some(ecs::TransportProtocol::Tcp) => PortProtocol::Tcp,
        Some(ecs::TransportProtocol::Udp) => PortProtocol::Udp,
        Some(other) => return Err(format!("there is no protocol {:.32}", other.as_str())),
    };
    if input.container_port_range.is_some() {
        return Err("containerPortRange is not supported by Neargate; map each port".to_owned());
    }
    let container_port =
        input.container_port.and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
    let container_port = container_port.ok_or("containerPort must be between 1 and 65535")?;
    let host_port = input.host_port.map(u16::try_from).transpose();
    let host_port = host_port.map_err(|_| "hostPort must be between 0 and 65535")?;
    let host_port = match (mode, host_port.filter(|&port| port > 0)) {
        (NetworkMode::Awsvpc | NetworkMode::Host, Some(port)) if port != container_port => {
            return Err(format!(
                "with this networkMode hostPort {port} must be containerPort {container_port} or absent"
            ));
        }
        (NetworkMode::Awsvpc | NetworkMode::Host, _) => Some(container_port),
        (NetworkMode::Bridge | NetworkMode::None, port) => port,
    };
    let name = input.name.clone().filter(|name| !name.is_empty());
    Ok(PortMapping { protocol, container_port, host_port, name })
}

/// Two containers of one task cannot have the same port of the host.
pub(super) fn check_host_ports(containers: &[ContainerDefinition]) -> Result<(), EcsError> {
    let mut taken: Vec<(PortProtocol, u16)> = Vec::new();
    for container in containers {
        let ports = container.port_mappings.iter();
        let ports = ports.filter_map(|mapping| Some((mapping.protocol, mapping.host_port?)));
        for (protocol, port) in ports {
            if taken.contains(&(protocol, port)) {
                let why = format!("port {port} of the host is mapped twice");
                return Err(refusal(container.name.as_str(), &why));
            }
            taken.push((protocol, port));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::container;

    use super::*;

    fn tcp(container_port: i32, host_port: Option<i32>) -> ecs::PortMapping {
        ecs::PortMapping { container_port: Some(container_port), host_port, ..Default::default() }
    }

    fn message(error: EcsError) -> String {
        match error {
            EcsError::Client { message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_network_mode_decides_over_the_hosts_port() {
        let check = |mode, input: ecs::PortMapping, expect: Result<(u16, Option<u16>), &str>| {
            let found = mappings(&[input], "main", mode).map_err(message);
            match (&found, expect) {
                (Ok(found), Ok(expect)) => {
                    assert_eq!((found[0].container_port, found[0].host_port), expect);
                }
                (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                _ => panic!("{found:?} instead of {expect:?}"),
            }
        };
        use NetworkMode::{Awsvpc, Bridge, None as Nothing};
        check(Bridge, tcp(80, None), Ok((80, None)));
        check(Bridge, tcp(80, Some(0)), Ok((80, None)));
        check(Bridge, tcp(80, Some(8080)), Ok((80, Some(8080))));
        check(Awsvpc, tcp(80, None), Ok((80, Some(80))));
        check(Awsvpc, tcp(80, Some(80)), Ok((80, Some(80))));
        check(Awsvpc, tcp(80, Some(81)), Err("hostPort 81 must be containerPort 80 or absent"));
        check(Nothing, tcp(80, None), Err("networkMode none"));
        check(Bridge, tcp(0, None), Err("containerPort must be"));
        check(Bridge, tcp(65_536, None), Err("containerPort must be"));
        check(Bridge, tcp(80, Some(-1)), Err("hostPort must be"));
        let udp = ecs::PortMapping { protocol: Some(ecs::TransportProtocol::Udp), ..tcp(53, None) };
        check(Bridge, udp, Ok((53, None)));
        let range = ecs::PortMapping { container_port_range: Some("1-5".to_owned()), ..Default::default() };
        check(Bridge, range, Err("containerPortRange"));
    }

    #[test]
    fn a_port_of_the_host_is_had_once() {
        let with = |name: &str, port| {
            let mut container = container(name);
            container.port_mappings = mappings(&[tcp(80, port)], name, NetworkMode::Bridge).unwrap();
            container
        };
        assert!(check_host_ports(&[with("a", None), with("b", None)]).is_ok());
        assert!(check_host_ports(&[with("a", Some(80)), with("b", Some(81))]).is_ok());
        let twice = check_host_ports(&[with("a", Some(80)), with("b", Some(80))]).unwrap_err();
        assert!(message(twice).contains("container 'b': port 80 of the host is mapped twice"));
        let mut udp = with("b", Some(80));
        udp.port_mappings[0].protocol = PortProtocol::Udp;
        assert!(check_host_ports(&[with("a", Some(80)), udp]).is_ok());
    }

    #[test]
    fn names_and_numbers_are_bounded() {
        let named = |name: &str| ecs::PortMapping { name: Some(name.to_owned()), ..tcp(80, None) };
        assert!(mappings(&[named("a"), named("b")], "main", NetworkMode::Bridge).is_ok());
        assert!(mappings(&[named("a"), named("a")], "main", NetworkMode::Bridge).is_err());
        let many: Vec<_> = (1..=101).map(|port| tcp(port, None)).collect();
        assert!(mappings(&many[..100], "main", NetworkMode::Bridge).is_ok());
        assert!(mappings(&many, "main", NetworkMode::Bridge).is_err());
    }
}
