//! Which server is meant, and who asks.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use neargate_sdk::{Client, Config, Explicit};

/// Options that every command for a server has.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct ClientOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// AWS profile whose keys, region and endpoint are used.
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    profile: Option<String>,
}

/// The same without a profile, for a command to which a profile is something else.
#[derive(Args, Debug, Clone, Default)]
pub(crate) struct ServerOptions {
    /// URL of the server [default: NEARGATE_ENDPOINT, AWS_ENDPOINT_URL, the AWS profile, http://127.0.0.1:7878].
    #[arg(long, value_name = "URL", help_heading = "Server")]
    endpoint: Option<String>,
    /// Region [default: AWS_REGION, the AWS profile, us-east-1].
    #[arg(long, value_name = "REGION", help_heading = "Server")]
    region: Option<String>,
    /// Data directory of a server on this machine, for its root key [default: NEARGATE_DATA].
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    data: Option<PathBuf>,
}

impl ClientOptions {
    /// A client of the server that is meant.
    pub(crate) fn connect(&self) -> Result<Client> {
        self.server.connect_with(self.profile.clone())
    }
}

impl ServerOptions {
    /// A client of the server that is meant.
    pub(crate) fn connect(&self) -> Result<Client> {
        self.connect_with(None)
    }

    fn connect_with(&self, profile: Option<String>) -> Result<Client> {
        let explicit = Explicit {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            profile,
            data: self.data.clone(),
            credentials: None,
        };
        Ok(Client::new(Config::resolve(&explicit, &variable)?)?)
    }
}

/// An environment variable, for the SDK's search.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
