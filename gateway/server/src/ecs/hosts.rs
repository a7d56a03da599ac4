//! What a container definition says of names: its own, those of other containers and hosts, and who is asked for more
//! (API reference, ContainerDefinition).

use std::net::IpAddr;

use neargate_model::{
    Condition, ContainerDefinition, ContainerName, Dependency, ExtraHost, Link, NetworkMode,
};
use neargate_wire::ecs;
use neargate_wire::ecs::EcsError;

use super::error::client;

/// At most this many of each for a container, so that its files stay small: more than Docker's daemon is ever given.
const ENTRIES_MAX: usize = 100;
/// Name servers and domains that a resolver looks at (resolv.conf(5), `MAXNS` and `MAXDNSRCH`).
const SERVERS_MAX: usize = 3;
const DOMAINS_MAX: usize = 6;
/// Bytes of a host name (hostname(7)).
const NAME_BYTES_MAX: usize = 253;
const HOSTNAME_BYTES_MAX: usize = 64;

/// The names that a definition has, read.
pub(super) struct Names {
    pub(super) links: Vec<Link>,
    pub(super) hostname: Option<String>,
    pub(super) extra_hosts: Vec<ExtraHost>,
    pub(super) dns_servers: Vec<IpAddr>,
    pub(super) dns_search_domains: Vec<String>,
}

/// Reads them; with an interface of the task's own ECS takes none of them.
pub(super) fn names(
    input: &ecs::ContainerDefinition,
    container: &ContainerName,
    mode: NetworkMode,
) -> Result<Names, EcsError> {
    check_mode(input, mode)?;
    let refuse = |what: &str, why: String| invalid(container, what, &why);
    let links = read(&input.links, ENTRIES_MAX, link).map_err(|why| refuse("links", why))?;
    let extra_hosts =
        read(&input.extra_hosts, ENTRIES_MAX, extra_host).map_err(|why| refuse("extraHosts", why))?;
    let dns_servers = read(&input.dns_servers, SERVERS_MAX, |text| address(text))
        .map_err(|why| refuse("dnsServers", why))?;
    let domain = |text: &String| name(text, NAME_BYTES_MAX);
    let dns_search_domains = read(&input.dns_search_domains, DOMAINS_MAX, domain)
        .map_err(|why| refuse("dnsSearchDomains", why))?;
    let hostname = input.hostname.as_ref().filter(|hostname| !hostname.is_empty());
    let hostname = hostname.map(|hostname| name(hostname, HOSTNAME_BYTES_MAX)).transpose();
    let hostname = hostname.map_err(|why| refuse("hostname", why))?;
    Ok(Names { links, hostname, extra_hosts, dns_servers, dns_search_domains })
}

fn check_mode(input: &ecs::ContainerDefinition, mode: NetworkMode) -> Result<(), EcsError> {
    let has_links = is_given(&input.links);
    let refused = match mode {
        NetworkMode::Awsvpc if has_links => "Links are not supported when networkMode=awsvpc.",
        NetworkMode::Awsvpc if is_given(&input.extra_hosts) => {
            "Extra hosts are not supported when networkMode=awsvpc."
        }
        NetworkMode::Awsvpc if is_given(&input.dns_servers) => {
            "DNS servers are not supported on container when networkMode=awsvpc."
        }
        NetworkMode::Awsvpc if is_given(&input.dns_search_domains) => {
            "DNS search domains are not supported on container when networkMode=awsvpc."
        }
        NetworkMode::Awsvpc if input.hostname.as_ref().is_some_and(|hostname| !hostname.is_empty()) => {
            "hostname is not supported on container when networkMode=awsvpc."
        }
        NetworkMode::Host if has_links => "Links are not supported when networkMode=host.",
        NetworkMode::None if has_links => "Links are not supported when networkMode=none.",
        _ => return Ok(()),
    };
    Err(client(refused))
}

fn is_given<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

fn invalid(container: &ContainerName, what: &str, why: &str) -> EcsError {
    client(format!("Invalid '{what}' of container '{container}': {why}."))
}

fn read<T, R>(
    input: &Option<Vec<T>>,
    max: usize,
    read: impl Fn(&T) -> Result<R, String>,
) -> Result<Vec<R>, String> {
    let input = input.as_deref().unwrap_or_default();
    if input.len() > max {
        return Err(format!("there are more than {max}"));
    }
    input.iter().map(read).collect()
}

/// `name:alias`, or `name` alone.
fn link(text: &String) -> Result<Link, String> {
    let (container, alias) = text.split_once(':').unwrap_or((text, text));
    let container = ContainerName::new(container)
        .map_err(|_| format!("{text:.128?} does not begin with a container's name"))?;
    // An alias is written as a host's name, and a container's name may have what those have not.
    ContainerName::new(alias).map_err(|_| format!("{text:.128?} does not end with a name"))?;
    Ok(Link { container, alias: alias.to_owned() })
}

fn extra_host(input: &ecs::HostEntry) -> Result<ExtraHost, String> {
    Ok(ExtraHost { hostname: name(&input.hostname, NAME_BYTES_MAX)?, address: address(&input.ip_address)? })
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:.64?} is not an IP address"))
}

/// A name as files of names have it: nothing that would end its line or its word.
fn name(text: &str, bytes_max: usize) -> Result<String, String> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = !text.is_empty()
        && text.len() <= bytes_max
        && text.bytes().all(is_of_name)
        && !text.starts_with(['-', '.'])
        && !text.ends_with('-');
    match is_name {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:.64?} is not a host name of at most {bytes_max} letters, digits, hyphens, underscores and dots"
        )),
    }
}

/// Has every container start after those that it is linked to, as ECS's agent does; so links that go in a circle are
/// refused as such dependencies are.
pub(super) fn order_by_links(containers: &mut [ContainerDefinition]) -> Result<(), EcsError> {
    let names: Vec<ContainerName> = containers.iter().map(|container| container.name.clone()).collect();
    for container in containers {
        for Link { container: other, .. } in container.links.clone() {
            if other == container.name || !names.contains(&other) {
                let why =
                    format!("it cannot be linked to {other}, which is not another container of the task");
                return Err(invalid(&container.name, "links", &why));
            }
            if !container.depends_on.iter().any(|dependency| dependency.container == other) {
                container.depends_on.push(Dependency { container: other, condition: Condition::Start });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use neargate_model::lifecycle::testing::{container, shape};

    use super::*;

    fn message(error: EcsError) -> String {
        match error {
            EcsError::Client { message } => message,
            other => panic!("{other:?}"),
        }
    }

    fn read(mode: NetworkMode, change: impl Fn(&mut ecs::ContainerDefinition)) -> Result<Names, String> {
        let mut input = ecs::ContainerDefinition::default();
        change(&mut input);
        names(&input, &ContainerName::new("main").unwrap(), mode).map_err(message)
    }

    fn texts(texts: &[&str]) -> Option<Vec<String>> {
        Some(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn what_is_named_is_read() {
        let found = read(NetworkMode::Bridge, |input| {
            input.links = texts(&["db:database", "cache"]);
            input.hostname = Some("web.example.org".to_owned());
            input.extra_hosts =
                Some(vec![ecs::HostEntry { hostname: "a_b".to_owned(), ip_address: "fd00::1".to_owned() }]);
            input.dns_servers = texts(&["10.0.0.2", "::1"]);
            input.dns_search_domains = texts(&["example.org", "a.test"]);
        });
        let found = found.unwrap();
        let links: Vec<_> =
            found.links.iter().map(|link| (link.container.as_str(), link.alias.as_str())).collect();
        assert_eq!(links, [("db", "database"), ("cache", "cache")]);
        assert_eq!(found.hostname.as_deref(), Some("web.example.org"));
        assert_eq!(found.extra_hosts[0].address, "fd00::1".parse::<IpAddr>().unwrap());
        assert_eq!((found.dns_servers.len(), found.dns_search_domains.len()), (2, 2));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let check = |change: fn(&mut ecs::ContainerDefinition), expect: &str| {
            let found = read(NetworkMode::Bridge, change).err().unwrap_or_default();
            assert!(found.contains(expect), "{found:?} lacks {expect:?}");
        };
        check(|input| input.links = texts(&["a b"]), "Invalid 'links' of container 'main'");
        check(|input| input.links = texts(&["a:b\nc"]), "does not end with a name");
        check(|input| input.hostname = Some("a\nb".to_owned()), "Invalid 'hostname'");
        check(|input| input.hostname = Some("a".repeat(65)), "at most 64");
        check(|input| input.dns_servers = texts(&["localhost"]), "is not an IP address");
        check(|input| input.dns_servers = texts(&["1.1.1.1"; 4]), "more than 3");
        check(|input| input.dns_search_domains = texts(&["a b"]), "Invalid 'dnsSearchDomains'");
        let host = |hostname: &str, ip: &str| {
            Some(vec![ecs::HostEntry { hostname: hostname.to_owned(), ip_address: ip.to_owned() }])
        };
        for (hostname, ip) in [("a", "1.2.3"), ("a b", "1.2.3.4"), ("", "1.2.3.4"), ("-a", "1.2.3.4")] {
            let found = read(NetworkMode::None, |input| input.extra_hosts = host(hostname, ip));
            assert!(found.is_err(), "{hostname:?} {ip:?}");
        }
    }

    #[test]
    fn with_an_interface_nothing_is_named() {
        let check = |mode, change: fn(&mut ecs::ContainerDefinition), expect: Option<&str>| {
            assert_eq!(read(mode, change).err().as_deref(), expect);
        };
        use NetworkMode::{Awsvpc, Host, None as Nothing};
        let links = |input: &mut ecs::ContainerDefinition| input.links = texts(&["db"]);
        check(Awsvpc, links, Some("Links are not supported when networkMode=awsvpc."));
        check(Host, links, Some("Links are not supported when networkMode=host."));
        check(Nothing, links, Some("Links are not supported when networkMode=none."));
        let hostname = |input: &mut ecs::ContainerDefinition| input.hostname = Some("a".to_owned());
        let refused = "hostname is not supported on container when networkMode=awsvpc.";
        check(Awsvpc, hostname, Some(refused));
        check(Host, hostname, None);
        let servers = |input: &mut ecs::ContainerDefinition| input.dns_servers = texts(&["1.1.1.1"]);
        let refused = "DNS servers are not supported on container when networkMode=awsvpc.";
        check(Awsvpc, servers, Some(refused));
        check(Awsvpc, |input| input.dns_servers = texts(&[]), None);
    }

    #[test]
    fn links_order_starts_and_go_in_no_circle() {
        let linked = |name: &str, to: &[&str]| ContainerDefinition {
            links: to.iter().map(|to| link(&(*to).to_owned()).unwrap()).collect(),
            ..container(name)
        };
        let order = |mut containers: Vec<ContainerDefinition>| {
            order_by_links(&mut containers).map_err(message)?;
            neargate_model::validate::check_shape(&shape(containers.clone())).map_err(|e| e.to_string())?;
            Ok::<_, String>(containers)
        };
        let ordered = order(vec![linked("a", &["b:x"]), linked("b", &[])]).unwrap();
        let expect = Dependency { container: ContainerName::new("b").unwrap(), condition: Condition::Start };
        assert_eq!(ordered[0].depends_on, [expect]);
        let circle = order(vec![linked("a", &["b"]), linked("b", &["a"])]).unwrap_err();
        assert_eq!(circle, "container a depends on itself");
        assert!(order(vec![linked("a", &["a"])]).unwrap_err().contains("not another container"));
        assert!(order(vec![linked("a", &["z"])]).unwrap_err().contains("linked to z"));
    }
}
