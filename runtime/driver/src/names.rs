//! What a container is told of names: its own, those of others, and whom it asks for more.

use std::net::IpAddr;

/// The names that a container knows. Empty parts are as in every container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerNames {
    /// Its host name instead of the sandbox's.
    pub hostname: Option<String>,
    /// Lines of `/etc/hosts` after its own: an address, and names with spaces between them.
    pub hosts: Vec<(IpAddr, String)>,
    /// Name servers instead of the usual ones.
    pub dns_servers: Vec<IpAddr>,
    /// Domains in which short names are looked for, instead of the usual ones.
    pub dns_search_domains: Vec<String>,
}
