//! The client: configuration and connections, shared by all its clones.

use std::fmt;
use std::sync::Arc;

use crate::config::{Config, ConfigError};
use crate::http::Http;

/// A client of one server. Clones are cheap and share their connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) http: Http,
}

impl Client {
    /// A client; connections are made when they are needed. Fails only for `https` endpoints, if the machine's
    /// certificates cannot be read.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let http = Http::new(&config)?;
        Ok(Self { shared: Arc::new(Shared { config, http }) })
    }

    /// A client configured by [`Config::from_env`].
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::new(Config::from_env()?)
    }

    /// What the client was made with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.shared.config.endpoint()).finish_non_exhaustive()
    }
}
