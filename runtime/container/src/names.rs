//! The files that tell a container names: `/etc/hosts` and `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use neargate_driver::ContainerNames;
use neargate_ipc::wire_struct;

wire_struct! {
    /// See [`ContainerNames`]; addresses are texts, which the supervisor only writes down.
    pub(crate) struct NamesPlan {
        /// Its host name instead of the sandbox's.
        hostname: Option<String>,
        /// Addresses and names.
        hosts: Vec<(String, String)>,
        /// Name servers.
        dns_servers: Vec<String>,
        /// Domains in which short names are looked for.
        dns_search_domains: Vec<String>,
    }
}

impl NamesPlan {
    /// What the supervisor is told.
    pub(crate) fn of(names: &ContainerNames) -> Self {
        Self {
            hostname: names.hostname.clone(),
            hosts: names.hosts.iter().map(|(address, names)| (address.to_string(), names.clone())).collect(),
            dns_servers: names.dns_servers.iter().map(IpAddr::to_string).collect(),
            dns_search_domains: names.dns_search_domains.clone(),
        }
    }

    /// The content of `/etc/hosts` (hosts(5)). Its own name is that of its interface, if it has one.
    pub(crate) fn hosts(&self, hostname: &str, address: Option<Ipv4Addr>) -> Vec<u8> {
        let address = address.unwrap_or(Ipv4Addr::LOCALHOST);
        let loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
        let mut text = format!("{loopback}{address}\t{hostname}\n");
        for (address, names) in &self.hosts {
            let _ = writeln!(text, "{address}\t{names}");
        }
        text.into_bytes()
    }

    /// The content of `/etc/resolv.conf` (resolv.conf(5)): the usual one, but for what is named here.
    pub(crate) fn resolv_conf(&self, usual: &[u8]) -> Vec<u8> {
        let (servers, domains) = (&self.dns_servers, &self.dns_search_domains);
        let replaced = |line: &str| {
            let word = line.split_whitespace().next().unwrap_or_default();
            word == "nameserver" && !servers.is_empty()
                || matches!(word, "search" | "domain") && !domains.is_empty()
        };
        if servers.is_empty() && domains.is_empty() {
            return usual.to_vec();
        }
        let usual = String::from_utf8_lossy(usual);
        let mut lines: Vec<String> = servers.iter().map(|server| format!("nameserver {server}")).collect();
        lines.extend((!domains.is_empty()).then(|| format!("search {}", domains.join(" "))));
        lines.extend(usual.lines().filter(|line| !replaced(line)).map(str::to_owned));
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(servers: &[&str], domains: &[&str]) -> NamesPlan {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        NamesPlan {
            hostname: None,
            hosts: vec![("10.0.0.2".to_owned(), "db db.test".to_owned())],
            dns_servers: texts(servers),
            dns_search_domains: texts(domains),
        }
    }

    #[test]
    fn what_is_named_takes_the_place_of_the_usual() {
        let usual = "nameserver 169.254.169.253\nsearch example.org\noptions ndots:1\n";
        let check = |servers: &[&str], domains: &[&str], expect: &str| {
            let text = plan(servers, domains).resolv_conf(usual.as_bytes());
            assert_eq!(String::from_utf8(text).unwrap(), expect);
        };
        check(&[], &[], usual);
        let search = "search example.org\noptions ndots:1\n";
        check(&["10.0.0.1", "::1"], &[], &format!("nameserver 10.0.0.1\nnameserver ::1\n{search}"));
        check(
            &[],
            &["a.test", "b.test"],
            "search a.test b.test\nnameserver 169.254.169.253\noptions ndots:1\n",
        );
    }

    #[test]
    fn hosts_are_its_own_and_then_the_others() {
        let text = |address| String::from_utf8(plan(&[], &[]).hosts("web", address)).unwrap();
        assert!(text(None).ends_with("\n127.0.0.1\tweb\n10.0.0.2\tdb db.test\n"));
        assert!(text(Some(Ipv4Addr::new(10, 0, 0, 1))).contains("\n10.0.0.1\tweb\n"));
    }
}
