//! Port mappings: ECS's rules for each network mode (API reference, PortMapping).

use std::ops::RangeInclusive;

use neargate_model::{ContainerDefinition, NetworkMode, PortMapping, PortProtocol};
use neargate_wire::ecs;
use neargate_wire::ecs::EcsError;

use super::error::client;

/// At most this many for a container, as for a container instance (API reference, PortMapping).
const MAPPINGS_MAX: usize = 100;
/// Ports of all ranges of a container under `bridge`: each takes a socket, and three elements of the packet filter that
/// are sent in one message.
const BRIDGED_MAX: u32 = 1000;

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
        check_beside(&mapping, &mappings).map_err(|why| refusal(container, &why))?;
        mappings.push(mapping);
    }
    let ports: u32 = mappings.iter().map(|mapping| u32::from(mapping.more_ports) + 1).sum();
    if mode == NetworkMode::Bridge && ports > BRIDGED_MAX {
        return refuse(&format!("with networkMode bridge a container has at most {BRIDGED_MAX} ports"));
    }
    Ok(mappings)
}

/// A name is used once, and a port is in no range but one.
fn check_beside(mapping: &PortMapping, earlier: &[PortMapping]) -> Result<(), String> {
    if let Some(name) = &mapping.name
        && earlier.iter().any(|earlier| earlier.name.as_ref() == Some(name))
    {
        return Err(format!("the name {name:.64?} is used twice"));
    }
    let ports = mapping.container_ports();
    let overlaps = |earlier: &&PortMapping| {
        earlier.protocol == mapping.protocol && overlap(&earlier.container_ports(), &ports)
    };
    match earlier.iter().find(overlaps) {
        Some(earlier) if earlier.more_ports > 0 || mapping.more_ports > 0 => {
            let (first, last) = ports.into_inner();
            Err(format!("containerPortRange {first}-{last} overlaps another mapping"))
        }
        Some(_) | None => Ok(()),
    }
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
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
    let (container_port, more_ports) = match &input.container_port_range {
        Some(range) => container_range(range, input, mode)?,
        None => (container_port(input)?, 0),
    };
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
    Ok(PortMapping { protocol, container_port, more_ports, host_port, name })
}

fn container_port(input: &ecs::PortMapping) -> Result<u16, &'static str> {
    let port = input.container_port.and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0);
    port.ok_or("containerPort must be between 1 and 65535")
}

/// The first port of a range, and how many follow; ECS chooses the ports of the host (API reference, PortMapping).
fn container_range(range: &str, input: &ecs::PortMapping, mode: NetworkMode) -> Result<(u16, u16), String> {
    if !matches!(mode, NetworkMode::Bridge | NetworkMode::Awsvpc) {
        return Err("containerPortRange needs networkMode bridge or awsvpc".to_owned());
    }
    if input.container_port.is_some() || input.host_port.is_some() {
        return Err("containerPortRange goes with neither containerPort nor hostPort".to_owned());
    }
    // Digits alone: a number may begin with `+` for `parse`.
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok())?;
    let ends = range.split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
    match ends {
        Some((first, last)) if first > 0 && first < last => Ok((first, last - first)),
        _ => Err(format!(
            "containerPortRange {range:.32?} is not of the form FIRST-LAST, between 1 and 65535 and the first below the last"
        )),
    }
}

/// Two containers of one task cannot have the same port of the host.
pub(super) fn check_host_ports(containers: &[ContainerDefinition]) -> Result<(), EcsError> {
    let mut taken: Vec<(PortProtocol, RangeInclusive<u16>)> = Vec::new();
    for container in containers {
        let ports = container.port_mappings.iter();
        let ports = ports.filter_map(|mapping| Some((mapping.protocol, mapping.host_ports()?)));
        for (protocol, ports) in ports {
            let overlaps =
                |earlier: &&(PortProtocol, _)| earlier.0 == protocol && overlap(&earlier.1, &ports);
            if let Some((_, earlier)) = taken.iter().find(overlaps) {
                let port = earlier.start().max(ports.start());
                let why = format!("port {port} of the host is mapped twice");
                return Err(refusal(container.name.as_str(), &why));
            }
            taken.push((protocol, ports));
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
    }

    fn range(range: &str) -> ecs::PortMapping {
        ecs::PortMapping { container_port_range: Some(range.to_owned()), ..Default::default() }
    }

    #[test]
    fn ranges_have_two_ends_and_overlap_nothing() {
        let check = |mode, input: &[ecs::PortMapping], expect: Result<(u16, u16, Option<u16>), &str>| {
            let found = mappings(input, "main", mode).map_err(message);
            match (&found, expect) {
                (Ok(found), Ok(expect)) => {
                    assert_eq!((found[0].container_port, found[0].more_ports, found[0].host_port), expect);
                }
                (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
                _ => panic!("{found:?} instead of {expect:?}"),
            }
        };
        use NetworkMode::{Awsvpc, Bridge, Host};
        check(Bridge, &[range("80-84")], Ok((80, 4, None)));
        check(Bridge, &[range("1-1000")], Ok((1, 999, None)));
        check(Bridge, &[range("1-1000"), tcp(2000, None)], Err("at most 1000 ports"));
        check(Awsvpc, &[range("1-65535")], Ok((1, 65_534, Some(1))));
        check(Host, &[range("80-84")], Err("needs networkMode bridge or awsvpc"));
        for malformed in
            ["", "80", "80-", "-80", "84-80", "80-80", "0-3", "80-65536", "+80-84", "80-84-90", "a-b"]
        {
            check(Bridge, &[range(malformed)], Err("is not of the form FIRST-LAST"));
        }
        check(Bridge, &[ecs::PortMapping { host_port: Some(0), ..range("80-84") }], Err("goes with neither"));
        check(
            Bridge,
            &[ecs::PortMapping { container_port: Some(80), ..range("80-84") }],
            Err("goes with neither"),
        );
        check(Bridge, &[tcp(82, None), range("80-84")], Err("80-84 overlaps"));
        check(Bridge, &[range("80-84"), range("84-90")], Err("84-90 overlaps"));
        let udp = ecs::PortMapping { protocol: Some(ecs::TransportProtocol::Udp), ..range("80-84") };
        check(Bridge, &[range("80-84"), udp, range("85-90")], Ok((80, 4, None)));
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
        let mut ranged = container("c");
        ranged.port_mappings = mappings(&[range("70-90")], "c", NetworkMode::Awsvpc).unwrap();
        let twice = check_host_ports(&[ranged, with("a", Some(80))]).unwrap_err();
        assert!(message(twice).contains("container 'a': port 80 of the host is mapped twice"));
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
