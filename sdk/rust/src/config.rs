//! Where the server is, who we are, and how patient we are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use neargate_auth::Secret;
use thiserror::Error;

use crate::sources;

/// The URL of a server on this machine, unless somebody says otherwise.
pub const ENDPOINT_DEFAULT: &str = "http://127.0.0.1:7878";

/// The region when nothing names one.
pub const REGION_DEFAULT: &str = "us-east-1";

/// How long an attempt of a call may take unless [`Config::attempt_timeout`] says otherwise.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a call is attempted at most, unless [`Config::attempts_max`] says otherwise: what AWS's SDKs do.
const ATTEMPTS_MAX: u32 = 3;

/// Reads one environment variable; tests pass a map.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// An access key, and its session token when it is temporary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The public half.
    pub access_key: String,
    /// The half that signs.
    pub secret: Secret,
    /// What came with a temporary key.
    pub session_token: Option<Secret>,
}

/// What a caller of [`Config::resolve`] states itself; what is `None` is looked for.
#[derive(Clone, Debug, Default)]
pub struct Explicit {
    /// The URL of the server.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// A profile of the AWS files; its keys then win over those of the environment.
    pub profile: Option<String>,
    /// The data directory of a server on this machine.
    pub data: Option<PathBuf>,
    /// The keys.
    pub credentials: Option<Credentials>,
}

/// What a [`Client`](crate::Client) needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) endpoint: Endpoint,
    pub(crate) region: String,
    pub(crate) credentials: Credentials,
    pub(crate) attempt_timeout: Duration,
    pub(crate) attempts_max: u32,
}

impl Config {
    /// A configuration without any search. The endpoint is an URL such as `http://127.0.0.1:7878`.
    pub fn new(
        endpoint: &str,
        region: impl Into<String>,
        credentials: Credentials,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            endpoint: Endpoint::parse(endpoint, "the endpoint given")?,
            region: region.into(),
            credentials,
            attempt_timeout: ATTEMPT_TIMEOUT,
            attempts_max: ATTEMPTS_MAX,
        })
    }

    /// Looks in the environment, the AWS files and the data directory of a server on this machine.
    ///
    /// - Endpoint: `NEARGATE_ENDPOINT`, `AWS_ENDPOINT_URL_ECS`, `AWS_ENDPOINT_URL`, the profile's `services` section and
    ///   `endpoint_url`, the file `endpoint` of the data directory, [`ENDPOINT_DEFAULT`].
    /// - Keys: `AWS_ACCESS_KEY_ID`, the profile of `AWS_PROFILE`, the profile `default`, the root key in the data
    ///   directory. When nothing but the data directory or the default names the endpoint, the root key comes before
    ///   the profile `default`, whose keys are usually those of an AWS account.
    /// - Region: `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile, [`REGION_DEFAULT`].
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::resolve(&Explicit::default(), &|name| std::env::var(name).ok())
    }

    /// As [`Config::from_env`], but what is explicit wins, and variables are read through `lookup`.
    pub fn resolve(explicit: &Explicit, lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        sources::resolve(explicit, lookup)
    }

    /// Sets how long an attempt of a call may take; 30 s by default.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// Sets how often a call is attempted at most, the first time included; 3 by default, at least 1.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts.max(1);
        self
    }

    /// The URL of the server.
    pub fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// The region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The keys.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// The URL of a server, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// The path that all requests share; ends with a slash.
    pub(crate) path: String,
}

impl Endpoint {
    pub(crate) fn parse(text: &str, origin: &'static str) -> Result<Self, ConfigError> {
        let refuse =
            |reason| ConfigError::Endpoint { text: text.chars().take(200).collect(), origin, reason };
        let parts = text.parse::<Uri>().map_err(|_| refuse("it is not a URL"))?.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(refuse("it must start with http:// or https:// and a host"));
        };
        if scheme == Scheme::HTTPS && !cfg!(feature = "https") {
            return Err(refuse("this client is built without the feature https"));
        }
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(refuse("its scheme must be http or https"));
        }
        if authority.as_str().contains('@') {
            return Err(refuse("it must not hold a user name"));
        }
        let path = parts.path_and_query;
        if path.as_ref().is_some_and(|path| path.query().is_some()) {
            return Err(refuse("it must not have a query"));
        }
        let path = path.as_ref().map_or("/", |path| path.path()).trim_end_matches('/');
        Ok(Self { scheme, authority, path: format!("{path}/") })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path.trim_end_matches('/'))
    }
}

/// Why there is no usable configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The endpoint is not one that we can call.
    #[error("use endpoint '{text}' of {origin}: {reason}")]
    Endpoint {
        /// The endpoint, cut to 200 characters.
        text: String,
        /// Who named it.
        origin: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A profile was named that neither file has.
    #[error("find profile '{name}' in {} or {}", config.display(), credentials.display())]
    NoProfile {
        /// The profile.
        name: String,
        /// The config file.
        config: PathBuf,
        /// The credentials file.
        credentials: PathBuf,
    },
    /// The profile has no keys. Roles, SSO and credential processes are not followed.
    #[error("read keys of profile '{name}': it has no aws_access_key_id")]
    NoKeys {
        /// The profile.
        name: String,
    },
    /// There is an access key id without its secret.
    #[error("read keys of {origin}: the access key id comes without a secret")]
    NoSecret {
        /// Where the id was found.
        origin: String,
    },
    /// No keys were found anywhere.
    #[error("find keys in AWS_ACCESS_KEY_ID, in the AWS profile '{profile}' or in {}", RootKeyPath(root_key))]
    NoCredentials {
        /// The profile that was looked at.
        profile: String,
        /// Where the root key of a server on this machine would be; `None` without a home directory.
        root_key: Option<PathBuf>,
    },
    /// A file of the AWS tools exists and cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The machine's certificates, which `https` endpoints are checked against, cannot be read.
    #[error("read the certificates of this machine")]
    Certificates {
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The root key's file can be read but not understood.
    #[error("read root key {}", path.display())]
    RootKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ConfigError {
    /// What a person may do about it; `None` when the error says it all.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoCredentials { .. } => Some(
                "start a server with `neargate serve`, which makes a key, or run `eval \"$(neargate env)\"` as the user \
                 who runs it",
            ),
            Self::NoProfile { .. } => Some("`neargate env --profile NAME` writes a profile"),
            _ => None,
        }
    }
}

struct RootKeyPath<'a>(&'a Option<PathBuf>);

impl fmt::Display for RootKeyPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => Path::display(path).fmt(f),
            None => f.write_str("a data directory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_urls_of_servers() {
        let check = |text: &str, expect: Result<&str, &str>| {
            let parsed = Endpoint::parse(text, "a test").map(|endpoint| endpoint.to_string());
            match (parsed, expect) {
                (Ok(parsed), Ok(expect)) => assert_eq!(parsed, expect, "{text}"),
                (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{text}: {error}"),
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        };
        check("http://127.0.0.1:7878", Ok("http://127.0.0.1:7878"));
        check("http://[::1]:1/", Ok("http://[::1]:1"));
        check("http://host/prefix/", Ok("http://host/prefix"));
        check("127.0.0.1:7878", Err("must start with http://"));
        check("", Err("not a URL"));
        check("ftp://host", Err("scheme must be http or https"));
        check("http://u:p@host", Err("user name"));
        check("http://host/?a=b", Err("query"));
        #[cfg(not(feature = "https"))]
        check("https://host", Err("without the feature https"));
        #[cfg(feature = "https")]
        check("https://host", Ok("https://host"));
    }

    #[test]
    fn credentials_do_not_print_their_secret() {
        let credentials = Credentials {
            access_key: "AKIA".into(),
            secret: Secret::new("hunter2"),
            session_token: Some(Secret::new("token7")),
        };
        let text = format!("{credentials:?}");
        assert!(!text.contains("hunter2") && !text.contains("token7"), "{text}");
    }
}
