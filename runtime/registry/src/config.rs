//! Registries that are not at the place that their name says, or not as safe: mirrors, plain HTTP, own certificates.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use neargate_model::image::{DEFAULT_REGISTRY, ImageReference};
use serde::Deserialize;

use crate::error::ConfigError;
use crate::target::{Origin, Target};

/// Where Docker Hub's registry really is.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// A longer file is a mistake.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What an operator says about registries.
#[derive(Clone, Debug, Default)]
pub struct RegistryConfig {
    registries: BTreeMap<String, Registry>,
}

#[derive(Clone, Debug, Default)]
struct Registry {
    mirrors: Vec<Target>,
    plain_http: Option<bool>,
    token_hosts: Vec<String>,
    ca_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registries: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    mirrors: Vec<String>,
    plain_http: Option<bool>,
    #[serde(default)]
    token_hosts: Vec<String>,
    ca_file: Option<PathBuf>,
}

/// A place from which the images of a reference may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) origin: Origin,
    /// What comes before `/v2/`; empty, or begins with `/`.
    pub(crate) prefix: String,
    /// Whether it is the registry itself; a mirror is not given its credentials.
    pub(crate) is_mirror: bool,
    /// Hosts of token servers besides those that are near the registry.
    pub(crate) token_hosts: Vec<String>,
}

impl Endpoint {
    /// The URL of something below `/v2/`.
    pub(crate) fn target(&self, path: &str) -> Target {
        Target { origin: self.origin.clone(), path: format!("{}/v2/{path}", self.prefix) }
    }
}

impl RegistryConfig {
    /// Reads the file at `path`; without one, every registry is where its name says.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = |source| ConfigError::File { path: path.to_owned(), source };
        let bytes = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(file(error)),
            Ok(meta) if meta.len() > CONFIG_BYTES_MAX => {
                return Err(file(io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) => fs::read(path).map_err(file)?,
        };
        Self::parse(&bytes, path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, ConfigError> {
        let json = |source| ConfigError::Json { path: path.to_owned(), source };
        let File { registries } = serde_json::from_slice(bytes).map_err(json)?;
        let mut known = BTreeMap::new();
        for (name, entry) in registries {
            let wrong = |what, value: &str, rule| ConfigError::Value {
                path: path.to_owned(),
                registry: name.clone(),
                what,
                value: value.to_owned(),
                rule,
            };
            let registry = format!("{name}/a").parse::<ImageReference>();
            let registry = registry.ok().filter(|r| r.repository() == "a" || name == DEFAULT_REGISTRY);
            let registry = registry
                .ok_or_else(|| wrong("the name", &name, "say what comes before the first / of images"))?;
            let mirror = |url: &String| {
                let target =
                    Target::parse(url.trim_end_matches('/')).filter(|target| !target.path.contains('?'));
                target.ok_or_else(|| wrong("mirror", url, "say https://HOST[:PORT][/PREFIX], or http://"))
            };
            let mirrors = entry.mirrors.iter().map(mirror).collect::<Result<_, _>>()?;
            let host = |host: &String| match Origin::new(true, host) {
                Some(origin) if !host.contains(':') => Ok(origin.host),
                _ => Err(wrong("token host", host, "say a host name")),
            };
            let token_hosts = entry.token_hosts.iter().map(host).collect::<Result<_, _>>()?;
            let (plain_http, ca_file) = (entry.plain_http, entry.ca_file);
            let settings = Registry { mirrors, plain_http, token_hosts, ca_file };
            known.insert(registry.registry().to_owned(), settings);
        }
        Ok(Self { registries: known })
    }

    /// The same, with `registry` spoken to without TLS.
    pub fn plain_http(mut self, registry: &str) -> Self {
        self.registries.entry(registry.to_owned()).or_default().plain_http = Some(true);
        self
    }

    /// Whether the operator has said where this place is, so that it may be anywhere.
    pub(crate) fn names(&self, endpoint: &Endpoint, registry: &str) -> bool {
        endpoint.is_mirror || self.registries.contains_key(registry)
    }

    /// Files of certificates that are trusted besides the machine's.
    pub(crate) fn ca_files(&self) -> impl Iterator<Item = &Path> {
        self.registries.values().filter_map(|registry| registry.ca_file.as_deref())
    }

    /// The places of a registry, mirrors first.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let settings = self.registries.get(registry).cloned().unwrap_or_default();
        let token_hosts = settings.token_hosts;
        let mirror = |target: Target| Endpoint {
            origin: target.origin,
            prefix: target.path.trim_end_matches('/').to_owned(),
            is_mirror: true,
            token_hosts: token_hosts.clone(),
        };
        let mut endpoints: Vec<_> = settings.mirrors.into_iter().map(mirror).collect();
        let host = if registry == DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
        let is_plain = settings.plain_http.unwrap_or_else(|| is_local(host));
        if let Some(origin) = Origin::new(!is_plain, host) {
            endpoints.push(Endpoint {
                origin,
                prefix: String::new(),
                is_mirror: false,
                token_hosts: token_hosts.clone(),
            });
        }
        endpoints
    }
}

/// Whether a registry is this machine's, so that nobody is between: Docker, too, speaks plain HTTP to those.
fn is_local(authority: &str) -> bool {
    let Some(origin) = Origin::new(false, authority) else { return false };
    let address = origin.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    origin.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RegistryConfig, String> {
        let parsed = RegistryConfig::parse(text.as_bytes(), Path::new("f"));
        parsed.map_err(|error| neargate_model::chain(&error))
    }

    #[test]
    fn endpoints() {
        let config = read(
            r#"{"registries": {
                "docker.io": {"mirrors": ["http://mirror:5000/hub/", "https://m.example"]},
                "r.example:5000": {"plain_http": true},
                "localhost:5443": {"plain_http": false}
            }}"#,
        )
        .unwrap();
        let check = |registry: &str, expect: &[&str]| {
            let found: Vec<_> =
                config.endpoints(registry).iter().map(|e| e.target("a").to_string()).collect();
            assert_eq!(found, expect, "{registry}");
        };
        let hub =
            ["http://mirror:5000/hub/v2/a", "https://m.example/v2/a", "https://registry-1.docker.io/v2/a"];
        check("docker.io", &hub);
        check("r.example:5000", &["http://r.example:5000/v2/a"]);
        check("ghcr.io", &["https://ghcr.io/v2/a"]);
        check("localhost:5000", &["http://localhost:5000/v2/a"]);
        check("localhost:5443", &["https://localhost:5443/v2/a"]);
        check("127.0.0.1:80", &["http://127.0.0.1/v2/a"]);
        check("[::1]:5000", &["http://[::1]:5000/v2/a"]);
        check("10.0.0.1:5000", &["https://10.0.0.1:5000/v2/a"]);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expect: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check("3", "docs/images.md");
        check(r#"{"registries": {"docker.io": {"mirror": []}}}"#, "unknown field `mirror`");
        check(r#"{"registries": {"docker.io": {"mirrors": ["m.example"]}}}"#, "https://HOST");
        check(r#"{"registries": {"docker.io": {"mirrors": ["https://u:p@m.example"]}}}"#, "https://HOST");
        check(r#"{"registries": {"docker.io/library": {}}}"#, "first /");
        check(r#"{"registries": {"a.example": {"token_hosts": ["https://b"]}}}"#, "host name");
    }
}
