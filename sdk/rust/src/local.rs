//! The data directory of a server on this machine: its root key and its URL, when we may read them.

use std::path::{Path, PathBuf};

use neargate_auth::Secret;

use crate::config::{ConfigError, Credentials, Lookup};

/// Where a server keeps its data unless it is told otherwise: `NEARGATE_DATA`, else `/var/lib/neargate` for root, else
/// `neargate` below `$XDG_DATA_HOME` or `~/.local/share`. `None` when there is no home directory either.
pub fn data_dir(lookup: Lookup<'_>) -> Option<PathBuf> {
    let path = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = path("NEARGATE_DATA") {
        return Some(named);
    }
    if is_root() {
        return Some(PathBuf::from("/var/lib/neargate"));
    }
    let below_home = || path("HOME").map(|home| home.join(".local/share"));
    path("XDG_DATA_HOME").or_else(below_home).map(|data| data.join("neargate"))
}

/// The root key that the server made at its first start; `None` when there is none, or none that we may read.
pub fn root_key(data: &Path) -> Result<Option<Credentials>, ConfigError> {
    let path = root_key_path(data);
    let Ok(text) = std::fs::read(&path) else { return Ok(None) };
    let document: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|source| ConfigError::RootKey { path: path.clone(), source: source.into() })?;
    let member = |name: &str| document.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    match (member("access_key_id"), member("secret_access_key")) {
        (Some(access_key), Some(secret)) => {
            Ok(Some(Credentials { access_key, secret: Secret::new(secret), session_token: None }))
        }
        _ => {
            let source = "access_key_id or secret_access_key is absent".into();
            Err(ConfigError::RootKey { path, source })
        }
    }
}

/// Where a server with this data directory keeps its root key.
pub fn root_key_path(data: &Path) -> PathBuf {
    data.join("root-key.json")
}

/// The URL that the server was last reachable at; `None` when it has noted none.
pub fn endpoint(data: &Path) -> Option<String> {
    let text = std::fs::read_to_string(data.join("endpoint")).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}
